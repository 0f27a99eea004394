//! Underlay ports on the real kernel: two hosts, or two hosts and a router.

mod common;
#[path = "common/underlay.rs"]
mod underlay;

use std::collections::HashSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use common::*;
use datapath_tap::testing::RawSocket;
use datapath_tap::{TapBackend, TapOptions};
use switch_core::datapath::{
    Backend, BackendError, Datapath, PortEventKind, Ready, UnderlaySpec, Wait,
};
use switch_core::stats::PortCounters;
use switch_core::{Batch, DropReason, WorkerId};
use underlay::{Packet, VTEP, VXLAN, captured, host, hosts, ip, own_files, pattern, spec, wire};

const UNSPECIFIED: [&str; 2] = ["0.0.0.0", "::"];

/// The two hosts' addresses, a family each.
const ENDS: [(&str, &str); 2] = [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")];

struct Pair {
    near: Space,
    far: Space,
}

impl Pair {
    fn new(mtu: u32) -> Self {
        let (near, far) = hosts(mtu);
        Self { near, far }
    }

    fn rigs(&self, near: &UnderlaySpec, far: &UnderlaySpec) -> (Rig, Rig) {
        (Rig::vtep(&self.near, near), Rig::vtep(&self.far, far))
    }

    /// What comes in at the far end.
    fn capture(&self) -> RawSocket {
        RawSocket::open(Some(&self.far.name), "v1").unwrap()
    }
}

fn drops(rig: &Rig, reason: DropReason) -> u64 {
    rig.counters[usize::from(VTEP)].dropped(reason)
}

fn sent(rig: &Rig) -> u64 {
    rig.counters[usize::from(VTEP)].tx_frames.get()
}

#[test]
fn udp_and_gre_cross_with_what_their_outer_headers_say() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(9000);
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        let (mut near, mut far) = pair.rigs(&spec(a), &spec(b));
        let (mut count, mut total) = (0, 0);
        for len in [0, 1, 13, 14, 50, 1400, 1764, 1765, 1800, 8900] {
            for (class, ttl) in [(0, 64), (0xb9, 1), (0xff, 255)] {
                for udp in [true, false] {
                    for checksum in [false, true] {
                        let payload = pattern(len);
                        let make = if udp { Packet::udp } else { Packet::gre };
                        let mut packet = Packet { class, ttl, ..make(a, b, payload) };
                        packet.checksum = checksum && udp;
                        near.transmit(&packet);
                        let got = far.packets(1).remove(0);
                        packet.checksum = false;
                        // The one that is chosen for 50,000 over IPv6 is not known here.
                        packet.udp = packet.udp.map(|(_, dst)| (got.udp.unwrap().0, dst));
                        packet.df = got.df;
                        assert_eq!(got, packet);
                        assert!(got.udp.is_none_or(|(src, _)| src >= 49_152));
                        count += 1;
                        total += (got.header_len() + len) as u64;
                    }
                }
            }
        }
        let (tx, rx) = (&near.counters[usize::from(VTEP)], &far.counters[usize::from(VTEP)]);
        assert_eq!((tx.tx_frames.get(), tx.tx_bytes.get()), (count, total));
        assert_eq!((rx.rx_frames.get(), rx.rx_bytes.get()), (count, total));
        // And back.
        far.transmit(&Packet::gre(b, a, pattern(100)));
        assert_eq!(near.packets(1)[0].payload, pattern(100));
    }
}

