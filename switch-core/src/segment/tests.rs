//! Cutting and finishing, against a second implementation that builds each packet from parts.

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};
use proptest::prelude::*;

mod join;

use super::vnet::{
    F_DATA_VALID, F_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4,
};
use super::*;
use crate::frame::{Frame, FramePool, HeapFrame, MAX_FRAME, PoolConfig};
use crate::wire::{Checksum, LayersError, UdpError};

/// A packet as its parts. Assembling it is the reference: it shares no code with what is tested.
#[derive(Clone, Debug)]
struct Packet {
    /// Addresses, tags and EtherType.
    l2: Vec<u8>,
    ip: Ip,
    l4: L4,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Ip {
    V4(Ipv4Header),
    /// With the bytes of its extension headers.
    V6(Ipv6Header, Vec<u8>),
}

#[derive(Clone, Debug)]
enum L4 {
    Tcp(Box<TcpHeader>),
    Udp(UdpHeader),
}

impl Packet {
    fn protocol(&self) -> IpNumber {
        if matches!(self.l4, L4::Tcp(_)) { IpNumber::TCP } else { IpNumber::UDP }
    }

    fn l4_start(&self) -> usize {
        let ip = match &self.ip {
            Ip::V4(ip) => ip.header_len(),
            Ip::V6(_, extensions) => 40 + extensions.len(),
        };
        self.l2.len() + ip
    }

    fn l4_header_len(&self) -> usize {
        match &self.l4 {
            L4::Tcp(tcp) => tcp.header_len(),
            L4::Udp(_) => 8,
        }
    }

    /// The bytes, with all lengths and checksums right.
    fn assemble(&self) -> Vec<u8> {
        let mut packet = self.clone();
        let l4_len = packet.l4_header_len() + packet.payload.len();
        let mut out = packet.l2.clone();
        match &mut packet.ip {
            Ip::V4(ip) => {
                ip.protocol = self.protocol();
                ip.set_payload_len(l4_len).unwrap();
                ip.header_checksum = ip.calc_header_checksum();
                ip.write_raw(&mut out).unwrap();
            }
            Ip::V6(ip, extensions) => {
                ip.next_header = IpNumber(60);
                if extensions.is_empty() {
                    ip.next_header = self.protocol();
                } else {
                    extensions[0] = self.protocol().0;
                }
                ip.payload_length = (extensions.len() + l4_len) as u16;
                ip.write(&mut out).unwrap();
                out.extend_from_slice(extensions);
            }
        }
        match &mut packet.l4 {
            L4::Tcp(tcp) => {
                tcp.checksum = match &packet.ip {
                    Ip::V4(ip) => tcp.calc_checksum_ipv4(ip, &packet.payload).unwrap(),
                    Ip::V6(ip, _) => tcp.calc_checksum_ipv6(ip, &packet.payload).unwrap(),
                };
                tcp.write(&mut out).unwrap();
            }
            L4::Udp(udp) => {
                udp.length = l4_len as u16;
                udp.checksum = match &packet.ip {
                    Ip::V4(ip) => udp.calc_checksum_ipv4(ip, &packet.payload).unwrap(),
                    Ip::V6(ip, _) => udp.calc_checksum_ipv6(ip, &packet.payload).unwrap(),
                };
                udp.write(&mut out).unwrap();
            }
        }
        out.extend_from_slice(&packet.payload);
        out
    }

    /// The frames it stands for as a super-frame of segments of `size` bytes.
    fn cut(&self, size: usize) -> Vec<Vec<u8>> {
        let count = self.payload.chunks(size).count();
        let cut = |(i, chunk): (usize, &[u8])| {
            let mut packet = Self { payload: chunk.to_vec(), ..self.clone() };
            if let Ip::V4(ip) = &mut packet.ip {
                ip.identification = ip.identification.wrapping_add(i as u16);
            }
            if let L4::Tcp(tcp) = &mut packet.l4 {
                tcp.sequence_number = tcp.sequence_number.wrapping_add((i * size) as u32);
                tcp.cwr &= i == 0;
                tcp.fin &= i == count - 1;
                tcp.psh &= i == count - 1;
            }
            packet.assemble()
        };
        self.payload.chunks(size).enumerate().map(cut).collect()
    }

