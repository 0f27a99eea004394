//! Watches: what somebody wants to see of the frames that pass.
//!
//! A [`Watch`] is part of the snapshot, so that workers see it once a burst, and nothing at all is done
//! where there is none. A frame that a watch selects goes its way by itself, through the very code that
//! forwards every other frame; before it and after it the worker notes what it was and what became of
//! it in a [`Record`]. Trace, capture and the files of dropped frames differ in their [`WatchSpec`]
//! alone.
//!
//! Records are made once, with the watch, and go to and fro between workers and the reader in two
//! bounded queues: a reader that stops reading costs records, which are counted, and nothing else.

mod dry;
mod facts;
mod filter;
mod parse;
mod record;
mod sampler;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::bridge::StormBucket;
use crate::clock::Nanos;
use crate::drop::DropReason;
use crate::ids::PortId;

pub use dry::rehearse;
pub use facts::Facts;
pub use filter::Filter;
pub use parse::FilterError;
pub use record::{ENDS_MAX, End, Fate, Known, Piece, Record, Station};
pub use sampler::{SAMPLERS_MAX, Sampled, Sampler};

/// Most watches at once.
pub const WATCHES_MAX: usize = 16;
/// Most bytes that the records of one watch take.
const MEMORY_MAX: usize = 8 << 20;
/// Records of one watch, at least and at most.
const RECORDS: std::ops::RangeInclusive<usize> = 64..=1024;
/// Longest piece of a frame that is kept, in bytes: the longest frame there is.
pub const SNAP_MAX: usize = crate::frame::MAX_FRAME;

/// Which frames are wanted, and what of them.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// Only frames that come in here.
    pub in_port: Option<PortId>,
    /// Only frames that come in here or are to leave here.
    pub port: Option<PortId>,
    /// Only frames that, as they come in or as they leave, meet this.
    pub filter: Filter,
    /// Only frames of which at least one copy was dropped.
    pub only_dropped: bool,
    /// Only those dropped for this reason.
    pub reason: Option<DropReason>,
    /// Bytes of each frame that are kept, 64 to [`SNAP_MAX`].
    pub snap: usize,
    /// Of the frames that meet all this, one in so many; at least 1.
    pub one_in: u32,
    /// Most records a second.
    pub records_per_sec: u32,
    /// Most frames a second that are looked at; the others pass unseen, and are counted.
    pub looks_per_sec: u32,
}

impl Default for WatchSpec {
    fn default() -> Self {
        Self {
            in_port: None,
            port: None,
            filter: Filter::default(),
            only_dropped: false,
            reason: None,
            snap: 2048,
            one_in: 1,
            records_per_sec: 20_000,
            looks_per_sec: 100_000,
        }
    }
}

impl WatchSpec {
    /// Whether every frame is wanted that comes in where it looks.
    fn takes_all(&self) -> bool {
        let Self { port, filter, only_dropped, reason, .. } = self;
        port.is_none() && filter.is_all() && !only_dropped && reason.is_none()
    }
}

/// A watch: its specification, and the way from the workers to its reader.
#[derive(Debug)]
pub struct Watch {
    spec: WatchSpec,
    filled: ArrayQueue<Box<Record>>,
    free: ArrayQueue<Box<Record>>,
    met: AtomicU64,
    missed: AtomicU64,
    looks: Budget,
    records: Budget,
}

