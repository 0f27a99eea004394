//! The forwarding database against a plain map: random operations, one thread, a virtual clock
//! that wraps.

use std::collections::HashMap;

use proptest::prelude::*;
use switch_core::fdb::{
    Dest, Entry, Fdb, FdbConfig, Flags, Flush, Gone, Key, Learn, SWEEP_WITHIN, Tick,
};
use switch_core::ids::{BridgeId, Domain, PortId};
use switch_core::wire::MacAddr;

const PORTS: u16 = 5;
const BRIDGES: u16 = 3;
const MAX_TOTAL: u32 = 40;
const MAX_PER_BRIDGE: u32 = 20;

#[derive(Clone, Debug)]
enum Op {
    Learn {
        key: Key,
        dest: Dest,
    },
    Set {
        key: Key,
        dest: Dest,
        flags: Flags,
    },
    Remove {
        key: Key,
    },
    Flush {
        filter: Flush,
    },
    Advance {
        secs: u32,
    },
    /// As many times as long as sweeps may be apart, with a sweep each time.
    Rest {
        times: u32,
    },
    Sweep {
        ageing: [u32; BRIDGES as usize],
    },
    PortLimit {
        port: u16,
        limit: Option<u32>,
    },
    BridgeLimit {
        bridge: u16,
        limit: u32,
    },
}

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

fn bridge(index: u16) -> BridgeId {
    BridgeId::new(index)
}

fn keys() -> impl Strategy<Value = Key> {
    // Few enough that keys meet again, in domains that differ in any part of the number.
    (1..12u64, 0..BRIDGES, prop::sample::select(vec![0, 1, 4095])).prop_map(|(mac, b, vid)| {
        Key::new(MacAddr::from_u64(0x0200_0000_0000 | mac), Domain::new(bridge(b), vid))
    })
}

fn dests() -> impl Strategy<Value = Dest> {
    prop_oneof![
        4 => (0..PORTS).prop_map(|p| Dest::Port(port(p))),
        1 => prop::sample::select(vec![0, 1, Dest::REMOTES - 1]).prop_map(Dest::Remote),
    ]
}

fn flags() -> impl Strategy<Value = Flags> {
    prop::sample::select(vec![
        Flags::NONE,
        Flags::STATIC,
        Flags::STICKY,
        Flags::LOCAL,
        Flags::CONTROL,
        Flags::CONTROL | Flags::STICKY,
        Flags::STATIC | Flags::STICKY,
    ])
}

fn filters() -> impl Strategy<Value = Flush> {
    let which = (prop::option::of(dests()), prop::option::of(keys()), any::<bool>(), any::<bool>());
    which.prop_map(|(dest, key, whole_bridge, fixed)| {
        let mut filter = Flush::all();
        if let Some(dest) = dest {
            filter = filter.dest(dest);
        }
        if let Some(key) = key {
            let domain = key.domain();
            filter =
                if whole_bridge { filter.bridge(domain.bridge()) } else { filter.domain(domain) };
        }
        if fixed { filter.with_fixed() } else { filter }
    })
}

fn ops() -> impl Strategy<Value = Op> {
    let ageing = || prop::sample::select(vec![10, 300, 1_000_000, u32::MAX]);
    prop_oneof![
        20 => (keys(), dests()).prop_map(|(key, dest)| Op::Learn { key, dest }),
        3 => (keys(), dests(), flags()).prop_map(|(key, dest, flags)| Op::Set { key, dest, flags }),
        2 => keys().prop_map(|key| Op::Remove { key }),
        1 => filters().prop_map(|filter| Op::Flush { filter }),
        4 => prop_oneof![0..20u32, 0..400u32, 0..SWEEP_WITHIN / 2].prop_map(|secs| Op::Advance { secs }),
        1 => (1..40u32).prop_map(|times| Op::Rest { times }),
        4 => [ageing(), ageing(), ageing()].prop_map(|ageing| Op::Sweep { ageing }),
        1 => (0..PORTS, prop::option::of(0..12u32))
            .prop_map(|(port, limit)| Op::PortLimit { port, limit }),
        1 => (0..BRIDGES, 0..24u32).prop_map(|(bridge, limit)| Op::BridgeLimit { bridge, limit }),
    ]
}

