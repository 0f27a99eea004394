//! What IPv4 and IPv6 have in common: protocol numbers and fragments.

use std::fmt;

/// The protocol of what an IP header carries (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// IPv6 hop-by-hop options (RFC 8200 §4.3).
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// IPv6 routing header (RFC 8200 §4.4).
    pub const ROUTING: Self = Self(43);
    /// IPv6 fragment header (RFC 8200 §4.5).
    pub const FRAGMENT: Self = Self(44);
    /// GRE (RFC 2784).
    pub const GRE: Self = Self(47);
    /// Encapsulating security payload (RFC 4303).
    pub const ESP: Self = Self(50);
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: Self = Self(51);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// Nothing follows (RFC 8200 §4.7).
    pub const NO_NEXT_HEADER: Self = Self(59);
    /// IPv6 destination options (RFC 8200 §4.6).
    pub const DESTINATION_OPTIONS: Self = Self(60);
    /// Mobility header (RFC 6275).
    pub const MOBILITY: Self = Self(135);
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.pad("icmp"),
            Self::TCP => f.pad("tcp"),
            Self::UDP => f.pad("udp"),
            Self::GRE => f.pad("gre"),
            Self::ICMPV6 => f.pad("icmpv6"),
            Self(other) => fmt::Display::fmt(&other, f),
        }
    }
}

impl fmt::Debug for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IpProtocol({})", self.0)
    }
}

/// Which part of a packet an IP header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first fragment: it begins with the layer-4 header, and more follow.
    First,
    /// A later fragment: it has no layer-4 header.
    Later,
}

impl Fragment {
    /// From the fragment offset (any unit) and the more-fragments flag.
    #[inline]
    #[must_use]
    pub const fn new(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }

    /// Whether a layer-4 header follows the IP header.
    #[inline]
    #[must_use]
    pub const fn has_transport(self) -> bool {
        !matches!(self, Self::Later)
    }
}

/// Cuts `bytes` (of which `wire_len` exist, beyond the slice perhaps) to the `claimed` length.
/// None if the claim is more than there is.
#[inline]
pub(super) fn claim(bytes: &[u8], wire_len: usize, claimed: usize) -> Option<&[u8]> {
    if claimed > wire_len {
        return None;
    }
    Some(bytes.get(..claimed).unwrap_or(bytes))
}
