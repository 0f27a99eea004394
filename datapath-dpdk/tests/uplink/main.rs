//! Uplinks and the VTEPs on them, byte for byte: a `net_ring` device whose far end is the wire, and
//! the kernel of a network namespace behind the exception TAP. Needs root.

#[path = "../common/mod.rs"]
mod common;
mod rig;

use std::net::IpAddr;
use std::process::Command;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{FarEnd, content};
use datapath_dpdk::{DpdkBackend, DpdkDatapath, Mempool};
use nix::sched::{CloneFlags, unshare};
use switch_core::batch::Batch;
use switch_core::datapath::{
    Backend, BackendError, Datapath, PortEventKind, Ready, UdpListen, UnderlaySpec, Wait,
};
use switch_core::drop::DropReason;
use switch_core::ids::{PortId, WorkerId};
use switch_core::stats::PortCounters;
use switch_core::testing::frames::{ethernet, mac, pattern, sum};
use switch_core::wire::MacAddr;

use rig::{Rig, UPLINK, VTEP};

const TAP: &str = "up0";
const VXLAN: u16 = 4789;
const LOCAL: [u8; 4] = [192, 0, 2, 1];
const REMOTE: [u8; 4] = [192, 0, 2, 2];
const SOON: Duration = Duration::from_secs(20);

fn port(n: u16) -> PortId {
    PortId::new(n).unwrap()
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}