/// One entry of the model; the time does not wrap.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    dest: Dest,
    flags: Flags,
    seen: u64,
}

/// The database as one would write it without threads, memory limits or a wrapping clock.
struct Model {
    entries: HashMap<Key, Known>,
    port_limits: HashMap<Dest, u32>,
    bridge_limits: [u32; BRIDGES as usize],
    now: u64,
    /// How little the smallest holder had that was refused a place since the last sweep: in each
    /// bridge and, last, in all.
    waiting: [Option<u32>; BRIDGES as usize + 1],
    /// A limit changed, or fixed entries took from what is left to learn, since the last sweep.
    lowered: bool,
}

impl Model {
    fn learned(&self) -> impl Iterator<Item = (&Key, &Known)> {
        self.entries.iter().filter(|(_, known)| known.flags.is_learned())
    }

    /// Who shares an account with `dest`: the same port, or all remotes.
    fn same_holder(one: Dest, other: Dest) -> bool {
        one == other || matches!((one, other), (Dest::Remote(_), Dest::Remote(_)))
    }

    fn held(&self, dest: Dest) -> u32 {
        self.learned().filter(|(_, known)| Self::same_holder(known.dest, dest)).count() as u32
    }

    fn in_bridge(&self, bridge: BridgeId) -> u32 {
        self.learned().filter(|(key, _)| key.domain().bridge() == bridge).count() as u32
    }

    fn fixed(&self) -> u32 {
        (self.entries.len() - self.learned().count()) as u32
    }

