//! Ports on kernel devices: the TAP backend's files, and mbufs on this side of them.
//!
//! DPDK's own drivers for these devices were tried and are named in ARCHITECTURE.md with what they
//! lack: virtio headers above all, without which a kernel's unfinished checksums and super-frames
//! arrive as broken frames.

use datapath_tap::{Got, KernelQueue};
use switch_core::batch::{BURST_MAX, Batch};
use switch_core::drop::DropReason;
use switch_core::frame::{Frame, HeapFrame};
use switch_core::stats::PortCounters;

use crate::mbuf::Mbuf;
use crate::mempool::Mempool;

/// Turns that a file is left alone, at most, after it was found empty: asking is a system call, and
/// devices whose rings lie in memory should not wait for it.
const REST_MAX: u32 = 16;

/// One worker's queue of a kernel device.
#[derive(Debug)]
pub(crate) struct KernelPort {
    queue: KernelQueue,
    /// What a frame is received into. From here it is copied into as many mbufs as it takes.
    scratch: HeapFrame,
    pool: Mempool,
    /// Found by a look, and not yet asked for.
    found: Option<Found>,
    /// Turns in a row in which nothing was found.
    idle: u32,
    /// Turns until the next look.
    rest: u32,
}

#[derive(Debug)]
enum Found {
    Frame(Mbuf),
    Dropped(usize, DropReason),
}

impl KernelPort {
    pub(crate) fn new(queue: KernelQueue, scratch: HeapFrame, pool: Mempool) -> Self {
        Self { queue, scratch, pool, found: None, idle: 0, rest: 0 }
    }

    /// Whether there is something to receive or to count. `thorough` asks the kernel in any case.
    pub(crate) fn look(&mut self, thorough: bool) -> bool {
        if self.found.is_none() && (thorough || self.rest == 0) {
            self.found = self.next();
            self.idle = if self.found.is_some() { 0 } else { self.idle + 1 };
            self.rest = self.idle.min(REST_MAX);
        }
        self.rest = self.rest.saturating_sub(1);
        self.found.is_some()
    }

    fn next(&mut self) -> Option<Found> {
        loop {
            match self.queue.recv(&mut self.scratch) {
                Got::Frame => {
                    let len = self.scratch.len();
                    let copied = self.copy();
                    return Some(
                        copied.map_or(Found::Dropped(len, DropReason::CopyFailed), Found::Frame),
                    );
                }
                Got::Dropped(len, reason) => return Some(Found::Dropped(len, reason)),
                Got::Again => {}
                Got::Nothing => return None,
            }
        }
    }

    fn copy(&mut self) -> Option<Mbuf> {
        let mut frame = self.pool.alloc()?;
        let mut whole = true;
        self.scratch.for_each_segment(&mut |bytes| whole &= frame.append(bytes).is_ok());
        frame.set_offload(self.scratch.offload());
        whole.then_some(frame)
    }

    /// As `Datapath::rx_burst`.
    pub(crate) fn rx_burst(&mut self, batch: &mut Batch<Mbuf>, counters: &PortCounters) -> usize {
        let before = batch.len();
        // Each round ends in a frame, a counted drop or the end, so that a flood of bad frames does
        // not hold the worker either.
        for _ in 0..batch.room().min(BURST_MAX) {
            let Some(found) = self.found.take().or_else(|| self.next()) else { break };
            counters.rx_frames.add(1);
            match found {
                Found::Frame(frame) => {
                    counters.rx_bytes.add(frame.len() as u64);
                    // There is room, by the loop's bound.
                    let _ = batch.push(frame);
                }
                Found::Dropped(len, reason) => {
                    counters.rx_bytes.add(len as u64);
                    counters.count_drop(reason, 1);
                }
            }
        }
        batch.len() - before
    }

    /// Sends every frame of the batch, or drops it by name.
    pub(crate) fn send(&mut self, batch: &mut Batch<Mbuf>, counters: &PortCounters) {
        self.queue.send_all(batch, counters);
    }
}
