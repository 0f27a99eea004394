//! A worker's ports: what it counts on them, and what waits to be sent.

use std::sync::Arc;

use super::mirrored::{Copies, Mirrored};
use super::rest::{Passed, Rest};
use crate::batch::Batch;
use crate::bridge::StormBucket;
use crate::config::{Direction, Snapshot};
use crate::datapath::Datapath;
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::ids::{PeerId, PortId};
use crate::stats::{PortCounters, PortTotals};
use crate::watch::{Fate, Record, SNAP_MAX};

/// A worker's view of one port.
pub(super) struct PortSlot<F> {
    port: PortId,
    pub(super) counters: Arc<PortCounters>,
    tx: Batch<F>,
    /// Frames that were sent since the last flush, of which nothing is noted.
    unnoted: usize,
    storm: StormBucket,
    pub(super) rest: Rest,
    /// Who gets copies of its frames.
    mirrored: Option<Box<Mirrored>>,
}

/// What is left to be done before a turn is over.
pub(super) struct Pending<F> {
    /// Ports whose batch is not empty. A port that was sent in between is there twice.
    dirty: Vec<PortId>,
    /// For mirrors.
    pub(super) copies: Copies<F>,
}

impl<F: Frame> PortSlot<F> {
    /// Adds a frame to the batch, which is sent when full. `pending` came with it.
    #[inline(always)]
    pub(super) fn send<D: Datapath<Frame = F>>(
        &mut self,
        frame: F,
        pending: &mut Pending<F>,
        datapath: &mut D,
    ) {
        self.send_first(frame, 0, pending, datapath);
    }

    /// The same for the first of frames that are best sent in one go, of which `more` follow: the batch
    /// is sent before where these would not fit.
    #[inline(always)]
    pub(super) fn send_first<D: Datapath<Frame = F>>(
        &mut self,
        frame: F,
        more: usize,
        pending: &mut Pending<F>,
        datapath: &mut D,
    ) {
        if self.tx.is_empty() {
            pending.dirty.push(self.port);
        } else if self.tx.room() <= more {
            self.unnoted += self.tx.len();
            self.transmit(&mut pending.copies, datapath);
        }
        // A batch takes at least one frame, and tx_burst leaves it empty.
        let _ = self.tx.push(frame);
    }

    /// The same for the first `n` frames.
    #[inline(always)]
    pub(super) fn send_all<D: Datapath<Frame = F>>(
        &mut self,
        frames: &mut impl Iterator<Item = F>,
        n: usize,
        pending: &mut Pending<F>,
        datapath: &mut D,
    ) {
        if self.tx.is_empty() {
            pending.dirty.push(self.port);
        }
        let mut left = n;
        while left > 0 {
            if self.tx.is_full() {
                self.transmit(&mut pending.copies, datapath);
            }
            // A batch takes at least one frame, and tx_burst leaves it empty.
            let now = left.min(self.tx.room());
            self.tx.extend(frames.by_ref().take(now));
            left -= now.max(1);
        }
    }

    /// Sends the batch.
    #[inline(always)]
    fn transmit<D: Datapath<Frame = F>>(&mut self, copies: &mut Copies<F>, datapath: &mut D) {
        self.mirror_sent(copies);
        datapath.tx_burst(self.port, &mut self.tx, &self.counters);
    }

    /// Copies what mirrors want of the batch, which is about to be sent.
    #[inline(always)]
    fn mirror_sent(&mut self, copies: &mut Copies<F>) {
        if let Some(mirrored) = &self.mirrored {
            mirrored.take((self.port, Direction::Out), self.tx.as_mut_slice(), copies);
        }
    }
}

/// The ports of a worker.
pub(super) struct Ports<F> {
    slots: Vec<Option<Box<PortSlot<F>>>>,
    pub(super) pending: Pending<F>,
    /// Empty but for the moment in which a super-frame is cut; kept for its memory.
    pub(super) segments: Vec<F>,
    /// What is noted about the frame at hand, and whether anything is.
    pub(super) record: Box<Record>,
    pub(super) is_watched: bool,
}

impl<F> Default for Ports<F> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            pending: Pending { dirty: Vec::new(), copies: Copies::default() },
            segments: Vec::new(),
            record: Box::new(Record::with_snap(SNAP_MAX)),
            is_watched: false,
        }
    }
}

impl<F: Frame> Ports<F> {
    pub(super) fn slot(&self, port: PortId) -> Option<&PortSlot<F>> {
        self.slots.get(port.index())?.as_deref()
    }

    /// The port, and what [`PortSlot::send`] wants.
    #[inline]
    pub(super) fn slot_mut(&mut self, port: PortId) -> Option<(&mut PortSlot<F>, &mut Pending<F>)> {
        let slot = self.slots.get_mut(port.index())?.as_deref_mut()?;
        Some((slot, &mut self.pending))
    }