#[test]
fn the_wire_shows_flags_checksums_and_a_port_for_each_flow() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    // Checksums are finished before the wire.
    pair.near.run("ethtool -K v0 tx off");
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        let (mut near, _far) = pair.rigs(&spec(a), &spec(b));
        let wire = pair.capture();
        for df in [true, false] {
            for checksum in [false, true] {
                let packet = Packet { df, checksum, ..Packet::udp(a, b, pattern(99)) };
                near.transmit(&packet);
                let got = captured(&wire, a, b, 1).remove(0);
                assert_eq!((got.df, got.checksum), (df || a.is_ipv6(), checksum));
            }
            let packet = Packet { df, ..Packet::gre(a, b, pattern(99)) };
            near.transmit(&packet);
            assert_eq!(captured(&wire, a, b, 1)[0].df, df || a.is_ipv6());
        }

        let ports = |rig: &mut Rig, flows: &mut dyn Iterator<Item = u16>| -> Vec<u16> {
            let sources: Vec<u16> = flows.map(|n| 49_152 + n % 16_384).collect();
            for src in &sources {
                let udp = Some((*src, VXLAN));
                rig.transmit(&Packet { udp, ..Packet::udp(a, b, pattern(9)) });
            }
            let got = captured(&wire, a, b, sources.len());
            got.iter().map(|packet| packet.udp.unwrap().0).collect()
        };
        let first = ports(&mut near, &mut (0..64).map(|n: u16| n.wrapping_mul(40_503)));
        assert_eq!(first, ports(&mut near, &mut (0..64).map(|n: u16| n.wrapping_mul(40_503))));
        assert!(first.iter().all(|port| *port >= 49_152));
        let distinct: HashSet<u16> = first.iter().copied().collect();
        assert!(distinct.len() >= 40, "{} ports", distinct.len());
        // A flow has the same port after a restart.
        drop(near);
        let mut near = Rig::vtep(&pair.near, &spec(a));
        let after = ports(&mut near, &mut (0..64).map(|n: u16| n.wrapping_mul(40_503)));
        assert_eq!(first, after);
    }
}

#[test]
fn what_is_larger_than_the_device_is_a_named_drop_or_fragmented() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        let (mut near, mut far) = pair.rigs(&spec(a), &spec(b));
        for make in [Packet::udp, Packet::gre] {
            let header = make(a, b, Vec::new()).header_len();
            near.transmit(&make(a, b, pattern(1500 - header)));
            assert_eq!(far.packets(1)[0].payload.len(), 1500 - header);
            let before = drops(&near, DropReason::TunnelMtu);
            near.transmit(&make(a, b, pattern(1501 - header)));
            assert_eq!(drops(&near, DropReason::TunnelMtu), before + 1);
            if a.is_ipv4() {
                near.transmit(&Packet { df: false, ..make(a, b, pattern(4000)) });
                assert_eq!(far.packets(1)[0].payload, pattern(4000));
            }
            // The next one passes.
            near.transmit(&make(a, b, pattern(7)));
            assert_eq!(far.packets(1)[0].payload, pattern(7));
        }
        assert_eq!(drops(&near, DropReason::TxError), 0);
    }
}

#[test]
fn errors_of_earlier_packets_do_not_lose_later_ones() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        // Nobody listens at the far end, whose kernel says so for each datagram.
        let mut near = Rig::vtep(&pair.near, &spec(a));
        pair.far.run("sysctl -qw net.ipv4.icmp_ratelimit=0");
        pair.far.run("sysctl -qw net.ipv6.icmp.ratelimit=0");
        let wire = pair.capture();
        for n in 0..50 {
            near.transmit(&Packet::udp(a, b, pattern(n)));
            let got = captured(&wire, a, b, 1).remove(0);
            assert_eq!(got.payload, pattern(n));
        }
        assert_eq!(sent(&near), 50);
        // There is no way to this one, and that is told.
        let nowhere = if a.is_ipv4() { ip("203.0.113.9") } else { ip("2001:db8:9::9") };
        near.transmit(&Packet::udp(a, nowhere, pattern(9)));
        assert_eq!(drops(&near, DropReason::TxError), 1);
        let (told, mut near) = spawn_in(&pair.near, move || {
            let events = near.backend.events();
            (events, near)
        })
        .join()
        .unwrap();
        let unreachable = |kind: &PortEventKind| matches!(kind, PortEventKind::TxError(why) if why.contains("ENETUNREACH"));
        assert!(told.iter().any(|event| unreachable(&event.kind)), "{told:?}");
        assert_eq!(near.backend.path_mtu(port(VTEP), nowhere), None);
        near.transmit(&Packet::udp(a, b, pattern(3)));
        assert_eq!(captured(&wire, a, b, 1)[0].payload, pattern(3));
    }
}

