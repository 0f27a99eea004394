//! The forwarding database (FDB): which address is behind which port.
//!
//! One table a process, shared by every worker: MAC address and [`Domain`](crate::ids::Domain) to
//! a port or a remote VTEP. Workers look up the destination and learn the source of every frame;
//! the control side sets, removes, flushes, lists and sweeps, while they run.
//!
//! # What the table is
//!
//! An array of 16-byte slots in buckets of four, one cache line each, allocated whole at
//! the start: no resize, no rehash, no memory that an attacker can make grow. A key may be in the
//! eight slots of two buckets that its hash names, and an insert takes the first bucket until that
//! is half full, and then the emptier one. With that choice nine keys in ten of a half full table are
//! in their first bucket, and one filled to its limit (a load of 0.55) refuses about one insert in
//! 6,000 for want of a slot, at 30 bytes an entry all told. Entries never change slots, so nobody has
//! to follow one that moves. When both buckets are full, the address is not learned, which is
//! counted, and frames to it are flooded: correct, only slower.
//!
//! The hash is keyed with a random seed per process, so that a sender cannot work out addresses
//! that share a bucket.
//!
//! # Why no lock
//!
//! What a worker learns has to be there for the next frame of the same burst, also if another
//! worker handles it; a lock would stop every worker when the one that holds it loses the CPU.
//! Instead every change to a slot is one compare-and-swap on its value word; `slot.rs` shows why
//! a reader cannot mix up two entries, and `table.rs` how two workers that insert the same
//! address at once end with one entry. A worker never waits: an attempt that lost a race is
//! retried a fixed number of times. What a race can cost, in all: a lookup may miss an address
//! that two workers are inserting at this moment (the frame is flooded), and a flush may miss an
//! address that is being inserted while it runs (so detach a port *before* flushing it).
//!
//! # What is cheap
//!
//! A known address at its known place costs a handful of loads from one cache line, or two in a
//! table that fills up, and a store only in the first frame of each second (the age is a tick of
//! a second, and is compared before it is written: otherwise all workers would pass the line
//! around for every frame). With a large table those lines come from memory, so a burst is handled
//! in passes: [`Fdb::hash`] for all its keys, [`Fdb::front`] for all, and then [`Fdb::learn`] and
//! [`Fdb::lookup`]; the misses of the second pass overlap instead of following one another. At a
//! million entries that makes up for all else: learn and lookup then cost what two lookups in a
//! plain hash map do (`cargo bench -p vswitch-bench --bench fdb`).
//!
//! # Who may fill it
//!
//! See `limits.rs`: ceilings per port, bridge and in all, exact at every moment; places shared so
//! that one flooded port cannot take the last of them; and in `sweep.rs`, eviction from whoever
//! holds most on behalf of those who were refused.
//!
//! The parts: `entry.rs` has the words, `slot.rs` one slot, `table.rs` the buckets, `limits.rs`
//! the counters, `ageing.rs` the arithmetic of ages, `learn.rs` the workers' side, `control.rs`
//! and `sweep.rs` the other one.

mod ageing;
mod control;
mod entry;
mod learn;
mod limits;
mod slot;
mod sweep;
mod table;

use std::hash::{BuildHasher, Hasher};

pub use ageing::{MAX_AGEING, SWEEP_WITHIN};
pub use control::Flush;
pub use entry::{Dest, Entry, FdbError, Flags, Key, Learn, Tick};
pub use sweep::{Gone, Swept};
pub use table::{Bucket, Hash};

use crate::ids::{BridgeId, PortId};
use limits::{Limits, Refused};
pub(crate) use slot::Place;
use slot::{Slot, Value};
use table::Table;

/// How often an operation starts over when other threads change the entry under it.
const ATTEMPTS: usize = 16;

/// Sizes of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbConfig {
    /// Learned entries in all, 1 to [`FdbConfig::MAX_TOTAL`]; memory is reserved for as many
    /// (about 30 bytes each) at once.
    pub max_total: u32,
    /// Learned entries a bridge may hold, unless [`Fdb::set_bridge_limit`] says otherwise.
    pub max_per_bridge: u32,
}

impl FdbConfig {
    /// The most entries a table can be made for: 2^26, two gigabytes.
    pub const MAX_TOTAL: u32 = 1 << 26;
}

