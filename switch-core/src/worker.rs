//! A worker: one burst from end to end, in one direction, run to completion.

mod burst;
mod inner;
mod mirrored;
mod overlay;
mod plan;
mod ports;
mod rest;
mod route;
mod sampled;
mod watched;

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use crossbeam::channel::{Receiver, Sender};

use crate::batch::{BURST, BURST_MAX, Batch};
use crate::bridge::StormBucket;
use crate::clock::Nanos;
use crate::config::{PortConf, Snapshot};
use crate::datapath::{Datapath, Ready, Wait};
use crate::drop::{DropReason, Side};
use crate::fdb::Tick;
use crate::handover::RING_FRAMES;
use crate::ids::{PortId, WorkerId};
use crate::stats::{PortCounters, WorkerCounters};
use crate::switch::Switch;
use crate::wire;
use burst::{Burst, Live};
use plan::Plan;
use ports::{PortSlot, Ports};
use rest::Passed;
use route::Route;
use sampled::Countdown;

/// What the control side tells a worker. Each is done at the start of a turn and answered.
#[derive(Debug)]
pub enum Command<Q> {
    /// Take a port in; its counters are the worker's to write from now on. Frames flow once a
    /// snapshot has the port. Of a port that is attached already the queue is exchanged: between two
    /// turns, so that no frame is under way.
    Attach {
        /// The port.
        port: PortId,
        /// The worker's way to it.
        queue: Q,
        /// What the worker counts on it.
        counters: Arc<PortCounters>,
        /// Gets the earlier queue, if there was one, when it is done: closing may take its time,
        /// which is not the worker's.
        done: Sender<Option<Q>>,
    },
    /// Let a port go; the queue comes back. To be sent when no worker uses a snapshot with the port
    /// any more ([`Switch::all_observed`]): what others handed over until then is still sent.
    Detach {
        /// The port.
        port: PortId,
        /// Gets the queue, or `None` if the port was not attached.
        done: Sender<Option<Q>>,
    },
    /// Detach everything and end.
    Stop,
}

/// What a turn found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Frames received.
    pub frames: usize,
    /// Whether the worker was told to stop.
    pub stopped: bool,
}

/// Rounds in which a hand-over ring is emptied for good: each sends a burst at least.
const HANDOVER_ROUNDS_MAX: usize = 4 * RING_FRAMES / BURST;

/// One thread's share of the switch, monomorphised for its backend.
pub struct Worker<D: Datapath> {
    id: WorkerId,
    datapath: D,
    switch: Arc<Switch>,
    snapshot: Cache<SwitchSource, Arc<Snapshot>>,
    /// Revision of the snapshot that was used last.
    adopted: u64,
    countdown: Countdown,
    commands: Receiver<Command<D::Queue>>,
    counters: Arc<WorkerCounters>,
    ready: Ready,
    rx: Batch<D::Frame>,
    plan: Box<Plan>,
    egress: Ports<D::Frame>,
    /// GENEVE options of the frames of the burst at hand.
    options: Vec<u8>,
    /// How often senders are told that their frames are too large.
    too_big: StormBucket,
    burst: usize,
    passed: Passed,
    /// When the last turn began, if it had frames.
    busy_since: Option<Nanos>,
}

/// Lets the cache own its source: a switch, seen as its snapshot.
#[derive(Debug)]
struct SwitchSource(Arc<Switch>);

impl std::ops::Deref for SwitchSource {
    type Target = ArcSwap<Snapshot>;
    fn deref(&self) -> &Self::Target {
        self.0.snapshot_source()
    }
}

impl<D: Datapath> std::fmt::Debug for Worker<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<D: Datapath> Worker<D> {
    /// A worker without ports. Commands arrive on `commands`; use the datapath's waker after
    /// sending one.
    pub fn new(
        id: WorkerId,
        datapath: D,
        switch: Arc<Switch>,
        commands: Receiver<Command<D::Queue>>,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        switch.observe(id, Some(0));
        Self {
            id,
            datapath,
            snapshot: Cache::new(SwitchSource(Arc::clone(&switch))),
            switch,
            adopted: 0,
            countdown: Countdown::new(id.index()),
            commands,
            counters,
            ready: Ready::default(),
            rx: Batch::with_limit(D::BURST),
            plan: Box::default(),
            egress: Ports::default(),
            options: Vec::with_capacity(BURST_MAX * wire::geneve::MAX_OPTIONS_LEN),
            too_big: StormBucket::default(),
            burst: D::BURST,
            passed: Passed::default(),
            busy_since: None,
        }
    }

    /// Frames it takes from a port at once; clamped to 1..=[`BURST_MAX`].
    pub fn set_burst(&mut self, burst: usize) {
        self.burst = burst.clamp(1, BURST_MAX);
        self.rx = Batch::with_limit(self.burst);
    }

    /// The datapath, for tests that drive a worker by hand.
    pub fn datapath_mut(&mut self) -> &mut D {
        &mut self.datapath
    }

