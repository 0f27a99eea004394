//! Encapsulation: the outer headers go in front of an inner frame.

use std::sync::atomic::Ordering;

use super::outer::OuterFields;
use super::{HeaderKind, Inner, PeerConf, TunnelConf};
use crate::config::{Dscp, Ttl};
use crate::drop::DropReason;
use crate::frame::{Csum, Frame, Offload};
use crate::segment::sum_range;
use crate::wire::ecn::Ecn;
use crate::wire::{ErspanHeader, GreHeader, Header, Mirrored, UdpHeader};

/// TTL of outer packets whose inner ones have none to copy.
const DEFAULT_TTL: u8 = 64;
/// Length of the GRE header in front of ERSPAN's: with a sequence number.
const ERSPAN_GRE: usize = GreHeader::LEN + 4;

/// Puts the outer headers in front of `frame`, whose own checksums and sizes are finished. `inner`
/// is [`Inner::of`] that very frame.
///
/// If the tunnel's UDP carries a checksum, that one is left unfinished, as the offload metadata
/// says.
///
/// # Errors
/// [`DropReason::NoHeadroom`], or [`DropReason::TunnelMtu`] for a frame that no IP packet can hold.
/// The frame is to be dropped.
#[inline]
pub fn encap<F: Frame>(
    frame: &mut F,
    tunnel: &TunnelConf,
    peer: &PeerConf,
    inner: &EncapFields,
) -> Result<(), DropReason> {
    let (outer_len, header) = (peer.outer.len(), &*tunnel.header.bytes);
    let payload = frame.len().wrapping_add(header.len());
    let Ok(payload) = u16::try_from(payload) else { return Err(DropReason::TunnelMtu) };
    // With its own header it must not wrap either.
    if payload.checked_add(outer_len as u16).is_none() {
        return Err(DropReason::TunnelMtu);
    }
    let fields = OuterFields {
        payload,
        traffic_class: inner.traffic_class,
        ttl: inner.ttl,
        df: tunnel.df,
        id: if tunnel.df { 0 } else { peer.state.take_id() },
        hash: inner.hash,
        udp_checksum: tunnel.udp_checksum,
    };
    let pushed = outer_len.wrapping_add(header.len());
    let front = frame.prepend(pushed).map_err(|_| DropReason::NoHeadroom)?;
    let Some((outer, room)) = front.split_at_mut_checked(outer_len) else {
        return Err(DropReason::NoHeadroom);
    };
    if !peer.outer.write(outer, &fields) || !put(room, header) {
        return Err(DropReason::NoHeadroom);
    }
    let csum = match tunnel.header.kind {
        HeaderKind::Vxlan | HeaderKind::Geneve if tunnel.udp_checksum => Csum::Partial {
            start: (outer_len as u16).wrapping_sub(UdpHeader::LEN as u16),
            offset: UdpHeader::CHECKSUM_OFFSET,
        },
        HeaderKind::Vxlan | HeaderKind::Geneve => Csum::Unknown,
        HeaderKind::Nvgre => {
            // FlowID: entropy for routers that look at the key (RFC 7637 §3.2).
            if let Some(flow) = room.last_mut() {
                *flow = inner.hash as u8;
            }
            Csum::Unknown
        }
        HeaderKind::Gre { checksum, sequence } => {
            if sequence {
                number(room, tunnel, peer);
            }
            if checksum {
                gre_checksum(frame, outer_len);
            }
            Csum::Unknown
        }
        HeaderKind::Erspan => {
            if let Some(gre) = room.first_chunk_mut::<ERSPAN_GRE>() {
                number(gre, tunnel, peer);
            }
            describe(frame, outer_len.wrapping_add(ERSPAN_GRE), inner.mirrored);
            Csum::Unknown
        }
    };
    frame.set_offload(Offload { csum, gso: None });
    Ok(())
}

/// Copies a tunnel header. False if it does not fit.
#[inline]
fn put(room: &mut [u8], header: &[u8]) -> bool {
    // Nearly every one has 8 bytes: no call to copy those.
    if let (Some((start, [])), Some((header, []))) =
        (room.split_first_chunk_mut::<8>(), header.split_first_chunk())
    {
        *start = *header;
        return true;
    }
    let fits = room.len() == header.len();
    if fits {
        room.copy_from_slice(header);
    }
    fits
}

/// What an outer header takes over from an inner frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncapFields {
    /// DSCP and ECN of the outer header.
    pub traffic_class: u8,
    /// TTL or hop limit of the outer header.
    pub ttl: u8,
    /// Hash of the flow.
    pub hash: u32,
    /// Of a mirrored frame, what only an ERSPAN header has a place for.
    pub mirrored: Mirrored,
}

impl EncapFields {
    /// What a tunnel takes over from a frame: ECN by RFC 6040 §4.1, DSCP and TTL as configured.
    #[inline]
    #[must_use]
    pub fn new(tunnel: &TunnelConf, inner: &Inner<'_>) -> Self {
        let class = inner.ip.map_or(0, |ip| ip.traffic_class);
        let dscp = match tunnel.dscp {
            Dscp::Set(dscp) => dscp << 2,
            Dscp::Copy => class,
        };
        let ttl = match tunnel.ttl {
            Ttl::Set(ttl) => ttl,
            // A TTL of 0 would not leave this host.
            Ttl::Copy => inner.ip.map_or(DEFAULT_TTL, |ip| ip.ttl.max(1)),
        };
        let traffic_class = Ecn::of(class).in_traffic_class(dscp);
        Self { traffic_class, ttl, hash: inner.hash, mirrored: Mirrored::default() }
    }
}

/// Writes the next sequence number into the last four bytes of a GRE header.
fn number(header: &mut [u8], tunnel: &TunnelConf, peer: &PeerConf) {
    if let Some(sequence) = tunnel.sequence(peer.id)
        && let Some(field) = header.last_chunk_mut()
    {
        *field = sequence.tx.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    }
}

/// Has the ERSPAN header that begins at `at` say which frame follows it.
#[inline(never)]
fn describe<F: Frame>(frame: &mut F, at: usize, of: Mirrored) {
    let header = frame.head_mut().get_mut(at..).map(ErspanHeader::split_mut);
    if let Some(Ok((header, inner))) = header {
        header.describe(inner, of);
    }
}

/// Fills in the checksum of the GRE packet that begins at `at` (RFC 2784 §2.2): over header and
/// payload, the field itself as zero.
fn gre_checksum<F: Frame>(frame: &mut F, at: usize) {
    let sum = sum_range(frame, at..usize::MAX).finish();
    let field = at.checked_add(4).and_then(|at| frame.head_mut().get_mut(at..));
    if let Some(field) = field.and_then(<[u8]>::first_chunk_mut) {
        *field = sum.to_be_bytes();
    }
}
