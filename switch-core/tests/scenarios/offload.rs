//! MTUs, unfinished checksums and super-frames, before ports that take them and ports that do not.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use switch_core::DropReason;
use switch_core::config::PortVlans;
use switch_core::datapath::Caps;
use switch_core::frame::{Csum, GsoKind, Offload, PoolConfig};
use switch_core::testing::Packet;
use switch_core::testing::frames::{finished, gso, mac, pattern, tagged, tcp4, tcp6, udp4};
use switch_core::wire::MacAddr;

use crate::lab::{Lab, LabConfig, Port, frame, small};

const BROADCAST: MacAddr = MacAddr::BROADCAST;

/// A lab with an able and an unable port besides the sender, in one bridge.
fn two_kinds(config: LabConfig) -> (Lab, Port, Port, Port) {
    let mut lab = Lab::with(config);
    let br = lab.bridge(0);
    let caps = |caps: Caps| {
        move |s: &mut crate::lab::PortSetup| {
            (s.conf.bridge, s.conf.caps) = (Some(br), caps);
        }
    };
    let sender = lab.port_with(caps(Caps::ALL));
    let able = lab.port_with(caps(Caps::ALL));
    let unable = lab.port_with(caps(Caps::default()));
    lab.passes(able, &small(BROADCAST, mac(2)), &[sender, unable]);
    lab.passes(unable, &small(BROADCAST, mac(3)), &[sender, able]);
    (lab, sender, able, unable)
}

pub(crate) fn the_mtu_is_kept() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.port(br);
    let b = lab.port_with(|s| (s.conf.bridge, s.conf.mtu) = (Some(br), 1280));
    lab.passes(a, &frame(BROADCAST, mac(1), 14 + 1280), &[b]);
    lab.dropped(a, frame(BROADCAST, mac(1), 14 + 1281), b, DropReason::MtuExceeded);
    // Up to two tags do not count (IEEE 802.3 envelope frames).
    let whole = frame(BROADCAST, mac(1), 14 + 1280);
    lab.passes(a, &tagged(&whole, 0x8100, 10), &[b]);
    lab.passes(a, &tagged(&tagged(&whole, 0x8100, 10), 0x88a8, 10), &[b]);
    let thrice = tagged(&tagged(&tagged(&whole, 0x8100, 10), 0x8100, 10), 0x8100, 10);
    lab.dropped(a, thrice, b, DropReason::MtuExceeded);
    // In a flood, the others get it.
    let c = lab.port(br);
    let large = frame(BROADCAST, mac(1), 1514);
    lab.send(a, large.clone());
    lab.expect(&[(c, &large)]);
    assert_eq!(lab.drops(b, DropReason::MtuExceeded), 3);
}

pub(crate) fn unfinished_checksums() {
    let (mut lab, sender, able, unable) = two_kinds(LabConfig::default());
    for len in [0, 1, 100, 1400] {
        let data = pattern(len as u32, len);
        for make in [tcp4, udp4, tcp6] {
            let packet = make(mac(2), mac(1), &data);
            lab.send(sender, packet.clone());
            assert_eq!(lab.received(able), [packet], "left as it is for a port that can");
            let packet = make(mac(3), mac(1), &data);
            lab.send(sender, packet.clone());
            let got = lab.received(unable);
            assert_eq!(got, [Packet::from(finished(&packet))]);
            checked(&got[0].bytes);
            // In a flood, each port gets it as it can take it.
            let packet = make(BROADCAST, mac(1), &data);
            lab.send(sender, packet.clone());
            assert_eq!(lab.received(unable), [Packet::from(finished(&packet))]);
            assert_eq!(lab.received(able), [packet]);
        }
    }
    assert_eq!(lab.all_drops(), 0);
}

/// Length and checksum of the payload, by a decoder nobody here wrote.
fn checked(bytes: &[u8]) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    match (packet.net.unwrap(), packet.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let sum = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload());
            assert_eq!(sum, Ok(tcp.checksum()));
            tcp.payload().to_vec()
        }
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let header = ip.header().to_header();
            let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
            assert_eq!(sum, Ok(udp.checksum()));
            udp.payload().to_vec()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let header = ip.header().to_header();
            let sum = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload());
            assert_eq!(sum, Ok(tcp.checksum()));
            tcp.payload().to_vec()
        }
        other => panic!("{other:?}"),
    }
}

