//! MAC addresses (IEEE 802, 48 bit).

use std::fmt;
use std::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 48-bit MAC address. Ordered as its bytes are on the wire.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// Every station: `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No station: `00:00:00:00:00:00`. Never valid as a source.
    pub const ZERO: Self = Self([0; 6]);
    /// Length in bytes.
    pub const LEN: usize = 6;

    /// The address with these bytes, in wire order.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The bytes in wire order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The address as a number: the first byte on the wire is the highest of the 48 bits.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address made of the low 48 bits of `value`; the upper 16 are ignored, so that packed
    /// keys can carry other things there.
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = value.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// A group address (the I/G bit): multicast *or* broadcast.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 0x01 != 0
    }

    /// The broadcast address.
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        self.to_u64() == Self::BROADCAST.to_u64()
    }

    /// The all-zero address.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.to_u64() == 0
    }

    /// An address one station can have: neither a group nor zero. Only these are learned.
    #[must_use]
    pub const fn is_station(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// Administered locally, not by a manufacturer (the U/L bit).
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0[0] & 0x02 != 0
    }

    /// One of the sixteen addresses no bridge forwards, `01:80:c2:00:00:00` to `:0f` (IEEE 802.1Q
    /// table 8-1): STP, pause frames, LACP, 802.1X, LLDP…
    #[must_use]
    pub const fn is_link_local_reserved(self) -> bool {
        self.to_u64() & !0x0f == 0x0180_c200_0000
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl From<MacAddr> for [u8; 6] {
    fn from(mac: MacAddr) -> Self {
        mac.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        // Through a buffer, so that `{:<20}` in tables pads the whole address.
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a string is not a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseMacError {
    /// Not six groups.
    #[error(
        "a MAC address has 6 groups of two hex digits, as in 52:54:00:12:34:56; this has {0} groups"
    )]
    Groups(usize),
    /// A group that is not one or two hex digits; groups are counted from 1.
    #[error("group {0} of the MAC address is not two hex digits, as in 52:54:00:12:34:56")]
    Group(usize),
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    /// Reads `52:54:00:12:34:56` or `52-54-00-12-34-56`, digits of either case, two to a group.
    fn from_str(s: &str) -> Result<Self, ParseMacError> {
        let separator = if s.contains('-') { '-' } else { ':' };
        let groups = s.split(separator).count();
        if groups != 6 {
            return Err(ParseMacError::Groups(groups));
        }
        let mut octets = [0; 6];
        for ((number, group), octet) in (1..).zip(s.split(separator)).zip(&mut octets) {
            // from_str_radix would take a sign.
            if group.len() != 2 || !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(ParseMacError::Group(number));
            }
            *octet = u8::from_str_radix(group, 16).map_err(|_| ParseMacError::Group(number))?;
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_of_addresses() {
        let station = MacAddr::new([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert!(station.is_station() && station.is_local() && !station.is_multicast());
        assert!(MacAddr::BROADCAST.is_broadcast() && MacAddr::BROADCAST.is_multicast());
        assert!(MacAddr::ZERO.is_zero() && !MacAddr::ZERO.is_station());
        let ipv6_all_nodes = MacAddr::new([0x33, 0x33, 0, 0, 0, 1]);
        assert!(ipv6_all_nodes.is_multicast() && !ipv6_all_nodes.is_broadcast());
    }

    #[test]
    fn exactly_sixteen_reserved_addresses() {
        for last in 0..=255 {
            let mac = MacAddr::new([0x01, 0x80, 0xc2, 0, 0, last]);
            assert_eq!(mac.is_link_local_reserved(), last <= 0x0f, "{mac}");
        }
        assert!(!MacAddr::new([0x01, 0x80, 0xc2, 0, 1, 0]).is_link_local_reserved());
        assert!(!MacAddr::new([0x00, 0x80, 0xc2, 0, 0, 0]).is_link_local_reserved());
    }

    #[test]
    fn text_forms() {
        let mac = MacAddr::new([0xab, 0xcd, 0xef, 0x01, 0x02, 0x03]);
        assert_eq!(mac.to_string(), "ab:cd:ef:01:02:03");
        assert_eq!(format!("{mac:<19}|"), "ab:cd:ef:01:02:03  |");
        assert_eq!("AB-CD-ef-01-02-03".parse(), Ok(mac));
        assert_eq!("".parse::<MacAddr>(), Err(ParseMacError::Groups(1)));
        assert_eq!("ab:cd:ef:01:02".parse::<MacAddr>(), Err(ParseMacError::Groups(5)));
        assert_eq!("ab:cd:ef:01:02:03:04".parse::<MacAddr>(), Err(ParseMacError::Groups(7)));
        assert_eq!("ab:cd:ef:+1:02:03".parse::<MacAddr>(), Err(ParseMacError::Group(4)));
        assert_eq!("ab:c:ef:01:02:03".parse::<MacAddr>(), Err(ParseMacError::Group(2)));
        assert_eq!("ab:cd:ef:01:02:é".parse::<MacAddr>(), Err(ParseMacError::Group(6)));
    }

    proptest! {
        #[test]
        fn round_trips(octets: [u8; 6], upper: u16) {
            let mac = MacAddr::new(octets);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>(), Ok(mac));
            prop_assert_eq!(MacAddr::from_u64(mac.to_u64() | u64::from(upper) << 48), mac);
        }

        #[test]
        fn order_is_the_order_of_the_numbers(a: [u8; 6], b: [u8; 6]) {
            let (a, b) = (MacAddr::new(a), MacAddr::new(b));
            prop_assert_eq!(a.cmp(&b), a.to_u64().cmp(&b.to_u64()));
        }

        #[test]
        fn noise_is_refused_without_a_panic(text in "\\PC{0,32}") {
            let _ = text.parse::<MacAddr>();
        }
    }
}
