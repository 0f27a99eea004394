//! The hot side of a device: its queues, and bursts through them.

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use dpdk_sys::rte_mbuf;
use switch_core::batch::{BURST_MAX, Batch};
use switch_core::frame::{Frame, MAX_FRAME};

use super::{Device, notices};
use crate::mbuf::Mbuf;

/// A receive queue.
pub struct RxQueue {
    pub(super) device: Device,
    pub(super) queue: u16,
}

/// Frames that were received and could not be passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Bytes of all of them.
    pub bytes: u64,
    /// Shorter than an Ethernet header.
    pub runts: u64,
    /// Longer than [`MAX_FRAME`].
    pub giants: u64,
    /// The head had to be copied and the mempool was dry.
    pub no_mbuf: u64,
    /// Left unfinished, and not what their sender claims.
    pub bad_claims: u64,
}

impl Refused {
    /// How many there are.
    pub fn frames(&self) -> u64 {
        self.runts + self.giants + self.no_mbuf + self.bad_claims
    }

    /// Whether a frame of that length can be passed on; counts it if not.
    fn allows(&mut self, len: usize) -> bool {
        let count = match len {
            0..ETHERNET => &mut self.runts,
            ETHERNET..=MAX_FRAME => return true,
            _ => &mut self.giants,
        };
        *count += 1;
        self.bytes += len as u64;
        false
    }
}

impl RxQueue {
    /// Appends received frames, at most as many as there is room for.
    pub fn rx_burst(&mut self, batch: &mut Batch<Mbuf>, refused: &mut Refused) {
        let mut raw: [*mut rte_mbuf; BURST_MAX] = [ptr::null_mut(); BURST_MAX];
        let room = batch.room().min(BURST_MAX) as u16;
        let (port, mbufs) = (self.device.open.port, raw.as_mut_ptr());
        let claims = self.device.open.quirks.claims;
        // SAFETY: a started port with that queue, which only we use; at most `room` are written.
        let n = unsafe { dpdk_sys::vsw_eth_rx_burst(port, self.queue, mbufs, room) };
        for raw in raw.iter().take(n.into()).filter_map(|raw| NonNull::new(*raw)) {
            // SAFETY: just received; the queue's pool is one of ours, and who sends shared buffers
            // into a ring of ours does not write to them.
            match unsafe { Mbuf::from_rx(raw) } {
                Ok(mut frame) if refused.allows(frame.len()) => {
                    if claims && frame.check_claim().is_err() {
                        refused.bad_claims += 1;
                        refused.bytes += frame.len() as u64;
                        continue;
                    }
                    // It fits: no more were asked for than there was room.
                    let _ = batch.push(frame);
                }
                Ok(_) => {}
                Err(lost) => {
                    refused.no_mbuf += 1;
                    refused.bytes += lost.bytes as u64;
                }
            }
        }
    }
}

/// Length of an Ethernet header without tags.
const ETHERNET: usize = 14;

/// A send queue.
pub struct TxQueue {
    pub(super) device: Device,
    pub(super) queue: u16,
}

/// What one send did with a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames the driver took.
    pub frames: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Frames for which the queue was full.
    pub full: u64,
    /// Frames the device cannot send: in several pieces, and too long for one; or the pool was too dry
    /// to put them into another form.
    pub unfit: u64,
    /// Frames for a guest that is not there, or not known yet.
    pub down: u64,
}

impl TxQueue {
    /// Whether the far end takes frames from this queue. A guest may use fewer than there are.
    pub(crate) fn is_enabled(&self) -> bool {
        let open = &self.device.open;
        let enabled = || notices::of(open.port).tx_enabled.load(Ordering::Acquire);
        !open.quirks.guest || enabled() & 1u64.checked_shl(self.queue.into()).unwrap_or(0) != 0
    }

    /// Whether there is no guest of whom it is known what it finishes.
    fn is_barred(&self) -> bool {
        let notices = notices::of(self.device.open.port);
        notices.changes.load(Ordering::Acquire) != notices.known.load(Ordering::Acquire)
    }

    /// Sends the frames in order and leaves the batch empty. What the driver does not take at once
    /// is freed.
    pub fn tx_burst(&mut self, batch: &mut Batch<Mbuf>) -> Sent {
        let mut raw: [*mut rte_mbuf; BURST_MAX] = [ptr::null_mut(); BURST_MAX];
        let mut lens = [0u32; BURST_MAX];
        let mut sent = Sent::default();
        if self.device.open.quirks.guest && self.is_barred() {
            sent.down = batch.len() as u64;
            batch.clear();
            return sent;
        }
        let mut n = 0;
        let pieces = self.device.open.has(dpdk_sys::VSW_TX_OFFLOAD_MULTI_SEGS);
        for mut frame in batch.drain() {
            if !pieces && frame.linearize().is_err() {
                sent.unfit += 1;
                continue;
            }
            let hidden = !self.device.open.quirks.guest || frame.hide_headers().is_ok();
            if !hidden || frame.prepare_tx().is_err() {
                sent.unfit += 1;
                continue;
            }
            // Read now: a sent frame is gone, and may be in other hands already.
            lens[n] = frame.len() as u32;
            raw[n] = frame.into_raw();
            n += 1;
        }
        let (port, mbufs) = (self.device.open.port, raw.as_mut_ptr());
        let mut done = 0;
        while done < n {
            let rest = mbufs.wrapping_add(done);
            let left = (n - done) as u16;
            // SAFETY: a started port with that queue, which only we use; `left` frames that are
            // ours no more.
            let taken = unsafe { dpdk_sys::vsw_eth_tx_burst(port, self.queue, rest, left) };
            let from = done;
            done = (done + usize::from(taken)).min(n);
            sent.frames += (done - from) as u64;
            sent.bytes += lens[from..done].iter().map(|len| u64::from(*len)).sum::<u64>();
            if done == n || !self.device.open.quirks.refuses_frames {
                break;
            }
            // SAFETY: the driver did not take this one, and we forgot it above.
            unsafe { dpdk_sys::rte_pktmbuf_free_bulk(raw[done..].as_mut_ptr(), 1) };
            sent.unfit += 1;
            done += 1;
        }
        sent.full = (n - done) as u64;
        let left = &mut raw[done..n];
        if !left.is_empty() {
            // SAFETY: the driver did not take these, and we forgot them above.
            unsafe { dpdk_sys::rte_pktmbuf_free_bulk(left.as_mut_ptr(), left.len() as u32) };
        }
        sent
    }
}

impl fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RxQueue({}, {})", self.device.name(), self.queue)
    }
}

impl fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxQueue({}, {})", self.device.name(), self.queue)
    }
}
