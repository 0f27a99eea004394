//! What all workers and the control side share, and the housekeeping that goes with it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::bridge::{Block, Hold, LoopGuard, LoopGuardConfig, MoveDamping};
use crate::clock::Nanos;
use crate::config::Snapshot;
use crate::event::{EVENTS_MAX, OPTIONS_MAX, OptionsSeen, WorkerEvent};
use crate::fdb::{Dest, Fdb, FdbConfig, Flags, Key, MAX_AGEING, Swept, Tick};
use crate::ids::{BridgeId, PortId, WorkerId};

/// Most workers of one switch.
pub const WORKERS_MAX: usize = 64;

/// Shared by the workers and the control side.
#[derive(Debug)]
pub struct Switch {
    snapshot: ArcSwap<Snapshot>,
    fdb: Fdb,
    events: ArrayQueue<WorkerEvent>,
    options: ArrayQueue<OptionsSeen>,
    /// The snapshot revision each worker uses; `u64::MAX` for one that does not run.
    observed: Vec<CachePadded<AtomicU64>>,
}

impl Switch {
    /// A switch without ports.
    pub fn new(fdb: FdbConfig) -> Arc<Self> {
        Self::with_fdb(Fdb::new(fdb))
    }

    /// The same with that forwarding database.
    pub fn with_fdb(fdb: Fdb) -> Arc<Self> {
        let idle = || CachePadded::new(AtomicU64::new(u64::MAX));
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            fdb,
            events: ArrayQueue::new(EVENTS_MAX),
            options: ArrayQueue::new(OPTIONS_MAX),
            observed: std::iter::repeat_with(idle).take(WORKERS_MAX).collect(),
        })
    }

    /// The forwarding database.
    pub fn fdb(&self) -> &Fdb {
        &self.fdb
    }

    /// The snapshot that workers take at their next burst.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// What a worker's cache reads.
    pub fn snapshot_source(&self) -> &ArcSwap<Snapshot> {
        &self.snapshot
    }

    /// Publishes a snapshot. Workers see it at their next burst; [`Self::all_observed`] tells when.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// Whether no worker uses a snapshot older than `revision` any more. Wake the workers first:
    /// one that sleeps has not looked yet.
    pub fn all_observed(&self, revision: u64) -> bool {
        self.observed.iter().all(|o| o.load(Ordering::Acquire) >= revision)
    }

    /// A worker says which revision it uses from now on; `None` when it ends.
    pub fn observe(&self, worker: WorkerId, revision: Option<u64>) {
        if let Some(slot) = self.observed.get(worker.index()) {
            slot.store(revision.unwrap_or(u64::MAX), Ordering::Release);
        }
    }

    /// Queues an event; false if the queue is full.
    pub fn send_event(&self, event: WorkerEvent) -> bool {
        self.events.push(event).is_ok()
    }

    /// The oldest event that nobody took yet.
    pub fn next_event(&self) -> Option<WorkerEvent> {
        self.events.pop()
    }

    /// Queues a report of received GENEVE options; false if the queue is full.
    pub fn send_options(&self, options: OptionsSeen) -> bool {
        self.options.push(options).is_ok()
    }

    /// The oldest report of received GENEVE options that nobody took yet.
    pub fn next_options(&self) -> Option<OptionsSeen> {
        self.options.pop()
    }
}

/// The control side's regular work: a pure function of what the workers reported and the time.
#[derive(Debug)]
pub struct Housekeeper {
    switch: Arc<Switch>,
    guard: LoopGuard,
    damping: MoveDamping,
    last_sweep: Option<u64>,
    ageing: Ageing,
}

/// When the FDB is next walked for entries that are too old. A walk takes milliseconds, which an idle
/// daemon has no other use for: there is none before an entry can be old enough.
#[derive(Debug, Default)]
struct Ageing {
    /// In seconds of the monotonic clock.
    due: u64,
    /// The ageing times at the last walk.
    times: u64,
}

impl Ageing {
    /// Whether it is time for a walk. If it is, the next one is after the shortest ageing time, as
    /// entries are learned meanwhile; [`Self::bring_forward`] knows of those that are there.
    fn is_due(&mut self, now: u64, times: impl Iterator<Item = (BridgeId, u32)>) -> bool {
        let (mut all, mut shortest) = (DefaultHasher::new(), None::<u32>);
        for (bridge, ageing) in times {
            (bridge, ageing).hash(&mut all);
            shortest = Some(shortest.map_or(ageing, |least| least.min(ageing)));
        }
        let times = all.finish();
        let is_due = now >= self.due || times != self.times;
        if is_due {
            // Nothing is known of bridges that are not configured.
            (self.due, self.times) =
                (now + u64::from(shortest.map_or(0, |s| s.min(MAX_AGEING))), times);
        }
        is_due
    }

