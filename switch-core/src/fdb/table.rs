//! The slots, and which of them a key may be in.

use std::hash::Hasher;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

use super::entry::Key;
use super::slot::{Slot, Value};
use crate::sync::{Ordering, fence};

/// Slots to a bucket: one cache line of 64 bytes. (Fewer under loom, which tries everything.)
const SLOTS: usize = if cfg!(loom) { 2 } else { 4 };
/// Entries a bucket holds on average in a full table, times five: 2.2 of 4 slots.
const FULL_TIMES_5: usize = if cfg!(loom) { 5 } else { 11 };
/// Buckets beyond that, so that tables of a few entries do not run out of slots by bad luck.
const SPARE: usize = if cfg!(loom) { 1 } else { 16 };
/// Entries a key's first bucket gets without a look at the second. More of them leave more keys
/// without a slot when the table is full: one in 6,000 with two, one in 1,200 with three.
const LEAN: usize = 2;
/// How often [`Table::settle`] starts over before it leaves the rest to the next insert.
const SETTLE_ATTEMPTS: usize = 64;

/// A key's two buckets. The default is no key's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash {
    first: u32,
    /// What the second is made of, where it is asked for.
    rest: u32,
}

/// One cache line of the table, to be fetched before it is needed.
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Bucket([Slot; SLOTS]);

impl Bucket {
    fn free() -> Self {
        Self(std::array::from_fn(|_| Slot::free()))
    }

    /// A word of it, only to have it fetched.
    #[inline]
    pub fn touch(&self) -> u64 {
        self.0[0].touch()
    }

    /// One bit for each slot whose key word is `key`'s.
    #[inline]
    fn hits(&self, key: Key) -> u32 {
        let mut hits = 0;
        for (at, slot) in self.0.iter().enumerate() {
            hits |= u32::from(slot.may_hold(key)) << at;
        }
        hits
    }

    /// The live slot of `key` in here.
    #[inline(always)]
    fn find(&self, key: Key) -> Option<(&Slot, Value)> {
        // It may be in any slot, which cannot be predicted, and a wrong guess costs more than the
        // other comparisons: so all keys are compared before anything is decided.
        let mut hits = self.hits(key);
        while hits != 0 {
            let slot = &self.0[hits.trailing_zeros() as usize % SLOTS];
            if let Some(value) = slot.holds(key) {
                return Some((slot, value));
            }
            // A free slot that held it once, or the same address in another bridge.
            hits &= hits - 1;
        }
        None
    }

    /// Whether it never held so many at once that a key of its went to the second bucket: slots are
    /// taken in order. So an unknown address costs one line, which a sender of random ones counts on
    /// being two.
    #[inline]
    fn never_leaned(&self) -> bool {
        self.0[LEAN - 1].is_unused()
    }

    fn vacancies(&self) -> usize {
        self.0.iter().filter(|slot| slot.load().is_free()).count()
    }
}

/// The memory of the database: all of it is there from the start, none is added later.
#[derive(Debug)]
pub(super) struct Table {
    buckets: Box<[Bucket]>,
    seed: u64,
    shared: SharedSeed,
}

impl Table {
    /// Room for `entries` at a load of 0.55.
    pub(super) fn new(entries: u32, seed: u64) -> Self {
        let count = (entries as usize * 5).div_ceil(FULL_TIMES_5) + SPARE;
        // Zero and all ones are weak as a shared seed, and likely only as somebody's choice.
        let shared = SharedSeed::from_u64(seed ^ 0x243f_6a88_85a3_08d3);
        Self { buckets: allocate(count.max(2)), seed, shared }
    }

    #[inline]
    pub(super) fn hash(&self, key: Key) -> Hash {
        // Not the fast variant: with an unlucky seed, one in ten of a row of addresses finds no slot.
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        hasher.write_u128(u128::from(key.high()) << 64 | u128::from(key.low()));
        let hash = hasher.finish();
        // Multiply and shift instead of a remainder, one half of the hash for each bucket.
        let count = self.buckets.len() as u64;
        let first = ((hash >> 32) * count) >> 32;
        Hash { first: first as u32, rest: hash as u32 }
    }

    /// The second bucket, drawn from all but the first. Most keys are found without it.
    #[inline]
    fn second(&self, hash: Hash) -> usize {
        let others = self.buckets.len() as u64 - 1;
        let second = (u64::from(hash.rest) * others) >> 32;
        (second + u64::from(second >= u64::from(hash.first))) as usize
    }

    /// The cache line where a key most likely is.
    #[inline]
    pub(super) fn front(&self, hash: Hash) -> Option<&Bucket> {
        self.buckets.get(hash.first as usize)
    }

    /// The other one.
    #[inline]
    pub(super) fn back(&self, hash: Hash) -> Option<&Bucket> {
        self.buckets.get(self.second(hash))
    }

    /// The memory of all buckets.
    pub(super) fn memory(&self) -> &[Bucket] {
        &self.buckets
    }