    fn gso_type(&self) -> u8 {
        match (&self.l4, &self.ip) {
            (L4::Tcp(_), Ip::V4(_)) => GSO_TCPV4,
            (L4::Tcp(_), Ip::V6(..)) => GSO_TCPV6,
            (L4::Udp(_), _) => GSO_UDP_L4,
        }
    }

    /// What an honest sender says about it; `size` 0 for a plain frame.
    fn claim(&self, size: u16) -> VnetHeader {
        VnetHeader {
            flags: F_NEEDS_CSUM,
            gso_type: if size == 0 { GSO_NONE } else { self.gso_type() },
            hdr_len: (self.l4_start() + self.l4_header_len()) as u16,
            gso_size: size,
            csum_start: self.l4_start() as u16,
            csum_offset: if matches!(self.l4, L4::Tcp(_)) { 16 } else { 6 },
        }
    }

    /// As sent: the checksum field holds the sum of the pseudo-header.
    fn unfinished(&self) -> Vec<u8> {
        let mut bytes = self.assemble();
        let (start, claim) = (self.l4_start(), self.claim(0));
        let field = start + usize::from(claim.csum_offset);
        // The field is the complement of all sums; taking the others out leaves the pseudo-header's.
        let right = u16::from_be_bytes([bytes[field], bytes[field + 1]]);
        bytes[field..field + 2].fill(0);
        let mut sum = u32::from(!right);
        for pair in bytes[start..].chunks(2) {
            let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
            sum += u32::from(!word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        bytes[field..field + 2].copy_from_slice(&(sum as u16).to_be_bytes());
        bytes
    }
}

fn pool() -> FramePool {
    FramePool::new(PoolConfig { heads: 64, tails: 4, max_heads: 4096 })
}

fn content(frame: &HeapFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.copy_to(&mut bytes);
    bytes
}

fn received(pool: &FramePool, bytes: &[u8], claim: &VnetHeader) -> HeapFrame {
    let mut frame = pool.frame(bytes).unwrap();
    let offload = validate(frame.head(), frame.len(), claim).unwrap();
    frame.set_offload(offload);
    frame
}

fn cut_by_us(pool: &FramePool, frame: &HeapFrame) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    let count = segment(frame, || pool.alloc(), |s| segments.push(s)).unwrap();
    assert_eq!(count, segments.len());
    assert!(segments.iter().all(|s| s.offload() == Offload::NONE));
    segments.iter().map(content).collect()
}

fn tcp_v4(payload: usize) -> Packet {
    let mut tcp = TcpHeader::new(5201, 40_000, 0xffff_ff00, 1000);
    (tcp.ack, tcp.psh, tcp.fin, tcp.cwr) = (true, true, true, true);
    let addresses = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let mut ip = Ipv4Header::new(0, 64, IpNumber::TCP, addresses.0, addresses.1).unwrap();
    ip.identification = 0xffff;
    Packet {
        l2: vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0],
        ip: Ip::V4(ip),
        l4: L4::Tcp(Box::new(tcp)),
        payload: (0..payload).map(|i| (i * 31 % 253) as u8).collect(),
    }
}

fn udp_v6(payload: usize) -> Packet {
    let ip = Ipv6Header {
        flow_label: Ipv6FlowLabel::try_new(0x12345).unwrap(),
        hop_limit: 64,
        source: [0xfd; 16],
        destination: [0xfe; 16],
        ..Ipv6Header::default()
    };
    let mut packet = tcp_v4(payload);
    packet.l2 = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    packet.ip = Ip::V6(ip, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    packet.l4 =
        L4::Udp(UdpHeader { source_port: 443, destination_port: 50_000, ..Default::default() });
    packet
}

fn packets() -> impl Strategy<Value = Packet> {
    let tags = prop::collection::vec(any::<(bool, u16)>(), 0..=2);
    let shape = (any::<bool>(), any::<bool>(), any::<bool>(), 0usize..=10);
    let noise = any::<([u8; 32], u32, u16, [bool; 5])>();
    let payload = prop::collection::vec(any::<u8>(), 1..6000);
    (tags, shape, noise, payload).prop_map(|(tags, (v6, udp, extended, words), noise, payload)| {
        let (addresses, number, id, flags) = noise;
        let mut l2 = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for (service, tci) in tags {
            l2.extend_from_slice(if service { &[0x88, 0xa8] } else { &[0x81, 0] });
            l2.extend_from_slice(&tci.to_be_bytes());
        }
        l2.extend_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        let mut packet = if v6 { udp_v6(0) } else { tcp_v4(0) };
        (packet.l2, packet.payload) = (l2, payload);
        match &mut packet.ip {
            Ip::V4(ip) => {
                ip.source.copy_from_slice(&addresses[..4]);
                ip.destination.copy_from_slice(&addresses[4..8]);
                ip.identification = id;
                if extended {
                    ip.options = [1; 8].into();
                }
            }
            Ip::V6(ip, extensions) => {
                ip.source.copy_from_slice(&addresses[..16]);
                ip.destination.copy_from_slice(&addresses[16..]);
                if !extended {
                    extensions.clear();
                }
            }
        }
        packet.l4 = if udp {
            L4::Udp(UdpHeader { source_port: id, destination_port: 53, ..Default::default() })
        } else {
            let mut tcp = TcpHeader::new(id, 80, number, 5000);
            (tcp.ack, tcp.fin, tcp.psh) = (true, flags[0], flags[1]);
            (tcp.cwr, tcp.ece, tcp.urg) = (flags[2], flags[3], flags[4]);
            tcp.set_options_raw(&vec![1; words * 4]).unwrap();
            L4::Tcp(Box::new(tcp))
        };
        packet
    })
}

proptest! {
    #[test]
    fn segments_are_those_of_the_reference(packet in packets(), size in 1u16..3000) {
        let size = size.max((packet.payload.len() / MAX_SEGMENTS + 1) as u16);
        let pool = pool();
        let frame = received(&pool, &packet.unfinished(), &packet.claim(size));
        let segments = cut_by_us(&pool, &frame);
        prop_assert_eq!(&segments, &packet.cut(size.into()));
        let headers = packet.l4_start() + packet.l4_header_len();
        let joined: Vec<u8> = segments.iter().flat_map(|s| s[headers..].to_vec()).collect();
        prop_assert_eq!(joined, packet.payload);
    }

    #[test]
    fn a_finished_checksum_is_the_right_one(packet in packets()) {
        let pool = pool();
        let mut frame = received(&pool, &packet.unfinished(), &packet.claim(0));
        prop_assert!(!frame.offload().is_finished());
        finish_checksum(&mut frame).unwrap();
        prop_assert!(frame.offload().is_finished());
        prop_assert_eq!(content(&frame), packet.assemble());
        // There is nothing more to do the second time.
        finish_checksum(&mut frame).unwrap();
        prop_assert_eq!(content(&frame), packet.assemble());
    }

    #[test]
    fn whatever_is_claimed_is_refused_or_can_be_done(
        packet in packets(), flags: u8, gso_type in prop::sample::select(&[0, 1, 3, 4, 5, 0x81, 0x84, 2][..]),
        words: [u16; 4], near: bool, cut in 0usize..7000,
    ) {
        let mut bytes = packet.unfinished();
        bytes.truncate(bytes.len().saturating_sub(cut % 100));
        let mut claim = packet.claim(words[1]);
        claim.flags = flags;
        if near {
            claim.csum_start = claim.csum_start.wrapping_add(words[2] % 8).wrapping_sub(4);
        } else {
            (claim.csum_start, claim.csum_offset) = (words[2], words[3]);
            claim.gso_type = gso_type;
        }
        let pool = pool();
        let mut frame = pool.frame(&bytes).unwrap();
        if let Ok(offload) = validate(frame.head(), frame.len(), &claim) {
            frame.set_offload(offload);
            VnetHeader::of(&frame).unwrap();
            match offload.gso {
                Some(_) => prop_assert!(!cut_by_us(&pool, &frame).is_empty()),
                None => finish_checksum(&mut frame).unwrap(),
            }
        }
    }
}

#[test]
fn the_largest_super_frame_is_cut_behind_its_head() {
    let packet = tcp_v4(65_535 - 40);
    let pool = pool();
    let bytes = packet.unfinished();
    assert!(bytes.len() <= MAX_FRAME);
    let frame = received(&pool, &bytes, &packet.claim(1448));
    assert!(frame.segments() > 1);
    assert_eq!(cut_by_us(&pool, &frame), packet.cut(1448));
}

#[test]
fn a_udp_sum_of_zero_is_sent_as_all_ones() {
    let mut packet = udp_v6(0);
    packet.payload = vec![0; 2];
    let bytes = packet.assemble();
    let field = packet.l4_start() + 6;
    // With the checksum itself for payload the sum is 0, which in the field would mean "none".
    packet.payload = bytes[field..field + 2].to_vec();
    assert_eq!(packet.assemble()[field..field + 2], [0xff, 0xff]);
    let pool = pool();
    let mut frame = received(&pool, &packet.unfinished(), &packet.claim(0));
    finish_checksum(&mut frame).unwrap();
    assert_eq!(content(&frame), packet.assemble());
    let frame = received(&pool, &packet.unfinished(), &packet.claim(2));
    assert_eq!(cut_by_us(&pool, &frame), [packet.assemble()]);
}

#[test]
fn padding_is_left_behind() {
    let packet = udp_v6(2500);
    let mut bytes = packet.unfinished();
    bytes.extend_from_slice(&[0xa5; 100]);
    let pool = pool();
    let frame = received(&pool, &bytes, &packet.claim(1000));
    assert_eq!(cut_by_us(&pool, &frame), packet.cut(1000));
}

#[test]
fn a_dry_pool_is_reported_with_what_was_made() {
    let packet = tcp_v4(10_000);
    let pool = pool();
    let frame = received(&pool, &packet.unfinished(), &packet.claim(1000));
    let mut left = 3;
    let mut made = 0;
    let alloc = || {
        left -= 1;
        if left >= 0 { pool.alloc() } else { None }
    };
    let failed = segment(&frame, alloc, |_| made += 1).unwrap_err();
    assert_eq!(failed, CutFailed { cause: CutError::NoBuffer, emitted: 3, total: 10 });
    assert_eq!(made, 3);
    assert_eq!(pool.in_use(), 1, "only the super-frame itself is left");
}

#[test]
fn what_is_no_super_frame_is_not_cut() {
    let packet = tcp_v4(100);
    let pool = pool();
    let mut frame = received(&pool, &packet.unfinished(), &packet.claim(0));
    let cause = |frame: &HeapFrame| segment(frame, || pool.alloc(), |_| {}).unwrap_err().cause;
    assert_eq!(cause(&frame), CutError::NotSuper);
    // Metadata of another protocol than the headers.
    let gso = Some(crate::frame::Gso { kind: GsoKind::Udp, size: 10, ecn: false });
    frame.set_offload(Offload { gso, ..frame.offload() });
    assert_eq!(cause(&frame), CutError::Headers);
}

#[test]
fn a_header_is_written_as_it_was_read() {
    for (packet, size) in [(tcp_v4(9000), 1448), (udp_v6(9000), 1200), (tcp_v4(100), 0)] {
        let pool = pool();
        let claim = packet.claim(size);
        let frame = received(&pool, &packet.unfinished(), &claim);
        let expected = if size == 0 { VnetHeader { hdr_len: 0, ..claim } } else { claim };
        assert_eq!(VnetHeader::of(&frame), Ok(expected));
        if size != 0 {
            assert_eq!(header_len(frame.head(), &frame.offload()), Some(claim.hdr_len.into()));
        }
    }
}

#[test]
fn an_inner_checksum_may_be_the_unfinished_one() {
    // What a guest that runs a tunnel of its own sends: the outer UDP is done, the inner is not.
    let inner = tcp_v4(100);
    let mut outer = udp_v6(0);
    outer.payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner.unfinished()].concat();
    let mut claim = inner.claim(0);
    claim.csum_start += (outer.l4_start() + 16) as u16;
    let pool = pool();
    let mut frame = received(&pool, &outer.assemble(), &claim);
    finish_checksum(&mut frame).unwrap();
    outer.payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner.assemble()].concat();
    let field = outer.l4_start() + 6;
    let (mut ours, mut right) = (content(&frame), outer.assemble());
    // The outer checksum was made for the unfinished inner packet.
    ours[field..field + 2].fill(0);
    right[field..field + 2].fill(0);
    assert_eq!(ours, right);
}

