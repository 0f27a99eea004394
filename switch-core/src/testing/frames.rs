//! Frames for tests, built plainly and apart from the code under test, and a checksum that follows
//! RFC 1071 word by word.

use std::ops::Range;

use super::Packet;
use crate::frame::{Csum, Gso, GsoKind, Offload};
use crate::wire::MacAddr;

/// EtherType "IEEE Std 802 - Local Experimental 1": no stack answers it.
pub const ETHERTYPE_TEST: u16 = 0x88b5;
/// Bytes in front of the payload of [`tcp4`]: Ethernet, IPv4 and TCP without options.
pub const TCP4_HEADERS: usize = 14 + 20 + 20;
/// Bytes in front of the payload of [`tcp6`].
pub const TCP6_HEADERS: usize = 14 + 40 + 20;
/// Bytes in front of the payload of [`udp4`].
pub const UDP4_HEADERS: usize = 14 + 20 + 8;

/// A locally administered unicast address with this number in it.
pub fn mac(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr::new([0x02, 0x56, a, b, c, d])
}

/// `len` bytes that differ from place to place and from seed to seed, none of them 0xA5, so that a
/// poisoned buffer shows.
pub fn pattern(seed: u32, len: usize) -> Vec<u8> {
    let byte = |i: usize| (seed as usize).wrapping_mul(31).wrapping_add(i * 7) % 251;
    (0..len).map(|i| byte(i) as u8).map(|b| if b == 0xa5 { 0xfb } else { b }).collect()
}

