//! Cutting a super-frame into the frames it stands for. Their payload may stay where it is, shared.

use super::validate::MAX_SEGMENTS;
use crate::frame::{Frame, Gso, GsoKind, Offload};
use crate::wire::checksum::checksum;
use crate::wire::{
    Checksum, Fragment, Header, IpProtocol, Ipv4Header, Ipv6Header, Layers, LayersError, Network,
    TcpFlags, TcpHeader, TooShort, Transport, UdpHeader,
};

/// Longest stack of headers that is repeated before each segment: what a head is sure to hold.
pub(super) const MAX_HEADERS: usize = crate::frame::HEAD_MIN;

/// Why a super-frame could not be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// It is no super-frame.
    #[error("no super-frame")]
    NotSuper,
    /// Its headers do not hold up, or are not what its metadata says. Validated frames whose
    /// headers were not touched are never so.
    #[error("the super-frame's headers are not what its metadata says")]
    Headers,
    /// No buffer for a segment.
    #[error("no buffer for a segment")]
    NoBuffer,
    /// A segment is longer than a buffer.
    #[error("a segment is longer than a buffer")]
    NoTailroom,
}

/// A cut that did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}; {emitted} of {total} segments were made")]
pub struct CutFailed {
    /// Why.
    pub cause: CutError,
    /// Segments that were handed out before.
    pub emitted: usize,
    /// Segments there should have been; 0 if that could not be told.
    pub total: usize,
}

/// Cuts a TCP or UDP super-frame into finished frames, in order, and says how many.
///
/// `alloc` gives empty frames, `emit` takes the segments. Each has the super-frame's headers, tags
/// included, with its own lengths, IPv4 identification (counting up), TCP sequence number and
/// checksums; FIN and PSH are on the last alone, CWR on the first alone. Padding is left behind.
///
/// Nothing is allocated but what `alloc` hands out.
///
/// # Errors
/// [`CutFailed`]: segments handed out before stay valid; the rest are lost, and the caller counts
/// them as [`crate::DropReason::SegmentFailed`].
pub fn segment<F: Frame>(
    frame: &F,
    mut alloc: impl FnMut() -> Option<F>,
    mut emit: impl FnMut(F),
) -> Result<usize, CutFailed> {
    let plan = Plan::of(frame).map_err(|cause| CutFailed { cause, emitted: 0, total: 0 })?;
    let mut cutter = Cutter { plan: &plan, index: 0, offset: 0, open: None };
    let mut outcome = Ok(());
    // What of the frame still lies before the payload, then what of the payload is still to come.
    let (mut skip, mut left) = (plan.header_len, plan.payload_len);
    // Where the next piece begins.
    let mut at = 0usize;
    frame.for_each_segment(&mut |piece| {
        let mut here = at.saturating_add(skip);
        at = at.saturating_add(piece.len());
        let mut rest = piece.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(piece.len());
        rest = rest.get(..left).unwrap_or(rest);
        left = left.saturating_sub(rest.len());
        // Each turn takes at least one byte off `rest`.
        while !rest.is_empty() && outcome.is_ok() {
            match cutter.take((frame, here), rest, &mut alloc) {
                Ok((taken, done)) => {
                    here = here.saturating_add(taken);
                    rest = rest.get(taken..).unwrap_or_default();
                    if let Some(segment) = done {
                        emit(segment);
                    }
                }
                Err(cause) => outcome = Err(cause),
            }
        }
    });
    let (emitted, total) = (cutter.index, plan.total());
    if outcome.is_ok() && emitted != total {
        // The frame has fewer bytes than it says.
        outcome = Err(CutError::Headers);
    }
    outcome.map(|()| emitted).map_err(|cause| CutFailed { cause, emitted, total })
}

/// What is common to all segments.
struct Plan {
    headers: [u8; MAX_HEADERS],
    header_len: usize,
    payload_len: usize,
    size: usize,
    network: Network,
    transport: Transport,
    protocol: IpProtocol,
    l3: usize,
    l4: usize,
    /// Sum of the pseudo-header without its length.
    pseudo: Checksum,
    ipv4_id: u16,
    seq: u32,
    flags: TcpFlags,
}

