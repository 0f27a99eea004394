//! IPv6 and its extension headers (RFC 8200).

use std::net::Ipv6Addr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ip::claim;
use super::{Fragment, Header, IpProtocol, TooShort};

/// How many extension headers are followed. RFC 8200 §4.1 recommends at most seven in a packet.
pub const MAX_EXTENSIONS: usize = 8;

/// The fixed 40 bytes of an IPv6 header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    version_class_flow: U32,
    payload_len: U16,
    next_header: u8,
    hop_limit: u8,
    src: [u8; 16],
    dst: [u8; 16],
}

impl Header for Ipv6Header {
    const NAME: &'static str = "IPv6 header";
}

impl Ipv6Header {
    /// Length in bytes, without extensions.
    pub const LEN: usize = 40;

    const CLASS_SHIFT: u32 = 20;
    const CLASS_MASK: u32 = 0x0ff0_0000;
    const FLOW_MASK: u32 = 0x000f_ffff;

    /// A header to be sent: hop limit 64, flow label 0.
    #[must_use]
    pub const fn new(
        src: Ipv6Addr,
        dst: Ipv6Addr,
        next_header: IpProtocol,
        payload_len: u16,
    ) -> Self {
        Self {
            version_class_flow: U32::new(0x6000_0000),
            payload_len: U16::new(payload_len),
            next_header: next_header.0,
            hop_limit: 64,
            src: src.octets(),
            dst: dst.octets(),
        }
    }

    /// IP version: 6 in anything that parsed.
    #[inline]
    #[must_use]
    pub const fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }

    /// The traffic class byte: DSCP in the upper six bits, ECN in the lower two (RFC 2474, 3168).
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> Self::CLASS_SHIFT) as u8
    }

    /// The flow label, 20 bits.
    #[inline]
    #[must_use]
    pub const fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & Self::FLOW_MASK
    }

    /// Extensions and payload, in bytes.
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> u16 {
        self.payload_len.get()
    }

    /// The first extension, or what the payload is.
    #[inline]
    #[must_use]
    pub const fn next_header(&self) -> IpProtocol {
        IpProtocol(self.next_header)
    }

    /// Hop limit.
    #[inline]
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    /// Source.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from_be_bytes(self.src))
    }

    /// Destination.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from_be_bytes(self.dst))
    }

    /// Changes the payload length.
    #[inline]
    pub const fn set_payload_len(&mut self, len: u16) {
        self.payload_len = U16::new(len);
    }

    /// Changes the traffic class.
    #[inline]
    pub const fn set_traffic_class(&mut self, class: u8) {
        let rest = self.version_class_flow.get() & !Self::CLASS_MASK;
        self.version_class_flow = U32::new(rest | (class as u32) << Self::CLASS_SHIFT);
    }

    /// Changes the hop limit.
    #[inline]
    pub const fn set_hop_limit(&mut self, hops: u8) {
        self.hop_limit = hops;
    }
}

/// Why bytes are not an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ipv6Error {
    /// They end within the header or an extension.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// Another IP version.
    #[error("IP version {0} where IPv6 was announced")]
    Version(u8),
    /// A payload length beyond the end of the frame.
    #[error("IPv6 payload length {claimed} in a frame that has {have} bytes for it")]
    PayloadLenBeyondFrame {
        /// The claimed length.
        claimed: u16,
        /// What there is.
        have: usize,
    },
    /// An extension header longer than the payload it is in.
    #[error("IPv6 extension header {protocol} ends behind the packet")]
    ExtensionBeyondPayload {
        /// The extension's number.
        protocol: u8,
    },
    /// Hop-by-hop options anywhere but first (RFC 8200 §4.1).
    #[error("IPv6 hop-by-hop options after another extension header")]
    HopByHopNotFirst,
    /// More than [`MAX_EXTENSIONS`] extension headers.
    #[error("more than {MAX_EXTENSIONS} IPv6 extension headers")]
    TooManyExtensions,
    /// A payload length of 0 before hop-by-hop options: a jumbogram (RFC 2675), which no port
    /// carries.
    #[error("an IPv6 jumbogram")]
    Jumbogram,
}