/// An Ethernet frame: header and payload as they are given.
pub fn ethernet(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend_from_slice(&dst.octets());
    frame.extend_from_slice(&src.octets());
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The frame with one more tag, outermost. Frames without addresses stay as they are.
pub fn tagged(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    let mut out = frame.to_vec();
    if frame.len() >= 12 {
        let [a, b] = tpid.to_be_bytes();
        let [c, d] = tci.to_be_bytes();
        out.splice(12..12, [a, b, c, d]);
    }
    out
}

/// Ones' complement sum of `bytes`, folded to 16 bits and not yet inverted (RFC 1071).
pub fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | w.get(1).map_or(0, |b| u64::from(*b)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Finishes the checksum of a packet that is no super-frame, as the metadata says.
#[must_use]
pub fn finished(packet: &Packet) -> Vec<u8> {
    let mut bytes = packet.bytes.clone();
    if let Csum::Partial { start, offset } = packet.offload.csum {
        let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
        let value = !sum(bytes.get(start..).unwrap_or_default());
        if let Some(field) = bytes.get_mut(at..at + 2) {
            // UDP writes a computed 0 as its other form, as 0 says that there is none (RFC 768).
            let value = if offset == 6 && value == 0 { 0xffff } else { value };
            field.copy_from_slice(&value.to_be_bytes());
        }
    }
    bytes
}

/// A TCP segment over IPv4 whose checksum is unfinished: it holds the pseudo-header's sum.
pub fn tcp4(dst: MacAddr, src: MacAddr, payload: &[u8]) -> Packet {
    ipv4(dst, src, 6, &tcp_header(), 16, payload)
}

/// A UDP datagram over IPv4 whose checksum is unfinished.
pub fn udp4(dst: MacAddr, src: MacAddr, payload: &[u8]) -> Packet {
    let len = ((8 + payload.len()) as u16).to_be_bytes();
    ipv4(dst, src, 17, &[0x30, 0x39, 0x00, 0x07, len[0], len[1], 0, 0], 6, payload)
}

/// A TCP segment over IPv6 whose checksum is unfinished.
pub fn tcp6(dst: MacAddr, src: MacAddr, payload: &[u8]) -> Packet {
    let l4 = tcp_header();
    let len = (l4.len() + payload.len()) as u16;
    let mut ip = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    for host in [1, 2] {
        ip.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    let addresses = 8..40;
    assemble(ethernet(dst, src, 0x86dd, &[]), ip, addresses, 6, &l4, 16, payload)
}

/// The packet as a super-frame of segments with `size` bytes of payload.
#[must_use]
pub fn gso(mut packet: Packet, kind: GsoKind, size: u16) -> Packet {
    packet.offload.gso = Some(Gso { kind, size, ecn: false });
    packet
}

fn tcp_header() -> [u8; 20] {
    let mut header = [0; 20];
    header[..2].copy_from_slice(&40_000u16.to_be_bytes());
    header[2..4].copy_from_slice(&5201u16.to_be_bytes());
    header[4..8].copy_from_slice(&0x1234_5678u32.to_be_bytes());
    header[8..12].copy_from_slice(&1u32.to_be_bytes());
    // Five words long; PSH and ACK; a window.
    header[12..16].copy_from_slice(&[0x50, 0x18, 0x20, 0x00]);
    header
}

fn ipv4(
    dst: MacAddr,
    src: MacAddr,
    protocol: u8,
    l4: &[u8],
    csum_at: usize,
    payload: &[u8],
) -> Packet {
    let len = ((20 + l4.len() + payload.len()) as u16).to_be_bytes();
    let mut ip = vec![0x45, 0, len[0], len[1], 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
    ip.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    assemble(ethernet(dst, src, 0x0800, &[]), ip, 12..20, protocol, l4, csum_at, payload)
}

fn assemble(
    mut frame: Vec<u8>,
    ip: Vec<u8>,
    addresses: Range<usize>,
    protocol: u8,
    l4: &[u8],
    csum_at: usize,
    payload: &[u8],
) -> Packet {
    let len = (l4.len() + payload.len()) as u32;
    let mut pseudo = ip.get(addresses).unwrap_or_default().to_vec();
    pseudo.extend_from_slice(&len.to_be_bytes());
    pseudo.extend_from_slice(&[0, 0, 0, protocol]);
    frame.extend_from_slice(&ip);
    let start = frame.len();
    frame.extend_from_slice(l4);
    frame[start + csum_at..start + csum_at + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
    frame.extend_from_slice(payload);
    let csum = Csum::Partial { start: start as u16, offset: csum_at as u16 };
    Packet { bytes: frame, offload: Offload { csum, gso: None } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{SlicedPacket, TransportSlice};

    /// The independent decoder agrees with every length and checksum.
    #[test]
    fn built_packets_are_right() {
        for len in [0usize, 1, 2, 99, 1400] {
            let data = pattern(len as u32, len);
            for packet in [
                tcp4(mac(1), mac(2), &data),
                udp4(mac(1), mac(2), &data),
                tcp6(mac(1), mac(2), &data),
            ] {
                let bytes = finished(&packet);
                let parsed = SlicedPacket::from_ethernet(&bytes).unwrap();
                let ok = match (parsed.net.unwrap(), parsed.transport.unwrap()) {
                    (etherparse::NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
                        assert_eq!(
                            ip.header().header_checksum(),
                            ip.header().to_header().calc_header_checksum()
                        );
                        tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())
                            == Ok(tcp.checksum())
                    }
                    (etherparse::NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
                        udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
                            == Ok(udp.checksum())
                    }
                    (etherparse::NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
                        tcp.to_header().calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
                            == Ok(tcp.checksum())
                    }
                    other => panic!("{other:?}"),
                };
                assert!(ok, "{len} bytes");
            }
        }
    }

    #[test]
    fn tags_go_outermost() {
        let frame = ethernet(mac(1), mac(2), ETHERTYPE_TEST, b"x");
        let twice = tagged(&tagged(&frame, 0x8100, 10), 0x88a8, 20);
        assert_eq!(twice[12..22], [0x88, 0xa8, 0, 20, 0x81, 0, 0, 10, 0x88, 0xb5]);
        assert_eq!(twice.len(), frame.len() + 8);
    }
}
