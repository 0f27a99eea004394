//! Who may hold how many entries, and who holds how many now.
//!
//! Three limits stand over a learned entry: its port's, its bridge's and the table's. Each is a
//! counter with a ceiling. An insert takes one place of each before it touches a slot and gives
//! them back if it fails, so no ceiling is ever passed, not even for an instant; whoever removes
//! an entry gives its places back afterwards. Static, local and control-plane entries are counted
//! apart, take from no port or bridge, and only lower what is left for learning in all.
//!
//! **Sharing.** A bridge's places are shared by dynamic thresholds (Choudhury and Hahne, "Dynamic
//! queue length thresholds for shared-memory packet switches", 1998): a port may take another
//! place while it holds less than [`SHARE`] times the number of places still free. A port alone
//! fills all but one in 65 of the places and then stops, however hard it is flooded, and what is
//! left is for those that hold less: the fewer they hold, the longer they may go on. That costs a
//! multiplication for a *new* address and nothing for a known one. Limits of up to 64 are filled
//! to the last place. When a port is refused it leaves a note of how little it holds, and the
//! next sweep evicts from the largest holders on its behalf.

use super::entry::{Dest, FdbError, Key, Learn};
use crate::ids::{BridgeId, PortId};
use crate::sync::{AtomicU32, Ordering};

/// A port may hold this many times the places that are still free.
const SHARE: u64 = 64;
/// Ports and bridges there are counters for. (A handful under loom.)
const PORTS: usize = if cfg!(loom) { 2 } else { PortId::MAX_PORTS };
const BRIDGES: usize = if cfg!(loom) { 2 } else { BridgeId::MAX_BRIDGES };
/// No limit, or nobody waiting.
const NONE: u32 = u32::MAX;

/// Who an entry belongs to when places are counted: a port, or all remote VTEPs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Holder(u16);

impl Holder {
    const REMOTES: Self = Self(PORTS as u16);

    pub(super) const fn of(dest: Dest) -> Self {
        match dest {
            Dest::Port(port) => Self((port.index() % PORTS) as u16),
            Dest::Remote(_) => Self::REMOTES,
        }
    }
}

/// Which account an entry is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charge {
    Learned(Holder),
    Fixed,
}

impl Charge {
    pub(super) const fn learned(dest: Option<Dest>) -> Self {
        match dest {
            Some(dest) => Self::Learned(Holder::of(dest)),
            // A value that is not live is on no account; nobody asks.
            None => Self::Fixed,
        }
    }
}

/// Which limit stood in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Port,
    Bridge,
    Total,
}

impl From<Refused> for Learn {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Port => Self::PortLimit,
            Refused::Bridge => Self::BridgeLimit,
            Refused::Total => Self::TotalLimit,
        }
    }
}

impl Refused {
    pub(super) fn error(self, key: Key, dest: Dest) -> FdbError {
        match self {
            Self::Port => FdbError::PortLimit(dest),
            Self::Bridge => FdbError::BridgeLimit(key.bridge()),
            Self::Total => FdbError::TotalLimit,
        }
    }
}

/// A counter with a ceiling.
#[derive(Debug)]
struct Quota {
    count: AtomicU32,
    limit: AtomicU32,
}

impl Quota {
    fn new(limit: u32) -> Self {
        Self { count: AtomicU32::new(0), limit: AtomicU32::new(limit) }
    }

    fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes a place while `admit(count)`; the count before, or `None` when refused.
    fn take(&self, admit: impl Fn(u32) -> bool) -> Option<u32> {
        // Relaxed throughout: a count orders nothing but itself.
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| admit(n).then_some(n + 1))
            .ok()
    }

    fn give(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A quota that several holders share.
#[derive(Debug)]
struct Pool {
    quota: Quota,
    /// How many entries the smallest holder had that was refused since the last sweep.
    waiting: AtomicU32,
}

impl Pool {
    fn new(limit: u32) -> Self {
        Self { quota: Quota::new(limit), waiting: AtomicU32::new(NONE) }
    }

    fn admits(limit: u32, held: u32, count: u32) -> bool {
        count < limit && u64::from(held) < SHARE * u64::from(limit - count)
    }

    fn take(&self, limit: u32, held: u32) -> bool {
        if self.quota.take(|count| Self::admits(limit, held, count)).is_some() {
            return true;
        }
        // Only who holds less than anybody noted before writes: a flood does not.
        if held < self.waiting.load(Ordering::Relaxed) {
            self.waiting.fetch_min(held, Ordering::Relaxed);
        }
        false
    }
}

/// How full a bridge or the table is, for a sweep to act on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pressure {
    pub(super) limit: u32,
    /// How many entries the smallest holder had that was refused; `None` if none was.
    pub(super) waiting: Option<u32>,
}

/// All counters and limits.
#[derive(Debug)]
pub(super) struct Limits {
    holders: Box<[Quota; PORTS + 1]>,
    bridges: Box<[Pool; BRIDGES]>,
    learned: Pool,
    fixed: AtomicU32,
}

impl Limits {
    pub(super) fn new(max_total: u32, max_per_bridge: u32) -> Self {
        Self {
            holders: on_heap(|| Quota::new(NONE)),
            bridges: on_heap(|| Pool::new(max_per_bridge)),
            learned: Pool::new(max_total),
            fixed: AtomicU32::new(0),
        }
    }

    /// Takes a place for an entry on `charge` in `bridge`.
    pub(super) fn take(&self, bridge: BridgeId, charge: Charge) -> Result<(), Refused> {
        let Charge::Learned(holder) = charge else { return self.take_fixed() };
        let own = self.holder(holder);
        let limit = own.limit();
        let held = own.take(|count| count < limit).ok_or(Refused::Port)?;
        let pool = self.bridge(bridge);
        if !pool.take(pool.quota.limit(), held) {
            own.give();
            return Err(Refused::Bridge);
        }
        if !self.learned.take(self.learnable(), held) {
            pool.quota.give();
            own.give();
            return Err(Refused::Total);
        }
        Ok(())
    }

