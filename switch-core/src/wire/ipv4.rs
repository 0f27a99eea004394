//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ip::claim;
use super::{Fragment, Header, IpProtocol, TooShort, checksum};

/// The fixed 20 bytes of an IPv4 header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    version_ihl: u8,
    traffic_class: u8,
    total_len: U16,
    id: U16,
    flags_fragment: U16,
    ttl: u8,
    protocol: u8,
    checksum: U16,
    src: [u8; 4],
    dst: [u8; 4],
}

impl Header for Ipv4Header {
    const NAME: &'static str = "IPv4 header";
}

impl Ipv4Header {
    /// Length in bytes, without options.
    pub const LEN: usize = 20;
    /// Most bytes a payload can have behind a header without options.
    pub const MAX_PAYLOAD: u16 = u16::MAX - Self::LEN as u16;

    const DONT_FRAGMENT: u16 = 0x4000;
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET_MASK: u16 = 0x1fff;

    /// A header without options to be sent: TTL 64, not to be fragmented, checksum right.
    /// `payload_len` is cut to [`MAX_PAYLOAD`](Self::MAX_PAYLOAD).
    #[must_use]
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpProtocol, payload_len: u16) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            traffic_class: 0,
            total_len: U16::new(payload_len.saturating_add(Self::LEN as u16)),
            id: U16::new(0),
            flags_fragment: U16::new(Self::DONT_FRAGMENT),
            ttl: 64,
            protocol: protocol.0,
            checksum: U16::new(0),
            src: src.octets(),
            dst: dst.octets(),
        };
        header.checksum = U16::new(checksum::checksum(header.as_bytes()));
        header
    }

    /// IP version: 4 in anything that parsed.
    #[inline]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Header length with options, in bytes: 20 to 60 in anything that parsed.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl as usize & 0x0f) << 2
    }

    /// The traffic class byte: DSCP in the upper six bits, ECN in the lower two (RFC 2474, 3168).
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        self.traffic_class
    }

    /// Header and payload, in bytes.
    #[inline]
    #[must_use]
    pub const fn total_len(&self) -> u16 {
        self.total_len.get()
    }

    /// Identification.
    #[inline]
    #[must_use]
    pub const fn id(&self) -> u16 {
        self.id.get()
    }

    /// The don't-fragment flag.
    #[inline]
    #[must_use]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_fragment.get() & Self::DONT_FRAGMENT != 0
    }

    /// Which part of its packet this is.
    #[inline]
    #[must_use]
    pub const fn fragment(&self) -> Fragment {
        let field = self.flags_fragment.get();
        Fragment::new(field & Self::OFFSET_MASK, field & Self::MORE_FRAGMENTS != 0)
    }

    /// Time to live, in hops.
    #[inline]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.ttl
    }

    /// What the payload is.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> IpProtocol {
        IpProtocol(self.protocol)
    }

    /// The header checksum as it stands there.
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// Source.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::from_be_bytes(self.src))
    }

    /// Destination.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::from_be_bytes(self.dst))
    }

    /// Changes the total length, and the checksum with it.
    #[inline]
    pub fn set_total_len(&mut self, len: u16) {
        self.checksum = self.updated(self.total_len.get(), len);
        self.total_len = U16::new(len);
    }

    /// Changes the checksum.
    #[inline]
    pub const fn set_checksum(&mut self, checksum: u16) {
        self.checksum = U16::new(checksum);
    }

    /// Changes the identification, and the checksum with it.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        self.checksum = self.updated(self.id.get(), id);
        self.id = U16::new(id);
    }

    /// Changes the traffic class, and the checksum with it.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let word = |class| u16::from_be_bytes([self.version_ihl, class]);
        self.checksum = self.updated(word(self.traffic_class), word(class));
        self.traffic_class = class;
    }

    /// Changes the TTL, and the checksum with it.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        let word = |ttl| u16::from_be_bytes([ttl, self.protocol]);
        self.checksum = self.updated(word(self.ttl), word(ttl));
        self.ttl = ttl;
    }

    fn updated(&self, old: u16, new: u16) -> U16 {
        U16::new(checksum::update(self.checksum.get(), old, new))
    }
}

