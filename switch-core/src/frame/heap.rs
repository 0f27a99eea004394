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
const TAIL_BYTES: usize = MAX_FRAME - HEAD_CAPACITY;

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
    tail_start: u32,
    tail_len: u32,
    offload: Offload,
}

/// Where a received frame is to be written: the head first, what does not fit into the tail.
#[derive(Debug)]
pub struct RxWindow<'a> {
    /// The first [`HEAD_CAPACITY`] bytes.
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

    /// Makes the frame empty and gives the space for the next one to be received into. Follow with
    /// [`Self::set_received`].
    pub fn rx_window(&mut self) -> RxWindow<'_> {
        self.reset(true);
        let head = self.head.as_mut().map(|h| &mut h.bytes[HEADROOM..]).unwrap_or_default();
        let tail = self.tail.as_mut().and_then(Arc::get_mut);
        RxWindow { head, tail: tail.map(|t| &mut t.bytes[..]).unwrap_or_default() }
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
        let room = HEAD_CAPACITY + if self.tail.is_some() { TAIL_BYTES } else { 0 };
        let fits = len <= room;
        let len = if fits { len } else { 0 };
        self.start = HEADROOM as u16;
        self.head_len = len.min(HEAD_CAPACITY) as u16;
        self.tail_start = 0;
        self.tail_len = len.saturating_sub(HEAD_CAPACITY) as u32;
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

    fn tail_bytes(&self) -> &[u8] {
        let range = self.tail_start as usize..(self.tail_start + self.tail_len) as usize;
        self.tail.as_ref().and_then(|t| t.bytes.get(range)).unwrap_or_default()
    }

    /// Moves bytes from the tail until the head has [`HEAD_MIN`] bytes or the whole frame.
    fn pull_up(&mut self) {
        if self.head_len as usize >= HEAD_MIN || self.tail_len == 0 {
            return;
        }
        // Up to a quarter of the head at once: a tunnel's decap and a tag's pop pull only once.
        let want = (HEAD_CAPACITY / 4).min(self.tail_len as usize);
        let (Some(head), Some(tail)) = (self.head.as_mut(), self.tail.as_ref()) else { return };
        let old = self.start as usize..self.start as usize + self.head_len as usize;
        // Back to the usual place, so that the pulled bytes fit behind.
        head.bytes.copy_within(old, HEADROOM);
        self.start = HEADROOM as u16;
        let at = HEADROOM + self.head_len as usize;
        let from = self.tail_start as usize;
        head.bytes[at..at + want].copy_from_slice(&tail.bytes[from..from + want]);
        self.head_len += want as u16;
        self.tail_start += want as u32;
        self.tail_len -= want as u32;
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
        if self.tail_len > 0 {
            f(self.tail_bytes());
        }
    }

    fn segments(&self) -> usize {
        1 + usize::from(self.tail_len > 0)
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
            let (from, len) = (self.tail_start as usize, self.tail_len as usize);
            if from + len + rest.len() > TAIL_BYTES {
                return Err(NoTailroom);
            }
            if self.tail.as_mut().and_then(Arc::get_mut).is_none() {
                // No tail yet, or one that is shared and so not to be written.
                let mut tail = self.pool.tail();
                let new = Arc::get_mut(&mut tail).ok_or(NoTailroom)?;
                new.bytes[from..from + len].copy_from_slice(self.tail_bytes());
                self.tail = Some(tail);
            }
            let tail = self.tail.as_mut().and_then(Arc::get_mut).ok_or(NoTailroom)?;
            tail.bytes[from + len..][..rest.len()].copy_from_slice(rest);
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
        self.tail_start = from.tail_start + at as u32;
        self.tail_len = rest.len() as u32;
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
mod tests {
    use super::*;
    use crate::frame::Csum;

    fn pool() -> FramePool {
        FramePool::new(PoolConfig { heads: 4, tails: 2, max_heads: 4 })
    }

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 7 % 251) as u8).collect()
    }

    fn content(frame: &HeapFrame) -> Vec<u8> {
        let mut out = Vec::new();
        frame.copy_to(&mut out);
        out
    }

    #[test]
    fn every_length_up_to_the_limit_round_trips() {
        let pool = pool();
        for n in [0, 1, 13, 14, 255, 256, HEAD_CAPACITY, HEAD_CAPACITY + 1, 9000, MAX_FRAME] {
            let frame = pool.frame(&bytes(n)).unwrap();
            assert_eq!(content(&frame), bytes(n));
            assert!(frame.head().len() >= n.min(HEAD_MIN));
        }
        assert!(pool.frame(&bytes(MAX_FRAME + 1)).is_none());
    }

    #[test]
    fn appending_in_any_steps_makes_the_same_frame() {
        let pool = pool();
        for step in [1, 7, 100, 1448, HEAD_CAPACITY, 5000] {
            let mut frame = pool.alloc().unwrap();
            bytes(9000).chunks(step).for_each(|piece| frame.append(piece).unwrap());
            assert_eq!(content(&frame), bytes(9000), "in steps of {step}");
            assert!(frame.head().len() >= HEAD_MIN);
        }
        let mut frame = pool.frame(&bytes(MAX_FRAME)).unwrap();
        assert_eq!(frame.append(&[0]), Err(NoTailroom));
        assert_eq!(content(&frame), bytes(MAX_FRAME));
    }

    #[test]
    fn appending_leaves_a_shared_tail_alone() {
        let pool = pool();
        let mut frame = pool.frame(&bytes(3000)).unwrap();
        let copy = frame.share().unwrap();
        frame.append(b"more").unwrap();
        assert_eq!(content(&copy), bytes(3000));
        assert_eq!(content(&frame), [&bytes(3000)[..], b"more"].concat());
    }

    #[test]
    fn parts_of_a_frame_are_shared_and_read_as_they_were() {
        let pool = FramePool::new(PoolConfig { heads: 64, tails: 4, max_heads: 64 });
        let whole = pool.frame(&bytes(MAX_FRAME)).unwrap();
        let border = HEAD_CAPACITY;
        let mut part = pool.alloc().unwrap();
        for from in [0, 1, border - 500, border - 1, border, border + 1, 30_001, MAX_FRAME - 9] {
            for len in [0, 1, 9, OWN_BYTES, OWN_BYTES + 1, 1500, 9000, 40_000] {
                let range = from..from + len;
                let there = range.end <= MAX_FRAME;
                assert_eq!(part.fill_of(&whole, range.clone()), there, "{range:?}");
                let end = range.end.min(MAX_FRAME);
                assert_eq!(content(&part), bytes(MAX_FRAME)[from..end], "{range:?}");
                assert!(part.head().len() >= HEAD_MIN.min(part.len()));
            }
        }
        // Its head is its own, and what it shares is not written to.
        assert!(part.fill_of(&whole, 5000..6500));
        assert!(part.segments() == 2 && part.head().len() == OWN_BYTES);
        part.head_mut().fill(0xee);
        part.append(b"more").unwrap();
        part.trim_front(200).unwrap();
        let rest = [&bytes(6500)[5000 + OWN_BYTES..], b"more"].concat();
        assert_eq!(content(&part)[OWN_BYTES - 200..], rest);
        assert_eq!(content(&whole), bytes(MAX_FRAME));
        // It has what it shares for itself when the other one is gone.
        assert!(part.fill_of(&whole, 5000..6500));
        drop(whole);
        assert_eq!(content(&part), bytes(6500)[5000..]);
    }

    #[test]
    fn appending_behind_a_far_trimmed_head_keeps_the_head_long_enough() {
        let pool = pool();
        let mut frame = pool.frame(&bytes(HEAD_CAPACITY)).unwrap();
        frame.trim_front(HEAD_CAPACITY - 10).unwrap();
        frame.append(&bytes(2000)).unwrap();
        assert!(frame.head().len() >= HEAD_MIN);
        assert_eq!(
            content(&frame),
            [&bytes(HEAD_CAPACITY)[HEAD_CAPACITY - 10..], &bytes(2000)].concat()
        );
    }

    #[test]
    fn trimming_keeps_the_head_long_enough() {
        let pool = pool();
        let mut frame = pool.frame(&bytes(9000)).unwrap();
        let mut cut = 0;
        while frame.len() > 300 {
            frame.trim_front(200).unwrap();
            cut += 200;
            assert!(frame.head().len() >= HEAD_MIN.min(frame.len()));
            assert_eq!(content(&frame), bytes(9000)[cut..]);
        }
        let head = frame.head().len();
        assert_eq!(frame.trim_front(head + 1), Err(TooShort));
    }

    #[test]
    fn shares_push_and_write_without_touching_each_other() {
        let pool = pool();
        let mut a = pool.frame(&bytes(9000)).unwrap();
        let mut b = a.share().unwrap();
        b.prepend(50).unwrap().fill(0xEE);
        b.head_mut()[60] = 1;
        a.prepend(8).unwrap().fill(0xDD);
        assert_eq!(content(&a)[8..], bytes(9000));
        assert_eq!(content(&b)[..50], [0xEE; 50]);
        drop(a);
        assert_eq!(content(&b)[61..], bytes(9000)[11..]);
    }

    #[test]
    fn the_pool_is_bounded_and_gets_everything_back() {
        let pool = pool();
        let mut held: Vec<_> = (0..4).map(|_| pool.alloc().unwrap()).collect();
        assert!(pool.alloc().is_none());
        assert!(held[0].share().is_none());
        held.clear();
        assert_eq!(pool.in_use(), 0);
        assert!(pool.alloc().is_some());
    }

    #[test]
    fn offload_positions_move_with_the_front() {
        let pool = pool();
        let mut frame = pool.frame(&bytes(100)).unwrap();
        let partial = |start| Offload { csum: Csum::Partial { start, offset: 16 }, gso: None };
        frame.set_offload(partial(34));
        frame.prepend(4).unwrap();
        assert_eq!(frame.offload(), partial(38));
        frame.trim_front(8).unwrap();
        assert_eq!(frame.offload(), partial(30));
        frame.trim_front(40).unwrap();
        assert_eq!(frame.offload().csum, Csum::Unknown);
    }

    #[test]
    fn no_headroom_and_truncate() {
        let pool = pool();
        let mut frame = pool.frame(&bytes(3000)).unwrap();
        assert_eq!(frame.prepend(HEADROOM + 1).err(), Some(NoHeadroom));
        assert_eq!(frame.prepend(HEADROOM).map(|b| b.len()), Ok(HEADROOM));
        frame.truncate(2000);
        assert_eq!(frame.len(), 2000);
        frame.truncate(10);
        assert_eq!((frame.len(), frame.segments()), (10, 1));
    }
}
