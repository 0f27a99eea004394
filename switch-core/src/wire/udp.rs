//! UDP (RFC 768).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ip::claim;
use super::{Header, TooShort};

/// The UDP header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    src: U16,
    dst: U16,
    len: U16,
    checksum: U16,
}

impl Header for UdpHeader {
    const NAME: &'static str = "UDP header";
}

impl UdpHeader {
    /// Length in bytes.
    pub const LEN: usize = 8;
    /// Where the checksum is, in bytes from the start of the header.
    pub const CHECKSUM_OFFSET: u16 = 6;

    /// A header to be sent, its checksum 0, which over IPv4 means "none". `payload_len` is cut to
    /// 65,527.
    #[must_use]
    pub const fn new(src: u16, dst: u16, payload_len: u16) -> Self {
        Self {
            src: U16::new(src),
            dst: U16::new(dst),
            len: U16::new(payload_len.saturating_add(Self::LEN as u16)),
            checksum: U16::new(0),
        }
    }

    /// Source port.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> u16 {
        self.src.get()
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> u16 {
        self.dst.get()
    }

    /// Header and payload, in bytes.
    #[inline]
    #[must_use]
    pub const fn datagram_len(&self) -> u16 {
        self.len.get()
    }

    /// The checksum as it stands there; 0 means there is none.
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// Changes the length of header and payload.
    #[inline]
    pub const fn set_datagram_len(&mut self, len: u16) {
        self.len = U16::new(len);
    }

    /// Changes the checksum.
    #[inline]
    pub const fn set_checksum(&mut self, checksum: u16) {
        self.checksum = U16::new(checksum);
    }
}

/// Why bytes are not a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UdpError {
    /// They end within the header.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// A length that does not even hold the header.
    #[error("UDP length {0} is less than the header's 8 bytes")]
    LenBelowHeader(u16),
    /// A length beyond the end of the IP payload.
    #[error("UDP length {claimed} in an IP payload of {have} bytes")]
    LenBeyondPayload {
        /// The claimed length.
        claimed: u16,
        /// What there is.
        have: usize,
    },
}

/// A UDP datagram whose lengths hold.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    header: &'a UdpHeader,
    payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Reads the datagram at the start of an IP payload.
    ///
    /// # Errors
    /// [`UdpError`], one variant a rule.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UdpError> {
        Self::parse_head(bytes, bytes.len())
    }

    /// Reads the datagram at the start of an IP payload of `wire_len` bytes, of which `head` is
    /// what can be seen (see [the module](super#head-and-whole)).
    ///
    /// # Errors
    /// [`UdpError`], one variant a rule.
    #[inline]
    pub fn parse_head(head: &'a [u8], wire_len: usize) -> Result<Self, UdpError> {
        let (header, _) = UdpHeader::split(head)?;
        let claimed = header.datagram_len();
        if usize::from(claimed) < UdpHeader::LEN {
            return Err(UdpError::LenBelowHeader(claimed));
        }
        let datagram = claim(head, wire_len, claimed.into())
            .ok_or(UdpError::LenBeyondPayload { claimed, have: wire_len })?;
        let payload = datagram.get(UdpHeader::LEN..).unwrap_or_default();
        Ok(Self { header, payload })
    }

    /// The header.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> &'a UdpHeader {
        self.header
    }

    /// The payload; the part of it that lies in the head.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The payload's length in bytes, beyond the head too.
    #[inline]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        usize::from(self.header.datagram_len()).saturating_sub(UdpHeader::LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_datagram() {
        let bytes = [0x12, 0xb5, 0x00, 0x35, 0x00, 0x0a, 0xab, 0xcd, 1, 2, 0, 0];
        let udp = Udp::parse(&bytes).unwrap();
        assert_eq!((udp.header().src(), udp.header().dst()), (0x12b5, 53));
        assert_eq!((udp.header().checksum(), udp.payload()), (0xabcd, &[1, 2][..]));
    }

    #[test]
    fn lying_lengths() {
        let of = |len: u16| {
            let mut bytes = [0; 12];
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
            Udp::parse(&bytes).map(|udp| udp.payload().len())
        };
        for len in 0..8 {
            assert_eq!(of(len), Err(UdpError::LenBelowHeader(len)));
        }
        assert_eq!(of(8), Ok(0));
        assert_eq!(of(12), Ok(4));
        assert_eq!(of(13), Err(UdpError::LenBeyondPayload { claimed: 13, have: 12 }));
        assert!(matches!(Udp::parse(&[0; 7]), Err(UdpError::TooShort(_))));
    }

    proptest! {
        #[test]
        fn agrees_with_etherparse(src: u16, dst: u16, len in 0u16..65_527, checksum: u16) {
            let mut header = UdpHeader::new(src, dst, len);
            header.set_checksum(checksum);
            let oracle = etherparse::UdpHeaderSlice::from_slice(header.as_bytes()).unwrap();
            prop_assert_eq!((oracle.source_port(), oracle.destination_port()), (src, dst));
            prop_assert_eq!((oracle.length(), oracle.checksum()), (len + 8, checksum));
        }

        #[test]
        fn noise_stays_inside(bytes in prop::collection::vec(any::<u8>(), 0..40), more in 0usize..99) {
            if let Ok(udp) = Udp::parse_head(&bytes, bytes.len() + more) {
                prop_assert!(udp.payload().len() + 8 <= bytes.len());
                prop_assert!(udp.payload().len() <= udp.payload_len());
            }
        }
    }
}
