//! What is counted of a tunnel and of a peer, beside the counters of the VTEP's port.

use std::fmt;
use std::sync::Arc;

use crate::drop::DropReason;
use crate::stats::Counter;

/// What one worker counts of one tunnel, or of one peer.
///
/// The ledgers are those of the VTEP's port; these say whose the frames were.
#[derive(Default)]
pub struct OverlayCounters {
    /// Frames that came out of the tunnel and into its bridge.
    pub rx_frames: Counter,
    /// Bytes of these inner frames.
    pub rx_bytes: Counter,
    /// Frames that were encapsulated and given to the VTEP's port.
    pub tx_frames: Counter,
    /// Bytes of these inner frames, as they were encapsulated.
    pub tx_bytes: Counter,
    drops: [Counter; DropReason::OVERLAY.len()],
}

impl OverlayCounters {
    /// All at zero, one for each worker.
    pub fn each(workers: usize) -> Arc<[Self]> {
        std::iter::repeat_with(Self::default).take(workers).collect()
    }

    /// Counts a drop; one for a reason that has nothing to do with overlays is the port's alone.
    pub fn count_drop(&self, reason: DropReason, n: u64) {
        if let Some(counter) = reason.overlay_index().and_then(|index| self.drops.get(index)) {
            counter.add(n);
        }
    }

    /// A copy of all values, read counter by counter.
    pub fn totals(&self) -> OverlayTotals {
        OverlayTotals {
            rx_frames: self.rx_frames.get(),
            rx_bytes: self.rx_bytes.get(),
            tx_frames: self.tx_frames.get(),
            tx_bytes: self.tx_bytes.get(),
            drops: std::array::from_fn(|i| self.drops.get(i).map_or(0, Counter::get)),
        }
    }
}

impl fmt::Debug for OverlayCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.totals().fmt(f)
    }
}

/// Values of [`OverlayCounters`], summable over workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of OverlayCounters")]
pub struct OverlayTotals {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    drops: [u64; DropReason::OVERLAY.len()],
}

impl OverlayTotals {
    /// Adds the values of `other`.
    pub fn add(&mut self, other: &Self) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        for (mine, theirs) in self.drops.iter_mut().zip(other.drops) {
            *mine += theirs;
        }
    }

    /// Frames dropped, by reason; only reasons that happened.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::OVERLAY.iter().copied().zip(self.drops).filter(|(_, n)| *n > 0)
    }
}
