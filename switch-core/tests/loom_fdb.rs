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
    BridgeId::new(index)
}

/// Keys with this number differ in the domain's high bits only, which are not in the key word:
/// a reader that mixes up two of them is not saved by comparing it.
fn key(number: u16) -> Key {
    Key::new(MacAddr::from_u64(0x0200_0000_0001), Domain::new(bridge(number * 16), 1))
}

/// Two keys whose key words differ and whose values do not, in the same two buckets as well.
fn other_mac(number: u64) -> Key {
    Key::new(MacAddr::from_u64(OTHER_MACS[number as usize]), Domain::new(bridge(0), 1))
}

fn fdb(max_per_bridge: u32) -> Fdb {
    // With this seed, the two keys of each kind have the same two of the three buckets.
    let fdb = Fdb::with_seed(FdbConfig { max_total: 2, max_per_bridge }, SEED);
    for (one, other) in [(key(0), key(1)), (other_mac(0), other_mac(1))] {
        let (one, other) = (fdb.hash(one), fdb.hash(other));
        assert!(std::ptr::eq(fdb.front(one).unwrap(), fdb.front(other).unwrap()));
        assert!(std::ptr::eq(fdb.back(one).unwrap(), fdb.back(other).unwrap()));
    }
    fdb
}

const SEED: u64 = 48;
const OTHER_MACS: [u64; 2] = [0x0200_0000_0001, 0x0200_0000_0002];

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

/// Runs `threads` side by side on the table that `setup` makes, in every way there is up to
/// `preemptions` forced switches, and then looks at what they left.
///
/// Every thread gets a turn at being the first. That is more than symmetry: loom remembers only
/// the last access to an atomic, so that a thread that loads a word and then writes it hides
/// earlier loads by others from the search. With the writer first, the search comes upon the
/// loads instead.
fn race(preemptions: usize, setup: fn() -> Fdb, threads: &[fn(&Fdb)], after: fn(&Fdb)) {
    for first in 0..threads.len() {
        let mut threads = threads.to_vec();
        threads.rotate_left(first);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(move || {
            let fdb = Arc::new(setup());
            let spawned: Vec<_> = threads[1..]
                .iter()
                .map(|&other| {
                    let fdb = fdb.clone();
                    thread::spawn(move || other(&fdb))
                })
                .collect();
            threads[0](&fdb);
            for thread in spawned {
                thread.join().unwrap();
            }
            check(&fdb);
            after(&fdb);
        });
    }
}

/// A table in which key 0 was learned at port 0.
fn one_learned() -> Fdb {
    let fdb = fdb(2);
    assert_eq!(learn(&fdb, key(0), on(0), 0), Learn::New);
    fdb
}

fn learn_key_0_at_port_0(fdb: &Fdb) {
    let answer = learn(fdb, key(0), on(0), 1);
    assert!(matches!(answer, Learn::New | Learn::Moved { .. } | Learn::Pinned), "{answer:?}");
}

fn learn_key_0_at_port_1(fdb: &Fdb) {
    let answer = learn(fdb, key(0), on(1), 1);
    assert!(matches!(answer, Learn::New | Learn::Moved { .. } | Learn::Pinned), "{answer:?}");
}

#[test]
fn two_workers_insert_the_same_key() {
    let threads = [learn_key_0_at_port_0, learn_key_0_at_port_1];
    race(3, || fdb(2), &threads, |fdb| assert_eq!(fdb.len(), 1));
}

#[test]
fn a_slot_is_reused_while_it_is_read() {
    let reuse = |fdb: &Fdb| {
        assert!(fdb.remove(key(0)));
        assert_eq!(learn(fdb, key(1), on(1), 0), Learn::New);
    };
    let read_old = |fdb: &Fdb| {
        let old = lookup(fdb, key(0));
        assert!(old.is_none() || old == Some(on(0)), "{old:?}");
    };
    let read_new = |fdb: &Fdb| {
        let new = lookup(fdb, key(1));
        assert!(new.is_none() || new == Some(on(1)), "{new:?}");
        let again = fdb.peek(key(1)).map(|entry| entry.dest);
        assert!(new.is_none() || again == new, "{again:?} after {new:?}");
    };
    let list = |fdb: &Fdb| {
        fdb.for_each(|entry| {
            let number = entry.key.domain().bridge().index() as u16 / 16;
            assert_eq!((entry.key, entry.dest), (key(number), on(number)));
        });
    };
    for read in [read_old, read_new, list] {
        race(3, one_learned, &[reuse, read], |fdb| assert_eq!(fdb.len(), 1));
    }
}

