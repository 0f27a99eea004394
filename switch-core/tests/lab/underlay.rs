//! Packets of the underlay and the frames in them, made by hand and by etherparse: nothing here
//! uses the code that the tests are about.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, UdpHeader};
use switch_core::testing::frames::sum as reference_sum;
use switch_core::wire::MacAddr;

/// What is in a UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    None,
    Right,
    Wrong,
}

/// An outer IP header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) traffic_class: u8,
    pub(crate) ttl: u8,
    pub(crate) df: bool,
    pub(crate) id: u16,
    pub(crate) flow_label: u32,
}

impl Outer {
    /// As it is sent by default.
    pub(crate) fn new(src: &str, dst: &str) -> Self {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        Self { src, dst, traffic_class: 0, ttl: 64, df: true, id: 0, flow_label: 0 }
    }

    /// The way back.
    pub(crate) fn back(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }

    /// The packet of a protocol with that payload.
    pub(crate) fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = match (self.src, self.dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.v4(protocol, payload.len()).to_bytes().to_vec(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6Header {
                traffic_class: self.traffic_class,
                flow_label: Ipv6FlowLabel::try_new(self.flow_label).unwrap(),
                payload_length: payload.len() as u16,
                next_header: IpNumber(protocol),
                hop_limit: self.ttl,
                source: src.octets(),
                destination: dst.octets(),
            }
            .to_bytes()
            .to_vec(),
            families => panic!("{families:?}"),
        };
        bytes.extend_from_slice(payload);
        bytes
    }

    fn v4(&self, protocol: u8, len: usize) -> Ipv4Header {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (self.src, self.dst) else { panic!("not IPv4") };
        let protocol = IpNumber(protocol);
        let mut header =
            Ipv4Header::new(len as u16, self.ttl, protocol, src.octets(), dst.octets()).unwrap();
        header.dscp = (self.traffic_class >> 2).try_into().unwrap();
        header.ecn = (self.traffic_class & 3).try_into().unwrap();
        (header.dont_fragment, header.identification) = (self.df, self.id);
        header.header_checksum = header.calc_header_checksum();
        header
    }

    /// A UDP datagram with that payload.
    pub(crate) fn udp(&self, ports: (u16, u16), sum: Sum, payload: &[u8]) -> Vec<u8> {
        let (src, dst) = ports;
        let mut udp = UdpHeader {
            source_port: src,
            destination_port: dst,
            length: 8 + payload.len() as u16,
            checksum: 0,
        };
        let right = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                udp.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                udp.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload)
            }
            families => panic!("{families:?}"),
        };
        udp.checksum = match (sum, right.unwrap()) {
            (Sum::None, _) => 0,
            (Sum::Right, right) => right,
            // One bit off; not what says that there is none.
            (Sum::Wrong, right) => {
                if right == 1 {
                    2
                } else {
                    right ^ 1
                }
            }
        };
        self.packet(17, &[&udp.to_bytes(), payload].concat())
    }
}

/// The VXLAN header and a frame (RFC 7348 §5).
pub(crate) fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[0x08, 0, 0, 0, a, b, c, 0], frame].concat()
}

/// The GENEVE header with these bytes of options, and a frame (RFC 8926 §3.4). The C flag is set
/// where the caller says so.
pub(crate) fn geneve(vni: u32, critical: bool, options: &[u8], frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let flags = if critical { 0x40 } else { 0 };
    let words = (options.len() / 4) as u8;
    [&[words, flags, 0x65, 0x58, a, b, c, 0], options, frame].concat()
}

/// A GRE header of these fields and a frame (RFC 2784 §2, RFC 2890 §2); its checksum is right.
pub(crate) fn gre(sum: bool, key: Option<u32>, sequence: Option<u32>, frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0x65, 0x58];
    if sum {
        bytes[0] |= 0x80;
        bytes.extend_from_slice(&[0; 4]);
    }
    if let Some(key) = key {
        bytes[0] |= 0x20;
        bytes.extend_from_slice(&key.to_be_bytes());
    }
    if let Some(sequence) = sequence {
        bytes[0] |= 0x10;
        bytes.extend_from_slice(&sequence.to_be_bytes());
    }
    bytes.extend_from_slice(frame);
    if sum {
        let right = !reference_sum(&bytes);
        bytes[4..6].copy_from_slice(&right.to_be_bytes());
    }
    bytes
}

