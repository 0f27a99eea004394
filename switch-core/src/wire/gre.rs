//! GRE (RFC 2784) with key and sequence number (RFC 2890), and what NVGRE makes of the key
//! (RFC 7637).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{EtherType, Header, TooShort, Vni};

/// The part of a GRE header that is always there (RFC 2784 §2.1). Checksum, key and sequence
/// number follow in this order, each if its flag is set.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GreHeader {
    flags_version: U16,
    protocol: U16,
}

impl Header for GreHeader {
    const NAME: &'static str = "GRE header";
}

impl GreHeader {
    /// Length in bytes, without optional fields.
    pub const LEN: usize = 4;
    /// Length of the longest header, in bytes: with checksum, key and sequence number.
    pub const MAX_LEN: usize = 16;
    /// Where the checksum is if there is one, in bytes from the start of the header.
    pub const CHECKSUM_OFFSET: usize = 4;

    const CHECKSUM: u16 = 0x8000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    /// Bits 1 to 5 (RFC 2784 §2.3) without the two that RFC 2890 took.
    const MUST_BE_ZERO: u16 = 0x4c00;
    const VERSION_MASK: u16 = 0x0007;

    /// Version: 0 in anything that parsed, 1 for PPTP.
    #[inline]
    #[must_use]
    pub const fn version(&self) -> u8 {
        (self.flags_version.get() & Self::VERSION_MASK) as u8
    }

    /// What the payload is: [`EtherType::TEB`] for an Ethernet frame.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> EtherType {
        EtherType(self.protocol.get())
    }

    /// The C flag: header and payload have a checksum.
    #[inline]
    #[must_use]
    pub const fn has_checksum(&self) -> bool {
        self.flags_version.get() & Self::CHECKSUM != 0
    }

    /// The K flag.
    #[inline]
    #[must_use]
    pub const fn has_key(&self) -> bool {
        self.flags_version.get() & Self::KEY != 0
    }

    /// The S flag.
    #[inline]
    #[must_use]
    pub const fn has_sequence(&self) -> bool {
        self.flags_version.get() & Self::SEQUENCE != 0
    }
}

/// Why bytes are not a GRE packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreError {
    /// They end within the header or the fields its flags announce.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// A version other than 0.
    #[error("GRE version {0}")]
    Version(u8),
    /// A flag that must be 0 is set (RFC 2784 §2.3), as source routing of RFC 1701 does.
    #[error("GRE flags {0:#06x} with a bit that must be 0")]
    ReservedFlags(u16),
    /// The fields that the flags announce go beyond the end of the IP payload.
    #[error("GRE header length of {claimed} bytes in an IP payload of {have}")]
    HeaderBeyondPayload {
        /// The claimed length.
        claimed: usize,
        /// What there is.
        have: usize,
    },
}

/// A GRE packet whose header lies in it. Its checksum is not yet verified.
#[derive(Clone, Copy, Debug)]
pub struct Gre<'a> {
    header: &'a GreHeader,
    checksum: Option<u16>,
    key: Option<u32>,
    sequence: Option<u32>,
    payload: &'a [u8],
}

