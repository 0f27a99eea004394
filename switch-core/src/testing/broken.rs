//! Datapaths with one defect each, made on purpose.
//!
//! They are loopback datapaths otherwise. A conformance suite that lets one of them pass is worth
//! nothing, so a test runs it on all of them.

mod frame;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use frame::BrokenFrame;

use super::loopback::{LoopbackQueue, Wires};
use super::{Loopback, LoopbackBackend, LoopbackPort};
use crate::batch::{BURST_MAX, Batch};
use crate::config::PortSpec;
use crate::datapath::{
    Backend, BackendError, Datapath, OpenPort, OutsideLoss, PortEvent, PortInfo, Ready, Wait, Wake,
};
use crate::drop::DropReason;
use crate::frame::{FramePool, HeapFrame, PoolConfig};
use crate::ids::{PortId, WorkerId};
use crate::stats::PortCounters;

macro_rules! defects {
    ($($defect:ident fails $check:literal, $what:literal;)*) => {
        /// What is wrong with a datapath.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect {
            $(#[doc = $what] $defect,)*
        }

        impl Defect {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$defect),*];

            /// The conformance check that is about it.
            pub const fn check(self) -> &'static str {
                match self { $(Self::$defect => $check,)* }
            }
        }
    };
}

defects! {
    LeavesInBatch fails "ownership_after_tx", "The last frame of a burst stays in the batch.";
    IgnoresRoom fails "burst_limits", "More is received than fits; the rest is gone.";
    KeepsFrames fails "no_leak", "A copy of each frame is kept after it was sent.";
    LosesSilently fails "accounting", "Every fifth frame is neither sent nor dropped by name.";
    CountsRxTwice fails "accounting", "A received frame counts as two.";
    CountsTxTwice fails "accounting", "A sent frame counts as two.";
    CountsNoBytes fails "accounting", "Bytes that are sent are not counted.";
    Reorders fails "order", "A burst leaves in reverse order.";
    ReceivesReordered fails "order", "A burst is received in reverse order.";
    ForgetsHalfDrained fails "half_drained", "Reports a port once, however much is left in it.";
    NeverQuiet fails "half_drained", "Reports every port all the time.";
    DeafToWake fails "waker_ends_wait", "The waker does nothing.";
    SleepsThrough fails "arrival_ends_wait", "What arrives during a wait does not end it.";
    BlocksWhenFull fails "tx_full", "Waits for the far end of a full queue.";
    SilentWhenFull fails "tx_full", "What does not fit a queue is dropped without a name.";
    OneFullStallsAll fails "tx_full", "A full queue makes frames for the others drop too.";
    RuntUnnamed fails "runt_and_giant", "A runt is received and then nothing.";
    StaysAttached fails "detached_is_silent", "Goes on receiving from a detached port.";
    LosesForDetached fails "detached_is_silent", "Frames for a detached port vanish.";
    HandsOverReordered fails "handover", "A burst is handed over in reverse order.";
    ForgetsHandover fails "handover", "Handed-over frames are never reported.";
    HandoverFullUnnamed fails "handover_full", "A full hand-over ring drops without a name.";
    NoHeadroom fails "headroom", "Received frames have no room in front.";
    AllocatesDirty fails "headroom", "An allocated frame is not empty.";
    ShortHead fails "head_contract", "The head ends after 64 bytes.";
    DamagesLong fails "head_contract", "The last byte of a long frame is wrong.";
    TrimShortensHead fails "trim_keeps_head", "After a trim the head is not filled up.";
    AppendLosesByte fails "append_adds", "The last byte that is appended is another one.";
    ShareWritesThrough fails "share_is_separate", "Writes to a copy are seen in the original.";
    ShareLosesPayload fails "share_is_separate", "A copy has the head only.";
    ShareHasNoRoom fails "push_on_shared", "Nothing can be pushed onto a copy.";
    TruncatesLong fails "segments", "Only the first buffer of a long frame is received.";
    PushKeepsOffload fails "offload_moves", "The metadata stays where it was on a push.";
    LosesOffload fails "offload_round_trip", "Unfinished work of a received frame is forgotten.";
    SendsGsoAsPlain fails "gso_round_trip", "A super-frame leaves without its metadata.";
}

/// Opens broken ports.
#[derive(Debug)]
pub struct BrokenBackend {
    inner: LoopbackBackend,
    defect: Defect,
}

