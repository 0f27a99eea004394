//! Messages of routers that a packet of ours was too large (RFC 1191, RFC 8201).
//!
//! The kernel gets them by the exception TAP and can do nothing with them: no socket of it sent what
//! they quote. Anybody can send one, so only those are believed that quote a packet which a VTEP can
//! have sent, and none for less than every path carries.

use std::net::IpAddr;

use super::split::ETHERNET;

/// Least that an IPv4 and an IPv6 path is believed to carry (RFC 791, RFC 8200 5).
const LEAST: (u32, u32) = (576, 1280);

/// What a message says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooBig {
    /// The source and destination of the packet that is quoted.
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// Its UDP destination port; `None` for GRE.
    pub(super) udp: Option<u16>,
    /// What gets through, in bytes.
    pub(super) mtu: u32,
}

/// Reads a frame; `None` if it is no such message.
pub(super) fn too_big(head: &[u8]) -> Option<TooBig> {
    let packet = head.get(ETHERNET..)?;
    let at = |packet: &[u8], n: usize| -> Option<u16> {
        Some(u16::from_be_bytes(*packet.get(n..)?.first_chunk()?))
    };
    match at(head, 12)? {
        0x0800 => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let icmp = packet.get(header..)?;
            // ICMP, destination unreachable, fragmentation needed.
            if *packet.get(9)? != 1 || icmp.first_chunk()? != &[3, 4] {
                return None;
            }
            let mtu = u32::from(at(icmp, 6)?);
            let quoted = icmp.get(8..)?;
            let from: [u8; 4] = *quoted.get(12..)?.first_chunk()?;
            let to: [u8; 4] = *quoted.get(16..)?.first_chunk()?;
            let payload = usize::from(quoted.first()? & 0x0f) * 4;
            let udp = udp_port(*quoted.get(9)?, quoted.get(payload..)?)?;
            // Routers from before RFC 1191 name no MTU: the least is all that is known then.
            let mtu = if mtu == 0 { LEAST.0 } else { mtu.max(LEAST.0) };
            Some(TooBig { from: from.into(), to: to.into(), udp, mtu })
        }
        0x86dd => {
            let icmp = packet.get(40..)?;
            // ICMPv6, packet too big.
            if *packet.get(6)? != 58 || *icmp.first()? != 2 {
                return None;
            }
            let mtu = u32::from_be_bytes(*icmp.get(4..)?.first_chunk()?).max(LEAST.1);
            let quoted = icmp.get(8..)?;
            let from: [u8; 16] = *quoted.get(8..)?.first_chunk()?;
            let to: [u8; 16] = *quoted.get(24..)?.first_chunk()?;
            let udp = udp_port(*quoted.get(6)?, quoted.get(40..)?)?;
            Some(TooBig { from: from.into(), to: to.into(), udp, mtu })
        }
        _ => None,
    }
}

/// `Some(None)` for GRE, which has no ports; `None` for what no tunnel sends.
fn udp_port(protocol: u8, payload: &[u8]) -> Option<Option<u16>> {
    match protocol {
        17 => Some(Some(u16::from_be_bytes(*payload.get(2..)?.first_chunk()?))),
        47 => Some(None),
        _ => None,
    }
}