/// Why bytes are not an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ipv4Error {
    /// They end within the header or its options.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// Another IP version.
    #[error("IP version {0} where IPv4 was announced")]
    Version(u8),
    /// A header length field of less than 5 words.
    #[error("IPv4 header length of {0} bytes, less than 20")]
    HeaderLen(usize),
    /// A total length that does not even hold the header. 0 is what Linux writes for packets above
    /// 64 KiB ("BIG TCP"), which never leave a host and are not taken here.
    #[error("IPv4 total length {total} is less than the header's {header} bytes")]
    TotalLenBelowHeader {
        /// The claimed length.
        total: u16,
        /// The header's length.
        header: usize,
    },
    /// A total length beyond the end of the frame.
    #[error("IPv4 total length {total} in a frame that has {have} bytes for it")]
    TotalLenBeyondFrame {
        /// The claimed length.
        total: u16,
        /// What there is.
        have: usize,
    },
}

/// An IPv4 packet whose lengths hold.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    header: &'a Ipv4Header,
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads the packet at the start of `bytes`; what lies after its total length is padding.
    ///
    /// # Errors
    /// [`Ipv4Error`], one variant a rule.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        Self::parse_head(bytes, bytes.len())
    }

    /// Reads the packet at the start of `head`, where `wire_len` bytes exist in all (see
    /// [the module](super#head-and-whole)).
    ///
    /// # Errors
    /// [`Ipv4Error`], one variant a rule.
    #[inline]
    pub fn parse_head(head: &'a [u8], wire_len: usize) -> Result<Self, Ipv4Error> {
        let (header, _) = Ipv4Header::split(head)?;
        if header.version() != 4 {
            return Err(Ipv4Error::Version(header.version()));
        }
        let header_len = header.header_len();
        if header_len < Ipv4Header::LEN {
            return Err(Ipv4Error::HeaderLen(header_len));
        }
        let total = header.total_len();
        if usize::from(total) < header_len {
            return Err(Ipv4Error::TotalLenBelowHeader { total, header: header_len });
        }
        let packet = claim(head, wire_len, total.into())
            .ok_or(Ipv4Error::TotalLenBeyondFrame { total, have: wire_len })?;
        let (Some(options), Some(payload)) =
            (packet.get(Ipv4Header::LEN..header_len), packet.get(header_len..))
        else {
            return Err(Ipv4Error::TooShort(TooShort {
                header: "IPv4 options",
                need: header_len,
                have: head.len(),
            }));
        };
        Ok(Self { header, options, payload })
    }

    /// The fixed part of the header.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> &'a Ipv4Header {
        self.header
    }

    /// The options, not looked into: 0 to 40 bytes.
    #[inline]
    #[must_use]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The payload, without padding; the part of it that lies in the head.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The payload's length in bytes, beyond the head too.
    #[inline]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        usize::from(self.header.total_len()).saturating_sub(self.header.header_len())
    }

    /// Whether the header checksum is right.
    #[must_use]
    #[inline]
    pub fn checksum_ok(&self) -> bool {
        if self.options.is_empty() {
            // Nearly every header. A ones' complement sum of 16 bits is one modulo 0xffff, of words
            // of any size and byte order (RFC 1071 §2); this one is not 0, as the version is not.
            let words = self.header.as_bytes().as_chunks().0.iter();
            let sum: u64 = words.map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
            return sum.is_multiple_of(0xffff);
        }
        let mut sum = checksum::Checksum::new();
        sum.add_bytes(self.header.as_bytes());
        sum.add_bytes(self.options);
        sum.finish() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn udp_packet() -> Vec<u8> {
        let header = Ipv4Header::new(
            Ipv4Addr::new(192, 168, 0, 1),
            Ipv4Addr::new(192, 168, 0, 199),
            IpProtocol::UDP,
            95,
        );
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(115, 0xaa);
        bytes
    }

    #[test]
    fn a_built_header_is_the_known_one() {
        assert_eq!(
            udp_packet()[..20],
            [
                0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
                0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
            ]
        );
    }

    #[test]
    fn padding_is_not_payload() {
        let mut bytes = udp_packet();
        bytes.extend_from_slice(&[0; 300]);
        let packet = Ipv4::parse(&bytes).unwrap();
        assert_eq!((packet.payload().len(), packet.payload_len()), (95, 95));
        assert!(packet.checksum_ok() && packet.options().is_empty());
    }

    #[test]
    fn a_payload_may_go_on_behind_the_head() {
        let bytes = udp_packet();
        let packet = Ipv4::parse_head(&bytes[..40], 115).unwrap();
        assert_eq!((packet.payload().len(), packet.payload_len()), (20, 95));
        assert_eq!(
            Ipv4::parse_head(&bytes[..40], 114).unwrap_err(),
            Ipv4Error::TotalLenBeyondFrame { total: 115, have: 114 }
        );
    }

    #[test]
    fn lying_lengths() {
        let with = |at: usize, value: u8| {
            let mut bytes = udp_packet();
            bytes[at] = value;
            Ipv4::parse(&bytes).map(|p| p.payload().len())
        };
        assert_eq!(with(0, 0x65), Err(Ipv4Error::Version(6)));
        for ihl in 0..5u8 {
            assert_eq!(with(0, 0x40 | ihl), Err(Ipv4Error::HeaderLen(usize::from(ihl) * 4)));
        }
        for total in 0..20u8 {
            let error = Ipv4Error::TotalLenBelowHeader { total: total.into(), header: 20 };
            assert_eq!(with(3, total), Err(error));
        }
        assert_eq!(with(3, 20), Ok(0));
        assert_eq!(with(3, 116), Err(Ipv4Error::TotalLenBeyondFrame { total: 116, have: 115 }));
        // Options up to 40 bytes, and a header longer than the frame.
        assert_eq!(with(0, 0x4f), Ok(55));
        let mut cut = udp_packet();
        cut[0] = 0x4f;
        cut[3] = 60;
        cut.truncate(59);
        assert_eq!(
            Ipv4::parse(&cut).unwrap_err(),
            Ipv4Error::TotalLenBeyondFrame { total: 60, have: 59 }
        );
        assert!(matches!(Ipv4::parse_head(&cut, 60), Err(Ipv4Error::TooShort(_))));
    }

    #[test]
    fn fragments() {
        let of = |field: u16| {
            let mut bytes = udp_packet();
            bytes[6..8].copy_from_slice(&field.to_be_bytes());
            Ipv4::parse(&bytes).unwrap().header().fragment()
        };
        assert_eq!(of(0x4000), Fragment::Whole);
        assert_eq!(of(0x2000), Fragment::First);
        assert_eq!(of(0x2001), Fragment::Later);
        assert_eq!(of(0x0001), Fragment::Later);
    }

    proptest! {
        #[test]
        fn setters_keep_the_checksum(id: u16, len: u16, class: u8, ttl: u8, src: [u8; 4]) {
            let dst = Ipv4Addr::LOCALHOST;
            let mut header = Ipv4Header::new(src.into(), dst, IpProtocol::TCP, 100);
            header.set_id(id);
            header.set_total_len(len);
            header.set_traffic_class(class);
            header.set_ttl(ttl);
            prop_assert_eq!(checksum::checksum(header.as_bytes()), 0);
            prop_assert_eq!((header.id(), header.total_len()), (id, len));
            prop_assert_eq!((header.traffic_class(), header.ttl()), (class, ttl));
        }

        #[test]
        fn agrees_with_etherparse(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100), ihl in 4u8..8, len in 0u8..120,
        ) {
            if bytes.len() > 4 {
                (bytes[0], bytes[2], bytes[3]) = (0x40 | ihl, 0, len);
            }
            let oracle = etherparse::Ipv4HeaderSlice::from_slice(&bytes);
            match (Ipv4::parse(&bytes), oracle) {
                (Ok(ours), Ok(theirs)) => {
                    prop_assert_eq!(ours.header().src(), theirs.source_addr());
                    prop_assert_eq!(ours.header().dst(), theirs.destination_addr());
                    prop_assert_eq!(ours.header().protocol().0, theirs.protocol().0);
                    prop_assert_eq!(ours.header().id(), theirs.identification());
                    prop_assert_eq!(ours.header().dont_fragment(), theirs.dont_fragment());
                    prop_assert_eq!(ours.options(), theirs.options());
                    prop_assert_eq!(ours.payload_len(), usize::from(theirs.payload_len().unwrap()));
                    let right = theirs.to_header().calc_header_checksum();
                    prop_assert_eq!(ours.checksum_ok(), right == theirs.header_checksum());
                }
                (Ok(_), Err(error)) => prop_assert!(false, "etherparse refuses: {}", error),
                // It looks at the header alone, so only lengths of the packet may be refused here.
                (Err(error), Ok(theirs)) => prop_assert!(
                    usize::from(theirs.total_len()) > bytes.len()
                        || usize::from(theirs.total_len()) < theirs.slice().len(),
                    "{}", error
                ),
                (Err(_), Err(_)) => {}
            }
        }
    }
}
