//! Joining frames into a super-frame: what a sender, a NIC or a tunnel cut is handed to a port in one
//! piece, which costs it one system call and its stack one walk.
//!
//! Only what [`super::segment`] would cut back into the very same bytes is joined: neighbours in a
//! burst, of one TCP connection in sequence or of one UDP flow and of one length, with equal headers but
//! for what counts up. So nothing is reordered, held back or told differently. Linux joins a little more
//! (`tcp_gro_receive`: other windows, any identification of packets that are not to be fragmented).

use std::ops::Range;

use super::sum_range;
use super::validate::MAX_SEGMENTS;
use crate::datapath::Caps;
use crate::frame::{Csum, Frame, Gso, GsoKind, Offload};
use crate::wire::checksum::checksum;
use crate::wire::{
    Checksum, Fragment, Header, IpProtocol, Ipv4Header, Ipv6Header, Layers, Network, TcpFlags,
    TcpHeader, Transport, UdpHeader,
};

/// One frame, or what several were joined into.
#[derive(Debug)]
pub struct Joined<F> {
    /// The frame.
    pub frame: F,
    /// How many came in.
    pub frames: u64,
    /// How many bytes these had.
    pub bytes: u64,
}

/// Flags that segments of a super-frame may have: ECE on all or none, the last two on the last.
const MAY_HAVE: TcpFlags = TcpFlags(TcpFlags::ACK.0 | TcpFlags::ECE.0 | LAST.0);
/// Flags that only the last segment may have.
const LAST: TcpFlags = TcpFlags(TcpFlags::FIN.0 | TcpFlags::PSH.0);
/// Where TCP has its checksum, from its start.
const TCP_CSUM: u16 = 16;
/// The most that lengths of IP can say.
const IP_MAX: usize = 65_535;

/// Joins what can be joined, keeps the order, and hands everything to `emit`.
///
/// `caps` says what may be made: nothing is joined for a port that has to have it cut again.
pub fn join<F: Frame>(
    frames: impl Iterator<Item = F>,
    caps: Caps,
    mut emit: impl FnMut(Joined<F>),
) {
    let alone = |frame: F| {
        let bytes = frame.len() as u64;
        Joined { frame, frames: 1, bytes }
    };
    if !caps.csum || !(caps.tso4 || caps.tso6 || caps.uso) {
        return frames.map(alone).for_each(emit);
    }
    let mut open: Option<Open<F>> = None;
    for frame in frames {
        let segment = Segment::of(&frame).filter(|segment| segment.may_join(caps));
        let frame = match (&mut open, &segment) {
            (Some(open), Some(next)) => match open.add(frame, next) {
                Ok(()) => continue,
                Err(frame) => frame,
            },
            _ => frame,
        };
        if let Some(open) = open.take() {
            emit(open.close());
        }
        match segment {
            Some(first) => open = Some(Open::new(frame, first)),
            None => emit(alone(frame)),
        }
    }
    if let Some(open) = open {
        emit(open.close());
    }
}

/// A frame that can be a part of a super-frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    v4: bool,
    /// TCP, or else UDP, which has neither flags nor sequence numbers: all of it has the same.
    tcp: bool,
    l3: usize,
    l4: usize,
    payload: usize,
    len: usize,
    flags: TcpFlags,
    seq: u32,
    ipv4_id: u16,
}

impl Segment {
    pub(super) fn of<F: Frame>(frame: &F) -> Option<Self> {
        let head = frame.head();
        // Most of what is not: another protocol, an acknowledgement, a frame that is one already.
        if head.len() != frame.len() || frame.offload().gso.is_some() || !may_be_one(head) {
            return None;
        }
        let layers = Layers::parse(head, frame.len()).ok()?;
        let (v4, ip_header) = match layers.network() {
            Network::V4 => (true, Ipv4Header::LEN),
            Network::V6 => (false, Ipv6Header::LEN),
            Network::Other => return None,
        };
        let (l3, l4, payload) = (layers.l3(), layers.l4(), layers.payload());
        let plain = layers.fragment() == Fragment::Whole
            && l4 == l3.checked_add(ip_header)?
            && layers.end() == frame.len()
            && payload < frame.len();
        if !plain {
            return None;
        }
        let (tcp, flags, seq) = match layers.transport() {
            Transport::Tcp => {
                let tcp = TcpHeader::at(head, l4).ok()?;
                (true, tcp.flags(), tcp.seq())
            }
            Transport::Udp => {
                let udp = UdpHeader::at(head, l4).ok()?;
                // One without a checksum would get one.
                let has_sum = udp.checksum() != 0 || !frame.offload().is_finished();
                if usize::from(udp.datagram_len()) != frame.len().checked_sub(l4)? || !has_sum {
                    return None;
                }
                (false, TcpFlags::default(), 0)
            }
            Transport::Other => return None,
        };
        if tcp && !flags.any(TcpFlags::ACK) || flags.without(MAY_HAVE) != TcpFlags::default() {
            return None;
        }
        let ipv4_id = if v4 { Ipv4Header::at(head, l3).ok()?.id() } else { 0 };
        Some(Self { v4, tcp, l3, l4, payload, len: frame.len(), flags, seq, ipv4_id })
    }

