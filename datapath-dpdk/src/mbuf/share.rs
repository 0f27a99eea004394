//! Keeping the head of a frame private and contiguous while its payload is shared.

use super::seg::{chain, consume, copy_out};
use super::{HEAD_PRIVATE, Mbuf, PoolDry, note};
use crate::mempool::Mempool;
use switch_core::frame::{Frame, HEAD_MIN};
use switch_core::segment::header_len;

impl Mbuf {
    /// Makes the head as long as [`Frame::head`] promises, and private.
    ///
    /// # Errors
    /// [`PoolDry`] if that takes a fresh mbuf and there is none; the frame's bytes are unchanged.
    pub(super) fn ensure_head(&mut self) -> Result<(), PoolDry> {
        let need = HEAD_MIN.min(self.len());
        if self.window() >= need {
            return Ok(());
        }
        if self.first.is_exclusive() {
            self.forget_sharing();
            if usize::from(self.first.data_len()) >= need || self.pull_up(need) {
                return Ok(());
            }
        }
        self.rehead()
    }

    /// Whoever shared the buffer is gone.
    fn forget_sharing(&mut self) {
        if let Some(mut note) = note::get(self.first) {
            note.shared_from = 0;
            note::set(self.first, note);
        }
    }

    /// Fills the tailroom of the first segment, which is private, from those behind it. False, with
    /// nothing changed, if there is not enough room.
    fn pull_up(&mut self, need: usize) -> bool {
        let have = usize::from(self.first.data_len());
        let room = usize::from(self.first.tailroom());
        if have + room < need {
            return false;
        }
        let take = HEAD_PRIVATE.min(self.len()).saturating_sub(have).min(room);
        // SAFETY: `have` bytes from `data()` are data, and at least `take` free ones follow.
        let tail = unsafe { self.first.data().add(have) };
        // SAFETY: inside the buffer, initialised by the pool's maker (zeroed memory) or data, and
        // nobody else's: the buffer has no other holder.
        let tail = unsafe { std::slice::from_raw_parts_mut(tail, take) };
        let taken = copy_out(self.first.next(), tail);
        self.first.set_next(consume(self.first.next(), taken));
        // Not more than the tailroom, so it fits.
        self.first.set_data_len((have + taken) as u16);
        self.recount();
        true
    }

    /// Moves the head into a fresh mbuf in front.
    pub(super) fn rehead(&mut self) -> Result<(), PoolDry> {
        let mut new = self.pool().and_then(Mempool::alloc).ok_or(PoolDry)?;
        let own = HEAD_PRIVATE.min(self.len());
        copy_out(Some(self.first), new.extend_first(own));
        new.copy_meta(self);
        let new = new.into_seg();
        new.set_next(consume(Some(self.first), own));
        // The old chain is freed or linked: only the pointer is replaced.
        self.first = new;
        self.recount();
        Ok(())
    }

    /// A copy with a head of its own, whose payload is shared.
    pub(super) fn share_payload(&mut self) -> Option<Self> {
        let pool = self.pool()?;
        // More than the promised head, so that a tag or a tunnel header taken off later finds the
        // next bytes private already.
        let own = self.window().min(HEAD_PRIVATE);
        let mut copy = pool.alloc()?;
        copy.extend_first(own).copy_from_slice(&self.head()[..own]);
        copy.copy_meta(self);
        let mut last = copy.first;
        for (i, seg) in chain(Some(self.first)).enumerate() {
            let skip = if i == 0 { own as u16 } else { 0 };
            if seg.data_len() <= skip {
                continue;
            }
            let indirect = pool.alloc()?.into_seg();
            // SAFETY: fresh. What it keeps in view is written by nobody: of the first segment only
            // what lies behind `own`, which is marked as shared below before anyone can write, and
            // later segments are read-only to all.
            unsafe { indirect.attach(seg) };
            indirect.advance(skip);
            last.set_next(Some(indirect));
            last = indirect;
        }
        copy.recount();
        if usize::from(self.first.data_len()) > own {
            let mut note = note::get_or_new(self.first);
            note.shared_from = self.first.data_off() + own as u16;
            note::set(self.first, note);
        }
        Some(copy)
    }

    /// Replaces the frame by one of a single segment, for drivers that send no other.
    ///
    /// # Errors
    /// [`PoolDry`], also when the frame does not fit one mbuf; the frame is unchanged.
    pub(crate) fn linearize(&mut self) -> Result<(), PoolDry> {
        if self.first.nb_segs() == 1 {
            return Ok(());
        }
        let pool = self.pool().ok_or(PoolDry)?;
        if self.len() > usize::from(pool.data_room()) {
            return Err(PoolDry);
        }
        let mut new = pool.alloc().ok_or(PoolDry)?;
        copy_out(Some(self.first), new.extend_first(self.len()));
        new.copy_meta(self);
        *self = new;
        Ok(())
    }

    /// Cuts a super-frame within its headers, for `net_vhost`: what it does to checksums of headers in
    /// one piece (`rte_net_intel_cksum_prepare`) is meant for NICs, which want the sum of the
    /// pseudo-header without the length. Virtio and Linux want it with the length, as it is. Other
    /// frames stay as they are.
    ///
    /// # Errors
    /// [`PoolDry`]; the frame is unchanged.
    pub(crate) fn hide_headers(&mut self) -> Result<(), PoolDry> {
        let offload = self.offload();
        let headers = offload.gso.and_then(|_| header_len(self.head(), &offload));
        let Some(keep) = headers.map(|len| len - 1).filter(|keep| *keep < self.window()) else {
            return Ok(());
        };
        let mut new = self.pool().and_then(Mempool::alloc).ok_or(PoolDry)?;
        new.extend_first(keep).copy_from_slice(&self.head()[..keep]);
        new.copy_meta(self);
        let new = new.into_seg();
        // Less than a data length, so it fits.
        self.first.advance(keep as u16);
        new.set_next(Some(self.first));
        self.first = new;
        self.recount();
        Ok(())
    }

    /// Gives the empty first segment `n` bytes (at most what it has room for) to be written.
    fn extend_first(&mut self, n: usize) -> &mut [u8] {
        let n = n.min(usize::from(self.first.tailroom()));
        self.first.set_data_len(n as u16);
        self.first.set_pkt_len(n as u32);
        self.head_mut()
    }

    fn copy_meta(&mut self, from: &Self) {
        let (to, from) = (self.first, from.first);
        to.set_port(from.port());
        to.set_packet_type(from.packet_type());
        to.set_hash_rss(from.hash_rss());
        to.set_ol_flags(note::rx_flags(from.ol_flags()) & !OWN_BUFFER);
        if let Some(mut note) = note::get(from) {
            note.shared_from = 0;
            note::set(to, note);
        }
    }

    /// Brings the totals in the first segment in line with the chain.
    pub(super) fn recount(&mut self) {
        let mut segments = 0;
        let mut len = 0;
        for seg in chain(Some(self.first)) {
            segments += 1;
            len += u32::from(seg.data_len());
        }
        self.first.set_nb_segs(segments);
        self.first.set_pkt_len(len);
    }

    pub(super) fn pool(&self) -> Option<Mempool> {
        // SAFETY: the pool of an mbuf of ours is one of ours: receive queues and shares use no
        // other.
        self.first.pool().map(|raw| unsafe { Mempool::from_raw(raw) })
    }
}

/// Flags that say whose buffer an mbuf looks at: they never move to another mbuf.
const OWN_BUFFER: u64 = dpdk_sys::VSW_MBUF_F_INDIRECT | dpdk_sys::VSW_MBUF_F_EXTERNAL;
