//! A worker's view of its DPDK ports.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::sync::{Parker, Unparker};
use switch_core::batch::Batch;
use switch_core::datapath::{Datapath, Ready, Wait, Wake};
use switch_core::drop::DropReason;
use switch_core::handover::HandoverRing;
use switch_core::ids::PortId;
use switch_core::stats::PortCounters;

use crate::ethdev::{RxQueue, TxQueue};
use crate::lcore;
use crate::mbuf::Mbuf;
use crate::mempool::Mempool;

/// Longest sleep of a worker that found nothing to do while it has devices to poll: they announce
/// nothing, so this is how late a frame can be noticed.
const NAP: Duration = Duration::from_micros(50);

/// Bursts of handed-over frames that are sent at one go.
const HANDED_OVER_BURSTS: usize = 4;

/// What connects one worker to one port.
#[derive(Debug)]
pub struct PortQueue {
    pub(crate) rx: Option<RxQueue>,
    pub(crate) tx: Tx,
}

/// The way out to a port.
#[derive(Debug)]
pub(crate) enum Tx {
    /// An own queue, and what other workers hand over for it.
    Own(TxQueue, HandoverRing<Mbuf>),
    /// The ring of the worker that owns the queue.
    Other(HandoverRing<Mbuf>),
    /// None: the device cannot send.
    None,
}

/// One worker's ports on DPDK devices. The thread that polls becomes an lcore.
#[derive(Debug)]
pub struct DpdkDatapath {
    /// By port number.
    queues: Vec<Option<PortQueue>>,
    attached: Vec<PortId>,
    pool: Mempool,
    parker: Parker,
    wake: Arc<Unpark>,
    /// Whether anything moved since the last poll.
    busy: bool,
    handed_over: Batch<Mbuf>,
}

/// Ends a worker's nap.
#[derive(Debug)]
pub(crate) struct Unpark(Unparker);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

impl DpdkDatapath {
    pub(crate) fn new(pool: Mempool) -> Self {
        let parker = Parker::new();
        let wake = Arc::new(Unpark(parker.unparker().clone()));
        Self {
            queues: Vec::new(),
            attached: Vec::new(),
            pool,
            parker,
            wake,
            busy: false,
            handed_over: Batch::default(),
        }
    }

    fn queue(&mut self, port: PortId) -> Option<&mut PortQueue> {
        self.queues.get_mut(port.index())?.as_mut()
    }

    fn list_handed_over(&self, ready: &mut Ready) {
        let announced = self.attached.iter().filter(|port| {
            let queue = self.queues.get(port.index()).and_then(Option::as_ref);
            matches!(queue, Some(PortQueue { tx: Tx::Own(_, ring), .. }) if ring.announced())
        });
        ready.handed_over.extend(announced);
    }

    /// How long a poll that found nothing may sleep.
    fn nap(&self, wait: Wait, ready: &Ready) -> Option<Duration> {
        let Wait::AtMost(most) = wait else { return None };
        if self.busy || !ready.handed_over.is_empty() {
            return None;
        }
        Some(if ready.rx.is_empty() { most } else { most.min(NAP) })
    }
}

impl Datapath for DpdkDatapath {
    type Frame = Mbuf;
    type Queue = PortQueue;

    fn attach(&mut self, port: PortId, queue: PortQueue) -> Option<PortQueue> {
        if self.queues.len() <= port.index() {
            self.queues.resize_with(port.index() + 1, || None);
        }
        let earlier = self.queues[port.index()].replace(queue);
        if earlier.is_none() {
            self.attached.push(port);
        }
        earlier
    }

    fn detach(&mut self, port: PortId) -> Option<PortQueue> {
        let queue = self.queues.get_mut(port.index())?.take()?;
        self.attached.retain(|other| *other != port);
        Some(queue)
    }

    /// Devices in poll mode announce nothing: every port that receives is always reported.
    fn poll(&mut self, wait: Wait, ready: &mut Ready) {
        lcore::enter();
        let receiving = self.attached.iter().filter(|port| {
            let queue = self.queues.get(port.index()).and_then(Option::as_ref);
            matches!(queue, Some(PortQueue { rx: Some(_), .. }))
        });
        ready.rx.extend(receiving);
        self.list_handed_over(ready);
        if let Some(nap) = self.nap(wait, ready) {
            self.parker.park_timeout(nap);
            self.list_handed_over(ready);
        }
        self.busy = false;
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<Mbuf>,
        counters: &PortCounters,
    ) -> usize {
        let Some(PortQueue { rx: Some(rx), .. }) = self.queue(port) else { return 0 };
        let before = batch.len();
        let received = rx.rx_burst(batch);
        if received.frames == 0 {
            return 0;
        }
        self.busy = true;
        counters.rx_frames.add(received.frames);
        counters.rx_bytes.add(received.bytes);
        for (reason, n) in [
            (DropReason::Runt, received.runts),
            (DropReason::Giant, received.giants),
            (DropReason::CopyFailed, received.no_mbuf),
        ] {
            if n > 0 {
                counters.count_drop(reason, n);
            }
        }
        batch.len() - before
    }

    fn tx_burst(&mut self, port: PortId, batch: &mut Batch<Mbuf>, counters: &PortCounters) {
        if batch.is_empty() {
            return;
        }
        match self.queue(port) {
            Some(PortQueue { tx: Tx::Own(tx, _), .. }) => send(tx, batch, counters),
            Some(PortQueue { tx: Tx::Other(ring), .. }) => ring.push(batch, counters),
            Some(PortQueue { tx: Tx::None, .. }) | None => {
                counters.count_drop(DropReason::PortDown, batch.len() as u64);
                batch.clear();
            }
        }
    }

    fn tx_handed_over(&mut self, port: PortId, counters: &PortCounters) {
        let queue = self.queues.get_mut(port.index()).and_then(Option::as_mut);
        let Some(PortQueue { tx: Tx::Own(tx, ring), .. }) = queue else { return };
        for _ in 0..HANDED_OVER_BURSTS {
            ring.pop(&mut self.handed_over);
            if self.handed_over.is_empty() {
                return;
            }
            self.busy = true;
            send(tx, &mut self.handed_over, counters);
        }
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.wake) as Arc<dyn Wake>
    }
}

fn send(tx: &mut TxQueue, batch: &mut Batch<Mbuf>, counters: &PortCounters) {
    let sent = tx.tx_burst(batch);
    counters.tx_frames.add(sent.frames);
    counters.tx_bytes.add(sent.bytes);
    for (reason, n) in [(DropReason::TxFull, sent.full), (DropReason::TxError, sent.unfit)] {
        if n > 0 {
            counters.count_drop(reason, n);
        }
    }
}
