//! Inner checksums, and the cutting of super-frames, that a sender on the same host left to a NIC that
//! never came.
//!
//! A kernel that encapsulates marks the inner checksum as work for the NIC. Where the packet goes
//! over a virtual cable instead, as from one namespace or guest to another, nobody does that work,
//! and the socket that receives it does not tell. What tells is the field itself: it holds the
//! sum of the pseudo-header. A finished checksum has that value once in 65,536 times, and to finish
//! it again then gives the same value.

use crate::frame::{Csum, Offload};
use crate::segment::{VnetHeader, validate, vnet};
use crate::wire::{
    Checksum, Header, IpProtocol, Ipv4Header, Ipv6Header, TcpFlags, TcpHeader, UdpHeader,
};

use super::InnerIp;

/// The same for a frame that was in no tunnel, from a device that cannot tell: a virtual cable whose
/// other end is another stack of this host.
#[inline]
pub fn left_unfinished(head: &[u8], len: usize) -> Csum {
    InnerIp::of(head).map_or(Csum::Unknown, |ip| state(head, len, ip))
}

/// The state of the TCP or UDP checksum of a frame of `len` bytes that begins with `head` and has
/// the IP header `ip`.
#[inline]
pub(super) fn state(head: &[u8], len: usize, ip: InnerIp) -> Csum {
    unfinished(head, len, ip).unwrap_or(Csum::Unknown)
}

#[inline]
fn unfinished(head: &[u8], len: usize, ip: InnerIp) -> Option<Csum> {
    let mut sum = Checksum::new();
    let (protocol, start, l4_len);
    if ip.v4 {
        let header = Ipv4Header::at(head, ip.at).ok()?;
        // Not with options or fragments, which no NIC is given to finish.
        if header.header_len() != Ipv4Header::LEN
            || header.fragment() != crate::wire::Fragment::Whole
        {
            return None;
        }
        protocol = header.protocol();
        start = ip.at.checked_add(Ipv4Header::LEN)?;
        l4_len = header.total_len().checked_sub(Ipv4Header::LEN as u16)?;
        sum.add_pseudo_v4(header.src(), header.dst(), protocol, l4_len);
    } else {
        let header = Ipv6Header::at(head, ip.at).ok()?;
        protocol = header.next_header();
        start = ip.at.checked_add(Ipv6Header::LEN)?;
        l4_len = header.payload_len();
        sum.add_pseudo_v6(header.src(), header.dst(), protocol, l4_len.into());
    }
    // The sum is one up to the end of the frame: there may be no padding.
    if start.checked_add(l4_len.into())? != len {
        return None;
    }
    let (offset, l4_header) = match protocol {
        IpProtocol::TCP => (TcpHeader::CHECKSUM_OFFSET, TcpHeader::LEN),
        IpProtocol::UDP => (UdpHeader::CHECKSUM_OFFSET, UdpHeader::LEN),
        _ => return None,
    };
    let field = head.get(start..start.checked_add(l4_header)?)?.get(usize::from(offset)..)?;
    let field = u16::from_be_bytes(*field.first_chunk()?);
    // Zero is no checksum, in UDP.
    (field == sum.partial() && field != 0)
        .then_some(Csum::Partial { start: u16::try_from(start).ok()?, offset })
}

/// How long the segments of a super-frame are to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Segments {
    /// So many bytes of payload each, as they were.
    Of(u16),
    /// Not known: TCP takes them as long as they fit into frames of so many bytes.
    Within(usize),
}

