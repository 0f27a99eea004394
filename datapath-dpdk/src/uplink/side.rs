//! A worker's side of uplinks and the VTEPs on them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::queue::ArrayQueue;
use switch_core::batch::{BURST_MAX, Batch};
use switch_core::datapath::{Ready, Wake};
use switch_core::drop::DropReason;
use switch_core::frame::Frame;
use switch_core::handover::HandoverRing;
use switch_core::ids::PortId;
use switch_core::stats::PortCounters;

use super::held::{Kept, Waiting};
use super::hops::{Hops, Key, Way, address, destination};
use super::split::{ETHERNET, Filter};
use crate::datapath::{DeviceQueue, HANDED_OVER_BURSTS, Tx, count_received, drop_port_down, send};
use crate::mbuf::Mbuf;

/// A destination that a worker does not know the next hop of, and the address it sends from.
pub(super) type Ask = (IpAddr, IpAddr);

/// The way to ask the uplink's thread for next hops.
#[derive(Clone, Debug)]
pub(super) struct Asks {
    pub(super) queue: Arc<ArrayQueue<Ask>>,
    pub(super) thread: Arc<dyn Wake>,
}

impl Asks {
    /// Asks, unless too many are waiting for an answer: a packet that is kept back for nothing asks
    /// anew when it is dropped.
    fn ask(&self, ask: Ask) {
        if self.queue.push(ask).is_ok() {
            self.thread.wake();
        }
    }
}

/// What connects an uplink's queue with the host's stack.
#[derive(Debug)]
pub(crate) struct Exception {
    /// What is no tunnel's goes here.
    pub(super) to_host: HandoverRing<Mbuf>,
    /// What the host sends; the worker that owns the first send queue has it.
    pub(super) from_host: Option<HandoverRing<Mbuf>>,
    /// Being moved from one ring to the device.
    pub(super) batch: Batch<Mbuf>,
}

impl Exception {
    pub(super) fn new(
        to_host: HandoverRing<Mbuf>,
        from_host: Option<HandoverRing<Mbuf>>,
    ) -> Box<Self> {
        Box::new(Self { to_host, from_host, batch: Batch::with_limit(BURST_MAX) })
    }

    pub(crate) fn announced(&self) -> bool {
        self.from_host.as_ref().is_some_and(HandoverRing::announced)
    }
}

/// What connects one worker to a VTEP on an uplink.
#[derive(Debug)]
pub(crate) struct VtepQueue {
    pub(super) uplink: PortId,
    pub(super) filter: Filter,
    /// Leads to the worker that sends, which may be this one.
    pub(super) ring: HandoverRing<Mbuf>,
    /// Whether this worker sends, by a queue of the uplink.
    pub(super) sends: bool,
    /// The VTEP's address.
    pub(super) local: IpAddr,
    pub(super) asks: Asks,
    pub(super) hops: Hops,
    pub(super) waiting: Waiting<Mbuf>,
    /// Received, and not yet asked for.
    pub(super) stash: Batch<Mbuf>,
}

/// A worker's VTEPs.
#[derive(Debug)]
pub(crate) struct Underlay {
    /// By port number.
    vteps: Vec<Option<Box<VtepQueue>>>,
    attached: Vec<PortId>,
    /// A burst that is being split, and one that is being sent.
    burst: Batch<Mbuf>,
    out: Batch<Mbuf>,
    handed_over: Batch<Mbuf>,
}

impl Underlay {
    pub(crate) fn new() -> Self {
        Self {
            vteps: Vec::new(),
            attached: Vec::new(),
            burst: Batch::with_limit(BURST_MAX),
            out: Batch::with_limit(BURST_MAX),
            handed_over: Batch::with_limit(BURST_MAX),
        }
    }

    pub(crate) fn attach(
        &mut self,
        port: PortId,
        mut queue: Box<VtepQueue>,
    ) -> Option<Box<VtepQueue>> {
        if self.vteps.len() <= port.index() {
            self.vteps.resize_with(port.index() + 1, || None);
        }
        let slot = &mut self.vteps[port.index()];
        match slot {
            // It is adjusted: nothing that is under way is lost.
            Some(earlier) => {
                std::mem::swap(&mut earlier.waiting, &mut queue.waiting);
                std::mem::swap(&mut earlier.stash, &mut queue.stash);
            }
            None => self.attached.push(port),
        }
        slot.replace(queue)
    }

    pub(crate) fn detach(&mut self, port: PortId) -> Option<Box<VtepQueue>> {
        let queue = self.vteps.get_mut(port.index())?.take()?;
        self.attached.retain(|other| *other != port);
        Some(queue)
    }

    fn vtep(&mut self, port: PortId) -> Option<&mut VtepQueue> {
        self.vteps.get_mut(port.index())?.as_deref_mut()
    }

