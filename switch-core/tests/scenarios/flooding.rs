//! Who gets what is flooded, and who does not.

use switch_core::DropReason;
use switch_core::config::PortVlans;
use switch_core::testing::frames::{mac, tagged};
use switch_core::wire::MacAddr;

use crate::lab::{Lab, Port, small};

const BROADCAST: MacAddr = MacAddr::BROADCAST;

pub(crate) fn members_only() {
    let mut lab = Lab::new();
    let (br, other) = (lab.bridge(0), lab.bridge(1));
    let a = lab.vlan_port(br, PortVlans::access(10));
    let b = lab.vlan_port(br, PortVlans::access(10));
    let _c = lab.vlan_port(br, PortVlans::access(20));
    let d = lab.vlan_port(br, PortVlans::trunk([10, 20], None));
    let _e = lab.vlan_port(other, PortVlans::access(10));
    let _f = lab.port(other);
    // Broadcast, multicast, unknown unicast and a frame of no known protocol.
    for dst in [BROADCAST, MacAddr::new([0x01, 0, 0x5e, 1, 2, 3]), mac(77)] {
        let frame = small(dst, mac(1));
        lab.send(a, frame.clone());
        lab.expect(&[(b, &frame), (d, &tagged(&frame, 0x8100, 10))]);
    }
    let totals = lab.totals(a);
    assert_eq!((totals.rx_frames, totals.copied, totals.forwarded), (3, 3, 6));
}

/// The original goes last: with no buffer to spare, one port still gets the frame.
pub(crate) fn the_original_goes_to_the_last_port() {
    use switch_core::frame::PoolConfig;
    let pool = PoolConfig { heads: 1, tails: 1, max_heads: 1 };
    let mut lab = Lab::with(crate::lab::LabConfig { pool, ..Default::default() });
    let br = lab.bridge(0);
    let ports: Vec<Port> = (0..4).map(|_| lab.port(br)).collect();
    let frame = small(BROADCAST, mac(1));
    lab.send(ports[0], frame.clone());
    lab.expect(&[(ports[3], &frame)]);
    assert_eq!(lab.drops(ports[0], DropReason::CopyFailed), 2);
}

/// A hundred ports get a frame each; buffers for all of them are found and given back.
pub(crate) fn many_members() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let ports: Vec<Port> = (0..100).map(|_| lab.port(br)).collect();
    for frame in [small(BROADCAST, mac(1)), crate::lab::frame(BROADCAST, mac(2), 1514)] {
        lab.passes(ports[50], &frame, &[&ports[..50], &ports[51..]].concat());
    }
    assert_eq!(lab.totals(ports[50]).copied, 2 * 98);
}

/// 01:80:C2:00:00:00 to 0F end at the first bridge, tagged or not (IEEE 802.1Q table 8-1).
pub(crate) fn reserved_addresses() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    for last in 0..=0x0f {
        let dst = MacAddr::new([0x01, 0x80, 0xc2, 0, 0, last]);
        for frame in [
            small(dst, mac(1)),
            tagged(&small(dst, mac(1)), 0x8100, 10),
            tagged(&small(dst, mac(1)), 0x8100, 0),
        ] {
            lab.dropped(a, frame, a, DropReason::ReservedDestination);
        }
    }
    assert!(lab.switch.fdb().is_empty(), "nothing is learned from them");
    // What is beside them is ordinary multicast.
    for last in (0x10..=0x2f).chain([0xff]) {
        let dst = MacAddr::new([0x01, 0x80, 0xc2, 0, 0, last]);
        lab.passes(a, &small(dst, mac(1)), &[b]);
    }
    lab.passes(a, &small(MacAddr::new([0x01, 0x80, 0xc2, 0, 1, 0]), mac(1)), &[b]);
    lab.passes(a, &small(MacAddr::new([0x01, 0x80, 0xc3, 0, 0, 0]), mac(1)), &[b]);
}

pub(crate) fn bad_sources() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, _) = (lab.port(br), lab.port(br));
    let group = MacAddr::new([0x03, 0, 0, 0, 0, 1]);
    for src in [group, BROADCAST] {
        lab.dropped(a, small(mac(2), src), a, DropReason::SourceGroup);
    }
    lab.dropped(a, small(BROADCAST, MacAddr::new([0; 6])), a, DropReason::SourceZero);
    assert!(lab.switch.fdb().is_empty());
}

/// What is behind the port it came from has it already.
pub(crate) fn no_hairpin() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    lab.passes(a, &small(BROADCAST, mac(1)), &[b]);
    lab.dropped(a, small(mac(1), mac(2)), a, DropReason::Hairpin);
    lab.dropped(a, small(mac(1), mac(1)), a, DropReason::Hairpin);
    assert_eq!(lab.learned(br, 0, mac(2)), Some(a), "it is learned all the same");
}

