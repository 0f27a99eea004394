//! The hot side of a device: its queues, and bursts through them.

use std::fmt;
use std::ptr::{self, NonNull};

use dpdk_sys::rte_mbuf;
use switch_core::batch::{BURST_MAX, Batch};
use switch_core::frame::{Frame, MAX_FRAME};

use super::Device;
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
}

impl Refused {
    /// How many there are.
    pub fn frames(&self) -> u64 {
        self.runts + self.giants + self.no_mbuf
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
        // SAFETY: a started port with that queue, which only we use; at most `room` are written.
        let n = unsafe { dpdk_sys::vsw_eth_rx_burst(port, self.queue, mbufs, room) };
        for raw in raw.iter().take(n.into()).filter_map(|raw| NonNull::new(*raw)) {
            // SAFETY: just received; the queue's pool is one of ours, and who sends shared buffers
            // into a ring of ours does not write to them.
            match unsafe { Mbuf::from_rx(raw) } {
                Ok(frame) if refused.allows(frame.len()) => {
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
    /// Frames the device cannot send: in several pieces, and too long or the pool too dry for one.
    pub unfit: u64,
}

impl TxQueue {
    /// Sends the frames in order and leaves the batch empty. What the driver does not take at once
    /// is freed.
    pub fn tx_burst(&mut self, batch: &mut Batch<Mbuf>) -> Sent {
        let mut raw: [*mut rte_mbuf; BURST_MAX] = [ptr::null_mut(); BURST_MAX];
        let mut lens = [0u32; BURST_MAX];
        let mut sent = Sent::default();
        let mut n = 0;
        let pieces = self.device.open.has(dpdk_sys::VSW_TX_OFFLOAD_MULTI_SEGS);
        for mut frame in batch.drain() {
            if !pieces && frame.linearize().is_err() {
                sent.unfit += 1;
                continue;
            }
            frame.prepare_tx();
            // Read now: a sent frame is gone, and may be in other hands already.
            lens[n] = frame.len() as u32;
            raw[n] = frame.into_raw();
            n += 1;
        }
        let (port, mbufs) = (self.device.open.port, raw.as_mut_ptr());
        // SAFETY: a started port with that queue, which only we use; `n` frames that are ours no
        // more.
        let taken = unsafe { dpdk_sys::vsw_eth_tx_burst(port, self.queue, mbufs, n as u16) };
        let taken = usize::from(taken).min(n);
        sent.frames = taken as u64;
        sent.bytes = lens[..taken].iter().map(|len| u64::from(*len)).sum();
        sent.full = (n - taken) as u64;
        let left = &mut raw[taken..n];
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
