use super::*;
use crate::ids::Domain;
use crate::wire::MacAddr;

fn port(index: u16) -> PortId {
    PortId::new(index).unwrap()
}

fn on(index: u16) -> Dest {
    Dest::Port(port(index))
}

fn bridge(index: u16) -> BridgeId {
    BridgeId::new(index)
}

fn key(mac: u64) -> Key {
    in_vlan(mac, 1, 10)
}

fn in_vlan(mac: u64, b: u16, vid: u16) -> Key {
    Key::new(MacAddr::from_u64(0x0200_0000_0000 | mac), Domain::new(bridge(b), vid))
}

fn fdb(max_total: u32, max_per_bridge: u32) -> Fdb {
    Fdb::with_seed(FdbConfig { max_total, max_per_bridge }, 42)
}

fn learn(fdb: &Fdb, key: Key, dest: Dest, now: u32) -> Learn {
    let hash = fdb.hash(key);
    let dry = fdb.learn_dry(key, hash, dest);
    let wet = fdb.learn(key, hash, dest, Tick(now));
    assert_eq!(dry, wet, "learn_dry and learn disagree about {key:?} at {dest:?}");
    wet
}

fn lookup(fdb: &Fdb, key: Key) -> Option<Dest> {
    fdb.lookup(key, fdb.hash(key))
}

/// Every counter equals what a count of the entries gives.
#[track_caller]
fn check_counts(fdb: &Fdb) {
    let mut entries = Vec::new();
    fdb.for_each(|entry| entries.push(entry));
    assert_eq!(fdb.len(), entries.len());
    let learned: Vec<_> = entries.iter().filter(|e| e.flags.is_learned()).collect();
    assert_eq!(fdb.fixed_count(), entries.len() - learned.len());
    for i in 0..64 {
        let at_port = learned.iter().filter(|e| e.dest == on(i)).count();
        let in_bridge = learned.iter().filter(|e| e.key.domain().bridge() == bridge(i)).count();
        assert_eq!(fdb.port_count(port(i)) as usize, at_port, "port {i}");
        assert_eq!(fdb.bridge_count(bridge(i)) as usize, in_bridge, "bridge {i}");
    }
    let remote = learned.iter().filter(|e| matches!(e.dest, Dest::Remote(_))).count();
    assert_eq!(fdb.remote_count() as usize, remote);
}

#[test]
fn learns_looks_up_refreshes_and_moves() {
    let fdb = fdb(100, 100);
    assert_eq!(lookup(&fdb, key(1)), None);
    assert_eq!(learn(&fdb, key(1), on(3), 5), Learn::New);
    assert_eq!(lookup(&fdb, key(1)), Some(on(3)));
    assert_eq!(learn(&fdb, key(1), on(3), 9), Learn::Refreshed);
    assert_eq!(fdb.peek(key(1)).unwrap().age_secs(Tick(10)), 1);
    assert_eq!(learn(&fdb, key(1), on(4), 9), Learn::Moved { from: on(3) });
    assert_eq!(lookup(&fdb, key(1)), Some(on(4)));
    assert_eq!(learn(&fdb, key(1), Dest::Remote(77), 9), Learn::Moved { from: on(4) });
    assert_eq!(lookup(&fdb, key(1)), Some(Dest::Remote(77)));
    assert_eq!((fdb.port_count(port(3)), fdb.port_count(port(4)), fdb.remote_count()), (0, 0, 1));
    check_counts(&fdb);
}

#[test]
fn the_same_address_is_learned_apart_in_each_domain() {
    let fdb = fdb(100, 100);
    let keys = [in_vlan(1, 1, 10), in_vlan(1, 1, 11), in_vlan(1, 2, 10), in_vlan(1, 0x101, 10)];
    for (i, key) in (0..).zip(keys) {
        assert_eq!(learn(&fdb, key, on(i), 0), Learn::New);
    }
    for (i, key) in (0..).zip(keys) {
        assert_eq!(lookup(&fdb, key), Some(on(i)));
    }
    assert_eq!(lookup(&fdb, in_vlan(1, 2, 11)), None);
}

