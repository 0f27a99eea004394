//! RFC 7348 §5: UDP ports and checksums.

use std::collections::BTreeSet;

use switch_core::DropReason as R;
use switch_core::config::TunnelKind;
use switch_core::frame::{Csum, GsoKind, Offload};
use switch_core::testing::Packet;
use switch_core::testing::frames::{ethernet, finished, gso, mac, pattern, tcp4};
use switch_core::wire::MacAddr;

use super::{HEADER, behind, from_remote, networks};
use crate::lab::overlay::{vni, vxlan};
use crate::lab::underlay::{self, Outer, Sum, decode, decode_udp, udp_frame};
use crate::lab::{frame, small};
use crate::site::{FAMILIES, Family, SRC_PORT, Site, VNI};

fn at_port(udp_port: u16) -> TunnelKind {
    TunnelKind::Vxlan { vni: vni(VNI), udp_port }
}

pub(super) fn ports_of_the_operators_choice() {
    for port in [4789, 8472, 1, 65_535] {
        let mut site = Site::new(Family::V4, at_port(port));
        let frame = site.call();
        site.sends(frame.clone(), &behind(&HEADER, &frame));
        site.is_well();
    }
    // Two ports at once, one network each.
    let (mut lab, vtep, ports) = networks(&[at_port(4789), at_port(8472)]);
    let call = small(MacAddr::BROADCAST, mac(1));
    let payload = underlay::vxlan(VNI, &call);
    lab.send(vtep, from_remote().udp((SRC_PORT, 8472), Sum::None, &payload));
    lab.expect(&[(ports[1], &call)]);
}

pub(super) fn other_ports() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        for port in [8472, 4788, 4790, 6081, 0] {
            let payload = behind(&HEADER, &site.call());
            let packet = site.from().udp((SRC_PORT, port), Sum::Right, &payload);
            site.refuses(packet, R::TunnelUnknown);
        }
    }
}

fn source_port(packet: &[u8]) -> u16 {
    decode_udp(decode(packet).2).0.0
}

/// Source address and ports of the nth flow.
type Flow = fn(u32) -> (String, (u16, u16));

pub(super) fn a_thousand_flows() {
    // Flows that differ in one port, in one address, and in both.
    let flows: [Flow; 3] = [
        |n| ("10.0.0.1".into(), (1024 + n as u16, 443)),
        |n| (format!("10.0.{}.{}", n / 250, n % 250), (40_000, 443)),
        |n| (format!("10.{}.0.1", n % 200), ((n * 7) as u16, n as u16)),
    ];
    for family in FAMILIES {
        for (which, flow) in flows.iter().enumerate() {
            let mut site = Site::new(family, vxlan(VNI));
            let mut ports = Vec::new();
            for n in 0..1000 {
                let (src, l4) = flow(n);
                let ip = Outer::new(&src, "10.99.0.1");
                let frame = udp_frame(MacAddr::BROADCAST, mac(1), &[], &ip, l4, 20);
                let port = source_port(&site.sent(frame.clone()));
                assert!(port >= 49_152);
                ports.push(port);
            }
            let distinct = ports.iter().collect::<BTreeSet<_>>().len();
            assert!(distinct >= 900, "{distinct} ports");
            for (bits, shift) in [("low", 0), ("high", 8)] {
                let mut buckets = [0u32; 64];
                ports.iter().for_each(|port| buckets[usize::from(port >> shift) % 64] += 1);
                let expected = 1000.0 / 64.0;
                let chi: f64 =
                    buckets.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
                println!("{family:?} flows {which}: {distinct} ports, {bits} chi² {chi:.1} of 63");
                // 63 are expected, with a deviation of 11: eight times that.
                assert!(chi < 63.0 + 8.0 * 11.2, "chi² {chi}");
            }
        }
    }
}

pub(super) fn one_flow_one_port() {
    let mut site = Site::new(Family::V4, vxlan(VNI));
    let ip = Outer::new("10.0.0.1", "10.0.0.2");
    let flow = |len| udp_frame(MacAddr::BROADCAST, mac(1), &[], &ip, (7, 8), len);
    let port = source_port(&site.sent(flow(10)));
    for len in 11..40 {
        assert_eq!(source_port(&site.sent(flow(len))), port, "one flow, another length");
    }
    // Fragments of one datagram stay together, though only the first has ports.
    let mut first = flow(64);
    first[14 + 6] = 0x20;
    let mut later = first.clone();
    (later[14 + 6], later[14 + 7]) = (0, 8);
    later[34..38].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(source_port(&site.sent(first)), source_port(&site.sent(later)));
    // What is no IP has a port too, the same for the same stations.
    let arp = |n| ethernet(MacAddr::BROADCAST, mac(n), 0x0806, &[n as u8; 28]);
    let port = source_port(&site.sent(arp(1)));
    assert_eq!(source_port(&site.sent(arp(1))), port);
    let others = (2..20).filter(|n| source_port(&site.sent(arp(*n))) != port).count();
    assert!(others >= 17, "only {others} of 18 stations have another port");
}

pub(super) fn no_checksum() {
    let mut site = Site::new(Family::V4, vxlan(VNI));
    let frame = site.call();
    let packet = site.sent(frame.clone());
    assert_eq!(packet[26..28], [0, 0]);
    site.is_exactly(&packet, site.out(), Sum::None, &behind(&HEADER, &frame));
    let packet = site.from().udp((SRC_PORT, 4789), Sum::None, &behind(&HEADER, &frame));
    site.takes(packet, &frame);
}

