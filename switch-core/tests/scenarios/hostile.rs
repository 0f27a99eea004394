//! Frames that no sane sender sends: named drops or plain forwarding, never a panic.

use switch_core::DropReason;
use switch_core::config::PortVlans;
use switch_core::frame::MAX_FRAME;
use switch_core::testing::Packet;
use switch_core::testing::frames::{gso, mac, pattern, tagged, tcp4, udp4};
use switch_core::testing::lossy::Rng;
use switch_core::wire::MacAddr;

use crate::lab::{Lab, frame, small};

const BROADCAST: MacAddr = MacAddr::BROADCAST;

pub(crate) fn runts() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    let whole = small(BROADCAST, mac(1));
    for len in 0..14 {
        lab.dropped(a, whole[..len].to_vec(), a, DropReason::Runt);
    }
    lab.passes(a, &whole[..14], &[b]);
}

pub(crate) fn giants() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let wide = |s: &mut crate::lab::PortSetup| (s.conf.bridge, s.conf.mtu) = (Some(br), 70_000);
    let (a, b) = (lab.port_with(wide), lab.port_with(wide));
    for len in [MAX_FRAME + 1, 100_000] {
        lab.dropped(a, frame(BROADCAST, mac(1), len), a, DropReason::Giant);
    }
    lab.passes(a, &frame(BROADCAST, mac(1), MAX_FRAME), &[b]);
}

/// A tag that is cut short is no tag; from four bytes behind the type on it is one.
pub(crate) fn short_tags() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b) = (lab.port(br), lab.port(br));
    let whole = tagged(&small(BROADCAST, mac(1)), 0x8100, 10);
    for len in 14..18 {
        lab.dropped(a, whole[..len].to_vec(), a, DropReason::VlanTagInvalid);
    }
    lab.passes(a, &whole[..18], &[b]);
    // And taken off, what is left is an Ethernet header.
    let access = lab.vlan_port(br, PortVlans::access(10));
    lab.send(a, whole[..18].to_vec());
    let mut bare = whole[..12].to_vec();
    bare.extend_from_slice(&whole[16..18]);
    lab.expect(&[(b, &whole[..18]), (access, &bare)]);
}

/// Every prefix of real frames, with and without their metadata, through every kind of port.
pub(crate) fn truncated_everything() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.vlan_port(br, PortVlans::trunk([10, 20], Some(10)));
    let b = lab.vlan_port(br, PortVlans::access(10));
    let c = lab.vlan_port(br, PortVlans::trunk([10], None));
    let data = pattern(1, 90);
    let tcp = tcp4(BROADCAST, mac(1), &data);
    let super_frame = gso(tcp.clone(), switch_core::frame::GsoKind::TcpV4, 10);
    let mut with_tag = udp4(BROADCAST, mac(1), &data);
    with_tag.bytes = tagged(&with_tag.bytes, 0x8100, 10);
    let mut sent = 0;
    for packet in [tcp, super_frame, with_tag] {
        for len in 0..=packet.bytes.len() {
            for offload in [packet.offload, Default::default()] {
                lab.send(a, Packet { bytes: packet.bytes[..len].to_vec(), offload });
                sent += 1;
                lab.received(b);
                lab.received(c);
            }
        }
    }
    assert_eq!(lab.totals(a).rx_frames, sent);
}

/// Noise, and noise behind plausible headers, into every kind of port.
pub(crate) fn noise() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let ports = [
        lab.vlan_port(br, PortVlans::transparent()),
        lab.vlan_port(br, PortVlans::access(10)),
        lab.vlan_port(br, PortVlans::trunk([10, 20], Some(1))),
        lab.vlan_port(br, PortVlans::trunk([10], None)),
    ];
    let mut rng = Rng(0x5eed);
    let template = tcp4(mac(2), mac(1), &pattern(1, 200));
    for n in 0..20_000usize {
        let len = rng.below(300);
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
        let mut offload = Default::default();
        if n % 2 == 0 {
            // A real frame with a few bytes turned over, and metadata that may fit it.
            bytes = template.bytes.clone();
            for _ in 0..rng.below(6) {
                let at = rng.below(60);
                bytes[at] = rng.next_u64() as u8;
            }
            offload = template.offload;
        }
        lab.inject(ports[n % ports.len()], Packet { bytes, offload });
        if n % 64 == 63 {
            lab.run();
            for port in ports {
                lab.received(port);
            }
        }
    }
    lab.run();
    let came: u64 = ports.iter().map(|p| lab.totals(*p).rx_frames).sum();
    assert_eq!(came, 20_000);
}

/// Who sends nothing but frames to nobody gets what is left of a busy worker, and all of an idle one.
pub(crate) fn strays_wait_for_others() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let (a, b, hostile) = (lab.port(br), lab.port(br), lab.port(br));
    lab.passes(a, &small(BROADCAST, mac(1)), &[b, hostile]);
    lab.passes(b, &small(mac(1), mac(2)), &[a]);
    let (mut offered, mut passed) = (0, 0);
    for n in 0..300u32 {
        for _ in 0..32 {
            lab.inject(a, small(mac(2), mac(1)));
        }
        for m in 0..4 {
            let stray = small(mac(0x10_0000 + n), mac(0x20_0000 + 4 * n + m));
            offered += u64::from(lab.wire(hostile).inject(stray));
        }
        lab.round();
        passed += lab.received(b).iter().filter(|p| p.bytes[..6] == mac(2).octets()).count();
        lab.received(a);
    }
    assert_eq!(passed, 300 * 32, "the others lose nothing");
    let taken = lab.totals(hostile).rx_frames;
    // What a quiet port may send at once, its share of the rest, and a burst.
    assert!((64..=64 + 300 * 32 / 128 + 32).contains(&taken), "{taken}");
    assert!(offered > 2 * taken, "{offered}");
    lab.run();
    assert_eq!(lab.totals(hostile).rx_frames, offered, "and nothing of it is lost");
}
