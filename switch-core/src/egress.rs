//! What happens to a frame between the decision to send it and the batch of its port: tags are
//! set, sizes checked, and work that the port cannot do itself is done in software.

use crate::config::Egress;
use crate::datapath::Caps;
use crate::frame::{Frame, FrameMeta, Gso, GsoKind, InTag, NoHeadroom, Offload};
use crate::wire::{EtherType, EthernetHeader, VlanTag};

const ETH_HEADER: usize = EthernetHeader::LEN;
const TAG: usize = VlanTag::LEN;
/// Two addresses, in bytes: what is in front of a tag.
const ADDRESSES: usize = EthernetHeader::ETHERTYPE_OFFSET;
/// Tags that do not count towards the MTU (IEEE 802.3 envelope frames; Linux allows one, drivers
/// for stacked VLANs two).
const TAGS_MAX: usize = 2;

/// Gives the frame the tag that a port wants which frames of its VLAN leave as `egress`.
///
/// # Errors
/// [`NoHeadroom`] if there is no room for the tag; the frame is then to be dropped.
#[inline(always)]
pub(crate) fn retag<F: Frame>(
    frame: &mut F,
    meta: &FrameMeta,
    egress: Egress,
) -> Result<(), NoHeadroom> {
    let vid = meta.domain.vid();
    match (meta.tag, egress) {
        (InTag::Untagged, Egress::Untagged) | (InTag::Vlan, Egress::Tagged) => Ok(()),
        // No VLAN to leave: a priority tag between two ports without VLANs stays as it is.
        (InTag::Priority, Egress::Untagged) if vid == 0 => Ok(()),
        (InTag::Vlan | InTag::Priority, Egress::Untagged) => {
            pop_tag(frame);
            Ok(())
        }
        (InTag::Untagged, Egress::Tagged) => push_tag(frame, vid),
        (InTag::Priority, Egress::Tagged) => {
            // The VID of the port's native VLAN, the priority of the frame.
            if let Some([hi, lo]) = frame.head_mut().get_mut(14..16) {
                *hi = *hi & 0xf0 | (vid >> 8) as u8 & 0x0f;
                *lo = vid as u8;
            }
            Ok(())
        }
    }
}

#[inline(never)]
fn push_tag<F: Frame>(frame: &mut F, vid: u16) -> Result<(), NoHeadroom> {
    frame.prepend(TAG)?;
    let head = frame.head_mut();
    head.copy_within(TAG..TAG + ADDRESSES, 0);
    if let Some(tag) = head.get_mut(ADDRESSES..ADDRESSES + TAG) {
        let [t0, t1] = EtherType::VLAN.0.to_be_bytes();
        let [v0, v1] = vid.to_be_bytes();
        tag.copy_from_slice(&[t0, t1, v0, v1]);
    }
    Ok(())
}

/// Takes the outer tag off. A frame that was admitted with one has it whole.
#[inline(never)]
pub(crate) fn pop_tag<F: Frame>(frame: &mut F) {
    let head = frame.head_mut();
    if head.len() >= ETH_HEADER + TAG {
        head.copy_within(0..ADDRESSES, TAG);
        let _ = frame.trim_front(TAG);
    }
}

/// Bytes in front of layer 3: the Ethernet header and up to two tags.
pub(crate) fn l2_header(head: &[u8]) -> usize {
    let mut len = ETH_HEADER;
    for _ in 0..TAGS_MAX {
        match head.get(len - 2..len) {
            Some(&[t0, t1]) if EtherType(u16::from_be_bytes([t0, t1])).is_vlan() => len += TAG,
            _ => break,
        }
    }
    len
}

/// Length up to which a frame fits the MTU, whatever is in it.
pub(crate) const fn plain_len_max(mtu: u32) -> usize {
    ETH_HEADER + mtu as usize
}

/// Whether the frame, or each segment of a super-frame, fits the MTU (a layer-3 length).
#[inline]
pub(crate) fn fits_mtu<F: Frame>(frame: &F, mtu: u32) -> bool {
    // Nearly every frame: no need to look for tags.
    frame.len() <= plain_len_max(mtu) || long_fits_mtu(frame, mtu)
}

#[inline(never)]
fn long_fits_mtu<F: Frame>(frame: &F, mtu: u32) -> bool {
    let l2 = l2_header(frame.head());
    let len = match frame.offload().gso {
        None => frame.len(),
        Some(gso) => match crate::segment::header_len(frame.head(), &frame.offload()) {
            Some(headers) => headers + usize::from(gso.size),
            None => frame.len(),
        },
    };
    len.saturating_sub(l2) <= mtu as usize
}

/// What is left to do in software before a port with `caps` can take a frame with `offload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Nothing,
    Checksum,
    Segment,
}

#[inline]
pub(crate) fn to_finish(offload: &Offload, caps: Caps) -> Finish {
    match offload.gso {
        Some(Gso { kind, .. }) => {
            let takes = match kind {
                GsoKind::TcpV4 => caps.tso4,
                GsoKind::TcpV6 => caps.tso6,
                GsoKind::Udp => caps.uso,
            };
            if takes && caps.csum { Finish::Nothing } else { Finish::Segment }
        }
        None if offload.is_finished() || caps.csum => Finish::Nothing,
        None => Finish::Checksum,
    }
}
