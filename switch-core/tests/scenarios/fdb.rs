//! Learning, ageing, moving and flushing.

use switch_core::Domain;
use switch_core::DropReason;
use switch_core::config::PortVlans;
use switch_core::event::WorkerEvent;
use switch_core::fdb::{Dest, Flags, Flush};
use switch_core::testing::frames::{mac, tagged};
use switch_core::wire::MacAddr;

use crate::lab::{Lab, small};

pub(crate) fn learns_and_forwards() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
    // Unknown: everybody else gets it, in order of their numbers.
    lab.passes(a, &small(mac(2), mac(1)), &[b, c]);
    assert_eq!(lab.learned(br, 0, mac(1)), Some(a));
    // The answer goes to one port only, and so does what follows.
    lab.passes(b, &small(mac(1), mac(2)), &[a]);
    lab.passes(a, &small(mac(2), mac(1)), &[b]);
    lab.passes(c, &small(mac(1), mac(3)), &[a]);
    lab.housekeep();
    let news = lab.events.iter().filter(|e| matches!(e, WorkerEvent::Learned { .. })).count();
    assert_eq!((news, lab.events.len()), (3, 3));
    assert_eq!(lab.totals(a).forwarded, 3, "a flood of one frame leaves by two ports");
}

/// The frame right behind the one that taught the address profits already.
pub(crate) fn learns_within_a_burst() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
    // b's frame is handled after a's, in the same turn; a's second sees nothing of it.
    lab.inject(a, small(mac(9), mac(1)));
    lab.inject(a, small(mac(1), mac(1)));
    lab.inject(b, small(mac(1), mac(2)));
    lab.round();
    let first = small(mac(9), mac(1));
    lab.expect(&[(b, &first), (c, &first), (a, &small(mac(1), mac(2)))]);
    assert_eq!(lab.drops(a, DropReason::Hairpin), 1);
}

pub(crate) fn ages_out() {
    for ageing in [10u32, 300, 1_000_000] {
        let mut lab = Lab::new();
        let br = lab.bridge(0);
        lab.set_ageing(br, ageing);
        let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
        lab.passes(a, &small(MacAddr::BROADCAST, mac(1)), &[b, c]);
        lab.advance_millis(u64::from(ageing) * 1000);
        assert_eq!(lab.learned(br, 0, mac(1)), Some(a), "not before its time");
        lab.passes(b, &small(mac(1), mac(2)), &[a]);
        lab.advance(2);
        assert_eq!(lab.learned(br, 0, mac(1)), None, "ageing {ageing}");
        lab.passes(b, &small(mac(1), mac(2)), &[a, c]);
        assert_eq!(lab.learned(br, 0, mac(2)), Some(b), "which was heard since");
    }
}

pub(crate) fn each_bridge_ages_by_its_own_time() {
    let mut lab = Lab::new();
    let (slow, fast) = (lab.bridge(0), lab.bridge(1));
    lab.set_ageing(fast, 10);
    let (a, b) = (lab.port(slow), lab.port(fast));
    lab.dropped(a, small(mac(9), mac(1)), a, DropReason::NoDestination);
    lab.dropped(b, small(mac(9), mac(1)), b, DropReason::NoDestination);
    lab.advance(12);
    assert_eq!(lab.learned(slow, 0, mac(1)), Some(a));
    assert_eq!(lab.learned(fast, 0, mac(1)), None);
}

/// Frames *to* a station do not keep its entry alive; frames *from* it do.
pub(crate) fn only_the_source_refreshes() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    lab.set_ageing(br, 10);
    let (a, b) = (lab.port(br), lab.port(br));
    lab.passes(a, &small(mac(9), mac(1)), &[b]);
    for _ in 0..3 {
        lab.advance(4);
        lab.passes(b, &small(mac(1), mac(2)), &[a]);
    }
    assert_eq!(lab.learned(br, 0, mac(1)), None, "12 s of frames to it");
    lab.passes(a, &small(mac(2), mac(1)), &[b]);
    for _ in 0..10 {
        lab.advance(9);
        lab.passes(a, &small(mac(2), mac(1)), &[b]);
    }
    assert_eq!(lab.learned(br, 0, mac(1)), Some(a), "90 s of frames from it");
}

pub(crate) fn moves() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
    lab.passes(a, &small(mac(9), mac(1)), &[b, c]);
    lab.passes(b, &small(mac(9), mac(1)), &[a, c]);
    assert_eq!(lab.learned(br, 0, mac(1)), Some(b));
    lab.passes(c, &small(mac(1), mac(3)), &[b]);
    lab.housekeep();
    let (from, to) = (lab.id(a), lab.id(b));
    assert!(lab.events.iter().any(
        |e| matches!(e, WorkerEvent::Moved { from: Dest::Port(f), to: Dest::Port(t), .. } if (*f, *t) == (from, to))
    ));
    assert_eq!(lab.switch.fdb().port_count(from), 0);
}

