//! RFC 8926.

mod options;

use switch_core::DropReason as R;
use switch_core::config::{Dscp, InnerTags, PeerPolicy, TunnelKind};
use switch_core::testing::frames::{mac, tagged};
use switch_core::wire::MacAddr;
use switch_core::wire::geneve::OwnedOption;

use crate::By::{Config, Core, Kernel};
use crate::Check;
use crate::Level::{May, Must, Should};
use crate::lab::overlay::{geneve, vni};
use crate::lab::underlay::{self, Outer, Sum, decode, decode_udp, udp_frame};
use crate::lab::{frame, small};
use crate::site::{FAMILIES, Family, SRC_PORT, Site, VNI};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "G8926-3.4-1",
        "RFC 8926 §3.4",
        Must,
        Core,
        "the version is 0; packets of another one are dropped",
        version_0,
        other_versions,
    ),
    Check::new(
        "G8926-3.4-2",
        "RFC 8926 §3.4",
        Must,
        Core,
        "options are 0 to 63 words, and end within the UDP payload",
        options::options_of_any_length,
        options::options_beyond_the_payload,
    ),
    Check::new(
        "G8926-3.4-3",
        "RFC 8926 §3.4",
        Must,
        Core,
        "control packets (O) never reach a tenant",
        data_packets,
        control_packets,
    ),
    Check::new(
        "G8926-3.5-4",
        "RFC 8926 §3.5",
        Must,
        Core,
        "a critical option that is not known drops the packet; others are skipped",
        options::options_that_pass,
        options::unknown_critical_options,
    ),
    Check::new(
        "G8926-3.4-5",
        "RFC 8926 §3.4",
        Must,
        Core,
        "6 + 8 reserved bits are 0 when sent and ignored on receipt",
        reserved_bits_are_ignored,
        reserved_bits_are_not_sent,
    ),
    Check::new(
        "G8926-3.4-6",
        "RFC 8926 §3.4",
        Must,
        Core,
        "protocol 0x6558 is Ethernet; others are dropped",
        ethernet_is_carried,
        other_protocols,
    ),
    Check::new(
        "G8926-3.5-7",
        "RFC 8926 §3.5",
        Must,
        Core,
        "options in any order and number, R bits ignored; lengths that lie drop the packet",
        options::options_of_every_shape,
        options::option_lengths_that_lie,
    ),
    Check::new(
        "G8926-3.5-7b",
        "RFC 8926 §3.5",
        Must,
        Config,
        "configured options are sent as they are; 128 bytes of data are refused, never cut",
        options::configured_options_are_sent,
        options::options_that_do_not_fit,
    ),
    Check::new(
        "G8926-3.5-7c",
        "RFC 8926 §3.5",
        May,
        Core,
        "received options are reported, once while they stay the same",
        options::options_are_reported,
        options::options_of_dropped_packets_are_not,
    ),
    Check::new(
        "G8926-3.5.1-8",
        "RFC 8926 §3.5.1",
        Must,
        Core,
        "in transit nothing is changed, and neither O nor C nor a version drops a packet",
        in_transit_nothing_changes,
        in_transit_nothing_is_refused,
    ),
    Check::new(
        "G8926-3.3-9",
        "RFC 8926 §3.3",
        Must,
        Core,
        "destination port 6081 or configured; one flow, one source port",
        the_header_sent,
        flows_and_ports,
    ),
    Check::new(
        "G8926-4.3.1-9b",
        "RFC 8926 §4.3.1",
        Must,
        Kernel,
        "over IPv6 a zero checksum is dropped unless configured; a wrong one always",
        checksums,
        checksums_that_are_dropped,
    ),
    Check::new(
        "G8926-4.4-10",
        "RFC 8926 §4.4",
        Should,
        Core,
        "not fragmented; ECN, DSCP, multicast and inner tags as configured",
        fields_taken_over,
        too_large_or_tagged,
    ),
    Check::new(
        "G8926-6-11",
        "RFC 8926 §6",
        Must,
        Core,
        "decapsulated only from known peers, whatever the options say",
        known_peers,
        strangers,
    ),
];

/// Version, options and protocol of a header without options.
const PLAIN: [u8; 4] = [0, 0, 0x65, 0x58];

