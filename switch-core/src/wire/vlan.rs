//! VLAN tags (IEEE 802.1Q C-tags and 802.1ad S-tags) and stacks of them.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{EtherType, EthernetHeader, Header, MacAddr, TooShort};

/// How many stacked tags are looked at. What lies below a deeper stack is not looked for: the frame
/// is bridged by its outer tags, and nothing that needs layer 3 applies to it.
pub const MAX_TAGS: usize = 4;

/// A VLAN a frame can belong to: 1 to 4094.
///
/// On the wire 0 means "no VLAN, only a priority" and 4095 is reserved; neither can be made here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(NonZeroU16);

impl VlanId {
    /// The lowest VLAN, 1.
    pub const MIN: Self = Self(NonZeroU16::MIN);
    /// The highest VLAN.
    pub const MAX: u16 = 4094;

    /// The VLAN with this number.
    ///
    /// # Errors
    /// [`BadVlanId`] unless `vid` is 1 to 4094.
    pub const fn new(vid: u16) -> Result<Self, BadVlanId> {
        match NonZeroU16::new(vid) {
            Some(number) if vid <= Self::MAX => Ok(Self(number)),
            _ => Err(BadVlanId::OutOfRange(vid as u64)),
        }
    }

    /// Its number, 1 to 4094.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// Why something is not a VLAN number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadVlanId {
    /// A number, but not 1 to 4094.
    #[error("VLAN {0} does not exist: VLANs are 1 to 4094")]
    OutOfRange(u64),
    /// Not a number.
    #[error("a VLAN is a number from 1 to 4094")]
    NotANumber,
}

impl TryFrom<u16> for VlanId {
    type Error = BadVlanId;

    fn try_from(vid: u16) -> Result<Self, BadVlanId> {
        Self::new(vid)
    }
}

impl From<VlanId> for u16 {
    fn from(vid: VlanId) -> Self {
        vid.get()
    }
}

impl FromStr for VlanId {
    type Err = BadVlanId;

    fn from_str(s: &str) -> Result<Self, BadVlanId> {
        let number: u64 = s.parse().map_err(|_| BadVlanId::NotANumber)?;
        u16::try_from(number).map_err(|_| BadVlanId::OutOfRange(number)).and_then(Self::new)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Tag control information: 3 bits of priority, the drop-eligible bit, 12 bits of VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tci(pub u16);

impl Tci {
    const VID_MASK: u16 = 0x0fff;
    const DEI: u16 = 0x1000;
    const PCP_SHIFT: u32 = 13;

    /// A tag of this VLAN, priority 0 to 7 (more bits are cut off), drop-eligible or not.
    #[must_use]
    pub const fn new(vid: VlanId, pcp: u8, dei: bool) -> Self {
        Self::priority(pcp, dei).with_vid(vid)
    }

    /// A priority tag: VLAN number 0, so that only the priority counts.
    #[must_use]
    pub const fn priority(pcp: u8, dei: bool) -> Self {
        let dei = if dei { Self::DEI } else { 0 };
        Self(((pcp & 7) as u16) << Self::PCP_SHIFT | dei)
    }

    /// The 12-bit VLAN number as it stands there, 0 and 4095 included.
    #[must_use]
    pub const fn vid(self) -> u16 {
        self.0 & Self::VID_MASK
    }

    /// The VLAN, if there is one: none for 0 (a priority tag) and for the reserved 4095.
    #[must_use]
    pub const fn vlan_id(self) -> Option<VlanId> {
        match VlanId::new(self.vid()) {
            Ok(vid) => Some(vid),
            Err(_) => None,
        }
    }

    /// The priority code point, 0 to 7.
    #[must_use]
    pub const fn pcp(self) -> u8 {
        (self.0 >> Self::PCP_SHIFT) as u8
    }

    /// The drop-eligible indicator.
    #[must_use]
    pub const fn dei(self) -> bool {
        self.0 & Self::DEI != 0
    }

    /// The same priority and drop eligibility in another VLAN.
    #[must_use]
    pub const fn with_vid(self, vid: VlanId) -> Self {
        Self(self.0 & !Self::VID_MASK | vid.get())
    }
}

/// What stands after a tag's EtherType: its control information and the EtherType below.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VlanHeader {
    tci: U16,
    ethertype: U16,
}

impl Header for VlanHeader {
    const NAME: &'static str = "VLAN tag";
}

impl VlanHeader {
    /// Length in bytes.
    pub const LEN: usize = 4;

