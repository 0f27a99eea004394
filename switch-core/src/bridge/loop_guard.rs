//! The loop guard: an address that keeps moving between two ports means that they are connected to
//! each other outside the switch. One of them is then blocked for a while.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Nanos;
use crate::fdb::Key;
use crate::ids::{BridgeId, PortId};

/// When the guard acts.
#[derive(Clone, Copy, Debug)]
pub struct LoopGuardConfig {
    /// More moves of one address between two ports than this …
    pub moves: u32,
    /// … within this time …
    pub within: Duration,
    /// … block the newer port for this long.
    pub block: Duration,
}

impl Default for LoopGuardConfig {
    fn default() -> Self {
        Self { moves: 5, within: Duration::from_secs(3), block: Duration::from_secs(30) }
    }
}

/// Which port is to be blocked, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The newer of the two ports.
    pub port: PortId,
    /// The other one.
    pub other: PortId,
    /// The address that moved.
    pub key: Key,
    /// Until when.
    pub until: Nanos,
}

/// Most pairs of address and ports that are watched at once: a flood of moving addresses must not
/// take memory without bound. Beyond it the oldest are forgotten first.
const WATCHED_MAX: usize = 8192;

/// Watches moves. Lives on the control side; workers send it what they see.
#[derive(Debug, Default)]
pub struct LoopGuard {
    config: LoopGuardConfig,
    watched: HashMap<(Key, PortId, PortId), Moves>,
    /// Bridges in which a port was blocked in this round.
    cut: Vec<BridgeId>,
}

#[derive(Debug)]
struct Moves {
    since: Nanos,
    count: u32,
}

impl LoopGuard {
    /// A guard that acts as `config` says.
    pub fn new(config: LoopGuardConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// A round of moves begins: those that follow happened after all earlier blocks.
    pub fn begin_round(&mut self) {
        self.cut.clear();
    }

    /// An address moved. `newer` tells which of two ports was opened later, if it may be blocked.
    ///
    /// One port of a bridge is blocked in a round at most. A loop also moves its addresses to and
    /// fro between the ports it is on and those of their stations, so what else the round tells of
    /// that bridge would blame ports that have no part in it. A second loop is found in the next.
    pub fn moved(
        &mut self,
        key: Key,
        from: PortId,
        to: PortId,
        now: Nanos,
        newer: impl FnOnce(PortId, PortId) -> Option<PortId>,
    ) -> Option<Block> {
        let bridge = key.domain().bridge();
        if self.cut.contains(&bridge) {
            return None;
        }
        if self.watched.len() >= WATCHED_MAX {
            let within = self.config.within;
            self.watched.retain(|_, m| now - m.since <= within);
            if self.watched.len() >= WATCHED_MAX {
                self.watched.clear();
            }
        }
        let pair = (key, from.min(to), from.max(to));
        let moves = self.watched.entry(pair).or_insert(Moves { since: now, count: 0 });
        if now - moves.since > self.config.within {
            *moves = Moves { since: now, count: 0 };
        }
        moves.count += 1;
        if moves.count <= self.config.moves {
            return None;
        }
        self.watched.remove(&pair);
        let port = newer(from, to)?;
        let other = if port == from { to } else { from };
        self.watched.retain(|(key, ..), _| key.domain().bridge() != bridge);
        self.cut.push(bridge);
        Some(Block { port, other, key, until: now + self.config.block })
    }

    /// Forgets a port that was closed.
    pub fn forget(&mut self, port: PortId) {
        self.watched.retain(|(_, a, b), _| *a != port && *b != port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Domain;
    use crate::wire::MacAddr;

    fn key(n: u8) -> Key {
        Key::new(MacAddr::new([2, 0, 0, 0, 0, n]), Domain::new(BridgeId::new(0), 0))
    }

    fn port(n: u16) -> PortId {
        PortId::new(n).unwrap()
    }

    fn newest(a: PortId, b: PortId) -> Option<PortId> {
        Some(a.max(b))
    }

    #[test]
    fn the_sixth_move_in_three_seconds_blocks_the_newer_port() {
        let mut guard = LoopGuard::default();
        let (a, b) = (port(1), port(2));
        let mut step =
            |n: u64, from, to| guard.moved(key(1), from, to, Nanos::from_millis(n * 500), newest);
        for n in 0..5 {
            let (from, to) = if n % 2 == 0 { (a, b) } else { (b, a) };
            assert_eq!(step(n, from, to), None);
        }
        let until = Nanos::from_millis(2500) + Duration::from_secs(30);
        assert_eq!(step(5, b, a), Some(Block { port: b, other: a, key: key(1), until }));
    }

    #[test]
    fn slow_moves_and_other_pairs_do_not_add_up() {
        let mut guard = LoopGuard::default();
        for n in 0..50 {
            let now = Nanos::from_secs(n);
            assert_eq!(guard.moved(key(1), port(1), port(2), now, newest), None);
        }
        for n in 0..50u16 {
            let now = Nanos::from_secs(100);
            assert_eq!(guard.moved(key(2), port(n), port(n + 1), now, newest), None);
        }
    }

    /// A station on port 1 speaks while its frames circle between ports 2 and 3: they come in there
    /// in turn, and its address comes home with each frame of its own.
    #[test]
    fn a_station_is_not_blamed_for_the_loop_its_frames_are_in() {
        let mut guard = LoopGuard::default();
        let now = Nanos::from_secs(1);
        // The station's port is the newest.
        let newer = |a: PortId, b: PortId| Some(a.min(b));
        let mut at = port(1);
        let mut blocked = Vec::new();
        guard.begin_round();
        for n in 0..100 {
            let to = if n % 10 == 0 { port(1) } else { port(2 + n % 2) };
            if to != at {
                blocked.extend(guard.moved(key(1), at, to, now, newer));
            }
            at = to;
        }
        let ports: Vec<_> = blocked.iter().map(|block| block.port).collect();
        assert_eq!(ports, [port(2)]);
        // The next round starts from nothing, and finds what goes on.
        guard.begin_round();
        let again = (0..6).find_map(|_| guard.moved(key(1), port(2), port(3), now, newer));
        assert_eq!(again.map(|block| block.port), Some(port(2)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut guard = LoopGuard::default();
        for n in 0..100_000u32 {
            let mac = MacAddr::new([2, 0, (n >> 16) as u8, (n >> 8) as u8, n as u8, 0]);
            let key = Key::new(mac, Domain::new(BridgeId::new(0), 0));
            guard.moved(key, port(1), port(2), Nanos::from_secs(1), newest);
            assert!(guard.watched.len() <= WATCHED_MAX);
        }
    }
}
