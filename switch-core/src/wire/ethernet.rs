//! Ethernet II and IEEE 802.3 (the first 14 bytes of a frame).

use std::fmt;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Header, MacAddr};

/// What an Ethernet header (or a VLAN tag) says comes next: an EtherType, or at most
/// [`MAX_LENGTH`](Self::MAX_LENGTH), the length of an 802.3 frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// Transparent Ethernet bridging: Ethernet inside GRE and GENEVE (RFC 1701).
    pub const TEB: Self = Self(0x6558);
    /// An 802.1Q tag (C-tag).
    pub const VLAN: Self = Self(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(0x86dd);
    /// MPLS unicast (RFC 3032).
    pub const MPLS: Self = Self(0x8847);
    /// An 802.1ad tag (S-tag).
    pub const SERVICE_VLAN: Self = Self(0x88a8);
    /// LLDP (IEEE 802.1AB).
    pub const LLDP: Self = Self(0x88cc);
    /// For experiments on private networks (IEEE 802a local experimental 1).
    pub const EXPERIMENTAL: Self = Self(0x88b5);
    /// The greatest value that is a length and not a type (IEEE 802.3 §3.2.6).
    pub const MAX_LENGTH: u16 = 1500;

    /// An 802.3 length: what follows is LLC, not a protocol named by type.
    #[must_use]
    pub const fn is_length(self) -> bool {
        self.0 <= Self::MAX_LENGTH
    }

    /// A VLAN tag follows. Only the two types IEEE gave to tags count: 0x9100 and its kin, which
    /// some gear once used for outer tags, are protocols this switch does not know.
    #[must_use]
    pub const fn is_vlan(self) -> bool {
        matches!(self, Self::VLAN | Self::SERVICE_VLAN)
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IPV4 => f.pad("ipv4"),
            Self::ARP => f.pad("arp"),
            Self::VLAN => f.pad("802.1q"),
            Self::IPV6 => f.pad("ipv6"),
            Self::SERVICE_VLAN => f.pad("802.1ad"),
            Self::LLDP => f.pad("lldp"),
            Self(other) => f.pad(&format!("{other:#06x}")),
        }
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtherType({:#06x})", self.0)
    }
}

/// The Ethernet header: destination, source, type or length. Preamble and FCS are never seen here.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    dst: MacAddr,
    src: MacAddr,
    ethertype: U16,
}

impl Header for EthernetHeader {
    const NAME: &'static str = "Ethernet header";
}

impl EthernetHeader {
    /// Length in bytes.
    pub const LEN: usize = 14;
    /// Where the first tag goes, and where the type of an untagged frame is.
    pub const ETHERTYPE_OFFSET: usize = 12;
    /// The shortest frame on a physical wire, without FCS (IEEE 802.3 §3.2.8). Virtual ports carry
    /// shorter ones, which is no error.
    pub const MIN_FRAME_LEN: usize = 60;

    /// A header to be sent.
    #[must_use]
    pub const fn new(dst: MacAddr, src: MacAddr, ethertype: EtherType) -> Self {
        Self { dst, src, ethertype: U16::new(ethertype.0) }
    }

    /// Destination.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> MacAddr {
        self.dst
    }

    /// Source.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> MacAddr {
        self.src
    }

    /// What follows the header.
    #[inline]
    #[must_use]
    pub const fn ethertype(&self) -> EtherType {
        EtherType(self.ethertype.get())
    }

    /// Changes the destination.
    pub const fn set_dst(&mut self, dst: MacAddr) {
        self.dst = dst;
    }

    /// Changes the source.
    pub const fn set_src(&mut self, src: MacAddr) {
        self.src = src;
    }

    /// Changes the type.
    pub const fn set_ethertype(&mut self, ethertype: EtherType) {
        self.ethertype = U16::new(ethertype.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::TooShort;
    use proptest::prelude::*;

    const ARP_BROADCAST: [u8; 16] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x08, 0x06, 0x00,
        0x01,
    ];

    #[test]
    fn reads_a_header() {
        let (eth, rest) = EthernetHeader::split(&ARP_BROADCAST).unwrap();
        assert!(eth.dst().is_broadcast());
        assert_eq!(eth.src().to_string(), "52:54:00:12:34:56");
        assert_eq!(eth.ethertype(), EtherType::ARP);
        assert_eq!(rest, [0x00, 0x01]);
    }

    #[test]
    fn thirteen_bytes_are_too_few() {
        let error = EthernetHeader::split(&ARP_BROADCAST[..13]).unwrap_err();
        assert_eq!(error, TooShort { header: "Ethernet header", need: 14, have: 13 });
        assert_eq!(error.to_string(), "Ethernet header needs 14 bytes, 13 are there");
        assert!(EthernetHeader::at(&ARP_BROADCAST, usize::MAX).is_err());
    }

    #[test]
    fn lengths_and_types() {
        assert!(EtherType(0).is_length() && EtherType(1500).is_length());
        assert!(!EtherType(1501).is_length() && !EtherType::IPV4.is_length());
        assert!(EtherType::VLAN.is_vlan() && EtherType::SERVICE_VLAN.is_vlan());
        assert!(!EtherType(0x9100).is_vlan());
        assert_eq!(EtherType(0x9100).to_string(), "0x9100");
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_back(dst: [u8; 6], src: [u8; 6], ethertype: u16) {
            let mut built =
                EthernetHeader::new(MacAddr::ZERO, MacAddr::ZERO, EtherType(0));
            built.set_dst(dst.into());
            built.set_src(src.into());
            built.set_ethertype(EtherType(ethertype));
            let oracle = etherparse::Ethernet2HeaderSlice::from_slice(built.as_bytes()).unwrap();
            prop_assert_eq!(oracle.destination(), dst);
            prop_assert_eq!(oracle.source(), src);
            prop_assert_eq!(oracle.ether_type().0, ethertype);
            let (read, rest) = EthernetHeader::split(built.as_bytes()).unwrap();
            prop_assert_eq!(read.as_bytes(), built.as_bytes());
            prop_assert!(rest.is_empty());
        }
    }
}
