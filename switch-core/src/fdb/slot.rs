//! One slot: two words that many threads read and rewrite without a lock.
//!
//! ```text
//! key word    | mac 48                                   | domain 15..0 |
//! value word  | domain 27..16 | sequence 8 | place 20 | flags 4 | seen 20 |
//! ```
//!
//! The value word is the whole truth about the slot. Its place says whether the slot is free,
//! busy (being filled) or live, and every change of state is a compare-and-swap on it, so exactly
//! one thread makes each change and knows what it replaced. The key word is written only by the
//! thread that made the slot busy, before it makes it live, and so cannot change under a live
//! value. Each claim counts the sequence up, and so does each publication.
//!
//! A reader loads value, key, value. When both values carry the same sequence, neither came in
//! between, hence the key it read belongs to both. The sequence is 8 bits wide: a thread would
//! have to be held up between two loads for exactly a multiple of 255 reuses of one slot to be
//! fooled, and then one frame takes a wrong turn.

use super::ageing::{SEEN_BITS, SEEN_MASK};
use super::entry::{Dest, Entry, Flags, Key, Tick};
use super::limits::Charge;
use crate::ids::PortId;
use crate::sync::{AtomicU64, Ordering};

const FLAGS_SHIFT: u32 = SEEN_BITS;
const PLACE_SHIFT: u32 = FLAGS_SHIFT + 4;
const SEQUENCE_SHIFT: u32 = PLACE_SHIFT + 20;
const HIGH_SHIFT: u32 = SEQUENCE_SHIFT + 8;
const PLACE_MASK: u64 = 0xf_ffff << PLACE_SHIFT;
const SEQUENCE_MASK: u64 = 0xff << SEQUENCE_SHIFT;

/// How often a reader starts over when the slot is reused under its eyes.
const READ_ATTEMPTS: usize = 4;

/// A [`Dest`] in 20 bits, or one of the two states that are none. Zeroed memory is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(u32);

impl Place {
    const FREE: Self = Self(0);
    const BUSY: Self = Self(1);
    const PORT: u32 = 1 << 16;
    const REMOTE: u32 = Dest::REMOTES;

    /// It as a number.
    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    /// What [`Self::number`] came from.
    pub(crate) const fn of_number(number: u32) -> Self {
        Self(number)
    }

    /// `None` for a remote that has no place in 19 bits.
    pub(super) const fn of(dest: Dest) -> Option<Self> {
        match dest {
            Dest::Port(port) => Some(Self(Self::PORT | port.get() as u32)),
            Dest::Remote(index) if index < Dest::REMOTES => Some(Self(Self::REMOTE | index)),
            Dest::Remote(_) => None,
        }
    }

    /// `None` for a place that is none.
    #[inline]
    pub(crate) const fn dest(self) -> Option<Dest> {
        // The index was a valid one when it was stored: the mask only tells the compiler.
        const INDEX: u32 = (PortId::MAX_PORTS - 1) as u32;
        if self.0 <= Self::BUSY.0 {
            None
        } else if self.0 & Self::REMOTE != 0 {
            Some(Dest::Remote(self.0 & !Self::REMOTE))
        } else {
            match PortId::new((self.0 & INDEX) as u16) {
                Some(port) => Some(Dest::Port(port)),
                None => None,
            }
        }
    }
}

/// The value word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value(u64);

impl Value {
    /// A live value for `key`; the slot adds its sequence when it is published.
    pub(super) const fn new(key: Key, place: Place, flags: Flags, now: Tick) -> Self {
        Self(
            key.high() << HIGH_SHIFT
                | (place.0 as u64) << PLACE_SHIFT
                | (flags.bits() as u64) << FLAGS_SHIFT
                | (now.0 & SEEN_MASK) as u64,
        )
    }

    /// The same occupancy of the slot, with another place, flags and stamp.
    pub(super) const fn becoming(self, place: Place, flags: Flags, now: Tick) -> Self {
        const KEPT: u64 = u64::MAX << SEQUENCE_SHIFT;
        Self(
            self.0 & KEPT
                | (place.0 as u64) << PLACE_SHIFT
                | (flags.bits() as u64) << FLAGS_SHIFT
                | (now.0 & SEEN_MASK) as u64,
        )
    }

    /// The same, seen at `now`.
    pub(super) const fn seen_at(self, now: Tick) -> Self {
        Self(self.0 & !(SEEN_MASK as u64) | (now.0 & SEEN_MASK) as u64)
    }

