//! What a sender claims about a frame, checked against the frame.

use super::cut::MAX_HEADERS;
use super::vnet::{
    F_DATA_VALID, F_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHeader,
};
use crate::frame::{Csum, Gso, GsoKind, Offload};
use crate::wire::{
    Fragment, Header, Layers, LayersError, Network, TcpFlags, TcpHeader, Transport, UdpHeader,
};

/// Most segments a super-frame may stand for. It is what a sender makes of 64 KiB at the smallest
/// segment size Linux goes down to (`tcp_min_snd_mss`, 48 bytes); without a limit, a size of 1
/// would make 64 thousand frames of one.
pub const MAX_SEGMENTS: usize = 65_536_usize.div_ceil(48);

/// Why a claim about a frame is refused. All mean the same to the frame: it is dropped as
/// [`crate::DropReason::VnetHeader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOffload {
    /// The headers the claim is about do not hold up.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// The checksum is to start within the layer-3 header or before.
    #[error("checksum from byte {start}, where layer 3 ends at {l3_end}")]
    CsumStart {
        /// The claimed start.
        start: u16,
        /// Where layer 3 ends.
        l3_end: usize,
    },
    /// The checksum field is at neither TCP's (16) nor UDP's (6) place, or not at the place of the
    /// protocol that is there.
    #[error("checksum field at {0}, which is not where the frame's protocol has it")]
    CsumOffset(u16),
    /// The checksum field is beyond the packet's end or beyond what parsers see of it.
    #[error("checksum field at {field}, behind the packet's end or its head")]
    CsumBeyondEnd {
        /// The claimed place, from the frame's start.
        field: usize,
    },
    /// An unfinished checksum or a super-frame in a fragment, which cannot be finished alone.
    #[error("offload claimed for an IP fragment")]
    Fragment,
    /// A segmentation type that is unknown or was never offered.
    #[error("segmentation type {0:#04x} is not supported")]
    GsoType(u8),
    /// A segment size of 0.
    #[error("segment size 0")]
    GsoSize,
    /// A super-frame whose checksum is not left to be finished, as every sender leaves it.
    #[error("super-frame without an unfinished checksum")]
    GsoWithoutCsum,
    /// The segmentation type names another protocol than the frame carries.
    #[error("segmentation type {0:#04x} on a frame of another protocol")]
    GsoProtocol(u8),
    /// A super-frame without payload.
    #[error("super-frame without payload")]
    GsoEmpty,
    /// More than [`MAX_SEGMENTS`] segments.
    #[error("super-frame of {0} segments, more than {MAX_SEGMENTS}")]
    GsoSegments(usize),
    /// A super-frame with more headers than each of its segments can be given.
    #[error("super-frame with {0} bytes of headers, more than {MAX_HEADERS}")]
    GsoHeaders(usize),
    /// A TCP super-frame with SYN or RST set.
    #[error("TCP super-frame with SYN or RST")]
    GsoTcpFlags,
    /// A UDP super-frame whose UDP length is not that of the IP payload.
    #[error("UDP super-frame whose UDP length is not that of its packet")]
    GsoUdpLen,
}

/// Checks what is claimed about a frame of `frame_len` bytes that begins with `head`.
///
/// A frame nothing is claimed about is not looked into. Of the claim, only what the frame bears out
/// is kept: `hdr_len` is ignored, as every user works it out again.
///
/// [`F_DATA_VALID`] is believed, so a backend must clear it where an untrusted sender could have
/// set it. (A kernel that hands a frame over has set it itself.)
///
/// # Errors
/// [`BadOffload`], one variant a rule.
#[inline]
pub fn validate(head: &[u8], frame_len: usize, claim: &VnetHeader) -> Result<Offload, BadOffload> {
    let unfinished = claim.flags & F_NEEDS_CSUM != 0;
    if !unfinished && claim.gso_type == GSO_NONE {
        let verified = claim.flags & F_DATA_VALID != 0;
        let csum = if verified { Csum::Verified } else { Csum::Unknown };
        return Ok(Offload { csum, gso: None });
    }
    check(head, frame_len, claim, unfinished)
}