pub(super) fn a_checksum_if_asked_for() {
    let mut site = Site::with(Family::V4, vxlan(VNI), |spec| spec.udp_checksum = Some(true));
    let frame = site.call();
    let packet = site.sent(frame.clone());
    assert_ne!(packet[26..28], [0, 0]);
    site.is_exactly(&packet, site.out(), Sum::Right, &behind(&HEADER, &frame));
    // Over IPv4 one without is good nevertheless.
    let packet = site.from().udp((SRC_PORT, 4789), Sum::None, &behind(&HEADER, &frame));
    site.takes(packet, &frame);
}

pub(super) fn right_checksums() {
    for family in FAMILIES {
        let mut site = Site::with(family, vxlan(VNI), |spec| spec.udp_checksum = Some(true));
        // Odd and even, and in one piece or several.
        site.lab.peer(site.vtep, family.remotes()[0]).state.set_path_mtu(9000);
        for len in [14, 15, 60, 61, 255, 256, 257, 1400, 1401, 1663, 1664, 1665, 4001, 8002] {
            let frame = frame(MacAddr::BROADCAST, mac(1), len);
            let packet = site.sent(frame.clone());
            site.is_exactly(&packet, site.out(), Sum::Right, &behind(&HEADER, &frame));
            let frame = crate::lab::frame(MacAddr::BROADCAST, mac(2), len);
            let packet = site.from().udp((SRC_PORT, 4789), Sum::Right, &behind(&HEADER, &frame));
            site.takes(packet, &frame);
        }
        // A sum that comes to 0 is sent as ffff, as 0 would say that there is none (RFC 768). Two
        // bytes of the payload make it so.
        let mut frame = frame(MacAddr::BROADCAST, mac(1), 64);
        let at = family.ip_len() + 6;
        let packet = site.sent(frame.clone());
        let missing = u32::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let word = u32::from(u16::from_be_bytes([frame[20], frame[21]])) + missing;
        frame[20..22].copy_from_slice(&((word % 0xffff) as u16).to_be_bytes());
        let packet = site.sent(frame.clone());
        assert_eq!(packet[at..at + 2], [0xff, 0xff]);
        site.is_exactly(&packet, site.out(), Sum::Right, &behind(&HEADER, &frame));
        // A device that sums itself gets the sum of the pseudo-header, and where to put it.
        site.lab.change(site.vtep, |conf| conf.caps.csum = true);
        let frame = crate::lab::frame(MacAddr::BROADCAST, mac(1), 99);
        site.lab.send(site.tenant, frame.clone());
        let packet = site.lab.received(site.vtep).remove(0);
        assert!(!packet.offload.is_finished());
        site.is_exactly(&finished(&packet), site.out(), Sum::Right, &behind(&HEADER, &frame));
        site.lab.change(site.vtep, |conf| conf.caps.csum = false);
        // Each segment of a super-frame has its own.
        let tcp = gso(tcp4(MacAddr::BROADCAST, mac(1), &pattern(1, 5000)), GsoKind::TcpV4, 1000);
        site.lab.send(site.tenant, tcp);
        let segments = site.lab.received(site.vtep);
        assert_eq!(segments.len(), 5);
        for segment in segments {
            let (_, _, payload) = decode_udp(decode(&segment.bytes).2);
            site.is_exactly(&segment.bytes, site.out(), Sum::Right, payload);
        }
    }
}

pub(super) fn wrong_checksums() {
    for family in FAMILIES {
        let mut site = Site::new(family, vxlan(VNI));
        for len in [14, 61, 64, 1400, 1700, 5001] {
            let frame = frame(MacAddr::BROADCAST, mac(1), len);
            let packet = site.from().udp((SRC_PORT, 4789), Sum::Wrong, &behind(&HEADER, &frame));
            site.refuses(packet, R::OuterInvalid);
            // One bit of the last byte.
            let mut packet =
                site.from().udp((SRC_PORT, 4789), Sum::Right, &behind(&HEADER, &frame));
            *packet.last_mut().unwrap() ^= 1;
            site.refuses(packet, R::OuterInvalid);
        }
        // Where the kernel has looked, it is believed: it drops what is wrong itself.
        let frame = site.call();
        let bytes = site.from().udp((SRC_PORT, 4789), Sum::Wrong, &behind(&HEADER, &frame));
        let offload = Offload { csum: Csum::Verified, gso: None };
        site.takes(Packet { bytes, offload }, &frame);
    }
}

pub(super) fn no_checksum_over_v6() {
    let mut site = Site::with(Family::V6, vxlan(VNI), |spec| spec.udp_checksum = Some(false));
    let frame = site.call();
    let packet = site.sent(frame.clone());
    site.is_exactly(&packet, site.out(), Sum::None, &behind(&HEADER, &frame));
    let packet = site.from().udp((SRC_PORT, 4789), Sum::None, &behind(&HEADER, &frame));
    site.takes(packet, &frame);
}

pub(super) fn no_checksum_over_v6_unasked() {
    let mut site = Site::new(Family::V6, vxlan(VNI));
    let frame = site.call();
    let packet = site.from().udp((SRC_PORT, 4789), Sum::None, &behind(&HEADER, &frame));
    site.refuses(packet, R::OuterInvalid);
    // Where they may be without one, source and destination are looked at all the same.
    let mut site = Site::with(Family::V6, vxlan(VNI), |spec| spec.udp_checksum = Some(false));
    let stranger = Outer::new(Family::V6.stranger(), Family::V6.local());
    let payload = behind(&HEADER, &frame);
    site.refuses(stranger.udp((SRC_PORT, 4789), Sum::None, &payload), R::TunnelPeer);
}
