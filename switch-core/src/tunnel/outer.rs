//! The outer IP and UDP headers of packets to one peer: a template, and what changes from packet to
//! packet.

use std::net::IpAddr;

use zerocopy::IntoBytes;

use super::Proto;
use crate::wire::{IpProtocol, Ipv4Header, Ipv6Header, UdpHeader};

/// IPv4 and UDP.
pub(super) const V4_UDP: usize = Ipv4Header::LEN + UdpHeader::LEN;
/// IPv6 and UDP.
const OUTER_MAX: usize = Ipv6Header::LEN + UdpHeader::LEN;

/// The first UDP source port: entropy goes into 49152 to 65535 (RFC 7348 §5, RFC 8926 §3.3).
pub const ENTROPY_FIRST: u16 = 0xc000;

/// What changes in the outer headers from packet to packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct OuterFields {
    /// Bytes behind the outer headers.
    pub payload: u16,
    pub traffic_class: u8,
    pub ttl: u8,
    /// IPv4: the don't-fragment flag, or else the identification.
    pub df: bool,
    pub id: u16,
    /// Of the inner flow, for the UDP source port and the flow label.
    pub hash: u32,
    /// Whether the sum of the pseudo-header goes into the UDP checksum, to be finished.
    pub udp_checksum: bool,
}

/// The outer IP and UDP headers of packets to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterHeader {
    bytes: [u8; OUTER_MAX],
    len: usize,
    /// Over IPv4: the sum of the header's words.
    ip_sum: u32,
    /// The sum of the addresses and the protocol, for the UDP checksum.
    pseudo_sum: u32,
}