    /// A header to be sent.
    #[must_use]
    pub const fn new(tci: Tci, ethertype: EtherType) -> Self {
        Self { tci: U16::new(tci.0), ethertype: U16::new(ethertype.0) }
    }

    /// Tag control information.
    #[inline]
    #[must_use]
    pub const fn tci(&self) -> Tci {
        Tci(self.tci.get())
    }

    /// What follows the tag.
    #[inline]
    #[must_use]
    pub const fn ethertype(&self) -> EtherType {
        EtherType(self.ethertype.get())
    }

    /// Changes the tag control information.
    pub const fn set_tci(&mut self, tci: Tci) {
        self.tci = U16::new(tci.0);
    }
}

/// A tag as it is pushed and popped: the four bytes at
/// [`EthernetHeader::ETHERTYPE_OFFSET`], before the EtherType of what the tag encloses.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct VlanTag {
    tpid: U16,
    tci: U16,
}

impl Header for VlanTag {
    const NAME: &'static str = "VLAN tag";
}

impl VlanTag {
    /// Length in bytes.
    pub const LEN: usize = 4;

    /// A tag of type `tpid`, which is [`EtherType::VLAN`] or [`EtherType::SERVICE_VLAN`].
    #[must_use]
    pub const fn new(tpid: EtherType, tci: Tci) -> Self {
        Self { tpid: U16::new(tpid.0), tci: U16::new(tci.0) }
    }

    /// Its type.
    #[inline]
    #[must_use]
    pub const fn tpid(&self) -> EtherType {
        EtherType(self.tpid.get())
    }

    /// Tag control information.
    #[inline]
    #[must_use]
    pub const fn tci(&self) -> Tci {
        Tci(self.tci.get())
    }
}

/// The head of a frame down to what its tags enclose.
#[derive(Clone, Copy, Debug)]
pub struct TagStack {
    tags: [VlanTag; MAX_TAGS],
    count: u8,
    dst: MacAddr,
    src: MacAddr,
    ethertype: EtherType,
}

impl TagStack {
    /// Reads the Ethernet header and up to [`MAX_TAGS`] tags at the start of a frame.
    ///
    /// # Errors
    /// [`TooShort`] if the frame ends within the header or within one of those tags.
    #[inline]
    pub fn parse(head: &[u8]) -> Result<Self, TooShort> {
        let (eth, mut rest) = EthernetHeader::split(head)?;
        let mut stack = Self {
            tags: [VlanTag::new(EtherType(0), Tci(0)); MAX_TAGS],
            count: 0,
            dst: eth.dst(),
            src: eth.src(),
            ethertype: eth.ethertype(),
        };
        for (tag, count) in stack.tags.iter_mut().zip(1..) {
            if !stack.ethertype.is_vlan() {
                break;
            }
            let (vlan, below) = VlanHeader::split(rest)?;
            *tag = VlanTag::new(stack.ethertype, vlan.tci());
            stack.ethertype = vlan.ethertype();
            stack.count = count;
            rest = below;
        }
        Ok(stack)
    }

    /// The tags, outermost first.
    #[inline]
    #[must_use]
    pub fn tags(&self) -> &[VlanTag] {
        self.tags.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// The outermost tag.
    #[inline]
    #[must_use]
    pub fn outer(&self) -> Option<&VlanTag> {
        self.tags().first()
    }

    /// Destination.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> MacAddr {
        self.dst
    }