/// An IPv6 packet whose lengths hold, with its extension headers walked.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    header: &'a Ipv6Header,
    extensions: &'a [u8],
    payload: &'a [u8],
    protocol: IpProtocol,
    fragment: Fragment,
}

impl<'a> Ipv6<'a> {
    /// Reads the packet at the start of `bytes`; what lies after its payload length is padding.
    ///
    /// # Errors
    /// [`Ipv6Error`], one variant a rule.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv6Error> {
        Self::parse_head(bytes, bytes.len())
    }

    /// Reads the packet at the start of `head`, where `wire_len` bytes exist in all (see
    /// [the module](super#head-and-whole)).
    ///
    /// # Errors
    /// [`Ipv6Error`], one variant a rule.
    pub fn parse_head(head: &'a [u8], wire_len: usize) -> Result<Self, Ipv6Error> {
        let (header, rest) = Ipv6Header::split(head)?;
        if header.version() != 6 {
            return Err(Ipv6Error::Version(header.version()));
        }
        let claimed = header.payload_len();
        if claimed == 0 && header.next_header() == IpProtocol::HOP_BY_HOP {
            return Err(Ipv6Error::Jumbogram);
        }
        let have = wire_len.saturating_sub(Ipv6Header::LEN);
        let body = claim(rest, have, claimed.into())
            .ok_or(Ipv6Error::PayloadLenBeyondFrame { claimed, have })?;
        let chain = Chain::walk(header.next_header(), body, claimed.into())?;
        let extensions = body.get(..chain.len).unwrap_or_default();
        let payload = body.get(chain.len..).unwrap_or_default();
        Ok(Self { header, extensions, payload, protocol: chain.protocol, fragment: chain.fragment })
    }

    /// The fixed header.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> &'a Ipv6Header {
        self.header
    }

    /// The bytes of all extension headers.
    #[inline]
    #[must_use]
    pub const fn extensions(&self) -> &'a [u8] {
        self.extensions
    }

    /// The payload, without padding; the part of it that lies in the head.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The payload's length in bytes, beyond the head too, without extensions.
    #[inline]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        usize::from(self.header.payload_len()).saturating_sub(self.extensions.len())
    }

    /// What the payload is (of a later fragment: what the whole packet's is).
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> IpProtocol {
        self.protocol
    }

    /// Which part of its packet this is.
    #[inline]
    #[must_use]
    pub const fn fragment(&self) -> Fragment {
        self.fragment
    }
}

/// Where a chain of extension headers ended.
struct Chain {
    len: usize,
    protocol: IpProtocol,
    fragment: Fragment,
}

impl Chain {
    /// `body` is what there is in the head of a payload of `claimed` bytes.
    fn walk(first: IpProtocol, body: &[u8], claimed: usize) -> Result<Self, Ipv6Error> {
        let mut chain = Self { len: 0, protocol: first, fragment: Fragment::Whole };
        for step in 0..=MAX_EXTENSIONS {
            let protocol = chain.protocol;
            let at = body.get(chain.len..).unwrap_or_default();
            let units = match protocol {
                IpProtocol::HOP_BY_HOP if step > 0 => return Err(Ipv6Error::HopByHopNotFirst),
                IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::DESTINATION_OPTIONS => {
                    ExtensionLen::EightByteUnits
                }
                IpProtocol::AUTHENTICATION => ExtensionLen::FourByteUnits,
                IpProtocol::FRAGMENT => ExtensionLen::Fixed,
                // Also mobility headers (RFC 6275), which nothing follows.
                _ => return Ok(chain),
            };
            if step == MAX_EXTENSIONS {
                break;
            }
            let beyond = Ipv6Error::ExtensionBeyondPayload { protocol: protocol.0 };
            let left = claimed.saturating_sub(chain.len);
            if left < Extension::LEN {
                return Err(beyond);
            }
            let (extension, _) = Extension::split(at)?;
            let len = match units {
                ExtensionLen::EightByteUnits => (usize::from(extension.len) << 3).saturating_add(8),
                ExtensionLen::FourByteUnits => (usize::from(extension.len) << 2).saturating_add(8),
                ExtensionLen::Fixed => Extension::LEN,
            };
            if len > left {
                return Err(beyond);
            }
            if len > at.len() {
                return Err(TooShort {
                    header: "IPv6 extension header",
                    need: len,
                    have: at.len(),
                }
                .into());
            }
            chain.len = chain.len.saturating_add(len);
            chain.protocol = IpProtocol(extension.next_header);
            if protocol == IpProtocol::FRAGMENT {
                let field = extension.fragment.get();
                chain.fragment = Fragment::new(field >> 3, field & 1 != 0);
                // What a later fragment begins with is the middle of something.
                if chain.fragment == Fragment::Later {
                    return Ok(chain);
                }
            }
        }
        Err(Ipv6Error::TooManyExtensions)
    }
}