impl<'a> Gre<'a> {
    /// Reads the packet that an IP payload is.
    ///
    /// # Errors
    /// [`GreError`], one variant a rule.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GreError> {
        Self::parse_head(bytes, bytes.len())
    }

    /// Reads the packet that an IP payload of `wire_len` bytes is, of which `head` is what can be
    /// seen (see [the module](super#head-and-whole)).
    ///
    /// # Errors
    /// [`GreError`], one variant a rule.
    #[inline]
    pub fn parse_head(head: &'a [u8], wire_len: usize) -> Result<Self, GreError> {
        let (header, fields) = GreHeader::split(head)?;
        let flags = header.flags_version.get();
        if header.version() != 0 {
            return Err(GreError::Version(header.version()));
        }
        if flags & GreHeader::MUST_BE_ZERO != 0 {
            return Err(GreError::ReservedFlags(flags));
        }
        let claimed = header_len([header.has_checksum(), header.has_key(), header.has_sequence()]);
        if claimed > wire_len {
            return Err(GreError::HeaderBeyondPayload { claimed, have: wire_len });
        }
        let mut rest = fields;
        let mut field = |present: bool| {
            if !present {
                return Ok(None);
            }
            let (word, behind) = rest.split_first_chunk::<4>().ok_or(TooShort {
                header: "GRE fields",
                need: claimed,
                have: head.len(),
            })?;
            rest = behind;
            Ok::<_, TooShort>(Some(u32::from_be_bytes(*word)))
        };
        // The lower half of the checksum's word is reserved, and ignored.
        let checksum = field(header.has_checksum())?.map(|word| (word >> 16) as u16);
        let key = field(header.has_key())?;
        let sequence = field(header.has_sequence())?;
        Ok(Self { header, checksum, key, sequence, payload: rest })
    }

    /// The part of the header that is always there.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> &'a GreHeader {
        self.header
    }

    /// Header and optional fields, in bytes: 4 to 16. The payload begins there.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        header_len([self.checksum.is_some(), self.key.is_some(), self.sequence.is_some()])
    }

    /// The checksum as it stands there. The [`Checksum`](super::Checksum) of header and payload
    /// with it in place is 0 if it is right.
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> Option<u16> {
        self.checksum
    }

    /// The key. A key of 0 is not the same as none.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> Option<u32> {
        self.key
    }

    /// The sequence number.
    #[inline]
    #[must_use]
    pub const fn sequence(&self) -> Option<u32> {
        self.sequence
    }

    /// The payload; the part of it that lies in the head.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A GRE header to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreFields {
    /// What the payload is: [`EtherType::TEB`] for an Ethernet frame.
    pub protocol: EtherType,
    /// Whether there is a checksum. It is written as 0, and is to be put at
    /// [`GreHeader::CHECKSUM_OFFSET`] when the payload is there.
    pub checksum: bool,
    /// The key, if there is one.
    pub key: Option<u32>,
    /// The sequence number, if there is one.
    pub sequence: Option<u32>,
}

impl GreFields {
    /// Length of the header in bytes: 4 to 16.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        header_len([self.checksum, self.key.is_some(), self.sequence.is_some()])
    }

    /// Writes the header to the start of `bytes`.
    ///
    /// # Errors
    /// [`TooShort`] if `bytes` is shorter than [`header_len`](Self::header_len), with nothing
    /// written.
    #[inline]
    pub fn write(&self, bytes: &mut [u8]) -> Result<(), TooShort> {
        let (need, have) = (self.header_len(), bytes.len());
        let too_short = TooShort { header: GreHeader::NAME, need, have };
        let bytes = bytes.get_mut(..need).ok_or(too_short)?;
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(self.checksum, GreHeader::CHECKSUM)
            | flag(self.key.is_some(), GreHeader::KEY)
            | flag(self.sequence.is_some(), GreHeader::SEQUENCE);
        let (header, fields) = GreHeader::split_mut(bytes)?;
        *header = GreHeader { flags_version: U16::new(flags), protocol: U16::new(self.protocol.0) };
        let present = [self.checksum.then_some(0), self.key, self.sequence];
        let (words, _) = fields.as_chunks_mut::<4>();
        for (to, field) in words.iter_mut().zip(present.into_iter().flatten()) {
            *to = field.to_be_bytes();
        }
        Ok(())
    }
}

const fn header_len([checksum, key, sequence]: [bool; 3]) -> usize {
    let fields = (checksum as usize).saturating_add(key as usize).saturating_add(sequence as usize);
    GreHeader::LEN.saturating_add(fields << 2)
}

