//! Frames in mbufs.
//!
//! An [`Mbuf`] owns a chain of segments. Its head lies in the first one and is its own; what follows
//! may be looked at by other frames too and is never written:
//!
//! ```text
//! original   [headroom | head ........ | payload ............. ]
//!                                        ^ shared_from, refcnt 2
//! share      [headroom | copy of head] -> (indirect: payload)
//! ```
//!
//! So a frame that is flooded to twenty ports is pushed and rewritten twenty times and its payload
//! copied never.

mod claim;
mod note;
mod seg;
mod share;

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use dpdk_sys::rte_mbuf;
use switch_core::frame::{
    Csum, Frame, HEAD_MIN, MAX_FRAME, NoHeadroom, NoTailroom, Offload, TooShort,
};

pub(crate) use note::register_note;
use seg::{Seg, chain, consume};

use crate::mempool::Mempool;
use switch_core::segment::finish_checksum;

/// Bytes of a frame that a share copies: the promised head and room for two tunnel headers.
pub(crate) const HEAD_PRIVATE: usize = HEAD_MIN + 128;

/// The mempool has no free mbuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mempool is dry")]
pub struct PoolDry;

/// A frame that no driver can be told how to finish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unfit;

/// A received frame that had to be given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    /// How long it was.
    pub(crate) bytes: usize,
}

/// A frame in mbufs. Dropping it gives them back.
///
/// Invariants: the chain belongs to this value alone; the bytes of `head()` are no other frame's, and
/// no other frame writes any byte in view.
#[repr(transparent)]
pub struct Mbuf {
    first: Seg,
}

// SAFETY: the chain belongs to this value alone, buffers are counted atomically, and pools take
// mbufs back on any thread.
unsafe impl Send for Mbuf {}

// Drivers take arrays of pointers.
const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut rte_mbuf>());

impl Mbuf {
    /// # Safety
    /// `raw` is one segment fresh from a pool of ours, and the caller's alone.
    pub(crate) unsafe fn from_fresh(raw: NonNull<rte_mbuf>) -> Self {
        // SAFETY: as the caller vouches.
        Self { first: unsafe { Seg::new(raw) } }
    }

    /// Takes back what [`Self::into_raw`] gave away.
    ///
    /// # Safety
    /// Nobody took it meanwhile.
    pub(crate) unsafe fn from_own(raw: NonNull<rte_mbuf>) -> Self {
        // SAFETY: as the caller vouches.
        Self { first: unsafe { Seg::new(raw) } }
    }

    /// Takes over what a driver received.
    ///
    /// # Errors
    /// [`Lost`] if the head had to be copied and there was no mbuf for it; the frame is freed.
    ///
    /// # Safety
    /// `raw` is the first segment of a frame that a driver, having got its buffers from pools of
    /// ours, has just given to the caller; if its buffers are shared, then with frames that do not
    /// write to them.
    #[inline]
    pub(crate) unsafe fn from_rx(raw: NonNull<rte_mbuf>) -> Result<Self, Lost> {
        // SAFETY: as the caller vouches.
        let frame = Self { first: unsafe { Seg::new(raw) } };
        // One segment of our own is a whole head already.
        if frame.first.is_plain() { Ok(frame) } else { frame.normalised() }
    }

    /// The rest of [`Self::from_rx`].
    #[cold]
    fn normalised(mut self) -> Result<Self, Lost> {
        let frame = &mut self;
        frame.first.set_ol_flags(note::rx_flags(frame.first.ol_flags()));
        let private = frame.first.is_exclusive();
        let normalised = if private { frame.ensure_head() } else { frame.rehead() };
        normalised.map_err(|PoolDry| Lost { bytes: frame.len() })?;
        Ok(self)
    }

    /// Copies what a driver received into one of its own buffers, which goes back at once.
    ///
    /// # Errors
    /// [`Lost`] if there was no mbuf for the copy.
    ///
    /// # Safety
    /// `raw` is a frame in one segment that a driver has just given to the caller.
    pub(crate) unsafe fn copy_rx(raw: NonNull<rte_mbuf>, pool: Mempool) -> Result<Self, Lost> {
        // SAFETY: as the caller vouches.
        let seg = unsafe { Seg::new(raw) };
        // SAFETY: nobody writes to it before it is freed below.
        let bytes = unsafe { seg.bytes() };
        let copy = pool.frame(bytes).ok_or(Lost { bytes: bytes.len() });
        // SAFETY: ours alone, and not used again.
        unsafe { seg.free() };
        copy
    }

