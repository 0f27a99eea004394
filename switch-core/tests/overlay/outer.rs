//! The outer IP header: RFC 791, RFC 1122, RFC 8200.

use switch_core::DropReason as R;
use switch_core::testing::frames::pattern;

use crate::By::{Core, Kernel};
use crate::Check;
use crate::Level::Must;
use crate::lab::overlay::{every_kind, vxlan};
use crate::lab::underlay::{Outer, fix_sum, with_extensions, with_options};
use crate::site::{FAMILIES, Family, Site};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "O791-3.1-1",
        "RFC 791 §3.1",
        Must,
        Kernel,
        "the IPv4 header checksum is right, or the packet is dropped",
        right_header_sums,
        wrong_header_sums,
    ),
    Check::new(
        "O791-3.1-2",
        "RFC 791 §3.1, RFC 8200 §3",
        Must,
        Kernel,
        "version and header length hold",
        both_versions,
        wrong_versions_and_lengths,
    ),
    Check::new(
        "O1122-3.2-3",
        "RFC 1122 §3.2.1.3",
        Must,
        Kernel,
        "the destination is the VTEP's own address",
        the_own_address,
        other_destinations,
    ),
    Check::new(
        "O1122-3.2-4",
        "RFC 1122 §3.2.1.3, RFC 4291 §2.7",
        Must,
        Core,
        "the source is a host's, and not our own",
        sources_of_hosts,
        martians,
    ),
    Check::new(
        "O1122-3.2-5",
        "RFC 1122 §3.2.1.7, RFC 8200 §3",
        Must,
        Kernel,
        "a TTL or hop limit of 0 is dropped",
        every_ttl,
        ttl_0,
    ),
    Check::new(
        "O791-3.1-6",
        "RFC 791 §3.1, RFC 8200 §3",
        Must,
        Kernel,
        "padding behind the packet is no part of the frame; a packet cut short is dropped",
        padding_is_trimmed,
        cut_packets,
    ),
    Check::new(
        "O8200-4.1-7",
        "RFC 8200 §4.1",
        Must,
        Core,
        "options and extension headers are passed over, chains end",
        options_and_extensions,
        endless_chains,
    ),
    Check::new(
        "O791-3.1-8",
        "RFC 791 §3.1",
        Must,
        Core,
        "no length wraps around: what does not fit 16 bits is dropped",
        the_largest_packet,
        beyond_the_largest,
    ),
    Check::new(
        "O1122-3.2-9",
        "RFC 1122 §3.2.1.4",
        Must,
        Core,
        "other protocols are dropped, and none of their bytes are taken for a tunnel's",
        each_kind_passes,
        other_protocols,
    ),
];

/// A site of every protocol over either family.
fn sites() -> impl Iterator<Item = Site> {
    FAMILIES
        .into_iter()
        .flat_map(|family| every_kind(0x1234).into_iter().map(move |kind| Site::new(family, kind)))
}

fn good(site: &mut Site) -> (Vec<u8>, Vec<u8>) {
    let frame = site.call();
    (site.packet(&frame), frame)
}

fn right_header_sums() {
    for mut site in sites() {
        // Every packet sent is decoded by etherparse, sums included.
        let frame = site.call();
        let packet = site.sent(frame);
        crate::lab::underlay::decode(&packet);
        site.is_well();
    }
}

fn wrong_header_sums() {
    for mut site in sites().filter(|site| site.family == Family::V4) {
        let (packet, _) = good(&mut site);
        for bit in 0..16 {
            let mut packet = packet.clone();
            packet[10 + bit / 8] ^= 1 << (bit % 8);
            site.refuses(packet, R::OuterInvalid);
        }
        // A sum of 0 is no way to say that there is none.
        let mut packet = packet;
        packet[10..12].fill(0);
        site.refuses(packet, R::OuterInvalid);
    }
}

fn both_versions() {
    sites().for_each(|mut site| site.is_well());
}