    /// Looks at the queue of an uplink and deals out what came in. Says which ports are to be asked
    /// for it.
    pub(crate) fn look(&mut self, uplink: PortId, queue: &mut DeviceQueue, ready: &mut Ready) {
        let host_sent = queue.exception.as_ref().is_some_and(|exception| exception.announced());
        let Some(rx) = &mut queue.rx else {
            if host_sent {
                ready.rx.push(uplink);
            }
            return;
        };
        let mut idle = rx.stash.is_empty();
        for port in &self.attached {
            if let Some(Some(vtep)) = self.vteps.get(port.index())
                && vtep.uplink == uplink
            {
                idle &= vtep.stash.is_empty();
            }
        }
        if idle {
            rx.queue.rx_burst(&mut self.burst, &mut rx.refused);
            self.split(uplink, &mut rx.stash);
        }
        for port in &self.attached {
            if let Some(Some(vtep)) = self.vteps.get(port.index())
                && vtep.uplink == uplink
                && !vtep.stash.is_empty()
            {
                ready.rx.push(*port);
            }
        }
        if host_sent || !rx.stash.is_empty() || rx.refused.frames() > 0 {
            ready.rx.push(uplink);
        }
    }

    /// Gives each VTEP what it takes, without its Ethernet header, and the rest to `rest`.
    fn split(&mut self, uplink: PortId, rest: &mut Batch<Mbuf>) {
        'frames: for mut frame in self.burst.drain() {
            for port in &self.attached {
                if let Some(Some(vtep)) = self.vteps.get_mut(port.index())
                    && vtep.uplink == uplink
                    && vtep.filter.takes(frame.head())
                    && frame.trim_front(ETHERNET).is_ok()
                {
                    // Both were empty, and a burst fits.
                    let _ = vtep.stash.push(frame);
                    continue 'frames;
                }
            }
            let _ = rest.push(frame);
        }
    }

    /// VTEPs that have something to send which nobody brings to them.
    pub(crate) fn look_at_vteps(&mut self, ready: &mut Ready) {
        for port in &self.attached {
            if let Some(Some(vtep)) = self.vteps.get_mut(port.index())
                && vtep.sends
                && (vtep.ring.announced() || vtep.may_send_waiting())
            {
                ready.handed_over.push(*port);
            }
        }
    }

    pub(crate) fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<Mbuf>,
        counters: &PortCounters,
    ) -> usize {
        let Some(vtep) = self.vtep(port) else { return 0 };
        let before = batch.len();
        batch.take_from(&mut vtep.stash);
        count_received(&batch.as_slice()[before..], counters);
        batch.len() - before
    }

    /// Sends the packets of a VTEP. `uplink` finds the queue of its uplink.
    pub(crate) fn tx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<Mbuf>,
        counters: &PortCounters,
        queues: &mut [Option<DeviceQueue>],
    ) {
        let Some(vtep) = self.vteps.get_mut(port.index()).and_then(Option::as_deref_mut) else {
            return drop_port_down(batch, counters);
        };
        if vtep.sends {
            vtep.send(batch, &mut self.out, counters, queues);
        } else {
            vtep.ring.push(batch, counters);
        }
    }

    /// The same for what other workers handed over, and for what waited for its next hop.
    pub(crate) fn tx_handed_over(
        &mut self,
        port: PortId,
        counters: &PortCounters,
        queues: &mut [Option<DeviceQueue>],
    ) {
        let Some(vtep) = self.vteps.get_mut(port.index()).and_then(Option::as_deref_mut) else {
            return;
        };
        if !vtep.sends {
            return;
        }
        vtep.send_waiting(&mut self.out, counters, queues);
        for _ in 0..HANDED_OVER_BURSTS {
            if !vtep.ring.announced() {
                return;
            }
            vtep.ring.pop(&mut self.handed_over);
            vtep.send(&mut self.handed_over, &mut self.out, counters, queues);
        }
    }

    /// Drops what waits: its VTEP goes.
    pub(crate) fn abandon(&mut self, port: PortId, counters: &PortCounters) {
        if let Some(vtep) = self.vtep(port) {
            let dropped = vtep.waiting.take_all().count() as u64;
            if dropped > 0 {
                counters.count_drop(DropReason::NeighbourUnresolved, dropped);
            }
        }
    }
}

impl VtepQueue {
    /// Whether something that waits can be sent or has to be dropped now.
    fn may_send_waiting(&mut self) -> bool {
        !self.waiting.is_empty() && (self.hops.is_news() || self.waiting.is_late(Instant::now()))
    }

    /// Puts Ethernet in front of packets and sends them. Those whose next hop is not known wait.
    fn send(
        &mut self,
        batch: &mut Batch<Mbuf>,
        out: &mut Batch<Mbuf>,
        counters: &PortCounters,
        queues: &mut [Option<DeviceQueue>],
    ) {
        if self.hops.refresh() {
            // What waits is older.
            self.send_waiting(out, counters, queues);
        }
        let mut done = 0;
        for frame in batch.as_mut_slice() {
            let header = destination(frame.head()).and_then(|key| self.hops.header(key));
            if !header.is_some_and(|header| push(frame, header)) {
                break;
            }
            done += 1;
        }
        if done == batch.len() {
            to_wire(self.uplink, batch, counters, queues);
        } else {
            self.send_some(batch, done, out, counters, queues);
        }
    }

