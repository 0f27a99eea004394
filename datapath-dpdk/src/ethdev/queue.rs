//! The hot side of a device: its queues, and bursts through them.

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use dpdk_sys::rte_mbuf;
use switch_core::batch::{BURST_MAX, Batch};
use switch_core::frame::{Frame, MAX_FRAME, Offload};
use switch_core::tunnel::left_unfinished;

use super::{Device, notices};
use crate::mbuf::Mbuf;

/// A receive queue.
pub struct RxQueue {
    device: Device,
    queue: u16,
    /// What a burst is received into.
    raw: Box<Raw>,
}

/// What drivers take and give: bare pointers, which mean something during one call only.
struct Raw([*mut rte_mbuf; BURST_MAX]);

// SAFETY: between two calls nobody follows the pointers.
unsafe impl Send for Raw {}

impl Raw {
    fn new() -> Box<Self> {
        Box::new(Self([ptr::null_mut(); BURST_MAX]))
    }
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
    #[inline]
    fn allows(&mut self, len: usize) -> bool {
        let allowed = (ETHERNET..=MAX_FRAME).contains(&len);
        if !allowed {
            self.count(len);
        }
        allowed
    }

    #[cold]
    fn count(&mut self, len: usize) {
        *(if len < ETHERNET { &mut self.runts } else { &mut self.giants }) += 1;
        self.bytes += len as u64;
    }
}

impl RxQueue {
    pub(super) fn new(device: Device, queue: u16) -> Self {
        Self { device, queue, raw: Raw::new() }
    }

    /// Appends received frames, at most as many as there is room for.
    pub fn rx_burst(&mut self, batch: &mut Batch<Mbuf>, refused: &mut Refused) {
        let room = batch.room().min(BURST_MAX) as u16;
        let (port, mbufs) = (self.device.open.port, self.raw.0.as_mut_ptr());
        let (claims, copy_into) = (self.device.open.quirks.claims, self.device.open.copy_into);
        // SAFETY: a started port with that queue, which only we use; at most `room` are written.
        let n = unsafe { dpdk_sys::vsw_eth_rx_burst(port, self.queue, mbufs, room) };
        for raw in self.raw.0.iter().take(n.into()).filter_map(|raw| NonNull::new(*raw)) {
            let received = match copy_into {
                // SAFETY: just received; the queue's pool is one of ours, and who sends shared
                // buffers into a ring of ours does not write to them.
                None => unsafe { Mbuf::from_rx(raw) },
                // SAFETY: just received, by a driver that knows no other than whole frames.
                Some(pool) => unsafe { Mbuf::copy_rx(raw, pool) },
            };
            match received {
                Ok(mut frame) if refused.allows(frame.len()) => {
                    if copy_into.is_some() {
                        let csum = left_unfinished(frame.head(), frame.len());
                        frame.set_offload(Offload { csum, gso: None });
                    }
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
    device: Device,
    queue: u16,
    /// What a burst is sent from.
    raw: Box<Raw>,
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
    pub(super) fn new(device: Device, queue: u16) -> Self {
        Self { device, queue, raw: Raw::new() }
    }

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
        let mut sent = Sent::default();
        if self.device.open.quirks.guest && self.is_barred() {
            sent.down = batch.len() as u64;
            batch.clear();
            return sent;
        }
        let quirks = self.device.open.quirks;
        let pieces = self.device.open.has(dpdk_sys::VSW_TX_OFFLOAD_MULTI_SEGS);
        let mut n = 0;
        for mut frame in batch.drain() {
            if quirks.guest || !frame.is_plain_tx() {
                let fits = pieces || frame.linearize().is_ok();
                let hidden = !quirks.guest || frame.hide_headers().is_ok();
                if !fits || !hidden || frame.prepare_tx().is_err() {
                    sent.unfit += 1;
                    continue;
                }
            }
            // Counted now: a sent frame is gone, and may be in other hands already.
            sent.bytes += frame.len() as u64;
            self.raw.0[n] = frame.into_raw();
            n += 1;
        }
        let (port, mbufs) = (self.device.open.port, self.raw.0.as_mut_ptr());
        let mut done = 0;
        while done < n {
            let rest = mbufs.wrapping_add(done);
            let left = (n - done) as u16;
            // SAFETY: a started port with that queue, which only we use; `left` frames that are
            // ours no more.
            let taken = unsafe { dpdk_sys::vsw_eth_tx_burst(port, self.queue, rest, left) };
            let taken = usize::from(taken).min(n - done);
            sent.frames += taken as u64;
            done += taken;
            if done == n || !quirks.refuses_frames {
                break;
            }
            sent.bytes -= self.take_back(done, done + 1);
            sent.unfit += 1;
            done += 1;
        }
        if done < n {
            sent.full = (n - done) as u64;
            sent.bytes -= self.take_back(done, n);
        }
        sent
    }

    /// Frees frames that the driver did not take. Answers how many bytes they had.
    #[cold]
    fn take_back(&self, from: usize, to: usize) -> u64 {
        let mut bytes = 0;
        for raw in self.raw.0[from..to].iter().filter_map(|raw| NonNull::new(*raw)) {
            // SAFETY: the driver did not take it, and we forgot it: it is ours again, and freed
            // when dropped.
            let frame = unsafe { Mbuf::from_own(raw) };
            bytes += frame.len() as u64;
        }
        bytes
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
