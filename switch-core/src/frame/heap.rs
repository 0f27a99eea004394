//! Frames on the ordinary heap: what the TAP backend and the tests use.
//!
//! A frame is a small head buffer, which it owns alone, and for anything longer a tail that copies
//! may share. Both come from a pool and go back to it, so a warm switch allocates nothing.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::{Frame, HEAD_MIN, NoHeadroom, NoTailroom, Offload, TooShort};

/// Room kept free in front of a received frame.
///
/// GENEVE over IPv6 with every option is 308 bytes; before it there may be an inner tag pushed, and
/// behind it an outer Ethernet header with one.
pub const HEADROOM: usize = 384;

/// Bytes of a frame that fit the head buffer: a 1,500-byte MTU with two tags and some to spare.
pub const HEAD_CAPACITY: usize = 2048 - HEADROOM;

/// Longest frame: a maximal IPv4 packet behind Ethernet and two tags.
pub const MAX_FRAME: usize = 65_535 + 14 + 8;

/// Bytes that a frame which shares the payload of another has of its own: the head it must have, also
/// behind a tunnel's header, and an address or a tag more.
const OWN_BYTES: usize = HEAD_MIN + 64;

const HEAD_BYTES: usize = HEADROOM + HEAD_CAPACITY;
/// A whole frame: how much of a received one goes into the head is up to the receiver.
const TAIL_BYTES: usize = MAX_FRAME;

/// How many free buffers a pool keeps; more may be in use, and are then freed when dropped.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Head buffers of 2 KiB.
    pub heads: usize,
    /// Tail buffers of 64 KiB.
    pub tails: usize,
    /// Most head buffers in existence; beyond it [`FramePool::alloc`] answers `None`.
    pub max_heads: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { heads: 4096, tails: 256, max_heads: 65_536 }
    }
}

/// Buffers of one backend. Dropping it lets frames that are still under way free themselves.
#[derive(Clone)]
pub struct FramePool {
    shared: Arc<Shared>,
}

struct Shared {
    heads: ArrayQueue<Box<Head>>,
    tails: ArrayQueue<Arc<Tail>>,
    in_use: std::sync::atomic::AtomicUsize,
    max_heads: usize,
}

struct Head {
    bytes: [u8; HEAD_BYTES],
}

struct Tail {
    bytes: Vec<u8>,
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramePool")
            .field("free_heads", &self.shared.heads.len())
            .field("free_tails", &self.shared.tails.len())
            .field("in_use", &self.in_use())
            .finish()
    }
}

