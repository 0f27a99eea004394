//! ERSPAN type II (draft-foschiano-erspan-03): a mirrored frame in GRE with a sequence number.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{EtherType, Header, TagStack, Tci, VlanId, VlanTag};

/// The ERSPAN type II header (draft-foschiano-erspan-03 §4.2). The mirrored frame without FCS
/// follows; in front of it is a GRE header of 8 bytes, which has a sequence number and nothing else.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErspanHeader {
    /// Version (4 bits) and VLAN (12).
    version_vlan: U16,
    /// Class of service (3), encapsulation (2), truncated (1) and session (10).
    flags_session: U16,
    /// Reserved (12) and index (20).
    index: U32,
}

impl Header for ErspanHeader {
    const NAME: &'static str = "ERSPAN header";
}

/// Whose frame was mirrored, as far as the frame does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// The VLAN it belonged to if it has no tag, 1 to 4094; 0 is none.
    pub vid: u16,
    /// Whether its end was cut off.
    pub is_truncated: bool,
}

impl ErspanHeader {
    /// Length in bytes.
    pub const LEN: usize = 8;
    /// What a GRE header says of it, for types I and II alike (draft-foschiano-erspan-03 §4.1).
    pub const PROTOCOL: EtherType = EtherType(0x88be);
    /// The largest session number: 10 bits.
    pub const MAX_SESSION: u16 = 0x3ff;
    /// The largest index: 20 bits.
    pub const MAX_INDEX: u32 = 0xf_ffff;

    /// Version 1 is type II.
    const VERSION: u16 = 1 << 12;
    /// A tag of 802.1Q that was left in the frame.
    const TAG_IN_FRAME: u16 = 0b11 << 11;
    const TRUNCATED: u16 = 1 << 10;

    /// The header of a session, as of an untagged frame in no VLAN. More bits than fit are cut off.
    #[must_use]
    pub const fn new(session: u16, index: u32) -> Self {
        Self {
            version_vlan: U16::new(Self::VERSION),
            flags_session: U16::new(session & Self::MAX_SESSION),
            index: U32::new(index & Self::MAX_INDEX),
        }
    }

    /// Says of which frame it is: `frame` is the start of the frame that follows.
    #[inline]
    pub fn describe(&mut self, frame: &[u8], of: Mirrored) {
        let tags = TagStack::parse(frame).ok();
        let tag = tags.and_then(|tags| tags.outer().map(VlanTag::tci));
        let vid = tag.and_then(Tci::vlan_id).map_or(of.vid, VlanId::get);
        self.version_vlan = U16::new(Self::VERSION | vid & 0x0fff);
        let encap = tag.map_or(0, |tci| u16::from(tci.pcp()) << 13 | Self::TAG_IN_FRAME);
        let truncated = if of.is_truncated { Self::TRUNCATED } else { 0 };
        let session = self.flags_session.get() & Self::MAX_SESSION;
        self.flags_session = U16::new(encap | truncated | session);
    }
}
