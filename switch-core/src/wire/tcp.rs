//! TCP (RFC 9293).

use std::fmt;
use std::ops::BitOr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Header, TooShort};

/// The eight control bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// Whether any of `flags` is set.
    #[must_use]
    pub const fn any(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// These without `flags`.
    #[must_use]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}

impl BitOr for TcpFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let set = (0u32..).zip(names).filter(|(bit, _)| self.0 >> bit & 1 == 1);
        f.debug_list().entries(set.map(|(_, name)| name)).finish()
    }
}

/// The fixed 20 bytes of a TCP header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    src: U16,
    dst: U16,
    seq: U32,
    ack: U32,
    offset_reserved: u8,
    flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

impl Header for TcpHeader {
    const NAME: &'static str = "TCP header";
}

impl TcpHeader {
    /// Length in bytes, without options.
    pub const LEN: usize = 20;
    /// Where the checksum is, in bytes from the start of the header.
    pub const CHECKSUM_OFFSET: u16 = 16;

    /// A header without options to be sent, its checksum still 0.
    #[must_use]
    pub const fn new(src: u16, dst: u16, seq: u32, ack: u32, flags: TcpFlags, window: u16) -> Self {
        Self {
            src: U16::new(src),
            dst: U16::new(dst),
            seq: U32::new(seq),
            ack: U32::new(ack),
            offset_reserved: 0x50,
            flags: flags.0,
            window: U16::new(window),
            checksum: U16::new(0),
            urgent: U16::new(0),
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

    /// Sequence number of the first payload byte.
    #[inline]
    #[must_use]
    pub const fn seq(&self) -> u32 {
        self.seq.get()
    }

    /// Acknowledgement number.
    #[inline]
    #[must_use]
    pub const fn ack(&self) -> u32 {
        self.ack.get()
    }

    /// Header length with options, in bytes: 20 to 60 in anything that parsed.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        (self.offset_reserved as usize >> 4) << 2
    }

    /// Control bits.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(self.flags)
    }

    /// Receive window, unscaled.
    #[inline]
    #[must_use]
    pub const fn window(&self) -> u16 {
        self.window.get()
    }

    /// The checksum as it stands there.
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// Changes the sequence number.
    #[inline]
    pub const fn set_seq(&mut self, seq: u32) {
        self.seq = U32::new(seq);
    }

    /// Changes the control bits.
    #[inline]
    pub const fn set_flags(&mut self, flags: TcpFlags) {
        self.flags = flags.0;
    }

    /// Changes the checksum.
    #[inline]
    pub const fn set_checksum(&mut self, checksum: u16) {
        self.checksum = U16::new(checksum);
    }
}

/// Why bytes are not a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TcpError {
    /// They end within the header or its options.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// A data offset of less than 5 words.
    #[error("TCP header length of {0} bytes, less than 20")]
    HeaderLen(usize),
    /// A data offset beyond the end of the IP payload.
    #[error("TCP header length of {claimed} bytes in an IP payload of {have}")]
    HeaderBeyondPayload {
        /// The claimed length.
        claimed: usize,
        /// What there is.
        have: usize,
    },
}

/// A TCP segment whose lengths hold.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    header: &'a TcpHeader,
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Reads the segment that an IP payload is.
    ///
    /// # Errors
    /// [`TcpError`], one variant a rule.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TcpError> {
        Self::parse_head(bytes, bytes.len())
    }

    /// Reads the segment that an IP payload of `wire_len` bytes is, of which `head` is what can be
    /// seen (see [the module](super#head-and-whole)).
    ///
    /// # Errors
    /// [`TcpError`], one variant a rule.
    #[inline]
    pub fn parse_head(head: &'a [u8], wire_len: usize) -> Result<Self, TcpError> {
        let (header, _) = TcpHeader::split(head)?;
        let claimed = header.header_len();
        if claimed < TcpHeader::LEN {
            return Err(TcpError::HeaderLen(claimed));
        }
        if claimed > wire_len {
            return Err(TcpError::HeaderBeyondPayload { claimed, have: wire_len });
        }
        let (Some(options), Some(payload)) =
            (head.get(TcpHeader::LEN..claimed), head.get(claimed..))
        else {
            return Err(TcpError::TooShort(TooShort {
                header: "TCP options",
                need: claimed,
                have: head.len(),
            }));
        };
        Ok(Self { header, options, payload })
    }

    /// The fixed part of the header.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> &'a TcpHeader {
        self.header
    }

    /// The options, not looked into: 0 to 40 bytes.
    #[inline]
    #[must_use]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The payload; the part of it that lies in the head.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_segment() {
        let bytes = [
            0x00, 0x50, 0xc0, 0x01, 0, 0, 0, 1, 0, 0, 0, 2, 0x60, 0x98, 0xff, 0xff, 0xab, 0xcd, 0,
            0, 1, 1, 1, 0, b'h', b'i',
        ];
        let tcp = Tcp::parse(&bytes).unwrap();
        let header = tcp.header();
        assert_eq!((header.src(), header.dst()), (80, 0xc001));
        assert_eq!((header.seq(), header.ack(), header.window()), (1, 2, 0xffff));
        assert_eq!(header.flags(), TcpFlags::PSH | TcpFlags::ACK | TcpFlags::CWR);
        assert_eq!(format!("{:?}", header.flags()), r#"["PSH", "ACK", "CWR"]"#);
        assert_eq!((tcp.options(), tcp.payload()), (&[1, 1, 1, 0][..], &b"hi"[..]));
    }

    #[test]
    fn lying_offsets() {
        let of = |words: u8, have: usize| {
            let mut bytes = vec![0; have];
            bytes[12] = words << 4;
            Tcp::parse(&bytes).map(|tcp| tcp.payload().len())
        };
        for words in 0..5 {
            assert_eq!(of(words, 40), Err(TcpError::HeaderLen(usize::from(words) * 4)));
        }
        assert_eq!(of(5, 40), Ok(20));
        assert_eq!(of(10, 40), Ok(0));
        assert_eq!(of(11, 40), Err(TcpError::HeaderBeyondPayload { claimed: 44, have: 40 }));
        assert!(matches!(Tcp::parse(&[0; 19]), Err(TcpError::TooShort(_))));
        let mut cut = [0; 30];
        cut[12] = 0xf0;
        assert!(matches!(Tcp::parse_head(&cut, 1000), Err(TcpError::TooShort(_))));
    }

    proptest! {
        #[test]
        fn agrees_with_etherparse(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            match (Tcp::parse(&bytes), etherparse::TcpSlice::from_slice(&bytes)) {
                (Ok(ours), Ok(theirs)) => {
                    prop_assert_eq!(ours.header().src(), theirs.source_port());
                    prop_assert_eq!(ours.header().dst(), theirs.destination_port());
                    prop_assert_eq!(ours.header().seq(), theirs.sequence_number());
                    prop_assert_eq!(ours.header().ack(), theirs.acknowledgment_number());
                    prop_assert_eq!(ours.header().window(), theirs.window_size());
                    prop_assert_eq!(ours.header().checksum(), theirs.checksum());
                    prop_assert_eq!(ours.header().flags().any(TcpFlags::CWR), theirs.cwr());
                    prop_assert_eq!(ours.header().flags().any(TcpFlags::FIN), theirs.fin());
                    prop_assert_eq!(ours.options(), theirs.options());
                    prop_assert_eq!(ours.payload(), theirs.payload());
                }
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{:?} against {:?}", ours, theirs),
            }
        }
    }
}