    const fn kind(&self) -> GsoKind {
        match (self.tcp, self.v4) {
            (true, true) => GsoKind::TcpV4,
            (true, false) => GsoKind::TcpV6,
            (false, _) => GsoKind::Udp,
        }
    }

    const fn may_join(&self, caps: Caps) -> bool {
        caps.csum
            && match self.kind() {
                GsoKind::TcpV4 => caps.tso4,
                GsoKind::TcpV6 => caps.tso6,
                GsoKind::Udp => caps.uso,
            }
    }

    const fn protocol(&self) -> IpProtocol {
        if self.tcp { IpProtocol::TCP } else { IpProtocol::UDP }
    }

    /// Where the checksum is, from the start of layer 4.
    const fn csum_offset(&self) -> u16 {
        if self.tcp { TCP_CSUM } else { UdpHeader::CHECKSUM_OFFSET }
    }

    /// The checksum as it stands there.
    fn csum(&self, head: &[u8]) -> Option<u16> {
        let at = self.l4.checked_add(self.csum_offset().into())?;
        head.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// Bytes behind the headers.
    const fn payload_len(&self) -> usize {
        self.len.saturating_sub(self.payload)
    }

    /// The sum of the pseudo-header of a segment of `len` bytes, header included.
    pub(super) fn pseudo(&self, head: &[u8], len: usize) -> Option<Checksum> {
        let (mut sum, len) = (Checksum::new(), u16::try_from(len).ok()?);
        if self.v4 {
            let ip = Ipv4Header::at(head, self.l3).ok()?;
            sum.add_pseudo_v4(ip.src(), ip.dst(), self.protocol(), len);
        } else {
            let ip = Ipv6Header::at(head, self.l3).ok()?;
            sum.add_pseudo_v6(ip.src(), ip.dst(), self.protocol(), len.into());
        }
        Some(sum)
    }

    /// Whether all checksums are right, or would be: a wrong one must arrive as one.
    fn is_right<F: Frame>(&self, frame: &F) -> bool {
        let head = frame.head();
        let ip = || checksum(head.get(self.l3..self.l4).unwrap_or_default()) == 0;
        if self.v4 && !ip() {
            return false;
        }
        let Some(mut sum) = self.pseudo(head, self.len.saturating_sub(self.l4)) else {
            return false;
        };
        match frame.offload().csum {
            Csum::Verified => true,
            Csum::Unknown => {
                let rest = sum_range(frame, self.l4..self.len).partial();
                sum.add_u16(rest);
                sum.finish() == 0
            }
            Csum::Partial { start, offset } => {
                (usize::from(start), offset) == (self.l4, self.csum_offset())
                    && self.csum(head) == Some(sum.partial())
            }
        }
    }
}

/// Whether a frame may be TCP or UDP over IP without options, by its first bytes.
fn may_be_one(head: &[u8]) -> bool {
    let known = |protocol| [IpProtocol::TCP, IpProtocol::UDP].contains(&IpProtocol(protocol));
    let packet = match head.get(12..) {
        Some([0x81, 0x00, _, _, rest @ ..] | rest) => rest,
        None => return false,
    };
    match packet {
        [0x08, 0x00, 0x45, _, _, _, _, _, _, _, _, protocol, ..] => known(*protocol),
        [0x86, 0xdd, _, _, _, _, _, _, next, ..] => known(*next),
        _ => false,
    }
}

/// A super-frame that is being made: the first frame, and behind its payload that of others.
struct Open<F> {
    frame: F,
    first: Segment,
    /// Whether the first frame's checksums were looked at, and are right.
    is_right: Option<bool>,
    frames: usize,
    bytes: usize,
    payload_len: usize,
    flags: TcpFlags,
    /// Nothing goes behind what came last.
    ended: bool,
}

impl<F: Frame> Open<F> {
    fn new(frame: F, first: Segment) -> Self {
        let ended = first.flags.any(LAST);
        let payload_len = first.payload_len();
        let (flags, bytes) = (first.flags, first.len);
        Self { frame, first, is_right: None, frames: 1, bytes, payload_len, flags, ended }
    }

