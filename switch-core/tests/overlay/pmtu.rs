//! Path MTU: RFC 1191, RFC 8201, RFC 4459.

use switch_core::DropReason as R;
use switch_core::config::TunnelKind;
use switch_core::frame::GsoKind;
use switch_core::testing::frames::{gso, mac, pattern, tcp4, tcp6};
use switch_core::wire::MacAddr;

use crate::By::Core;
use crate::Check;
use crate::Level::Must;
use crate::lab::frame;
use crate::lab::overlay::{geneve, gre, nvgre, vxlan};
use crate::lab::underlay::decode;
use crate::site::{FAMILIES, Family, Site};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "P4459-3.2-1",
        "RFC 4459 §3.2",
        Must,
        Core,
        "the overhead of each protocol: 50 and 70 for VXLAN, 42 for GRE with a key, and so on",
        the_largest_inner_packet,
        one_byte_more,
    ),
    Check::new(
        "P1191-6-2",
        "RFC 1191 §6, RFC 8201 §4",
        Must,
        Core,
        "each remote has a path MTU of its own, followed at once",
        a_path_that_shrinks_and_grows,
        other_remotes_keep_theirs,
    ),
    Check::new(
        "P4459-3.1-3",
        "RFC 4459 §3.1",
        Must,
        Core,
        "super-frames are cut so that every segment fits; one that cannot is dropped",
        segments_that_fit,
        segments_that_do_not,
    ),
];

/// Protocols and how much longer than the inner packet the outer one is, over IPv4: the inner
/// Ethernet header, the tunnel's header, UDP and IP.
fn overheads() -> Vec<(TunnelKind, usize)> {
    vec![
        (vxlan(0x1234), 50),
        (geneve(0x1234), 50),
        (gre(None), 38),
        (gre(Some(1)), 42),
        (TunnelKind::Gre { key: None, checksum: true, sequence: false }, 42),
        (TunnelKind::Gre { key: Some(1), checksum: true, sequence: true }, 50),
        (nvgre(0x1234), 42),
    ]
}

/// Each over either family: IPv6 has 20 bytes more.
fn sites() -> impl Iterator<Item = (Site, usize)> {
    FAMILIES.into_iter().flat_map(|family| {
        let more = if family == Family::V6 { 20 } else { 0 };
        overheads().into_iter().map(move |(kind, over)| (Site::new(family, kind), over + more))
    })
}

fn of_inner_packet(len: usize) -> Vec<u8> {
    frame(MacAddr::BROADCAST, mac(1), len + 14)
}

fn the_largest_inner_packet() {
    for (mut site, over) in sites() {
        for path in [1280, 1400, 1500, 9000] {
            site.lab.peer(site.vtep, site.family.remotes()[0]).state.set_path_mtu(path);
            let packet = site.sent(of_inner_packet(path as usize - over));
            assert_eq!(packet.len(), path as usize);
            decode(&packet);
        }
    }
}

fn one_byte_more() {
    for (mut site, over) in sites() {
        for path in [1280, 1400, 1500, 9000] {
            site.lab.peer(site.vtep, site.family.remotes()[0]).state.set_path_mtu(path);
            site.does_not_send(of_inner_packet(path as usize - over + 1), R::TunnelMtu);
            let next = site.call();
            site.sent(next);
        }
    }
}

fn a_path_that_shrinks_and_grows() {
    let mut site = Site::new(Family::V4, vxlan(0x1234));
    let peer = site.lab.peer(site.vtep, Family::V4.remotes()[0]);
    for path in [1500, 1400, 576, 1280, 9000, 68] {
        peer.state.set_path_mtu(path);
        // Below a header's length nothing passes, and nothing breaks.
        site.does_not_send(of_inner_packet((path as usize).saturating_sub(49)), R::TunnelMtu);
        if path > 100 {
            site.sent(of_inner_packet(path as usize - 50));
        }
    }
    for path in [0, 1, 35, 36] {
        peer.state.set_path_mtu(path);
        let call = site.call();
        site.does_not_send(call, R::TunnelMtu);
    }
}

fn other_remotes_keep_theirs() {
    for family in FAMILIES {
        let remotes = family.remotes().map(|addr| addr.parse().unwrap()).to_vec();
        let mut site = Site::with(family, vxlan(1), |spec| spec.remotes = Some(remotes));
        site.lab.peer(site.vtep, family.remotes()[1]).state.set_path_mtu(1300);
        site.lab.send(site.tenant, frame(MacAddr::BROADCAST, mac(1), 1400));
        let to: Vec<_> = site.lab.received(site.vtep).into_iter().collect();
        let to: Vec<_> = to.iter().map(|p| decode(&p.bytes).0.dst.to_string()).collect();
        assert_eq!(to, [family.remotes()[0], family.remotes()[2]]);
        assert_eq!(site.lab.drops(site.vtep, R::TunnelMtu), 1);
    }
}

fn segments_that_fit() {
    for (mut site, over) in sites() {
        // IPv4 and TCP are 40 bytes, IPv6 and TCP 60.
        let most = 1500 - over;
        for (packet, kind, headers) in [
            (tcp4(MacAddr::BROADCAST, mac(1), &pattern(3, 60_000)), GsoKind::TcpV4, 40),
            (tcp6(MacAddr::BROADCAST, mac(1), &pattern(3, 60_000)), GsoKind::TcpV6, 60),
        ] {
            let size = most - headers;
            site.lab.send(site.tenant, gso(packet, kind, size as u16));
            let sent = site.lab.received(site.vtep);
            assert_eq!(sent.len(), 60_000usize.div_ceil(size));
            assert!(sent.iter().all(|p| p.bytes.len() <= 1500));
            assert_eq!(sent[0].bytes.len(), 1500);
            let mut data = Vec::new();
            for packet in &sent {
                let (_, _, rest) = decode(&packet.bytes);
                let inner = rest.len() - (packet.bytes.len() - over + 14).min(rest.len());
                let inner = &rest[inner..];
                assert_inner_sums(inner);
                data.extend_from_slice(&inner[14 + headers..]);
            }
            assert_eq!(data, pattern(3, 60_000));
        }
    }
}

/// etherparse agrees with the checksums of an inner TCP segment.
fn assert_inner_sums(frame: &[u8]) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let parsed = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { panic!("no TCP") };
    let (header, payload) = (tcp.to_header(), tcp.payload());
    let right = match parsed.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            header.calc_checksum_ipv4(&ip, payload).unwrap()
        }
        NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), payload).unwrap(),
        _ => panic!("no IP"),
    };
    assert_eq!(header.checksum, right);
}

fn segments_that_do_not() {
    for (mut site, over) in sites() {
        let size = 1500 - over - 40 + 1;
        let packet = tcp4(MacAddr::BROADCAST, mac(1), &pattern(3, 20_000));
        site.does_not_send(gso(packet, GsoKind::TcpV4, size as u16), R::TunnelMtu);
        // A "BIG TCP" packet: 64 KiB that say a length of 0 and are to be sent as one.
        let mut big = tcp4(MacAddr::BROADCAST, mac(1), &pattern(3, 65_000)).bytes;
        big[16..18].fill(0);
        site.does_not_send(big, R::TunnelMtu);
        let next = site.call();
        site.sent(next);
    }
}
