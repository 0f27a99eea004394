//! Packets that wait for their next hop: a few, for a moment.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::hops::Key;

/// Packets of one VTEP that a worker keeps back, in all …
pub(crate) const HELD_MAX: usize = 256;
/// … and to one destination.
pub(crate) const HELD_TO_ONE: u16 = 16;
/// Destinations that packets are kept back for.
const DESTINATIONS: usize = 64;
/// How long a packet waits: as long as Linux asks for a neighbour (three times, a second apart).
pub(super) const HELD_FOR: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Held<F> {
    to: Key,
    until: Instant,
    packet: F,
}

/// The packets, oldest first.
#[derive(Debug)]
pub(super) struct Waiting<F> {
    packets: VecDeque<Held<F>>,
    /// How many are kept back for each destination that has any.
    counts: ArrayVec<(Key, u16), DESTINATIONS>,
}

/// What becomes of a packet that was to be kept back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It waits, and is the first one to its destination.
    First,
    /// It waits.
    More,
    /// There is no room for it: it was dropped.
    Not,
}

impl<F> Waiting<F> {
    pub(super) fn new() -> Self {
        Self { packets: VecDeque::with_capacity(HELD_MAX), counts: ArrayVec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Keeps a packet back.
    pub(super) fn keep(&mut self, to: Key, packet: F, now: Instant) -> Kept {
        if self.packets.len() >= HELD_MAX {
            return Kept::Not;
        }
        let kept = match self.counts.iter_mut().find(|(key, _)| *key == to) {
            Some((_, HELD_TO_ONE..)) => return Kept::Not,
            Some((_, count)) => {
                *count += 1;
                Kept::More
            }
            None => match self.counts.try_push((to, 1)) {
                Ok(()) => Kept::First,
                Err(_) => return Kept::Not,
            },
        };
        self.packets.push_back(Held { to, until: now + HELD_FOR, packet });
        kept
    }

    /// Whether the oldest packet has waited too long.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.packets.front().is_some_and(|held| held.until <= now)
    }

    /// Takes the oldest packet and its destination, if it has waited too long.
    pub(super) fn take_late(&mut self, now: Instant) -> Option<F> {
        if !self.is_late(now) {
            return None;
        }
        let held = self.packets.pop_front()?;
        self.uncount(held.to);
        Some(held.packet)
    }

    /// Takes the first packet, in order, to a destination that `goes` accepts.
    pub(super) fn take(&mut self, mut goes: impl FnMut(Key) -> bool) -> Option<(Key, F)> {
        let decided: ArrayVec<Key, DESTINATIONS> =
            self.counts.iter().map(|(key, _)| *key).filter(|key| goes(*key)).collect();
        let at = self.packets.iter().position(|held| decided.contains(&held.to))?;
        let held = self.packets.remove(at)?;
        self.uncount(held.to);
        Some((held.to, held.packet))
    }

    /// Takes all packets.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = F> + '_ {
        self.counts.clear();
        self.packets.drain(..).map(|held| held.packet)
    }

    fn uncount(&mut self, to: Key) {
        if let Some(at) = self.counts.iter().position(|(key, _)| *key == to) {
            self.counts[at].1 -= 1;
            if self.counts[at].1 == 0 {
                self.counts.swap_remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_its_share_and_all_have_a_limit() {
        let (mut waiting, now) = (Waiting::new(), Instant::now());
        assert_eq!(waiting.keep(1, 0, now), Kept::First);
        for n in 1..HELD_TO_ONE {
            assert_eq!(waiting.keep(1, n, now), Kept::More);
        }
        assert_eq!(waiting.keep(1, 99, now), Kept::Not);
        // One more fits once another one has left.
        assert_eq!(waiting.take(|to| to == 1), Some((1, 0)));
        assert_eq!(waiting.keep(1, 16, now), Kept::More);
        let others = (2..).take_while(|to| waiting.keep(*to, 0, now) != Kept::Not);
        assert_eq!(others.count(), DESTINATIONS - 1);
        // Everybody has one; the share of a few fills the rest.
        let kept =
            (0..HELD_MAX).filter(|n| waiting.keep(2 + (*n as Key) % 60, 0, now) != Kept::Not);
        assert_eq!(kept.count(), HELD_MAX - usize::from(HELD_TO_ONE) - (DESTINATIONS - 1));
        assert_eq!(waiting.take_all().count(), HELD_MAX);
        assert!(waiting.is_empty());
        assert_eq!(waiting.keep(7, 0, now), Kept::First);
    }

    #[test]
    fn packets_leave_in_order_or_late() {
        let (mut waiting, now) = (Waiting::new(), Instant::now());
        for (to, packet) in [(1, 10), (2, 20), (1, 11), (3, 30)] {
            waiting.keep(to, packet, now);
        }
        assert_eq!(waiting.take(|to| to == 1), Some((1, 10)));
        assert_eq!(waiting.take(|to| to == 1), Some((1, 11)));
        assert_eq!(waiting.take(|to| to == 1), None);
        assert!(!waiting.is_late(now));
        assert_eq!(waiting.take_late(now + HELD_FOR), Some(20));
        assert_eq!(waiting.keep(2, 21, now + HELD_FOR), Kept::First);
        assert_eq!(waiting.take_late(now + HELD_FOR), Some(30));
        assert_eq!(waiting.take_late(now + HELD_FOR), None);
    }
}
