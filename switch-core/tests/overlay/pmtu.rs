//! Path MTU: RFC 1191, RFC 8201, RFC 4459.

use etherparse::TcpHeader;
use switch_core::DropReason as R;
use switch_core::config::{InnerTags, TunnelKind};
use switch_core::frame::GsoKind;
use switch_core::testing::frames::{gso, mac, pattern, sum, tagged, tcp4, tcp6};
use switch_core::wire::MacAddr;

use crate::By::{Core, Kernel};
use crate::Check;
use crate::Level::{May, Must, Should};
use crate::lab::overlay::{geneve, gre, nvgre, vxlan};
use crate::lab::underlay::{self, Outer, decode, udp_frame};
use crate::lab::{frame, small};
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
    Check::new(
        "P1191-4-4",
        "RFC 1191 §4, RFC 4443 §3.2",
        Must,
        Core,
        "who sends what is too large is told: ICMP 3/4 or packet too big, with the MTU that fits",
        senders_are_told,
        senders_that_are_not_told,
    ),
    Check::new(
        "P1812-4.3.2.8-5",
        "RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)",
        Should,
        Core,
        "these messages are rate limited",
        some_are_told_each_second,
        not_all_are_told,
    ),
    Check::new(
        "P8201-4-8",
        "RFC 1191 §6, RFC 8201 §4",
        Must,
        Kernel,
        "messages about outer packets are believed only if they are about one that was sent",
        a_path_that_shrinks_and_grows,
        forged_messages,
    )
    .note("the kernel keeps the path MTU of its sockets; the core takes no message at all"),
    Check::new(
        "P4821-7.7-6",
        "RFC 4821 §7.7",
        May,
        Core,
        "not: probing for paths that drop without a word",
        without_df_routers_may_fragment,
        nothing_is_sent_unasked,
    )
    .note("needs an endpoint that answers probes; df = false is the way around a black hole"),
    Check::new(
        "P6691-2-7",
        "RFC 6691 §2",
        May,
        Core,
        "where asked for, the MSS of TCP connections is lowered to what fits, in both directions",
        mss_is_clamped,
        mss_that_stays,
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

/// A frame with a UDP packet of that length in all, from station 1 to station 2.
fn of_ip_packet(v6: bool, df: bool, len: usize) -> Vec<u8> {
    let (ip, headers) = if v6 {
        (Outer::new("fd00::1", "fd00::2"), 48)
    } else {
        (Outer { df, ..Outer::new("10.0.0.1", "10.0.0.2") }, 28)
    };
    udp_frame(mac(2), mac(1), &[], &ip, (1, 2), len - headers)
}

/// ICMP that comes in at the VTEP is no tunnel's packet, and changes no path MTU.
fn forged_messages() {
    for (mut site, _) in sites() {
        let call = site.call();
        let quoted = site.sent(call);
        let (protocol, message) = match site.family {
            Family::V4 => (1, [3, 4, 0, 0, 0, 0, 0x02, 0x40]),
            Family::V6 => (58, [2, 0, 0, 0, 0, 0, 0x05, 0x00]),
        };
        let icmp = [&message[..], &quoted].concat();
        let packet = site.from().packet(protocol, &icmp);
        site.refuses(packet, R::TunnelUnknown);
        let peer = site.lab.peer(site.vtep, site.family.remotes()[0]);
        assert_eq!(peer.state.path_mtu(), 1500);
    }
}

/// Sends a frame that is too large; what comes back to its sender.
fn answers(site: &mut Site, frame: Vec<u8>) -> Vec<Vec<u8>> {
    let drops = site.lab.drops(site.vtep, R::TunnelMtu);
    site.lab.send(site.tenant, frame);
    assert_eq!(site.lab.drops(site.vtep, R::TunnelMtu), drops + 1);
    assert!(site.lab.received(site.vtep).is_empty());
    site.lab.received(site.tenant).into_iter().map(|packet| packet.bytes).collect()
}

/// The answer goes back from the address that was asked for, says `mtu` and quotes the packet.
fn tells(answer: &[u8], asked: &[u8], mtu: usize) {
    let l3 = if asked[12..14] == [0x81, 0] { 18 } else { 14 };
    assert_eq!((&answer[..6], &answer[6..12]), (&asked[6..12], &asked[..6]));
    assert_eq!(answer[12..l3], asked[12..l3], "the same tag");
    let (ip, protocol, icmp) = decode(&answer[l3..]);
    let v4 = ip.src.is_ipv4();
    let (src, dst) = if v4 { ("10.0.0.2", "10.0.0.1") } else { ("fd00::2", "fd00::1") };
    assert_eq!((ip.src.to_string(), ip.dst.to_string()), (src.to_owned(), dst.to_owned()));
    let told = u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]);
    assert_eq!(told as usize, mtu);
    let quoted = &icmp[8..];
    if v4 {
        assert_eq!((protocol, icmp[0], icmp[1]), (1, 3, 4));
        assert_eq!(sum(icmp), 0xffff);
        assert!(answer.len() - l3 <= 576);
    } else {
        assert_eq!((protocol, icmp[0], icmp[1]), (58, 2, 0));
        let pseudo = [&answer[l3 + 8..l3 + 40], &(icmp.len() as u32).to_be_bytes(), &[0, 0, 0, 58]];
        assert_eq!(sum(&[&pseudo.concat(), icmp].concat()), 0xffff);
        assert!(answer.len() - l3 <= 1280);
    }
    // Eight bytes behind the IP header at least.
    assert!(quoted.len() >= if v4 { 28 } else { 48 });
    assert_eq!(quoted, &asked[l3..l3 + quoted.len()]);
}

