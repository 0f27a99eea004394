//! Limits of the FDB: a port, a bridge and all have one, and who holds little gets in.

use switch_core::fdb::FdbConfig;
use switch_core::testing::frames::mac;
use switch_core::wire::MacAddr;

use crate::lab::{Lab, LabConfig, Port, small};

/// Sends `count` frames with new sources from `port`, and leaves nothing at the far ends.
fn flood_from(lab: &mut Lab, port: Port, others: &[Port], first: u32, count: u32) {
    for n in first..first + count {
        lab.send(port, small(MacAddr::BROADCAST, mac(n)));
        for other in others {
            lab.received(*other);
        }
    }
}

pub(crate) fn a_port_learns_no_more_than_its_limit() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    lab.switch.fdb().set_port_limit(lab.id(a), Some(5));
    flood_from(&mut lab, a, &[b], 100, 20);
    assert_eq!(lab.switch.fdb().port_count(lab.id(a)), 5);
    assert_eq!(lab.worker_counters(0).learn_limited.get(), 15);
    // The first ones are known, the others' frames pass all the same.
    lab.passes(b, &small(mac(100), mac(1)), &[a]);
    flood_from(&mut lab, b, &[a], 200, 20);
    assert_eq!(lab.switch.fdb().port_count(lab.id(b)), 21, "nobody else is limited");
    // An address that leaves makes room for another.
    lab.switch.fdb().remove(lab.entry(br, 0, mac(100)).unwrap().key);
    flood_from(&mut lab, a, &[b], 300, 2);
    assert_eq!(lab.learned(br, 0, mac(300)), Some(a));
    assert_eq!(lab.learned(br, 0, mac(301)), None);
}

pub(crate) fn a_flooded_port_does_not_push_out_the_others() {
    let fdb = FdbConfig { max_total: 4096, max_per_bridge: 256 };
    let mut lab = Lab::with(LabConfig { fdb, ..LabConfig::default() });
    let br = lab.bridge(0);
    let (good, bad, late) = (lab.port(br), lab.port(br), lab.port(br));
    flood_from(&mut lab, good, &[bad, late], 1, 10);
    flood_from(&mut lab, bad, &[good, late], 1000, 1000);
    assert!(lab.switch.fdb().bridge_count(br) <= 256);
    lab.advance(1);
    for n in 1..=10 {
        assert_eq!(lab.learned(br, 0, mac(n)), Some(good), "an entry of the others is kept");
    }
    // Known unicast is not flooded, whatever the bad port does.
    lab.passes(late, &small(mac(5), mac(500)), &[good]);
    assert_eq!(lab.learned(br, 0, mac(500)), Some(late), "and who comes late is learned");
    // Whoever holds little and is refused gets room at the cost of who holds most.
    for _ in 0..4 {
        flood_from(&mut lab, late, &[good, bad], 501, 30);
        lab.advance(1);
    }
    assert_eq!(lab.switch.fdb().port_count(lab.id(late)), 31);
    for n in 1..=10 {
        assert_eq!(lab.learned(br, 0, mac(n)), Some(good));
    }
}

pub(crate) fn one_bridge_does_not_fill_the_table_of_another() {
    let fdb = FdbConfig { max_total: 200, max_per_bridge: 1000 };
    let mut lab = Lab::with(LabConfig { fdb, ..LabConfig::default() });
    let (br, other) = (lab.bridge(0), lab.bridge(1));
    let (a, b, c, d) = (lab.port(br), lab.port(br), lab.port(other), lab.port(other));
    flood_from(&mut lab, a, &[b], 1, 1000);
    assert!(lab.switch.fdb().len() <= 200);
    lab.advance(1);
    lab.passes(c, &small(MacAddr::BROADCAST, mac(5000)), &[d]);
    assert_eq!(lab.learned(other, 0, mac(5000)), Some(c));
}

/// More addresses than any table takes: memory stays what it was at the start.
pub(crate) fn memory_is_bounded() {
    let fdb = FdbConfig { max_total: 1024, max_per_bridge: 1024 };
    let mut lab = Lab::with(LabConfig { fdb, ..LabConfig::default() });
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    let before = lab.switch.fdb().capacity_bytes();
    for round in 0..40u32 {
        for n in 0..500 {
            lab.inject(a, small(MacAddr::BROADCAST, mac(round * 500 + n)));
        }
        lab.run();
        lab.received(b);
        lab.advance_millis(100);
    }
    assert!(lab.switch.fdb().len() <= 1024);
    assert_eq!(lab.switch.fdb().capacity_bytes(), before);
}
