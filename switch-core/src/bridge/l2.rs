//! The part of a frame that bridging reads: addresses and the outer C-tag.
//!
//! Only the customer tag (0x8100) counts. The switch is a customer bridge: an S-tag (0x88a8) is
//! payload to it, as IEEE 802.1Q 5.5 has it.

use crate::drop::DropReason;
use crate::wire::{EtherType, MacAddr};

const VID_RESERVED: u16 = 0xfff;

/// Addresses and outer tag of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L2 {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Tag control information of the outer C-tag: PCP (3 bits), DEI (1), VID (12).
    pub tci: Option<u16>,
    /// Whether another C-tag follows it.
    pub stacked: bool,
}

impl L2 {
    /// Reads the first 14 to 18 bytes of a frame.
    ///
    /// # Errors
    /// [`DropReason::Runt`] below 14 bytes; [`DropReason::VlanTagInvalid`] if the tag is cut short
    /// or its VID is 4095.
    #[inline]
    pub fn parse(head: &[u8]) -> Result<Self, DropReason> {
        let Some(header) = head.first_chunk::<14>() else { return Err(DropReason::Runt) };
        // Two loads that overlap: each has an address in its upper 48 bits.
        let word = |at: usize| {
            let bytes = header.get(at..).and_then(|b| b.first_chunk()).copied();
            u64::from_be_bytes(bytes.unwrap_or_default())
        };
        let (front, back) = (word(0), word(6));
        let (tci, stacked) = if back as u16 == EtherType::VLAN.0 {
            let Some(&[c0, c1, n0, n1]) = head.get(14..).and_then(|rest| rest.first_chunk()) else {
                return Err(DropReason::VlanTagInvalid);
            };
            let next = u16::from_be_bytes([n0, n1]);
            (Some(u16::from_be_bytes([c0, c1])), next == EtherType::VLAN.0)
        } else {
            (None, false)
        };
        if tci.is_some_and(|tci| tci & VID_RESERVED == VID_RESERVED) {
            return Err(DropReason::VlanTagInvalid);
        }
        let (dst, src) = (MacAddr::from_u64(front >> 16), MacAddr::from_u64(back >> 16));
        Ok(Self { dst, src, tci, stacked })
    }

    /// VID of the outer tag; 0 if it is a priority tag.
    pub fn vid(&self) -> Option<u16> {
        self.tci.map(|tci| tci & 0xfff)
    }
}