impl FramePool {
    /// An empty pool: buffers are made on first use and kept after.
    pub fn new(config: PoolConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                heads: ArrayQueue::new(config.heads.max(1)),
                tails: ArrayQueue::new(config.tails.max(1)),
                in_use: std::sync::atomic::AtomicUsize::new(0),
                max_heads: config.max_heads,
            }),
        }
    }

    /// An empty frame with [`HEADROOM`] free bytes in front; `None` when `max_heads` are in use.
    pub fn alloc(&self) -> Option<HeapFrame> {
        use std::sync::atomic::Ordering::Relaxed;
        if self.shared.in_use.fetch_add(1, Relaxed) >= self.shared.max_heads {
            self.shared.in_use.fetch_sub(1, Relaxed);
            return None;
        }
        let head =
            self.shared.heads.pop().unwrap_or_else(|| Box::new(Head { bytes: [0; HEAD_BYTES] }));
        Some(HeapFrame {
            head: Some(head),
            tail: None,
            pool: Arc::clone(&self.shared),
            start: HEADROOM as u16,
            head_len: 0,
            tail_start: 0,
            tail_len: 0,
            apart: Apart::default(),
            offload: Offload::NONE,
        })
    }

    /// A frame with these bytes; `None` when the pool is dry or they are more than [`MAX_FRAME`].
    pub fn frame(&self, bytes: &[u8]) -> Option<HeapFrame> {
        let mut frame = self.alloc()?;
        frame.fill(bytes).then_some(frame)
    }

    /// Frames in existence.
    pub fn in_use(&self) -> usize {
        self.shared.in_use.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Shared {
    fn tail(&self) -> Arc<Tail> {
        self.tails.pop().unwrap_or_else(|| Arc::new(Tail { bytes: vec![0; TAIL_BYTES] }))
    }

    fn put_tail(&self, mut tail: Arc<Tail>) {
        // Whoever finds itself alone puts it back; a lost race only frees the buffer.
        if Arc::get_mut(&mut tail).is_some() {
            let _ = self.tails.push(tail);
        }
    }
}

/// A frame of a [`FramePool`].
pub struct HeapFrame {
    /// `Some` until drop.
    head: Option<Box<Head>>,
    tail: Option<Arc<Tail>>,
    pool: Arc<Shared>,
    start: u16,
    head_len: u16,
    /// Where its bytes begin in the tail buffer, and how many they are.
    tail_start: u32,
    tail_len: u32,
    apart: Apart,
    offload: Offload,
}

/// How the bytes of a tail lie: in one piece, or in pieces with something between them that is not the
/// frame's, as the payloads of datagrams that came together do.
#[derive(Clone, Copy, Default)]
struct Apart {
    /// Bytes between two pieces; 0 if there is one alone, and the other two say nothing.
    gap: u32,
    /// What is left of the first piece. At least 1, as is the next.
    first: u32,
    /// Bytes of each other piece but the last, which may have fewer.
    piece: u32,
}

/// Where a received frame is to be written: the head first, what does not fit into the tail.
#[derive(Debug)]
pub struct RxWindow<'a> {
    /// The first bytes, [`HEAD_CAPACITY`] unless the receiver wants fewer there.
    pub head: &'a mut [u8],
    /// The rest, up to [`MAX_FRAME`] in all.
    pub tail: &'a mut [u8],
}

impl HeapFrame {
    /// Replaces the content; false (and an empty frame) if it is longer than [`MAX_FRAME`].
    pub fn fill(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > MAX_FRAME {
            self.set_received(0);
            return false;
        }
        let in_head = bytes.len().min(HEAD_CAPACITY);
        let (first, rest) = bytes.split_at(in_head);
        if rest.is_empty() {
            self.reset(false);
            self.buf_mut()[HEADROOM..HEADROOM + in_head].copy_from_slice(first);
        } else {
            let window = self.rx_window();
            window.head[..in_head].copy_from_slice(first);
            window.tail[..rest.len()].copy_from_slice(rest);
        }
        self.set_received(bytes.len())
    }

    /// Replaces the content by a part of another frame, with which it may share it. False if the other
    /// one has no such part.
    pub fn fill_of(&mut self, from: &Self, range: Range<usize>) -> bool {
        self.reset(false);
        let (mut at, mut fits) = (0, true);
        from.for_each_segment(&mut |piece| {
            let [start, end] =
                [range.start, range.end].map(|to| to.saturating_sub(at).min(piece.len()));
            if start < end {
                fits &= self.append_of(from, at + start, &piece[start..end]).is_ok();
            }
            at += piece.len();
        });
        fits && self.len() == range.len()
    }

    /// Replaces the content by parts of another frame that lie apart, and shares what it can: all of
    /// `first`, and then `more` bytes in pieces of `piece`, each `gap` bytes behind what is before it.
    /// False if the other frame has no such parts, or if those behind the first are not in one piece of
    /// it: then the content is anything.
    pub fn fill_apart(
        &mut self,
        from: &Self,
        first: Range<usize>,
        (gap, piece, more): (usize, usize, usize),
    ) -> bool {
        let sizes = [gap, piece, more].map(u32::try_from);
        let [Ok(gap @ 1..), Ok(piece @ 1..), Ok(more)] = sizes else { return false };
        // Three lengths of 32 bits.
        let behind = u64::from(more) + u64::from(more.div_ceil(piece)) * u64::from(gap);
        let there =
            from.apart.gap == 0 && (first.end as u64).saturating_add(behind) <= from.len() as u64;
        let (Some(at), Some(tail)) = (first.end.checked_sub(from.head_len.into()), &from.tail)
        else {
            return false;
        };
        if !there || !self.fill_of(from, first) {
            return false;
        }
        let end = from.tail_at(at) as u32;
        match &self.tail {
            // The first one fits into the head.
            None => {
                self.tail = Some(Arc::clone(tail));
                (self.tail_start, self.apart.first) = (end + gap, piece);
            }
            Some(own) if Arc::ptr_eq(own, tail) => self.apart.first = self.tail_len,
            Some(_) => return false,
        }
        (self.apart.gap, self.apart.piece) = (gap, piece);
        self.tail_len += more;
        self.pull_up();
        true
    }

