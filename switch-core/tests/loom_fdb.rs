//! The forwarding database under loom: every interleaving of a few operations, with every value
//! that the memory model lets a load return, on a table of six slots.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p switch-core --release --test loom_fdb`.
#![cfg(loom)]

use std::collections::HashSet;

use loom::sync::Arc;
use loom::thread;
use switch_core::fdb::{Dest, Fdb, FdbConfig, Flags, Flush, Key, Learn, Tick};
use switch_core::ids::{BridgeId, Domain, PortId};
use switch_core::wire::MacAddr;

fn on(index: u16) -> Dest {
    Dest::Port(PortId::new(index).unwrap())
}

fn bridge(index: u16) -> BridgeId {
    BridgeId::new(index).unwrap()
}

/// Keys with this number differ in the domain's high bits only, which are not in the key word:
/// a reader that mixes up two of them is not saved by comparing it.
fn key(number: u16) -> Key {
    Key::new(MacAddr::from_u64(0x0200_0000_0001), Domain::new(bridge(number * 16), 1))
}

fn fdb(max_per_bridge: u32) -> Fdb {
    // With this seed, keys 0 and 1 have the same two of the three buckets.
    let fdb = Fdb::with_seed(FdbConfig { max_total: 2, max_per_bridge }, SEED);
    assert_eq!(fdb.hash(key(0)), fdb.hash(key(1)));
    fdb
}

const SEED: u64 = 11;

fn learn(fdb: &Fdb, key: Key, dest: Dest, now: u32) -> Learn {
    fdb.learn(key, fdb.hash(key), dest, Tick(now))
}

fn lookup(fdb: &Fdb, key: Key) -> Option<Dest> {
    fdb.lookup(key, fdb.hash(key))
}

/// Once all threads are done: no key twice, and every counter right.
fn check(fdb: &Fdb) {
    let mut keys = HashSet::new();
    let (mut ports, mut bridges, mut fixed) = ([0; 2], [0; 2], 0);
    fdb.for_each(|entry| {
        assert!(keys.insert(entry.key), "{:?} is there twice", entry.key);
        let Dest::Port(port) = entry.dest else { panic!("nobody learned {entry:?}") };
        if entry.flags.is_learned() {
            ports[port.index()] += 1;
            bridges[entry.key.domain().bridge().index() % 2] += 1;
        } else {
            fixed += 1;
        }
    });
    for i in 0..2 {
        assert_eq!(fdb.port_count(PortId::new(i).unwrap()), ports[i as usize], "port {i}");
        assert_eq!(fdb.bridge_count(bridge(i)), bridges[i as usize], "bridge {i}");
    }
    assert_eq!((fdb.fixed_count(), fdb.len()), (fixed, keys.len()));
}

/// Bounded to three preemptions, which finds what two or three threads can do to one another
/// here, in seconds instead of days.
fn model(test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(test);
}

/// Runs `others` beside `this`, each in its own thread, and then checks the table.
fn race(fdb: Fdb, others: Vec<fn(&Fdb)>, this: fn(&Fdb)) -> Arc<Fdb> {
    let fdb = Arc::new(fdb);
    let threads: Vec<_> = others
        .into_iter()
        .map(|other| {
            let fdb = fdb.clone();
            thread::spawn(move || other(&fdb))
        })
        .collect();
    this(&fdb);
    for thread in threads {
        thread.join().unwrap();
    }
    check(&fdb);
    fdb
}

#[test]
fn two_workers_insert_the_same_key() {
    model(|| {
        let other = |fdb: &Fdb| {
            let answer = learn(fdb, key(0), on(1), 0);
            assert!(matches!(answer, Learn::New | Learn::Moved { .. }), "{answer:?}");
        };
        let fdb = race(fdb(2), vec![other], |fdb| {
            let answer = learn(fdb, key(0), on(0), 0);
            assert!(matches!(answer, Learn::New | Learn::Moved { .. }), "{answer:?}");
        });
        assert_eq!(fdb.len(), 1);
    });
}

#[test]
fn a_slot_is_reused_while_it_is_read() {
    model(|| {
        let fdb = fdb(2);
        learn(&fdb, key(0), on(0), 0);
        let reuse = |fdb: &Fdb| {
            assert!(fdb.remove(key(0)));
            assert_eq!(learn(fdb, key(1), on(1), 0), Learn::New);
            assert_eq!(lookup(fdb, key(1)), Some(on(1)));
        };
        let fdb = race(fdb, vec![reuse], |fdb| {
            let old = lookup(fdb, key(0));
            assert!(old.is_none() || old == Some(on(0)), "{old:?}");
            let new = lookup(fdb, key(1));
            assert!(new.is_none() || new == Some(on(1)), "{new:?}");
            let listed = fdb.peek(key(1)).map(|entry| entry.dest);
            assert!(new.is_none() || listed == new, "{listed:?} after {new:?}");
        });
        assert_eq!(fdb.len(), 1);
    });
}