/// A header from its first four bytes, options and a frame.
fn header(first: [u8; 4], options: &[u8], frame: &[u8]) -> Vec<u8> {
    [&first[..], &[0x00, 0x12, 0x34, 0], options, frame].concat()
}

/// An option by hand.
fn option(class: u16, typ: u8, data: &[u8]) -> Vec<u8> {
    let [a, b] = class.to_be_bytes();
    [&[a, b, typ, (data.len() / 4) as u8], data].concat()
}

fn with_options(options: &[u8], frame: &[u8]) -> Vec<u8> {
    header([(options.len() / 4) as u8, 0, 0x65, 0x58], options, frame)
}

fn site(family: Family) -> Site {
    Site::new(family, geneve(VNI))
}

fn configured(options: &[(u16, u8, usize)]) -> TunnelKind {
    let owned = |(class, typ, len): &(u16, u8, usize)| OwnedOption {
        class: *class,
        typ: *typ,
        data: (0..*len).map(|n| n as u8).collect(),
    };
    let options = options.iter().map(owned).collect();
    TunnelKind::Geneve { vni: vni(VNI), udp_port: 6081, options }
}

fn version_0() {
    for family in FAMILIES {
        let mut site = site(family);
        let frame = site.call();
        let packet = site.sent(frame.clone());
        let (_, _, payload) = decode_udp(decode(&packet).2);
        assert_eq!(payload[0] >> 6, 0);
        site.takes(site.with_payload(&header(PLAIN, &[], &frame)), &frame);
    }
}

fn other_versions() {
    for family in FAMILIES {
        let mut site = site(family);
        for version in 1..4 {
            let payload = header([version << 6, 0, 0x65, 0x58], &[], &site.call());
            site.refuses(site.with_payload(&payload), R::TunnelHeader);
        }
    }
}

fn data_packets() {
    for family in FAMILIES {
        let mut site = site(family);
        let frame = site.call();
        let packet = site.sent(frame.clone());
        let (_, _, payload) = decode_udp(decode(&packet).2);
        assert_eq!(payload[1] & 0x80, 0);
        site.takes(site.with_payload(&header(PLAIN, &[], &frame)), &frame);
    }
}

fn control_packets() {
    for family in FAMILIES {
        let mut site = site(family);
        for flags in [0x80, 0xc0, 0xbf, 0xff] {
            let payload = header([0, flags, 0x65, 0x58], &[], &site.call());
            site.refuses(site.with_payload(&payload), R::GeneveControl);
        }
        // With options, known or critical, and with something else than Ethernet.
        let payload = header([1, 0xc0, 0x65, 0x58], &option(1, 0x81, &[]), &site.call());
        site.refuses(site.with_payload(&payload), R::GeneveControl);
        let payload = header([0, 0x80, 0x08, 0x00], &[], &site.call());
        site.refuses(site.with_payload(&payload), R::GeneveControl);
    }
}

fn reserved_bits_are_ignored() {
    for family in FAMILIES {
        // Strictness is about VXLAN's bits, which extensions use; these are ignored all the same.
        for strict in [false, true] {
            let mut site = Site::with(family, geneve(VNI), |spec| spec.strict_reserved = strict);
            let bits = (0..6).map(|bit| (1, 1u8 << bit)).chain((0..8).map(|bit| (7, 1 << bit)));
            for (byte, mask) in bits {
                let frame = site.call();
                let mut payload = header(PLAIN, &[], &frame);
                payload[byte] |= mask;
                site.takes(site.with_payload(&payload), &frame);
            }
        }
    }
}

fn reserved_bits_are_not_sent() {
    // With and without options, whatever came in before.
    for (kind, flags) in [(geneve(VNI), 0), (configured(&[(1, 0x81, 0)]), 0x40)] {
        let mut site = Site::new(Family::V4, kind);
        let frame = site.call();
        let mut payload = header(PLAIN, &[], &frame);
        (payload[1], payload[7]) = (0x3f, 0xff);
        site.takes(site.with_payload(&payload), &frame);
        let call = site.call();
        let packet = site.sent(call);
        assert_eq!((packet[29], packet[35]), (flags, 0));
    }
}

