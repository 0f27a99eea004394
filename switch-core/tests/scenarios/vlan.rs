//! VLANs: who may send what, how it leaves, and what of a tag is kept.

use switch_core::DropReason;
use switch_core::config::PortVlans;
use switch_core::testing::frames::{mac, tagged};
use switch_core::wire::MacAddr;

use crate::lab::{Lab, small};

const CTAG: u16 = 0x8100;
const STAG: u16 = 0x88a8;
const BROADCAST: MacAddr = MacAddr::BROADCAST;

pub(crate) fn access_ports() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.vlan_port(br, PortVlans::access(10));
    let b = lab.vlan_port(br, PortVlans::access(10));
    let c = lab.vlan_port(br, PortVlans::access(20));
    lab.passes(a, &small(BROADCAST, mac(1)), &[b]);
    lab.dropped(c, small(BROADCAST, mac(3)), c, DropReason::NoDestination);
    // An access port takes no tags but those of its own VLAN, and of that none either.
    let own = tagged(&small(BROADCAST, mac(1)), CTAG, 10);
    lab.send(a, own);
    lab.expect(&[(b, &small(BROADCAST, mac(1)))]);
    lab.dropped(a, tagged(&small(BROADCAST, mac(1)), CTAG, 20), a, DropReason::VlanNotMember);
    assert_eq!(lab.learned(br, 20, mac(1)), None, "nothing is learned from what is filtered");
}

pub(crate) fn trunk_and_access() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let trunk = lab.vlan_port(br, PortVlans::trunk([10, 20], None));
    let ten = lab.vlan_port(br, PortVlans::access(10));
    let twenty = lab.vlan_port(br, PortVlans::access(20));
    let plain = small(BROADCAST, mac(1));
    lab.send(ten, plain.clone());
    lab.expect(&[(trunk, &tagged(&plain, CTAG, 10))]);
    lab.send(trunk, tagged(&plain, CTAG, 20));
    lab.expect(&[(twenty, &plain)]);
    lab.dropped(trunk, tagged(&plain, CTAG, 30), trunk, DropReason::VlanNotMember);
    lab.dropped(trunk, plain.clone(), trunk, DropReason::VlanUntagged);
    lab.dropped(trunk, tagged(&plain, CTAG, 0xe000), trunk, DropReason::VlanUntagged);
}

pub(crate) fn native_vlan() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let trunk = lab.vlan_port(br, PortVlans::trunk([10, 20], Some(10)));
    let ten = lab.vlan_port(br, PortVlans::access(10));
    let twenty = lab.vlan_port(br, PortVlans::access(20));
    let plain = small(BROADCAST, mac(1));
    lab.passes(trunk, &plain, &[ten]);
    lab.passes(ten, &plain, &[trunk]);
    // Its own VLAN may come in tagged, too, and leaves untagged.
    lab.send(trunk, tagged(&plain, CTAG, 10));
    lab.expect(&[(ten, &plain)]);
    lab.send(twenty, plain.clone());
    lab.expect(&[(trunk, &tagged(&plain, CTAG, 20))]);
}

pub(crate) fn trunk_to_trunk_keeps_priority() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.vlan_port(br, PortVlans::trunk(1..=4094, None));
    let b = lab.vlan_port(br, PortVlans::trunk([1, 7, 4094], Some(5)));
    for vid in [1u16, 7, 4094] {
        for pcp in 0..8u16 {
            for dei in [0u16, 1] {
                let frame = tagged(&small(BROADCAST, mac(1)), CTAG, pcp << 13 | dei << 12 | vid);
                lab.passes(a, &frame, &[b]);
            }
        }
    }
    // From a tag to none the priority goes with the tag; from none to a tag it is 0.
    lab.send(a, tagged(&small(BROADCAST, mac(1)), CTAG, 0xf005));
    lab.expect(&[(b, &small(BROADCAST, mac(1)))]);
    lab.send(b, small(BROADCAST, mac(2)));
    lab.expect(&[(a, &tagged(&small(BROADCAST, mac(2)), CTAG, 5))]);
}

/// A tag with VID 0 is a priority for untagged traffic (IEEE 802.1Q 6.9.1).
pub(crate) fn priority_tags() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.vlan_port(br, PortVlans::access(10));
    let b = lab.vlan_port(br, PortVlans::access(10));
    let trunk = lab.vlan_port(br, PortVlans::trunk([10], None));
    let plain = small(BROADCAST, mac(1));
    for tci in [0x0000u16, 0x6000, 0xf000] {
        lab.send(a, tagged(&plain, CTAG, tci));
        lab.expect(&[(b, &plain), (trunk, &tagged(&plain, CTAG, tci | 10))]);
    }
    // Between ports that know no VLANs it is not touched.
    let other = lab.bridge(1);
    let (c, d) = (lab.port(other), lab.port(other));
    lab.passes(c, &tagged(&plain, CTAG, 0xa000), &[d]);
    assert_eq!(lab.learned(other, 0, mac(1)), Some(c));
}