/// The claim about a frame after `change`, and what becomes of it.
fn judged(
    packet: &Packet,
    change: impl FnOnce(&mut VnetHeader, &mut Vec<u8>),
) -> Result<Offload, BadOffload> {
    let (mut claim, mut bytes) = (packet.claim(1000), packet.unfinished());
    change(&mut claim, &mut bytes);
    let head = &bytes[..bytes.len().min(256)];
    validate(head, bytes.len(), &claim)
}

#[test]
fn nothing_claimed_is_nothing_checked() {
    let noise = [0xff; 14];
    let none = validate(&noise, 14, &VnetHeader::NONE).unwrap();
    assert_eq!(none, Offload::NONE);
    let claim = VnetHeader { flags: F_DATA_VALID, ..VnetHeader::NONE };
    assert_eq!(validate(&noise, 14, &claim).unwrap().csum, Csum::Verified);
}

#[test]
fn lies_about_the_checksum() {
    let tcp = tcp_v4(5000);
    let plain = |claim: &mut VnetHeader| claim.gso_type = GSO_NONE;
    for start in 0..34 {
        let verdict = judged(&tcp, |claim, _| {
            plain(claim);
            claim.csum_start = start;
        });
        assert_eq!(verdict, Err(BadOffload::CsumStart { start, l3_end: 34 }));
    }
    for offset in (0..100).chain([u16::MAX]).filter(|offset| *offset != 16) {
        let verdict = judged(&tcp, |claim, _| {
            plain(claim);
            claim.csum_offset = offset;
        });
        assert_eq!(verdict, Err(BadOffload::CsumOffset(offset)));
    }
    // Beyond the head, beyond the packet, and as far as a number goes.
    for start in [239, 5000, 5038, u16::MAX] {
        let verdict = judged(&tcp, |claim, _| {
            plain(claim);
            claim.csum_start = start;
        });
        let field = usize::from(start) + 16;
        assert_eq!(verdict, Err(BadOffload::CsumBeyondEnd { field }));
    }
    // The last place that is within a short packet.
    let short = tcp_v4(10);
    let at = |start| {
        judged(&short, |claim, _| {
            plain(claim);
            claim.csum_start = start;
        })
    };
    assert!(at(64 - 18).is_ok());
    assert_eq!(at(64 - 17), Err(BadOffload::CsumBeyondEnd { field: 63 }));
}

