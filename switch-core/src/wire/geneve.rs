//! GENEVE (RFC 8926).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{EtherType, Header, TooShort, Vni};

/// Most bytes of options: the header counts them as 63 words.
pub const MAX_OPTIONS_LEN: usize = 252;
/// Most bytes of data in one option: its header counts them as 31 words.
pub const MAX_OPTION_DATA: usize = 124;

/// Most options: each is at least a word.
const MAX_OPTIONS: usize = MAX_OPTIONS_LEN / WORD;
/// Lengths count words of four bytes.
const WORD: usize = 4;

/// The fixed part of a GENEVE header (RFC 8926 §3.4).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GeneveHeader {
    version_options_len: u8,
    flags: u8,
    protocol: U16,
    vni: [u8; 3],
    reserved: u8,
}

impl Header for GeneveHeader {
    const NAME: &'static str = "GENEVE header";
}

impl GeneveHeader {
    /// Length in bytes, without options.
    pub const LEN: usize = 8;
    /// The UDP port that IANA assigned.
    pub const UDP_PORT: u16 = 6081;

    const VERSION_SHIFT: u32 = 6;
    const OPTIONS_LEN_MASK: u8 = 0x3f;
    const CONTROL: u8 = 0x80;
    const CRITICAL: u8 = 0x40;

    /// A header to be sent before `options`: version 0, the C flag set if an option is critical.
    #[must_use]
    pub const fn new(vni: Vni, protocol: EtherType, options: GeneveOptions<'_>) -> Self {
        Self {
            // Checked options are at most 63 words.
            version_options_len: (options.bytes.len() / WORD) as u8 & Self::OPTIONS_LEN_MASK,
            flags: if options.critical { Self::CRITICAL } else { 0 },
            protocol: U16::new(protocol.0),
            vni: vni.to_be_bytes(),
            reserved: 0,
        }
    }

    /// Version: 0 in anything that parsed.
    #[inline]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version_options_len >> Self::VERSION_SHIFT
    }

    /// Length of the options, in bytes: 0 to [`MAX_OPTIONS_LEN`].
    #[inline]
    #[must_use]
    pub const fn options_len(&self) -> usize {
        (self.version_options_len as usize & Self::OPTIONS_LEN_MASK as usize) << 2
    }

    /// The O flag: a control packet, which must not reach a tenant.
    #[inline]
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.flags & Self::CONTROL != 0
    }

    /// The C flag: the sender says that an option is critical.
    #[inline]
    #[must_use]
    pub const fn has_critical(&self) -> bool {
        self.flags & Self::CRITICAL != 0
    }

    /// What the payload is: [`EtherType::TEB`] for an Ethernet frame.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> EtherType {
        EtherType(self.protocol.get())
    }

    /// The network.
    #[inline]
    #[must_use]
    pub const fn vni(&self) -> Vni {
        Vni::from_be_bytes(self.vni)
    }
}

/// Why bytes are not a GENEVE packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeneveError {
    /// They end within the header or its options.
    #[error(transparent)]
    TooShort(#[from] TooShort),
    /// A version other than 0.
    #[error("GENEVE version {0}")]
    Version(u8),
    /// A header length beyond the end of the UDP payload.
    #[error("GENEVE header length of {claimed} bytes in a UDP payload of {have}")]
    HeaderBeyondPayload {
        /// The claimed length.
        claimed: usize,
        /// What there is.
        have: usize,
    },
    /// More options than a header can count.
    #[error("{0} bytes of GENEVE options, more than 252")]
    OptionsLen(usize),
    /// The options end within an option's header.
    #[error("GENEVE options end {0} bytes into an option's header")]
    OptionHeaderCut(usize),
    /// An option's length goes beyond the end of the options.
    #[error("GENEVE option with {claimed} bytes of data where {have} are left")]
    OptionBeyondOptions {
        /// The claimed length of the data.
        claimed: usize,
        /// What there is.
        have: usize,
    },
}

/// A GENEVE packet whose header and options lie in it. What the options are is not yet checked.
#[derive(Clone, Copy, Debug)]
pub struct Geneve<'a> {
    header: &'a GeneveHeader,
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Geneve<'a> {
    /// Reads the packet that a UDP payload is.
    ///
    /// # Errors
    /// [`GeneveError`], one variant a rule.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GeneveError> {
        Self::parse_head(bytes, bytes.len())
    }

    /// Reads the packet that a UDP payload of `wire_len` bytes is, of which `head` is what can be
    /// seen (see [the module](super#head-and-whole)).
    ///
    /// # Errors
    /// [`GeneveError`], one variant a rule.
    #[inline]
    pub fn parse_head(head: &'a [u8], wire_len: usize) -> Result<Self, GeneveError> {
        let (header, _) = GeneveHeader::split(head)?;
        if header.version() != 0 {
            return Err(GeneveError::Version(header.version()));
        }
        let header_len = GeneveHeader::LEN.saturating_add(header.options_len());
        if header_len > wire_len {
            return Err(GeneveError::HeaderBeyondPayload { claimed: header_len, have: wire_len });
        }
        let (Some(options), Some(payload)) =
            (head.get(GeneveHeader::LEN..header_len), head.get(header_len..))
        else {
            return Err(GeneveError::TooShort(TooShort {
                header: "GENEVE options",
                need: header_len,
                have: head.len(),
            }));
        };
        Ok(Self { header, options, payload })
    }

    /// The fixed part of the header.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> &'a GeneveHeader {
        self.header
    }

    /// Header and options, in bytes: 8 to 260. The payload begins there.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        GeneveHeader::LEN.saturating_add(self.options.len())
    }

    /// The options, checked. An endpoint must drop a packet whose options do not hold
    /// (RFC 8926 §3.5).
    ///
    /// # Errors
    /// [`GeneveError`], one variant a rule.
    #[inline]
    pub fn options(&self) -> Result<GeneveOptions<'a>, GeneveError> {
        GeneveOptions::parse(self.options)
    }

    /// The payload; the part of it that lies in the head.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// One option (RFC 8926 §3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneveOption<'a> {
    /// Who defined [`typ`](Self::typ) (IANA "GENEVE Option Class").
    pub class: u16,
    /// The type, its high bit the critical flag.
    pub typ: u8,
    /// The data: 0 to [`MAX_OPTION_DATA`] bytes, a multiple of 4.
    pub data: &'a [u8],
}

