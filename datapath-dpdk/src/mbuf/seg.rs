//! One mbuf header, field by field. The only place that knows the C structure.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use dpdk_sys::{rte_mbuf, rte_mempool, vsw_mbuf};

/// The receive flags are the lowest 23 bits; dynamic ones follow (rte_mbuf_core.h).
pub(super) const RX_FLAGS: u64 = (1 << 23) - 1;

/// A live mbuf, one segment of a frame.
///
/// Whoever holds one inside this module owns the header: it came out of the pool, is in no ring and
/// no other frame's chain, so nobody else touches its fields but `refcnt`. [`super::Mbuf`] upholds
/// that; the type is `Copy` only to walk chains.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Seg(NonNull<vsw_mbuf>);

macro_rules! fields {
    ($($get:ident, $set:ident: $ty:ty;)*) => { $(
        #[inline]
        pub(super) fn $get(self) -> $ty {
            // SAFETY: a live header that we own (see the type).
            unsafe { (*self.0.as_ptr()).$get }
        }

        #[inline]
        pub(super) fn $set(self, value: $ty) {
            // SAFETY: a live header that we own (see the type).
            unsafe { (*self.0.as_ptr()).$get = value }
        }
    )* };
}

impl Seg {
    fields! {
        data_off, set_data_off: u16;
        nb_segs, set_nb_segs: u16;
        port, set_port: u16;
        ol_flags, set_ol_flags: u64;
        packet_type, set_packet_type: u32;
        pkt_len, set_pkt_len: u32;
        data_len, set_data_len: u16;
        hash_rss, set_hash_rss: u32;
    }

    /// Payload bytes of each segment of a super-frame that was received.
    pub(super) fn tso_segsz(self) -> u16 {
        // SAFETY: a live header that we own (see the type).
        unsafe { dpdk_sys::vsw_mbuf_tso_segsz(self.as_ptr()) }
    }

    pub(super) fn set_tx_offload(self, value: u64) {
        // SAFETY: a live header that we own (see the type).
        unsafe { (*self.0.as_ptr()).tx_offload = value }
    }

    /// # Safety
    /// `raw` is a live mbuf whose header the caller owns.
    pub(super) unsafe fn new(raw: NonNull<rte_mbuf>) -> Self {
        Self(raw.cast())
    }

    pub(super) fn as_ptr(self) -> *mut rte_mbuf {
        self.0.as_ptr().cast()
    }

    pub(super) fn buf_len(self) -> u16 {
        // SAFETY: a live header that we own (see the type).
        unsafe { (*self.0.as_ptr()).buf_len }
    }

    pub(super) fn pool(self) -> Option<NonNull<rte_mempool>> {
        // SAFETY: a live header that we own (see the type).
        let pool = unsafe { (*self.0.as_ptr()).pool };
        NonNull::new(pool)
    }

    pub(super) fn next(self) -> Option<Self> {
        // SAFETY: a live header that we own (see the type).
        let next = unsafe { (*self.0.as_ptr()).next };
        // The chain belongs to the owner of its head, so the invariant holds for the next one too.
        NonNull::new(next).map(|raw| Self(raw.cast()))
    }

    pub(super) fn set_next(self, next: Option<Self>) {
        let next = next.map_or(std::ptr::null_mut(), Self::as_ptr);
        // SAFETY: a live header that we own (see the type).
        unsafe { (*self.0.as_ptr()).next = next }
    }

    /// First data byte.
    #[inline]
    pub(super) fn data(self) -> *mut u8 {
        // SAFETY: a live header that we own (see the type).
        let buffer: *mut u8 = unsafe { (*self.0.as_ptr()).buf_addr }.cast();
        // SAFETY: drivers and this module keep `data_off` within `buf_len`, the buffer's size.
        unsafe { buffer.add(usize::from(self.data_off())) }
    }