fn wrong_versions_and_lengths() {
    for mut site in sites() {
        let (packet, _) = good(&mut site);
        for version in (0..16).filter(|version| ![4, 6].contains(version)) {
            let mut packet = packet.clone();
            packet[0] = version << 4 | packet[0] & 0xf;
            site.refuses(packet, R::OuterInvalid);
        }
        let mut other = packet.clone();
        other[0] ^= 0x20;
        site.refuses(other, R::OuterInvalid);
        if site.family == Family::V4 {
            for ihl in 0..5 {
                let mut packet = packet.clone();
                packet[0] = 0x40 | ihl;
                site.refuses(packet, R::OuterInvalid);
            }
        }
    }
}

fn the_own_address() {
    sites().for_each(|mut site| site.is_well());
}

fn other_destinations() {
    for mut site in sites() {
        let others: &[&str] = match site.family {
            Family::V4 => &["192.0.2.9", "255.255.255.255", "192.0.2.255", "239.1.1.1", "0.0.0.0"],
            Family::V6 => &["2001:db8::9", "ff02::1", "ff05::7", "::", "::1", "::ffff:192.0.2.1"],
        };
        for dst in others {
            let frame = site.call();
            let outer = Outer::new(site.family.remotes()[0], dst);
            let packet = site.packet_by(outer, &frame);
            site.refuses(packet, R::OuterAddress);
        }
    }
}

fn sources_of_hosts() {
    // Anybody, where anybody is accepted.
    for family in FAMILIES {
        let mut site = Site::with(family, vxlan(1), |spec| {
            spec.peers = switch_core::config::PeerPolicy::Any;
        });
        let hosts: &[&str] = match family {
            Family::V4 => &["10.0.0.1", "169.254.1.1", "100.64.0.1", "223.255.255.254"],
            Family::V6 => &["fe80::1", "fd00::1", "2001:db8:ffff::1"],
        };
        for src in hosts {
            let frame = site.call();
            let packet = site.packet_by(Outer::new(src, family.local()), &frame);
            site.takes(packet, &frame);
        }
    }
    // Two VTEPs of one host may talk over its loopback device.
    let mut site = Site::new(Family::V4, vxlan(1));
    let frame = site.call();
    let vtep = site.lab.vtep("127.0.0.1");
    let spec = crate::lab::overlay::spec(vxlan(1), &["127.0.0.2"]);
    site.lab.tunnel(vtep, site.bridge, &spec);
    let packet = site.packet_by(Outer::new("127.0.0.2", "127.0.0.1"), &frame);
    site.lab.send(vtep, packet);
    site.lab.expect(&[(site.tenant, &frame)]);
}

fn martians() {
    // Not even where anybody is accepted.
    for any in [false, true] {
        for family in FAMILIES {
            for kind in every_kind(0x1234) {
                let mut site = Site::with(family, kind, |spec| {
                    if any {
                        spec.peers = switch_core::config::PeerPolicy::Any;
                    }
                });
                let sources: &[&str] = match family {
                    Family::V4 => &[
                        "127.0.0.1",
                        "127.255.255.255",
                        "224.0.0.1",
                        "239.1.1.1",
                        "255.255.255.255",
                        "0.0.0.0",
                        "192.0.2.1",
                    ],
                    Family::V6 => &["::1", "::", "ff02::1", "ff05::1", "2001:db8::1"],
                };
                for src in sources {
                    let frame = site.call();
                    let packet = site.packet_by(Outer::new(src, family.local()), &frame);
                    site.refuses(packet, R::OuterAddress);
                }
            }
        }
    }
}

fn every_ttl() {
    for mut site in sites() {
        for ttl in [1, 2, 64, 254, 255] {
            let frame = site.call();
            let outer = Outer { ttl, ..site.from() };
            let packet = site.packet_by(outer, &frame);
            site.takes(packet, &frame);
        }
    }
}

fn ttl_0() {
    for mut site in sites() {
        let frame = site.call();
        let outer = Outer { ttl: 0, ..site.from() };
        let packet = site.packet_by(outer, &frame);
        site.refuses(packet, R::OuterInvalid);
    }
}

