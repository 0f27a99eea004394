//! A worker's view of its DPDK ports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::sync::{Parker, Unparker};
use switch_core::batch::{BURST_MAX, Batch};
use switch_core::datapath::{Datapath, Ready, Wait, Wake};
use switch_core::drop::DropReason;
use switch_core::fdb::Bucket;
use switch_core::frame::Frame;
use switch_core::handover::HandoverRing;
use switch_core::ids::PortId;
use switch_core::stats::PortCounters;

use crate::ethdev::{Refused, RxQueue, TxQueue};
use crate::kernel::KernelPort;
use crate::lcore;
use crate::mbuf::Mbuf;
use crate::mempool::Mempool;
use crate::prefetch::prefetch;
use crate::uplink::{Exception, Underlay, VtepQueue, serve_host};

/// How long a worker that found nothing sleeps before it looks again: devices in poll mode announce
/// nothing. A frame is to wait 50 µs at most, and the kernel takes its time to wake somebody up.
const NAP: Duration = Duration::from_micros(30);

/// Bursts of handed-over frames that are sent at one go.
pub(crate) const HANDED_OVER_BURSTS: usize = 4;

/// What connects one worker to one port.
#[derive(Debug)]
pub struct PortQueue(Kind);

#[derive(Debug)]
enum Kind {
    Device(Box<DeviceQueue>),
    Vtep(Box<VtepQueue>),
}

impl PortQueue {
    pub(crate) fn new(mut rx: Vec<RxQueue>, tx: Tx) -> Self {
        let more = rx.split_off(rx.len().min(1));
        let rx = rx.pop().map(|queue| Rx {
            queue,
            more,
            stash: Batch::with_limit(BURST_MAX),
            refused: Refused::default(),
        });
        Self(Kind::Device(Box::new(DeviceQueue { rx, tx, exception: None })))
    }

    /// The queue of a kernel device, for the worker that has it.
    pub(crate) fn kernel(port: KernelPort, ring: HandoverRing<Mbuf>) -> Self {
        let tx = Tx::Kernel(Box::new(port), ring);
        Self(Kind::Device(Box::new(DeviceQueue { rx: None, tx, exception: None })))
    }

    /// The worker's way to a VTEP on an uplink.
    pub(crate) fn vtep(queue: VtepQueue) -> Self {
        Self(Kind::Vtep(Box::new(queue)))
    }

    /// Makes the queue of a device that of an uplink.
    pub(crate) fn set_exception(&mut self, exception: Box<Exception>) {
        if let Kind::Device(queue) = &mut self.0 {
            queue.exception = Some(exception);
        }
    }
}

/// The queues of a device that one worker uses.
#[derive(Debug)]
pub(crate) struct DeviceQueue {
    pub(crate) rx: Option<Rx>,
    pub(crate) tx: Tx,
    /// For an uplink: the way to the host's stack.
    pub(crate) exception: Option<Box<Exception>>,
}

/// The way in. To know whether a device has frames is to receive them, so a poll does that.
#[derive(Debug)]
pub(crate) struct Rx {
    pub(crate) queue: RxQueue,
    /// Further queues, where there are more of them than workers.
    more: Vec<RxQueue>,
    /// Received by a poll, and not yet asked for.
    pub(crate) stash: Batch<Mbuf>,
    /// Not yet counted.
    pub(crate) refused: Refused,
}

impl Rx {
    /// Whether there is something to receive or to count.
    fn look(&mut self) -> bool {
        if self.stash.is_empty() {
            self.queue.rx_burst(&mut self.stash, &mut self.refused);
            if !self.more.is_empty() {
                further(&mut self.queue, &mut self.more, &mut self.stash, &mut self.refused);
            }
        }
        !self.stash.is_empty() || self.refused.frames() > 0
    }

    fn take(&mut self, batch: &mut Batch<Mbuf>) {
        self.look();
        batch.take_from(&mut self.stash);
    }
}

/// Receives from the others, too, as far as there is room, and has another one be the first next
/// time: none waits for a busy one.
#[cold]
fn further(
    first: &mut RxQueue,
    more: &mut Vec<RxQueue>,
    batch: &mut Batch<Mbuf>,
    refused: &mut Refused,
) {
    for queue in more.iter_mut() {
        if batch.is_full() {
            break;
        }
        queue.rx_burst(batch, refused);
    }
    let next = more.remove(0);
    more.push(std::mem::replace(first, next));
}