impl Default for FdbConfig {
    fn default() -> Self {
        Self { max_total: 1 << 20, max_per_bridge: 1 << 16 }
    }
}

/// The forwarding database.
#[derive(Debug)]
pub struct Fdb {
    table: Table,
    limits: Limits,
}

impl Fdb {
    /// An empty database, hashed with a random seed. `max_total` out of range is clamped.
    pub fn new(config: FdbConfig) -> Self {
        // The one source of true randomness in the standard library.
        let seed = std::hash::RandomState::new().build_hasher().finish();
        Self::with_seed(config, seed)
    }

    /// An empty database with a known seed: for what must repeat exactly, as tests and replays.
    pub fn with_seed(config: FdbConfig, seed: u64) -> Self {
        let max_total = config.max_total.clamp(1, FdbConfig::MAX_TOTAL);
        Self {
            table: Table::new(max_total, seed),
            limits: Limits::new(max_total, config.max_per_bridge),
        }
    }

    /// The hash of `key`, for [`front`](Self::front), [`lookup`](Self::lookup) and
    /// [`learn`](Self::learn) of this database.
    #[inline]
    pub fn hash(&self, key: Key) -> Hash {
        self.table.hash(key)
    }

    /// Limits the learned entries of `port`, or (`None`) leaves it to its bridge's limit. If it
    /// holds more already, the next sweep evicts the oldest.
    pub fn set_port_limit(&self, port: PortId, limit: Option<u32>) {
        self.limits.set_port(port, limit);
    }

    /// Limits the learned entries of `bridge`. If it holds more already, the next sweep evicts
    /// the oldest of the ports that hold most.
    ///
    /// One port alone fills 64/65 of the limit, rounded up; the rest is for ports that hold less.
    pub fn set_bridge_limit(&self, bridge: BridgeId, limit: u32) {
        self.limits.set_bridge(bridge, limit);
    }

    /// Learned entries that point to `port`.
    pub fn port_count(&self, port: PortId) -> u32 {
        self.limits.port(port)
    }

    /// Learned entries that point to remote VTEPs.
    pub fn remote_count(&self) -> u32 {
        self.limits.remotes()
    }

    /// Learned entries of `bridge`.
    pub fn bridge_count(&self, bridge: BridgeId) -> u32 {
        self.limits.in_bridge(bridge)
    }

    /// Entries in all, learned and other.
    pub fn len(&self) -> usize {
        self.limits.learned() as usize + self.limits.fixed() as usize
    }

    /// There is no entry at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that are not learned: static, local and control-plane ones.
    pub fn fixed_count(&self) -> usize {
        self.limits.fixed() as usize
    }

    /// Bytes of memory reserved for entries and counters.
    pub fn capacity_bytes(&self) -> usize {
        size_of::<Self>() + self.table.bytes() + self.limits.bytes()
    }

    /// The memory that the entries are in, for whoever can do something about the pages it is made of.
    pub fn memory(&self) -> &[Bucket] {
        self.table.memory()
    }

    /// Adds `value` under `key`, which was not there a moment ago. `Ok(false)`: no free slot.
    fn insert(&self, key: Key, hash: Hash, value: Value) -> Result<bool, Refused> {
        let charge = value.charge();
        self.limits.take(key.bridge(), charge)?;
        if !self.table.insert(key, hash, value) {
            self.limits.give(key.bridge(), charge);
            return Ok(false);
        }
        self.table.settle(key, hash, |lost| self.limits.give(key.bridge(), lost.charge()));
        Ok(true)
    }

    /// Turns the live value `from` of `slot` into `to`, and moves the counts along. `Ok(false)`:
    /// the value was no longer `from`, and nothing happened.
    fn rewrite(&self, slot: &Slot, key: Key, from: Value, to: Value) -> Result<bool, Refused> {
        let (had, needs) = (from.charge(), to.charge());
        self.limits.enter(key.bridge(), had, needs)?;
        let done = slot.replace(from, to);
        let (left, stays) = if done { (had, needs) } else { (needs, had) };
        self.limits.leave(key.bridge(), left, stays);
        Ok(done)
    }

    /// Removes the entry if its value is still `value`.
    fn discard(&self, slot: &Slot, key: Key, value: Value) -> bool {
        let done = slot.clear(value);
        if done {
            self.limits.give(key.bridge(), value.charge());
        }
        done
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