impl Plan {
    fn of<F: Frame>(frame: &F) -> Result<Self, CutError> {
        let Gso { kind, size, .. } = frame.offload().gso.ok_or(CutError::NotSuper)?;
        let head = frame.head();
        let layers = Layers::parse(head, frame.len()).map_err(|_| CutError::Headers)?;
        let fits = match kind {
            GsoKind::TcpV4 => {
                (layers.network(), layers.transport()) == (Network::V4, Transport::Tcp)
            }
            GsoKind::TcpV6 => {
                (layers.network(), layers.transport()) == (Network::V6, Transport::Tcp)
            }
            GsoKind::Udp => layers.transport() == Transport::Udp,
        };
        let header_len = layers.payload();
        let payload_len = layers.end().saturating_sub(header_len);
        let segments = payload_len.checked_div(size.into()).unwrap_or(usize::MAX);
        let whole = layers.fragment() == Fragment::Whole;
        if !fits || !whole || payload_len == 0 || segments > MAX_SEGMENTS {
            return Err(CutError::Headers);
        }
        let mut headers = [0; MAX_HEADERS];
        let (Some(to), Some(from)) = (headers.get_mut(..header_len), head.get(..header_len)) else {
            return Err(CutError::Headers);
        };
        to.copy_from_slice(from);
        let mut plan = Self {
            headers,
            header_len,
            payload_len,
            size: size.into(),
            network: layers.network(),
            transport: layers.transport(),
            protocol: layers.protocol(),
            l3: layers.l3(),
            l4: layers.l4(),
            pseudo: Checksum::new(),
            ipv4_id: 0,
            seq: 0,
            flags: TcpFlags::default(),
        };
        plan.read_headers().map_err(|_| CutError::Headers)?;
        Ok(plan)
    }

    fn read_headers(&mut self) -> Result<(), LayersError> {
        match self.network {
            Network::V4 => {
                let ip = Ipv4Header::at(&self.headers, self.l3)?;
                self.pseudo.add_pseudo_v4(ip.src(), ip.dst(), self.protocol, 0);
                self.ipv4_id = ip.id();
            }
            Network::V6 => {
                let ip = Ipv6Header::at(&self.headers, self.l3)?;
                self.pseudo.add_pseudo_v6(ip.src(), ip.dst(), self.protocol, 0);
            }
            Network::Other => {}
        }
        if self.transport == Transport::Tcp {
            let tcp = TcpHeader::at(&self.headers, self.l4)?;
            (self.seq, self.flags) = (tcp.seq(), tcp.flags());
        }
        Ok(())
    }

    fn total(&self) -> usize {
        self.payload_len.div_ceil(self.size.max(1))
    }

    /// Writes what is the segment's own into its headers. `sum` is that of its `len` payload bytes,
    /// which lie `offset` bytes into the super-frame's payload.
    fn patch(
        &self,
        head: &mut [u8],
        mut sum: Checksum,
        (index, offset, len): (usize, usize, usize),
    ) -> Result<(), TooShort> {
        let l4_len = self.header_len.saturating_sub(self.l4).saturating_add(len);
        let headers = head.get_mut(..self.header_len).unwrap_or_default();
        match self.transport {
            Transport::Tcp => {
                let tcp = TcpHeader::at_mut(headers, self.l4)?;
                // The payload of a packet is less than 64 KiB.
                tcp.set_seq(self.seq.wrapping_add(offset as u32));
                let mut flags = self.flags;
                if index > 0 {
                    flags = flags.without(TcpFlags::CWR);
                }
                if offset.saturating_add(len) < self.payload_len {
                    flags = flags.without(TcpFlags::FIN | TcpFlags::PSH);
                }
                tcp.set_flags(flags);
                tcp.set_checksum(0);
            }
            Transport::Udp => {
                let udp = UdpHeader::at_mut(headers, self.l4)?;
                udp.set_datagram_len(l4_len as u16);
                udp.set_checksum(0);
            }
            Transport::Other => {}
        }
        // The headers are even in length, so their place in the sum does not matter.
        sum.add_bytes(&self.pseudo.partial().to_be_bytes());
        sum.add_u16(l4_len as u16);
        sum.add_bytes(headers.get(self.l4..).unwrap_or_default());
        match self.transport {
            Transport::Tcp => TcpHeader::at_mut(headers, self.l4)?.set_checksum(sum.finish()),
            Transport::Udp => UdpHeader::at_mut(headers, self.l4)?.set_checksum(sum.finish_udp()),
            Transport::Other => {}
        }
        self.patch_ip(headers, index, l4_len)
    }

