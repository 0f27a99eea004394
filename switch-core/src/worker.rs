//! A worker: one burst from end to end, in one direction, run to completion.

mod ports;

use std::hint::black_box;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use arrayvec::ArrayVec;
use crossbeam::channel::{Receiver, Sender};

use crate::batch::{BURST, BURST_MAX, Batch};
use crate::bridge::{self, Admitted, Effects, StormBucket};
use crate::clock::Nanos;
use crate::config::{PortConf, Snapshot};
use crate::datapath::{Datapath, Ready, Wait};
use crate::drop::{DropReason, Side};
use crate::egress::{self, Finish};
use crate::event::WorkerEvent;
use crate::fdb::{Dest, Fdb, Hash, Key, Learn, Tick};
use crate::frame::{Frame, FrameMeta};
use crate::handover::RING_FRAMES;
use crate::ids::{PortId, WorkerId};
use crate::segment;
use crate::stats::{PortCounters, WorkerCounters};
use crate::switch::Switch;
use crate::verdict::{Action, Verdict};
use ports::{PortSlot, Ports};

/// What the control side tells a worker. Each is done at the start of a turn and answered.
#[derive(Debug)]
pub enum Command<Q> {
    /// Take a port in; its counters are the worker's to write from now on. Frames flow once a
    /// snapshot has the port.
    Attach {
        /// The port.
        port: PortId,
        /// The worker's way to it.
        queue: Q,
        /// What the worker counts on it.
        counters: Arc<PortCounters>,
        /// Told when it is done.
        done: Sender<()>,
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
    commands: Receiver<Command<D::Queue>>,
    counters: Arc<WorkerCounters>,
    ready: Ready,
    rx: Batch<D::Frame>,
    egress: Ports<D::Frame>,
    burst: usize,
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
            commands,
            counters,
            ready: Ready::default(),
            rx: Batch::new(),
            egress: Ports::default(),
            burst: BURST,
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
    /// `clock` is read after the wait, and once more at the end of a turn that had frames.
    pub fn turn(&mut self, wait: Wait, clock: impl Fn() -> Nanos) -> Turn {
        if self.run_commands() {
            return Turn { frames: 0, stopped: true };
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        self.datapath.poll(wait, &mut ready);
        let now = clock();
        let snapshot = Arc::clone(self.snapshot.load());
        self.switch.observe(self.id, Some(snapshot.revision()));
        for port in &ready.handed_over {
            if let Some(slot) = self.egress.slot(*port) {
                self.datapath.tx_handed_over(*port, &slot.counters);
            }
        }
        let mut frames = 0;
        for port in &ready.rx {
            frames += self.receive(*port, &snapshot, now);
        }
        self.egress.flush_all(&mut self.datapath);
        self.ready = ready;
        self.counters.turns.add(1);
        if frames > 0 {
            self.counters.busy_turns.add(1);
            self.counters.frames.add(frames as u64);
            let spent = clock() - now;
            self.counters.busy_ns.add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX));
        }
        Turn { frames, stopped: false }
    }

    /// Executes what the control side sent; true if the worker is to end.
    fn run_commands(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { port, queue, counters, done } => {
                    self.egress.add(port, counters, self.burst);
                    // A queue that was forgotten here is closed by whoever still has the port.
                    let _ = self.datapath.attach(port, queue);
                    let _ = done.send(());
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

    /// Empties the hand-over ring of a port that goes: what is in it was offered to the port, and
    /// nobody could count it later.
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
                return;
            }
        }
    }

    /// A burst from one port: three passes, so that the table's cache misses overlap.
    fn receive(&mut self, in_port: PortId, snapshot: &Snapshot, now: Nanos) -> usize {
        let Some(slot) = self.egress.slot(in_port) else { return 0 };
        // Attached and not yet published, as all ports are at the start: what comes in meanwhile
        // stays in the device's queue. An ARP request would else find no other port there, and the
        // stack that sent it asks again only after a second.
        let Some(port) = snapshot.port(in_port) else { return 0 };
        let counters = Arc::clone(&slot.counters);
        let received = self.datapath.rx_burst(in_port, &mut self.rx, &counters);
        if received == 0 {
            return 0;
        }
        let Some(bridge) = port.bridge.and_then(|id| snapshot.bridge(id)) else {
            self.rx.clear();
            counters.count_drop(DropReason::PortUnbound, received as u64);
            return received;
        };

        let fdb = self.switch.fdb();
        let mut planned = ArrayVec::new();
        plan(self.rx.as_slice(), port, fdb, &mut planned);
        warm(&planned, fdb);

        let mut burst = Burst {
            snapshot,
            port,
            counters: &counters,
            live: Live {
                fdb,
                switch: &self.switch,
                worker: &self.counters,
                storm: self.egress.take_storm(in_port),
                now,
                tick: Tick::from(now),
            },
            egress: &mut self.egress,
            datapath: &mut self.datapath,
        };
        for (frame, plan) in self.rx.drain().zip(&planned) {
            match plan {
                Err(reason) => counters.count_drop(*reason, 1),
                Ok(plan) => burst.forward(frame, plan, bridge),
            }
        }
        let storm = burst.live.storm;
        self.egress.put_storm(in_port, storm);
        received
    }
}

