//! Move damping: an address that keeps moving between remote VTEPs, or between a remote and a port,
//! is in two places at once. It is then held at one of them for a while (RFC 7432 §15.1).
//!
//! Between two ports that is a loop, and the business of the [`LoopGuard`](super::LoopGuard).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Nanos;
use crate::fdb::{Dest, Key};

/// When moves are damped.
#[derive(Clone, Copy, Debug)]
pub struct DampingConfig {
    /// More moves of one address than this …
    pub moves: u32,
    /// … within this time …
    pub within: Duration,
    /// … hold it where it is for this long.
    pub hold: Duration,
}

impl Default for DampingConfig {
    fn default() -> Self {
        Self { moves: 5, within: Duration::from_secs(180), hold: Duration::from_secs(30) }
    }
}

/// Most addresses that are watched at once, and as many that are held: a flood of moving addresses
/// must not take memory without bound.
const WATCHED_MAX: usize = 8192;

/// An address that is held, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The address.
    pub key: Key,
    /// Where it was last, and stays.
    pub at: Dest,
    /// Where it had been before that.
    pub other: Dest,
    /// Until when.
    pub until: Nanos,
}

/// Watches moves. Lives on the control side; workers send it what they see.
#[derive(Debug, Default)]
pub struct MoveDamping {
    config: DampingConfig,
    watched: HashMap<Key, Moves>,
    /// In the order in which they end.
    held: VecDeque<Hold>,
}

#[derive(Debug)]
struct Moves {
    since: Nanos,
    count: u32,
}

impl MoveDamping {
    /// Damping as `config` says.
    pub fn new(config: DampingConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// An address moved. If that was once too often, it is to be held.
    pub fn moved(&mut self, key: Key, from: Dest, to: Dest, now: Nanos) -> Option<Hold> {
        if matches!((from, to), (Dest::Port(_), Dest::Port(_))) {
            return None;
        }
        if self.watched.len() >= WATCHED_MAX {
            let within = self.config.within;
            self.watched.retain(|_, moves| now - moves.since <= within);
            if self.watched.len() >= WATCHED_MAX {
                self.watched.clear();
            }
        }
        let moves = self.watched.entry(key).or_insert(Moves { since: now, count: 0 });
        if now - moves.since > self.config.within {
            *moves = Moves { since: now, count: 0 };
        }
        moves.count += 1;
        if moves.count <= self.config.moves || self.held.len() >= WATCHED_MAX {
            return None;
        }
        self.watched.remove(&key);
        let hold = Hold { key, at: to, other: from, until: now + self.config.hold };
        // Moves of before the hold may still have been on their way.
        self.held.retain(|held| held.key != key);
        self.held.push_back(hold);
        Some(hold)
    }

    /// The next address whose time is over.
    pub fn next_released(&mut self, now: Nanos) -> Option<Hold> {
        self.held.front().filter(|hold| hold.until <= now)?;
        self.held.pop_front()
    }

    /// Forgets an address: somebody said where it is.
    pub fn forget(&mut self, key: Key) {
        self.watched.remove(&key);
        self.held.retain(|hold| hold.key != key);
    }

    /// How many addresses are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BridgeId, Domain, PortId};
    use crate::wire::MacAddr;

    fn key(n: u32) -> Key {
        let [_, a, b, c] = n.to_be_bytes();
        Key::new(MacAddr::new([2, 0, 0, a, b, c]), Domain::new(BridgeId::new(0), 0))
    }

    fn port(n: u16) -> Dest {
        Dest::Port(PortId::new(n).unwrap())
    }

    #[test]
    fn the_sixth_move_in_three_minutes_holds_an_address_for_thirty_seconds() {
        for (a, b) in [(Dest::Remote(1), Dest::Remote(2)), (port(1), Dest::Remote(2))] {
            let mut damping = MoveDamping::default();
            for n in 0..5 {
                let (from, to) = if n % 2 == 0 { (a, b) } else { (b, a) };
                assert_eq!(damping.moved(key(1), from, to, Nanos::from_secs(n * 36)), None);
            }
            let until = Nanos::from_secs(210);
            let hold = Hold { key: key(1), at: a, other: b, until };
            assert_eq!(damping.moved(key(1), b, a, Nanos::from_secs(180)), Some(hold));
            assert_eq!((damping.held(), damping.next_released(Nanos::from_secs(209))), (1, None));
            assert_eq!(damping.next_released(until), Some(hold));
            assert_eq!((damping.held(), damping.next_released(until)), (0, None));
        }
    }

    #[test]
    fn slow_moves_other_addresses_and_ports_do_not_add_up() {
        let mut damping = MoveDamping::default();
        let (a, b) = (Dest::Remote(1), Dest::Remote(2));
        for n in 0..50 {
            assert_eq!(damping.moved(key(1), a, b, Nanos::from_secs(n * 40)), None);
            let now = Nanos::from_secs(1);
            assert_eq!(damping.moved(key(2 + n as u32), a, b, now), None);
            assert_eq!(damping.moved(key(99), port(1), port(2), now), None);
        }
    }

    #[test]
    fn an_address_that_somebody_set_is_not_released() {
        let mut damping = MoveDamping::default();
        let mut step = || damping.moved(key(1), port(1), Dest::Remote(2), Nanos::default());
        assert!((0..6).find_map(|_| step()).is_some());
        damping.forget(key(1));
        assert_eq!(damping.next_released(Nanos::from_secs(100)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut damping = MoveDamping::default();
        for n in 0..100_000 {
            for _ in 0..6 {
                damping.moved(key(n), port(1), Dest::Remote(1), Nanos::from_secs(1));
            }
            assert!(damping.watched.len() <= WATCHED_MAX && damping.held.len() <= WATCHED_MAX);
        }
    }
}