    /// Source.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> MacAddr {
        self.src
    }

    /// What the tags enclose. Still a tag if the stack is deeper than [`MAX_TAGS`].
    #[inline]
    #[must_use]
    pub const fn ethertype(&self) -> EtherType {
        self.ethertype
    }

    /// Whether there are more tags than were read.
    #[inline]
    #[must_use]
    pub const fn is_deeper(&self) -> bool {
        self.ethertype.is_vlan()
    }

    /// Where what the tags enclose begins, in bytes from the start of the frame: 14 to 30.
    #[inline]
    #[must_use]
    pub fn l3_offset(&self) -> usize {
        EthernetHeader::LEN.saturating_add(VlanTag::LEN.saturating_mul(usize::from(self.count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tags: &[VlanTag], ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        for tag in tags {
            bytes.extend_from_slice(tag.as_bytes());
        }
        bytes.extend_from_slice(&ethertype.0.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn the_limits_of_a_vlan_number() {
        assert_eq!(VlanId::new(0), Err(BadVlanId::OutOfRange(0)));
        assert_eq!(VlanId::new(1).map(VlanId::get), Ok(1));
        assert_eq!(VlanId::new(4094).map(VlanId::get), Ok(4094));
        assert_eq!(VlanId::new(4095), Err(BadVlanId::OutOfRange(4095)));
        assert_eq!("65537".parse::<VlanId>(), Err(BadVlanId::OutOfRange(65537)));
        assert_eq!("-1".parse::<VlanId>(), Err(BadVlanId::NotANumber));
        assert_eq!("10".parse::<VlanId>(), VlanId::new(10));
        assert_eq!(size_of::<Option<VlanId>>(), 2);
    }

    #[test]
    fn parts_of_the_control_information() {
        let tci = Tci::new(VlanId::new(100).unwrap(), 5, true);
        assert_eq!(tci.0, 0xb064);
        assert_eq!((tci.vid(), tci.pcp(), tci.dei()), (100, 5, true));
        assert_eq!(tci.with_vid(VlanId::new(4094).unwrap()).0, 0xbffe);
        assert_eq!(Tci::priority(7, false).vlan_id(), None);
        assert_eq!(Tci(0x0fff).vlan_id(), None);
        assert_eq!(Tci::priority(0xff, false).pcp(), 7);
    }

    #[test]
    fn an_untagged_frame() {
        let stack = TagStack::parse(&frame(&[], EtherType::IPV4, &[])).unwrap();
        assert_eq!((stack.tags().len(), stack.l3_offset()), (0, 14));
        assert_eq!(stack.ethertype(), EtherType::IPV4);
        assert_eq!(stack.dst().to_string(), "02:00:00:00:00:01");
        assert_eq!(stack.src().to_string(), "02:00:00:00:00:02");
    }

    #[test]
    fn a_service_tag_over_a_customer_tag() {
        let outer = VlanTag::new(EtherType::SERVICE_VLAN, Tci(0x6064));
        let inner = VlanTag::new(EtherType::VLAN, Tci(0x000a));
        let bytes = frame(&[outer, inner], EtherType::IPV6, &[0x60]);
        let stack = TagStack::parse(&bytes).unwrap();
        assert_eq!(stack.tags(), [outer, inner]);
        assert_eq!(stack.outer(), Some(&outer));
        assert_eq!((stack.ethertype(), stack.l3_offset()), (EtherType::IPV6, 22));
    }

    #[test]
    fn a_frame_cut_within_its_tag() {
        let bytes = frame(&[VlanTag::new(EtherType::VLAN, Tci(1))], EtherType::IPV4, &[]);
        for len in 0..18 {
            assert!(TagStack::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(TagStack::parse(&bytes).is_ok());
    }

    #[test]
    fn five_hundred_tags_are_read_four_deep() {
        let tag = VlanTag::new(EtherType::VLAN, Tci(7));
        for count in 0..=500 {
            let bytes = frame(&vec![tag; count], EtherType::ARP, &[]);
            let stack = TagStack::parse(&bytes).unwrap();
            assert_eq!(stack.tags().len(), count.min(MAX_TAGS));
            assert_eq!(stack.is_deeper(), count > MAX_TAGS);
            assert_eq!(stack.l3_offset(), 14 + 4 * count.min(MAX_TAGS));
        }
    }

    proptest! {
        #[test]
        fn tags_built_are_tags_read(
            tags in prop::collection::vec((any::<bool>(), any::<u16>()), 0..3),
            ethertype in any::<u16>().prop_filter("not a tag", |t| !EtherType(*t).is_vlan()),
        ) {
            let tags: Vec<_> = tags
                .into_iter()
                .map(|(service, tci)| {
                    let tpid = if service { EtherType::SERVICE_VLAN } else { EtherType::VLAN };
                    VlanTag::new(tpid, Tci(tci))
                })
                .collect();
            let bytes = frame(&tags, EtherType(ethertype), &[0; 64]);
            let stack = TagStack::parse(&bytes).unwrap();
            prop_assert_eq!(stack.tags(), &tags[..]);
            prop_assert_eq!(stack.ethertype(), EtherType(ethertype));
            let oracle = etherparse::LaxSlicedPacket::from_ethernet(&bytes).unwrap();
            let vids: Vec<_> = oracle.vlan_ids().iter().map(|vid| vid.value()).collect();
            prop_assert_eq!(vids, tags.iter().map(|t| t.tci().vid()).collect::<Vec<_>>());
        }

        #[test]
        fn noise_stays_inside(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(stack) = TagStack::parse(&bytes) {
                prop_assert!(stack.l3_offset() <= bytes.len());
            }
        }
    }
}