/// An Ethernet frame with a UDP datagram in it, behind these tags; over IPv4 or IPv6 as the
/// addresses of `ip` are.
pub(crate) fn udp_frame(
    dst: MacAddr,
    src: MacAddr,
    tags: &[(u16, u16)],
    ip: &Outer,
    ports: (u16, u16),
    len: usize,
) -> Vec<u8> {
    let payload = switch_core::testing::frames::pattern(u32::from(ports.0), len);
    in_ethernet(dst, src, tags, &ip.udp(ports, Sum::Right, &payload))
}

/// An IP packet in an Ethernet frame, behind these tags, the outermost first.
pub(crate) fn in_ethernet(
    dst: MacAddr,
    src: MacAddr,
    tags: &[(u16, u16)],
    packet: &[u8],
) -> Vec<u8> {
    let mut frame = [dst.octets(), src.octets()].concat();
    for (tpid, tci) in tags {
        frame.extend_from_slice(&tpid.to_be_bytes());
        frame.extend_from_slice(&tci.to_be_bytes());
    }
    let ethertype: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

/// The outer header of a packet, decoded by etherparse, which also agrees that its lengths and its
/// header checksum are right; and what follows it.
pub(crate) fn decode(packet: &[u8]) -> (Outer, u8, &[u8]) {
    if packet[0] >> 4 == 4 {
        let (header, payload) = Ipv4Header::from_slice(packet).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(usize::from(header.total_len), packet.len());
        assert!(!header.more_fragments && header.fragment_offset.value() == 0);
        let outer = Outer {
            src: header.source.into(),
            dst: header.destination.into(),
            traffic_class: header.dscp.value() << 2 | header.ecn.value(),
            ttl: header.time_to_live,
            df: header.dont_fragment,
            id: header.identification,
            flow_label: 0,
        };
        return (outer, header.protocol.0, payload);
    }
    let (header, payload) = Ipv6Header::from_slice(packet).unwrap();
    assert_eq!(usize::from(header.payload_length), payload.len());
    let outer = Outer {
        src: header.source.into(),
        dst: header.destination.into(),
        traffic_class: header.traffic_class,
        ttl: header.hop_limit,
        df: true,
        id: 0,
        flow_label: header.flow_label.value(),
    };
    (outer, header.next_header.0, payload)
}

/// Source and destination port, checksum and payload of a datagram, whose length is right.
pub(crate) fn decode_udp(datagram: &[u8]) -> ((u16, u16), u16, &[u8]) {
    let (udp, payload) = UdpHeader::from_slice(datagram).unwrap();
    assert_eq!(usize::from(udp.length), datagram.len());
    ((udp.source_port, udp.destination_port), udp.checksum, payload)
}

/// Makes the checksum of an IPv4 header right again.
pub(crate) fn fix_sum(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 0xf) * 4;
    packet[10..12].fill(0);
    let sum = !reference_sum(&packet[..len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The packet with that many words of NOP options.
pub(crate) fn with_options(packet: &[u8], words: usize) -> Vec<u8> {
    let mut out = packet.to_vec();
    out.splice(20..20, std::iter::repeat_n(1, words * 4));
    out[0] = 0x40 | (5 + words) as u8;
    let len = out.len() as u16;
    out[2..4].copy_from_slice(&len.to_be_bytes());
    fix_sum(&mut out);
    out
}

/// The packet with these extension headers of 16 bytes each before UDP or GRE.
pub(crate) fn with_extensions(packet: &[u8], chain: &[u8]) -> Vec<u8> {
    let mut out = packet[..40].to_vec();
    let last = std::mem::replace(&mut out[6], chain[0]);
    for (n, _) in chain.iter().enumerate() {
        let next = chain.get(n + 1).copied().unwrap_or(last);
        // One unit of 8 more than the first; no segments left; padding.
        out.extend_from_slice(&[next, 1, 1, 0, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0]);
    }
    out.extend_from_slice(&packet[40..]);
    let len = (out.len() - 40) as u16;
    out[4..6].copy_from_slice(&len.to_be_bytes());
    out
}