#[test]
fn a_remote_that_cannot_be_stored_is_not_learned() {
    let fdb = fdb(100, 100);
    assert_eq!(learn(&fdb, key(1), Dest::Remote(Dest::REMOTES), 0), Learn::NoSlot);
    assert_eq!(learn(&fdb, key(1), Dest::Remote(Dest::REMOTES - 1), 0), Learn::New);
    assert_eq!(fdb.len(), 1);
    let refused = fdb.set(key(2), Dest::Remote(u32::MAX), Flags::STATIC, Tick(0));
    assert_eq!(refused, Err(FdbError::RemoteOutOfRange(u32::MAX)));
}

#[test]
fn what_is_pinned_does_not_move() {
    let fdb = fdb(100, 100);
    for flags in [Flags::STATIC, Flags::STICKY, Flags::LOCAL, Flags::CONTROL | Flags::STATIC] {
        fdb.set(key(1), on(1), flags, Tick(0)).unwrap();
        assert_eq!(learn(&fdb, key(1), on(2), 0), Learn::Pinned, "{flags:?}");
        assert_eq!(lookup(&fdb, key(1)), Some(on(1)));
        let here = if flags == Flags::LOCAL { Learn::Pinned } else { Learn::Refreshed };
        assert_eq!(learn(&fdb, key(1), on(1), 0), here, "{flags:?}");
        assert_eq!(fdb.peek(key(1)).unwrap().flags, flags);
        check_counts(&fdb);
    }
    assert!(fdb.remove(key(1)));
    assert!(!fdb.remove(key(1)));
    assert!(fdb.is_empty());
    check_counts(&fdb);
}

#[test]
fn traffic_takes_over_what_a_control_plane_put_there() {
    let fdb = fdb(100, 100);
    fdb.set(key(1), Dest::Remote(1), Flags::CONTROL, Tick(0)).unwrap();
    assert_eq!((fdb.fixed_count(), fdb.remote_count()), (1, 0));
    assert_eq!(learn(&fdb, key(1), on(2), 0), Learn::Moved { from: Dest::Remote(1) });
    assert_eq!(fdb.peek(key(1)).unwrap().flags, Flags::NONE);
    assert_eq!((fdb.fixed_count(), fdb.port_count(port(2))), (0, 1));
    check_counts(&fdb);
    // And back: what is set replaces what was learned.
    fdb.set(key(1), Dest::Remote(1), Flags::CONTROL, Tick(0)).unwrap();
    assert_eq!((fdb.fixed_count(), fdb.port_count(port(2))), (1, 0));
    check_counts(&fdb);
}

#[test]
fn only_one_stations_address_can_be_set() {
    let fdb = fdb(100, 100);
    let domain = Domain::new(bridge(1), 1);
    for mac in [MacAddr::ZERO, MacAddr::BROADCAST, MacAddr::from_u64(0x0100_5e00_0001)] {
        let refused = fdb.set(Key::new(mac, domain), on(1), Flags::STATIC, Tick(0));
        assert_eq!(refused, Err(FdbError::NotAStation(mac)));
    }
    assert!(fdb.is_empty());
}

