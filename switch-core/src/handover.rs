//! The bounded ring by which frames reach an egress queue that another worker owns.
//!
//! One ring a queue, any number of senders, one receiver. Frames of one sender stay in order. Both
//! backends use it, so a frame changes thread in the same way everywhere, and only here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::batch::Batch;
use crate::datapath::Wake;
use crate::drop::DropReason;
use crate::stats::PortCounters;

/// Frames that wait in one ring at most, unless a backend says otherwise.
pub const RING_FRAMES: usize = 1024;

/// A hand-over ring; clones are the same ring.
pub struct HandoverRing<F> {
    shared: Arc<Shared<F>>,
}

struct Shared<F> {
    frames: ArrayQueue<F>,
    /// Set by a sender that found it clear and so has to wake the owner; cleared by the owner
    /// before it looks, so that no frame is left behind unnoticed.
    announced: AtomicBool,
    owner: Arc<dyn Wake>,
}

impl<F> Clone for HandoverRing<F> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<F> fmt::Debug for HandoverRing<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandoverRing").field("len", &self.shared.frames.len()).finish()
    }
}

impl<F> HandoverRing<F> {
    /// A ring for `capacity` frames whose receiver is woken by `owner`.
    pub fn new(capacity: usize, owner: Arc<dyn Wake>) -> Self {
        let frames = ArrayQueue::new(capacity.max(1));
        Self { shared: Arc::new(Shared { frames, announced: AtomicBool::new(false), owner }) }
    }

    /// Hands over every frame of the batch; what does not fit is dropped as `handover-full`.
    pub fn push(&self, batch: &mut Batch<F>, counters: &PortCounters) {
        let full = self.offer(batch);
        if full > 0 {
            counters.count_drop(DropReason::HandoverFull, full);
        }
    }

    /// The same, for who has another name for it: how many frames did not fit and were dropped.
    pub fn offer(&self, batch: &mut Batch<F>) -> u64 {
        let mut full = 0;
        for frame in batch.drain() {
            if self.shared.frames.push(frame).is_err() {
                full += 1;
            }
        }
        if !self.shared.announced.swap(true, Ordering::AcqRel) {
            self.shared.owner.wake();
        }
        full
    }

    /// Whether a sender announced frames since the last [`Self::pop`]. For the owner's poll.
    pub fn announced(&self) -> bool {
        self.shared.announced.load(Ordering::Acquire)
    }

    /// Moves frames into the batch, as many as it has room for. The owner calls this until the
    /// batch is not filled.
    pub fn pop(&self, batch: &mut Batch<F>) {
        // A swap and no store: it reads what the last sender wrote, and so sees the frames of every
        // sender that found the ring announced and woke nobody. Those that come later announce anew.
        self.shared.announced.swap(false, Ordering::AcqRel);
        while !batch.is_full() {
            let Some(frame) = self.shared.frames.pop() else { return };
            if batch.push(frame).is_err() {
                return;
            }
        }
        // More may be left: stay announced.
        self.shared.announced.store(true, Ordering::Release);
    }

    /// Frames that wait now.
    pub fn len(&self) -> usize {
        self.shared.frames.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.shared.frames.is_empty()
    }
}