impl Watch {
    /// A watch, with the memory of all its records.
    pub fn new(spec: WatchSpec) -> Arc<Self> {
        let snap = spec.snap.clamp(64, SNAP_MAX);
        let spec = WatchSpec { snap, one_in: spec.one_in.max(1), ..spec };
        let bytes = Record::bytes_for(snap);
        let count = (MEMORY_MAX / bytes).clamp(*RECORDS.start(), *RECORDS.end());
        let (filled, free) = (ArrayQueue::new(count), ArrayQueue::new(count));
        for _ in 0..count {
            let _ = free.push(Box::new(Record::with_snap(snap)));
        }
        let (looks, records) = (Budget::default(), Budget::default());
        let (met, missed) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { spec, filled, free, met, missed, looks, records })
    }

    /// What is wanted.
    pub fn spec(&self) -> &WatchSpec {
        &self.spec
    }

    /// The oldest record that nobody took yet. To be given back by [`Self::give_back`].
    pub fn take(&self) -> Option<Box<Record>> {
        self.filled.pop()
    }

    /// Lets workers use a record again.
    pub fn give_back(&self, mut record: Box<Record>) {
        record.clear();
        let _ = self.free.push(record);
    }

    /// How many frames passed that were not looked at, or were wanted and found no free record.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// How many of `n` more frames may be looked at: the first ones. The others are missed.
    pub(crate) fn may_look(&self, n: usize, now: Nanos) -> usize {
        let WatchSpec { looks_per_sec, records_per_sec, one_in, .. } = self.spec;
        let may = if self.spec.takes_all() {
            // Each look is for a record, and in vain where there can be none.
            let rate = looks_per_sec.min(records_per_sec.saturating_mul(one_in));
            let room = self.free.len().saturating_mul(one_in as usize);
            self.looks.take(rate, n.min(room), now)
        } else {
            self.looks.take(looks_per_sec, n, now)
        };
        if may < n {
            self.miss((n - may) as u64);
        }
        may
    }

    pub(crate) fn miss(&self, n: u64) {
        self.missed.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes over what a worker noted, if it is wanted.
    pub(crate) fn offer(&self, seen: &Record, now: Nanos) {
        if !self.wants(seen) {
            return;
        }
        let nth = self.met.fetch_add(1, Ordering::Relaxed);
        if !nth.is_multiple_of(self.spec.one_in.into()) {
            return;
        }
        let may = self.records.take(self.spec.records_per_sec, 1, now) == 1;
        let record = if may { self.free.pop() } else { None };
        let Some(mut record) = record else { return self.miss(1) };
        record.copy_from(seen);
        if let Err(record) = self.filled.push(record) {
            self.miss(1);
            let _ = self.free.push(record);
        }
    }

    /// What only what became of a frame can tell.
    fn wants(&self, seen: &Record) -> bool {
        let spec = &self.spec;
        let dropped = || seen.drops().any(|reason| spec.reason.is_none_or(|r| r == reason));
        let passed_by = |port| seen.in_port() == port || seen.ends().iter().any(|e| e.port == port);
        spec.in_port.is_none_or(|port| port == seen.in_port())
            && (!spec.only_dropped || dropped())
            && spec.port.is_none_or(passed_by)
            && seen.meets(&spec.filter)
    }
}

/// So many a second, over all workers. Two that take at the same moment may take one and the same:
/// the limit is there to bound what watching costs, and a few more do not matter.
#[derive(Debug, Default)]
struct Budget(AtomicU64);

impl Budget {
    /// Takes `n`, or as many as there are.
    fn take(&self, rate: u32, n: usize, now: Nanos) -> usize {
        let mut bucket = StormBucket::used_until(self.0.load(Ordering::Relaxed));
        let taken = (0..n).take_while(|_| bucket.take(rate, now)).count();
        self.0.store(bucket.until(), Ordering::Relaxed);
        taken
    }
}

/// The watches there are.
#[derive(Clone, Debug, Default)]
pub struct Watches(Vec<Arc<Watch>>);

impl Watches {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one; false if there are [`WATCHES_MAX`].
    pub fn add(&mut self, watch: Arc<Watch>) -> bool {
        let fits = self.0.len() < WATCHES_MAX;
        if fits {
            self.0.push(watch);
        }
        fits
    }

    /// Takes one out.
    pub fn remove(&mut self, watch: &Arc<Watch>) {
        self.0.retain(|other| !Arc::ptr_eq(other, watch));
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Watch>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos::from_secs(100);

    /// Whoever wants all frames looks at no more than can become records; the first of a burst, so
    /// that also a rate below a burst's length shows some.
    #[test]
    fn looks_are_not_in_vain() {
        let all = WatchSpec { records_per_sec: 100, ..WatchSpec::default() };
        let watch = Watch::new(all.clone());
        assert_eq!((watch.may_look(64, NOW), watch.may_look(64, NOW)), (16, 0));
        assert_eq!(watch.missed(), 48 + 64);
        assert_eq!(watch.may_look(64, NOW + std::time::Duration::from_millis(50)), 5);

        // What a filter passes is known only after the look.
        let filter: Filter = "udp".parse().unwrap();
        let some = Watch::new(WatchSpec { filter, ..all.clone() });
        assert_eq!((some.may_look(64, NOW), some.missed()), (64, 0));
        let one_in = Watch::new(WatchSpec { one_in: 10, ..all.clone() });
        assert_eq!(one_in.may_look(64, NOW), 64);

        // A reader that stopped has all the records.
        let watch = Watch::new(WatchSpec { records_per_sec: u32::MAX, ..all });
        let taken: Vec<_> = std::iter::from_fn(|| watch.free.pop()).collect();
        assert_eq!(watch.may_look(64, NOW), 0);
        taken.into_iter().take(3).for_each(|record| watch.give_back(record));
        assert_eq!(watch.may_look(64, NOW), 3);
    }
}
