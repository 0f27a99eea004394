//! Any datapath, behind wires that lose, double, reorder and damage what arrives.
//!
//! The harm is done outside of the switch: what is lost was never received, what is doubled was
//! received twice, and the counters of the port say so. A seed makes it repeatable.

use std::sync::Arc;

use crate::batch::{BURST_MAX, Batch};
use crate::datapath::{Datapath, Ready, Wait, Wake};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::ids::PortId;
use crate::stats::PortCounters;

/// How often a wire does harm, in frames of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Harm {
    /// Frames lost.
    pub lose: u16,
    /// Frames that arrive twice.
    pub double: u16,
    /// Frames that change places with the one before, within a burst.
    pub swap: u16,
    /// Frames with one bit of their head turned over. Super-frames and frames with unfinished
    /// checksums are spared, as a backend has validated those before.
    pub flip: u16,
}

/// What a [`Lossy`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Harmed {
    /// Frames lost.
    pub lost: u64,
    /// Frames that arrived twice.
    pub doubled: u64,
    /// Frames that changed places with the one before.
    pub swapped: u64,
    /// Bits turned over.
    pub flipped: u64,
}

/// A small generator of repeatable numbers (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, which counts as at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound.max(1) as u64) as usize
    }

    /// True `per_mille` times of a thousand.
    pub fn chance(&mut self, per_mille: u16) -> bool {
        self.below(1000) < usize::from(per_mille)
    }
}

/// A datapath behind harmful wires.
#[derive(Debug)]
pub struct Lossy<D> {
    inner: D,
    harm: Harm,
    rng: Rng,
    /// What was done so far.
    pub harmed: Harmed,
}

impl<D: Datapath> Lossy<D> {
    /// Puts `inner` behind wires that do `harm`, as `seed` decides.
    pub fn new(inner: D, harm: Harm, seed: u64) -> Self {
        Self { inner, harm, rng: Rng(seed), harmed: Harmed::default() }
    }

    /// Adds a frame and its copy if the wire doubles it.
    fn deliver(&mut self, mut frame: D::Frame, out: &mut Batch<D::Frame>, counters: &PortCounters) {
        if frame.offload().is_finished() && self.rng.chance(self.harm.flip) {
            let at = self.rng.below(frame.head().len());
            if let Some(byte) = frame.head_mut().get_mut(at) {
                *byte ^= 1 << self.rng.below(8);
                self.harmed.flipped += 1;
            }
        }
        let copy =
            if out.room() > 1 && self.rng.chance(self.harm.double) { frame.share() } else { None };
        self.harmed.doubled += u64::from(copy.is_some());
        for frame in [Some(frame), copy].into_iter().flatten() {
            counters.rx_frames.add(1);
            counters.rx_bytes.add(frame.len() as u64);
            // There is room: the frame came out of a batch no larger, and the copy was asked for.
            let _ = out.push(frame);
        }
        let n = out.len();
        if n > 1 && self.rng.chance(self.harm.swap) {
            out.as_mut_slice().swap(n - 1, n - 2);
            self.harmed.swapped += 1;
        }
    }
}

impl<D: Datapath> Datapath for Lossy<D> {
    type Frame = D::Frame;
    type Queue = D::Queue;

    fn attach(&mut self, port: PortId, queue: D::Queue) -> Option<D::Queue> {
        self.inner.attach(port, queue)
    }

    fn detach(&mut self, port: PortId) -> Option<D::Queue> {
        self.inner.detach(port)
    }

    fn poll(&mut self, wait: Wait, ready: &mut Ready) {
        self.inner.poll(wait, ready);
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<D::Frame>,
        counters: &PortCounters,
    ) -> usize {
        let before = batch.len();
        // Half the room, so that every frame of it may be doubled; at least one.
        let mut arrived = Batch::with_limit(batch.room().div_ceil(2).min(BURST_MAX));
        if batch.is_full() {
            return 0;
        }
        let inner = PortCounters::default();
        self.inner.rx_burst(port, &mut arrived, &inner);
        for reason in DropReason::ALL {
            let n = inner.dropped(reason);
            counters.rx_frames.add(n);
            counters.count_drop(reason, n);
        }
        // Bytes of what became no frame: all that was received less what is in the batch.
        let kept: u64 = arrived.as_slice().iter().map(|f| f.len() as u64).sum();
        counters.rx_bytes.add(inner.rx_bytes.get().saturating_sub(kept));
        for frame in arrived.drain() {
            if self.rng.chance(self.harm.lose) {
                self.harmed.lost += 1;
            } else {
                self.deliver(frame, batch, counters);
            }
        }
        batch.len() - before
    }

    fn tx_burst(&mut self, port: PortId, batch: &mut Batch<D::Frame>, counters: &PortCounters) {
        self.inner.tx_burst(port, batch, counters);
    }

    fn tx_handed_over(&mut self, port: PortId, counters: &PortCounters) {
        self.inner.tx_handed_over(port, counters);
    }

    fn alloc(&mut self) -> Option<D::Frame> {
        self.inner.alloc()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }
}