fn ethernet_is_carried() {
    for family in FAMILIES {
        let mut site = site(family);
        for len in [14, 15, 60, 1400] {
            let frame = frame(MacAddr::BROADCAST, mac(1), len);
            site.sends(frame.clone(), &header(PLAIN, &[], &frame));
            let frame = crate::lab::frame(MacAddr::BROADCAST, mac(2), len);
            site.takes(site.with_payload(&header(PLAIN, &[], &frame)), &frame);
        }
    }
}

fn other_protocols() {
    for family in FAMILIES {
        let mut site = site(family);
        for [hi, lo] in [[0x08, 0x00], [0x86, 0xdd], [0, 0], [0x65, 0x59], [0xff, 0xff]] {
            let payload = header([0, 0, hi, lo], &[], &site.call());
            site.refuses(site.with_payload(&payload), R::TunnelProtocol);
        }
    }
}

/// A GENEVE packet of somebody else's, in a frame.
fn foreign(first: [u8; 4], options: &[u8]) -> Vec<u8> {
    let payload = header(first, options, &small(mac(7), mac(6)));
    let packet = Outer::new("203.0.113.1", "203.0.113.2").udp((1, 6081), Sum::Right, &payload);
    underlay::in_ethernet(MacAddr::BROADCAST, mac(1), &[], &packet)
}

fn in_transit_nothing_changes() {
    let mut site = site(Family::V4);
    let other = site.lab.port(site.bridge);
    let options = [option(9, 0x89, &[1; 8]), option(1, 1, &[])].concat();
    let frame = foreign([(options.len() / 4) as u8, 0x40, 0x65, 0x58], &options);
    site.lab.send(site.tenant, frame.clone());
    let sent = site.lab.received(site.vtep);
    site.is_exactly(&sent[0].bytes, site.out(), Sum::None, &header(PLAIN, &[], &frame));
    site.lab.expect(&[(other, &frame)]);
}

fn in_transit_nothing_is_refused() {
    let mut site = site(Family::V4);
    for first in [[0, 0xc0, 0x65, 0x58], [0xc0, 0, 0x65, 0x58], [63, 0x3f, 0, 0], [1, 0, 8, 0]] {
        let frame = foreign(first, &[]);
        site.sends(frame.clone(), &header(PLAIN, &[], &frame));
    }
}

fn the_header_sent() {
    for (number, bytes) in [(0, [0, 0, 0]), (0xff_ffff, [0xff; 3]), (VNI, [0, 0x12, 0x34])] {
        for udp_port in [6081, 60_810, 4789] {
            let kind = TunnelKind::Geneve { vni: vni(number), udp_port, options: vec![] };
            let mut site = Site::new(Family::V4, kind);
            let frame = site.call();
            let [a, b, c] = bytes;
            site.sends(frame.clone(), &[&PLAIN[..], &[a, b, c, 0], &frame].concat());
            site.is_well();
        }
    }
}

fn flows_and_ports() {
    let mut site = site(Family::V6);
    let mut port_of = |l4, len| {
        let ip = Outer::new("10.0.0.1", "10.0.0.2");
        let packet = site.sent(udp_frame(MacAddr::BROADCAST, mac(1), &[], &ip, l4, len));
        let ((src, dst), _, _) = decode_udp(decode(&packet).2);
        assert!(src >= 49_152 && dst == 6081);
        src
    };
    let ports: std::collections::BTreeSet<_> = (0..200)
        .map(|n| {
            let port = port_of((n, 80), 10);
            assert_eq!(port, port_of((n, 80), 99), "one flow, one port");
            port
        })
        .collect();
    assert!(ports.len() >= 190, "{} ports for 200 flows", ports.len());
    // What comes to another port is none of ours.
    for port in [6080, 6082, 4789] {
        let payload = header(PLAIN, &[], &site.call());
        let packet = site.from().udp((SRC_PORT, port), Sum::Right, &payload);
        site.refuses(packet, R::TunnelUnknown);
    }
}