#[test]
fn a_full_queue_of_the_device_is_a_named_drop() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    // Before neighbours are known, packets wait elsewhere.
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        let (mut near, mut far) = pair.rigs(&spec(a), &spec(b));
        near.transmit(&Packet::udp(a, b, pattern(1)));
        far.packets(1);
    }
    pair.near.run("tc qdisc add dev v0 root tbf rate 8kbit burst 1600 limit 3200");
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        for make in [Packet::udp, Packet::gre] {
            let mut near = Rig::vtep(&pair.near, &spec(a));
            for _ in 0..20 {
                near.transmit(&make(a, b, pattern(1000)));
            }
            let full = drops(&near, DropReason::TxFull);
            assert!(full > 0, "{a}: {}", sent(&near));
            assert_eq!(sent(&near) + full, 20);
        }
    }
}

#[test]
fn sending_sockets_keep_nothing_that_arrives() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        let (_near, mut far) = pair.rigs(&spec(a), &spec(b));
        for port in [VXLAN, 49_152, 49_153] {
            far.transmit(&Packet { udp: Some((50_000, port)), ..Packet::udp(b, a, pattern(9)) });
        }
        far.transmit(&Packet::gre(b, a, pattern(9)));
        assert_eq!(sent(&far), 4);
        // State, bytes to be read, bytes to be sent, local address.
        let holding = |kind: &str| -> Vec<String> {
            let sockets = pair.near.run(&format!("ss -Hn{kind}a"));
            let words = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            words.filter(|words| words[1] != "0").map(|words| words[3].to_owned()).collect()
        };
        let udp = holding("u");
        assert!(udp.len() == 1 && udp[0].ends_with(":4789"), "{udp:?}");
        assert_eq!(holding("w").len(), 1);
    }
}

#[test]
fn other_workers_send_through_the_one_that_has_the_sockets() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    let (a, b) = (ip("192.0.2.1"), ip("192.0.2.2"));
    let mut far = Rig::vtep(&pair.far, &spec(b));
    let open = move || {
        let mut backend = TapBackend::new(TapOptions::default());
        let mut workers = [0, 1].map(|n| backend.worker(WorkerId(n)).unwrap());
        let opened = backend.open_vtep(port(VTEP), &spec(a)).unwrap();
        for (worker, queue) in workers.iter_mut().zip(opened.queues) {
            worker.attach(port(VTEP), queue);
        }
        (backend, workers, opened.owner)
    };
    let (_backend, [mut owner, mut other], first) = spawn_in(&pair.near, open).join().unwrap();
    assert_eq!(first, WorkerId(0));
    let counters = PortCounters::default();
    let mut frame = other.alloc().unwrap();
    assert!(frame.fill(&Packet::udp(a, b, pattern(99)).bytes()));
    let mut batch = Batch::new();
    batch.push(frame).unwrap();
    other.tx_burst(port(VTEP), &mut batch, &counters);
    assert_eq!(counters.tx_frames.get(), 0);
    eventually("the owner hears of it", || {
        let mut ready = Ready::default();
        owner.poll(Wait::AtMost(Duration::from_millis(100)), &mut ready);
        ready.handed_over.contains(&port(VTEP))
    });
    owner.tx_handed_over(port(VTEP), &counters);
    assert_eq!(counters.tx_frames.get(), 1);
    assert_eq!(far.packets(1)[0].payload, pattern(99));
}

