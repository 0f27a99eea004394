//! ICMP for IPv4 (RFC 792) and IPv6 (RFC 4443): the common 8-byte header and its checksum.

use std::net::Ipv6Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{Checksum, checksum};
use super::{Header, IpProtocol};

/// Types of ICMP for IPv4 that matter to a switch.
pub mod v4 {
    /// Answer to an echo request.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable; with code [`FRAGMENTATION_NEEDED`], what path MTU discovery needs.
    pub const UNREACHABLE: u8 = 3;
    /// Code of [`UNREACHABLE`]: too long for the next hop and not to be fragmented (RFC 1191).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Ping.
    pub const ECHO_REQUEST: u8 = 8;
}

/// Types of ICMPv6 that matter to a switch.
pub mod v6 {
    /// What path MTU discovery needs (RFC 8201).
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Ping.
    pub const ECHO_REQUEST: u8 = 128;
    /// Answer to an echo request.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement (RFC 4861).
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation (RFC 4861).
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement (RFC 4861).
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect (RFC 4861).
    pub const REDIRECT: u8 = 137;
}

/// The first 8 bytes of every ICMP message of either version that is of interest here.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: U16,
    rest: [u8; 4],
}

impl Header for IcmpHeader {
    const NAME: &'static str = "ICMP header";
}

impl IcmpHeader {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// A header to be sent, its checksum still 0; `rest` means what the type says.
    #[must_use]
    pub const fn new(kind: u8, code: u8, rest: [u8; 4]) -> Self {
        Self { kind, code, checksum: U16::new(0), rest }
    }

    /// Type: see [`v4`] and [`v6`].
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.kind
    }

    /// Code within the type.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.code
    }

    /// The checksum as it stands there.
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// The four bytes whose meaning is the type's: identifier and sequence number, MTU…
    #[must_use]
    pub const fn rest(&self) -> [u8; 4] {
        self.rest
    }

    /// Identifier and sequence number of an echo request or reply.
    #[must_use]
    pub const fn echo(&self) -> (u16, u16) {
        let [a, b, c, d] = self.rest;
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    }

    /// Changes the checksum.
    pub const fn set_checksum(&mut self, checksum: u16) {
        self.checksum = U16::new(checksum);
    }
}

/// The checksum of an ICMP message over IPv4; 0 if `message` holds the right one.
#[must_use]
pub fn checksum_v4(message: &[u8]) -> u16 {
    checksum(message)
}

/// The checksum of an ICMPv6 message, which covers the addresses too (RFC 4443 §2.3); 0 if
/// `message` holds the right one.
#[must_use]
pub fn checksum_v6(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> u16 {
    let mut sum = Checksum::new();
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    sum.add_pseudo_v6(src, dst, IpProtocol::ICMPV6, len);
    sum.add_bytes(message);
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type};
    use proptest::prelude::*;

    #[test]
    fn an_echo_request() {
        let message = [8, 0, 0xf7, 0xfc, 0, 1, 0, 2];
        let (icmp, _) = IcmpHeader::split(&message).unwrap();
        assert_eq!((icmp.kind(), icmp.code()), (v4::ECHO_REQUEST, 0));
        assert_eq!((icmp.checksum(), icmp.echo()), (0xf7fc, (1, 2)));
        assert_eq!(checksum_v4(&message), 0);
        assert!(IcmpHeader::split(&message[..7]).is_err());
    }

    proptest! {
        #[test]
        fn echoes_agree_with_etherparse(
            id: u16, seq: u16, payload in prop::collection::vec(any::<u8>(), 0..80),
            src: u128, dst: u128,
        ) {
            let echo = IcmpEchoHeader { id, seq };
            let rest = echo.to_bytes();

            let mut ours = IcmpHeader::new(v4::ECHO_REPLY, 0, rest);
            ours.set_checksum(checksum_v4(&[ours.as_bytes(), &payload].concat()));
            let oracle = Icmpv4Type::EchoReply(echo).calc_checksum(&payload);
            prop_assert_eq!(ours.checksum(), oracle);
            prop_assert_eq!(ours.echo(), (id, seq));

            let (src, dst) = (Ipv6Addr::from_bits(src), Ipv6Addr::from_bits(dst));
            let mut ours = IcmpHeader::new(v6::ECHO_REQUEST, 0, rest);
            let message = [ours.as_bytes(), &payload].concat();
            ours.set_checksum(checksum_v6(src, dst, &message));
            let oracle = Icmpv6Type::EchoRequest(echo)
                .calc_checksum(src.octets(), dst.octets(), &payload)
                .unwrap();
            prop_assert_eq!(ours.checksum(), oracle);
        }
    }
}