/// Out, another in, and the first in again: what a reader without the sequence number would take
/// for an entry that never changed.
#[test]
fn a_slot_is_reused_twice_while_it_is_read() {
    let reuse = |fdb: &Fdb| {
        assert!(fdb.remove(other_mac(0)));
        learn(fdb, other_mac(1), on(1), 0);
        assert!(fdb.remove(other_mac(1)));
        learn(fdb, other_mac(0), on(0), 0);
    };
    let read = |fdb: &Fdb| {
        let old = lookup(fdb, other_mac(0));
        assert!(old.is_none() || old == Some(on(0)), "{old:?}");
    };
    let setup = || {
        let fdb = fdb(2);
        learn(&fdb, other_mac(0), on(0), 0);
        fdb
    };
    race(2, setup, &[reuse, read], |fdb| assert_eq!(fdb.len(), 1));
}

#[test]
fn an_entry_that_moves_is_never_missed() {
    let read = |fdb: &Fdb| {
        let first = lookup(fdb, key(0)).expect("it is there all the time");
        let second = lookup(fdb, key(0)).expect("it is there all the time");
        assert!(first == on(0) || second == on(1), "it went back from {first:?}");
    };
    race(3, one_learned, &[learn_key_0_at_port_1, read], |fdb| {
        assert_eq!(lookup(fdb, key(0)), Some(on(1)));
    });
}

#[test]
fn two_workers_move_the_same_key() {
    let setup = || {
        let fdb = fdb(2);
        fdb.set(key(0), Dest::Remote(5), Flags::CONTROL, Tick(0)).unwrap();
        fdb
    };
    // One of them may be refused: for a moment there are two places taken, and a third is fixed.
    let one = |fdb: &Fdb| {
        learn(fdb, key(0), on(0), 1);
    };
    let other = |fdb: &Fdb| {
        learn(fdb, key(0), on(1), 1);
    };
    race(3, setup, &[one, other], |fdb| {
        assert_eq!((fdb.len(), fdb.fixed_count()), (1, 0));
    });
}

#[test]
fn a_port_is_flushed_while_an_entry_moves_from_it() {
    let flush = |fdb: &Fdb| {
        fdb.flush(&Flush::all().port(PortId::new(0).unwrap()));
    };
    race(3, one_learned, &[flush, learn_key_0_at_port_1], |fdb| {
        assert_eq!(lookup(fdb, key(0)), Some(on(1)), "what was learned last stays");
    });
}

#[test]
fn an_entry_is_refreshed_while_it_is_swept() {
    let sweep = |fdb: &Fdb| {
        fdb.sweep(Tick(400), |_| 300);
    };
    let refresh = |fdb: &Fdb| {
        learn(fdb, key(0), on(0), 400);
    };
    race(3, one_learned, &[sweep, refresh], |fdb| {
        let entry = fdb.peek(key(0)).expect("a frame came a moment ago");
        assert_eq!(entry.age_secs(Tick(400)), 0);
    });
}

#[test]
fn an_entry_is_evicted_while_it_is_refreshed_and_another_comes() {
    let setup = || {
        let fdb = one_learned();
        fdb.set_bridge_limit(bridge(0), 0);
        fdb
    };
    let evict = |fdb: &Fdb| {
        fdb.sweep(Tick(1), |_| 300);
    };
    let work = |fdb: &Fdb| {
        learn(fdb, key(0), on(0), 1);
        assert_eq!(learn(fdb, key(1), on(1), 1), Learn::BridgeLimit);
    };
    race(2, setup, &[evict, work], |fdb| assert!(fdb.len() <= 1));
}

#[test]
fn a_static_entry_wins_over_one_learned_at_the_same_time() {
    let set = |fdb: &Fdb| fdb.set(key(0), on(0), Flags::STATIC, Tick(0)).unwrap();
    race(
        3,
        || fdb(2),
        &[set, learn_key_0_at_port_1],
        |fdb| {
            let entry = fdb.peek(key(0)).unwrap();
            assert_eq!((entry.dest, entry.flags, fdb.len()), (on(0), Flags::STATIC, 1));
        },
    );
}

#[test]
fn the_last_place_goes_to_one() {
    let one = |fdb: &Fdb| {
        learn(fdb, key(0), on(0), 0);
    };
    let other = |fdb: &Fdb| {
        learn(fdb, key(1), on(1), 0);
    };
    race(
        3,
        || fdb(1),
        &[one, other],
        |fdb| {
            assert_eq!((fdb.len(), fdb.bridge_count(bridge(0))), (1, 1));
        },
    );
}

#[test]
fn an_entry_is_inserted_twice_and_removed() {
    let insert_and_remove = |fdb: &Fdb| {
        learn(fdb, key(0), on(0), 0);
        fdb.remove(key(0));
    };
    race(
        2,
        || fdb(2),
        &[insert_and_remove, learn_key_0_at_port_1],
        |fdb| {
            assert!(fdb.len() <= 1);
        },
    );
}