#[test]
fn groups_are_joined_and_sent_to() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    // A second wire, which routes lead to: the device that has the VTEP's address counts.
    wire(
        (&pair.near, "x0", ["203.0.113.1/24", "2001:db8:3::1/64"]),
        (&pair.far, "x1", ["203.0.113.2/24", "2001:db8:3::2/64"]),
        1500,
    );
    pair.near.run("ip route add 239.0.0.0/8 dev x0");
    pair.near.run("ip -6 route add multicast ff00::/8 dev x0 table local metric 1");
    let groups = [("239.1.2.3", "239.1.2.4"), ("ff05::1:3", "ff05::1:4")];
    for ((a, b), (group, other)) in ENDS.into_iter().zip(groups) {
        let (a, b, group, other) = (ip(a), ip(b), ip(group), ip(other));
        let (mut near_spec, mut far_spec) = (spec(a), spec(b));
        near_spec.udp[0].groups = vec![group];
        far_spec.udp[0].groups = vec![group];
        if a.is_ipv6() {
            // Of the link's scope, which needs its device.
            far_spec.udp[0].groups.push(ip("ff02::1:3"));
        }
        let (mut near, mut far) = pair.rigs(&near_spec, &far_spec);
        // Another program is a member on the second wire, and gets a packet there.
        let member = move || {
            let socket = UdpSocket::bind((UNSPECIFIED[usize::from(a.is_ipv6())], 0)).unwrap();
            match group {
                IpAddr::V4(group) => socket.join_multicast_v4(&group, &[203, 0, 113, 2].into()),
                IpAddr::V6(group) => {
                    socket.join_multicast_v6(&group, nix::net::if_::if_nametoindex("x1").unwrap())
                }
            }
            .unwrap();
            socket
        };
        let _member = spawn_in(&pair.far, member).join().unwrap();
        let other_sender = move || {
            let own = if group.is_ipv4() { "203.0.113.1:0" } else { "[2001:db8:3::1]:0" };
            UdpSocket::bind(own).unwrap().send_to(b"not ours", (group, VXLAN)).unwrap();
        };
        spawn_in(&pair.near, other_sender).join().unwrap();
        for ttl in [1, 9] {
            // One that nobody is a member of; then the own ones.
            near.transmit(&Packet::udp(a, other, pattern(1)));
            near.transmit(&Packet { ttl, class: 0x28, ..Packet::udp(a, group, pattern(77)) });
            let got = far.packets(1).remove(0);
            assert_eq!((got.src, got.dst, got.ttl, got.class), (a, group, ttl, 0x28));
            assert_eq!(got.payload, pattern(77));
        }
        if a.is_ipv6() {
            near.transmit(&Packet::udp(a, ip("ff02::1:3"), pattern(5)));
            assert_eq!(far.packets(1)[0].dst, ip("ff02::1:3"));
        }
        far.transmit(&Packet::udp(b, group, pattern(78)));
        assert_eq!(near.packets(1)[0].payload, pattern(78));
        // Nothing came back to whom it came from, and nothing came twice.
        near.transmit(&Packet::udp(a, b, pattern(2)));
        assert_eq!(far.packets(1)[0].payload, pattern(2));
        far.transmit(&Packet::udp(b, a, pattern(3)));
        assert_eq!(near.packets(1)[0].payload, pattern(3));
    }
}

/// Two hosts with a router between them, whose far link is narrower.
struct Routed {
    near: Space,
    router: Space,
    far: Space,
}

impl Routed {
    fn new() -> Self {
        own_files();
        let (near, router, far) = (host(), host(), host());
        wire(
            (&near, "v0", ["192.0.2.1/24", "2001:db8:1::1/64"]),
            (&router, "r0", ["192.0.2.254/24", "2001:db8:1::fe/64"]),
            1500,
        );
        wire(
            (&far, "v1", ["198.51.100.2/24", "2001:db8:2::2/64"]),
            (&router, "r1", ["198.51.100.254/24", "2001:db8:2::fe/64"]),
            1400,
        );
        router.run("sysctl -qw net.ipv4.ip_forward=1");
        router.run("sysctl -qw net.ipv6.conf.all.forwarding=1");
        near.run("ip route add default via 192.0.2.254");
        near.run("ip -6 route add default via 2001:db8:1::fe");
        far.run("ip route add default via 198.51.100.254");
        far.run("ip -6 route add default via 2001:db8:2::fe");
        Self { near, router, far }
    }
}

