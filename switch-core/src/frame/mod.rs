//! What a frame is to the switch: an owned buffer with a writable head, spare room before it, and
//! the offload metadata it came with.

mod heap;
mod words;

use std::fmt;

use crate::ids::{Domain, PortId, TunnelId};

pub use heap::{FramePool, HEAD_CAPACITY, HEADROOM, HeapFrame, MAX_FRAME, PoolConfig, RxWindow};
pub use words::NoOffload;

/// The head of a frame is contiguous and writable for this many bytes, or for the whole frame.
///
/// Parsers read nothing beyond it. 256 bytes hold Ethernet, two tags, IPv6 with extensions, UDP, a
/// tunnel header and the inner Ethernet, IPv6 and TCP headers.
pub const HEAD_MIN: usize = 256;

/// There is not enough room in front of the frame for the header to be pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no headroom")]
pub struct NoHeadroom;

/// The frame's head is shorter than what was to be taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame too short")]
pub struct TooShort;

/// The frame has no room for more bytes at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no tailroom")]
pub struct NoTailroom;

/// One owned layer-2 frame, from the destination address to the payload, without FCS.
///
/// Dropping a frame returns its buffers to where they came from, on whatever thread that happens.
pub trait Frame: Send + Sized {
    /// Length in bytes, all segments together.
    fn len(&self) -> usize;

    /// Whether it has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The contiguous first bytes: at least [`HEAD_MIN`] or the whole frame.
    fn head(&self) -> &[u8];

    /// The same bytes for writing. Never shared with another frame.
    fn head_mut(&mut self) -> &mut [u8];

    /// Calls `f` with every contiguous piece in order; the first is [`Self::head`] or starts with
    /// it. Pieces after the head may be shared with other frames, hence read-only.
    fn for_each_segment<'a>(&'a self, f: &mut dyn FnMut(&'a [u8]));

    /// How many contiguous pieces it has, at least 1.
    fn segments(&self) -> usize;

    /// Free bytes in front of the head.
    fn headroom(&self) -> usize;

    /// Grows the frame by `n` bytes at the front and returns them; their content is arbitrary.
    /// Offload positions move along.
    ///
    /// # Errors
    /// [`NoHeadroom`], with the frame unchanged.
    fn prepend(&mut self, n: usize) -> Result<&mut [u8], NoHeadroom>;

    /// Cuts `n` bytes off the front. Offload positions move along; an unfinished checksum must lie
    /// behind the cut (finish it first), or its mark is lost.
    ///
    /// # Errors
    /// [`TooShort`] if the head has fewer bytes, with the frame unchanged. Afterwards the head
    /// again has [`HEAD_MIN`] bytes or the whole frame: the implementation pulls up what is needed.
    fn trim_front(&mut self, n: usize) -> Result<(), TooShort>;

    /// Adds bytes at the end, for frames the switch makes itself.
    ///
    /// # Errors
    /// [`NoTailroom`], with the frame unchanged, if it would be longer than its buffers can be.
    fn append(&mut self, bytes: &[u8]) -> Result<(), NoTailroom>;

    /// The same with bytes that are a part of one piece of `from`, where they begin at `at`: they may be
    /// shared with that frame, as with a copy.
    ///
    /// # Errors
    /// [`NoTailroom`], with the frame unchanged.
    fn append_of(&mut self, from: &Self, at: usize, bytes: &[u8]) -> Result<(), NoTailroom> {
        let _ = (from, at);
        self.append(bytes)
    }

    /// Shortens the frame to `len` bytes; longer values change nothing. For trailing padding.
    fn truncate(&mut self, len: usize);

    /// What the sender left undone, and what is known to be right.
    fn offload(&self) -> Offload;

    /// [`Offload::is_finished`] of it, for implementations that know sooner.
    #[inline]
    fn is_finished(&self) -> bool {
        self.offload().is_finished()
    }

    /// Replaces the offload metadata.
    fn set_offload(&mut self, offload: Offload);

    /// A cheap copy: its head is its own (and may be pushed and written), its payload may be
    /// shared. `None` when the pool is dry.
    fn share(&mut self) -> Option<Self>;

    /// Copies the bytes into `out`. For cold paths: tracing, capture, tests.
    fn copy_to(&self, out: &mut Vec<u8>) {
        out.clear();
        out.reserve(self.len());
        self.for_each_segment(&mut |piece| out.extend_from_slice(piece));
    }

    /// All bytes as one slice if the frame has one piece, else copied into `scratch`. For the
    /// software paths that must see the whole payload.
    fn contiguous<'a>(&'a self, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        if self.segments() == 1 {
            let mut whole: &[u8] = &[];
            self.for_each_segment(&mut |piece| whole = piece);
            whole
        } else {
            self.copy_to(scratch);
            scratch
        }
    }
}