impl OuterHeader {
    /// The headers from `local` to `remote`, which are of one family.
    #[must_use]
    pub fn new(proto: Proto, local: IpAddr, remote: IpAddr) -> Self {
        let protocol = match proto {
            Proto::Udp(_) => IpProtocol::UDP,
            Proto::Gre => IpProtocol::GRE,
        };
        let mut bytes = [0; OUTER_MAX];
        let (mut len, mut ip_sum, mut pseudo_sum) = (0, 0, u32::from(protocol.0));
        let mut put = |part: &[u8]| {
            if let Some(room) = bytes.get_mut(len..len + part.len()) {
                room.copy_from_slice(part);
                len += part.len();
            }
        };
        match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let mut header = Ipv4Header::new(local, remote, protocol, 0);
                // The sum is made of what is left when everything that changes is zero.
                header.set_total_len(0);
                header.set_ttl(0);
                header.set_checksum(0);
                let mut header_bytes: [u8; Ipv4Header::LEN] = zerocopy::transmute!(header);
                clear_flags(&mut header_bytes);
                put(&header_bytes);
                ip_sum = sum(&header_bytes);
                pseudo_sum += sum(&local.octets()) + sum(&remote.octets());
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                put(Ipv6Header::new(local, remote, protocol, 0).as_bytes());
                pseudo_sum += sum(&local.octets()) + sum(&remote.octets());
            }
            // The control side checks that families agree; nothing can be sent otherwise.
            _ => {}
        }
        if let Proto::Udp(port) = proto {
            let mut udp = UdpHeader::new(0, port, 0);
            udp.set_datagram_len(0);
            put(udp.as_bytes());
        }
        Self { bytes, len, ip_sum, pseudo_sum }
    }

    /// Length in bytes: 20 to 48.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes: the families differ.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes the headers to the start of `out`. False if they do not fit: then nothing was written
    /// that could be sent.
    #[inline]
    pub(super) fn write(&self, out: &mut [u8], fields: &OuterFields) -> bool {
        match (self.len, self.ip_sum) {
            (Self::V4, 1..) => self.write_v4::<{ Self::V4 }>(out, fields),
            (Self::V4_UDP, 1..) => self.write_v4::<{ Self::V4_UDP }>(out, fields),
            (Self::V6, 0) => self.write_v6::<{ Self::V6 }>(out, fields),
            (Self::V6_UDP, 0) => self.write_v6::<{ Self::V6_UDP }>(out, fields),
            _ => false,
        }
    }

    /// The headers, if they are IPv4 and UDP, and the sum of the former's words. What changes from
    /// packet to packet is zero in them.
    #[inline]
    pub(super) fn v4_udp(&self) -> Option<(&[u8; V4_UDP], u32)> {
        let is = self.len == V4_UDP && self.ip_sum > 0;
        self.bytes.first_chunk().filter(|_| is).map(|bytes| (bytes, self.ip_sum))
    }

    const V4: usize = Ipv4Header::LEN;
    const V4_UDP: usize = V4_UDP;
    const V6: usize = Ipv6Header::LEN;
    const V6_UDP: usize = OUTER_MAX;

    /// Copies the template: of a length that the compiler knows.
    #[inline]
    fn copy<'a, const N: usize>(&self, out: &'a mut [u8]) -> Option<&'a mut [u8; N]> {
        let out = out.first_chunk_mut::<N>()?;
        out.copy_from_slice(self.bytes.first_chunk::<N>()?);
        Some(out)
    }

    #[inline]
    fn write_v4<const N: usize>(&self, out: &mut [u8], fields: &OuterFields) -> bool {
        let Some(out) = self.copy::<N>(out) else { return false };
        let total = fields.payload.saturating_add(N as u16);
        let flags: u16 = if fields.df { 0x4000 } else { 0 };
        let ttl_protocol = u32::from(fields.ttl) << 8;
        let sum = self.ip_sum
            + u32::from(fields.traffic_class)
            + u32::from(total)
            + u32::from(fields.id)
            + u32::from(flags)
            + ttl_protocol;
        let Some((ip, udp)) = out.split_first_chunk_mut::<{ Self::V4 }>() else { return false };
        ip[1] = fields.traffic_class;
        [ip[2], ip[3]] = total.to_be_bytes();
        [ip[4], ip[5]] = fields.id.to_be_bytes();
        [ip[6], ip[7]] = flags.to_be_bytes();
        ip[8] = fields.ttl;
        [ip[10], ip[11]] = (!fold(sum)).to_be_bytes();
        self.write_udp(udp, fields);
        true
    }

    #[inline]
    fn write_v6<const N: usize>(&self, out: &mut [u8], fields: &OuterFields) -> bool {
        let Some(out) = self.copy::<N>(out) else { return false };
        let Some((ip, udp)) = out.split_first_chunk_mut::<{ Self::V6 }>() else { return false };
        // The flow label (RFC 6438) helps routers that do not look at ports; 20 bits, not zero.
        let label = fields.hash & 0xf_ffff | 1;
        let word = 6 << 28 | u32::from(fields.traffic_class) << 20 | label;
        [ip[0], ip[1], ip[2], ip[3]] = word.to_be_bytes();
        let payload = fields.payload.saturating_add(udp.len() as u16);
        [ip[4], ip[5]] = payload.to_be_bytes();
        ip[7] = fields.ttl;
        self.write_udp(udp, fields);
        true
    }

    #[inline]
    fn write_udp(&self, udp: &mut [u8], fields: &OuterFields) {
        // GRE has none.
        let Some(udp) = udp.first_chunk_mut::<{ UdpHeader::LEN }>() else { return };
        let port = ENTROPY_FIRST | fields.hash as u16;
        let len = fields.payload.saturating_add(UdpHeader::LEN as u16);
        [udp[0], udp[1]] = port.to_be_bytes();
        [udp[4], udp[5]] = len.to_be_bytes();
        let sum = if fields.udp_checksum { fold(self.pseudo_sum + u32::from(len)) } else { 0 };
        [udp[6], udp[7]] = sum.to_be_bytes();
    }
}

fn clear_flags(header: &mut [u8; Ipv4Header::LEN]) {
    header[6] = 0;
    header[7] = 0;
}

/// The sum of an even number of bytes as words; of at most 32 bytes, so it cannot overflow.
fn sum(bytes: &[u8]) -> u32 {
    bytes.as_chunks().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum()
}

/// The ones' complement sum in 16 bits.
#[inline]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