impl BrokenBackend {
    /// A backend whose workers all have that defect.
    pub fn new(defect: Defect, pool: PoolConfig) -> Self {
        Self { inner: LoopbackBackend::new(pool), defect }
    }

    /// As [`LoopbackBackend::configure`].
    pub fn configure(&mut self, port: &str, config: LoopbackPort) {
        let headroom = if self.defect == Defect::NoHeadroom { 16 } else { config.headroom };
        self.inner.configure(port, LoopbackPort { headroom, ..config });
    }

    /// As [`LoopbackBackend::wires`].
    pub fn wires(&self) -> Wires {
        self.inner.wires()
    }

    /// As [`LoopbackBackend::pool`].
    pub fn pool(&self) -> &FramePool {
        self.inner.pool()
    }
}

impl Backend for BrokenBackend {
    type Datapath = Broken;

    fn name(&self) -> &'static str {
        "broken"
    }

    fn worker(&mut self, id: WorkerId) -> Result<Broken, BackendError> {
        let inner = self.inner.worker(id)?;
        let defect = self.defect;
        Ok(Broken {
            inner,
            defect,
            kept: Vec::new(),
            ghosts: HashMap::new(),
            seen: HashMap::new(),
            sent: 0,
            stalled: false,
        })
    }

    fn open_port(
        &mut self,
        port: PortId,
        spec: &PortSpec,
    ) -> Result<OpenPort<LoopbackQueue>, BackendError> {
        self.inner.open_port(port, spec)
    }

    fn close_port(
        &mut self,
        port: PortId,
        queues: Vec<LoopbackQueue>,
        remove: bool,
    ) -> Result<(), BackendError> {
        self.inner.close_port(port, queues, remove)
    }

    fn adjust_port(
        &mut self,
        port: PortId,
        old: &PortSpec,
        new: &PortSpec,
    ) -> Result<bool, BackendError> {
        self.inner.adjust_port(port, old, new)
    }

    fn port_info(&mut self, port: PortId) -> Option<PortInfo> {
        self.inner.port_info(port)
    }

    fn outside_loss(&mut self, port: PortId) -> OutsideLoss {
        self.inner.outside_loss(port)
    }

    fn events(&mut self) -> Vec<PortEvent> {
        self.inner.events()
    }
}

/// A worker's view of broken ports.
#[derive(Debug)]
pub struct Broken {
    inner: Loopback,
    defect: Defect,
    kept: Vec<HeapFrame>,
    /// Ports that were detached and are used all the same.
    ghosts: HashMap<PortId, LoopbackQueue>,
    /// Arrivals on each port when it was reported last.
    seen: HashMap<PortId, u64>,
    sent: u64,
    stalled: bool,
}

/// A waker that wakes nobody.
#[derive(Debug)]
struct Deaf;

impl Wake for Deaf {
    fn wake(&self) {}
}

impl Broken {
    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    /// What a sane datapath does with one frame; its counters are the caller's to choose.
    fn send_one(&mut self, port: PortId, frame: HeapFrame, counters: &PortCounters) {
        let mut one = Batch::with_limit(1);
        let _ = one.push(frame);
        self.inner.tx_burst(port, &mut one, counters);
    }