#[test]
fn an_entry_that_moves_is_never_missed() {
    model(|| {
        let fdb = fdb(2);
        learn(&fdb, key(0), on(0), 0);
        let shift = |fdb: &Fdb| {
            assert_eq!(learn(fdb, key(0), on(1), 1), Learn::Moved { from: on(0) });
        };
        race(fdb, vec![shift], |fdb| {
            let first = lookup(fdb, key(0)).expect("it is there all the time");
            let second = lookup(fdb, key(0)).expect("it is there all the time");
            assert!(first == on(0) || second == on(1), "it went back from {first:?}");
        });
    });
}

#[test]
fn two_workers_move_the_same_key() {
    model(|| {
        let fdb = fdb(2);
        fdb.set(key(0), Dest::Remote(5), Flags::CONTROL, Tick(0)).unwrap();
        let other = |fdb: &Fdb| {
            learn(fdb, key(0), on(1), 1);
        };
        let fdb = race(fdb, vec![other], |fdb| {
            learn(fdb, key(0), on(0), 1);
        });
        assert_eq!((fdb.len(), fdb.fixed_count()), (1, 0));
    });
}

#[test]
fn a_port_is_flushed_while_an_entry_moves_from_it() {
    model(|| {
        let fdb = fdb(2);
        learn(&fdb, key(0), on(0), 0);
        let flush = |fdb: &Fdb| {
            fdb.flush(&Flush::all().port(PortId::new(0).unwrap()));
        };
        let fdb = race(fdb, vec![flush], |fdb| {
            learn(fdb, key(0), on(1), 1);
        });
        assert_eq!(lookup(&fdb, key(0)), Some(on(1)), "what was learned last stays");
    });
}

#[test]
fn an_entry_is_refreshed_while_it_is_swept() {
    model(|| {
        let fdb = fdb(2);
        learn(&fdb, key(0), on(0), 0);
        let sweep = |fdb: &Fdb| {
            fdb.sweep(Tick(400), |_| 300);
        };
        let fdb = race(fdb, vec![sweep], |fdb| {
            learn(fdb, key(0), on(0), 400);
        });
        let entry = fdb.peek(key(0)).expect("a frame came a moment ago");
        assert_eq!(entry.age_secs(Tick(400)), 0);
    });
}

#[test]
fn an_entry_is_evicted_while_it_is_refreshed_and_another_comes() {
    model(|| {
        let fdb = fdb(1);
        learn(&fdb, key(0), on(0), 0);
        // The bridge is full: refused, and the sweep evicts on its behalf once the limit is lower.
        fdb.set_bridge_limit(bridge(0), 0);
        let sweep = |fdb: &Fdb| {
            fdb.sweep(Tick(1), |_| 300);
        };
        race(fdb, vec![sweep], |fdb| {
            learn(fdb, key(0), on(0), 1);
            learn(fdb, key(1), on(1), 1);
        });
    });
}

#[test]
fn a_static_entry_wins_over_one_learned_at_the_same_time() {
    model(|| {
        let worker = |fdb: &Fdb| {
            learn(fdb, key(0), on(1), 0);
        };
        let fdb = race(fdb(2), vec![worker], |fdb| {
            fdb.set(key(0), on(0), Flags::STATIC, Tick(0)).unwrap();
        });
        let entry = fdb.peek(key(0)).unwrap();
        assert_eq!((entry.dest, entry.flags, fdb.len()), (on(0), Flags::STATIC, 1));
    });
}

#[test]
fn the_last_place_goes_to_one() {
    model(|| {
        let other = |fdb: &Fdb| {
            learn(fdb, key(1), on(1), 0);
        };
        let fdb = race(fdb(2), vec![other], |fdb| {
            fdb.set_bridge_limit(bridge(0), 1);
            learn(fdb, key(0), on(0), 0);
        });
        assert!(fdb.len() <= 2);
    });
    model(|| {
        let other = |fdb: &Fdb| {
            learn(fdb, key(1), on(1), 0);
        };
        let fdb = race(fdb(1), vec![other], |fdb| {
            learn(fdb, key(0), on(0), 0);
        });
        assert_eq!((fdb.len(), fdb.bridge_count(bridge(0))), (1, 1));
    });
}

#[test]
fn two_inserts_and_a_removal() {
    model(|| {
        let insert: fn(&Fdb) = |fdb| {
            learn(fdb, key(0), on(1), 0);
        };
        let remove: fn(&Fdb) = |fdb| {
            fdb.remove(key(0));
        };
        race(fdb(2), vec![insert, remove], |fdb| {
            learn(fdb, key(0), on(0), 0);
        });
    });
}
