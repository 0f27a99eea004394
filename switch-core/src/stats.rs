//! Per-worker counters. One writer each, so an addition is a load and a store, not a locked
//! read-modify-write; readers on the control side see values that are at most a moment old.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::drop::{DropReason, Side};

/// A counter with exactly one writing thread and any number of readers.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// What one worker counts about one port. Two ledgers, each exact when no frame is under way:
///
/// - in: `rx + copied + originated = forwarded + dropped[Side::In] + consumed`
/// - out: `offered = tx + dropped[Side::Out]`
///
/// and over all ports `Σ forwarded = Σ offered`, which together give the equation of the whole
/// switch: received + copied + originated = sent + dropped + consumed.
#[derive(Default, Debug)]
pub struct PortCounters {
    /// Frames the backend received, including those it dropped while receiving.
    pub rx_frames: Counter,
    /// Bytes of these frames, Ethernet header to payload, without FCS and virtio header.
    pub rx_bytes: Counter,
    /// Extra frames made from received ones: copies for flooding, segments of super-frames.
    pub copied: Counter,
    /// Frames the switch made itself on behalf of this port.
    pub originated: Counter,
    /// Frames the switch itself answered or used up.
    pub consumed: Counter,
    /// Frames from this port that were given to some egress port.
    pub forwarded: Counter,
    /// Frames given to this port for sending.
    pub offered: Counter,
    /// Frames that the kernel or driver took.
    pub tx_frames: Counter,
    /// Bytes of these frames.
    pub tx_bytes: Counter,
    drops: Drops,
}

struct Drops([Counter; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl fmt::Debug for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nonzero = DropReason::ALL.into_iter().map(|r| (r, self.0[r.index()].get()));
        f.debug_map().entries(nonzero.filter(|(_, n)| *n > 0)).finish()
    }
}

impl PortCounters {
    /// Counts `n` frames dropped for `reason`.
    pub fn count_drop(&self, reason: DropReason, n: u64) {
        self.drops.0[reason.index()].add(n);
    }

    /// Frames dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0[reason.index()].get()
    }

    /// A copy of all values, read counter by counter.
    pub fn totals(&self) -> PortTotals {
        PortTotals {
            rx_frames: self.rx_frames.get(),
            rx_bytes: self.rx_bytes.get(),
            copied: self.copied.get(),
            originated: self.originated.get(),
            consumed: self.consumed.get(),
            forwarded: self.forwarded.get(),
            offered: self.offered.get(),
            tx_frames: self.tx_frames.get(),
            tx_bytes: self.tx_bytes.get(),
            drops: std::array::from_fn(|i| self.drops.0[i].get()),
        }
    }
}

/// Values of [`PortCounters`], summable over workers and over time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of PortCounters")]
pub struct PortTotals {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub copied: u64,
    pub originated: u64,
    pub consumed: u64,
    pub forwarded: u64,
    pub offered: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub drops: [u64; DropReason::COUNT],
}

impl Default for PortTotals {
    fn default() -> Self {
        PortCounters::default().totals()
    }
}

impl PortTotals {
    /// Adds the values of `other`.
    pub fn add(&mut self, other: &Self) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.copied += other.copied;
        self.originated += other.originated;
        self.consumed += other.consumed;
        self.forwarded += other.forwarded;
        self.offered += other.offered;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        for (mine, theirs) in self.drops.iter_mut().zip(other.drops) {
            *mine += theirs;
        }
    }

    /// Frames dropped on one side.
    pub fn dropped_on(&self, side: Side) -> u64 {
        DropReason::ALL.iter().filter(|r| r.side() == side).map(|r| self.drops[r.index()]).sum()
    }

    /// Frames dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Frames dropped for `reason`.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// What the ingress ledger is off by: 0 whenever no frame is under way.
    pub fn imbalance_in(&self) -> i64 {
        let got = self.rx_frames + self.copied + self.originated;
        let gone = self.forwarded + self.dropped_on(Side::In) + self.consumed;
        got.wrapping_sub(gone) as i64
    }

    /// What the egress ledger is off by: 0 whenever no frame is under way.
    pub fn imbalance_out(&self) -> i64 {
        self.offered.wrapping_sub(self.tx_frames + self.dropped_on(Side::Out)) as i64
    }
}

/// What one worker counts about itself.
#[derive(Default, Debug)]
pub struct WorkerCounters {
    /// Turns of its loop.
    pub turns: CachePadded<Counter>,
    /// Turns that found frames.
    pub busy_turns: Counter,
    /// Frames received.
    pub frames: Counter,
    /// Nanoseconds spent in busy turns.
    pub busy_ns: Counter,
    /// Addresses not learned because a limit (port, bridge or total) was reached.
    pub learn_limited: Counter,
    /// Addresses not learned because their buckets were full.
    pub learn_no_slot: Counter,
    /// Events that found the event queue full.
    pub events_lost: Counter,
}
