//! A worker's view of its ports: the hot side.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use switch_core::batch::BURST_MAX;
use switch_core::datapath::{BackendError, Datapath, Ready, Wait, Wake};
use switch_core::frame::{Frame, FramePool, HeapFrame};
use switch_core::handover::{HandoverRing, RING_FRAMES};
use switch_core::stats::PortCounters;
use switch_core::{Batch, PortId};

use crate::error::failed;
use crate::io::{Got, Io};
use crate::shared::PortShared;
use crate::waker::TapWaker;

/// The waker's token; ports have their index.
const WAKER: Token = Token(usize::MAX);
/// Events taken from the kernel at once; more come with the next poll.
const EVENTS: usize = 256;
/// Bytes after which a receive ends: more super-frames in one go would have left the caches before they
/// are sent.
const BURST_BYTES: usize = 128 << 10;
/// Bytes after which it ends where what comes next does not belong to what came last: datagrams that the
/// kernel hands over together are segments of a super-frame, which may become one again in a burst.
const TOGETHER_BYTES: usize = 32 << 10;
/// Bursts of handed-over frames sent in one turn.
const HANDED_OVER_BURSTS: usize = 4;

/// What connects a worker to one port.
pub struct TapQueue(pub(crate) Kind);

pub(crate) enum Kind {
    /// The port's only queue: this worker receives and sends.
    Own(OwnQueue),
    /// The way to the worker that has it.
    Remote(HandoverRing<HeapFrame>),
}

pub(crate) struct OwnQueue {
    pub(crate) io: Io,
    pub(crate) ring: HandoverRing<HeapFrame>,
    /// What other workers handed over to the one that had the queue before.
    pub(crate) earlier: Option<HandoverRing<HeapFrame>>,
    pub(crate) shared: Arc<PortShared>,
}

impl fmt::Debug for TapQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Own(own) => f.debug_tuple("Own").field(&own.io).finish(),
            Kind::Remote(ring) => f.debug_tuple("Remote").field(ring).finish(),
        }
    }
}

impl TapQueue {
    /// The file behind an own queue of a TAP or netdev port, for a datapath of another kind that
    /// drives it by itself; `None` for any other queue.
    #[must_use]
    pub fn into_kernel(self) -> Option<KernelQueue> {
        match self.0 {
            Kind::Own(own) if !matches!(own.io, Io::Underlay(_)) => {
                Some(KernelQueue { io: own.io, shared: own.shared })
            }
            _ => None,
        }
    }
}

/// The only queue of a TAP or netdev port, one system call a frame.
#[derive(Debug)]
pub struct KernelQueue {
    io: Io,
    shared: Arc<PortShared>,
}

impl KernelQueue {
    /// Receives one frame into `frame`, whose content is replaced. Never waits.
    pub fn recv(&mut self, frame: &mut HeapFrame) -> Got {
        self.io.recv(frame, &self.shared)
    }

    /// Sends the frames of a batch, of any kind, with their offload metadata, and counts them or drops
    /// them by name. Never waits.
    pub fn send_all<F: Frame>(&mut self, batch: &mut Batch<F>, counters: &PortCounters) {
        self.io.send_all(batch, &self.shared, counters);
    }
}

struct Slot {
    queue: TapQueue,
    /// Whether the port is in the ready list: mio tells of a file once, and again only after a
    /// receive found it empty.
    ready: bool,
}

/// A worker's view of TAP, netdev and underlay ports.
pub struct TapDatapath {
    poll: Poll,
    events: Events,
    waker: Arc<TapWaker>,
    pool: FramePool,
    slots: Vec<Option<Box<Slot>>>,
    /// Ports with a queue of this worker, which other workers may hand frames to.
    own: Vec<PortId>,
    /// Ports that have not been drained since they were told of, in the order in which they were.
    ready: Vec<PortId>,
    /// Whether some ring may still hold announced frames.
    rings: bool,
    handed_over: Batch<HeapFrame>,
}

impl fmt::Debug for TapDatapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapDatapath").field("own", &self.own).finish_non_exhaustive()
    }
}