    /// Makes the frame empty and gives the space for the next one to be received into. Follow with
    /// [`Self::set_received`].
    pub fn rx_window(&mut self) -> RxWindow<'_> {
        self.rx_window_of(HEAD_CAPACITY)
    }

    /// The same where the head is to have at most `in_head` bytes of it, so that what comes behind them
    /// lies in one piece. Follow with [`Self::set_received_of`].
    pub fn rx_window_of(&mut self, in_head: usize) -> RxWindow<'_> {
        self.reset(true);
        let in_head = in_head.min(HEAD_CAPACITY);
        let head = self.head.as_mut().map(|h| &mut h.bytes[HEADROOM..HEADROOM + in_head]);
        let tail = self.tail.as_mut().and_then(Arc::get_mut);
        let tail = tail.map(|t| &mut t.bytes[..MAX_FRAME - in_head]);
        RxWindow { head: head.unwrap_or_default(), tail: tail.unwrap_or_default() }
    }

    /// Makes the frame empty and gives only the head for receiving: for devices that cannot hand
    /// out more than [`HEAD_CAPACITY`] bytes.
    pub fn rx_head(&mut self) -> &mut [u8] {
        self.reset(false);
        &mut self.buf_mut()[HEADROOM..]
    }

    /// Says how many bytes were written into the window. False (and an empty frame) if that is more
    /// than the window had.
    pub fn set_received(&mut self, len: usize) -> bool {
        self.set_received_of(len, HEAD_CAPACITY)
    }

    /// The same for a window whose head has `in_head` bytes. With fewer than [`HEAD_MIN`] of a longer frame
    /// in its head it is none to be handed out, but one that others are filled of.
    pub fn set_received_of(&mut self, len: usize, in_head: usize) -> bool {
        let in_head = in_head.min(HEAD_CAPACITY);
        let fits = len <= if self.tail.is_some() { MAX_FRAME } else { in_head };
        let len = if fits { len } else { 0 };
        self.start = HEADROOM as u16;
        self.head_len = len.min(in_head) as u16;
        self.tail_start = 0;
        self.tail_len = len.saturating_sub(in_head) as u32;
        self.apart = Apart::default();
        if self.tail_len == 0
            && let Some(tail) = self.tail.take()
        {
            self.pool.put_tail(tail);
        }
        fits
    }

    fn reset(&mut self, with_tail: bool) {
        self.start = HEADROOM as u16;
        self.head_len = 0;
        self.tail_start = 0;
        self.tail_len = 0;
        self.apart = Apart::default();
        self.offload = Offload::NONE;
        let alone = self.tail.as_mut().is_some_and(|t| Arc::get_mut(t).is_some());
        if with_tail && !alone {
            self.tail = Some(self.pool.tail());
        } else if !with_tail && let Some(tail) = self.tail.take() {
            self.pool.put_tail(tail);
        }
    }

    fn buf_mut(&mut self) -> &mut [u8] {
        self.head.as_mut().map(|h| &mut h.bytes[..]).unwrap_or_default()
    }

    /// The pieces that lie in the tail, in order.
    fn tail_pieces(&self) -> impl Iterator<Item = &[u8]> {
        let Apart { gap, first, piece } = self.apart;
        let (mut start, mut left, mut here) = (self.tail_start, self.tail_len, first);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let len = if gap == 0 { left } else { here.min(left) };
            let range = start as usize..(start + len) as usize;
            (start, left, here) = (start + len + gap, left - len, piece);
            self.tail.as_ref()?.bytes.get(range)
        })
    }

    /// Brings the pieces of a payload that lies apart together: afterwards there are at most two in all.
    pub fn bring_together(&mut self) {
        if self.apart.gap > 0 {
            self.copy_tail();
        }
    }

    /// Gives the frame a tail of its own, in one piece.
    fn copy_tail(&mut self) {
        let mut tail = self.pool.tail();
        let Some(new) = Arc::get_mut(&mut tail) else { return };
        let mut at = 0;
        for piece in self.tail_pieces() {
            new.bytes[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        if let Some(before) = self.tail.replace(tail) {
            self.pool.put_tail(before);
        }
        (self.tail_start, self.apart) = (0, Apart::default());
    }

    /// Where byte `at` of the tail lies in its buffer.
    fn tail_at(&self, at: usize) -> usize {
        let Apart { gap, first, piece } = self.apart;
        let start = self.tail_start as usize;
        match at.checked_sub(first as usize) {
            Some(behind) if gap > 0 => start + at + gap as usize * (1 + behind / piece as usize),
            _ => start + at,
        }
    }

    /// Moves bytes from the tail until the head has [`HEAD_MIN`] bytes or the whole frame.
    fn pull_up(&mut self) {
        if self.head_len as usize >= HEAD_MIN || self.tail_len == 0 {
            return;
        }
        // Up to a quarter of the head at once: a tunnel's decap and a tag's pop pull only once.
        let want = (HEAD_CAPACITY / 4).min(self.tail_len as usize);
        let Some(mut head) = self.head.take() else { return };
        let old = self.start as usize..self.start as usize + self.head_len as usize;
        // Back to the usual place, so that the pulled bytes fit behind.
        head.bytes.copy_within(old, HEADROOM);
        self.start = HEADROOM as u16;
        let mut room = &mut head.bytes[HEADROOM + self.head_len as usize..][..want];
        let mut moved = 0;
        for piece in self.tail_pieces() {
            let part = &piece[..piece.len().min(room.len())];
            let (to, rest) = room.split_at_mut(part.len());
            to.copy_from_slice(part);
            (room, moved) = (rest, moved + part.len());
        }
        self.head = Some(head);
        self.tail_start = self.tail_at(moved) as u32;
        if let (Apart { gap: 1.., first, piece }, moved) = (&mut self.apart, moved as u32) {
            *first = match moved.checked_sub(*first) {
                None => *first - moved,
                Some(behind) => *piece - behind % *piece,
            };
        }
        self.head_len += moved as u16;
        self.tail_len -= moved as u32;
    }
}

impl Frame for HeapFrame {
    fn len(&self) -> usize {
        self.head_len as usize + self.tail_len as usize
    }

    fn head(&self) -> &[u8] {
        let start = self.start as usize;
        let range = start..start + self.head_len as usize;
        self.head.as_ref().map(|h| &h.bytes[range]).unwrap_or_default()
    }

    fn head_mut(&mut self) -> &mut [u8] {
        let start = self.start as usize;
        let range = start..start + self.head_len as usize;
        self.head.as_mut().map(|h| &mut h.bytes[range]).unwrap_or_default()
    }

    fn for_each_segment<'a>(&'a self, f: &mut dyn FnMut(&'a [u8])) {
        f(self.head());
        self.tail_pieces().for_each(f);
    }

    fn segments(&self) -> usize {
        let Apart { gap, first, piece } = self.apart;
        match self.tail_len.checked_sub(first) {
            Some(behind) if gap > 0 => 2 + behind.div_ceil(piece) as usize,
            _ => 1 + usize::from(self.tail_len > 0),
        }
    }

    fn headroom(&self) -> usize {
        self.start as usize
    }

    fn prepend(&mut self, n: usize) -> Result<&mut [u8], NoHeadroom> {
        if n > self.headroom() {
            return Err(NoHeadroom);
        }
        self.start -= n as u16;
        self.head_len += n as u16;
        self.offload = self.offload.pushed(n);
        Ok(&mut self.head_mut()[..n])
    }

    fn trim_front(&mut self, n: usize) -> Result<(), TooShort> {
        if n > self.head_len as usize {
            return Err(TooShort);
        }
        self.start += n as u16;
        self.head_len -= n as u16;
        self.offload = self.offload.pulled(n);
        self.pull_up();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), NoTailroom> {
        let head_end = self.start as usize + self.head_len as usize;
        let room = if self.tail_len == 0 { HEAD_BYTES - head_end } else { 0 };
        let (first, rest) = bytes.split_at(bytes.len().min(room));
        if !rest.is_empty() {
            if self.len() + bytes.len() > MAX_FRAME {
                return Err(NoTailroom);
            }
            let len = self.tail_len as usize;
            let alone = self.tail.as_mut().and_then(Arc::get_mut).is_some();
            let ends_at = self.tail_start as usize + len + rest.len();
            if !alone || self.apart.gap > 0 || ends_at > TAIL_BYTES {
                // No tail yet, or one that is shared and so not to be written.
                self.copy_tail();
            }
            let tail = self.tail.as_mut().and_then(Arc::get_mut).ok_or(NoTailroom)?;
            tail.bytes[self.tail_start as usize + len..][..rest.len()].copy_from_slice(rest);
            self.tail_len += rest.len() as u32;
        }
        self.buf_mut()[head_end..head_end + first.len()].copy_from_slice(first);
        self.head_len += first.len() as u16;
        self.pull_up();
        Ok(())
    }

    fn append_of(&mut self, from: &Self, at: usize, bytes: &[u8]) -> Result<(), NoTailroom> {
        let own = OWN_BYTES.saturating_sub(self.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(own);
        let room = HEAD_BYTES - self.start as usize - self.head_len as usize;
        let in_tail = (at + own).checked_sub(from.head_len as usize);
        let shared = in_tail.filter(|at| at + rest.len() <= from.tail_len as usize);
        let (Some(at), Some(tail)) = (shared, &from.tail) else { return self.append(bytes) };
        if rest.is_empty() || self.tail_len > 0 || room < own {
            return self.append(bytes);
        }
        self.append(first)?;
        if let Some(unused) = self.tail.replace(Arc::clone(tail)) {
            self.pool.put_tail(unused);
        }
        self.tail_start = from.tail_at(at) as u32;
        self.tail_len = rest.len() as u32;
        self.apart = Apart::default();
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.head_len = len.min(self.head_len as usize) as u16;
        let rest = len.saturating_sub(self.head_len as usize);
        self.tail_len = rest.min(self.tail_len as usize) as u32;
    }

    fn offload(&self) -> Offload {
        self.offload
    }

    fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    fn share(&mut self) -> Option<Self> {
        let mut copy = FramePool { shared: Arc::clone(&self.pool) }.alloc()?;
        copy.start = self.start;
        copy.head_len = self.head_len;
        copy.offload = self.offload;
        copy.head_mut().copy_from_slice(self.head());
        if self.tail_len > 0 {
            copy.tail.clone_from(&self.tail);
            copy.tail_start = self.tail_start;
            copy.tail_len = self.tail_len;
            copy.apart = self.apart;
        }
        Some(copy)
    }
}

impl Drop for HeapFrame {
    fn drop(&mut self) {
        if let Some(tail) = self.tail.take() {
            self.pool.put_tail(tail);
        }
        if let Some(head) = self.head.take() {
            let _ = self.pool.heads.push(head);
        }
        self.pool.in_use.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl fmt::Debug for HeapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapFrame")
            .field("len", &self.len())
            .field("offload", &self.offload)
            .field("head", &self.head().get(..14.min(self.head().len())))
            .finish()
    }
}

#[cfg(test)]
mod tests;
