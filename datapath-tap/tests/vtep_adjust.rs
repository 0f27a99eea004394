//! VTEPs whose sockets are changed while packets come and go.

mod common;
#[path = "common/underlay.rs"]
mod underlay;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use switch_core::datapath::{Backend, UdpListen, UdpSend, UnderlaySpec};
use underlay::{Packet, VTEP, VXLAN, hosts, ip, pattern, spec};

/// The two hosts' addresses, and a group, a family each.
const ENDS: [(&str, &str, &str); 2] =
    [("192.0.2.1", "192.0.2.2", "239.1.2.3"), ("2001:db8::1", "2001:db8::2", "ff05::1:3")];
const GENEVE: u16 = 6081;

/// VXLAN alone, sent in one way.
fn narrow(local: &str) -> UnderlaySpec {
    UnderlaySpec {
        gre: false,
        send: vec![UdpSend { checksum: false, df: true }],
        ..spec(ip(local))
    }
}

/// The same with another port, a group on both, GRE, and the other ways.
fn wide(local: &str, group: &str) -> UnderlaySpec {
    let groups = vec![ip(group)];
    let listen = |port| UdpListen { port, groups: groups.clone(), accept_no_checksum: true };
    UnderlaySpec { udp: vec![listen(VXLAN), listen(GENEVE)], ..spec(ip(local)) }
}

fn files() -> usize {
    std::fs::read_dir("/proc/thread-self/fd").unwrap().count()
}

#[test]
fn a_stream_through_one_port_does_not_notice_the_others() {
    const PACKETS: usize = 20_000;
    const CHANGES: usize = 100;
    /// Packets under way at most: far fewer than a receive buffer takes.
    const WINDOW: usize = 500;
    if !can_run() {
        return;
    }
    let (near, far) = hosts(1500);
    for (a, b, group) in ENDS {
        let (mut from, mut to) = (Rig::vtep(&near, &narrow(a)), Rig::vtep(&far, &narrow(b)));
        let (received, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, ended) = (Arc::clone(&received), Arc::clone(&over));
        let sender = std::thread::spawn(move || {
            for n in 0..PACKETS {
                while n > seen.load(Ordering::Relaxed) + WINDOW {
                    if ended.load(Ordering::Relaxed) {
                        return from;
                    }
                    std::thread::yield_now();
                }
                let number = (n as u32).to_be_bytes().to_vec();
                from.transmit(&Packet::udp(ip(a), ip(b), number));
            }
            // Not closed here: its files are among those that are counted.
            from
        });
        let receive = move || {
            let before = files();
            let (mut numbers, mut changes, mut most) = (Vec::new(), 0, 0);
            let end = Instant::now() + PATIENCE;
            while numbers.len() < PACKETS && Instant::now() < end {
                if changes < CHANGES && numbers.len() >= changes * (PACKETS / CHANGES) {
                    let next = if changes % 2 == 0 { wide(b, group) } else { narrow(b) };
                    to.adjust_vtep(&next).unwrap();
                    changes += 1;
                    most = most.max(files());
                }
                for packet in to.take(Duration::from_millis(10)) {
                    numbers.push(u32::from_be_bytes(packet.payload.try_into().unwrap()));
                }
                received.store(numbers.len(), Ordering::Relaxed);
            }
            over.store(true, Ordering::Relaxed);
            assert_eq!(changes, CHANGES);
            assert!(most > before);
            assert_eq!(files(), before);
            assert_eq!(to.backend.outside_loss(port(VTEP)).missed_rx, 0);
            numbers
        };
        let numbers = spawn_in(&far, receive).join().unwrap();
        sender.join().unwrap();
        let gap = numbers.iter().enumerate().find(|(n, number)| *n != **number as usize);
        assert_eq!((numbers.len(), gap), (PACKETS, None));
    }
}

#[test]
fn what_is_added_works_and_flows_keep_their_source_ports() {
    if !can_run() {
        return;
    }
    let (near, far) = hosts(1500);
    for (a, b, group) in ENDS {
        let (mut from, mut to) = (Rig::vtep(&near, &narrow(a)), Rig::vtep(&far, &narrow(b)));
        let flows = |from: &mut Rig, to: &mut Rig| -> Vec<u16> {
            let flow = |n: u16| {
                let udp = Some((49_152 + n, VXLAN));
                from.transmit(&Packet { udp, ..Packet::udp(ip(a), ip(b), pattern(9)) });
                to.packets(1)[0].udp.unwrap().0
            };
            (0..64).map(flow).collect()
        };
        let before = flows(&mut from, &mut to);
        let adjust = |space: &Space, mut rig: Rig, spec: UnderlaySpec| {
            let adjusted = move || {
                rig.adjust_vtep(&spec).unwrap();
                rig
            };
            spawn_in(space, adjusted).join().unwrap()
        };
        (from, to) = (adjust(&near, from, wide(a, group)), adjust(&far, to, wide(b, group)));
        assert_eq!(flows(&mut from, &mut to), before);
        let plain = || Packet::udp(ip(a), ip(b), pattern(100));
        let added = [
            Packet { udp: Some((50_000, GENEVE)), ..plain() },
            Packet { checksum: true, ..plain() },
            Packet::gre(ip(a), ip(b), pattern(100)),
            Packet::udp(ip(a), ip(group), pattern(100)),
        ];
        for packet in &added {
            from.transmit(packet);
            let got = to.packets(1).remove(0);
            let port = |packet: &Packet| packet.udp.map(|(_, port)| port);
            assert_eq!((got.dst, port(&got), got.payload.len()), (packet.dst, port(packet), 100));
        }
        (from, to) = (adjust(&near, from, narrow(a)), adjust(&far, to, narrow(b)));
        assert_eq!(flows(&mut from, &mut to), before);
        // What was taken away is gone: the next packet is the one that comes.
        let geneve = Packet { udp: Some((50_000, GENEVE)), ..plain() };
        from.transmit(&geneve);
        from.transmit(&plain());
        assert_eq!(to.packets(1)[0].udp.unwrap().1, VXLAN);
    }
}

#[test]
fn what_cannot_be_had_leaves_a_vtep_as_it_was() {
    if !can_run() {
        return;
    }
    let (near, far) = hosts(1500);
    for (a, b, group) in ENDS {
        let (mut from, to) = (Rig::vtep(&near, &narrow(a)), Rig::vtep(&far, &narrow(b)));
        let test = move || {
            let mut to = to;
            let before = files();
            let taken = UdpSocket::bind((ip(b), GENEVE)).unwrap();
            let error = to.adjust_vtep(&wide(b, group)).unwrap_err();
            assert!(error.to_string().contains("UDP port 6081 is in use"), "{error}");
            drop(taken);
            assert_eq!(files(), before);
            // Another address, or other numbers of sockets, are another VTEP.
            let mut adjusted = |spec| to.backend.adjust_vtep(port(VTEP), &spec).unwrap().is_some();
            assert!(!adjusted(UnderlaySpec { entropy_ports: 9, ..narrow(b) }));
            assert!(!adjusted(UnderlaySpec { local: ip("192.0.2.7"), ..narrow(b) }));
            from.transmit(&Packet::udp(ip(a), ip(b), pattern(9)));
            assert_eq!(to.packets(1)[0].payload, pattern(9));
            to.adjust_vtep(&wide(b, group)).unwrap();
        };
        spawn_in(&far, test).join().unwrap();
    }
}