    /// The same for a batch of which the first `done` have their header, and the next one cannot be
    /// sent now.
    #[cold]
    fn send_some(
        &mut self,
        batch: &mut Batch<Mbuf>,
        done: usize,
        out: &mut Batch<Mbuf>,
        counters: &PortCounters,
        queues: &mut [Option<DeviceQueue>],
    ) {
        for (n, mut frame) in batch.drain().enumerate() {
            if n < done {
                let _ = out.push(frame);
                continue;
            }
            let Some(key) = destination(frame.head()) else {
                counters.count_drop(DropReason::NoRoute, 1);
                continue;
            };
            match self.hops.way(key) {
                Way::Wait => self.keep(key, frame, counters),
                way => match way.enter(&mut frame) {
                    Ok(()) => {
                        let _ = out.push(frame);
                    }
                    Err(reason) => counters.count_drop(reason, 1),
                },
            }
        }
        to_wire(self.uplink, out, counters, queues);
    }

    fn keep(&mut self, key: Key, frame: Mbuf, counters: &PortCounters) {
        match self.waiting.keep(key, frame, Instant::now()) {
            Kept::First => self.asks.ask((address(key), self.local)),
            Kept::More => {}
            Kept::Not => counters.count_drop(DropReason::NeighbourUnresolved, 1),
        }
    }

    /// Sends what has its next hop now, and drops what has none or has waited too long.
    fn send_waiting(
        &mut self,
        out: &mut Batch<Mbuf>,
        counters: &PortCounters,
        queues: &mut [Option<DeviceQueue>],
    ) {
        if self.waiting.is_empty() {
            return;
        }
        self.hops.refresh();
        let hops = &mut self.hops;
        while let Some((key, mut frame)) = self.waiting.take(|key| hops.way(key) != Way::Wait) {
            match hops.way(key).enter(&mut frame) {
                Ok(()) => {
                    if let Err(frame) = out.push(frame) {
                        to_wire(self.uplink, out, counters, queues);
                        let _ = out.push(frame);
                    }
                }
                Err(reason) => counters.count_drop(reason, 1),
            }
        }
        to_wire(self.uplink, out, counters, queues);
        let now = Instant::now();
        while self.waiting.take_late(now).is_some() {
            counters.count_drop(DropReason::NeighbourUnresolved, 1);
        }
    }
}

impl Way {
    /// Puts the header of this way in front of a packet, or says why the packet is dropped.
    fn enter(self, frame: &mut Mbuf) -> Result<(), DropReason> {
        match self {
            Self::Behind(header) if push(frame, &header) => Ok(()),
            Self::Behind(_) => Err(DropReason::NoHeadroom),
            Self::NoRoute => Err(DropReason::NoRoute),
            Self::Unresolved | Self::Wait => Err(DropReason::NeighbourUnresolved),
        }
    }
}

/// Puts an Ethernet header in front of a packet.
#[inline]
fn push(frame: &mut Mbuf, header: &[u8; ETHERNET]) -> bool {
    match frame.prepend(ETHERNET) {
        Ok(room) => {
            room.copy_from_slice(header);
            true
        }
        Err(_) => false,
    }
}

/// Sends frames by the uplink's queue, and counts them as the packets that the VTEP sends.
#[inline]
fn to_wire(
    uplink: PortId,
    batch: &mut Batch<Mbuf>,
    counters: &PortCounters,
    queues: &mut [Option<DeviceQueue>],
) {
    if batch.is_empty() {
        return;
    }
    match queues.get_mut(uplink.index()) {
        Some(Some(DeviceQueue { tx: Tx::Own(tx, ..), .. })) => {
            send(tx, batch, counters, ETHERNET as u64);
        }
        _ => drop_port_down(batch, counters),
    }
}

/// What an uplink received for the host goes there, and what the host sends goes out.
pub(crate) fn serve_host(queue: &mut DeviceQueue, counters: &PortCounters) {
    let Some(exception) = &mut queue.exception else { return };
    if let Some(rx) = &mut queue.rx {
        let frames = rx.stash.len() as u64;
        if frames > 0 {
            count_received(rx.stash.as_slice(), counters);
            let full = exception.to_host.offer(&mut rx.stash);
            counters.consumed.add(frames - full);
            if full > 0 {
                counters.count_drop(DropReason::ExceptionFull, full);
            }
        }
    }
    let Some(ring) = exception.from_host.as_ref().filter(|ring| ring.announced()) else { return };
    ring.pop(&mut exception.batch);
    let frames = exception.batch.len() as u64;
    if frames == 0 {
        return;
    }
    for counter in [&counters.originated, &counters.forwarded, &counters.offered] {
        counter.add(frames);
    }
    match &mut queue.tx {
        Tx::Own(tx, ..) => send(tx, &mut exception.batch, counters, 0),
        Tx::Other(ring) => ring.push(&mut exception.batch, counters),
        // A kernel device is no uplink.
        Tx::Kernel(..) | Tx::None => drop_port_down(&mut exception.batch, counters),
    }
}
