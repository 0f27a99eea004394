//! The forwarding database under threads: workers that learn and look up without pause, a control
//! side that sets, flushes, sweeps and changes limits meanwhile. Counts and entries are checked
//! while it runs as far as they hold then, and in full when all have stopped.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use switch_core::fdb::{Dest, Entry, Fdb, FdbConfig, Flags, Flush, Key, Learn, Tick};
use switch_core::ids::{BridgeId, Domain, PortId};
use switch_core::wire::MacAddr;

const WORKERS: u64 = 3;
const PORTS: u16 = 8;
const BRIDGES: u16 = 2;
const PORT_LIMIT: u32 = 60;
const BRIDGE_LIMIT: u32 = 150;
const MAX_TOTAL: u32 = 200;

/// A small generator (xorshift, Marsaglia 2003): the sequence of each thread repeats exactly.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

/// Addresses differ in their low bits only, and their domains in the high ones only, so that a
/// reader who mixes up two slots has every chance to.
fn key(random: &mut Random, addresses: u64) -> Key {
    let bridge = BridgeId::new((random.below(u64::from(BRIDGES)) * 16) as u16);
    Key::new(MacAddr::from_u64(0x0200_0000_0000 | random.below(addresses)), Domain::new(bridge, 1))
}

/// Every key may be at two ports only, which a glance at an entry tells.
fn dest(key: Key, turn: u64) -> Dest {
    let home = key.mac().to_u64() * 5 + key.domain().bridge().index() as u64 / 16 * 3;
    Dest::Port(port(((home + turn % 2) % u64::from(PORTS)) as u16))
}

fn belongs(key: Key, found: Dest) {
    assert!(
        found == dest(key, 0) || found == dest(key, 1),
        "{key:?} was never at {found:?}: an entry of another key came through"
    );
}

/// With nobody else at work: no key twice, and every counter equals a count.
fn settle_up(fdb: &Fdb) {
    let mut entries: Vec<Entry> = Vec::new();
    fdb.for_each(|entry| entries.push(entry));
    let keys: HashSet<Key> = entries.iter().map(|entry| entry.key).collect();
    assert_eq!(keys.len(), entries.len(), "a key is there twice");
    let learned = |test: &dyn Fn(&Entry) -> bool| {
        entries.iter().filter(|e| e.flags.is_learned() && test(e)).count() as u32
    };
    assert_eq!(fdb.len(), entries.len());
    assert_eq!(fdb.fixed_count() as u32, entries.len() as u32 - learned(&|_| true));
    for p in 0..PORTS {
        assert_eq!(fdb.port_count(port(p)), learned(&|e| e.dest == Dest::Port(port(p))));
    }
    for b in 0..BRIDGES {
        let bridge = BridgeId::new(b * 16);
        assert_eq!(fdb.bridge_count(bridge), learned(&|e| e.key.domain().bridge() == bridge));
    }
}

fn worker(fdb: &Fdb, clock: &AtomicU32, mut random: Random, frames: u32, addresses: u64) -> u32 {
    let mut learned = 0;
    for _ in 0..frames {
        let now = Tick(clock.load(Ordering::Relaxed));
        let source = key(&mut random, addresses);
        let turn = random.below(2);
        let hash = fdb.hash(source);
        match fdb.learn(source, hash, dest(source, turn), now) {
            Learn::New => learned += 1,
            Learn::Moved { from } => belongs(source, from),
            _ => {}
        }
        let target = key(&mut random, addresses);
        if let Some(found) = fdb.lookup(target, fdb.hash(target)) {
            belongs(target, found);
        }
    }
    learned
}