/// The way out to a port.
#[derive(Debug)]
pub(crate) enum Tx {
    /// An own queue, what other workers hand over for it, and the ring of the queue to use while
    /// the far end does not take from this one.
    Own(TxQueue, HandoverRing<Mbuf>, Option<HandoverRing<Mbuf>>),
    /// The ring of the worker that owns the queue.
    Other(HandoverRing<Mbuf>),
    /// A kernel device's file, for both directions, and what other workers hand over for it.
    Kernel(Box<KernelPort>, HandoverRing<Mbuf>),
    /// None: the device cannot send.
    None,
}

/// One worker's ports on DPDK devices. The thread that polls becomes an lcore.
#[derive(Debug)]
pub struct DpdkDatapath {
    /// By port number.
    queues: Vec<Option<DeviceQueue>>,
    /// The ports of VTEPs, which have no device of their own.
    underlay: Underlay,
    attached: Vec<PortId>,
    pool: Mempool,
    parker: Parker,
    wake: Arc<Unpark>,
    handed_over: Batch<Mbuf>,
}

/// Ends a worker's wait.
#[derive(Debug)]
struct Unpark {
    /// Set until a wait has ended for it.
    woken: AtomicBool,
    unparker: Unparker,
}

impl Wake for Unpark {
    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.unparker.unpark();
    }
}

impl DpdkDatapath {
    pub(crate) fn new(pool: Mempool) -> Self {
        let parker = Parker::new();
        let unparker = parker.unparker().clone();
        Self {
            queues: Vec::new(),
            underlay: Underlay::new(),
            attached: Vec::new(),
            pool,
            parker,
            wake: Arc::new(Unpark { woken: AtomicBool::new(false), unparker }),
            handed_over: Batch::new(),
        }
    }

    fn queue(&mut self, port: PortId) -> Option<&mut DeviceQueue> {
        self.queues.get_mut(port.index())?.as_mut()
    }

    /// Fills `ready`; says whether there is any device to look at. `thorough` looks at those, too,
    /// for which it costs a system call.
    fn look(&mut self, ready: &mut Ready, thorough: bool) -> bool {
        let mut receiving = false;
        for port in &self.attached {
            let Some(Some(queue)) = self.queues.get_mut(port.index()) else { continue };
            if queue.exception.is_some() {
                self.underlay.look(*port, queue, ready);
                receiving |= queue.rx.is_some();
            } else if let Some(rx) = &mut queue.rx {
                receiving = true;
                if rx.look() {
                    ready.rx.push(*port);
                }
            }
            let ring = match &mut queue.tx {
                Tx::Own(_, ring, _) => ring,
                Tx::Kernel(kernel, ring) => {
                    receiving = true;
                    if kernel.look(thorough) {
                        ready.rx.push(*port);
                    }
                    ring
                }
                Tx::Other(_) | Tx::None => continue,
            };
            if ring.announced() {
                ready.handed_over.push(*port);
            }
        }
        self.underlay.look_at_vteps(ready);
        receiving
    }
}

impl Datapath for DpdkDatapath {
    type Frame = Mbuf;
    type Queue = PortQueue;

    // A turn costs as much as seven frames do.
    const BURST: usize = BURST_MAX;

    /// A nap is longer than it takes a kernel to wake somebody.
    const LINGER: Duration = Duration::from_micros(50);

    fn attach(&mut self, port: PortId, queue: PortQueue) -> Option<PortQueue> {
        let queue = match queue.0 {
            Kind::Device(queue) => *queue,
            Kind::Vtep(queue) => {
                let earlier = self.underlay.attach(port, queue);
                return earlier.map(|queue| PortQueue(Kind::Vtep(queue)));
            }
        };
        if self.queues.len() <= port.index() {
            self.queues.resize_with(port.index() + 1, || None);
        }
        let earlier = self.queues[port.index()].replace(queue);
        if earlier.is_none() {
            self.attached.push(port);
        }
        earlier.map(|queue| PortQueue(Kind::Device(Box::new(queue))))
    }

    fn detach(&mut self, port: PortId) -> Option<PortQueue> {
        let Some(queue) = self.queues.get_mut(port.index()).and_then(Option::take) else {
            return self.underlay.detach(port).map(|queue| PortQueue(Kind::Vtep(queue)));
        };
        self.attached.retain(|other| *other != port);
        Some(PortQueue(Kind::Device(Box::new(queue))))
    }