#[test]
fn lies_about_segmentation() {
    let (tcp, udp) = (tcp_v4(5000), udp_v6(5000));
    let of_type = |packet, gso_type| judged(packet, |claim, _| claim.gso_type = gso_type);
    assert!(of_type(&tcp, GSO_TCPV4).unwrap().gso.is_some());
    assert!(of_type(&tcp, GSO_TCPV4 | GSO_ECN).unwrap().gso.unwrap().ecn);
    assert!(of_type(&udp, GSO_UDP_L4).unwrap().gso.is_some());
    for bad in [GSO_UDP, 2, 6, 0x7f, 0x21, GSO_ECN, GSO_UDP_L4 | GSO_ECN] {
        assert_eq!(of_type(&tcp, bad), Err(BadOffload::GsoType(bad)));
    }
    for (packet, other) in [(&tcp, GSO_TCPV6), (&tcp, GSO_UDP_L4)] {
        assert_eq!(of_type(packet, other), Err(BadOffload::GsoProtocol(other)));
    }
    for other in [GSO_TCPV4, GSO_TCPV6] {
        assert_eq!(of_type(&udp, other), Err(BadOffload::GsoProtocol(other)));
    }
    let verdict = judged(&tcp, |claim, _| claim.gso_size = 0);
    assert_eq!(verdict, Err(BadOffload::GsoSize));
    let verdict = judged(&tcp, |claim, _| claim.flags = 0);
    assert_eq!(verdict, Err(BadOffload::GsoWithoutCsum));
    let verdict = judged(&tcp, |claim, _| claim.csum_start = 35);
    assert_eq!(verdict, Err(BadOffload::CsumStart { start: 35, l3_end: 34 }));
    assert_eq!(judged(&tcp_v4(0), |_, _| {}), Err(BadOffload::GsoEmpty));
    let verdict = judged(&tcp, |claim, _| claim.gso_size = 1);
    assert_eq!(verdict, Err(BadOffload::GsoSegments(5000)));
    for flag in [0x02, 0x04] {
        let verdict = judged(&tcp, |_, bytes| bytes[34 + 13] |= flag);
        assert_eq!(verdict, Err(BadOffload::GsoTcpFlags));
    }
    let verdict = judged(&udp, |_, bytes| bytes[54 + 8 + 5] ^= 1);
    let too_long = LayersError::Udp(UdpError::LenBeyondPayload { claimed: 5009, have: 5008 });
    assert_eq!(verdict, Err(BadOffload::Layers(too_long)));
    let verdict = judged(&udp, |_, bytes| bytes[54 + 8 + 4] -= 1);
    assert_eq!(verdict, Err(BadOffload::GsoUdpLen));
    let verdict = judged(&tcp, |_, bytes| bytes[20] |= 0x20);
    assert_eq!(verdict, Err(BadOffload::Fragment));
    // The frame ends before its packet does.
    let verdict = judged(&tcp, |_, bytes| bytes.truncate(1000));
    assert!(matches!(verdict, Err(BadOffload::Layers(LayersError::Ipv4(_)))));
    // A type of IP under five tags is no IP to the switch.
    let mut deep = tcp.clone();
    deep.l2 = [&[2; 12][..], &[0x81, 0, 0, 1].repeat(5), &[8, 0]].concat();
    assert_eq!(judged(&deep, |_, _| {}), Err(BadOffload::GsoProtocol(GSO_TCPV4)));
}