/// A frame between the passes of a burst.
struct Planned {
    frame: Admitted,
    src: Hash,
    dst: Hash,
}

/// The frames of a burst after the first pass.
type Plan = ArrayVec<Result<Planned, DropReason>, BURST_MAX>;

/// The first pass: what comes in, and where it is in the table.
#[inline(never)]
fn plan<F: Frame>(frames: &[F], port: &PortConf, fdb: &Fdb, planned: &mut Plan) {
    planned.extend(frames.iter().map(|frame| {
        bridge::admit(port, frame.head()).map(|frame| Planned {
            src: fdb.hash(frame.src),
            dst: fdb.hash(frame.dst),
            frame,
        })
    }));
}

/// The second: the table's lines are fetched, all misses at once.
fn warm(planned: &Plan, fdb: &Fdb) {
    // Two loops, so that neither asks for each frame.
    if fdb.is_crowded() {
        warm_by(planned, |hash| fdb.warm(hash));
    } else {
        warm_by(planned, |hash| fdb.warm_front(hash));
    }
}

#[inline]
fn warm_by(planned: &Plan, load: impl Fn(Hash) -> u64) {
    let mut touched = 0;
    for plan in planned.iter().flatten() {
        touched ^= load(plan.src);
        if !plan.frame.group {
            touched ^= load(plan.dst);
        }
    }
    black_box(touched);
}

/// The effects of a worker that runs for real.
struct Live<'a> {
    fdb: &'a Fdb,
    switch: &'a Switch,
    worker: &'a WorkerCounters,
    storm: StormBucket,
    now: Nanos,
    tick: Tick,
}

impl Live<'_> {
    /// What few frames bring: an address that is new or elsewhere, or may not be learned.
    #[cold]
    #[inline(never)]
    fn learn_news(&self, key: Key, hash: Hash, dest: Dest) -> Learn {
        let learned = self.fdb.learn(key, hash, dest, self.tick);
        match learned {
            Learn::Refreshed | Learn::Pinned => {}
            Learn::New => self.event(WorkerEvent::Learned { key, at: dest }),
            Learn::Moved { from } => self.event(WorkerEvent::Moved { key, from, to: dest }),
            Learn::PortLimit | Learn::BridgeLimit | Learn::TotalLimit => {
                self.worker.learn_limited.add(1);
            }
            Learn::NoSlot => self.worker.learn_no_slot.add(1),
        }
        learned
    }

    fn event(&self, event: WorkerEvent) {
        if !self.switch.send_event(event) {
            self.worker.events_lost.add(1);
        }
    }
}

impl Effects for Live<'_> {
    #[inline]
    fn learn(&mut self, key: Key, hash: Hash, dest: Dest) -> Learn {
        if self.fdb.refresh(key, hash, dest, self.tick) {
            return Learn::Refreshed;
        }
        self.learn_news(key, hash, dest)
    }

    #[inline]
    fn lookup(&mut self, key: Key, hash: Hash) -> Option<Dest> {
        self.fdb.lookup(key, hash)
    }

    fn take_storm_token(&mut self, port: &PortConf) -> bool {
        port.storm.is_none_or(|rate| self.storm.take(rate, self.now))
    }

    fn blocked(&self, port: &PortConf) -> bool {
        port.state.blocked(self.now)
    }
}

/// What executing verdicts of one burst needs.
struct Burst<'a, D: Datapath> {
    snapshot: &'a Snapshot,
    port: &'a PortConf,
    counters: &'a PortCounters,
    live: Live<'a>,
    egress: &'a mut Ports<D::Frame>,
    datapath: &'a mut D,
}