    /// How many slots there are.
    pub(super) fn capacity(&self) -> usize {
        self.buckets.len() * SLOTS
    }

    /// The live slot of `key`, and its value.
    #[inline(always)]
    pub(super) fn find(&self, key: Key, hash: Hash) -> Option<(&Slot, Value)> {
        // In a table that is nowhere near full, almost every key is here.
        let front = &self.buckets.get(hash.first as usize)?.0[0];
        match front.holds(key) {
            Some(value) => Some((front, value)),
            None => self.search(key, hash),
        }
    }

    /// The same, in all its slots.
    #[inline(never)]
    fn search(&self, key: Key, hash: Hash) -> Option<(&Slot, Value)> {
        let first = self.buckets.get(hash.first as usize)?;
        match first.find(key) {
            Some(found) => Some(found),
            None if first.never_leaned() => None,
            None => self.buckets.get(self.second(hash))?.find(key),
        }
    }

    /// Puts a new entry into the first of its buckets or, when that is half full, the emptier one; false when both are full. The caller
    /// has to [`settle`](Self::settle) afterwards.
    pub(super) fn insert(&self, key: Key, hash: Hash, value: Value) -> bool {
        let Some((first, second)) = self.buckets(hash) else { return false };
        // Half of the first bucket is filled before the two are balanced: so most keys are found
        // in the one line that is fetched for them.
        let vacant = first.vacancies();
        let balanced = vacant + LEAN > SLOTS || vacant >= second.vacancies();
        let (near, far) = if balanced { (first, second) } else { (second, first) };
        for slot in near.0.iter().chain(&far.0) {
            if let Some(claim) = slot.claim() {
                claim.publish(key, value);
                return true;
            }
        }
        false
    }

    /// There is a slot that [`insert`](Self::insert) could take.
    pub(super) fn has_room(&self, hash: Hash) -> bool {
        self.candidates(hash).any(|slot| slot.load().is_free())
    }

    /// Leaves one entry for `key` when several threads inserted it at once.
    ///
    /// Every inserter publishes, then comes here and looks at all the slots the key may be in.
    /// The fence puts publish and look in one order for all threads, so of two inserters at least
    /// the later one sees both entries. Whoever sees two removes the one that ranks lower, be it
    /// its own or not: one that traffic may replace before one that it may not, then the one
    /// further back in the order of the search. As only one compare-and-swap can succeed, `lost`
    /// is called once for each entry that went, by one thread.
    pub(super) fn settle(&self, key: Key, hash: Hash, mut lost: impl FnMut(Value)) {
        fence(Ordering::SeqCst);
        for _ in 0..SETTLE_ATTEMPTS {
            let mut best: Option<(&Slot, Value)> = None;
            let mut doomed: Option<(&Slot, Value)> = None;
            for slot in self.candidates(hash) {
                let Some(value) = slot.holds(key) else { continue };
                match best {
                    Some((_, kept)) if kept.flags().is_learned() && !value.flags().is_learned() => {
                        doomed = best.replace((slot, value));
                    }
                    Some(_) => doomed = Some((slot, value)),
                    None => best = Some((slot, value)),
                }
            }
            let Some((slot, value)) = doomed else { return };
            if slot.clear(value) {
                lost(value);
            }
        }
    }

    /// Every slot the key may be in, in the order of the search.
    pub(super) fn candidates(&self, hash: Hash) -> impl Iterator<Item = &Slot> {
        self.buckets(hash).into_iter().flat_map(|(first, second)| first.0.iter().chain(&second.0))
    }

    /// Every slot there is.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.buckets.iter().flat_map(|bucket| &bucket.0)
    }

    /// The slot at this index of [`slots`](Self::slots).
    pub(super) fn slot(&self, index: usize) -> Option<&Slot> {
        self.buckets.get(index / SLOTS)?.0.get(index % SLOTS)
    }

    /// Bytes of memory the slots take.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// `None` for a hash that another table made: a miss, not a panic.
    #[inline]
    fn buckets(&self, hash: Hash) -> Option<(&Bucket, &Bucket)> {
        Some((self.buckets.get(hash.first as usize)?, self.buckets.get(self.second(hash))?))
    }
}

/// Zeroed memory comes from the kernel page by page as it is first written, so a large limit
/// costs nothing until it is used.
#[cfg(not(loom))]
fn allocate(count: usize) -> Box<[Bucket]> {
    use zerocopy::FromZeros;
    // When that fails, so will the plain way, and end as running out of memory ends everywhere.
    Bucket::new_vec_zeroed(count)
        .unwrap_or_else(|_| std::iter::repeat_with(Bucket::free).take(count).collect())
        .into_boxed_slice()
}

#[cfg(loom)]
fn allocate(count: usize) -> Box<[Bucket]> {
    std::iter::repeat_with(Bucket::free).take(count).collect()
}
