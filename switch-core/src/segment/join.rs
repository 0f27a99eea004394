//! Joining frames into a super-frame: what a sender, a NIC or a tunnel cut is handed to a port at once,
//! its payload gathered from where it lies, which costs it one system call and its stack one walk.
//!
//! Only what [`super::segment`] would cut back into the very same bytes is joined: neighbours in a
//! burst, of one TCP connection in sequence or of one UDP flow and of one length, with equal headers but
//! for what counts up. So nothing is reordered, held back or told differently. Linux joins a little more
//! (`tcp_gro_receive`: other windows, any identification of packets that are not to be fragmented).

use std::mem;
use std::ops::Range;

use super::sum_range;
use super::validate::MAX_SEGMENTS;
use crate::batch::BURST_MAX;
use crate::datapath::Caps;
use crate::frame::{Csum, Frame, Gso, GsoKind, Offload};
use crate::wire::checksum::checksum;
use crate::wire::{
    Checksum, Fragment, Header, IpProtocol, Ipv4Header, Ipv6Header, Layers, Network, TcpFlags,
    TcpHeader, Transport, UdpHeader,
};

/// One frame, or several that are one super-frame: the first has its headers and metadata, and behind
/// its payload belongs that of the others.
#[derive(Debug)]
pub struct Joined<'a, F> {
    first: &'a F,
    more: &'a [F],
    /// Bytes of headers, which are left out of all but the first.
    headers: usize,
}

impl<'a, F> From<&'a F> for Joined<'a, F> {
    fn from(frame: &'a F) -> Self {
        Self { first: frame, more: &[], headers: 0 }
    }
}

impl<'a, F: Frame> Joined<'a, F> {
    /// What its headers and metadata are to be read of.
    #[must_use]
    pub const fn first(&self) -> &'a F {
        self.first
    }

    /// How many frames came in.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        (self.more.len() as u64).saturating_add(1)
    }

    /// How many bytes these had.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.all().map(|frame| frame.len() as u64).sum()
    }

    /// How many contiguous pieces it has, at least 1. More than one frame have at most [`PIECES_MAX`].
    #[must_use]
    pub fn segments(&self) -> usize {
        self.all().map(Frame::segments).sum()
    }

    /// Calls `f` with every contiguous piece in order.
    pub fn for_each_segment(&self, f: &mut dyn FnMut(&'a [u8])) {
        self.first.for_each_segment(f);
        for frame in self.more {
            let mut skip = self.headers;
            frame.for_each_segment(&mut |piece| {
                // The headers are in the first piece.
                f(piece.get(mem::take(&mut skip)..).unwrap_or_default());
            });
        }
    }

    fn all(&self) -> impl Iterator<Item = &'a F> {
        std::iter::once(self.first).chain(self.more)
    }
}

/// The most pieces that frames are joined of: a burst of them, each of which has a head and a tail.
pub const PIECES_MAX: usize = 2 * BURST_MAX;
/// Flags that segments of a super-frame may have: ECE on all or none, the last two on the last.
const MAY_HAVE: TcpFlags = TcpFlags(TcpFlags::ACK.0 | TcpFlags::ECE.0 | LAST.0);
/// Flags that only the last segment may have.
const LAST: TcpFlags = TcpFlags(TcpFlags::FIN.0 | TcpFlags::PSH.0);
/// Where TCP has its checksum, from its start.
const TCP_CSUM: u16 = 16;
/// The most that lengths of IP can say.
const IP_MAX: usize = 65_535;

/// Joins what can be joined, keeps the order, and hands everything to `emit`. Nothing is copied.
///
/// `caps` says what may be made: nothing is joined for a port that has to have it cut again.
pub fn join<'a, F: Frame>(frames: &'a mut [F], caps: Caps, mut emit: impl FnMut(Joined<'a, F>)) {
    let may_join = caps.csum && (caps.tso4 || caps.tso6 || caps.uso);
    let mut rest = frames;
    while let Some((first, behind)) = mem::take(&mut rest).split_first_mut() {
        let joined = if may_join { join_behind(first, behind, caps) } else { None };
        let (n, headers) = joined.unwrap_or_default();
        let (more, later) = behind.split_at_mut(n);
        emit(Joined { first, more, headers });
        rest = later;
    }
}

/// How many of the frames that follow the first belong behind it, if any do; bytes of their headers. The
/// first has those of the super-frame then.
fn join_behind<F: Frame>(first: &mut F, behind: &[F], caps: Caps) -> Option<(usize, usize)> {
    let segment = Segment::of(first).filter(|segment| segment.may_join(caps))?;
    let mut open = Open::new(first, segment);
    let n = behind.iter().take_while(|frame| open.add(*frame)).count();
    let Open { payload_len, flags, .. } = open;
    (n > 0).then(|| {
        // They were read before: they are there.
        if let Some(offload) = write_headers(first.head_mut(), &segment, payload_len, flags) {
            first.set_offload(offload);
        }
        (n, segment.payload)
    })
}