#[test]
fn ages_out_after_the_ageing_time_and_not_before() {
    // Also where the 20 bits of an age, and where the tick itself, wrap.
    for start in [0, (1 << 20) - 150, u32::MAX - 150] {
        let fdb = fdb(100, 100);
        let at = |secs: u32| start.wrapping_add(secs);
        let ageing = |b: BridgeId| if b == bridge(2) { MAX_AGEING } else { 300 };
        learn(&fdb, key(1), on(1), at(0));
        learn(&fdb, key(2), on(1), at(0));
        learn(&fdb, in_vlan(3, 2, 0), on(1), at(0));
        fdb.set(key(4), on(1), Flags::STATIC, Tick(at(0))).unwrap();
        learn(&fdb, key(2), on(1), at(100));
        assert_eq!(fdb.sweep(Tick(at(300)), ageing), Swept::default());
        let swept = fdb.sweep(Tick(at(301)), ageing);
        assert_eq!((swept.aged, swept.evicted, swept.removed.len()), (1, 0, 1));
        assert_eq!((swept.removed[0].0.key, swept.removed[0].1), (key(1), Gone::Aged));
        assert_eq!(fdb.sweep(Tick(at(401)), ageing).aged, 1);
        assert_eq!(fdb.sweep(Tick(at(MAX_AGEING)), ageing).aged, 0);
        assert_eq!(fdb.sweep(Tick(at(MAX_AGEING + 1)), ageing).aged, 1);
        assert_eq!(lookup(&fdb, key(4)), Some(on(1)));
        assert_eq!(fdb.len(), 1);
        check_counts(&fdb);
    }
}

#[test]
fn flushes_what_the_filter_says() {
    let fdb = fdb(1000, 1000);
    let fill = || {
        for mac in 0..60 {
            let (b, vid) = (1 + (mac % 2) as u16, 10 + (mac % 3) as u16);
            fdb.set(in_vlan(mac, b, vid), on((mac % 5) as u16), Flags::NONE, Tick(0)).unwrap();
        }
        fdb.set(in_vlan(100, 1, 10), on(0), Flags::STATIC, Tick(0)).unwrap();
        check_counts(&fdb);
    };
    let cases = [
        (Flush::all(), 60),
        (Flush::all().with_fixed(), 61),
        (Flush::all().port(port(0)), 12),
        (Flush::all().dest(on(0)).with_fixed(), 13),
        (Flush::all().bridge(bridge(1)), 30),
        (Flush::all().domain(Domain::new(bridge(1), 10)), 10),
        (Flush::all().domain(Domain::new(bridge(1), 10)).port(port(0)), 2),
        (Flush::all().port(port(9)), 0),
    ];
    for (filter, count) in cases {
        fill();
        let mut gone = 0;
        assert_eq!(
            fdb.flush_each(&filter, |entry| gone += u32::from(filter.catches(&entry))),
            count
        );
        assert_eq!(gone as usize, count);
        fdb.for_each(|entry| assert!(!filter.catches(&entry)));
        assert_eq!(fdb.len(), 61 - count);
        check_counts(&fdb);
    }
}

#[test]
fn limits_hold_exactly() {
    let fdb = fdb(50, 20);
    fdb.set_port_limit(port(1), Some(5));
    for mac in 0..5 {
        assert_eq!(learn(&fdb, key(mac), on(1), 0), Learn::New);
    }
    assert_eq!(learn(&fdb, key(5), on(1), 0), Learn::PortLimit);
    for mac in 5..20 {
        assert_eq!(learn(&fdb, key(mac), on(2), 0), Learn::New);
    }
    assert_eq!(learn(&fdb, key(20), on(2), 0), Learn::BridgeLimit);
    assert_eq!(learn(&fdb, key(5), on(1), 0), Learn::PortLimit, "a move needs a place, too");
    assert_eq!(learn(&fdb, key(0), on(2), 0), Learn::Moved { from: on(1) }, "but none more");
    for mac in 20..50 {
        assert_eq!(learn(&fdb, in_vlan(mac, 2 + (mac % 2) as u16, 1), on(3), 0), Learn::New);
    }
    assert_eq!(learn(&fdb, in_vlan(50, 4, 1), on(3), 0), Learn::TotalLimit);
    assert_eq!((fdb.len(), fdb.bridge_count(bridge(1))), (50, 20));
    // Static entries need no place to learn.
    fdb.set(key(60), on(1), Flags::STATIC, Tick(0)).unwrap();
    assert_eq!((fdb.len(), fdb.bridge_count(bridge(1)), fdb.port_count(port(1))), (51, 20, 4));
    assert_eq!(
        fdb.set(key(61), on(2), Flags::NONE, Tick(0)),
        Err(FdbError::BridgeLimit(bridge(1)))
    );
    fdb.set_bridge_limit(bridge(1), 100);
    assert_eq!(fdb.set(key(61), on(2), Flags::NONE, Tick(0)), Err(FdbError::TotalLimit));
    check_counts(&fdb);
}