    fn patch_ip(&self, headers: &mut [u8], index: usize, l4_len: usize) -> Result<(), TooShort> {
        let ip_len = self.l4.saturating_sub(self.l3).saturating_add(l4_len);
        match self.network {
            Network::V4 => {
                let ip = Ipv4Header::at_mut(headers, self.l3)?;
                ip.set_total_len(ip_len as u16);
                ip.set_id(self.ipv4_id.wrapping_add(index as u16));
                // Summed anew: an update of a wrong checksum would be a wrong checksum.
                ip.set_checksum(0);
                let sum = checksum(headers.get(self.l3..self.l4).unwrap_or_default());
                Ipv4Header::at_mut(headers, self.l3)?.set_checksum(sum);
            }
            Network::V6 => {
                let payload_len = ip_len.saturating_sub(Ipv6Header::LEN);
                Ipv6Header::at_mut(headers, self.l3)?.set_payload_len(payload_len as u16);
            }
            Network::Other => {}
        }
        Ok(())
    }
}

/// The segment being filled.
struct Cutter<'a, F> {
    plan: &'a Plan,
    /// Segments finished.
    index: usize,
    /// Payload bytes in them.
    offset: usize,
    open: Option<Open<F>>,
}

struct Open<F> {
    frame: F,
    sum: Checksum,
    len: usize,
}

impl<F: Frame> Cutter<'_, F> {
    /// Puts the start of `bytes`, which the super-frame has at a place, into the open segment (opening
    /// one if there is none), and gives the number of bytes taken and the segment if it is complete.
    fn take(
        &mut self,
        (from, at): (&F, usize),
        bytes: &[u8],
        alloc: &mut impl FnMut() -> Option<F>,
    ) -> Result<(usize, Option<F>), CutError> {
        let plan = self.plan;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let mut frame = alloc().ok_or(CutError::NoBuffer)?;
                let headers = plan.headers.get(..plan.header_len).unwrap_or_default();
                frame.append(headers).map_err(|_| CutError::NoTailroom)?;
                Open { frame, sum: Checksum::new(), len: 0 }
            }
        };
        // The last one is shorter.
        let whole = plan.size.min(plan.payload_len.saturating_sub(self.offset));
        let want = whole.saturating_sub(open.len);
        let part = bytes.get(..want).unwrap_or(bytes);
        open.frame.append_of(from, at, part).map_err(|_| CutError::NoTailroom)?;
        open.sum.add_bytes(part);
        open.len = open.len.saturating_add(part.len());
        if open.len < whole {
            self.open = Some(open);
            return Ok((part.len(), None));
        }
        // The checksum goes on behind the payload, at an even place.
        if whole % 2 == 1 {
            open.sum.add_bytes(&[0]);
        }
        plan.patch(open.frame.head_mut(), open.sum, (self.index, self.offset, whole))
            .map_err(|_| CutError::Headers)?;
        open.frame.set_offload(Offload::NONE);
        self.index = self.index.saturating_add(1);
        self.offset = self.offset.saturating_add(whole);
        Ok((part.len(), Some(open.frame)))
    }
}