/// Segments of TCP that are one super-frame, found in bytes that no frame was made of yet.
#[derive(Clone, Copy, Debug)]
pub struct InBytes {
    segment: Segment,
    more: usize,
    payload_len: usize,
    flags: TcpFlags,
}

impl InBytes {
    /// The super-frame that `first` begins, a frame from its Ethernet header to its end, and those that
    /// follow, if there is one. With longer headers than `headers_max` it is none: nothing is summed then.
    pub fn of<'a>(
        first: &'a [u8],
        following: impl Iterator<Item = &'a [u8]>,
        headers_max: usize,
    ) -> Option<Self> {
        let fits = |segment: &Segment| segment.is_tcp() && segment.payload <= headers_max;
        let segment = Segment::of(first).filter(fits)?;
        let mut open = Open::new(first, segment);
        let more = following.take_while(|next| open.add(*next)).count();
        let Open { payload_len, flags, .. } = open;
        (more > 0).then_some(Self { segment, more, payload_len, flags })
    }

    /// How many follow the first, at least 1.
    #[must_use]
    pub const fn more(&self) -> usize {
        self.more
    }

    /// Bytes of headers, which are left out of those.
    #[must_use]
    pub const fn headers(&self) -> usize {
        self.segment.payload
    }

    /// Bytes of the super-frame.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        self.segment.payload.saturating_add(self.payload_len)
    }

    /// Makes the headers of the first segment, which `head` begins with, those of the super-frame, and
    /// says what is left to do for it. `None` if they are not there.
    #[must_use]
    pub fn write(&self, head: &mut [u8]) -> Option<Offload> {
        write_headers(head, &self.segment, self.payload_len, self.flags)
    }
}

/// What a segment is read of.
pub(super) trait Part {
    /// Its first bytes, with all headers.
    fn head(&self) -> &[u8];
    fn len(&self) -> usize;
    fn offload(&self) -> Offload;
    fn pieces(&self) -> usize;
    fn sum(&self, range: Range<usize>) -> Checksum;
}

impl<F: Frame> Part for F {
    fn head(&self) -> &[u8] {
        Frame::head(self)
    }

    fn len(&self) -> usize {
        Frame::len(self)
    }

    fn offload(&self) -> Offload {
        Frame::offload(self)
    }

    fn pieces(&self) -> usize {
        self.segments()
    }

    fn sum(&self, range: Range<usize>) -> Checksum {
        sum_range(self, range)
    }
}

