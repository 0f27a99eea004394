//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{EtherType, Header, MacAddr, TooShort};

/// What an ARP packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has its address.
    Reply,
    /// Anything else (RARP, InARP…), by number.
    Other(u16),
}

impl ArpOperation {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Other(number) => number,
        }
    }
}

/// An ARP packet that maps IPv4 to Ethernet addresses, the only kind there is in practice.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ArpPacket {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: MacAddr,
    sender_ip: [u8; 4],
    target_mac: MacAddr,
    target_ip: [u8; 4],
}

impl Header for ArpPacket {
    const NAME: &'static str = "ARP packet";
}

/// Why bytes are not an ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArpError {
    /// They end before it does.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// Hardware other than Ethernet (1).
    #[error("ARP for hardware type {0}, not Ethernet")]
    Hardware(u16),
    /// A protocol other than IPv4.
    #[error("ARP for protocol {0:#06x}, not IPv4")]
    Protocol(u16),
    /// Address lengths other than 6 and 4.
    #[error("ARP with addresses of {hardware} and {protocol} bytes, not 6 and 4")]
    AddressLen {
        /// Claimed length of hardware addresses.
        hardware: u8,
        /// Claimed length of protocol addresses.
        protocol: u8,
    },
}

impl ArpPacket {
    /// Length in bytes. Frames of minimal size carry padding after it.
    pub const LEN: usize = 28;

    const ETHERNET: u16 = 1;

    /// Reads the packet at the start of `bytes`, and gives what follows it (padding).
    ///
    /// # Errors
    /// [`ArpError`], one variant a rule of RFC 826's packet reception.
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ArpError> {
        let (arp, rest) = Self::split(bytes)?;
        if arp.hardware.get() != Self::ETHERNET {
            return Err(ArpError::Hardware(arp.hardware.get()));
        }
        if arp.protocol.get() != EtherType::IPV4.0 {
            return Err(ArpError::Protocol(arp.protocol.get()));
        }
        if (arp.hardware_len, arp.protocol_len) != (6, 4) {
            return Err(ArpError::AddressLen {
                hardware: arp.hardware_len,
                protocol: arp.protocol_len,
            });
        }
        Ok((arp, rest))
    }

    /// A question for `target_ip`. With `sender_ip` equal to it, a gratuitous ARP (RFC 5227).
    #[must_use]
    pub const fn request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        Self::new(ArpOperation::Request, (sender_mac, sender_ip), (MacAddr::ZERO, target_ip))
    }

    /// The answer to `request`: `mac` has the address that was asked for.
    #[must_use]
    pub const fn reply_to(request: &Self, mac: MacAddr) -> Self {
        Self::new(
            ArpOperation::Reply,
            (mac, request.target_ip()),
            (request.sender_mac, request.sender_ip()),
        )
    }

    /// A packet with all fields chosen: sender and target as pairs of addresses.
    #[must_use]
    pub const fn new(
        operation: ArpOperation,
        sender: (MacAddr, Ipv4Addr),
        target: (MacAddr, Ipv4Addr),
    ) -> Self {
        Self {
            hardware: U16::new(Self::ETHERNET),
            protocol: U16::new(EtherType::IPV4.0),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(operation.number()),
            sender_mac: sender.0,
            sender_ip: sender.1.octets(),
            target_mac: target.0,
            target_ip: target.1.octets(),
        }
    }

    /// What it wants.
    #[must_use]
    pub const fn operation(&self) -> ArpOperation {
        match self.operation.get() {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            number => ArpOperation::Other(number),
        }
    }

    /// Who sent it.
    #[must_use]
    pub const fn sender_mac(&self) -> MacAddr {
        self.sender_mac
    }

    /// The sender's address; 0.0.0.0 in a probe (RFC 5227 §2.1.1).
    #[must_use]
    pub const fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::from_be_bytes(self.sender_ip))
    }

    /// Whom it is for; zero in a request.
    #[must_use]
    pub const fn target_mac(&self) -> MacAddr {
        self.target_mac
    }

    /// The address asked for, or the one of the asker in a reply.
    #[must_use]
    pub const fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::from_be_bytes(self.target_ip))
    }

    /// Announces its sender's own address: nobody is to answer (RFC 5227 §3).
    #[must_use]
    pub fn is_gratuitous(&self) -> bool {
        self.sender_ip == self.target_ip
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);
    const REQUEST: [u8; 28] = [
        0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
    ];

    #[test]
    fn a_request_and_its_reply() {
        let built = ArpPacket::request(MAC, [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert_eq!(built.as_bytes(), REQUEST);
        let (request, rest) = ArpPacket::parse(&REQUEST).unwrap();
        assert!(rest.is_empty() && !request.is_gratuitous());
        assert_eq!(request.operation(), ArpOperation::Request);
        let other = MacAddr::new([0x52, 0x54, 0, 0, 0, 2]);
        let reply = ArpPacket::reply_to(request, other);
        assert_eq!(reply.operation(), ArpOperation::Reply);
        assert_eq!((reply.sender_mac(), reply.sender_ip()), (other, [10, 0, 0, 2].into()));
        assert_eq!((reply.target_mac(), reply.target_ip()), (MAC, [10, 0, 0, 1].into()));
    }

    #[test]
    fn other_kinds_are_refused() {
        let with = |at: usize, value| {
            let mut bytes = REQUEST;
            bytes[at] = value;
            ArpPacket::parse(&bytes).map(|(arp, _)| arp.operation())
        };
        assert_eq!(with(1, 6), Err(ArpError::Hardware(6)));
        assert_eq!(with(3, 6), Err(ArpError::Protocol(0x0806)));
        assert_eq!(with(4, 8), Err(ArpError::AddressLen { hardware: 8, protocol: 4 }));
        assert_eq!(with(5, 16), Err(ArpError::AddressLen { hardware: 6, protocol: 16 }));
        assert_eq!(with(7, 9), Ok(ArpOperation::Other(9)));
        assert!(matches!(ArpPacket::parse(&REQUEST[..27]), Err(ArpError::TooShort(_))));
    }

    proptest! {
        #[test]
        fn agrees_with_etherparse(operation: u16, a: ([u8; 6], [u8; 4]), b: ([u8; 6], [u8; 4])) {
            let built = ArpPacket::new(
                ArpOperation::Other(operation),
                (a.0.into(), a.1.into()),
                (b.0.into(), b.1.into()),
            );
            let oracle = etherparse::ArpPacketSlice::from_slice(built.as_bytes()).unwrap();
            prop_assert_eq!(oracle.operation().0, operation);
            prop_assert_eq!((oracle.sender_hw_addr(), oracle.sender_protocol_addr()), (&a.0[..], &a.1[..]));
            prop_assert_eq!((oracle.target_hw_addr(), oracle.target_protocol_addr()), (&b.0[..], &b.1[..]));
            prop_assert!(ArpPacket::parse(built.as_bytes()).is_ok());
        }

        #[test]
        fn noise_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = ArpPacket::parse(&bytes);
        }
    }
}