    /// The answer to an entry that needs a new place at `dest`.
    fn admit(&mut self, key: Key, dest: Dest, had: Option<Known>) -> Result<(), Learn> {
        let had = had.filter(|known| known.flags.is_learned());
        if had.is_some_and(|known| Self::same_holder(known.dest, dest)) {
            return Ok(());
        }
        let held = self.held(dest);
        if self.port_limits.get(&dest).is_some_and(|&limit| held >= limit) {
            return Err(Learn::PortLimit);
        }
        if had.is_some() {
            return Ok(());
        }
        let bridge = key.domain().bridge();
        let (in_all, left) =
            (self.learned().count() as u32, MAX_TOTAL.saturating_sub(self.fixed()));
        let limit = self.bridge_limits[bridge.index()];
        let pools = [
            (bridge.index(), limit, self.in_bridge(bridge), Learn::BridgeLimit),
            (BRIDGES as usize, left, in_all, Learn::TotalLimit),
        ];
        for (pool, limit, count, refusal) in pools {
            if count >= limit || held >= 64 * (limit - count) {
                let least = self.waiting[pool].map_or(held, |least| least.min(held));
                self.waiting[pool] = Some(least);
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn learn(&mut self, key: Key, dest: Dest) -> Learn {
        let had = self.entries.get(&key).copied();
        if let Some(known) = had {
            let pinned = [Flags::STATIC, Flags::STICKY, Flags::LOCAL]
                .iter()
                .any(|&flag| known.flags.contains(flag));
            if known.flags.contains(Flags::LOCAL) || (pinned && known.dest != dest) {
                return Learn::Pinned;
            }
            if known.dest == dest {
                if known.flags.is_learned() {
                    self.entries.insert(key, Known { seen: self.now, ..known });
                }
                return Learn::Refreshed;
            }
        }
        if let Err(refusal) = self.admit(key, dest, had) {
            return refusal;
        }
        self.entries.insert(key, Known { dest, flags: Flags::NONE, seen: self.now });
        had.map_or(Learn::New, |known| Learn::Moved { from: known.dest })
    }

    fn set(&mut self, key: Key, dest: Dest, flags: Flags) -> bool {
        let had = self.entries.get(&key).copied();
        let admitted = if flags.is_learned() {
            self.admit(key, dest, had).is_ok()
        } else {
            had.is_some_and(|known| !known.flags.is_learned()) || self.fixed() < MAX_TOTAL
        };
        if admitted {
            self.entries.insert(key, Known { dest, flags, seen: self.now });
            // What is fixed now is one place less to learn.
            self.lowered |= !flags.is_learned();
        }
        admitted
    }
}

/// The tables hold the same, and every counter of `fdb` is right.
fn compare(fdb: &Fdb, model: &Model) -> Result<(), TestCaseError> {
    let mut count = 0;
    let mut wrong = None;
    let now = Tick(model.now as u32);
    fdb.for_each(|entry: Entry| {
        count += 1;
        let same = model.entries.get(&entry.key).is_some_and(|known| {
            let age = known.flags.is_learned().then_some((model.now - known.seen) as u32);
            (known.dest, known.flags) == (entry.dest, entry.flags)
                && age.is_none_or(|age| age == entry.age_secs(now))
        });
        if !same {
            wrong = Some(entry);
        }
    });
    prop_assert_eq!(wrong, None, "an entry that should not be there, or not so");
    prop_assert_eq!(count, model.entries.len());
    prop_assert_eq!(fdb.len(), count);
    prop_assert_eq!(fdb.fixed_count(), model.fixed() as usize);
    prop_assert_eq!(fdb.remote_count(), model.held(Dest::Remote(0)));
    for p in 0..PORTS {
        prop_assert_eq!(fdb.port_count(port(p)), model.held(Dest::Port(port(p))));
    }
    for b in 0..BRIDGES {
        prop_assert_eq!(fdb.bridge_count(bridge(b)), model.in_bridge(bridge(b)));
    }
    for (&key, known) in &model.entries {
        prop_assert_eq!(fdb.lookup(key, fdb.hash(key)), Some(known.dest));
        prop_assert_eq!(fdb.peek(key).map(|entry| entry.dest), Some(known.dest));
    }
    Ok(())
}

/// Sweeps, and takes out of the model what the rules say; what was evicted is checked for being
/// a fair choice, and then believed.
fn sweep(
    fdb: &Fdb,
    model: &mut Model,
    ageing: [u32; BRIDGES as usize],
) -> Result<(), TestCaseError> {
    let swept = fdb.sweep(Tick(model.now as u32), |b| ageing[b.index()]);
    prop_assert_eq!(swept.removed.len(), swept.aged + swept.evicted);
    let mut aged: Vec<Key> = Vec::new();
    model.entries.retain(|key, known| {
        let longest = u64::from(ageing[key.domain().bridge().index()].min(1_000_000));
        let expired = known.flags.is_learned() && model.now - known.seen > longest;
        if expired {
            aged.push(*key);
        }
        !expired
    });
    for (entry, why) in &swept.removed {
        match why {
            Gone::Aged => {
                let place = aged.iter().position(|key| *key == entry.key);
                prop_assert!(place.is_some(), "{entry:?} was not that old");
                aged.swap_remove(place.unwrap());
            }
            Gone::Evicted => {
                let known = model.entries.remove(&entry.key);
                prop_assert!(known.is_some_and(|known| known.flags.is_learned()), "{entry:?}");
                let known = known.unwrap();
                let bridge = entry.key.domain().bridge();
                let evicted = |key: &Key| swept.removed.iter().any(|(e, _)| e.key == *key);
                let older = model.learned().find(|(key, other)| {
                    key.domain().bridge() == bridge
                        && Model::same_holder(other.dest, known.dest)
                        && other.seen < known.seen
                        && !evicted(key)
                });
                prop_assert_eq!(older, None, "{:?} went before an older one", entry);
            }
        }
    }
    prop_assert_eq!(aged, vec![], "these should have aged out");
    if !model.lowered {
        for (entry, _) in swept.removed.iter().filter(|(_, why)| *why == Gone::Evicted) {
            let bridge = entry.key.domain().bridge();
            let least = [model.waiting[bridge.index()], model.waiting[BRIDGES as usize]];
            let least = least.into_iter().flatten().min();
            prop_assert!(least.is_some(), "nobody asked for {entry:?} to go");
            let keeps = model
                .learned()
                .filter(|(key, known)| {
                    key.domain().bridge() == bridge && Model::same_holder(known.dest, entry.dest)
                })
                .count() as u32;
            prop_assert!(keeps > least.unwrap(), "{entry:?} went for somebody who held as much");
        }
    }
    model.waiting = Default::default();
    model.lowered = false;
    for b in 0..BRIDGES {
        prop_assert!(model.in_bridge(bridge(b)) <= model.bridge_limits[b as usize]);
    }
    prop_assert!(model.learned().count() as u32 <= MAX_TOTAL.saturating_sub(model.fixed()));
    for (&dest, &limit) in &model.port_limits {
        prop_assert!(model.held(dest) <= limit);
    }
    Ok(())
}

fn run(start: u32, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let config = FdbConfig { max_total: MAX_TOTAL, max_per_bridge: MAX_PER_BRIDGE };
    let fdb = Fdb::with_seed(config, 7);
    let mut model = Model {
        entries: HashMap::new(),
        port_limits: HashMap::new(),
        bridge_limits: [MAX_PER_BRIDGE; BRIDGES as usize],
        now: u64::from(start),
        waiting: Default::default(),
        lowered: false,
    };
    let mut unswept = 0;
    for op in ops {
        let now = Tick(model.now as u32);
        match op {
            Op::Learn { key, dest } => {
                let hash = fdb.hash(key);
                let dry = fdb.learn_dry(key, hash, dest);
                let wet = fdb.learn(key, hash, dest, now);
                prop_assert_eq!(dry, wet);
                prop_assert_eq!(wet, model.learn(key, dest));
            }
            Op::Set { key, dest, flags } => {
                let done = fdb.set(key, dest, flags, now);
                prop_assert_eq!(done.is_ok(), model.set(key, dest, flags), "{:?}", done);
            }
            Op::Remove { key } => {
                prop_assert_eq!(fdb.remove(key), model.entries.remove(&key).is_some());
            }
            Op::Flush { filter } => {
                let mut gone = Vec::new();
                let count = fdb.flush_each(&filter, |entry| gone.push(entry));
                prop_assert_eq!(count, gone.len());
                for entry in gone {
                    prop_assert!(filter.catches(&entry), "{entry:?} by {filter:?}");
                    prop_assert!(model.entries.remove(&entry.key).is_some());
                }
                let mut left = None;
                fdb.for_each(|entry| {
                    left = left.or_else(|| filter.catches(&entry).then_some(entry))
                });
                prop_assert_eq!(left, None);
            }
            Op::Advance { secs } => {
                model.now += u64::from(secs);
                unswept += secs;
                if unswept >= SWEEP_WITHIN / 2 {
                    unswept = 0;
                    sweep(&fdb, &mut model, [1_000_000; BRIDGES as usize])?;
                }
            }
            Op::Rest { times } => {
                sweep(&fdb, &mut model, [1_000_000; BRIDGES as usize])?;
                unswept = 0;
                for _ in 0..times {
                    model.now += u64::from(SWEEP_WITHIN);
                    sweep(&fdb, &mut model, [1_000_000; BRIDGES as usize])?;
                }
            }
            Op::Sweep { ageing } => {
                unswept = 0;
                sweep(&fdb, &mut model, ageing)?;
            }
            Op::PortLimit { port: p, limit } => {
                fdb.set_port_limit(port(p), limit);
                let dest = Dest::Port(port(p));
                match limit {
                    Some(limit) => model.port_limits.insert(dest, limit),
                    None => model.port_limits.remove(&dest),
                };
                model.lowered = true;
            }
            Op::BridgeLimit { bridge: b, limit } => {
                fdb.set_bridge_limit(bridge(b), limit);
                model.bridge_limits[b as usize] = limit;
                model.lowered = true;
            }
        }
        compare(&fdb, &model)?;
    }
    fdb.flush(&Flush::all().with_fixed());
    model.entries.clear();
    compare(&fdb, &model)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(
        start in prop::sample::select(vec![0, (1 << 20) - 400, u32::MAX - 2_000_000, u32::MAX - 400]),
        ops in prop::collection::vec(ops(), 1..200),
    ) {
        run(start, ops)?;
    }
}