impl TapDatapath {
    pub(crate) fn new(pool: FramePool) -> Result<Self, BackendError> {
        let poll = Poll::new().map_err(|e| failed("make a poll instance (epoll)", e))?;
        let waker = mio::Waker::new(poll.registry(), WAKER)
            .map_err(|e| failed("make a waker (eventfd)", e))?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            waker: Arc::new(TapWaker::new(waker)),
            pool,
            slots: Vec::new(),
            own: Vec::new(),
            ready: Vec::new(),
            rings: false,
            handed_over: Batch::with_limit(BURST_MAX),
        })
    }

    fn slot(&mut self, port: PortId) -> Option<&mut Slot> {
        self.slots.get_mut(port.index())?.as_deref_mut()
    }

    fn mark_ready(&mut self, port: PortId) {
        if let Some(slot) = self.slot(port)
            && !slot.ready
        {
            slot.ready = true;
            self.ready.push(port);
        }
    }

    /// Waits, and marks what the kernel tells of.
    fn wait(&mut self, timeout: Duration) {
        // A signal ends the wait early, which costs one empty turn.
        if self.poll.poll(&mut self.events, Some(timeout)).is_err() {
            return;
        }
        for event in &self.events {
            if event.token() == WAKER {
                continue;
            }
            let slot = self.slots.get_mut(event.token().0).and_then(Option::as_deref_mut);
            let port = u16::try_from(event.token().0).ok().and_then(PortId::new);
            if let (Some(slot), Some(port)) = (slot, port)
                && !slot.ready
            {
                slot.ready = true;
                self.ready.push(port);
            }
        }
    }
}

impl Datapath for TapDatapath {
    type Frame = HeapFrame;
    type Queue = TapQueue;

    /// A TCP super-frame is up to 45 segments of a common size, which are to stay together.
    const BURST: usize = BURST_MAX;

    fn attach(&mut self, port: PortId, queue: TapQueue) -> Option<TapQueue> {
        let (mut queue, mut earlier) = (queue, self.detach(port));
        if let (Kind::Own(now), Some(TapQueue(Kind::Own(before)))) = (&mut queue.0, &mut earlier)
            && let (Io::Underlay(now), Io::Underlay(before)) = (&mut now.io, &mut before.io)
        {
            now.go_on_from(before);
        }
        if self.slots.len() <= port.index() {
            self.slots.resize_with(port.index() + 1, || None);
        }
        let mut own = false;
        if let Kind::Own(queue) = &queue.0 {
            own = true;
            let (registry, token) = (self.poll.registry(), Token(port.index()));
            queue.io.each_watched(|fd| {
                if let Err(e) = registry.register(&mut SourceFd(&fd), token, Interest::READABLE) {
                    // Out of memory or of epoll watches. The port sends, and receives when marked.
                    tracing::error!(?port, error = %e, "cannot watch the port for frames");
                }
            });
        }
        self.slots[port.index()] = Some(Box::new(Slot { queue, ready: false }));
        if own {
            self.own.push(port);
            // What came before the registration.
            self.mark_ready(port);
            self.rings = true;
        }
        earlier
    }

    fn detach(&mut self, port: PortId) -> Option<TapQueue> {
        let slot = self.slots.get_mut(port.index())?.take()?;
        if let Kind::Own(own) = &slot.queue.0 {
            own.io.each_watched(|fd| {
                // Fails only for a file that was not registered.
                let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
            });
            self.own.retain(|p| *p != port);
            self.ready.retain(|p| *p != port);
        }
        Some(slot.queue)
    }