/// The namespace ends with the thread that made it.
fn in_own_namespace(test: impl FnOnce() + Send + 'static) {
    common::eal();
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs CAP_SYS_ADMIN");
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn spec(local: impl Into<IpAddr>) -> UnderlaySpec {
    UnderlaySpec {
        name: "v".into(),
        local: local.into(),
        uplink: Some("wire".into()),
        entropy_ports: 64,
        udp: vec![UdpListen { port: VXLAN, groups: Vec::new(), accept_no_checksum: false }],
        gre: true,
        send: Vec::new(),
    }
}

/// An IPv4 packet with a right checksum.
fn ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src);
    packet.extend(dst);
    let checksum = sum(&packet);
    packet[10..12].copy_from_slice(&(!checksum).to_be_bytes());
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum.
fn udp(dst: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = 0xc001_u16.to_be_bytes().to_vec();
    datagram.extend(dst.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

fn tunnel_packet(to: [u8; 4], seed: u32, len: usize) -> Vec<u8> {
    ipv4(LOCAL, to, 17, 0x4000, &udp(VXLAN, &pattern(seed, len)))
}

/// What stands in front of packets to a neighbour.
fn header(to: MacAddr, from: MacAddr) -> Vec<u8> {
    ethernet(to, from, 0x0800, &[])
}

fn arp(
    op: u16,
    sender: MacAddr,
    sender_ip: [u8; 4],
    target: MacAddr,
    target_ip: [u8; 4],
) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(op.to_be_bytes());
    body.extend(sender.octets());
    body.extend(sender_ip);
    body.extend(target.octets());
    body.extend(target_ip);
    body
}

#[test]
fn tunnel_packets_are_the_vteps_and_everything_else_the_hosts() {
    in_own_namespace(|| {
        let mut rig = Rig::with_vtep(1);
        let (us, them) = (rig.mac, mac(2));

        // ARP, and a ping that the kernel answers.
        let request = arp(1, them, REMOTE, MacAddr::new([0; 6]), LOCAL);
        rig.arrives(&ethernet(MacAddr::BROADCAST, them, 0x0806, &request));
        let reply = rig.on_wire(0x0806, |frame| frame[20..22] == [0, 2]);
        assert_eq!(reply[..12], [them.octets(), us.octets()].concat());
        assert_eq!(reply[14..42], arp(2, us, LOCAL, them, REMOTE)[..]);
        let mut echo = vec![8, 0, 0, 0, 1, 2, 3, 4];
        let checksum = sum(&echo);
        echo[2..4].copy_from_slice(&(!checksum).to_be_bytes());
        rig.arrives(&ethernet(us, them, 0x0800, &ipv4(REMOTE, LOCAL, 1, 0, &echo)));
        let answer = rig.on_wire(0x0800, |frame| frame[23] == 1 && frame[34] == 0);
        assert_eq!(answer[38..42], [1, 2, 3, 4]);

        let before = rig.totals();
        let theirs = |protocol, fragment, payload: &[u8]| {
            ethernet(us, them, 0x0800, &ipv4(REMOTE, LOCAL, protocol, fragment, payload))
        };
        let vxlan = theirs(17, 0, &udp(VXLAN, &pattern(1, 60)));
        let gre = theirs(47, 0, &pattern(2, 60));
        // The first part of a datagram is ours to name its drop; so are all parts of GRE.
        let first = theirs(17, 0x2000, &udp(VXLAN, &pattern(3, 64)));
        let gre_later = theirs(47, 0x0010, &pattern(4, 64));
        for frame in [&vxlan, &gre, &first, &gre_later] {
            rig.arrives(frame);
        }
        rig.until("four packets", |rig| (rig.received.len() == 4).then_some(()));
        let packets = std::mem::take(&mut rig.received);
        for (packet, frame) in packets.iter().zip([&vxlan, &gre, &first, &gre_later]) {
            assert_eq!(packet[..], frame[14..]);
        }
        let bytes: u64 = packets.iter().map(|packet| packet.len() as u64).sum();
        let now = rig.totals();
        assert_eq!((now[1].rx_frames, now[1].rx_bytes), (4, bytes));
        assert_eq!(now[0].rx_frames, before[0].rx_frames, "they are the VTEP's alone");

        // Another port, another address, another MAC address, a VLAN, a later part: the host's.
        let elsewhere = ethernet(us, them, 0x0800, &tunnel_packet([192, 0, 2, 9], 5, 60));
        let mut tagged = vxlan[..12].to_vec();
        tagged.extend([0x81, 0, 0, 5]);
        tagged.extend(&vxlan[12..]);
        let mut other_mac = vxlan.clone();
        other_mac[5] ^= 1;
        let hosts = [
            theirs(17, 0, &udp(VXLAN + 1, &pattern(1, 60))),
            elsewhere,
            tagged,
            other_mac,
            theirs(17, 0x0010, &udp(VXLAN, &pattern(6, 60))),
            theirs(17, 0, &udp(VXLAN, &[]))[..41].to_vec(),
            ethernet(us, them, 0x88cc, &[0; 46]),
        ];
        let n = hosts.len() as u64 - 1;
        for frame in &hosts {
            rig.arrives(frame);
        }
        rig.until("the host's frames", |rig| {
            let consumed = rig.totals()[0].consumed - before[0].consumed;
            (consumed >= n).then_some(())
        });
        // The kernel looked at it, and nobody listens there.
        let refusal = rig.on_wire(0x0800, |frame| frame[23] == 1 && frame[34] == 3);
        assert_eq!(refusal[64..66], (VXLAN + 1).to_be_bytes());
        // A datagram cut behind its ports is a tunnel's all the same: the core names its drop.
        assert_eq!(rig.received.len(), 1);
        assert_eq!(rig.totals()[1].tx_frames, 0);
        rig.close();
    });
}

#[test]
fn packets_get_the_header_that_the_kernels_tables_say() {
    in_own_namespace(|| {
        let mut rig = Rig::with_vtep(1);
        let us = rig.mac;
        ip(&format!("neigh add 192.0.2.2 lladdr {} dev {TAP} nud permanent", mac(2)));
        ip(&format!("neigh add 192.0.2.254 lladdr {} dev {TAP} nud permanent", mac(9)));
        ip("route add 198.51.100.0/24 via 192.0.2.254");
        let near = tunnel_packet(REMOTE, 1, 100);
        let far = tunnel_packet([198, 51, 100, 7], 2, 100);
        rig.send(0, slice::from_ref(&near));
        assert_eq!(rig.packets_on_wire(1, &header(mac(2), us)), slice::from_ref(&near));
        rig.send(0, slice::from_ref(&far));
        assert_eq!(rig.packets_on_wire(1, &header(mac(9), us)), slice::from_ref(&far));
        let sent = rig.totals()[1].clone();
        assert_eq!((sent.tx_frames, sent.tx_bytes), (2, 2 * near.len() as u64));

        // Both known now, they leave in order, each with its own header.
        rig.send(0, &[near.clone(), far.clone(), near.clone()]);
        let frames: Vec<_> = (0..3).map(|_| rig.on_wire(0x0800, |f| f[23] == 17)).collect();
        let _ = frames;

        // The neighbour has another address now, and the far one another router.
        ip(&format!("neigh change 192.0.2.2 lladdr {} dev {TAP} nud permanent", mac(3)));
        let to = |rig: &mut Rig, packet: &Vec<u8>, mac: MacAddr| {
            rig.until("the change to take effect", |rig| {
                rig.send(0, slice::from_ref(packet));
                let frames = std::iter::from_fn(|| rig.far.from_switch.pop());
                let mut frames = frames.map(|frame| content(&frame));
                frames
                    .any(|frame| frame[..6] == mac.octets() && frame[14..] == packet[..])
                    .then_some(())
            });
        };
        to(&mut rig, &near, mac(3));
        ip("route replace 198.51.100.0/24 via 192.0.2.2");
        to(&mut rig, &far, mac(3));

        // A way that leads elsewhere is none.
        ip("route replace 198.51.100.0/24 dev lo");
        rig.until("the route to be gone", |rig| {
            rig.send(0, slice::from_ref(&far));
            (rig.dropped(DropReason::NoRoute) > 0).then_some(())
        });
        rig.close();
    });
}

#[test]
fn a_few_packets_wait_for_a_neighbour() {
    in_own_namespace(|| {
        let mut rig = Rig::with_vtep(1);
        let us = rig.mac;
        let packets: Vec<_> = (0..20).map(|n| tunnel_packet(REMOTE, n, 100)).collect();
        rig.send(0, &packets);
        // 16 to one destination; the kernel asks for it on our behalf.
        assert_eq!(rig.dropped(DropReason::NeighbourUnresolved), 4);
        let request =
            rig.on_wire(0x0806, |frame| frame[20..22] == [0, 1] && frame[38..42] == REMOTE);
        assert_eq!(request[..6], [0xff; 6]);
        assert_eq!(request[22..32], [&us.octets()[..], &LOCAL].concat());
        assert_eq!(rig.totals()[1].tx_frames, 0);
        rig.arrives(&ethernet(us, mac(2), 0x0806, &arp(2, mac(2), REMOTE, us, LOCAL)));
        assert_eq!(rig.packets_on_wire(16, &header(mac(2), us)), packets[..16]);

        // Nobody answers for the next: the kernel says so, or the time is over.
        rig.send(0, &[tunnel_packet([192, 0, 2, 77], 1, 100)]);
        rig.until("the packet to be dropped", |rig| {
            (rig.dropped(DropReason::NeighbourUnresolved) == 5).then_some(())
        });
        rig.until("the failure to be known", |rig| {
            rig.send(0, &[tunnel_packet([192, 0, 2, 77], 1, 100)]);
            let [_, vtep] = rig.totals();
            // At once: nothing waits any more.
            (vtep.imbalance_out() == 0).then_some(())
        });

        // What waits when the VTEP is adjusted goes on waiting; what waits at its end is dropped.
        let before = rig.dropped(DropReason::NeighbourUnresolved);
        rig.send(0, &[tunnel_packet([192, 0, 2, 78], 1, 100)]);
        rig.adjust(&UnderlaySpec { gre: false, ..spec(LOCAL) });
        rig.arrives(&ethernet(us, mac(2), 0x0800, &ipv4(REMOTE, LOCAL, 47, 0, &[0; 60])));
        rig.on_wire(0x0806, |frame| frame[38..42] == [192, 0, 2, 78]);
        assert!(rig.received.is_empty(), "GRE is the host's now");
        assert_eq!(rig.dropped(DropReason::NeighbourUnresolved), before);
        rig.close();
    });
}

#[test]
fn a_vtep_waits_for_its_address_and_goes_with_it() {
    in_own_namespace(|| {
        let mut rig = Rig::new(1);
        let error = rig.open(&spec(LOCAL)).unwrap_err();
        assert!(matches!(error, BackendError::NotThere { .. }), "{error}");
        assert!(error.to_string().contains("192.0.2.1 on the uplink's TAP up0"), "{error}");
        let told = |rig: &mut Rig, wanted: fn(&PortEventKind) -> bool| {
            rig.until("news of the VTEP", |rig| {
                let events = rig.backend.events();
                events.iter().any(|e| e.port == port(VTEP) && wanted(&e.kind)).then_some(())
            });
        };
        ip(&format!("addr add 192.0.2.1/24 dev {TAP}"));
        told(&mut rig, |kind| matches!(kind, PortEventKind::Appeared));
        rig.open(&spec(LOCAL)).unwrap();
        ip(&format!("addr del 192.0.2.1/24 dev {TAP}"));
        told(&mut rig, |kind| matches!(kind, PortEventKind::Gone(_)));
        let missing = UnderlaySpec { uplink: Some("other".into()), ..spec(LOCAL) };
        let error = rig.backend.open_vtep(port(9), &missing).unwrap_err();
        assert!(error.to_string().contains("uplink other"), "{error}");
        rig.close();
    });
}

#[test]
fn a_router_that_says_a_packet_was_too_large_is_believed_if_it_was_ours() {
    in_own_namespace(|| {
        let mut rig = Rig::with_vtep(1);
        let us = rig.mac;
        ip(&format!("neigh add 192.0.2.2 lladdr {} dev {TAP} nud permanent", mac(2)));
        ip("route add 198.51.100.0/24 via 192.0.2.2 mtu 1400");
        let remote = [198, 51, 100, 7];
        let (near, far) = (IpAddr::from(REMOTE), IpAddr::from(remote));
        assert_eq!(rig.backend.path_mtu(port(VTEP), near), Some(1500));
        assert_eq!(rig.backend.path_mtu(port(VTEP), far), Some(1400));
        assert_eq!(rig.backend.path_mtu(port(VTEP), IpAddr::from([203, 0, 113, 1])), None);
        // The thread knows destinations that were sent to.
        let packet = tunnel_packet(remote, 1, 1300);
        rig.send(0, slice::from_ref(&packet));
        rig.on_wire(0x0800, |frame| frame[14..] == packet[..]);
        let too_big = |mtu: u16, quoted: &[u8]| {
            let mut icmp = vec![3, 4, 0, 0, 0, 0];
            icmp.extend(mtu.to_be_bytes());
            icmp.extend(&quoted[..28]);
            let checksum = sum(&icmp);
            icmp[2..4].copy_from_slice(&(!checksum).to_be_bytes());
            ethernet(us, mac(2), 0x0800, &ipv4(REMOTE, LOCAL, 1, 0, &icmp))
        };
        let other = |edit: fn(&mut Vec<u8>)| {
            let mut quoted = packet.clone();
            edit(&mut quoted);
            quoted
        };
        // Another source, destination, port, protocol: none of ours.
        let forged = [
            // A source port that no tunnel sends from.
            other(|p| p[20] = 0x12),
            other(|p| p[15] = 9),
            other(|p| p[19] = 9),
            other(|p| p[23] = 0),
            other(|p| p[9] = 6),
        ];
        for quoted in forged {
            rig.arrives(&too_big(1200, &quoted));
        }
        let consumed = rig.totals()[0].consumed;
        rig.arrives(&too_big(1300, &packet));
        rig.until("the path to be known", |rig| {
            let mtu = rig.backend.path_mtu(port(VTEP), far);
            assert!(mtu == Some(1400) || mtu == Some(1300), "{mtu:?}");
            (mtu == Some(1300)).then_some(())
        });
        assert!(rig.totals()[0].consumed > consumed);
        // Less than any path carries is not believed.
        rig.arrives(&too_big(100, &packet));
        rig.until("the path to be known", |rig| {
            (rig.backend.path_mtu(port(VTEP), far) == Some(576)).then_some(())
        });
        rig.close();
    });
}

#[test]
fn several_workers_share_one_queue_of_the_uplink() {
    in_own_namespace(|| {
        let mut rig = Rig::with_vtep(3);
        let us = rig.mac;
        ip(&format!("neigh add 192.0.2.2 lladdr {} dev {TAP} nud permanent", mac(2)));
        for worker in 0..3 {
            let packets: Vec<_> = (0..50).map(|n| tunnel_packet(REMOTE, n, 64)).collect();
            rig.send(worker, &packets);
            // The first ones of the first wait for the answer of the kernel: sixteen at most.
            let lost = rig.dropped(DropReason::NeighbourUnresolved) as usize;
            rig.until("all to be settled", |rig| {
                (rig.totals()[1].imbalance_out() == 0).then_some(())
            });
            let lost = rig.dropped(DropReason::NeighbourUnresolved) as usize - lost + lost;
            let sent = rig.totals()[1].tx_frames as usize;
            assert_eq!(sent + lost, 50 * (worker + 1));
            if worker > 0 {
                rig.packets_on_wire(1, &header(mac(2), us));
            }
        }
        assert!(rig.totals()[1].tx_frames >= 100 + 16);
        let owner = usize::from(UPLINK) % 3;
        for (n, counters) in rig.counters.iter().enumerate() {
            assert_eq!(counters[1].tx_frames.get() > 0, n == owner, "the owner sends for all");
        }
        rig.close();
    });
}

#[test]
fn a_flood_for_the_host_is_dropped_by_name() {
    in_own_namespace(|| {
        let mut rig = Rig::with_vtep(1);
        let flood = ethernet(rig.mac, mac(2), 0x88b5, &pattern(1, 46));
        let end = Instant::now() + SOON;
        while rig.dropped(DropReason::ExceptionFull) == 0 {
            assert!(Instant::now() < end, "{}", rig.books());
            for _ in 0..1024 {
                rig.arrives(&flood);
            }
            while rig.far.to_switch.pop().is_some_and(|frame| {
                rig.far.to_switch.push(frame).unwrap();
                true
            }) {
                rig.turn();
            }
        }
        rig.close();
    });
}

#[test]
fn groups_have_an_address_of_their_own() {
    in_own_namespace(|| {
        let mut rig = Rig::with_vtep(1);
        let group: IpAddr = [239, 129, 2, 3].into();
        let listen = UdpListen { port: VXLAN, groups: vec![group], accept_no_checksum: false };
        rig.adjust(&UnderlaySpec { udp: vec![listen], ..spec(LOCAL) });
        // The host is a member, as routers and switches want to hear (IGMPv3, to 224.0.0.22).
        rig.on_wire(0x0800, |frame| frame[23] == 2 && frame[30..34] == [224, 0, 0, 22]);
        let mapped = MacAddr::new([0x01, 0, 0x5e, 1, 2, 3]);
        let packet = tunnel_packet([239, 129, 2, 3], 1, 80);
        rig.send(0, slice::from_ref(&packet));
        assert_eq!(rig.packets_on_wire(1, &header(mapped, rig.mac)), [packet]);
        let theirs = ipv4(REMOTE, [239, 129, 2, 3], 17, 0, &udp(VXLAN, &pattern(1, 60)));
        rig.arrives(&ethernet(mapped, mac(2), 0x0800, &theirs));
        rig.until("a packet to the group", |rig| (!rig.received.is_empty()).then_some(()));
        assert_eq!(rig.received, [theirs]);
        assert_eq!(rig.backend.path_mtu(port(VTEP), group), Some(1500));
        rig.close();
    });
}
