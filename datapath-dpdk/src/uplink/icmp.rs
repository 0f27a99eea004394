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
    /// Its UDP source and destination ports; `None` for GRE.
    pub(super) udp: Option<(u16, u16)>,
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
            let udp = udp_ports(*quoted.get(9)?, quoted.get(payload..)?)?;
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
            let udp = udp_ports(*quoted.get(6)?, quoted.get(40..)?)?;
            Some(TooBig { from: from.into(), to: to.into(), udp, mtu })
        }
        _ => None,
    }
}

/// `Some(None)` for GRE, which has no ports; `None` for what no tunnel sends.
fn udp_ports(protocol: u8, payload: &[u8]) -> Option<Option<(u16, u16)>> {
    match protocol {
        17 => {
            let [s0, s1, d0, d1] = *payload.first_chunk()?;
            Some(Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]))))
        }
        47 => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message over IPv4 that quotes a packet of `protocol` to port 4789.
    fn v4(kind: [u8; 2], mtu: u16, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 9, 9, 9, 9, 192, 0, 2, 1]);
        frame.extend([kind[0], kind[1], 0, 0, 0, 0]);
        frame.extend(mtu.to_be_bytes());
        frame.extend([0x45, 0, 5, 220, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([192, 0, 2, 1, 198, 51, 100, 7]);
        frame.extend([0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0]);
        frame
    }

    fn v6(kind: u8, mtu: u32, next: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 56, 58, 64]);
        frame.extend([0x20; 32]);
        frame.extend([kind, 0, 0, 0]);
        frame.extend(mtu.to_be_bytes());
        frame.extend([0x60, 0, 0, 0, 5, 0, next, 64]);
        frame.extend([[0xfd; 16], [0xfc; 16]].concat());
        frame.extend([0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn a_message_says_for_which_packet_and_how_much() {
        let told = too_big(&v4([3, 4], 1400, 17)).unwrap();
        assert_eq!(told.from, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(told.to, IpAddr::from([198, 51, 100, 7]));
        assert_eq!((told.udp, told.mtu), (Some((0xc000, 4789)), 1400));
        assert_eq!(too_big(&v4([3, 4], 1400, 47)).unwrap().udp, None);
        // Less than every path carries, and nothing at all (RFC 792).
        for mtu in [0, 1, 575] {
            assert_eq!(too_big(&v4([3, 4], mtu, 17)).unwrap().mtu, 576);
        }
        let told = too_big(&v6(2, 1400, 17)).unwrap();
        assert_eq!((told.from, told.to), ([0xfd; 16].into(), [0xfc; 16].into()));
        assert_eq!((told.udp, told.mtu), (Some((0xc000, 4789)), 1400));
        assert_eq!(too_big(&v6(2, 68, 47)).unwrap().mtu, 1280);
    }

    #[test]
    fn other_messages_say_nothing() {
        for frame in [
            v4([3, 3], 1400, 17),
            v4([8, 0], 1400, 17),
            v4([3, 4], 1400, 6),
            v6(1, 1400, 17),
            v6(2, 1400, 58),
        ] {
            assert_eq!(too_big(&frame), None);
        }
        // Cut anywhere in front of the quoted ports.
        for frame in [v4([3, 4], 1400, 17), v6(2, 1400, 17)] {
            for len in 0..frame.len() - 4 {
                assert_eq!(too_big(&frame[..len]), None);
            }
        }
    }

    proptest! {
        #[test]
        fn noise_is_no_panic(mut frame in prop::collection::vec(any::<u8>(), 0..120), six: bool) {
            if let Some(at) = frame.get_mut(12..14) {
                at.copy_from_slice(if six { &[0x86, 0xdd] } else { &[8, 0] });
            }
            if let Some(told) = too_big(&frame) {
                prop_assert!(told.mtu >= 576);
            }
        }
    }
}