    fn poll(&mut self, wait: Wait, ready: &mut Ready) {
        // Before others are told of: one that was drained and has frames again is in the list once.
        let slots = &self.slots;
        self.ready.retain(|port| {
            slots.get(port.index()).and_then(Option::as_deref).is_some_and(|slot| slot.ready)
        });
        let timeout = match wait {
            Wait::AtMost(timeout) if self.ready.is_empty() && !self.rings => timeout,
            _ => Duration::ZERO,
        };
        let timeout = if self.waker.prepare_sleep() { timeout } else { Duration::ZERO };
        self.wait(timeout);
        let kicked = self.waker.awake();

        let slots = &self.slots;
        ready.rx.extend_from_slice(&self.ready);
        if kicked || self.rings {
            self.rings = false;
            for port in &self.own {
                let slot = slots.get(port.index()).and_then(Option::as_deref);
                if let Some(Kind::Own(own)) = slot.map(|s| &s.queue.0)
                    && (own.ring.announced() || own.earlier.is_some())
                {
                    self.rings = true;
                    ready.handed_over.push(*port);
                }
            }
        }
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<HeapFrame>,
        counters: &PortCounters,
    ) -> usize {
        let Some(slot) = self.slots.get_mut(port.index()).and_then(Option::as_deref_mut) else {
            return 0;
        };
        let Kind::Own(own) = &mut slot.queue.0 else { return 0 };
        let before = batch.len();
        let mut spare: Option<HeapFrame> = None;
        // Each read ends in a frame, a counted drop or the end, so that a flood of bad frames does
        // not hold the worker either.
        let mut bytes = 0;
        for _ in 0..batch.room() {
            if bytes >= TOGETHER_BYTES && (bytes >= BURST_BYTES || own.io.is_between()) {
                break;
            }
            // With a dry pool the frames stay in the kernel, which counts what it has to drop.
            let Some(mut frame) = spare.take().or_else(|| self.pool.alloc()) else { break };
            match own.io.recv(&mut frame, &own.shared) {
                Got::Frame => {
                    bytes += frame.len();
                    counters.rx_frames.add(1);
                    counters.rx_bytes.add(frame.len() as u64);
                    // There is room, by the loop's bound.
                    let _ = batch.push(frame);
                }
                Got::Dropped(len, reason) => {
                    counters.rx_frames.add(1);
                    counters.rx_bytes.add(len as u64);
                    counters.count_drop(reason, 1);
                    spare = Some(frame);
                }
                Got::Again => spare = Some(frame),
                Got::Nothing => {
                    slot.ready = false;
                    break;
                }
            }
        }
        batch.len() - before
    }

    fn tx_burst(&mut self, port: PortId, batch: &mut Batch<HeapFrame>, counters: &PortCounters) {
        let slot = self.slots.get_mut(port.index()).and_then(Option::as_deref_mut);
        match slot.map(|slot| &mut slot.queue.0) {
            Some(Kind::Own(own)) => {
                settle(own, &mut self.handed_over, counters);
                send_all(own, batch, counters);
            }
            Some(Kind::Remote(ring)) => ring.push(batch, counters),
            None => {
                counters.count_drop(switch_core::DropReason::PortDown, batch.len() as u64);
                batch.clear();
            }
        }
    }

    fn tx_handed_over(&mut self, port: PortId, counters: &PortCounters) {
        let slot = self.slots.get_mut(port.index()).and_then(Option::as_deref_mut);
        let Some(Kind::Own(own)) = slot.map(|slot| &mut slot.queue.0) else { return };
        settle(own, &mut self.handed_over, counters);
        for _ in 0..HANDED_OVER_BURSTS {
            own.ring.pop(&mut self.handed_over);
            let full = self.handed_over.is_full();
            send_all(own, &mut self.handed_over, counters);
            if !full {
                return;
            }
        }
    }

    fn alloc(&mut self) -> Option<HeapFrame> {
        self.pool.alloc()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::<TapWaker>::clone(&self.waker)
    }
}

/// Sends what waits from before the queue came to this worker, so that nothing overtakes it.
fn settle(own: &mut OwnQueue, batch: &mut Batch<HeapFrame>, counters: &PortCounters) {
    let Some(earlier) = own.earlier.take() else { return };
    for ring in [earlier, own.ring.clone()] {
        // As many bursts as a ring holds: others go on handing over to the second one.
        for _ in 0..RING_FRAMES.div_ceil(BURST_MAX) {
            ring.pop(batch);
            let full = batch.is_full();
            send_all(own, batch, counters);
            if !full {
                break;
            }
        }
    }
}

/// Sends every frame of the batch, or drops it by name.
fn send_all(own: &mut OwnQueue, batch: &mut Batch<HeapFrame>, counters: &PortCounters) {
    let shared = &*own.shared;
    match &mut own.io {
        Io::Underlay(underlay) => underlay.send_all(batch, shared, counters),
        io => io.send_all(batch, shared, counters),
    }
}
