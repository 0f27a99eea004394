//! RFC 7637.

use switch_core::DropReason as R;
use switch_core::config::InnerTags;
use switch_core::testing::frames::{mac, tagged};
use switch_core::wire::{MacAddr, gre::is_reserved_vsid};

use crate::By::{Config, Core};
use crate::Check;
use crate::Level::Must;
use crate::lab::overlay::{nvgre, vni};
use crate::lab::underlay::{self, Outer, decode, udp_frame};
use crate::lab::{frame, small};
use crate::site::{FAMILIES, Family, Site};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "N7637-3.2-8",
        "RFC 7637 §3.2",
        Must,
        Core,
        "K set, C and S clear, the VSID in the upper 24 bits of the key",
        the_header_sent,
        checksum_or_number,
    ),
    Check::new(
        "N7637-3.2-8b",
        "RFC 7637 §3.2",
        Must,
        Core,
        "the FlowID is the same for all packets of a flow, and ignored on receipt",
        flow_ids,
        other_networks,
    ),
    Check::new(
        "N7637-3.3-8c",
        "RFC 7637 §3.3",
        Must,
        Core,
        "no inner tag is sent; a frame that has one is dropped",
        tags_are_stripped,
        tagged_frames,
    ),
    Check::new(
        "N7637-3.4-8d",
        "RFC 7637 §3.4",
        Must,
        Config,
        "VSIDs 0 to 0xfff are reserved, 0xffffff is for messages between endpoints",
        usable_networks,
        reserved_networks,
    ),
];

const VSID: u32 = 0x12_3456;

fn payload(flow: u8, frame: &[u8]) -> Vec<u8> {
    [&[0x20, 0, 0x65, 0x58, 0x12, 0x34, 0x56, flow], frame].concat()
}

fn the_header_sent() {
    for family in FAMILIES {
        let mut site = Site::new(family, nvgre(VSID));
        for len in [14, 60, 1400] {
            let frame = frame(MacAddr::BROADCAST, mac(1), len);
            let packet = site.sent(frame.clone());
            let flow = decode(&packet).2[7];
            site.is_exactly(&packet, site.out(), family.sum(), &payload(flow, &frame));
            let frame = crate::lab::frame(MacAddr::BROADCAST, mac(2), len);
            site.takes(site.with_payload(&payload(0, &frame)), &frame);
        }
    }
}

fn checksum_or_number() {
    for family in FAMILIES {
        let mut site = Site::new(family, nvgre(VSID));
        let key = Some(VSID << 8);
        let frame = site.call();
        for wrong in [
            underlay::gre(true, key, None, &frame),
            underlay::gre(false, key, Some(1), &frame),
            underlay::gre(true, key, Some(1), &frame),
        ] {
            site.refuses(site.with_payload(&wrong), R::TunnelHeader);
        }
        // Without a key it is of no network.
        let keyless = underlay::gre(false, None, None, &frame);
        site.refuses(site.with_payload(&keyless), R::TunnelUnknown);
    }
}

fn flow_ids() {
    for family in FAMILIES {
        let mut site = Site::new(family, nvgre(VSID));
        let mut flow_of = |l4, len| {
            let ip = Outer::new("10.0.0.1", "10.0.0.2");
            let frame = udp_frame(MacAddr::BROADCAST, mac(1), &[], &ip, l4, len);
            decode(&site.sent(frame)).2[7]
        };
        let ids: std::collections::BTreeSet<_> = (0..500)
            .map(|n| {
                let id = flow_of((n, 80), 10);
                assert_eq!(id, flow_of((n, 80), 99));
                id
            })
            .collect();
        // Of 256, 500 flows leave 36 unused.
        assert!(ids.len() > 190, "{} FlowIDs for 500 flows", ids.len());
        for flow in [0, 1, 0x7f, 0x80, 0xff] {
            let frame = site.call();
            site.takes(site.with_payload(&payload(flow, &frame)), &frame);
        }
    }
}

fn other_networks() {
    for family in FAMILIES {
        let mut site = Site::new(family, nvgre(VSID));
        for key in [(VSID + 1) << 8, (VSID - 1) << 8 | 0xff, VSID, 0] {
            let wrong = underlay::gre(false, Some(key), None, &site.call());
            site.refuses(site.with_payload(&wrong), R::TunnelUnknown);
        }
    }
}

fn tags_are_stripped() {
    let mut site = Site::new(Family::V4, nvgre(VSID));
    let plain = site.call();
    for tagged in [tagged(&plain, 0x8100, 0), tagged(&plain, 0x8100, 0xe000)] {
        let packet = site.sent(tagged);
        let flow = decode(&packet).2[7];
        site.is_exactly(&packet, site.out(), site.family.sum(), &payload(flow, &plain));
    }
    // Of VLAN 10, in and out.
    let mut lab = crate::lab::Lab::new();
    let bridge = lab.bridge(0);
    let trunk = switch_core::config::PortVlans::trunk([10], None);
    let port = lab.vlan_port(bridge, trunk);
    let vtep = lab.vtep(Family::V4.local());
    let mut spec = crate::lab::overlay::spec(nvgre(VSID), &Family::V4.remotes()[..1]);
    spec.vlan = Some(switch_core::wire::vlan::VlanId::new(10).unwrap());
    assert_eq!(spec.tags, InnerTags::Strip);
    lab.tunnel(vtep, bridge, &spec);
    let ten = tagged(&plain, 0x8100, 10);
    lab.send(port, ten.clone());
    assert_eq!(lab.received(vtep)[0].bytes[28..], plain);
    let from = Outer::new(Family::V4.remotes()[0], Family::V4.local());
    lab.send(vtep, from.packet(47, &payload(0, &plain)));
    lab.expect(&[(port, &ten)]);
}

fn tagged_frames() {
    for family in FAMILIES {
        let mut site = Site::new(family, nvgre(VSID));
        for tci in [0, 0xa000, 1, 4094, 4095] {
            let tagged = tagged(&small(MacAddr::BROADCAST, mac(1)), 0x8100, tci);
            site.refuses(site.with_payload(&payload(0, &tagged)), R::InnerTag);
        }
    }
}

fn usable_networks() {
    for vsid in [0x1000, 0x1001, 0x80_0000, 0xff_fffe] {
        assert!(!is_reserved_vsid(vni(vsid)), "{vsid:#x}");
        let mut site = Site::new(Family::V4, nvgre(vsid));
        site.is_well();
        let call = site.call();
        let packet = site.sent(call);
        assert_eq!(decode(&packet).2[4..7], vsid.to_be_bytes()[1..]);
    }
}

fn reserved_networks() {
    for vsid in [0, 1, 0xfff, 0xff_ffff] {
        assert!(is_reserved_vsid(vni(vsid)), "{vsid:#x}");
    }
}
