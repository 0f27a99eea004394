//! Packets that go to the kernel and come from it several at once.

mod common;
#[path = "common/underlay.rs"]
mod underlay;

use std::time::Duration;

use common::*;
use datapath_tap::testing::RawSocket;
use switch_core::DropReason;
use switch_core::datapath::{Backend, UnderlaySpec};
use underlay::{Packet, VTEP, VXLAN, captured, hosts, ip, pattern, spec};

const ENDS: [(&str, &str); 2] = [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")];

/// Without what is not told of a received packet.
fn told(mut packet: Packet) -> Packet {
    packet.udp = packet.udp.map(|_| (0, VXLAN));
    (packet.df, packet.checksum) = (true, false);
    packet
}

fn lost(rig: &mut Rig) -> Vec<String> {
    rig.backend.port_info(port(VTEP)).unwrap().lost
}

#[test]
fn bursts_of_every_kind_arrive_as_they_were() {
    if !can_run() {
        return;
    }
    let (near, far) = hosts(1500);
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        let (mut from, mut to) = (Rig::vtep(&near, &spec(a)), Rig::vtep(&far, &spec(b)));
        let packet = |len| Packet::udp(a, b, pattern(len));
        let odd = |n: usize, change: &dyn Fn(&mut Packet)| {
            let mut packets = vec![packet(1400); 9];
            change(&mut packets[n]);
            packets
        };
        let bursts = [
            vec![packet(1400); 2],
            vec![packet(1400); 64],
            vec![packet(1); 64],
            vec![packet(0); 5],
            odd(8, &|packet| packet.payload.truncate(7)),
            odd(4, &|packet| packet.payload.truncate(7)),
            odd(4, &|packet| packet.payload.push(1)),
            odd(4, &|packet| packet.payload.clear()),
            odd(0, &|packet| packet.class = 3),
            odd(4, &|packet| packet.ttl = 9),
            odd(4, &|packet| packet.df = false),
            odd(4, &|packet| *packet = Packet::gre(a, b, pattern(60))),
            (0..64).map(|n| packet(1400 - n * n % 7)).collect(),
            (0..64).map(|n| Packet::gre(a, b, pattern(n * 20))).collect(),
            (0..64_u8)
                .map(|n| {
                    let (class, ttl, df) = (n * 4, n + 1, n % 3 > 0);
                    Packet { class, ttl, df, ..Packet::gre(a, b, pattern(9)) }
                })
                .collect(),
        ];
        let (mut frames, mut bytes) = (0, 0);
        for burst in bursts {
            from.transmit_all(&burst);
            let got: Vec<_> = to.packets(burst.len()).into_iter().map(told).collect();
            // GRE comes by a socket of its own.
            let by_kind = |packets: Vec<Packet>| -> [Vec<Packet>; 2] {
                let (udp, gre) = packets.into_iter().partition(|p: &Packet| p.udp.is_some());
                [udp, gre]
            };
            frames += burst.len() as u64;
            bytes += burst.iter().map(|p| p.bytes().len() as u64).sum::<u64>();
            assert_eq!(by_kind(got), by_kind(burst.into_iter().map(told).collect()));
        }
        let (tx, rx) = (&from.counters[usize::from(VTEP)], &to.counters[usize::from(VTEP)]);
        assert_eq!((tx.tx_frames.get(), tx.tx_bytes.get()), (frames, bytes));
        assert_eq!((rx.rx_frames.get(), rx.rx_bytes.get()), (frames, bytes));
        assert_eq!(lost(&mut from), Vec::<String>::new());
    }
}

#[test]
fn runs_are_cut_and_have_checksums_on_the_wire() {
    if !can_run() {
        return;
    }
    let (near, far) = hosts(1500);
    // What the kernel cuts it cuts before the wire.
    near.run("ethtool -K v0 tx off tx-udp-segmentation off");
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        let mut from = Rig::vtep(&near, &spec(a));
        let _to = Rig::vtep(&far, &spec(b));
        let socket = RawSocket::open(Some(&far.name), "v1").unwrap();
        let captured = |want| captured(&socket, a, b, want);
        let one = Packet { class: 0xb9, ttl: 7, ..Packet::udp(a, b, pattern(1400)) };
        from.transmit(&one);
        assert!(!captured(1)[0].checksum, "one packet has none, as was asked for");
        from.transmit_all(&vec![one.clone(); 30]);
        let run = captured(30);
        assert!(run.iter().all(|packet| packet.checksum && packet.df));
        assert!(run.iter().all(|p| told(p.clone()) == told(one.clone())));
        let ports: Vec<_> = run.iter().map(|packet| packet.udp.unwrap().0).collect();
        from.transmit(&one);
        let after = captured(1).remove(0);
        assert!(!after.checksum, "and so has one that comes after a run");
        assert!(ports.iter().all(|port| *port == after.udp.unwrap().0), "a flow has one port");
    }
}

#[test]
fn what_does_not_fit_the_path_is_dropped_or_goes_one_by_one() {
    if !can_run() {
        return;
    }
    let (near, far) = hosts(1500);
    let (a, b) = (ip("192.0.2.1"), ip("192.0.2.2"));
    let (mut from, mut to) = (Rig::vtep(&near, &spec(a)), Rig::vtep(&far, &spec(b)));
    let long = |df| Packet { df, ..Packet::udp(a, b, pattern(2000)) };
    from.transmit_all(&vec![long(true); 5]);
    assert_eq!(from.counters[usize::from(VTEP)].dropped(DropReason::TunnelMtu), 5);
    // In fragments, which the far end's kernel puts together.
    from.transmit_all(&vec![long(false); 5]);
    assert_eq!(to.packets(5).into_iter().map(told).collect::<Vec<_>>(), vec![told(long(true)); 5]);
    let told_of = lost(&mut from).join(" ");
    // The kernel says EMSGSIZE, earlier ones EINVAL.
    let why = "UDP_SEGMENT: runs of packets that went one by one: 1, to 192.0.2.2 (E";
    assert!(told_of.starts_with(why), "{told_of}");
    // Of those that go in one call, the others go all the same.
    let gre = |n: usize| Packet::gre(a, b, pattern(if n % 4 == 1 { 2000 } else { n }));
    from.transmit_all(&(0..40).map(gre).collect::<Vec<_>>());
    assert_eq!(from.counters[usize::from(VTEP)].dropped(DropReason::TunnelMtu), 5 + 10);
    let fit: Vec<_> = (0..40).filter(|n| n % 4 != 1).map(|n| told(gre(n))).collect();
    assert_eq!(to.packets(30).into_iter().map(told).collect::<Vec<_>>(), fit);
}

#[test]
fn an_adjusted_vtep_hands_out_the_rest_of_what_came_at_once() {
    if !can_run() {
        return;
    }
    let (near, far) = hosts(1500);
    for (a, b) in ENDS.map(|(a, b)| (ip(a), ip(b))) {
        let (mut from, mut to) = (Rig::vtep(&near, &spec(a)), Rig::vtep(&far, &spec(b)));
        let numbered = |n: u8| Packet::udp(a, b, vec![n; 1000]);
        from.transmit_all(&(0..60).map(numbered).collect::<Vec<_>>());
        let mut got = to.take(Duration::from_secs(5));
        assert!((1..60).contains(&got.len()), "a burst is shorter");
        to.adjust_vtep(&UnderlaySpec { gre: false, ..spec(b) }).unwrap();
        got.extend(to.packets(60 - got.len()));
        let numbers: Vec<_> = got.iter().map(|packet| packet.payload[0]).collect();
        assert_eq!(numbers, (0..60).collect::<Vec<_>>());
    }
}