#[test]
fn a_lowered_limit_evicts_the_oldest() {
    let fdb = fdb(1000, 1000);
    for mac in 0..30 {
        learn(&fdb, key(mac), on(1), mac as u32);
        learn(&fdb, in_vlan(mac, 2, 1), on(2), mac as u32);
    }
    fdb.set_port_limit(port(1), Some(10));
    fdb.set_bridge_limit(bridge(2), 20);
    let swept = fdb.sweep(Tick(30), |_| 300);
    assert_eq!((swept.evicted, swept.aged), (30, 0));
    for mac in 0..30 {
        assert_eq!(lookup(&fdb, key(mac)).is_some(), mac >= 20, "{mac}");
        assert_eq!(lookup(&fdb, in_vlan(mac, 2, 1)).is_some(), mac >= 10, "{mac}");
    }
    check_counts(&fdb);
    assert_eq!(fdb.sweep(Tick(30), |_| 300), Swept::default());
}

/// Open vSwitch, tests/ofproto-dpif.at, "MAC table overflow fairness": a flood of 16 addresses
/// from one port into a full table of 10 leaves every other port at least one of its own.
#[test]
fn a_small_full_table_is_shared_fairly() {
    let fdb = fdb(1000, 10);
    for mac in 0..10 {
        assert_eq!(learn(&fdb, key(mac), on(1 + (mac % 3) as u16), mac as u32), Learn::New);
    }
    for round in 0..20 {
        for mac in 100..116 {
            let answer = learn(&fdb, key(mac), on(9), 10 + round);
            assert_ne!(answer, Learn::NoSlot);
        }
        fdb.sweep(Tick(11 + round), |_| 300);
        check_counts(&fdb);
    }
    for p in 1..4 {
        assert!(fdb.port_count(port(p)) >= 2, "port {p} has {}", fdb.port_count(port(p)));
    }
    assert!(fdb.port_count(port(9)) >= 2, "the newcomer gets its share as well");
    assert!(fdb.bridge_count(bridge(1)) <= 10);
}

#[test]
fn a_flood_costs_nobody_else_an_entry_and_others_still_learn() {
    let fdb = fdb(10_000, 4096);
    for mac in 0..100 {
        assert_eq!(learn(&fdb, key(mac), on(1), 0), Learn::New);
    }
    let mut next = 1000;
    for second in 1..20 {
        let mut flood = |count: u64| {
            for mac in next..next + count {
                let hash = fdb.hash(key(mac));
                fdb.learn(key(mac), hash, on(6), Tick(second));
            }
            next += count;
        };
        flood(5000);
        // At once, with no sweep in between.
        let newcomer = key(200 + u64::from(second));
        assert_eq!(learn(&fdb, newcomer, on(2), second), Learn::New);
        flood(5000);
        fdb.sweep(Tick(second), |_| 300);
        assert!(fdb.bridge_count(bridge(1)) <= 4096);
        check_counts(&fdb);
    }
    assert_eq!((fdb.port_count(port(1)), fdb.port_count(port(2))), (100, 19));
    assert!((0..100).all(|mac| lookup(&fdb, key(mac)) == Some(on(1))));
}

#[test]
fn a_full_bridge_at_rest_is_left_alone() {
    let fdb = fdb(100, 10);
    for mac in 0..10 {
        learn(&fdb, key(mac), on((mac % 2) as u16), mac as u32);
    }
    assert_eq!(fdb.sweep(Tick(10), |_| 300), Swept::default());
    // The port that is refused holds as much as anybody: nobody has to go.
    assert_eq!(learn(&fdb, key(10), on(0), 10), Learn::BridgeLimit);
    assert_eq!(fdb.sweep(Tick(10), |_| 300), Swept::default());
}