    /// Where its first mbuf is.
    pub(crate) fn as_ptr(&self) -> *const rte_mbuf {
        self.first.as_ptr()
    }

    /// Gives the frame away, to a driver or a ring.
    pub(crate) fn into_raw(self) -> *mut rte_mbuf {
        self.into_seg().as_ptr()
    }

    fn into_seg(self) -> Seg {
        ManuallyDrop::new(self).first
    }

    /// Bytes of the first segment that no other frame looks at.
    #[inline]
    fn window(&self) -> usize {
        let len = usize::from(self.first.data_len());
        if self.first.has_rx_flags_only() {
            return len;
        }
        match note::get(self.first).map_or(0, |note| note.shared_from) {
            0 => len,
            from => len.min(usize::from(from.saturating_sub(self.first.data_off()))),
        }
    }

    /// [`Frame::trim_front`] of a frame in several segments, or with a note.
    fn trim_any(&mut self, n: usize) -> Result<(), TooShort> {
        if n > self.window() {
            return Err(TooShort);
        }
        let first = self.first;
        let before = (first.data_off(), first.data_len(), first.pkt_len());
        // Not more than `data_len`, so it fits.
        first.advance(n as u16);
        first.set_pkt_len(before.2 - n as u32);
        if self.ensure_head().is_err() {
            first.set_data_off(before.0);
            first.set_data_len(before.1);
            first.set_pkt_len(before.2);
            return Err(TooShort);
        }
        if let Csum::Partial { .. } = self.offload().csum {
            self.set_offload(self.offload().pulled(n));
        }
        Ok(())
    }

    /// Adds bytes at the end, in fresh mbufs where they do not fit. On failure some were added.
    fn extend(&mut self, mut bytes: &[u8]) -> Result<(), PoolDry> {
        let mut last = chain(Some(self.first)).last().ok_or(PoolDry)?;
        while !bytes.is_empty() {
            let room = if last.is_exclusive() { usize::from(last.tailroom()) } else { 0 };
            if room == 0 {
                let fresh = self.pool().and_then(|pool| pool.alloc()).ok_or(PoolDry)?.into_seg();
                last.set_next(Some(fresh));
                last = fresh;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let have = last.data_len();
            // SAFETY: behind the data, inside the buffer.
            let end = unsafe { last.data().add(usize::from(have)) };
            // SAFETY: `now` is no longer than the tailroom, which nobody else sees; it is borrowed
            // from elsewhere.
            unsafe { end.copy_from_nonoverlapping(now.as_ptr(), now.len()) };
            last.set_data_len(have + now.len() as u16);
            bytes = later;
        }
        Ok(())
    }

    /// Puts `frame` behind this one without copying, as a driver does that receives in pieces. The
    /// head stays as long as it is, so this is for what goes into a ring.
    pub fn chain(&mut self, frame: Self) {
        if let Some(last) = chain(Some(self.first)).last() {
            last.set_next(Some(frame.into_seg()));
        }
        self.recount();
    }

    /// Whether a driver of any kind can send it as it is: one segment, and nothing to be told of.
    /// It is ready to be sent then.
    #[inline]
    pub(crate) fn is_plain_tx(&mut self) -> bool {
        let plain = self.first.nb_segs() == 1 && self.first.has_rx_flags_only();
        if plain && self.first.ol_flags() != 0 {
            // What the receiving driver said is for nobody else.
            self.first.set_ol_flags(0);
        }
        plain
    }

    /// Tells the driver what is left to do, in its own terms; what these have no words for is
    /// finished here.
    ///
    /// # Errors
    /// A super-frame that no driver can be told of.
    pub(crate) fn prepare_tx(&mut self) -> Result<(), Unfit> {
        let offload = note::get(self.first).map_or(Offload::NONE, |note| note.offload());
        let work = note::tx_work(self.head(), offload);
        if work.is_none() && !offload.is_finished() {
            if offload.gso.is_some() {
                return Err(Unfit);
            }
            finish_checksum(self).map_err(|_| Unfit)?;
        }
        let buffer = dpdk_sys::VSW_MBUF_F_INDIRECT | dpdk_sys::VSW_MBUF_F_EXTERNAL;
        let mut flags = self.first.ol_flags() & buffer;
        if let Some(work) = work {
            let (l2, l3) = (u64::from(work.l2_len), u64::from(work.l3_len));
            let (l4, segment) = (u64::from(work.l4_len), u64::from(work.segment));
            // SAFETY: arithmetic.
            let packed = unsafe { dpdk_sys::vsw_mbuf_tx_offload(l2, l3, l4, segment) };
            self.first.set_tx_offload(packed);
            flags |= work.flags;
        }
        self.first.set_ol_flags(flags);
        Ok(())
    }
}

impl Frame for Mbuf {
    #[inline]
    fn len(&self) -> usize {
        self.first.pkt_len() as usize
    }