    /// Puts a frame behind what there is, or hands it back.
    fn add(&mut self, frame: F, next: &Segment) -> Result<(), F> {
        if !self.goes_on(&frame, next) {
            return Err(frame);
        }
        let (first, first_frame) = (self.first, &self.frame);
        let is_right = *self.is_right.get_or_insert_with(|| first.is_right(first_frame));
        if !is_right || !next.is_right(&frame) {
            return Err(frame);
        }
        let payload = frame.head().get(next.payload..).unwrap_or_default();
        if self.frame.append(payload).is_err() {
            return Err(frame);
        }
        self.frames = self.frames.saturating_add(1);
        self.bytes = self.bytes.saturating_add(next.len);
        self.payload_len = self.payload_len.saturating_add(next.payload_len());
        self.flags = next.flags;
        self.ended = next.flags.any(LAST) || next.payload_len() < first.payload_len();
        Ok(())
    }

    /// Whether a frame is what comes next of the connection, in all that is not its own.
    fn goes_on(&self, frame: &F, next: &Segment) -> bool {
        let Segment { v4, tcp, l3, l4, payload, .. } = self.first;
        let (ours, theirs) = (self.frame.head(), frame.head());
        let same = |range: Range<usize>| {
            ours.get(range.clone()).is_some_and(|ours| theirs.get(range) == Some(ours))
        };
        let at = |from: usize, offset: usize| from.saturating_add(offset);
        let ip_len = at(payload.saturating_sub(l3), self.payload_len);
        let counted = u16::try_from(self.frames).unwrap_or(u16::MAX);
        !self.ended
            && (next.v4, next.tcp, next.l3, next.l4, next.payload) == (v4, tcp, l3, l4, payload)
            && next.payload_len() <= self.first.payload_len()
            && self.frames < MAX_SEGMENTS
            && at(ip_len, next.payload_len()) <= IP_MAX
            // The payload of a super-frame is less than 64 KiB.
            && (!tcp || next.seq == self.first.seq.wrapping_add(self.payload_len as u32))
            && next.flags.without(LAST) == self.first.flags.without(LAST)
            && same(0..l3)
            && if v4 {
                next.ipv4_id == self.first.ipv4_id.wrapping_add(counted)
                    && same(l3..at(l3, 2))
                    && same(at(l3, 6)..at(l3, 10))
                    && same(at(l3, 12)..l4)
            } else {
                same(l3..at(l3, 4)) && same(at(l3, 6)..l4)
            }
            && same(l4..at(l4, 4))
            && (!tcp
                || same(at(l4, 8)..at(l4, 13))
                    && same(at(l4, 14)..at(l4, 16))
                    && same(at(l4, 18)..payload))
    }

    /// What came of it.
    fn close(self) -> Joined<F> {
        let Self { mut frame, first, frames, bytes, .. } = self;
        if frames > 1 {
            // Its headers were read before: they are there.
            let _ = write_headers(&mut frame, &first, self.payload_len, self.flags);
        }
        Joined { frame, frames: frames as u64, bytes: bytes as u64 }
    }
}

/// Makes the headers of the first segment those of the super-frame.
fn write_headers<F: Frame>(
    frame: &mut F,
    first: &Segment,
    payload_len: usize,
    flags: TcpFlags,
) -> Option<()> {
    let Segment { v4, l3, l4, payload, .. } = *first;
    let l4_len = payload.saturating_sub(l4).saturating_add(payload_len);
    let ip_len = u16::try_from(l4.saturating_sub(l3).saturating_add(l4_len)).ok()?;
    let head = frame.head_mut();
    if v4 {
        let ip = Ipv4Header::at_mut(head, l3).ok()?;
        ip.set_total_len(ip_len);
        ip.set_checksum(0);
        let sum = checksum(head.get(l3..l4)?);
        Ipv4Header::at_mut(head, l3).ok()?.set_checksum(sum);
    } else {
        let payload_len = u16::try_from(l4_len).ok()?;
        Ipv6Header::at_mut(head, l3).ok()?.set_payload_len(payload_len);
    }
    let pseudo = first.pseudo(head, l4_len)?.partial();
    if first.tcp {
        let tcp = TcpHeader::at_mut(head, l4).ok()?;
        tcp.set_flags(flags);
        tcp.set_checksum(pseudo);
    } else {
        let udp = UdpHeader::at_mut(head, l4).ok()?;
        udp.set_datagram_len(u16::try_from(l4_len).ok()?);
        udp.set_checksum(pseudo);
    }
    let size = u16::try_from(first.payload_len()).ok()?;
    let csum = Csum::Partial { start: u16::try_from(l4).ok()?, offset: first.csum_offset() };
    frame.set_offload(Offload { csum, gso: Some(Gso { kind: first.kind(), size, ecn: false }) });
    Some(())
}