/// What is left to do for a frame whose checksum is unfinished and that is longer than fits through the
/// tunnel, or known to be of several. It was never cut: cutting, too, is left to the NIC, and a
/// socket receives such a super-frame whole. `None` for what cannot be cut: UDP's are messages, whose
/// ends are lost.
#[cold]
#[inline(never)]
pub(super) fn uncut(
    head: &[u8],
    len: usize,
    segments: Segments,
    v4: bool,
    (start, offset): (u16, u16),
) -> Option<Offload> {
    let tcp = TcpHeader::at(head, start.into()).ok()?;
    let gso_size = match segments {
        Segments::Of(size) => size,
        Segments::Within(room) => {
            let headers = usize::from(start).checked_add(tcp.header_len())?;
            u16::try_from(room.checked_sub(headers)?).ok()?
        }
    };
    let ecn = if tcp.flags().any(TcpFlags::CWR) { vnet::GSO_ECN } else { 0 };
    let claim = VnetHeader {
        flags: vnet::F_NEEDS_CSUM,
        gso_type: ecn | if v4 { vnet::GSO_TCPV4 } else { vnet::GSO_TCPV6 },
        hdr_len: 0,
        gso_size,
        csum_start: start,
        csum_offset: offset,
    };
    validate(head, len, &claim).ok()
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::frame::{Gso, GsoKind};
    use crate::tunnel::Inner;

    fn found(bytes: &[u8]) -> Csum {
        state(bytes, bytes.len(), Inner::of(bytes).ip.unwrap())
    }

    fn packet(v6: bool, tcp: bool) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            ethernet.ipv6([0xfd; 16], [0xfc; 16], 64)
        } else {
            ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        let mut out = Vec::new();
        if tcp {
            ip.tcp(1, 2, 3, 4).ack(7).write(&mut out, b"payload").unwrap();
        } else {
            ip.udp(1, 2).write(&mut out, b"payload").unwrap();
        }
        out
    }

    /// The sum of the pseudo-header, worked out by hand.
    fn pseudo(packet: &[u8], v6: bool) -> u16 {
        let (addresses, l4, protocol) = if v6 {
            (&packet[22..54], packet.len() - 54, packet[20])
        } else {
            (&packet[26..34], packet.len() - 34, packet[23])
        };
        let words = addresses.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
        let sum = words.sum::<u32>() + l4 as u32 + u32::from(protocol);
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn what_holds_the_pseudo_header_alone_is_unfinished() {
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut bytes = packet(v6, tcp);
            assert_eq!(found(&bytes), Csum::Unknown, "a finished one");
            let start = if v6 { 54 } else { 34 };
            let offset = if tcp { 16 } else { 6 };
            let sum = pseudo(&bytes, v6);
            bytes[start + offset..][..2].copy_from_slice(&sum.to_be_bytes());
            let unfinished = Csum::Partial { start: start as u16, offset: offset as u16 };
            assert_eq!(found(&bytes), unfinished);
            bytes.splice(12..12, [0x81, 0, 0, 9]);
            let tagged = Csum::Partial { start: start as u16 + 4, offset: offset as u16 };
            assert_eq!(found(&bytes), tagged);
            bytes.push(0);
            assert_eq!(found(&bytes), Csum::Unknown, "behind it is padding");
            bytes.pop();
            for len in 0..bytes.len() {
                if let Some(ip) = Inner::of(&bytes[..len]).ip {
                    assert_eq!(state(&bytes[..len], len, ip), Csum::Unknown, "cut to {len}");
                }
            }
        }
    }

    #[test]
    fn what_was_not_cut_is_cut_to_what_fits() {
        for v6 in [false, true] {
            let start: u16 = if v6 { 54 } else { 34 };
            let mut bytes = packet(v6, true);
            // Behind Ethernet, IP and TCP there is room for three bytes.
            let room = usize::from(start) + 20 + 3;
            let of = |bytes: &[u8], v4| {
                uncut(bytes, bytes.len(), Segments::Within(room), v4, (start, 16))
            };
            let kind = if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
            let csum = Csum::Partial { start, offset: 16 };
            let gso = |ecn| Offload { csum, gso: Some(Gso { kind, size: 3, ecn }) };
            assert_eq!(of(&bytes, !v6), Some(gso(false)));
            assert_eq!(of(&bytes, v6), None, "another family");
            let known = uncut(&bytes, bytes.len(), Segments::Of(5), !v6, (start, 16));
            assert_eq!(known, Some(Offload { gso: Some(Gso { kind, size: 5, ecn: false }), csum }));
            bytes[usize::from(start) + 13] |= 0x80;
            assert_eq!(of(&bytes, !v6), Some(gso(true)), "CWR is for the first one");
            bytes[usize::from(start) + 13] |= 0x02;
            assert_eq!(of(&bytes, !v6), None, "SYN");
            let none = usize::from(start) + 20;
            assert_eq!(
                uncut(&bytes, bytes.len(), Segments::Within(none), !v6, (start, 16)),
                None,
                "no room"
            );
            let udp = packet(v6, false);
            assert_eq!(
                uncut(&udp, udp.len(), Segments::Within(room), !v6, (start, 6)),
                None,
                "UDP"
            );
        }
    }

    #[test]
    fn no_checksum_is_none() {
        let mut bytes = packet(false, false);
        bytes[40..42].fill(0);
        assert_eq!(found(&bytes), Csum::Unknown);
    }
}