#[test]
fn a_path_is_learned_from_the_router_and_from_nobody_else() {
    if !can_run() {
        return;
    }
    let ends = [("192.0.2.1", "198.51.100.2"), ("2001:db8:1::1", "2001:db8:2::2")];
    let net = Routed::new();
    for (a, b) in ends.map(|(a, b)| (ip(a), ip(b))) {
        for make in [Packet::udp, Packet::gre] {
            let near_spec = spec(a);
            let mut near = Rig::vtep(&net.near, &near_spec);
            let mut far = Rig::vtep(&net.far, &spec(b));
            net.near.run("ip route flush cache");
            net.near.run("ip -6 route flush cache");
            let mtu = |rig: &mut Rig| rig.backend.path_mtu(port(VTEP), b);
            assert_eq!(mtu(&mut near), Some(1500));

            // The router tells of packets that were never sent: one of another program's flow, and
            // one from the port that the VTEP listens at.
            for src in [40_000, VXLAN] {
                let forged = Packet { udp: Some((src, VXLAN)), ..Packet::udp(a, b, pattern(600)) };
                forge(&net.router, a, &forged.bytes(), 1300);
            }
            // The router's own packets come after it in the same order.
            far.transmit(&make(b, a, pattern(8)));
            near.packets(1);
            assert_eq!(mtu(&mut near), Some(1500));

            let header = make(a, b, Vec::new()).header_len();
            near.transmit(&make(a, b, pattern(1401 - header)));
            eventually("the path is learned", || mtu(&mut near) == Some(1400));
            let before = drops(&near, DropReason::TunnelMtu);
            near.transmit(&make(a, b, pattern(1401 - header)));
            assert_eq!(drops(&near, DropReason::TunnelMtu), before + 1);
            near.transmit(&make(a, b, pattern(1400 - header)));
            assert_eq!(far.packets(1)[0].payload.len(), 1400 - header);
            assert_eq!(drops(&near, DropReason::TxError), 0);
            // Asked in any order, each remote has its own.
            let neighbour = if a.is_ipv4() { ip("192.0.2.254") } else { ip("2001:db8:1::fe") };
            for _ in 0..3 {
                assert_eq!(near.backend.path_mtu(port(VTEP), neighbour), Some(1500));
                assert_eq!(mtu(&mut near), Some(1400));
            }
        }
    }
}

/// Sends an ICMP message "fragmentation needed" or "packet too big" that quotes a packet.
fn forge(from: &Space, to: IpAddr, quoted: &[u8], mtu: u16) {
    let quoted = quoted[..200].to_vec();
    let send = move || {
        use nix::sys::socket::*;
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let proto = if to.is_ipv4() { SockProtocol::Icmp } else { SockProtocol::IcmpV6 };
        let socket = socket(family, SockType::Raw, SockFlag::empty(), proto).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let mut message = match to {
            IpAddr::V4(_) => [&[3, 4, 0, 0, 0, 0][..], &mtu.to_be_bytes()].concat(),
            // The kernel sums ICMPv6 up by itself.
            IpAddr::V6(_) => [&[2, 0, 0, 0, 0, 0][..], &mtu.to_be_bytes()].concat(),
        };
        message.extend(quoted);
        match to {
            IpAddr::V4(to) => {
                let sum = switch_core::wire::checksum::checksum(&message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                let to = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
                sendto(fd, &message, &to, MsgFlags::empty()).unwrap();
            }
            IpAddr::V6(to) => {
                let to = SockaddrIn6::from(std::net::SocketAddrV6::new(to, 0, 0, 0));
                sendto(fd, &message, &to, MsgFlags::empty()).unwrap();
            }
        }
    };
    spawn_in(from, send).join().unwrap();
}

#[test]
fn a_port_that_somebody_has_is_named_and_sending_ports_are_skipped() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    let near = pair.near.name.clone();
    let taken = |rig: &mut Rig, spec: &UnderlaySpec| match rig.open_vtep(spec) {
        Err(BackendError::Failed { cause, hint, .. }) => (cause, hint.unwrap()),
        other => panic!("{other:?}"),
    };
    let test = move || {
        let mut rig = Rig::new(TapOptions::default());
        let other = UdpSocket::bind("0.0.0.0:4789").unwrap();
        let (cause, hint) = taken(&mut rig, &spec(ip("192.0.2.1")));
        assert_eq!(cause, "UDP port 4789 is in use");
        assert!(hint.contains("ss -Hulpn 'sport = :4789'"), "{hint}");
        drop(other);
        // A second switch does not take the port away from the first one.
        let mut first = Rig::new(TapOptions::default());
        first.open_vtep(&spec(ip("192.0.2.1"))).unwrap();
        taken(&mut rig, &spec(ip("192.0.2.1")));
        first.close(VTEP, false).unwrap();

        // Sending ports that others have are skipped, and missed only when none are left.
        let _held: Vec<_> =
            (0..10).map(|n| UdpSocket::bind(("0.0.0.0", 49_153 + n)).unwrap()).collect();
        let info = rig.open_vtep(&spec(ip("192.0.2.1"))).unwrap();
        assert_eq!((&*info.device, info.queues, info.lost), ("underlay 192.0.2.1", 64, Vec::new()));
        assert!(info.caps.csum && !info.caps.tso4 && info.link_up);
        let bound = run(&format!("ip netns exec {near} ss -Huan sport >= :49152"));
        assert!(bound.contains("192.0.2.1:49152") && bound.contains("192.0.2.1:49163"));
        assert!(!bound.contains("192.0.2.1:49153"), "{bound}");
        rig.close(VTEP, false).unwrap();
    };
    spawn_in(&pair.near, test).join().unwrap();
}

