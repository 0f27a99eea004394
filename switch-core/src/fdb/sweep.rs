//! The sweep: ages entries out, and evicts for those who were refused.
//!
//! Eviction is fair in the sense of Open vSwitch's MAC table (lib/mac-learning.c): the oldest
//! entries of whoever holds most go first. It happens only on behalf of somebody. A worker that
//! has to refuse a port leaves a note of how many entries that port holds; the sweep then frees a
//! sixteenth of the bridge's limit, but takes from no port that, after that, would hold fewer
//! than the refused one could. So a flooded port evicts nothing but its own entries, a bridge
//! that is exactly full and at rest is left alone, and whoever holds little gets in at the
//! expense of whoever holds much.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::Fdb;
use super::ageing::{MAX_AGEING, elapsed};
use super::entry::{Entry, Key, Tick};
use super::limits::{Holder, Pressure};
use super::slot::{Slot, Value};
use crate::ids::BridgeId;

/// A sweep under pressure frees one in this many places of the limit.
const FREE_ONE_IN: u32 = 16;

/// Why a sweep removed an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// No frame from it for longer than its bridge's ageing time.
    Aged,
    /// To make room for a port that holds less.
    Evicted,
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries that aged out.
    pub aged: usize,
    /// Entries evicted.
    pub evicted: usize,
    /// The first [`Swept::LISTED`] of them.
    pub removed: Vec<(Entry, Gone)>,
}

impl Swept {
    /// How many removed entries one sweep tells of by name.
    pub const LISTED: usize = 1024;

    fn note(&mut self, entry: Entry, why: Gone) {
        match why {
            Gone::Aged => self.aged += 1,
            Gone::Evicted => self.evicted += 1,
        }
        if self.removed.len() < Self::LISTED {
            self.removed.push((entry, why));
        }
    }
}

/// The entries that one holder has in one bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Group {
    bridge: usize,
    holder: Holder,
}

impl Group {
    /// Whose entry it is; `None` for one that is not learned.
    fn of(key: Key, value: Value) -> Option<Self> {
        let dest = value.dest().filter(|_| value.flags().is_learned())?;
        Some(Self { bridge: key.bridge().index(), holder: Holder::of(dest) })
    }
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    group: Group,
    /// Entries it keeps, and how many of the ones it has shall go.
    keeps: u32,
    goes: u32,
}

impl Fdb {
    /// Removes entries older than `ageing` says for their bridge (seconds, at most
    /// [`MAX_AGEING`]), then evicts where ports were refused or limits were lowered.
    ///
    /// To be called about once a second, and at least every
    /// [`SWEEP_WITHIN`](super::SWEEP_WITHIN) seconds. An entry goes in the first sweep *after*
    /// its ageing time, which is at most a tick late and never early.
    pub fn sweep(&self, now: Tick, ageing: impl Fn(BridgeId) -> u32) -> Swept {
        let (mut swept, _) = self.age(now, ageing);
        self.evict(now, &mut swept);
        swept
    }

    /// The first half of [`sweep`](Self::sweep), a walk over the whole table. Answers, too, in how
    /// many seconds the first of the entries that stay may go, unless it is refreshed.
    pub(crate) fn age(&self, now: Tick, ageing: impl Fn(BridgeId) -> u32) -> (Swept, u32) {
        let (mut swept, next) = (Swept::default(), Cell::new(u32::MAX));
        if self.limits.learned() == 0 {
            return (swept, next.get());
        }
        for slot in self.table.slots() {
            let expired = |entry: &Entry| {
                let longest = ageing(entry.key.bridge()).min(MAX_AGEING);
                let left = longest.checked_sub(elapsed(entry.seen, now));
                if let (true, Some(left)) = (entry.flags.is_learned(), left) {
                    next.set(next.get().min(left + 1));
                }
                entry.flags.is_learned() && left.is_none()
            };
            if let Some(entry) = self.discard_if(slot, expired) {
                swept.note(entry, Gone::Aged);
            }
        }
        (swept, next.get())
    }

    /// The second half of [`sweep`](Self::sweep).
    pub(crate) fn evict(&self, now: Tick, swept: &mut Swept) {
        let overdrawn: Vec<_> = self.limits.overdrawn().collect();
        let bridges: Vec<_> = self.limits.pressed().collect();
        let total = self.limits.pressed_total();
        if overdrawn.is_empty() && bridges.is_empty() && total.is_none() {
            return;
        }
        let mut tallies = self.tally();
        for (holder, over) in overdrawn {
            reduce(tallies.iter_mut().filter(|t| t.group.holder == holder).collect(), over, 0);
        }
        for (bridge, pressure) in bridges {
            // They are in the order of bridges, of which many may press at once.
            let start = tallies.partition_point(|t| t.group.bridge < bridge);
            let end = tallies.partition_point(|t| t.group.bridge <= bridge);
            relieve(&mut tallies[start..end], pressure);
        }
        if let Some(pressure) = total {
            relieve(&mut tallies, pressure);
        }
        for index in self.oldest(&tallies, now) {
            let Some(slot) = self.table.slot(index) else { continue };
            // One attempt: an entry that a frame refreshed since is no longer among the oldest.
            if let Some((key, value)) = slot.read()
                && value.flags().is_learned()
                && let Some(entry) = value.entry(key)
                && self.discard(slot, key, value)
            {
                swept.note(entry, Gone::Evicted);
            }
        }
    }