    pub(super) fn add(&mut self, port: PortId, counters: Arc<PortCounters>, burst: usize) {
        if self.slots.len() <= port.index() {
            self.slots.resize_with(port.index() + 1, || None);
        }
        match &mut self.slots[port.index()] {
            // It goes on with another queue, and has no more of a storm for that.
            Some(slot) => slot.counters = counters,
            free => {
                let (tx, storm) = (Batch::with_limit(burst), StormBucket::default());
                let (rest, mirrored) = (Rest::default(), None);
                let slot = PortSlot { port, counters, tx, unnoted: 0, storm, rest, mirrored };
                *free = Some(Box::new(slot));
            }
        }
    }

    pub(super) fn remove(&mut self, port: PortId) {
        // Its batch is empty: every turn ends with a flush.
        if let Some(slot) = self.slots.get_mut(port.index()) {
            *slot = None;
        }
    }

    /// Has the frames of ports copied for the mirrors of a snapshot.
    pub(super) fn set_mirrors(&mut self, snapshot: &Snapshot, worker: usize) {
        if !snapshot.mirrors().is_empty() {
            self.pending.copies.make_room();
        }
        for slot in self.slots.iter_mut().flatten() {
            slot.mirrored = Mirrored::of(snapshot, slot.port, worker);
        }
    }

    /// Copies what mirrors want of frames that came in on a port.
    pub(super) fn mirror(&mut self, port: PortId, frames: &mut [F]) {
        if let Some(Some(slot)) = self.slots.get(port.index())
            && let Some(mirrored) = &slot.mirrored
        {
            mirrored.take((port, Direction::In), frames, &mut self.pending.copies);
        }
    }

    pub(super) fn take_storm(&self, port: PortId) -> StormBucket {
        self.slot(port).map(|s| s.storm).unwrap_or_default()
    }

    pub(super) fn put_storm(&mut self, port: PortId, storm: StormBucket) {
        if let Some(Some(slot)) = self.slots.get_mut(port.index()) {
            slot.storm = storm;
        }
    }

    /// A port had so many frames, of which so many were strays.
    #[cold]
    pub(super) fn charge(&mut self, port: PortId, frames: usize, strays: usize, passed: &Passed) {
        if let Some(Some(slot)) = self.slots.get_mut(port.index()) {
            slot.rest.charge(frames, strays, passed);
        }
    }

    /// Sends what is left in every batch.
    pub(super) fn flush_all<D: Datapath<Frame = F>>(&mut self, datapath: &mut D) {
        let Pending { dirty, copies } = &mut self.pending;
        for port in dirty.drain(..) {
            if let Some(Some(slot)) = self.slots.get_mut(port.index())
                && !slot.tx.is_empty()
            {
                slot.unnoted = 0;
                slot.transmit(copies, datapath);
            }
        }
    }

    /// Drops a frame that was offered to `port`, maybe on its way to `peer`.
    pub(super) fn refuse(&mut self, port: PortId, peer: Option<PeerId>, reason: DropReason) {
        if let Some(slot) = self.slot(port) {
            slot.counters.count_drop(reason, 1);
        }
        if self.is_watched {
            self.record.dropped(port, peer, reason);
        }
    }

    /// Sends what is left in every batch frame by frame, and notes what becomes of each.
    #[cold]
    pub(super) fn flush_watched<D: Datapath<Frame = F>>(&mut self, datapath: &mut D) {
        let Pending { dirty, copies } = &mut self.pending;
        for port in dirty.drain(..) {
            let Some(Some(slot)) = self.slots.get_mut(port.index()) else { continue };
            slot.mirror_sent(copies);
            let mut one = Batch::with_limit(1);
            self.record.unseen(std::mem::take(&mut slot.unnoted));
            for frame in slot.tx.drain() {
                self.record.sent(port, &frame);
                let before = slot.counters.totals();
                // It is empty: tx_burst leaves it so.
                let _ = one.push(frame);
                datapath.tx_burst(port, &mut one, &slot.counters);
                self.record.settle(fate(&before, &slot.counters.totals()));
            }
        }
    }
}

/// What became of a frame between the two.
fn fate(before: &PortTotals, after: &PortTotals) -> Fate {
    match dropped_between(before, after).next() {
        Some(reason) => Fate::Dropped(reason),
        None if after.tx_frames > before.tx_frames => Fate::Sent,
        None => Fate::HandedOver,
    }
}

/// Why frames were dropped between the two, each reason once.
pub(super) fn dropped_between<'a>(
    before: &'a PortTotals,
    after: &'a PortTotals,
) -> impl Iterator<Item = DropReason> + 'a {
    let more = |reason: &DropReason| after.dropped_for(*reason) > before.dropped_for(*reason);
    DropReason::ALL.into_iter().filter(more)
}