pub(crate) fn transparent_ports_pass_every_tag() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    for vid in [1u16, 2, 100, 4094] {
        let frame = tagged(&small(BROADCAST, mac(1)), CTAG, vid);
        lab.passes(a, &frame, &[b]);
        assert_eq!(lab.learned(br, vid, mac(1)), Some(a), "each VLAN learns for itself");
    }
    lab.passes(a, &small(BROADCAST, mac(1)), &[b]);
    // With an access port beside them, its VLAN comes out tagged.
    let ten = lab.vlan_port(br, PortVlans::access(10));
    let plain = small(BROADCAST, mac(2));
    lab.send(ten, plain.clone());
    let with_tag = tagged(&plain, CTAG, 10);
    lab.expect(&[(a, &with_tag), (b, &with_tag)]);
    lab.passes(a, &plain, &[b]);
}

/// The switch is a customer bridge: an S-tag is payload, whatever comes in it.
pub(crate) fn service_tags_are_payload() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.vlan_port(br, PortVlans::access(10));
    let b = lab.vlan_port(br, PortVlans::access(10));
    let trunk = lab.vlan_port(br, PortVlans::trunk([10], None));
    for frame in [
        tagged(&small(BROADCAST, mac(1)), STAG, 20),
        tagged(&small(BROADCAST, mac(1)), STAG, 4095),
        tagged(&tagged(&small(BROADCAST, mac(1)), CTAG, 20), STAG, 30),
    ] {
        lab.send(a, frame.clone());
        lab.expect(&[(b, &frame), (trunk, &tagged(&frame, CTAG, 10))]);
    }
}

pub(crate) fn reserved_vid_is_dropped() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, _) = (lab.port(br), lab.port(br));
    let trunk = lab.vlan_port(br, PortVlans::trunk(1..=4094, Some(1)));
    for port in [a, trunk] {
        for tci in [0x0fff, 0xffff] {
            let frame = tagged(&small(BROADCAST, mac(1)), CTAG, tci);
            lab.dropped(port, frame, port, DropReason::VlanTagInvalid);
        }
    }
    assert!(lab.switch.fdb().is_empty());
}

/// From no tag to more than any parser looks at: only the outer one counts.
pub(crate) fn stacked_tags() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.vlan_port(br, PortVlans::access(10));
    let b = lab.vlan_port(br, PortVlans::access(10));
    let trunk = lab.vlan_port(br, PortVlans::trunk([10], None));
    let other = lab.bridge(1);
    let (c, d) = (lab.port(other), lab.port(other));
    for port in [a, b, c, d, trunk] {
        lab.change(port, |conf| conf.mtu = 9000);
    }
    for count in (0..=16).chain([63, 64, 65, 100, 250, 499, 500]) {
        let mut frame = small(BROADCAST, mac(1));
        for n in 0..count {
            frame = tagged(&frame, if n % 3 == 0 { CTAG } else { STAG }, 1 + n as u16);
        }
        lab.passes(c, &frame, &[d]);
        // Behind one more tag of the trunk's.
        lab.send(trunk, tagged(&frame, CTAG, 10));
        lab.expect(&[(a, &frame), (b, &frame)]);
    }
}

/// A station behind an access port cannot hide a tag behind one that a native VLAN takes off.
pub(crate) fn no_vlan_is_reached_by_two_tags() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.vlan_port(br, PortVlans::access(10));
    let (b, _) =
        (lab.vlan_port(br, PortVlans::access(10)), lab.vlan_port(br, PortVlans::access(20)));
    let _ = lab.vlan_port(br, PortVlans::trunk([20], Some(10)));
    let inner = tagged(&small(BROADCAST, mac(1)), CTAG, 20);
    for outer in [0u16, 0xe000, 10] {
        lab.dropped(a, tagged(&inner, CTAG, outer), a, DropReason::VlanTagInvalid);
    }
    assert_eq!(lab.learned(br, 10, mac(1)), None);
    lab.received(b);
}

/// Membership that changes while entries exist: the frame does not leave by a port that is not a
/// member any more.
pub(crate) fn a_port_that_left_the_vlan() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.vlan_port(br, PortVlans::access(10));
    let b = lab.vlan_port(br, PortVlans::access(10));
    lab.passes(b, &small(BROADCAST, mac(2)), &[a]);
    lab.change(b, |conf| conf.vlans = PortVlans::access(20));
    lab.dropped(a, small(mac(2), mac(1)), a, DropReason::VlanEgress);
    let elsewhere = lab.bridge(1);
    lab.change(b, |conf| (conf.vlans, conf.bridge) = (PortVlans::access(10), Some(elsewhere)));
    lab.dropped(a, small(mac(2), mac(1)), a, DropReason::VlanEgress);
}