    /// An entry may go in so many seconds.
    fn bring_forward(&mut self, now: u64, seconds: u32) {
        self.due = self.due.min(now + u64::from(seconds));
    }
}

/// What a round of housekeeping did.
#[derive(Debug, Default)]
pub struct Housekept {
    /// Events of the workers, oldest first.
    pub events: Vec<WorkerEvent>,
    /// Ports that the loop guard blocked.
    pub blocked: Vec<Block>,
    /// Addresses that are held where they are, as they kept moving between remote VTEPs.
    pub held: Vec<Hold>,
    /// Addresses that may move again.
    pub released: Vec<Hold>,
    /// What the sweep of the FDB took out, if it was time for one.
    pub swept: Option<Swept>,
}

impl Housekeeper {
    /// Housekeeping for `switch`.
    pub fn new(switch: Arc<Switch>, guard: LoopGuardConfig) -> Self {
        let guard = LoopGuard::new(guard);
        Self {
            switch,
            guard,
            damping: MoveDamping::default(),
            last_sweep: None,
            ageing: Ageing::default(),
        }
    }

    /// One round, to be called several times a second. `ageing` gives each bridge's ageing time in
    /// seconds. The FDB is swept once a second, and walked when an entry may be too old.
    pub fn run(&mut self, now: Nanos, ageing: impl Fn(BridgeId) -> u32) -> Housekept {
        let mut done = Housekept::default();
        let snapshot = self.switch.snapshot();
        self.guard.begin_round();
        // Bounded: workers may be filling the queue as fast as it is read.
        for _ in 0..EVENTS_MAX {
            let Some(event) = self.switch.next_event() else { break };
            if let WorkerEvent::Moved { key, from: Dest::Port(from), to: Dest::Port(port) } = event
            {
                let opened = |id: PortId| snapshot.port(id).map_or(0, |p| p.opened);
                let newer = |a, b| {
                    let port = snapshot.port(if opened(a) > opened(b) { a } else { b })?;
                    (port.loop_guard && !port.state.blocked(now)).then_some(port.id)
                };
                if let Some(block) = self.guard.moved(key, from, port, now, newer)
                    && let Some(port) = snapshot.port(block.port)
                {
                    port.state.block(block.until);
                    done.blocked.push(block);
                }
            }
            if let WorkerEvent::Moved { key, from, to } = event
                && let Some(hold) = self.damping.moved(key, from, to, now)
                && self.hold(hold, now)
            {
                done.held.push(hold);
            }
            done.events.push(event);
        }
        while let Some(hold) = self.damping.next_released(now) {
            self.release(hold, now);
            done.released.push(hold);
        }
        if self.last_sweep != Some(now.secs()) {
            self.last_sweep = Some(now.secs());
            done.swept = Some(self.sweep(&snapshot, now, ageing));
        }
        done
    }

    fn sweep(
        &mut self,
        snapshot: &Snapshot,
        now: Nanos,
        ageing: impl Fn(BridgeId) -> u32,
    ) -> Swept {
        let (fdb, tick, mut swept) = (&self.switch.fdb, Tick::from(now), Swept::default());
        let times = snapshot.bridges().map(|bridge| (bridge.id, ageing(bridge.id)));
        if self.ageing.is_due(now.secs(), times) {
            let next;
            (swept, next) = fdb.age(tick, ageing);
            self.ageing.bring_forward(now.secs(), next);
        }
        fdb.evict(tick, &mut swept);
        swept
    }

    /// Makes the entry one that stays, if it still is what it was learned to be.
    fn hold(&mut self, hold: Hold, now: Nanos) -> bool {
        let fdb = &self.switch.fdb;
        let learned = |flags: Flags| flags.is_learned() && !flags.is_pinned();
        let done = fdb.peek(hold.key).is_some_and(|entry| learned(entry.flags))
            && fdb.set(hold.key, hold.at, Flags::STICKY, Tick::from(now)).is_ok();
        if !done {
            self.damping.forget(hold.key);
        }
        done
    }

    fn release(&self, hold: Hold, now: Nanos) {
        let fdb = &self.switch.fdb;
        // It may have aged, or have been flushed.
        let held =
            |entry: &crate::fdb::Entry| entry.flags == Flags::STICKY && entry.dest == hold.at;
        if fdb.peek(hold.key).is_some_and(|entry| held(&entry)) {
            // What is there has a place already, so that it cannot be refused one.
            let _ = fdb.set(hold.key, hold.at, Flags::NONE, Tick::from(now));
        }
    }

    /// Somebody else says where an address is: it is none that moves any more.
    pub fn settled(&mut self, key: Key) {
        self.damping.forget(key);
    }

    /// How many addresses are held where they are.
    pub fn held(&self) -> usize {
        self.damping.held()
    }