    fn poll(&mut self, wait: Wait, ready: &mut Ready) {
        lcore::enter();
        let mut receiving = self.look(ready, wait != Wait::No);
        let Wait::AtMost(most) = wait else { return };
        let start = Instant::now();
        while ready.is_empty() && !self.wake.woken.swap(false, Ordering::AcqRel) {
            let Some(left) = most.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
            else {
                return;
            };
            self.parker.park_timeout(if receiving { left.min(NAP) } else { left });
            receiving = self.look(ready, true);
        }
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<Mbuf>,
        counters: &PortCounters,
    ) -> usize {
        let Some(queue) = self.queue(port) else {
            return self.underlay.rx_burst(port, batch, counters);
        };
        if queue.exception.is_some() {
            serve_host(queue, counters);
            if let Some(rx) = &mut queue.rx {
                count_refused(std::mem::take(&mut rx.refused), counters);
            }
            return 0;
        }
        let rx = match queue {
            DeviceQueue { rx: Some(rx), .. } => rx,
            DeviceQueue { tx: Tx::Kernel(kernel, _), .. } => {
                return kernel.rx_burst(batch, counters);
            }
            _ => return 0,
        };
        let before = batch.len();
        rx.take(batch);
        let new = &batch.as_slice()[before..];
        let refused = std::mem::take(&mut rx.refused);
        if new.is_empty() && refused.frames() == 0 {
            return 0;
        }
        count_received(new, counters);
        count_refused(refused, counters);
        new.len()
    }

    fn tx_burst(&mut self, port: PortId, batch: &mut Batch<Mbuf>, counters: &PortCounters) {
        if batch.is_empty() {
            return;
        }
        let Some(queue) = self.queues.get_mut(port.index()).and_then(Option::as_mut) else {
            return self.underlay.tx_burst(port, batch, counters, &mut self.queues);
        };
        match &mut queue.tx {
            Tx::Own(tx, _, Some(other)) if !tx.is_enabled() => other.push(batch, counters),
            Tx::Own(tx, ..) => send(tx, batch, counters, 0),
            Tx::Other(ring) => ring.push(batch, counters),
            Tx::Kernel(kernel, _) => kernel.send(batch, counters),
            Tx::None => drop_port_down(batch, counters),
        }
    }

    fn tx_handed_over(&mut self, port: PortId, counters: &PortCounters) {
        let Some(DeviceQueue { tx, .. }) =
            self.queues.get_mut(port.index()).and_then(Option::as_mut)
        else {
            return self.underlay.tx_handed_over(port, counters, &mut self.queues);
        };
        for _ in 0..HANDED_OVER_BURSTS {
            let (Tx::Own(_, ring, _) | Tx::Kernel(_, ring)) = tx else { return };
            ring.pop(&mut self.handed_over);
            if self.handed_over.is_empty() {
                return;
            }
            match tx {
                Tx::Own(tx, ..) => send(tx, &mut self.handed_over, counters, 0),
                Tx::Kernel(kernel, _) => kernel.send(&mut self.handed_over, counters),
                Tx::Other(_) | Tx::None => return,
            }
        }
    }

    fn abandon(&mut self, port: PortId, counters: &PortCounters) {
        self.underlay.abandon(port, counters);
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    #[inline]
    fn fetch(line: &Bucket) {
        prefetch(line);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.wake) as Arc<dyn Wake>
    }
}

/// Counts frames that were received.
#[inline]
pub(crate) fn count_received(frames: &[Mbuf], counters: &PortCounters) {
    counters.rx_frames.add(frames.len() as u64);
    counters.rx_bytes.add(frames.iter().map(|frame| frame.len() as u64).sum());
}

/// Drops frames for a port that has no way out.
#[cold]
pub(crate) fn drop_port_down(batch: &mut Batch<Mbuf>, counters: &PortCounters) {
    counters.count_drop(DropReason::PortDown, batch.len() as u64);
    batch.clear();
}

/// Counts what a device received and no frame could be made of.
fn count_refused(refused: Refused, counters: &PortCounters) {
    if refused.frames() == 0 {
        return;
    }
    counters.rx_frames.add(refused.frames());
    counters.rx_bytes.add(refused.bytes);
    for (reason, n) in [
        (DropReason::Runt, refused.runts),
        (DropReason::Giant, refused.giants),
        (DropReason::CopyFailed, refused.no_mbuf),
        (DropReason::VnetHeader, refused.bad_claims),
    ] {
        if n > 0 {
            counters.count_drop(reason, n);
        }
    }
}

/// Sends a batch. Of each frame the first `link` bytes are none of the port's, and not counted.
pub(crate) fn send(tx: &mut TxQueue, batch: &mut Batch<Mbuf>, counters: &PortCounters, link: u64) {
    let sent = tx.tx_burst(batch);
    counters.tx_frames.add(sent.frames);
    counters.tx_bytes.add(sent.bytes.saturating_sub(link * sent.frames));
    for (reason, n) in [
        (DropReason::TxFull, sent.full),
        (DropReason::TxError, sent.unfit),
        (DropReason::PortDown, sent.down),
    ] {
        if n > 0 {
            counters.count_drop(reason, n);
        }
    }
}