    pub(super) const fn place(self) -> Place {
        Place(((self.0 & PLACE_MASK) >> PLACE_SHIFT) as u32)
    }

    pub(super) const fn flags(self) -> Flags {
        Flags::from_bits((self.0 >> FLAGS_SHIFT) as u8)
    }

    pub(super) const fn seen(self) -> u32 {
        self.0 as u32 & SEEN_MASK
    }

    /// Where it points; `None` unless live.
    pub(super) const fn dest(self) -> Option<Dest> {
        self.place().dest()
    }

    /// Whose account it is on.
    pub(super) const fn charge(self) -> Charge {
        if self.flags().is_learned() { Charge::learned(self.dest()) } else { Charge::Fixed }
    }

    pub(super) const fn entry(self, key: Key) -> Option<Entry> {
        match self.dest() {
            Some(dest) => Some(Entry { key, dest, flags: self.flags(), seen: self.seen() }),
            None => None,
        }
    }

    const fn high(self) -> u64 {
        self.0 >> HIGH_SHIFT
    }

    pub(super) const fn is_live(self) -> bool {
        self.place().0 > Place::BUSY.0
    }

    pub(super) const fn is_free(self) -> bool {
        self.place().0 == Place::FREE.0
    }

    /// No claim or publication came between the two.
    const fn same_state(self, other: Self) -> bool {
        (self.0 ^ other.0) & SEQUENCE_MASK == 0
    }

    const fn freed(self) -> Self {
        Self(self.0 & SEQUENCE_MASK)
    }

    const fn claimed(self) -> Self {
        Self(self.next_sequence() | (Place::BUSY.0 as u64) << PLACE_SHIFT)
    }

    /// Counts on, past 0: that is what no slot has that was ever used.
    const fn next_sequence(self) -> u64 {
        match self.0.wrapping_add(1 << SEQUENCE_SHIFT) & SEQUENCE_MASK {
            0 => 1 << SEQUENCE_SHIFT,
            next => next,
        }
    }

    /// Whether the slot never held anything.
    const fn is_unused(self) -> bool {
        self.0 & SEQUENCE_MASK == 0
    }

    /// Learned, at `place`, and stamped `now` already: nothing to do but to say so.
    #[inline]
    pub(super) const fn is_fresh(self, place: Place, now: Tick) -> bool {
        const COMPARED: u64 = (1 << SEQUENCE_SHIFT) - 1;
        let fresh = (place.0 as u64) << PLACE_SHIFT | (now.0 & SEEN_MASK) as u64;
        self.0 & COMPARED == fresh
    }
}

/// The two words. All zeroes is a free slot.
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    key: AtomicU64,
    value: AtomicU64,
}

impl Slot {
    pub(super) fn free() -> Self {
        Self { key: AtomicU64::new(0), value: AtomicU64::new(0) }
    }

    /// The key word is `key`'s: most slots that are looked at hold something else, and one load
    /// settles those.
    #[inline]
    pub(super) fn may_hold(&self, key: Key) -> bool {
        self.key.load(Ordering::Relaxed) == key.low()
    }

    /// The value, if the slot is live and holds `key`.
    #[inline(always)]
    pub(super) fn holds(&self, key: Key) -> Option<Value> {
        let before = self.load();
        let low = self.key.load(Ordering::Acquire);
        let after = self.load();
        if after != before {
            return self.holds_after_all(key);
        }
        (low == key.low() && after.high() == key.high() && after.is_live()).then_some(after)
    }