fn control(fdb: &Fdb, clock: &AtomicU32, done: &AtomicBool, addresses: u64) {
    let mut random = Random(0x5eed);
    while !done.load(Ordering::Relaxed) {
        let now = Tick(clock.fetch_add(1, Ordering::Relaxed));
        let chosen = key(&mut random, addresses);
        let flags = [Flags::STATIC, Flags::STICKY, Flags::CONTROL, Flags::NONE];
        let kind = flags[random.below(4) as usize];
        // A limit may refuse it; that is not what this test is about.
        let _ = fdb.set(chosen, dest(chosen, random.below(2)), kind, now);
        fdb.remove(key(&mut random, addresses));
        match random.below(8) {
            0 => {
                let filter = Flush::all().port(port(random.below(u64::from(PORTS)) as u16));
                fdb.flush_each(&filter, |entry| assert!(filter.catches(&entry)));
            }
            1 => {
                fdb.flush(&Flush::all().bridge(chosen.domain().bridge()).with_fixed());
            }
            2 => fdb.for_each(|entry| belongs(entry.key, entry.dest)),
            _ => {
                for (entry, _) in fdb.sweep(now, |_| 10).removed {
                    belongs(entry.key, entry.dest);
                }
            }
        }
        for p in 0..PORTS {
            assert!(fdb.port_count(port(p)) <= PORT_LIMIT, "port {p} is above its limit");
        }
        for b in 0..BRIDGES {
            assert!(fdb.bridge_count(BridgeId::new(b * 16)) <= BRIDGE_LIMIT);
        }
        assert!(fdb.len() - fdb.fixed_count().min(fdb.len()) <= MAX_TOTAL as usize);
    }
}

fn run(frames: u32, addresses: u64) {
    let config = FdbConfig { max_total: MAX_TOTAL, max_per_bridge: BRIDGE_LIMIT };
    let fdb = Fdb::with_seed(config, 3);
    for p in 0..PORTS {
        fdb.set_port_limit(port(p), Some(PORT_LIMIT));
    }
    let (clock, done) = (AtomicU32::new(u32::MAX - 20), AtomicBool::new(false));
    let learned: u32 = thread::scope(|scope| {
        let (fdb, clock, done) = (&fdb, &clock, &done);
        let workers: Vec<_> = (1..=WORKERS)
            .map(|n| {
                let random = Random(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(n));
                scope.spawn(move || worker(fdb, clock, random, frames, addresses))
            })
            .collect();
        let control = scope.spawn(move || control(fdb, clock, done, addresses));
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        // Also when a worker failed: control waits for this.
        done.store(true, Ordering::Relaxed);
        control.join().unwrap();
        results.into_iter().map(Result::unwrap).sum()
    });
    settle_up(&fdb);
    assert!(learned > 100, "only {learned} entries were ever learned: nothing was tested");
    fdb.flush(&Flush::all().with_fixed());
    settle_up(&fdb);
    assert!(fdb.is_empty());
}

/// All threads are after the same few keys, which come, move and go in the same slots.
#[test]
fn few_keys_contended() {
    run(300_000, 6);
}

/// More keys than may be held: every limit is reached, and the sweep evicts all the time.
#[test]
fn more_keys_than_there_is_room_for() {
    run(400_000, 400);
}

/// A thousand rounds of all threads inserting the same new key at the same moment.
#[test]
fn the_same_new_key_at_once() {
    let fdb = Fdb::with_seed(FdbConfig::default(), 3);
    let barrier = std::sync::Barrier::new(WORKERS as usize);
    let domain = Domain::new(BridgeId::new(1), 1);
    thread::scope(|scope| {
        for n in 0..WORKERS {
            let (fdb, barrier) = (&fdb, &barrier);
            scope.spawn(move || {
                for round in 0..1000 {
                    let key = Key::new(MacAddr::from_u64(0x0200_0000_0000 | round), domain);
                    let hash = fdb.hash(key);
                    barrier.wait();
                    fdb.learn(key, hash, Dest::Port(port(n as u16)), Tick(0));
                }
            });
        }
    });
    assert_eq!(fdb.len(), 1000);
    let mut count = 0;
    fdb.for_each(|_| count += 1);
    assert_eq!(count, 1000);
    assert_eq!(fdb.bridge_count(domain.bridge()), 1000);
    assert_eq!((0..PORTS).map(|p| fdb.port_count(port(p))).sum::<u32>(), 1000);
}