fn checksums() {
    for family in FAMILIES {
        // Right ones are taken anywhere, none where that is allowed.
        let mut site = site(family);
        let frame = site.call();
        let payload = header(PLAIN, &[], &frame);
        site.takes(site.from().udp((SRC_PORT, 6081), Sum::Right, &payload), &frame);
        let mut site = Site::with(family, geneve(VNI), |spec| spec.udp_checksum = Some(false));
        site.takes(site.from().udp((SRC_PORT, 6081), Sum::None, &payload), &frame);
        let packet = site.sent(frame.clone());
        site.is_exactly(&packet, site.out(), Sum::None, &payload);
        let mut site = Site::with(family, configured(&[(1, 1, 124), (1, 2, 120)]), |spec| {
            spec.udp_checksum = Some(true);
        });
        for len in [64, 65, 1000] {
            let packet = site.sent(crate::lab::frame(MacAddr::BROADCAST, mac(1), len));
            let (_, _, payload) = decode_udp(decode(&packet).2);
            site.is_exactly(&packet, site.out(), Sum::Right, payload);
        }
    }
}

fn checksums_that_are_dropped() {
    for family in FAMILIES {
        for allowed in [None, Some(false), Some(true)] {
            let mut site = Site::with(family, geneve(VNI), |spec| spec.udp_checksum = allowed);
            let payload = header(PLAIN, &[], &site.call());
            let packet = site.from().udp((SRC_PORT, 6081), Sum::Wrong, &payload);
            site.refuses(packet, R::OuterInvalid);
            if family == Family::V6 && allowed != Some(false) {
                let packet = site.from().udp((SRC_PORT, 6081), Sum::None, &payload);
                site.refuses(packet, R::OuterInvalid);
            }
        }
    }
}

fn fields_taken_over() {
    for family in FAMILIES {
        let ip = Outer { traffic_class: 0xb8 | 2, ..Outer::new("10.0.0.1", "10.0.0.2") };
        let frame = udp_frame(MacAddr::BROADCAST, mac(1), &[], &ip, (1, 2), 20);
        for (dscp, class) in [(Dscp::Copy, 0xba), (Dscp::Set(0), 2), (Dscp::Set(63), 0xfe)] {
            let mut site = Site::with(family, geneve(VNI), |spec| spec.dscp = dscp);
            let packet = site.sent(frame.clone());
            let out = Outer { traffic_class: class, ..site.out() };
            site.is_exactly(&packet, out, family.sum(), &header(PLAIN, &[], &frame));
        }
        // Tags as configured.
        let mut site = Site::with(family, geneve(VNI), |spec| spec.tags = InnerTags::Keep);
        let tagged = tagged(&site.call(), 0x8100, 0x6005);
        site.sends(tagged.clone(), &header(PLAIN, &[], &tagged));
    }
}

fn too_large_or_tagged() {
    for family in FAMILIES {
        let mut site = Site::new(family, configured(&[(1, 1, 124)]));
        // 1,500 less IP, 8 of UDP, 8 of GENEVE and 128 of options.
        let most = 1500 - family.ip_len() - 144;
        let packet = site.sent(frame(MacAddr::BROADCAST, mac(1), most));
        assert_eq!(packet.len(), 1500);
        assert!(decode(&packet).0.df);
        site.does_not_send(frame(MacAddr::BROADCAST, mac(1), most + 1), R::TunnelMtu);
        let tagged = tagged(&site.call(), 0x8100, 5);
        site.refuses(site.with_payload(&header(PLAIN, &[], &tagged)), R::InnerTag);
    }
}

fn known_peers() {
    for family in FAMILIES {
        site(family).is_well();
        let mut site = Site::with(family, geneve(VNI), |spec| spec.peers = PeerPolicy::Any);
        let frame = site.call();
        let stranger = Outer::new(family.stranger(), family.local());
        let packet = site.packet_by(stranger, &frame);
        site.takes(packet, &frame);
    }
}

fn strangers() {
    for family in FAMILIES {
        let mut site = Site::new(family, configured(&[(1, 0x81, 4)]));
        let stranger = Outer::new(family.stranger(), family.local());
        // The very options that we send are no password.
        let payload = with_options(&option(1, 0x81, &[0, 1, 2, 3]), &site.call());
        let packet = stranger.udp((SRC_PORT, 6081), Sum::Right, &payload);
        site.refuses(packet, R::TunnelPeer);
    }
}