/// The key of an NVGRE packet: the virtual subnet, and 8 bits that are the same for all packets of
/// a flow (RFC 7637 §3.2).
#[inline]
#[must_use]
pub const fn nvgre_key(vsid: Vni, flow_id: u8) -> u32 {
    vsid.get() << 8 | flow_id as u32
}

/// Virtual subnet and FlowID of an NVGRE packet's key.
#[inline]
#[must_use]
pub const fn split_nvgre_key(key: u32) -> (Vni, u8) {
    let [high, middle, low, flow_id] = key.to_be_bytes();
    (Vni::from_be_bytes([high, middle, low]), flow_id)
}

/// Whether a virtual subnet must not be used for tenants: 0 to 0xfff are reserved, and 0xffffff is
/// for messages between endpoints of one vendor (RFC 7637 §3.4).
#[inline]
#[must_use]
pub const fn is_reserved_vsid(vsid: Vni) -> bool {
    vsid.get() <= 0xfff || vsid.get() == Vni::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::checksum;
    use proptest::prelude::*;

    const ALL: [u8; 16] = [0xb0, 0, 0x65, 0x58, 0xab, 0xcd, 0, 0, 0, 0, 0x27, 0x1a, 0, 0, 0, 7];

    #[test]
    fn reads_every_field() {
        let bytes = [&ALL[..], b"inner"].concat();
        let gre = Gre::parse(&bytes).unwrap();
        assert_eq!((gre.header().protocol(), gre.header_len()), (EtherType::TEB, 16));
        assert_eq!(
            (gre.checksum(), gre.key(), gre.sequence()),
            (Some(0xabcd), Some(10_010), Some(7))
        );
        assert_eq!(gre.payload(), b"inner");
        let plain = Gre::parse(&[0, 0, 0x08, 0, 1, 2, 3, 4]).unwrap();
        assert_eq!((plain.header().protocol(), plain.header_len()), (EtherType::IPV4, 4));
        assert_eq!((plain.checksum(), plain.key(), plain.sequence()), (None, None, None));
        assert_eq!(plain.payload(), [1, 2, 3, 4]);
    }

    /// RFC 2784 §2.3: bits 1 to 5 but for K and S must be 0, 6 to 12 are ignored, the version is 0.
    #[test]
    fn every_word_of_flags_and_version() {
        for flags in 0..=u16::MAX {
            let mut bytes = [0; 20];
            bytes[..2].copy_from_slice(&flags.to_be_bytes());
            let bit = |n: u32| flags >> (15 - n) & 1 == 1;
            let parsed = Gre::parse(&bytes).map(|gre| {
                let present =
                    (gre.checksum().is_some(), gre.key().is_some(), gre.sequence().is_some());
                (present, gre.header_len(), gre.payload().len())
            });
            let expected = match flags & 7 {
                0 if bit(1) || bit(4) || bit(5) => Err(GreError::ReservedFlags(flags)),
                0 => {
                    let present = (bit(0), bit(2), bit(3));
                    let len =
                        4 + 4 * [bit(0), bit(2), bit(3)].map(usize::from).iter().sum::<usize>();
                    Ok((present, len, 20 - len))
                }
                version => Err(GreError::Version(version as u8)),
            };
            assert_eq!(parsed, expected, "{flags:#06x}");
        }
    }

    #[test]
    fn a_packet_cut_at_every_byte() {
        for flags in [0x00, 0x80, 0x20, 0x10, 0xa0, 0x90, 0x30, 0xb0] {
            let mut bytes = ALL;
            bytes[0] = flags;
            let need = Gre::parse(&bytes).unwrap().header_len();
            for have in 0..need {
                let cut = Gre::parse(&bytes[..have]).unwrap_err();
                let expected = if have < 4 {
                    GreError::TooShort(TooShort { header: "GRE header", need: 4, have })
                } else {
                    GreError::HeaderBeyondPayload { claimed: need, have }
                };
                assert_eq!(cut, expected);
                let cut = Gre::parse_head(&bytes[..have], 1000).unwrap_err();
                assert!(matches!(cut, GreError::TooShort(_)), "{cut}");
            }
            assert!(Gre::parse(&bytes[..need]).unwrap().payload().is_empty());
        }
    }

    #[test]
    fn a_checksum_covers_header_and_payload() {
        let fields = GreFields {
            protocol: EtherType::TEB,
            checksum: true,
            key: Some(0),
            sequence: Some(u32::MAX),
        };
        let mut packet = [0xff; 16 + 13];
        fields.write(&mut packet).unwrap();
        assert_eq!(packet[..8], [0xb0, 0, 0x65, 0x58, 0, 0, 0, 0]);
        let sum = checksum(&packet);
        packet[4..6].copy_from_slice(&sum.to_be_bytes());
        assert_eq!((Gre::parse(&packet).unwrap().checksum(), checksum(&packet)), (Some(sum), 0));
        for bit in 0..8 * packet.len() {
            packet[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum(&packet), 0, "bit {bit}");
            packet[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn nothing_is_written_where_a_header_does_not_fit() {
        let fields =
            GreFields { protocol: EtherType::TEB, checksum: false, key: Some(1), sequence: None };
        let mut bytes = [0x5a; 12];
        for have in 0..8 {
            let error = TooShort { header: "GRE header", need: 8, have };
            assert_eq!(fields.write(&mut bytes[..have]), Err(error));
            assert_eq!(bytes, [0x5a; 12]);
        }
        fields.write(&mut bytes).unwrap();
        assert_eq!(bytes, [0x20, 0, 0x65, 0x58, 0, 0, 0, 1, 0x5a, 0x5a, 0x5a, 0x5a]);
    }

    #[test]
    fn virtual_subnets_in_keys() {
        let vsid = Vni::new(0x0012_3456).unwrap();
        assert_eq!(nvgre_key(vsid, 0x78), 0x1234_5678);
        assert_eq!(split_nvgre_key(0x1234_5678), (vsid, 0x78));
        let reserved = |vsid| is_reserved_vsid(Vni::new(vsid).unwrap());
        let subnets: Vec<u32> = (0..=Vni::MAX).filter(|vsid| !reserved(*vsid)).collect();
        assert_eq!((subnets.first(), subnets.last()), (Some(&0x1000), Some(&0xff_fffe)));
        assert_eq!(subnets.len(), 0xff_fffe - 0x1000 + 1);
    }

    proptest! {
        #[test]
        fn headers_built_are_headers_read(
            protocol: u16, checksum: bool, key: Option<u32>, sequence: Option<u32>,
        ) {
            let fields = GreFields { protocol: EtherType(protocol), checksum, key, sequence };
            let mut bytes = [0xff; GreHeader::MAX_LEN];
            fields.write(&mut bytes).unwrap();
            let gre = Gre::parse(&bytes).unwrap();
            prop_assert_eq!(gre.header_len(), fields.header_len());
            prop_assert_eq!(gre.header().protocol(), fields.protocol);
            prop_assert_eq!(gre.checksum(), checksum.then_some(0));
            prop_assert_eq!((gre.key(), gre.sequence()), (key, sequence));
        }

        #[test]
        fn nvgre_keys_round_trip(key: u32) {
            let (vsid, flow_id) = split_nvgre_key(key);
            prop_assert_eq!(nvgre_key(vsid, flow_id), key);
        }

        #[test]
        fn noise_stays_inside(
            mut bytes in prop::collection::vec(any::<u8>(), 0..40), more in 0usize..99,
        ) {
            // Else most are refused for their flags.
            if let [flags, version, ..] = bytes.as_mut_slice() {
                *flags &= 0xb3;
                *version &= 0xf8;
            }
            if let Ok(gre) = Gre::parse_head(&bytes, bytes.len() + more) {
                prop_assert_eq!(gre.payload(), &bytes[gre.header_len()..]);
            }
        }
    }
}