enum ExtensionLen {
    /// In units of 8 bytes, the first not counted (RFC 8200).
    EightByteUnits,
    /// In units of 4 bytes, the first two not counted (RFC 4302 §2.2).
    FourByteUnits,
    /// Always 8 bytes: the fragment header.
    Fixed,
}

/// The first 8 bytes of any extension header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Extension {
    next_header: u8,
    len: u8,
    /// Of a fragment header: 13 bits of offset in 8-byte units, two reserved, more-fragments.
    fragment: U16,
    rest: [u8; 4],
}

impl Header for Extension {
    const NAME: &'static str = "IPv6 extension header";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SRC: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const DST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    fn packet(next: IpProtocol, body: &[u8]) -> Vec<u8> {
        let header = Ipv6Header::new(SRC, DST, next, body.len() as u16);
        [header.as_bytes(), body].concat()
    }

    /// Hop-by-hop, destination options of 16 bytes, routing, first fragment, then UDP.
    fn long_chain() -> Vec<u8> {
        let mut body = vec![60, 0, 1, 4, 0, 0, 0, 0];
        body.extend_from_slice(&[43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(&[44, 0, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(&[17, 0, 0, 1, 0, 0, 0, 9]);
        body.extend_from_slice(&[0x12, 0x34, 0x00, 0x35, 0x00, 0x08, 0, 0]);
        packet(IpProtocol::HOP_BY_HOP, &body)
    }

    #[test]
    fn a_chain_is_followed_to_its_end() {
        let bytes = long_chain();
        let ip = Ipv6::parse(&bytes).unwrap();
        assert_eq!(ip.protocol(), IpProtocol::UDP);
        assert_eq!(ip.fragment(), Fragment::First);
        assert_eq!((ip.extensions().len(), ip.payload().len(), ip.payload_len()), (40, 8, 8));
        assert_eq!((ip.header().src(), ip.header().dst()), (SRC, DST));
    }

    #[test]
    fn a_chain_cut_anywhere_by_its_own_length() {
        let whole = long_chain();
        for len in 0..40u16 {
            let mut bytes = whole.clone();
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
            let error = Ipv6::parse(&bytes).unwrap_err();
            match len {
                0 => assert_eq!(error, Ipv6Error::Jumbogram),
                _ => assert!(matches!(error, Ipv6Error::ExtensionBeyondPayload { .. }), "{len}"),
            }
        }
    }

    #[test]
    fn a_chain_that_leaves_the_head() {
        let bytes = long_chain();
        for len in 40..80 {
            let error = Ipv6::parse_head(&bytes[..len], bytes.len()).unwrap_err();
            assert!(matches!(error, Ipv6Error::TooShort(_)), "{len}: {error}");
        }
        assert!(Ipv6::parse_head(&bytes[..80], bytes.len()).is_ok());
    }

    #[test]
    fn lying_lengths() {
        let mut bytes = packet(IpProtocol::UDP, &[0; 20]);
        bytes[5] = 21;
        assert_eq!(
            Ipv6::parse(&bytes).unwrap_err(),
            Ipv6Error::PayloadLenBeyondFrame { claimed: 21, have: 20 }
        );
        bytes[5] = 0;
        assert_eq!(Ipv6::parse(&bytes).unwrap().payload_len(), 0);
        bytes[0] = 0x45;
        assert_eq!(Ipv6::parse(&bytes).unwrap_err(), Ipv6Error::Version(4));
    }

    #[test]
    fn chains_too_long_or_out_of_order() {
        let extension = |next| [next, 0, 1, 4, 0, 0, 0, 0];
        for count in 0..100 {
            let mut body: Vec<u8> = (1..count).flat_map(|_| extension(60)).collect();
            if count > 0 {
                body.extend_from_slice(&extension(59));
            }
            let first = if count > 0 { IpProtocol(60) } else { IpProtocol::NO_NEXT_HEADER };
            let bytes = packet(first, &body);
            match Ipv6::parse(&bytes) {
                Ok(ip) => assert!(count <= MAX_EXTENSIONS && ip.extensions().len() == 8 * count),
                Err(error) => {
                    assert!(count > MAX_EXTENSIONS, "{count}: {error}");
                    assert_eq!(error, Ipv6Error::TooManyExtensions);
                }
            }
        }
        let bytes = packet(IpProtocol(60), &[extension(0), extension(59)].concat());
        assert_eq!(Ipv6::parse(&bytes).unwrap_err(), Ipv6Error::HopByHopNotFirst);
    }

    #[test]
    fn a_later_fragment_has_no_transport() {
        // More-fragments clear, offset 185: what follows must not be read as a header.
        let bytes = packet(IpProtocol::FRAGMENT, &[60, 0, 0x05, 0xc8, 0, 0, 0, 1, 0xff, 0xff]);
        let ip = Ipv6::parse(&bytes).unwrap();
        assert_eq!((ip.fragment(), ip.payload().len()), (Fragment::Later, 2));
        assert!(!ip.fragment().has_transport());
    }

    proptest! {
        #[test]
        fn fields_are_kept(class: u8, hops: u8, len: u16) {
            let mut header = Ipv6Header::new(SRC, DST, IpProtocol::TCP, 0);
            header.set_traffic_class(class);
            header.set_hop_limit(hops);
            header.set_payload_len(len);
            let oracle = etherparse::Ipv6HeaderSlice::from_slice(header.as_bytes()).unwrap();
            prop_assert_eq!(oracle.version(), 6);
            prop_assert_eq!(oracle.traffic_class(), class);
            prop_assert_eq!(oracle.hop_limit(), hops);
            prop_assert_eq!(oracle.payload_length(), len);
            prop_assert_eq!(oracle.flow_label().value(), 0);
            prop_assert_eq!(header.traffic_class(), class);
        }

        #[test]
        fn agrees_with_etherparse(
            chain in prop::collection::vec((0usize..5, 0u8..4, any::<[u8; 6]>()), 0..4),
            tail in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let kinds = [43, 44, 60, 51, 135];
            let next = |i: usize| chain.get(i).map_or(17, |(kind, ..)| kinds[*kind]);
            let mut body = Vec::new();
            for (i, (_, len, noise)) in chain.iter().enumerate() {
                body.extend_from_slice(&[next(i + 1), *len]);
                body.extend_from_slice(noise);
            }
            body.extend_from_slice(&tail);
            let bytes = packet(IpProtocol(next(0)), &body);
            let theirs = etherparse::IpSlice::from_slice(&bytes);
            if let (Ok(ours), Ok(theirs)) = (Ipv6::parse(&bytes), theirs)
                && ours.fragment() == Fragment::Whole
            {
                prop_assert_eq!(ours.protocol().0, theirs.payload().ip_number.0);
                prop_assert_eq!(ours.payload(), theirs.payload().payload);
            }
        }

        #[test]
        fn noise_stays_inside(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), wire_len in 0usize..300,
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = 0x60 | *first & 0x0f;
            }
            if let Ok(ip) = Ipv6::parse_head(&bytes, wire_len.max(bytes.len())) {
                prop_assert!(ip.extensions().len() + ip.payload().len() + 40 <= bytes.len());
                prop_assert!(ip.payload().len() <= ip.payload_len());
            }
        }
    }
}