#[test]
fn super_frames_are_cut_behind_zero_to_four_tags() {
    for tags in 0..=4 {
        let mut packet = tcp_v4(3000);
        packet.l2 = [&[2; 12][..], &[0x88, 0xa8, 0x20, 7].repeat(tags), &[8, 0]].concat();
        let pool = pool();
        let frame = received(&pool, &packet.unfinished(), &packet.claim(1000));
        assert_eq!(cut_by_us(&pool, &frame), packet.cut(1000));
    }
}

#[test]
fn a_sum_over_any_range_of_a_frame_in_pieces() {
    let pool = pool();
    let bytes: Vec<u8> = (0..5000u32).map(|i| ((i * i) >> 3) as u8).collect();
    let mut frame = pool.frame(&bytes).unwrap();
    // Odd pieces: the second begins within a 16-bit word.
    frame.trim_front(1).unwrap();
    let bytes = &bytes[1..];
    assert!(frame.segments() > 1 && frame.head().len() % 2 == 1);
    let border = frame.head().len();
    let ends = [0, 1, 34, border - 1, border, border + 1, border + 2, 4998, 4999];
    for (i, from) in ends.into_iter().enumerate() {
        for to in ends.into_iter().skip(i) {
            let mut whole = Checksum::new();
            whole.add_bytes(&bytes[from..to]);
            assert_eq!(sum_range(&frame, from..to).finish(), whole.finish(), "{from}..{to}");
        }
    }
    assert_eq!(sum_range(&frame, 34..usize::MAX).finish(), sum_range(&frame, 34..4999).finish());
    assert_eq!(sum_range(&frame, 9000..usize::MAX).finish(), 0xffff);
}
