//! What the control side does: one thread, while workers run.

use super::entry::{Dest, Entry, FdbError, Flags, Key, Tick};
use super::slot::{Place, Slot, Value};
use super::table::Hash;
use super::{ATTEMPTS, Fdb};
use crate::ids::{BridgeId, Domain, PortId};

/// Which entries to flush: those that meet every condition. Learned ones only, unless
/// [`with_fixed`](Self::with_fixed) is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    dest: Option<Dest>,
    bridge: Option<BridgeId>,
    vid: Option<u16>,
    fixed: bool,
}

impl Flush {
    /// All learned entries.
    pub const fn all() -> Self {
        Self { dest: None, bridge: None, vid: None, fixed: false }
    }

    /// Only those that point to `port`.
    #[must_use]
    pub const fn port(self, port: PortId) -> Self {
        Self { dest: Some(Dest::Port(port)), ..self }
    }

    /// Only those that point to `dest`.
    #[must_use]
    pub const fn dest(self, dest: Dest) -> Self {
        Self { dest: Some(dest), ..self }
    }

    /// Only those of one VLAN of one bridge.
    #[must_use]
    pub const fn domain(self, domain: Domain) -> Self {
        self.bridge(domain.bridge()).vlan(domain.vid())
    }

    /// Only those of one VLAN, of every bridge that is meant.
    #[must_use]
    pub const fn vlan(self, vid: u16) -> Self {
        Self { vid: Some(vid), ..self }
    }

    /// Only those of one bridge.
    #[must_use]
    pub const fn bridge(self, bridge: BridgeId) -> Self {
        Self { bridge: Some(bridge), ..self }
    }

    /// Static, local and control-plane entries too: for a port or bridge that goes away.
    #[must_use]
    pub const fn with_fixed(self) -> Self {
        Self { fixed: true, ..self }
    }

    /// The filter catches this entry.
    pub fn catches(&self, entry: &Entry) -> bool {
        (self.fixed || entry.flags.is_learned())
            && self.dest.is_none_or(|dest| dest == entry.dest)
            && self.bridge.is_none_or(|bridge| bridge == entry.key.bridge())
            && self.vid.is_none_or(|vid| vid == entry.key.domain().vid())
    }
}

impl Fdb {
    /// The entry for `key`.
    pub fn peek(&self, key: Key) -> Option<Entry> {
        self.table.find(key, self.hash(key)).and_then(|(_, value)| value.entry(key))
    }

    /// Adds an entry or replaces the one that is there. One with [`Flags::is_learned`] is as if
    /// learned at `now`, and needs a place within the limits.
    ///
    /// # Errors
    ///
    /// When `key` is not one station's address, `dest` cannot be stored, a limit is reached, or
    /// fixed entries fill every slot the key may be in (a learned one there is evicted instead).
    pub fn set(&self, key: Key, dest: Dest, flags: Flags, now: Tick) -> Result<(), FdbError> {
        if !key.mac().is_station() {
            return Err(FdbError::NotAStation(key.mac()));
        }
        let place = match (Place::of(dest), dest) {
            (Some(place), _) => place,
            (None, Dest::Remote(index)) => return Err(FdbError::RemoteOutOfRange(index)),
            (None, Dest::Port(_)) => return Err(FdbError::NoSlot(key)),
        };
        let hash = self.hash(key);
        for _ in 0..ATTEMPTS {
            let refused = match self.table.find(key, hash) {
                Some((slot, value)) => {
                    match self.rewrite(slot, key, value, value.becoming(place, flags, now)) {
                        Ok(true) => return Ok(()),
                        Ok(false) => continue,
                        Err(refused) => refused,
                    }
                }
                None => match self.insert(key, hash, Value::new(key, place, flags, now)) {
                    Ok(true) => return Ok(()),
                    // What an operator asks for goes before what was learned.
                    Ok(false) if !flags.is_learned() && self.make_room(hash) => continue,
                    Ok(false) => return Err(FdbError::NoSlot(key)),
                    Err(refused) => refused,
                },
            };
            return Err(refused.error(key, dest));
        }
        Err(FdbError::Contended(key))
    }

    /// Evicts one learned entry from the slots that `hash` names, unless one is free.
    fn make_room(&self, hash: Hash) -> bool {
        self.table.has_room(hash)
            || self.table.candidates(hash).any(|slot| {
                slot.read().is_some_and(|(other, value)| {
                    value.flags().is_learned() && self.discard(slot, other, value)
                })
            })
    }

    /// Removes the entry for `key`, of whatever kind; false if there is none.
    pub fn remove(&self, key: Key) -> bool {
        let hash = self.hash(key);
        let mut removed = false;
        // More than once, for a key that workers inserted twice and have not settled yet.
        for _ in 0..ATTEMPTS {
            let Some((slot, value)) = self.table.find(key, hash) else { break };
            removed |= self.discard(slot, key, value);
        }
        removed
    }

    /// Removes all entries that `filter` catches; how many there were. Entries that workers
    /// insert meanwhile may stay: detach a port before flushing it for good.
    pub fn flush(&self, filter: &Flush) -> usize {
        self.flush_each(filter, |_| {})
    }

    /// The same, and tells `gone` each entry that was removed.
    pub fn flush_each(&self, filter: &Flush, mut gone: impl FnMut(Entry)) -> usize {
        let mut count = 0;
        for slot in self.table.slots() {
            if let Some(entry) = self.discard_if(slot, |entry| filter.catches(entry)) {
                count += 1;
                gone(entry);
            }
        }
        count
    }

    /// Removes what `slot` holds if `doomed` says so, also when a worker refreshes it meanwhile.
    pub(super) fn discard_if(&self, slot: &Slot, doomed: impl Fn(&Entry) -> bool) -> Option<Entry> {
        for _ in 0..ATTEMPTS {
            let (key, value) = slot.read()?;
            let entry = value.entry(key).filter(&doomed)?;
            if self.discard(slot, key, value) {
                return Some(entry);
            }
        }
        None
    }

    /// Calls `f` with every entry. What changes meanwhile may be seen before or after.
    pub fn for_each(&self, mut f: impl FnMut(Entry)) {
        for (key, value) in self.table.slots().filter_map(Slot::read) {
            if let Some(entry) = value.entry(key) {
                f(entry);
            }
        }
    }
}