pub(crate) fn isolated_ports() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let isolated = |lab: &mut Lab| {
        lab.port_with(|setup| (setup.conf.bridge, setup.conf.isolated) = (Some(br), true))
    };
    let (a, b) = (isolated(&mut lab), isolated(&mut lab));
    let uplink = lab.port(br);
    // Floods leave them out, and known unicast between them is dropped.
    lab.passes(a, &small(BROADCAST, mac(1)), &[uplink]);
    lab.passes(b, &small(mac(9), mac(2)), &[uplink]);
    lab.dropped(a, small(mac(2), mac(1)), a, DropReason::Isolated);
    // With the others both talk as ever.
    lab.passes(uplink, &small(mac(1), mac(3)), &[a]);
    lab.passes(uplink, &small(BROADCAST, mac(3)), &[a, b]);
    lab.passes(b, &small(mac(3), mac(2)), &[uplink]);
    lab.change(a, |conf| conf.isolated = false);
    lab.passes(a, &small(mac(2), mac(1)), &[b]);
}

pub(crate) fn ports_that_are_down_get_nothing() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b, c) = (lab.port(br), lab.port(br), lab.port(br));
    lab.passes(b, &small(BROADCAST, mac(2)), &[a, c]);
    lab.change(b, |conf| conf.up = false);
    lab.passes(a, &small(BROADCAST, mac(1)), &[c]);
    lab.dropped(a, small(mac(2), mac(1)), b, DropReason::PortDown);
    lab.change(b, |conf| conf.up = true);
    lab.passes(a, &small(mac(2), mac(1)), &[b]);
}

pub(crate) fn alone_in_a_bridge_or_in_none() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let alone = lab.port(br);
    lab.dropped(alone, small(BROADCAST, mac(1)), alone, DropReason::NoDestination);
    let unbound = lab.port_with(|_| {});
    lab.dropped(unbound, small(BROADCAST, mac(1)), unbound, DropReason::PortUnbound);
    lab.dropped(alone, small(BROADCAST, mac(1)), alone, DropReason::NoDestination);
    // A bridge that does not exist (any more) is no bridge.
    lab.change(unbound, |conf| conf.bridge = Some(switch_core::BridgeId::new(9)));
    lab.dropped(unbound, small(BROADCAST, mac(1)), unbound, DropReason::PortUnbound);
}

/// What comes in on a port that is not published yet waits for the others to be there, too.
pub(crate) fn frames_wait_for_the_snapshot() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    lab.unpublish(a);
    lab.unpublish(b);
    lab.send(a, small(BROADCAST, mac(1)));
    lab.expect(&[]);
    assert_eq!((lab.wire(a).pending(), lab.totals(a).rx_frames), (1, 0));
    // Both at once, as a daemon that starts publishes them.
    let mut next = lab.switch.snapshot().next();
    for port in [a, b] {
        next.set_port(lab.conf(port));
    }
    lab.switch.publish(next);
    lab.run();
    lab.expect(&[(b, &small(BROADCAST, mac(1)))]);
    assert_eq!(lab.all_drops(), 0);
}

/// BUM frames beyond the limit are dropped; known unicast never is.
pub(crate) fn storm_limit() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.port_with(|s| (s.conf.bridge, s.conf.storm) = (Some(br), Some(100)));
    let b = lab.port(br);
    lab.passes(b, &small(BROADCAST, mac(2)), &[a]);
    let storm = |lab: &mut Lab, frames: u32| {
        for n in 0..frames {
            let dst = [BROADCAST, MacAddr::new([0x33, 0x33, 0, 0, 0, 1]), mac(9000 + n)];
            lab.inject(a, small(dst[n as usize % 3], mac(1)));
        }
        lab.run();
        lab.received(b).len()
    };
    let first = storm(&mut lab, 500);
    assert!((1..=16).contains(&first), "{first} of a burst passed");
    assert_eq!(lab.drops(a, DropReason::StormLimit), 500 - first as u64);
    // At the limit, nothing more is lost.
    lab.advance(10);
    let before = lab.drops(a, DropReason::StormLimit);
    for _ in 0..200 {
        lab.advance_millis(10);
        assert_eq!(storm(&mut lab, 1), 1);
    }
    assert_eq!(lab.drops(a, DropReason::StormLimit), before);
    // In a storm, too, known unicast passes.
    storm(&mut lab, 500);
    lab.passes(a, &small(mac(2), mac(1)), &[b]);
    let passed: usize = (0..10)
        .map(|_| {
            lab.advance_millis(1000);
            storm(&mut lab, 300)
        })
        .sum();
    assert!((100..=200).contains(&passed), "{passed} passed in ten bursts");
}