fn padding_is_trimmed() {
    for mut site in sites() {
        for padding in [1, 2, 18, 100, 2000] {
            let (mut packet, frame) = good(&mut site);
            packet.extend(pattern(7, padding));
            site.takes(packet, &frame);
        }
    }
}

fn cut_packets() {
    for mut site in sites() {
        let (packet, _) = good(&mut site);
        // Loopback ports receive nothing below 14 bytes.
        for len in 14..packet.len() {
            site.refuses(packet[..len].to_vec(), R::OuterInvalid);
        }
        // The total length says less than there are headers, or nothing: "BIG TCP" is no length of
        // a packet on a wire.
        if site.family == Family::V4 {
            for len in [0u16, 1, 19] {
                let mut packet = packet.clone();
                packet[2..4].copy_from_slice(&len.to_be_bytes());
                fix_sum(&mut packet);
                site.refuses(packet, R::OuterInvalid);
            }
        }
    }
}

fn options_and_extensions() {
    for mut site in sites() {
        let (packet, frame) = good(&mut site);
        match site.family {
            Family::V4 => {
                for words in [1, 5, 10] {
                    let call = site.call();
                    let packet = with_options(&site.packet(&call), words);
                    site.takes(packet, &call);
                }
                site.takes(packet, &frame);
            }
            Family::V6 => site.takes(with_extensions(&packet, &[0, 60, 43]), &frame),
        }
    }
}

fn endless_chains() {
    for mut site in sites().filter(|site| site.family == Family::V6) {
        for chain in [&[60u8; 40][..], &[0, 0], &[60, 0], &[43; 12]] {
            let (packet, _) = good(&mut site);
            site.refuses(with_extensions(&packet, chain), R::OuterInvalid);
        }
    }
}

/// Bytes of the tunnel header of each kind, with UDP.
const HEADERS: [usize; 4] = [16, 16, 8, 8];

fn the_largest_packet() {
    for family in FAMILIES {
        for (kind, header) in every_kind(0x1234).into_iter().zip(HEADERS) {
            let mut site = Site::new(family, kind);
            site.lab.peer(site.vtep, family.remotes()[0]).state.set_path_mtu(100_000);
            let frame = large(65_535 - family.ip_len() - header);
            let packet = site.sent(frame.clone());
            assert_eq!(packet.len(), 65_535);
            // etherparse agrees with the lengths.
            let (_, _, rest) = crate::lab::underlay::decode(&packet);
            assert!(rest.ends_with(&frame));
            // And in: the whole frame comes out.
            let frame = large(9001);
            let packet = site.packet(&frame);
            site.takes(packet, &frame);
        }
    }
}

fn large(len: usize) -> Vec<u8> {
    use switch_core::testing::frames::mac;
    crate::lab::frame(switch_core::wire::MacAddr::BROADCAST, mac(1), len)
}

fn beyond_the_largest() {
    for family in FAMILIES {
        for (kind, header) in every_kind(0x1234).into_iter().zip(HEADERS) {
            let mut site = Site::new(family, kind);
            site.lab.peer(site.vtep, family.remotes()[0]).state.set_path_mtu(100_000);
            let most = 65_535 - family.ip_len() - header;
            for len in [most + 1, most + 8, 65_535, 65_536, 65_549] {
                site.does_not_send(large(len), R::TunnelMtu);
            }
            let next = site.call();
            site.sent(next);
        }
    }
}

fn each_kind_passes() {
    sites().for_each(|mut site| site.is_well());
}

fn other_protocols() {
    for mut site in sites() {
        let (packet, _) = good(&mut site);
        let rest = packet[site.family.ip_len()..].to_vec();
        // ICMP, IP in IP, TCP, IPv6 in IP, ESP, ICMPv6, OSPF, L2TP.
        for protocol in [1, 4, 6, 41, 50, 58, 89, 115] {
            let packet = site.from().packet(protocol, &rest);
            site.refuses(packet, R::TunnelUnknown);
        }
    }
}