    /// Gives back what [`take`](Self::take) took.
    pub(super) fn give(&self, bridge: BridgeId, charge: Charge) {
        match charge {
            Charge::Learned(holder) => {
                self.learned.quota.give();
                self.bridge(bridge).quota.give();
                self.holder(holder).give();
            }
            Charge::Fixed => {
                self.fixed.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes what an entry of `bridge` needs on `to` beyond what it has on `from`.
    pub(super) fn enter(&self, bridge: BridgeId, from: Charge, to: Charge) -> Result<(), Refused> {
        match (from, to) {
            (from, to) if from == to => Ok(()),
            (Charge::Learned(_), Charge::Learned(holder)) => {
                let own = self.holder(holder);
                let limit = own.limit();
                own.take(|count| count < limit).map(drop).ok_or(Refused::Port)
            }
            (_, to) => self.take(bridge, to),
        }
    }

    /// Gives back what it had on `from` and does not need on `to`.
    pub(super) fn leave(&self, bridge: BridgeId, from: Charge, to: Charge) {
        match (from, to) {
            (from, to) if from == to => {}
            (Charge::Learned(holder), Charge::Learned(_)) => self.holder(holder).give(),
            (from, _) => self.give(bridge, from),
        }
    }

    /// What [`enter`](Self::enter) would answer now; `from` is `None` for a new entry.
    pub(super) fn judge(
        &self,
        bridge: BridgeId,
        from: Option<Charge>,
        holder: Holder,
    ) -> Result<(), Refused> {
        let own = self.holder(holder);
        let held = own.count();
        if from == Some(Charge::Learned(holder)) {
            return Ok(());
        }
        if held >= own.limit() {
            return Err(Refused::Port);
        }
        if matches!(from, Some(Charge::Learned(_))) {
            return Ok(());
        }
        let pool = &self.bridge(bridge).quota;
        if !Pool::admits(pool.limit(), held, pool.count()) {
            return Err(Refused::Bridge);
        }
        if !Pool::admits(self.learnable(), held, self.learned.quota.count()) {
            return Err(Refused::Total);
        }
        Ok(())
    }

    fn take_fixed(&self) -> Result<(), Refused> {
        let max = self.learned.quota.limit();
        self.fixed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1))
            .map(drop)
            .map_err(|_| Refused::Total)
    }

    /// What fixed entries leave for learning.
    fn learnable(&self) -> u32 {
        self.learned.quota.limit().saturating_sub(self.fixed())
    }

    pub(super) fn set_port(&self, port: PortId, limit: Option<u32>) {
        let quota = self.holder(Holder::of(Dest::Port(port)));
        quota.limit.store(limit.unwrap_or(NONE), Ordering::Relaxed);
    }

    pub(super) fn set_bridge(&self, bridge: BridgeId, limit: u32) {
        self.bridge(bridge).quota.limit.store(limit, Ordering::Relaxed);
    }

    pub(super) fn port(&self, port: PortId) -> u32 {
        self.holder(Holder::of(Dest::Port(port))).count()
    }

    pub(super) fn remotes(&self) -> u32 {
        self.holder(Holder::REMOTES).count()
    }

    pub(super) fn in_bridge(&self, bridge: BridgeId) -> u32 {
        self.bridge(bridge).quota.count()
    }

    pub(super) fn learned(&self) -> u32 {
        self.learned.quota.count()
    }

    pub(super) fn fixed(&self) -> u32 {
        self.fixed.load(Ordering::Relaxed)
    }

    /// Holders above their own limit (it was lowered), and by how much.
    pub(super) fn overdrawn(&self) -> impl Iterator<Item = (Holder, u32)> {
        let over = |(index, quota): (usize, &Quota)| {
            let over = quota.count().saturating_sub(quota.limit());
            (over > 0).then_some((Holder(index as u16), over))
        };
        self.holders.iter().enumerate().filter_map(over)
    }

    /// Bridges where a port was refused since the last call, or that are above their limit, in
    /// their order. Those at rest, all of them mostly, are only read.
    pub(super) fn pressed(&self) -> impl Iterator<Item = (usize, Pressure)> {
        self.bridges
            .iter()
            .enumerate()
            .filter_map(|(index, pool)| Some((index, pressure(pool, pool.quota.limit())?)))
    }

    /// The same for the whole table.
    pub(super) fn pressed_total(&self) -> Option<Pressure> {
        pressure(&self.learned, self.learnable())
    }

    fn holder(&self, holder: Holder) -> &Quota {
        &self.holders[(holder.0 as usize).min(PORTS)]
    }

    fn bridge(&self, bridge: BridgeId) -> &Pool {
        &self.bridges[bridge.index() % BRIDGES]
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.holders) + size_of_val(&*self.bridges)
    }
}

/// As many as the type says, made where they stay: 65,536 pools are too many for a stack.
fn on_heap<T, const N: usize>(make: impl FnMut() -> T) -> Box<[T; N]> {
    let items: Vec<T> = std::iter::repeat_with(make).take(N).collect();
    items.try_into().unwrap_or_else(|_| unreachable!("N items were made"))
}

/// What presses on a pool, if anything; who waited is forgotten.
fn pressure(pool: &Pool, limit: u32) -> Option<Pressure> {
    // Loaded first: most pools of most sweeps have nobody waiting, and are only read.
    let waiting = match pool.waiting.load(Ordering::Relaxed) {
        NONE => None,
        _ => Some(pool.waiting.swap(NONE, Ordering::Relaxed)).filter(|&held| held != NONE),
    };
    (waiting.is_some() || pool.quota.count() > limit).then_some(Pressure { limit, waiting })
}