#[test]
fn a_full_pair_of_buckets_gives_way_to_static_entries_only() {
    // 16 spare buckets and one: 68 slots, and as many static entries as find room.
    let fdb = fdb(1, 1);
    assert_eq!(learn(&fdb, key(0), on(0), 0), Learn::New);
    assert_eq!(fdb.set(key(1), on(0), Flags::STATIC, Tick(0)), Ok(()));
    assert_eq!(fdb.set(key(2), on(0), Flags::STATIC, Tick(0)), Err(FdbError::TotalLimit));
    let fdb = self::fdb(200, 200);
    // Fill well beyond the load the table is made for: 107 buckets, 428 slots.
    let mut learned = 0;
    for mac in 0..200 {
        learned += usize::from(learn(&fdb, key(mac), on((mac % 16) as u16), 0) == Learn::New);
    }
    for mac in 1000..1200 {
        let _ = fdb.set(key(mac), on(1), Flags::STATIC, Tick(0));
    }
    assert_eq!(fdb.fixed_count(), 200, "a static entry is not refused for learned ones");
    assert!(fdb.len() <= learned + 200);
    check_counts(&fdb);
}

#[test]
fn an_entry_costs_less_than_32_bytes() {
    let config = FdbConfig { max_total: 1_000_000, ..FdbConfig::default() };
    let bytes = Fdb::with_seed(config, 1).capacity_bytes();
    assert!(bytes < 32 * 1_000_000, "{bytes} bytes for a million entries");
}

#[test]
fn hashes_name_two_buckets_and_a_foreign_hash_only_misses() {
    let large = fdb(100_000, 100_000);
    let small = fdb(1, 1);
    for mac in 0..1000 {
        let hash = large.hash(key(mac));
        assert_eq!(hash, large.hash(key(mac)));
        let _ = (large.front(hash), large.back(hash));
        let _ = (small.front(hash), small.back(hash));
        assert_eq!(small.lookup(key(mac), hash), None);
        small.learn(key(mac), hash, on(1), Tick(0));
    }
    check_counts(&small);
    assert_ne!(
        Fdb::new(FdbConfig::default()).hash(key(1)),
        Fdb::new(FdbConfig::default()).hash(key(1)),
        "seeds are random"
    );
}

/// Addresses as they are handed out, one after the other or one to a VLAN, spread as well as
/// random ones: a full table turns away next to none.
#[test]
fn addresses_in_a_row_find_slots() {
    const COUNT: u32 = 20_000;
    type Pattern = fn(u64) -> Key;
    let patterns: [(&str, Pattern); 6] = [
        ("last byte first", |n| in_vlan(n, 1, 1)),
        ("first byte first", |n| in_vlan(n.swap_bytes() >> 16, 1, 1)),
        ("one vendor, steps of 256", |n| in_vlan(n << 8, 1, 1)),
        ("one address in every vlan", |n| in_vlan(n >> 12, 1, n as u16 & 0xfff)),
        ("one address in every bridge", |n| in_vlan(n >> 12, n as u16 & 0xfff, 1)),
        ("the vlan in the address", |n| in_vlan(n << 20 | n & 0xfff, 1, n as u16 & 0xfff)),
    ];
    for (name, key) in patterns {
        for seed in [0, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
            let fdb = Fdb::with_seed(FdbConfig { max_total: COUNT, max_per_bridge: COUNT }, seed);
            let refused = (0..u64::from(COUNT) * 63 / 64)
                .map(|n| (fdb.hash(key(n)), key(n), on((n % 64) as u16)))
                .filter(|&(hash, key, dest)| fdb.learn(key, hash, dest, Tick(0)) == Learn::NoSlot)
                .count();
            assert!(refused <= 8, "{name}, seed {seed}: {refused} found no slot");
        }
    }
}