    fn send(&mut self, port: PortId, mut frame: BrokenFrame, counters: &PortCounters) {
        use crate::frame::{Frame, Offload};
        self.sent += 1;
        match self.defect {
            Defect::LosesSilently if self.sent.is_multiple_of(5) => return,
            Defect::KeepsFrames => self.kept.extend(frame.inner_mut().share()),
            Defect::CountsTxTwice => counters.tx_frames.add(1),
            Defect::SendsGsoAsPlain => frame.set_offload(Offload::NONE),
            Defect::BlocksWhenFull => {
                // Not for ever, so that the test ends.
                for _ in 0..100 {
                    if !self.inner.is_full(port) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Defect::SilentWhenFull if self.inner.is_full(port) => return,
            Defect::OneFullStallsAll => {
                self.stalled |= self.inner.is_full(port);
                if self.stalled {
                    counters.count_drop(DropReason::TxFull, 1);
                    return;
                }
            }
            Defect::LosesForDetached if self.inner.cloned_queue(port).is_none() => return,
            Defect::HandoverFullUnnamed => {
                let unseen = PortCounters::default();
                self.send_one(port, frame.into_inner(), &unseen);
                for reason in DropReason::ALL.into_iter().filter(|r| *r != DropReason::HandoverFull)
                {
                    counters.count_drop(reason, unseen.dropped(reason));
                }
                counters.tx_frames.add(unseen.tx_frames.get());
                counters.tx_bytes.add(unseen.tx_bytes.get());
                return;
            }
            Defect::CountsNoBytes => {
                let unseen = PortCounters::default();
                self.send_one(port, frame.into_inner(), &unseen);
                counters.tx_frames.add(unseen.tx_frames.get());
                return;
            }
            _ => {}
        }
        self.send_one(port, frame.into_inner(), counters);
    }
}

impl Datapath for Broken {
    type Frame = BrokenFrame;
    type Queue = LoopbackQueue;

    fn attach(&mut self, port: PortId, queue: LoopbackQueue) -> Option<LoopbackQueue> {
        self.ghosts.remove(&port);
        self.inner.attach(port, queue)
    }

    fn detach(&mut self, port: PortId) -> Option<LoopbackQueue> {
        if self.is(Defect::StaysAttached)
            && let Some(queue) = self.inner.cloned_queue(port)
        {
            if self.ghosts.contains_key(&port) {
                return None;
            }
            self.ghosts.insert(port, queue.clone());
            return Some(queue);
        }
        self.inner.detach(port)
    }

    fn poll(&mut self, wait: Wait, ready: &mut Ready) {
        if self.is(Defect::SleepsThrough)
            && let Wait::AtMost(time) = wait
        {
            std::thread::sleep(time);
            return;
        }
        self.inner.poll(wait, ready);
        match self.defect {
            Defect::ForgetsHalfDrained => ready.rx.retain(|port| {
                let arrivals = self.inner.arrivals(*port);
                self.seen.insert(*port, arrivals) != Some(arrivals)
            }),
            Defect::NeverQuiet => ready.rx = (0..3).filter_map(PortId::new).collect(),
            Defect::ForgetsHandover => ready.handed_over.clear(),
            _ => {}
        }
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<BrokenFrame>,
        counters: &PortCounters,
    ) -> usize {
        let before = batch.len();
        let room = if self.is(Defect::IgnoresRoom) { BURST_MAX } else { batch.room() };
        if batch.is_full() {
            return 0;
        }
        let mut inner = Batch::with_limit(room);
        if self.is(Defect::RuntUnnamed) {
            let unseen = PortCounters::default();
            self.inner.rx_burst(port, &mut inner, &unseen);
            counters.rx_frames.add(unseen.rx_frames.get());
            counters.rx_bytes.add(unseen.rx_bytes.get());
        } else {
            self.inner.rx_burst(port, &mut inner, counters);
        }
        if self.is(Defect::CountsRxTwice) {
            counters.rx_frames.add(inner.len() as u64);
        }
        let mut frames: Vec<_> = inner.drain().collect();
        if self.is(Defect::ReceivesReordered) {
            frames.reverse();
        }
        for frame in frames {
            let _ = batch.push(BrokenFrame::received(frame, self.defect));
        }
        batch.len() - before
    }

    fn tx_burst(&mut self, port: PortId, batch: &mut Batch<BrokenFrame>, counters: &PortCounters) {
        let left =
            if self.is(Defect::LeavesInBatch) && batch.len() > 1 { batch.pop() } else { None };
        let mut frames: Vec<_> = batch.drain().collect();
        if matches!(self.defect, Defect::Reorders | Defect::HandsOverReordered) {
            frames.reverse();
        }
        for frame in frames {
            self.send(port, frame, counters);
        }
        if let Some(frame) = left {
            let _ = batch.push(frame);
        }
    }

    fn tx_handed_over(&mut self, port: PortId, counters: &PortCounters) {
        self.inner.tx_handed_over(port, counters);
    }

    fn alloc(&mut self) -> Option<BrokenFrame> {
        use crate::frame::Frame;
        let mut frame = self.inner.alloc()?;
        if self.is(Defect::AllocatesDirty) {
            let _ = frame.prepend(1);
        }
        Some(BrokenFrame::new(frame, self.defect))
    }

    fn waker(&self) -> Arc<dyn Wake> {
        if self.is(Defect::DeafToWake) { Arc::new(Deaf) } else { self.inner.waker() }
    }
}