/// A super-frame is cut for a port that cannot take it; the ledgers count what was made.
pub(crate) fn super_frames() {
    let (mut lab, sender, able, unable) = two_kinds(LabConfig::default());
    type Make = fn(MacAddr, MacAddr, &[u8]) -> Packet;
    let kinds: [(Make, GsoKind, u16); 3] =
        [(tcp4, GsoKind::TcpV4, 1448), (tcp6, GsoKind::TcpV6, 1428), (udp4, GsoKind::Udp, 1400)];
    for (make, kind, size) in kinds {
        for len in [size as usize, size as usize + 1, 4 * size as usize, 30_000, 60_000] {
            let data = pattern(len as u32, len);
            let packet = gso(make(mac(2), mac(1), &data), kind, size);
            lab.send(sender, packet.clone());
            assert_eq!(lab.received(able), [packet], "whole for a port that can");
            let (of_sender, of_unable) = (lab.totals(sender), lab.totals(unable));
            lab.send(sender, gso(make(mac(3), mac(1), &data), kind, size));
            let got = lab.received(unable);
            let segments = len.div_ceil(size as usize) as u64;
            assert_eq!(got.len() as u64, segments);
            let mut joined = Vec::new();
            for (n, segment) in got.iter().enumerate() {
                assert!(segment.offload.is_finished());
                let part = checked(&segment.bytes);
                assert!(part.len() == size as usize || n + 1 == got.len());
                joined.extend(part);
            }
            assert!(joined == data, "the payload of {len} bytes in {segments} segments");
            let (now_in, now_out) = (lab.totals(sender), lab.totals(unable));
            assert_eq!(now_in.rx_frames, of_sender.rx_frames + 1);
            assert_eq!(now_in.copied, of_sender.copied + segments - 1);
            assert_eq!(now_in.forwarded, of_sender.forwarded + segments);
            assert_eq!(now_out.offered, of_unable.offered + segments);
            assert_eq!(now_out.tx_frames, of_unable.tx_frames + segments);
        }
    }
    assert_eq!(lab.all_drops(), 0);
}

/// Tags are pushed onto super-frames and taken off them, and the segments have them, too.
pub(crate) fn super_frames_and_tags() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let port = |lab: &mut Lab, vlans: PortVlans, caps: Caps| {
        lab.port_with(|s| (s.conf.bridge, s.conf.vlans, s.conf.caps) = (Some(br), vlans, caps))
    };
    let access = port(&mut lab, PortVlans::access(10), Caps::ALL);
    let able = port(&mut lab, PortVlans::trunk([10], None), Caps::ALL);
    let unable = port(&mut lab, PortVlans::trunk([10], None), Caps::default());
    let plain = port(&mut lab, PortVlans::access(10), Caps::default());
    let data = pattern(5, 20_000);
    let packet = gso(tcp4(BROADCAST, mac(1), &data), GsoKind::TcpV4, 1448);
    let start = |at| Csum::Partial { start: at, offset: 16 };
    lab.send(access, packet.clone());
    let got = lab.received(able);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].bytes, tagged(&packet.bytes, 0x8100, 10));
    assert_eq!(got[0].offload, Offload { csum: start(38), ..packet.offload });
    let tagged_segments = lab.received(unable);
    assert_eq!(tagged_segments.len(), 14);
    assert!(tagged_segments.iter().all(|s| s.bytes[12..16] == [0x81, 0, 0, 10]));
    let joined: Vec<u8> = tagged_segments.iter().flat_map(|s| checked(&s.bytes)).collect();
    assert!(joined == data);
    let joined: Vec<u8> = lab.received(plain).iter().flat_map(|s| checked(&s.bytes)).collect();
    assert!(joined == data);
    // And back: tagged in, untagged out.
    let mut with_tag = packet.clone();
    with_tag.bytes = tagged(&packet.bytes, 0x8100, 10);
    with_tag.offload.csum = start(38);
    lab.send(able, with_tag);
    assert_eq!(lab.received(access), std::slice::from_ref(&packet));
    let joined: Vec<u8> = lab.received(plain).iter().flat_map(|s| checked(&s.bytes)).collect();
    assert!(joined == data);
    lab.received(unable);
    assert_eq!(lab.all_drops(), 0);
}