    /// Forgets a port that was closed.
    pub fn forget(&mut self, port: PortId) {
        self.guard.forget(port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdb::Entry;
    use crate::ids::Domain;
    use crate::wire::MacAddr;

    fn key() -> Key {
        Key::new(MacAddr::new([2, 0, 0, 0, 0, 1]), Domain::new(BridgeId::new(0), 0))
    }

    fn entry(switch: &Switch) -> Entry {
        switch.fdb().peek(key()).unwrap()
    }

    /// Moves the address to and fro between two remotes, six times in all.
    fn storm(switch: &Switch, keeper: &mut Housekeeper, now: Nanos) -> Housekept {
        for n in 0..7 {
            let at = Dest::Remote(n % 2);
            let learned = switch.fdb().learn(key(), switch.fdb().hash(key()), at, Tick::from(now));
            if let crate::fdb::Learn::Moved { from } = learned {
                assert!(switch.send_event(WorkerEvent::Moved { key: key(), from, to: at }));
            }
        }
        keeper.run(now, |_| 300)
    }

    #[test]
    fn an_address_that_moves_between_remotes_is_held_and_released() {
        let switch = Switch::new(FdbConfig { max_total: 64, max_per_bridge: 64 });
        let mut keeper = Housekeeper::new(Arc::clone(&switch), LoopGuardConfig::default());
        let done = storm(&switch, &mut keeper, Nanos::from_secs(1));
        assert_eq!((done.held.len(), keeper.held(), done.blocked.len()), (1, 1, 0));
        assert_eq!((entry(&switch).flags, entry(&switch).dest), (Flags::STICKY, Dest::Remote(0)));
        let done = keeper.run(Nanos::from_secs(30), |_| 300);
        assert_eq!((done.released.len(), entry(&switch).flags), (0, Flags::STICKY));
        let done = keeper.run(Nanos::from_secs(31), |_| 300);
        assert_eq!((done.released.len(), keeper.held()), (1, 0));
        assert_eq!(entry(&switch).flags, Flags::NONE);
    }

    #[test]
    fn the_table_is_walked_when_an_entry_may_go() {
        let bridges = |times: &[u32]| -> Vec<_> {
            (0..).map(BridgeId::new).zip(times.iter().copied()).collect()
        };
        let mut ageing = Ageing::default();
        let mut due = |now, times: &[u32]| ageing.is_due(now, bridges(times).into_iter());
        assert!(due(10, &[300, 20]));
        assert!(!due(11, &[300, 20]) && !due(29, &[300, 20]));
        assert!(due(30, &[300, 20]), "what was learned since may be too old for the second bridge");
        assert!(due(31, &[300, 5]), "it is sooner now");
        assert!(due(32, &[5, 300]), "for another bridge");
        assert!(due(33, &[]) && due(34, &[]), "nobody knows when");
        assert!(due(35, &[300]));
        ageing.bring_forward(35, 7);
        let mut due = |now| ageing.is_due(now, bridges(&[300]).into_iter());
        assert!(!due(41) && due(42) && !due(43));
    }

    #[test]
    fn entries_go_when_they_are_too_old() {
        let switch = Switch::new(FdbConfig { max_total: 64, max_per_bridge: 64 });
        let mut snapshot = switch.snapshot().next();
        snapshot.set_bridge(BridgeId::new(0), "br0", true);
        switch.publish(snapshot);
        let mut keeper = Housekeeper::new(Arc::clone(&switch), LoopGuardConfig::default());
        let learn =
            |seen| switch.fdb().learn(key(), switch.fdb().hash(key()), Dest::Remote(1), seen);
        let mut aged = |second, ageing| {
            keeper.run(Nanos::from_secs(second), |_| ageing).swept.unwrap_or_default().aged
        };
        assert_eq!((0..10).map(|second| aged(second, 300)).sum::<usize>(), 0);
        learn(Tick(10));
        assert_eq!((10..311).map(|second| aged(second, 300)).sum::<usize>(), 0);
        assert_eq!(aged(311, 300), 1);
        learn(Tick(311));
        learn(Tick(400));
        assert_eq!((312..500).map(|second| aged(second, 300)).sum::<usize>(), 0);
        assert_eq!(aged(500, 99), 1, "the time is shorter now");
    }

    #[test]
    fn what_was_set_meanwhile_stays_as_it_was_set() {
        let switch = Switch::new(FdbConfig { max_total: 64, max_per_bridge: 64 });
        let mut keeper = Housekeeper::new(Arc::clone(&switch), LoopGuardConfig::default());
        storm(&switch, &mut keeper, Nanos::from_secs(1));
        let sticky = |at| switch.fdb().set(key(), at, Flags::STICKY, Tick::default()).unwrap();
        sticky(Dest::Remote(0));
        keeper.settled(key());
        assert!(keeper.run(Nanos::from_secs(31), |_| 300).released.is_empty());
        assert_eq!(entry(&switch).flags, Flags::STICKY);
    }
}