pub(crate) fn static_entries_stay() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
    lab.set_entry(br, 0, mac(1), a, Flags::STATIC);
    lab.passes(c, &small(mac(1), mac(3)), &[a]);
    // Frames from elsewhere do not move it, nor does time.
    lab.passes(b, &small(mac(3), mac(1)), &[c]);
    lab.advance(400);
    lab.passes(b, &small(mac(1), mac(2)), &[a]);
    lab.switch.fdb().flush(&Flush::all());
    assert_eq!(lab.learned(br, 0, mac(1)), Some(a), "a flush is for learned entries");
}

pub(crate) fn sticky_entries_age_but_do_not_move() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    lab.set_entry(br, 0, mac(1), a, Flags::STICKY);
    lab.passes(b, &small(MacAddr::BROADCAST, mac(1)), &[a]);
    assert_eq!(lab.learned(br, 0, mac(1)), Some(a));
    lab.advance(302);
    assert_eq!(lab.learned(br, 0, mac(1)), None);
    lab.passes(b, &small(MacAddr::BROADCAST, mac(1)), &[a]);
    assert_eq!(lab.learned(br, 0, mac(1)), Some(b));
}

pub(crate) fn flushes() {
    let mut lab = Lab::new();
    let (br, other) = (lab.bridge(0), lab.bridge(1));
    let trunk = PortVlans::trunk([10, 20], None);
    let a = lab.vlan_port(br, trunk.clone());
    let b = lab.vlan_port(br, trunk);
    let c = lab.port(other);
    let teach = |lab: &mut Lab| {
        for (port, n) in [(a, 1), (b, 2)] {
            for vid in [10, 20] {
                lab.send(port, tagged(&small(MacAddr::BROADCAST, mac(n)), 0x8100, vid));
            }
        }
        lab.send(c, small(MacAddr::BROADCAST, mac(3)));
        for port in [a, b, c] {
            lab.received(port);
        }
        assert_eq!(lab.switch.fdb().len(), 5);
    };
    let fdb = |lab: &Lab, filter: Flush| lab.switch.fdb().flush(&filter);
    teach(&mut lab);
    assert_eq!(fdb(&lab, Flush::all().port(lab.id(a))), 2);
    assert_eq!(lab.learned(br, 10, mac(1)), None);
    assert_eq!(lab.learned(br, 10, mac(2)), Some(b));
    teach(&mut lab);
    assert_eq!(fdb(&lab, Flush::all().domain(Domain::new(br, 10))), 2);
    assert_eq!(lab.learned(br, 10, mac(2)), None);
    assert_eq!(lab.learned(br, 20, mac(2)), Some(b));
    teach(&mut lab);
    assert_eq!(fdb(&lab, Flush::all().bridge(br)), 4);
    assert_eq!(lab.learned(br, 20, mac(2)), None);
    assert_eq!(lab.learned(other, 0, mac(3)), Some(c));
    teach(&mut lab);
    assert_eq!(fdb(&lab, Flush::all()), 5);
    assert!(lab.switch.fdb().is_empty());
}

/// A port that is closed takes its addresses with it, and traffic to them is flooded again.
pub(crate) fn closing_a_port_forgets_its_addresses() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
    lab.passes(a, &small(MacAddr::BROADCAST, mac(1)), &[b, c]);
    lab.set_entry(br, 0, mac(7), a, Flags::STATIC);
    lab.passes(c, &small(mac(7), mac(3)), &[a]);
    lab.close(a);
    assert_eq!(lab.switch.fdb().len(), 1);
    lab.passes(b, &small(mac(1), mac(2)), &[c]);
    lab.passes(b, &small(mac(7), mac(2)), &[c]);
}

pub(crate) fn without_learning_everything_floods() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    lab.set_bridge(br, false);
    let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
    lab.passes(a, &small(mac(2), mac(1)), &[b, c]);
    lab.passes(b, &small(mac(1), mac(2)), &[a, c]);
    assert!(lab.switch.fdb().is_empty());
    lab.set_entry(br, 0, mac(1), a, Flags::STATIC);
    lab.passes(b, &small(mac(1), mac(2)), &[a]);
}

/// The same address lives in two VLANs and in two bridges at once, behind different ports.
pub(crate) fn learning_is_independent() {
    let mut lab = Lab::new();
    let (br, other) = (lab.bridge(0), lab.bridge(1));
    let access = |lab: &mut Lab, vid| lab.vlan_port(br, PortVlans::access(vid));
    let (a10, b10, a20, b20) =
        (access(&mut lab, 10), access(&mut lab, 10), access(&mut lab, 20), access(&mut lab, 20));
    let (c, d) = (lab.port(other), lab.port(other));
    lab.passes(a10, &small(mac(9), mac(1)), &[b10]);
    lab.passes(b20, &small(mac(9), mac(1)), &[a20]);
    lab.passes(d, &small(mac(9), mac(1)), &[c]);
    assert_eq!(lab.learned(br, 10, mac(1)), Some(a10));
    assert_eq!(lab.learned(br, 20, mac(1)), Some(b20));
    assert_eq!(lab.learned(other, 0, mac(1)), Some(d));
    lab.passes(b10, &small(mac(1), mac(2)), &[a10]);
    lab.passes(a20, &small(mac(1), mac(2)), &[b20]);
    lab.passes(c, &small(mac(1), mac(2)), &[d]);
}