    /// The same for a slot that is being changed, out of the way of all others.
    #[cold]
    #[inline(never)]
    fn holds_after_all(&self, key: Key) -> Option<Value> {
        self.read().filter(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// Whatever the slot holds, if it is live.
    pub(super) fn read(&self) -> Option<(Key, Value)> {
        for _ in 0..READ_ATTEMPTS {
            let before = self.load();
            let low = self.key.load(Ordering::Acquire);
            let after = self.load();
            if after.same_state(before) {
                return after.is_live().then(|| (Key::from_parts(low, after.high()), after));
            }
        }
        None
    }

    /// The value word as it is now, whatever the key.
    #[inline]
    pub(super) fn load(&self) -> Value {
        Value(self.value.load(Ordering::Acquire))
    }

    /// Whether it never held anything.
    #[inline]
    pub(super) fn is_unused(&self) -> bool {
        self.load().is_unused()
    }

    /// One word of the slot, only to have its cache line fetched.
    #[inline]
    pub(super) fn touch(&self) -> u64 {
        self.key.load(Ordering::Relaxed)
    }

    /// Makes a free slot this thread's own, to be published; `None` if it is not free.
    pub(super) fn claim(&self) -> Option<Claim<'_>> {
        let value = self.load();
        if !value.is_free() {
            return None;
        }
        let busy = value.claimed();
        self.swap(value, busy).then_some(Claim { slot: self, busy })
    }

    /// Rewrites a live value that is still `from`; false if it changed meanwhile.
    pub(super) fn replace(&self, from: Value, to: Value) -> bool {
        self.swap(from, to)
    }

    /// Frees the slot if its value is still `from`.
    pub(super) fn clear(&self, from: Value) -> bool {
        self.swap(from, from.freed())
    }

    fn swap(&self, from: Value, to: Value) -> bool {
        // What a reader needs travels with the stores in `publish`; AcqRel only keeps each change
        // in order with what its thread did before and after, which costs nothing on x86.
        self.value.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// A slot that this thread made busy. It has to be published: nobody else can free it.
#[must_use]
#[derive(Debug)]
pub(super) struct Claim<'a> {
    slot: &'a Slot,
    busy: Value,
}

impl Claim<'_> {
    /// Fills the slot and makes it live.
    pub(super) fn publish(self, key: Key, value: Value) {
        // Release, so that a reader who already sees this key also sees the slot's new sequence
        // in its second load, and throws away the value it read before.
        self.slot.key.store(key.low(), Ordering::Release);
        let live = value.0 | self.busy.next_sequence();
        self.slot.value.store(live, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ids::{BridgeId, Domain};
    use crate::wire::MacAddr;

    fn key(mac: u64, bridge: u16, vid: u16) -> Key {
        Key::new(MacAddr::from_u64(mac), Domain::new(BridgeId::new(bridge), vid))
    }

    #[test]
    fn every_field_comes_back_whole() {
        let key = key(0xfeff_dead_beef, u16::MAX, 4095);
        for dest in [Dest::Port(PortId::new(4095).unwrap()), Dest::Remote(Dest::REMOTES - 1)] {
            for bits in 0..16 {
                let flags = Flags::from_bits(bits);
                let slot = Slot::free();
                let place = Place::of(dest).unwrap();
                slot.claim().unwrap().publish(key, Value::new(key, place, flags, Tick(u32::MAX)));
                let (k, v) = slot.read().unwrap();
                assert_eq!((k, v.dest(), v.flags(), v.seen()), (key, Some(dest), flags, SEEN_MASK));
                assert_eq!(slot.holds(key), Some(v));
                assert_eq!(Key::from_parts(key.low(), key.high()), key);
            }
        }
        assert_eq!(Place::of(Dest::Remote(Dest::REMOTES)), None);
    }

    #[test]
    fn keys_that_differ_only_in_the_domains_high_bits_are_told_apart() {
        let (one, other) = (key(2, 0x0010, 1), key(2, 0x8010, 1));
        assert_eq!(one.low(), other.low());
        let slot = Slot::free();
        let place = Place::of(Dest::Remote(0)).unwrap();
        slot.claim().unwrap().publish(one, Value::new(one, place, Flags::NONE, Tick(0)));
        assert!(slot.holds(one).is_some());
        assert_eq!(slot.holds(other), None);
    }

    #[test]
    fn a_value_from_an_earlier_occupancy_changes_nothing() {
        let key = key(2, 1, 1);
        let place = Place::of(Dest::Remote(7)).unwrap();
        let value = Value::new(key, place, Flags::NONE, Tick(9));
        let slot = Slot::free();
        slot.claim().unwrap().publish(key, value);
        let first = slot.holds(key).unwrap();
        assert!(slot.clear(first));
        assert_eq!(slot.holds(key), None);
        slot.claim().unwrap().publish(key, value);
        assert!(!slot.replace(first, first.seen_at(Tick(10))));
        assert!(!slot.clear(first));
        assert_ne!(slot.holds(key), Some(first));
    }

    #[test]
    fn a_slot_is_claimed_once() {
        let slot = Slot::free();
        let claim = slot.claim().unwrap();
        assert!(slot.claim().is_none());
        assert_eq!(slot.read(), None);
        let key = key(2, 1, 1);
        claim.publish(
            key,
            Value::new(key, Place::of(Dest::Remote(7)).unwrap(), Flags::NONE, Tick(9)),
        );
        assert!(slot.claim().is_none());
    }
}