    /// The data, which may be shared and hence is read-only.
    ///
    /// # Safety
    /// Nobody writes to these bytes while the slice lives.
    #[inline]
    pub(super) unsafe fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: `data_len` bytes from `data()` are initialised and inside the buffer; the caller
        // vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.data(), usize::from(self.data_len())) }
    }

    /// Free bytes behind the data.
    pub(super) fn tailroom(self) -> u16 {
        self.buf_len().saturating_sub(self.data_off()).saturating_sub(self.data_len())
    }

    /// Cuts `n` bytes, at most all, off the front.
    pub(super) fn advance(self, n: u16) {
        let n = n.min(self.data_len());
        self.set_data_off(self.data_off() + n);
        self.set_data_len(self.data_len() - n);
    }

    /// Whether no other mbuf refers to the buffer, so that all of it may be written.
    pub(super) fn is_exclusive(self) -> bool {
        let flags = self.ol_flags();
        if flags & dpdk_sys::VSW_MBUF_F_INDIRECT != 0 || self.refcnt() != 1 {
            return false;
        }
        if flags & dpdk_sys::VSW_MBUF_F_EXTERNAL != 0 && self.external_refcnt() != 1 {
            return false;
        }
        // The last other holder released with a decrement; its reads come before our writes.
        fence(Ordering::Acquire);
        true
    }

    /// Whether it has a buffer of its own and no note: both have flags beyond those of reception.
    #[inline]
    pub(super) fn has_rx_flags_only(self) -> bool {
        self.ol_flags() & !RX_FLAGS == 0
    }

    /// Whether this is how drivers receive nearly every frame: one direct segment that is nobody
    /// else's, and no flags but those of reception.
    #[inline]
    pub(super) fn is_plain(self) -> bool {
        let plain = self.nb_segs() == 1 && self.has_rx_flags_only() && self.refcnt() == 1;
        if plain {
            // As in `is_exclusive`.
            fence(Ordering::Acquire);
        }
        plain
    }

    #[inline]
    fn refcnt(self) -> u16 {
        // SAFETY: a live header; only the place is named, nothing is read.
        let place = unsafe { &raw mut (*self.0.as_ptr()).refcnt };
        // SAFETY: aligned and live; libdpdk's other threads access it atomically.
        unsafe { AtomicU16::from_ptr(place) }.load(Ordering::Relaxed)
    }

    fn external_refcnt(self) -> u16 {
        // SAFETY: a live header that we own (see the type).
        let shared = unsafe { (*self.0.as_ptr()).shinfo };
        if shared.is_null() {
            return u16::MAX;
        }
        // SAFETY: an mbuf with an external buffer points to that buffer's live shared info.
        let place = unsafe { &raw mut (*shared).refcnt };
        // SAFETY: aligned and live; libdpdk's other threads access it atomically.
        unsafe { AtomicU16::from_ptr(place) }.load(Ordering::Relaxed)
    }

    /// Makes this fresh segment refer to the data of `other`.
    ///
    /// # Safety
    /// This one came fresh from a pool; nobody may write to the data of `other` that this one keeps
    /// in view, until it is freed.
    pub(super) unsafe fn attach(self, other: Self) {
        // SAFETY: `self` is direct and has one holder, being fresh; `other` is live.
        unsafe { dpdk_sys::vsw_pktmbuf_attach(self.as_ptr(), other.as_ptr()) }
    }

    /// Gives this one segment back.
    ///
    /// # Safety
    /// It is in no chain any more and is not used again.
    pub(super) unsafe fn free(self) {
        self.set_next(None);
        // SAFETY: ours alone, as the caller vouches.
        unsafe { dpdk_sys::vsw_pktmbuf_free(self.as_ptr()) }
    }
}

/// The segments of a chain, in order.
pub(super) fn chain(first: Option<Seg>) -> impl Iterator<Item = Seg> {
    std::iter::successors(first, |seg| seg.next())
}

/// Copies the first `dst.len()` bytes of the chain, or all there are; says how many.
pub(super) fn copy_out(first: Option<Seg>, dst: &mut [u8]) -> usize {
    let mut done = 0;
    for seg in chain(first) {
        // SAFETY: the slice is gone before anything is written: `dst` is no part of the chain, as
        // it is borrowed mutably.
        let bytes = unsafe { seg.bytes() };
        let n = bytes.len().min(dst.len() - done);
        dst[done..done + n].copy_from_slice(&bytes[..n]);
        done += n;
        if done == dst.len() {
            break;
        }
    }
    done
}

/// Cuts `n` bytes off the front of the chain and frees the segments that are used up. Answers the
/// rest of the chain.
pub(super) fn consume(first: Option<Seg>, mut n: usize) -> Option<Seg> {
    let mut first = first;
    while let Some(seg) = first {
        let len = usize::from(seg.data_len());
        if len > n {
            // `n` is less than a data length, so it fits.
            seg.advance(n as u16);
            return Some(seg);
        }
        n -= len;
        first = seg.next();
        // SAFETY: the chain's owner has given it to us, and `first` has moved past it.
        unsafe { seg.free() };
    }
    None
}