fn check(
    head: &[u8],
    frame_len: usize,
    claim: &VnetHeader,
    unfinished: bool,
) -> Result<Offload, BadOffload> {
    let layers = Layers::parse(head, frame_len)?;
    if layers.fragment() != Fragment::Whole {
        return Err(BadOffload::Fragment);
    }
    if !unfinished {
        return Err(BadOffload::GsoWithoutCsum);
    }
    let csum = checksum(head, &layers, claim)?;
    let gso = match claim.gso_type {
        GSO_NONE => None,
        _ => Some(super_frame(head, &layers, claim)?),
    };
    Ok(Offload { csum, gso })
}

fn checksum(head: &[u8], layers: &Layers, claim: &VnetHeader) -> Result<Csum, BadOffload> {
    let (start, offset) = (claim.csum_start, claim.csum_offset);
    if usize::from(start) < layers.l4() {
        return Err(BadOffload::CsumStart { start, l3_end: layers.l4() });
    }
    let right = match layers.transport() {
        // Further in lies a tunnel's inner packet, which is not looked into.
        _ if usize::from(start) > layers.l4() => {
            matches!(offset, TcpHeader::CHECKSUM_OFFSET | UdpHeader::CHECKSUM_OFFSET)
        }
        Transport::Tcp => offset == TcpHeader::CHECKSUM_OFFSET,
        Transport::Udp => offset == UdpHeader::CHECKSUM_OFFSET,
        Transport::Other => {
            matches!(offset, TcpHeader::CHECKSUM_OFFSET | UdpHeader::CHECKSUM_OFFSET)
        }
    };
    if !right {
        return Err(BadOffload::CsumOffset(offset));
    }
    let field = usize::from(start).saturating_add(offset.into());
    if field.saturating_add(2) > layers.end().min(head.len()) {
        return Err(BadOffload::CsumBeyondEnd { field });
    }
    Ok(Csum::Partial { start, offset })
}

fn super_frame(head: &[u8], layers: &Layers, claim: &VnetHeader) -> Result<Gso, BadOffload> {
    let ecn = claim.gso_type & GSO_ECN != 0;
    let (kind, network, transport) = match claim.gso_type & !GSO_ECN {
        GSO_TCPV4 => (GsoKind::TcpV4, Network::V4, Transport::Tcp),
        GSO_TCPV6 => (GsoKind::TcpV6, Network::V6, Transport::Tcp),
        GSO_UDP_L4 if !ecn => (GsoKind::Udp, layers.network(), Transport::Udp),
        _ => return Err(BadOffload::GsoType(claim.gso_type)),
    };
    if claim.gso_size == 0 {
        return Err(BadOffload::GsoSize);
    }
    if (layers.network(), layers.transport()) != (network, transport) {
        return Err(BadOffload::GsoProtocol(claim.gso_type));
    }
    if usize::from(claim.csum_start) != layers.l4() {
        return Err(BadOffload::CsumStart { start: claim.csum_start, l3_end: layers.l4() });
    }
    if layers.payload() > MAX_HEADERS {
        return Err(BadOffload::GsoHeaders(layers.payload()));
    }
    let payload = layers.end().saturating_sub(layers.payload());
    if payload == 0 {
        return Err(BadOffload::GsoEmpty);
    }
    let segments = payload.div_ceil(claim.gso_size.into());
    if segments > MAX_SEGMENTS {
        return Err(BadOffload::GsoSegments(segments));
    }
    match transport {
        Transport::Tcp => {
            let flags = TcpHeader::at(head, layers.l4()).map_err(LayersError::from)?.flags();
            if flags.any(TcpFlags::SYN | TcpFlags::RST) {
                return Err(BadOffload::GsoTcpFlags);
            }
        }
        Transport::Udp => {
            let udp = UdpHeader::at(head, layers.l4()).map_err(LayersError::from)?;
            if usize::from(udp.datagram_len()) != layers.end().saturating_sub(layers.l4()) {
                return Err(BadOffload::GsoUdpLen);
            }
        }
        Transport::Other => {}
    }
    Ok(Gso { kind, size: claim.gso_size, ecn })
}