fn senders_are_told() {
    for (mut site, over) in sites() {
        site.meets(mac(2));
        for v6 in [false, true] {
            let mtu = 1500 - over;
            for len in [mtu + 1, 1500, 9000] {
                let frame = of_ip_packet(v6, true, len);
                let answers = answers(&mut site, frame.clone());
                assert_eq!(answers.len(), 1);
                tells(&answers[0], &frame, mtu);
            }
            // What fits as was told does fit.
            site.sent(of_ip_packet(v6, true, mtu));
        }
        // A path of less than IPv4 may be told of is told as 68 (RFC 791).
        site.lab.peer(site.vtep, site.family.remotes()[0]).state.set_path_mtu(100);
        let frame = of_ip_packet(false, true, 1000);
        let answers = answers(&mut site, frame.clone());
        tells(&answers[0], &frame, 68.max(100usize.saturating_sub(over)));
    }
    // A tag that goes in with the frame leaves less; one that is stripped does not.
    for (tags, tci, mtu) in [
        (InnerTags::Keep, 5, 1446),
        (InnerTags::Keep, 0xe000, 1446),
        (InnerTags::Strip, 0xe000, 1450),
    ] {
        let mut site = Site::with(Family::V4, vxlan(1), |spec| spec.tags = tags);
        let reply = tagged(&small(MacAddr::BROADCAST, mac(2)), 0x8100, tci);
        let reply = if tags == InnerTags::Keep { reply } else { small(MacAddr::BROADCAST, mac(2)) };
        let packet = site.packet(&reply);
        site.takes(packet, &reply);
        let frame = tagged(&of_ip_packet(false, true, 1451), 0x8100, tci);
        let answers = answers(&mut site, frame.clone());
        tells(&answers[0], &frame, mtu);
        site.sent(tagged(&of_ip_packet(false, true, mtu), 0x8100, tci));
    }
}

fn senders_that_are_not_told() {
    for (mut site, _) in sites() {
        // A copy of a flood says nothing of the path to where the station is.
        assert_eq!(answers(&mut site, of_ip_packet(false, true, 1500)).len(), 0);
        site.meets(mac(2));
        let no_df = of_ip_packet(false, false, 1500);
        let arp = frame(mac(2), mac(1), 1500);
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = of_ip_packet(false, true, 1500);
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            frame[24..26].fill(0);
            let right = !sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&right.to_be_bytes());
            frame
        };
        for frame in [
            no_df,
            arp,
            // Of another packet the middle, and from or to nobody in particular.
            with(20, &[0x40, 8]),
            with(26, &[0, 0, 0, 0]),
            with(26, &[224, 0, 0, 1]),
            with(30, &[224, 0, 0, 1]),
            with(30, &[255, 255, 255, 255]),
            with(0, &[0xff; 6]),
            with(0, &[1, 0, 0x5e, 0, 0, 1]),
        ] {
            assert_eq!(answers(&mut site, frame), Vec::<Vec<u8>>::new());
        }
        // An ICMP error is answered with nothing: two of these would never end.
        for (kind, told) in [(3, 0), (11, 0), (8, 1), (0, 1)] {
            let ip = Outer::new("10.0.0.1", "10.0.0.2");
            let icmp = [&[kind, 0, 0, 0][..], &[0; 1460]].concat();
            let frame = underlay::in_ethernet(mac(2), mac(1), &[], &ip.packet(1, &icmp));
            assert_eq!(answers(&mut site, frame).len(), told, "type {kind}");
        }
        // IPv6 below its least MTU cannot be helped.
        site.lab.peer(site.vtep, site.family.remotes()[0]).state.set_path_mtu(1280);
        assert_eq!(answers(&mut site, of_ip_packet(true, true, 1280)).len(), 0);
    }
}