/// Bytes of which nobody said anything.
impl Part for [u8] {
    fn head(&self) -> &[u8] {
        self
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn offload(&self) -> Offload {
        Offload::NONE
    }

    fn pieces(&self) -> usize {
        1
    }

    fn sum(&self, range: Range<usize>) -> Checksum {
        let mut sum = Checksum::new();
        sum.add_bytes(self.get(range).unwrap_or_default());
        sum
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
    pub(super) fn of(frame: &(impl Part + ?Sized)) -> Option<Self> {
        let head = frame.head();
        // Most of what is not: another protocol, a frame that is one already.
        if frame.offload().gso.is_some() || !may_be_one(head) {
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
        let (tcp, (flags, seq)) = match layers.transport() {
            Transport::Tcp => (true, tcp_own(head, l4)?),
            Transport::Udp => (false, udp_own(frame, l4)?),
            Transport::Other => return None,
        };
        let ipv4_id = if v4 { Ipv4Header::at(head, l3).ok()?.id() } else { 0 };
        Some(Self { v4, tcp, l3, l4, payload, len: frame.len(), flags, seq, ipv4_id })
    }

    /// Another frame of the connection or flow, whose headers are equal in all that is not a segment's
    /// own: lengths, identification, sequence number, checksums and flags.
    fn like<P: Part + ?Sized>(&self, ours: &P, frame: &P) -> Option<Self> {
        let Self { v4, tcp, l3, l4, payload, .. } = *self;
        let (ours, theirs, len) = (ours.head(), frame.head(), frame.len());
        let at = |from: usize, offset: usize| from.saturating_add(offset);
        let same = |range: Range<usize>| {
            ours.get(range.clone()).is_some_and(|ours| theirs.get(range) == Some(ours))
        };
        let ip = |length, own: Range<usize>| {
            same(0..at(l3, length)) && same(at(l3, own.start)..at(l3, own.end))
        };
        let is_like = payload < len
            && frame.offload().gso.is_none()
            && if v4 { ip(2, 6..10) && same(at(l3, 12)..at(l4, 4)) } else { ip(4, 6..44) }
            && (!tcp
                || same(at(l4, 8)..at(l4, 13))
                    && same(at(l4, 14)..at(l4, 16))
                    && same(at(l4, 18)..payload));
        if !is_like {
            return None;
        }
        let (ip_len, ipv4_id) = if v4 {
            let ip = Ipv4Header::at(theirs, l3).ok()?;
            (usize::from(ip.total_len()), ip.id())
        } else {
            let ip = Ipv6Header::at(theirs, l3).ok()?;
            (at(ip.payload_len().into(), Ipv6Header::LEN), 0)
        };
        let own = if tcp { tcp_own(theirs, l4) } else { udp_own(frame, l4) };
        let (flags, seq) = own?;
        (at(l3, ip_len) == len).then_some(Self { len, flags, seq, ipv4_id, ..*self })
    }

    pub(super) const fn is_tcp(&self) -> bool {
        self.tcp
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
    fn is_right(&self, frame: &(impl Part + ?Sized)) -> bool {
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
                let rest = frame.sum(self.l4..self.len).partial();
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

/// Flags and sequence number of a segment of TCP that can be a part.
fn tcp_own(head: &[u8], l4: usize) -> Option<(TcpFlags, u32)> {
    let tcp = TcpHeader::at(head, l4).ok()?;
    let flags = tcp.flags();
    let can_be = flags.any(TcpFlags::ACK) && flags.without(MAY_HAVE) == TcpFlags::default();
    can_be.then_some((flags, tcp.seq()))
}

/// The same of a datagram of UDP, which has neither.
fn udp_own(frame: &(impl Part + ?Sized), l4: usize) -> Option<(TcpFlags, u32)> {
    let udp = UdpHeader::at(frame.head(), l4).ok()?;
    // One without a checksum would get one.
    let has_sum = udp.checksum() != 0 || !frame.offload().is_finished();
    let is_whole = usize::from(udp.datagram_len()) == frame.len().checked_sub(l4)?;
    (has_sum && is_whole).then_some((TcpFlags::default(), 0))
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

/// A super-frame that is being made.
struct Open<'a, P: ?Sized> {
    frame: &'a P,
    first: Segment,
    /// Whether the first frame's checksums were looked at, and are right.
    is_right: Option<bool>,
    frames: usize,
    pieces: usize,
    payload_len: usize,
    flags: TcpFlags,
    /// Nothing goes behind what came last.
    ended: bool,
}

impl<'a, P: Part + ?Sized> Open<'a, P> {
    fn new(frame: &'a P, first: Segment) -> Self {
        let ended = first.flags.any(LAST);
        let payload_len = first.payload_len();
        let (flags, pieces) = (first.flags, frame.pieces());
        Self { frame, first, is_right: None, frames: 1, pieces, payload_len, flags, ended }
    }

    /// Puts a frame behind what there is; false if it does not belong there.
    fn add(&mut self, frame: &P) -> bool {
        let pieces = self.pieces.saturating_add(frame.pieces());
        if self.ended || pieces > PIECES_MAX {
            return false;
        }
        let next = self.first.like(self.frame, frame).filter(|next| self.goes_on(next));
        let Some(next) = next else { return false };
        let (first, first_frame) = (self.first, self.frame);
        let is_right = *self.is_right.get_or_insert_with(|| first.is_right(first_frame));
        if !is_right || !next.is_right(frame) {
            return false;
        }
        self.frames = self.frames.saturating_add(1);
        self.pieces = pieces;
        self.payload_len = self.payload_len.saturating_add(next.payload_len());
        self.flags = next.flags;
        self.ended = next.flags.any(LAST) || next.payload_len() < first.payload_len();
        true
    }

    /// Whether a frame that is like the first is what comes next of the connection.
    fn goes_on(&self, next: &Segment) -> bool {
        let Segment { v4, tcp, l3, payload, seq, flags, ipv4_id, .. } = self.first;
        let headers = payload.saturating_sub(l3);
        let ip_len = headers.saturating_add(self.payload_len).saturating_add(next.payload_len());
        let counted = u16::try_from(self.frames).unwrap_or(u16::MAX);
        next.payload_len() <= self.first.payload_len()
            && self.frames < MAX_SEGMENTS
            && ip_len <= IP_MAX
            // The payload of a super-frame is less than 64 KiB.
            && (!tcp || next.seq == seq.wrapping_add(self.payload_len as u32))
            && next.flags.without(LAST) == flags.without(LAST)
            && (!v4 || next.ipv4_id == ipv4_id.wrapping_add(counted))
    }
}

/// Makes the headers of the first segment those of the super-frame, and says what is left to do for it.
fn write_headers(
    head: &mut [u8],
    first: &Segment,
    payload_len: usize,
    flags: TcpFlags,
) -> Option<Offload> {
    let Segment { v4, l3, l4, payload, .. } = *first;
    let l4_len = payload.saturating_sub(l4).saturating_add(payload_len);
    let ip_len = u16::try_from(l4.saturating_sub(l3).saturating_add(l4_len)).ok()?;
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
    Some(Offload { csum, gso: Some(Gso { kind: first.kind(), size, ecn: false }) })
}