    #[inline]
    fn head(&self) -> &[u8] {
        // SAFETY: the window is data inside the buffer, and only `head_mut` of this frame, which
        // is borrowed, could write to it.
        unsafe { std::slice::from_raw_parts(self.first.data(), self.window()) }
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        // SAFETY: the window is data inside the buffer, and no other frame looks at it.
        unsafe { std::slice::from_raw_parts_mut(self.first.data(), self.window()) }
    }

    fn for_each_segment<'a>(&'a self, f: &mut dyn FnMut(&'a [u8])) {
        for seg in chain(Some(self.first)) {
            // SAFETY: `head_mut` is the only way to write, and cannot be called while this frame
            // is borrowed; what is shared is written by nobody.
            f(unsafe { seg.bytes() });
        }
    }

    fn segments(&self) -> usize {
        usize::from(self.first.nb_segs())
    }

    #[inline]
    fn headroom(&self) -> usize {
        usize::from(self.first.data_off())
    }

    // Else it is a call for every header.
    #[inline(always)]
    fn prepend(&mut self, n: usize) -> Result<&mut [u8], NoHeadroom> {
        if n > self.headroom() {
            return Err(NoHeadroom);
        }
        // Not more than `data_off`, so it fits.
        let bytes = n as u16;
        self.first.set_data_off(self.first.data_off() - bytes);
        self.first.set_data_len(self.first.data_len() + bytes);
        self.first.set_pkt_len(self.first.pkt_len() + u32::from(bytes));
        if !self.is_finished() {
            self.set_offload(self.offload().pushed(n));
        }
        // SAFETY: the first `n` bytes of the data were headroom, which no other frame looks at.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.first.data(), n) })
    }

    #[inline]
    fn trim_front(&mut self, n: usize) -> Result<(), TooShort> {
        let first = self.first;
        // One segment, of which nothing is noted: the rest is a private head, and finished.
        if first.nb_segs() == 1 && note::get(first).is_none() {
            if n > usize::from(first.data_len()) {
                return Err(TooShort);
            }
            first.advance(n as u16);
            first.set_pkt_len(first.pkt_len() - n as u32);
            return Ok(());
        }
        self.trim_any(n)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), NoTailroom> {
        let before = self.len();
        if before + bytes.len() > MAX_FRAME {
            return Err(NoTailroom);
        }
        let extended = self.extend(bytes);
        self.recount();
        if extended.and_then(|()| self.ensure_head()).is_err() {
            self.truncate(before);
            return Err(NoTailroom);
        }
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        let mut left = len;
        let mut last = self.first;
        for (i, seg) in chain(Some(self.first)).enumerate() {
            if i > 0 && left == 0 {
                break;
            }
            let keep = left.min(usize::from(seg.data_len()));
            seg.set_data_len(keep as u16);
            left -= keep;
            last = seg;
        }
        let rest = last.next();
        last.set_next(None);
        consume(rest, usize::MAX);
        self.recount();
    }

    #[inline]
    fn offload(&self) -> Offload {
        note::offload(self.first)
    }

    #[inline]
    fn is_finished(&self) -> bool {
        // What is unfinished is always in a note.
        self.first.has_rx_flags_only()
            || note::get(self.first).is_none_or(|note| note.offload().is_finished())
    }

    #[inline]
    fn set_offload(&mut self, offload: Offload) {
        // Nothing to be noted, and nothing to be known from the driver any more.
        if offload == Offload::NONE && self.first.has_rx_flags_only() {
            let flags = self.first.ol_flags() & !dpdk_sys::VSW_MBUF_F_RX_L4_CKSUM_MASK;
            return self.first.set_ol_flags(flags);
        }
        note::set(self.first, note::get_or_new(self.first).with(offload));
    }

    fn share(&mut self) -> Option<Self> {
        self.share_payload()
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: the chain is ours alone.
        unsafe { dpdk_sys::vsw_pktmbuf_free(self.first.as_ptr()) }
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head();
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("segments", &self.segments())
            .field("offload", &self.offload())
            .field("head", &&head[..head.len().min(14)])
            .finish()
    }
}