    /// How many learned entries each holder has in each bridge.
    fn tally(&self) -> Vec<Tally> {
        let mut counts: HashMap<Group, u32> = HashMap::new();
        for (key, value) in self.table.slots().filter_map(Slot::read) {
            if let Some(group) = Group::of(key, value) {
                *counts.entry(group).or_default() += 1;
            }
        }
        let mut tallies: Vec<_> =
            counts.into_iter().map(|(group, keeps)| Tally { group, keeps, goes: 0 }).collect();
        // A fixed order, so that the same table always evicts the same entries.
        tallies.sort_unstable_by_key(|tally| tally.group);
        tallies
    }

    /// The slots of the oldest entries of each group, as many as shall go.
    fn oldest(&self, tallies: &[Tally], now: Tick) -> Vec<usize> {
        let mut chosen: HashMap<Group, Oldest> = tallies
            .iter()
            .filter(|tally| tally.goes > 0)
            .map(|tally| (tally.group, Oldest { wanted: tally.goes as usize, ..Oldest::default() }))
            .collect();
        for (index, slot) in self.table.slots().enumerate() {
            let Some((key, value)) = slot.read() else { continue };
            if let Some(oldest) = Group::of(key, value).and_then(|group| chosen.get_mut(&group)) {
                oldest.offer(elapsed(value.seen(), now), index);
            }
        }
        chosen.into_values().flat_map(Oldest::slots).collect()
    }
}

/// The oldest entries of a group so far, the youngest of them on top of a heap to be pushed out:
/// memory for what is evicted, not for what is there.
#[derive(Debug, Default)]
struct Oldest {
    wanted: usize,
    /// Age and slot.
    heap: BinaryHeap<Reverse<(u32, usize)>>,
}

impl Oldest {
    fn offer(&mut self, age: u32, slot: usize) {
        let candidate = Reverse((age, slot));
        if self.heap.len() < self.wanted {
            self.heap.push(candidate);
        } else if let Some(mut youngest) = self.heap.peek_mut()
            && candidate < *youngest
        {
            *youngest = candidate;
        }
    }

    fn slots(self) -> impl Iterator<Item = usize> {
        self.heap.into_iter().map(|Reverse((_, slot))| slot)
    }
}

/// Reduces the tallies of one pool to its limit and, if somebody waits, below it.
fn relieve(tallies: &mut [Tally], pressure: Pressure) {
    let mut members: Vec<_> = tallies.iter_mut().collect();
    let held: u32 = members.iter().map(|t| t.keeps).sum();
    let over = held.saturating_sub(pressure.limit);
    let wanted = (pressure.limit / FREE_ONE_IN).max(1).min(pressure.limit);
    let free = pressure.limit - (held - over);
    if over > 0 {
        reduce(members.iter_mut().map(|t| &mut **t).collect(), over, 0);
    }
    if let Some(waiting) = pressure.waiting {
        reduce(members, wanted.saturating_sub(free), waiting.saturating_add(1));
    }
}

/// Takes `need` entries from the largest of `tallies`, but none below `floor`.
fn reduce(mut tallies: Vec<&mut Tally>, need: u32, floor: u32) {
    // The lowest level that cutting every tally down to takes no more than is needed.
    let cut = |tallies: &[&mut Tally], level: u32| -> u64 {
        tallies.iter().map(|t| u64::from(t.keeps.saturating_sub(level))).sum()
    };
    let (mut level, mut high) = (floor, tallies.iter().map(|t| t.keeps).max().unwrap_or(0));
    while level < high {
        let middle = level + (high - level) / 2;
        if cut(&tallies, middle) <= u64::from(need) { high = middle } else { level = middle + 1 }
    }
    let mut rest = u64::from(need) - cut(&tallies, level).min(u64::from(need));
    for tally in &mut tallies {
        let mut goes = tally.keeps.saturating_sub(level);
        // What the level leaves over comes one by one from those that stand on it.
        if rest > 0 && level > floor && tally.keeps >= level {
            goes += 1;
            rest -= 1;
        }
        tally.keeps -= goes;
        tally.goes += goes;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::fdb::Dest;
    use crate::ids::PortId;

    fn reduced(counts: &[u32], need: u32, floor: u32) -> Vec<u32> {
        let mut tallies: Vec<_> = (0..)
            .zip(counts)
            .map(|(port, &keeps)| {
                let holder = Holder::of(Dest::Port(PortId::new(port).unwrap()));
                Tally { group: Group { bridge: 0, holder }, keeps, goes: 0 }
            })
            .collect();
        reduce(tallies.iter_mut().collect(), need, floor);
        for (tally, &count) in tallies.iter().zip(counts) {
            assert_eq!(tally.keeps + tally.goes, count);
        }
        tallies.iter().map(|t| t.keeps).collect()
    }

    #[test]
    fn the_largest_gives_first_and_equals_give_alike() {
        assert_eq!(reduced(&[10, 3, 7], 0, 0), [10, 3, 7]);
        assert_eq!(reduced(&[10, 3, 7], 3, 0), [7, 3, 7]);
        assert_eq!(reduced(&[10, 3, 7], 4, 0), [6, 3, 7]);
        assert_eq!(reduced(&[10, 3, 7], 5, 0), [6, 3, 6]);
        assert_eq!(reduced(&[10, 3, 7], 20, 0), [0, 0, 0]);
        assert_eq!(reduced(&[10, 3, 7], 100, 0), [0, 0, 0]);
        assert_eq!(reduced(&[], 5, 0), [0; 0]);
    }

    #[test]
    fn nobody_is_cut_below_the_floor() {
        assert_eq!(reduced(&[10, 3, 7], 100, 8), [8, 3, 7]);
        assert_eq!(reduced(&[10, 3, 7], 100, 11), [10, 3, 7]);
        assert_eq!(reduced(&[5, 5], 1, 6), [5, 5]);
        assert_eq!(reduced(&[5, 5], 1, u32::MAX), [5, 5]);
    }
}