#[test]
fn an_address_is_waited_for_and_missed() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    let space = pair.near.name.clone();
    let test = move || {
        for (local, prefix) in [("192.0.2.77", 24), ("2001:db8::77", 64)] {
            let (local, address) = (ip(local), format!("{local}/{prefix} dev v0"));
            let mut rig = Rig::new(TapOptions::default());
            let error = rig.open_vtep(&spec(local)).unwrap_err();
            assert!(matches!(error, BackendError::NotThere { .. }), "{error}");
            assert!(rig.backend.events().is_empty());
            run(&format!("ip -n {space} addr add {address}"));
            rig.wait_for(VTEP, |kind| *kind == PortEventKind::Appeared);
            rig.open_vtep(&spec(local)).unwrap();
            assert!(rig.backend.events().is_empty());
            run(&format!("ip -n {space} addr del {address}"));
            rig.wait_for(
                VTEP,
                |kind| matches!(kind, PortEventKind::Gone(why) if why.contains("no more")),
            );
            assert!(rig.backend.events().is_empty());
            assert!(!rig.backend.port_info(port(VTEP)).unwrap().link_up);
            rig.close(VTEP, false).unwrap();
        }
    };
    spawn_in(&pair.near, test).join().unwrap();
}

#[test]
fn what_finds_a_full_buffer_is_counted() {
    if !can_run() {
        return;
    }
    const MANY: u64 = 30_000;
    let pair = Pair::new(1500);
    let (a, b) = (ip("192.0.2.1"), ip("192.0.2.2"));
    let (mut near, mut far) = pair.rigs(&spec(a), &spec(b));
    let packet = Packet::udp(a, b, pattern(1400));
    for _ in 0..MANY {
        near.transmit(&packet);
    }
    assert_eq!(sent(&near), MANY);
    let (mut received, mut last) = (0, 1);
    while last > 0 {
        last = far.take(Duration::from_millis(200)).len() as u64;
        received += last;
    }
    let missed = far.backend.outside_loss(port(VTEP)).missed_rx;
    assert!(missed > 0);
    assert_eq!(received + missed, MANY);
    // Nor is it forgotten with the socket.
    far.adjust_vtep(&UnderlaySpec { udp: Vec::new(), ..spec(b) }).unwrap();
    assert_eq!(far.backend.outside_loss(port(VTEP)).missed_rx, missed);
}

#[test]
fn opening_and_closing_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(1500);
    let test = || {
        let mut rig = Rig::new(TapOptions::default());
        let mut spec4 = UnderlaySpec { entropy_ports: 4, ..spec(ip("192.0.2.1")) };
        spec4.udp[0].groups = vec![ip("239.1.1.1")];
        let spec6 = UnderlaySpec { entropy_ports: 4, ..spec(ip("2001:db8::1")) };
        let cycle = |rig: &mut Rig, spec: &UnderlaySpec| {
            rig.open_vtep(spec).unwrap();
            rig.close(VTEP, false).unwrap();
        };
        let own = || std::fs::read_dir("/proc/thread-self/fd").unwrap().count();
        cycle(&mut rig, &spec4);
        let before = own();
        for _ in 0..100 {
            cycle(&mut rig, &spec4);
            cycle(&mut rig, &spec6);
        }
        (before, own())
    };
    let (before, after) = spawn_in(&pair.near, test).join().unwrap();
    assert_eq!(before, after);
}