/// What counts against the MTU is each segment, not the super-frame.
pub(crate) fn super_frames_and_the_mtu() {
    let (mut lab, sender, able, unable) = two_kinds(LabConfig::default());
    for (to, port) in [(2, able), (3, unable)] {
        let data = pattern(6, 10_000);
        let fits = gso(tcp4(mac(to), mac(1), &data), GsoKind::TcpV4, 1460);
        lab.send(sender, fits);
        assert!(!lab.received(port).is_empty());
        let larger = gso(tcp4(mac(to), mac(1), &data), GsoKind::TcpV4, 1461);
        lab.dropped(sender, larger, port, DropReason::MtuExceeded);
    }
}

/// A cut that finds no buffers is one named drop; nothing of it is sent.
pub(crate) fn no_buffers_for_segments() {
    let pool = PoolConfig { heads: 4, tails: 2, max_heads: 5 };
    let (mut lab, sender, _, unable) = two_kinds(LabConfig { pool, ..LabConfig::default() });
    let data = pattern(7, 20_000);
    let packet = gso(tcp4(mac(3), mac(1), &data), GsoKind::TcpV4, 1448);
    lab.dropped(sender, packet, unable, DropReason::SegmentFailed);
    // Four segments and the frame itself are five buffers.
    lab.send(sender, gso(tcp4(mac(3), mac(1), &data[..4 * 1448]), GsoKind::TcpV4, 1448));
    assert_eq!(lab.received(unable).len(), 4);
}

/// What a sender claims and the frame does not bear out is dropped; what it need not know passes.
pub(crate) fn lying_metadata() {
    let (mut lab, sender, _, _) = two_kinds(LabConfig::default());
    let good = tcp4(mac(3), mac(1), &pattern(8, 500));
    let lie = |csum: Csum, kind: Option<(GsoKind, u16)>| {
        let mut packet = good.clone();
        packet.offload.csum = csum;
        match kind {
            Some((kind, size)) => gso(packet, kind, size),
            None => packet,
        }
    };
    let partial = |start, offset| Csum::Partial { start, offset };
    for packet in [
        lie(partial(0, 16), None),
        lie(partial(34, 17), None),
        lie(partial(34, 6), None),
        lie(partial(60_000, 16), None),
        lie(partial(u16::MAX, u16::MAX), None),
        lie(partial(34, 16), Some((GsoKind::TcpV4, 0))),
        lie(partial(34, 16), Some((GsoKind::TcpV6, 100))),
        lie(partial(34, 16), Some((GsoKind::Udp, 100))),
        lie(Csum::Unknown, Some((GsoKind::TcpV4, 100))),
        Packet { bytes: small(mac(3), mac(1))[..51].to_vec(), offload: good.offload },
        Packet { bytes: good.bytes[..40].to_vec(), offload: good.offload },
    ] {
        lab.dropped(sender, packet, sender, DropReason::VnetHeader);
    }
    // In a frame of no protocol that is known, the sum is where the sender says it is.
    let unknown = Packet { bytes: small(mac(3), mac(1)), offload: good.offload };
    lab.send(sender, unknown.clone());
    lab.expect(&[(Port(2), &finished(&unknown))]);
}

/// What the device itself refuses is counted on its port, and the next frame passes.
pub(crate) fn a_device_that_refuses() {
    let mut lab = Lab::new();
    let br = lab.bridge(0);
    let a = lab.port(br);
    let b = lab.port_with(|s| (s.conf.bridge, s.device.refuses_over) = (Some(br), 1000));
    lab.dropped(a, frame(BROADCAST, mac(1), 1001), b, DropReason::TxError);
    lab.passes(a, &frame(BROADCAST, mac(1), 1000), &[b]);
}