    /// One turn: commands, a poll that waits as told, then a burst from every port that has one.
    ///
    /// `clock` is read after the wait, and once more before it where a busy turn was the last one.
    pub fn turn(&mut self, wait: Wait, clock: impl Fn() -> Nanos) -> Turn {
        if self.run_commands() {
            return Turn { frames: 0, stopped: true };
        }
        if wait != Wait::No && self.busy_since.is_some() {
            self.count_busy(clock());
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        self.datapath.poll(wait, &mut ready);
        let now = clock();
        self.count_busy(now);
        let snapshot = Arc::clone(self.snapshot.load());
        self.switch.observe(self.id, Some(snapshot.revision()));
        if snapshot.revision() != self.adopted {
            self.adopt(&snapshot);
        }
        for port in &ready.handed_over {
            if let Some(slot) = self.egress.slot(*port) {
                self.datapath.tx_handed_over(*port, &slot.counters);
            }
        }
        let mut frames = 0;
        for port in &ready.rx {
            frames += self.receive(*port, &snapshot, now);
        }
        if frames == 0 && self.passed.nobody_else() {
            for port in &ready.rx {
                frames += self.receive(*port, &snapshot, now);
            }
        }
        self.passed.end_turn();
        self.egress.flush_all(&mut self.datapath);
        if !self.egress.pending.copies.is_empty() {
            self.send_copies(&snapshot, now);
            self.egress.flush_all(&mut self.datapath);
        }
        self.ready = ready;
        self.counters.turns.add(1);
        if frames > 0 {
            self.counters.busy_turns.add(1);
            self.counters.frames.add(frames as u64);
            self.busy_since = Some(now);
        }
        Turn { frames, stopped: false }
    }

    /// Counts the time of the last turn, if that had frames. A busy worker needs to look at the clock
    /// only once a turn.
    fn count_busy(&mut self, now: Nanos) {
        if let Some(since) = self.busy_since.take() {
            let spent = u64::try_from((now - since).as_nanos()).unwrap_or(u64::MAX);
            self.counters.busy_ns.add(spent);
        }
    }

    /// Executes what the control side sent; true if the worker is to end.
    fn run_commands(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { port, queue, counters, done } => {
                    self.egress.add(port, counters, self.burst);
                    let _ = done.send(self.datapath.attach(port, queue));
                }
                Command::Detach { port, done } => {
                    self.send_handed_over(port);
                    self.egress.remove(port);
                    let _ = done.send(self.datapath.detach(port));
                }
                Command::Stop => {
                    self.switch.observe(self.id, None);
                    return true;
                }
            }
        }
        false
    }

    /// Empties the hand-over ring of a port that goes, and what is kept back there: it was offered to
    /// the port, and nobody could count it later.
    fn send_handed_over(&mut self, port: PortId) {
        let Some(slot) = self.egress.slot(port) else { return };
        let settled = |slot: &PortSlot<D::Frame>| {
            let totals = slot.counters.totals();
            totals.tx_frames + totals.dropped_on(Side::Out)
        };
        // A ring is of bounded size, and nobody adds to it any more.
        for _ in 0..HANDOVER_ROUNDS_MAX {
            let before = settled(slot);
            self.datapath.tx_handed_over(port, &slot.counters);
            if settled(slot) == before {
                break;
            }
        }
        self.datapath.abandon(port, &slot.counters);
    }

    /// A burst from one port: pass by pass, so that the table's cache misses overlap.
    fn receive(&mut self, in_port: PortId, snapshot: &Arc<Snapshot>, now: Nanos) -> usize {
        let Some(slot) = self.egress.slot(in_port) else { return 0 };
        // Attached and not yet published, as all ports are at the start: what comes in meanwhile
        // stays in the device's queue. An ARP request would else find no other port there, and the
        // stack that sent it asks again only after a second.
        let Some(port) = snapshot.port(in_port) else { return 0 };
        if slot.rest.holds(&mut self.passed) {
            return 0;
        }
        let counters = Arc::clone(&slot.counters);
        if snapshot.is_watched() {
            return self.receive_watched(port, snapshot, &counters, now);
        }
        let received = self.datapath.rx_burst(in_port, &mut self.rx, &counters);
        if received == 0 {
            return 0;
        }
        let strays = self.forward_received(port, snapshot, &counters, now);
        self.settle(in_port, received, strays);
        received
    }

    /// What was received goes its way. Answers how many of the frames were strays.
    #[inline(always)]
    fn forward_received(
        &mut self,
        port: &PortConf,
        snapshot: &Snapshot,
        counters: &PortCounters,
        now: Nanos,
    ) -> usize {
        let Some(bridge) = port.bridge.and_then(|id| snapshot.bridge(id)) else {
            if let Some(vtep) = snapshot.overlay().vtep(port.id) {
                return self.decapsulate(snapshot, port, vtep, counters, now);
            }
            let received = self.rx.len();
            self.rx.clear();
            counters.count_drop(DropReason::PortUnbound, received as u64);
            return received;
        };
        let (mut burst, rx, plan) = self.burst(snapshot, port, counters, now);
        burst.forward_all(rx, plan, bridge);
        burst.count_route();
        let (storm, strays) = (burst.live.storm, burst.strays);
        self.egress.put_storm(port.id, storm);
        strays
    }

    /// A port had so many frames, of which so many were strays.
    #[inline(always)]
    fn settle(&mut self, port: PortId, frames: usize, strays: usize) {
        self.passed.add(frames.saturating_sub(strays));
        if strays > 0 {
            self.egress.charge(port, frames, strays, &self.passed);
        }
    }

    /// What executing verdicts of a burst needs, and the burst.
    fn burst<'a>(
        &'a mut self,
        snapshot: &'a Snapshot,
        port: &'a PortConf,
        counters: &'a PortCounters,
        now: Nanos,
    ) -> (Burst<'a, D>, &'a mut Batch<D::Frame>, &'a mut Plan) {
        let burst = Burst {
            snapshot,
            port,
            counters,
            live: Live {
                fdb: self.switch.fdb(),
                switch: &self.switch,
                worker: &self.counters,
                storm: self.egress.take_storm(port.id),
                now,
                tick: Tick::from(now),
            },
            egress: &mut self.egress,
            datapath: &mut self.datapath,
            worker: self.id.index(),
            too_big: &mut self.too_big,
            route: Route::default(),
            strays: 0,
        };
        (burst, &mut self.rx, &mut self.plan)
    }
}