/// How many of `n` frames in one moment are answered.
fn answered(site: &mut Site, n: usize) -> usize {
    site.meets(mac(2));
    (0..n).map(|_| answers(site, of_ip_packet(false, true, 1500)).len()).sum()
}

fn some_are_told_each_second() {
    let mut site = Site::new(Family::V4, vxlan(1));
    assert_eq!(answered(&mut site, 10), 10);
    answered(&mut site, 1000);
    assert_eq!(answered(&mut site, 10), 0);
    site.lab.advance(1);
    assert_eq!(answered(&mut site, 10), 10);
}

fn not_all_are_told() {
    let mut site = Site::new(Family::V4, vxlan(1));
    // All are dropped and counted; told are a few hundred at most.
    let told = answered(&mut site, 2000);
    assert!((1..=200).contains(&told), "{told}");
    assert_eq!(site.lab.drops(site.vtep, R::TunnelMtu), 2000);
    assert_eq!(site.lab.totals(site.tenant).originated, told as u64);
}

fn without_df_routers_may_fragment() {
    let mut site = Site::with(Family::V4, vxlan(1), |spec| spec.df = false);
    let call = site.call();
    assert!(!decode(&site.sent(call)).0.df);
}

fn nothing_is_sent_unasked() {
    let mut site = Site::new(Family::V4, vxlan(1));
    for _ in 0..60 {
        site.lab.advance(10);
        site.lab.run();
        site.lab.expect(&[]);
    }
}

/// A SYN that announces `mss`, over IPv4 or IPv6, its checksum made by etherparse.
fn syn(v6: bool, flags_syn: bool, mss: u16) -> Vec<u8> {
    let mut tcp = TcpHeader::new(1000, 80, 7, 64_240);
    tcp.syn = flags_syn;
    let [hi, lo] = mss.to_be_bytes();
    // A NOP in front, so that the value is at an odd place, too.
    tcp.set_options_raw(&[1, 2, 4, hi, lo, 0, 0, 0]).unwrap();
    let (src, dst) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
    let ip = Outer::new(src, dst);
    tcp.checksum = match (ip.src, ip.dst) {
        (std::net::IpAddr::V4(a), std::net::IpAddr::V4(b)) => {
            tcp.calc_checksum_ipv4_raw(a.octets(), b.octets(), &[]).unwrap()
        }
        (std::net::IpAddr::V6(a), std::net::IpAddr::V6(b)) => {
            tcp.calc_checksum_ipv6_raw(a.octets(), b.octets(), &[]).unwrap()
        }
        _ => unreachable!(),
    };
    underlay::in_ethernet(mac(2), mac(1), &[], &ip.packet(6, &tcp.to_bytes()))
}

/// What becomes of a SYN that goes out, and of one that comes in.
fn through(site: &mut Site, frame: &[u8], arrives: &[u8]) {
    let sent = site.sent(frame.to_vec());
    assert_eq!(sent[sent.len() - arrives.len()..], *arrives, "out");
    let packet = site.packet(frame);
    site.takes(packet, arrives);
}

fn mss_is_clamped() {
    for family in FAMILIES {
        for (kind, over) in overheads() {
            let mut site = Site::with(family, kind, |spec| spec.mss_clamp = true);
            let mtu = 1500 - over - if family == Family::V6 { 20 } else { 0 };
            for (v6, headers) in [(false, 40), (true, 60)] {
                let fits = (mtu - headers) as u16;
                for mss in [fits + 1, 1460, 8960, u16::MAX] {
                    through(&mut site, &syn(v6, true, mss), &syn(v6, true, fits));
                }
            }
        }
    }
}

fn mss_that_stays() {
    for family in FAMILIES {
        let mut site = Site::with(family, vxlan(1), |spec| spec.mss_clamp = true);
        for frame in [syn(false, true, 1200), syn(true, true, 536)] {
            through(&mut site, &frame, &frame);
        }
        // Not a SYN; and where nobody asked for it.
        let frame = syn(false, false, 8960);
        through(&mut site, &frame, &frame);
        let mut site = Site::new(family, vxlan(1));
        let frame = syn(false, true, 8960);
        through(&mut site, &frame, &frame);
    }
}