impl<D: Datapath> Burst<'_, D> {
    /// The third pass, for one frame: decides and does it.
    #[inline]
    fn forward(&mut self, frame: D::Frame, plan: &Planned, bridge: &crate::config::BridgeConf) {
        let Planned { frame: admitted, src, dst } = plan;
        let fx = &mut self.live;
        let verdict = bridge::decide(self.snapshot, self.port, bridge, admitted, *src, *dst, fx);
        self.execute(frame, &admitted.meta, bridge, &verdict);
    }

    /// Does what a verdict says. The last action gets the frame, earlier ones copies.
    #[inline]
    fn execute(
        &mut self,
        frame: D::Frame,
        meta: &FrameMeta,
        bridge: &crate::config::BridgeConf,
        verdict: &Verdict,
    ) {
        let mut frame = frame;
        let (last, before) = verdict.split_last();
        for action in before {
            if let Some(copy) = self.copy(&mut frame) {
                self.act(copy, meta, bridge, *action);
            }
        }
        self.act(frame, meta, bridge, last);
    }

    #[inline]
    fn act(
        &mut self,
        frame: D::Frame,
        meta: &FrameMeta,
        bridge: &crate::config::BridgeConf,
        action: Action,
    ) {
        match action {
            Action::Drop(reason) => self.counters.count_drop(reason, 1),
            Action::Output(out) => match self.snapshot.port(out) {
                Some(out) => self.output(frame, meta, out),
                None => self.counters.count_drop(DropReason::NoDestination, 1),
            },
            Action::Flood => self.flood(frame, meta, bridge),
        }
    }

    /// A copy for one more output; a failure is counted as a frame that was made and lost.
    fn copy(&self, frame: &mut D::Frame) -> Option<D::Frame> {
        let copy = frame.share();
        self.counters.copied.add(1);
        if copy.is_none() {
            self.counters.count_drop(DropReason::CopyFailed, 1);
        }
        copy
    }

    /// The original goes to the last port, copies to those before it.
    #[inline(never)]
    fn flood(&mut self, frame: D::Frame, meta: &FrameMeta, bridge: &crate::config::BridgeConf) {
        let mut frame = frame;
        let (snapshot, port, vid) = (self.snapshot, self.port, meta.domain.vid());
        let mut last: Option<&PortConf> = None;
        for id in bridge.flood(vid) {
            let Some(out) = snapshot.port(*id) else { continue };
            if !bridge::floods_to(port, out, &self.live) {
                continue;
            }
            if let Some(earlier) = last.replace(out)
                && let Some(copy) = self.copy(&mut frame)
            {
                self.output_flooded(copy, meta, earlier);
            }
        }
        match last {
            Some(out) => self.output_flooded(frame, meta, out),
            None => self.counters.count_drop(DropReason::NoDestination, 1),
        }
    }

    /// [`Self::output`] out of line, so that it is in line where known unicast goes.
    #[inline(never)]
    fn output_flooded(&mut self, frame: D::Frame, meta: &FrameMeta, out: &PortConf) {
        self.output(frame, meta, out);
    }

    /// Puts a frame into the batch of its port, in the shape that the port can send.
    #[inline(always)]
    fn output(&mut self, frame: D::Frame, meta: &FrameMeta, out: &PortConf) {
        let mut frame = frame;
        let Some((slot, dirty)) = self.egress.slot_mut(out.id) else {
            // Attached to other workers already, to this one in a moment.
            self.counters.count_drop(DropReason::NoDestination, 1);
            return;
        };
        let Some(egress) = out.vlans.egress(meta.domain.vid()) else {
            self.counters.count_drop(DropReason::VlanEgress, 1);
            return;
        };
        self.counters.forwarded.add(1);
        slot.counters.offered.add(1);
        if !out.up {
            slot.counters.count_drop(DropReason::PortDown, 1);
            return;
        }
        if egress::retag(&mut frame, meta, egress).is_err() {
            slot.counters.count_drop(DropReason::NoHeadroom, 1);
            return;
        }
        if !egress::fits_mtu(&frame, out.mtu) {
            slot.counters.count_drop(DropReason::MtuExceeded, 1);
            return;
        }
        match egress::to_finish(&frame.offload(), out.caps) {
            Finish::Nothing => slot.send(frame, dirty, self.datapath),
            Finish::Checksum => match segment::finish_checksum(&mut frame) {
                Ok(()) => slot.send(frame, dirty, self.datapath),
                Err(_) => slot.counters.count_drop(DropReason::SegmentFailed, 1),
            },
            Finish::Segment => self.segment(frame, out.id),
        }
    }

    /// Cuts a super-frame. On the egress ledger the first segment is the frame itself and the others
    /// are made; on the ingress ledger they are copies that were forwarded.
    #[inline(never)]
    fn segment(&mut self, frame: D::Frame, out: PortId) {
        let mut segments = std::mem::take(&mut self.egress.segments);
        let alloc = || self.datapath.alloc();
        let result = segment::segment(&frame, alloc, |segment| segments.push(segment));
        if let Some((slot, dirty)) = self.egress.slot_mut(out) {
            if result.is_err() {
                slot.counters.count_drop(DropReason::SegmentFailed, 1);
                segments.clear();
            }
            let more = segments.len().saturating_sub(1) as u64;
            self.counters.copied.add(more);
            self.counters.forwarded.add(more);
            slot.counters.offered.add(more);
            for segment in segments.drain(..) {
                slot.send(segment, dirty, self.datapath);
            }
        }
        self.egress.segments = segments;
    }
}