/// What remains to be done to a frame before it is a plain one on a wire, and what is proven.
///
/// Positions count from the frame's first byte. Values from outside are checked by
/// [`crate::segment::validate`] before they get here, so the rest of the core may rely on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// State of the layer-4 checksum.
    pub csum: Csum,
    /// Present on a super-frame, one that stands for several frames. On a packet from the underlay it is
    /// said of the frame that the packet carries, and comes with [`Csum::Verified`], which is said of the
    /// packet: see [`crate::tunnel::Opened::take_out`].
    pub gso: Option<Gso>,
}

impl Offload {
    /// Nothing undone, nothing known.
    pub const NONE: Self = Self { csum: Csum::Unknown, gso: None };

    /// Whether the frame may go to any port as it is.
    pub fn is_finished(&self) -> bool {
        self.gso.is_none() && !matches!(self.csum, Csum::Partial { .. })
    }

    /// The metadata after `n` bytes were put in front.
    #[must_use]
    pub fn pushed(mut self, n: usize) -> Self {
        if let Csum::Partial { start, offset } = self.csum {
            let start = u16::try_from(n).ok().and_then(|n| start.checked_add(n));
            self.csum = start.map_or(Csum::Unknown, |start| Csum::Partial { start, offset });
        }
        self
    }

    /// The metadata after `n` bytes were cut off the front.
    #[must_use]
    pub fn pulled(mut self, n: usize) -> Self {
        if let Csum::Partial { start, offset } = self.csum {
            let start = u16::try_from(n).ok().and_then(|n| start.checked_sub(n));
            self.csum = start.map_or(Csum::Unknown, |start| Csum::Partial { start, offset });
        }
        self
    }
}

/// State of the layer-4 checksum of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Csum {
    /// Nobody looked: it is whatever the sender wrote.
    #[default]
    Unknown,
    /// The kernel or NIC that received it says it is right.
    Verified,
    /// The field holds only the pseudo-header's sum: the ones' complement sum from `start` to the
    /// end of the frame belongs at `start + offset` (Linux `csum_start`, `csum_offset`).
    Partial {
        /// First byte that is summed.
        start: u16,
        /// Where the checksum field is, from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

/// What a super-frame is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Protocol of the segments.
    pub kind: GsoKind,
    /// Payload bytes (behind the TCP or UDP header) of each segment but the last. Never 0.
    pub size: u16,
    /// TCP only: CWR is set on the first segment alone (`VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
}

/// Protocol of a super-frame's segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams of equal size over IPv4 or IPv6 (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

/// What travels beside a frame through one worker, not inside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameMeta {
    /// The port it came in on.
    pub in_port: PortId,
    /// Bridge and VLAN it was admitted to.
    pub domain: Domain,
    /// How it was tagged when it came in.
    pub tag: InTag,
    /// A number for a policy to match; 0 until one sets it.
    pub mark: u32,
    /// The tunnel it came out of.
    pub tunnel: Option<TunnelId>,
    /// GENEVE options it came with.
    pub options: Options,
}

/// Where the GENEVE options of a frame are among those of its burst. They travel beside the frames,
/// as their headers are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    start: u16,
    len: u8,
}

impl Options {
    /// Keeps the options of one more frame of a burst in `burst`: lengths checked, at most 252
    /// bytes. Without options, or if they do not fit, there are none.
    #[inline]
    pub fn keep(options: &[u8], burst: &mut Vec<u8>) -> Self {
        if options.is_empty() { Self::default() } else { Self::keep_some(options, burst) }
    }

    fn keep_some(options: &[u8], burst: &mut Vec<u8>) -> Self {
        match (u16::try_from(burst.len()), u8::try_from(options.len())) {
            (Ok(start), Ok(len @ 1..)) => {
                burst.extend_from_slice(options);
                Self { start, len }
            }
            _ => Self::default(),
        }
    }

    /// The options, from what [`Self::keep`] kept them in.
    pub fn of(self, burst: &[u8]) -> &[u8] {
        let start = usize::from(self.start);
        burst.get(start..start.saturating_add(self.len.into())).unwrap_or_default()
    }
}

impl fmt::Debug for FrameMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.in_port, self.domain, self.tag)
    }
}

/// The outer C-tag (TPID 0x8100) of a frame as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InTag {
    /// None.
    Untagged,
    /// VID 0: only a priority.
    Priority,
    /// A VID.
    Vlan,
}