impl GeneveOption<'_> {
    /// An endpoint that does not know the option must drop the packet.
    #[inline]
    #[must_use]
    pub const fn is_critical(&self) -> bool {
        self.typ & OptionHeader::CRITICAL != 0
    }
}

/// An option's header. The upper three bits of the last byte are reserved: ignored here.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct OptionHeader {
    class: U16,
    typ: u8,
    reserved_len: u8,
}

impl OptionHeader {
    const CRITICAL: u8 = 0x80;
    const LEN_MASK: u8 = 0x1f;
}

/// Options whose lengths hold: each ends where the next begins, and the last where they all end.
#[derive(Clone, Copy, Debug)]
pub struct GeneveOptions<'a> {
    bytes: &'a [u8],
    critical: bool,
}

impl<'a> GeneveOptions<'a> {
    /// No options.
    pub const NONE: Self = Self { bytes: &[], critical: false };

    /// Checks the options that `bytes` are, all of them.
    ///
    /// # Errors
    /// [`GeneveError`], one variant a rule.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GeneveError> {
        if bytes.len() > MAX_OPTIONS_LEN {
            return Err(GeneveError::OptionsLen(bytes.len()));
        }
        let (mut rest, mut critical) = (bytes, false);
        for _ in 0..MAX_OPTIONS {
            if rest.is_empty() {
                break;
            }
            let (option, behind) = split_option(rest)?;
            critical |= option.is_critical();
            rest = behind;
        }
        Ok(Self { bytes, critical })
    }

    /// The options in their order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = GeneveOption<'a>> + use<'a> {
        let mut rest = self.bytes;
        // Nothing fails here: the lengths were checked.
        std::iter::from_fn(move || {
            let (option, behind) = split_option(rest).ok()?;
            rest = behind;
            Some(option)
        })
        .take(MAX_OPTIONS)
    }

    /// Whether an option is critical, whatever the header's C flag says.
    #[inline]
    #[must_use]
    pub const fn any_critical(&self) -> bool {
        self.critical
    }

    /// The bytes they were read from: 0 to [`MAX_OPTIONS_LEN`], a multiple of 4.
    #[inline]
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

#[inline]
fn split_option(bytes: &[u8]) -> Result<(GeneveOption<'_>, &[u8]), GeneveError> {
    let (header, rest) = OptionHeader::ref_from_prefix(bytes)
        .map_err(|_| GeneveError::OptionHeaderCut(bytes.len()))?;
    let claimed = usize::from(header.reserved_len & OptionHeader::LEN_MASK) << 2;
    let (data, behind) = rest
        .split_at_checked(claimed)
        .ok_or(GeneveError::OptionBeyondOptions { claimed, have: rest.len() })?;
    Ok((GeneveOption { class: header.class.get(), typ: header.typ, data }, behind))
}

/// An option to be sent, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedOption {
    /// Who defined [`typ`](Self::typ) (IANA "GENEVE Option Class").
    pub class: u16,
    /// The type, its high bit the critical flag.
    pub typ: u8,
    /// The data: 0 to [`MAX_OPTION_DATA`] bytes, a multiple of 4.
    pub data: Vec<u8>,
}

/// Why options cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOption {
    /// An option's length does not fit its 5 bits.
    #[error("GENEVE option data of {0} bytes: at most 124 fit an option")]
    TooLong(usize),
    /// A length in bytes that is not one in words.
    #[error("GENEVE option data of {0} bytes: pad it to a multiple of 4")]
    Unaligned(usize),
    /// All options together do not fit the header's 6 bits.
    #[error("{0} bytes of GENEVE options with their headers: at most 252 fit a packet")]
    AllTooLong(usize),
}

/// The bytes of these options, which [`GeneveOptions::parse`] takes.
///
/// # Errors
/// [`BadOption`]; nothing is ever cut to fit.
pub fn encode_options(options: &[OwnedOption]) -> Result<Vec<u8>, BadOption> {
    let mut bytes = Vec::new();
    for OwnedOption { class, typ, data } in options {
        if data.len() > MAX_OPTION_DATA {
            return Err(BadOption::TooLong(data.len()));
        }
        if data.len() % WORD != 0 {
            return Err(BadOption::Unaligned(data.len()));
        }
        let header = OptionHeader {
            class: U16::new(*class),
            typ: *typ,
            reserved_len: (data.len() / WORD) as u8,
        };
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
    }
    if bytes.len() > MAX_OPTIONS_LEN {
        return Err(BadOption::AllTooLong(bytes.len()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
