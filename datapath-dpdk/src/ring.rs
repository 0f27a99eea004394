//! Rings of frames, which the `net_ring` driver turns into devices.

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use dpdk_sys::{rte_mbuf, rte_ring};
use switch_core::batch::BURST_MAX;

use crate::eal::{Eal, c_string};
use crate::error::DpdkError;
use crate::mbuf::Mbuf;

/// A bounded ring of frames for any number of threads at both ends; clones are the same ring. The
/// last one frees the ring and the frames in it.
#[derive(Clone)]
pub struct Ring {
    shared: Arc<Shared>,
}

struct Shared {
    raw: NonNull<rte_ring>,
}

// SAFETY: made without the single-producer and single-consumer flags, so all its operations may be
// called from several threads at once.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Ring {
    /// A ring for at least `frames` frames (rounded up to one less than a power of two).
    ///
    /// # Errors
    /// A name that is taken or longer than 28 bytes, or too little memory.
    pub fn new(_eal: Eal, name: &str, frames: u32) -> Result<Self, DpdkError> {
        let attempted = format!("making the ring {name}");
        let c_name = c_string(&attempted, name)?;
        let slots = frames.saturating_add(1).next_power_of_two();
        let socket = dpdk_sys::VSW_SOCKET_ID_ANY;
        // SAFETY: the EAL runs, the name is a terminated string.
        let raw = unsafe { dpdk_sys::rte_ring_create(c_name.as_ptr(), slots, socket, 0) };
        let raw = NonNull::new(raw).ok_or_else(|| DpdkError::last(attempted))?;
        Ok(Self { shared: Arc::new(Shared { raw }) })
    }

    pub(crate) fn as_ptr(&self) -> *mut rte_ring {
        self.shared.raw.as_ptr()
    }

    /// Puts a frame in, as a device's sender does, or hands it back when the ring is full.
    ///
    /// # Errors
    /// The frame.
    pub fn push(&self, frame: Mbuf) -> Result<(), Mbuf> {
        let object = frame.into_raw();
        let objects = ptr::from_ref(&object).cast();
        // SAFETY: the ring lives; one object is read.
        if unsafe { dpdk_sys::vsw_ring_enqueue_burst(self.as_ptr(), objects, 1) } == 1 {
            return Ok(());
        }
        // A mbuf of ours is never null.
        NonNull::new(object).map_or(Ok(()), |raw| {
            // SAFETY: it was ours a moment ago, and the ring did not take it.
            Err(unsafe { Mbuf::from_own(raw) })
        })
    }

    /// Takes the oldest frame out, as a device's receiver does. One whose head had to be copied, for
    /// which the pool had no mbuf, is lost.
    pub fn pop(&self) -> Option<Mbuf> {
        loop {
            let mut object: *mut rte_mbuf = ptr::null_mut();
            let objects = ptr::from_mut(&mut object).cast();
            // SAFETY: the ring lives; one object is written.
            unsafe { dpdk_sys::vsw_ring_dequeue_burst(self.as_ptr(), objects, 1) };
            let raw = NonNull::new(object)?;
            // SAFETY: only frames are put in, here or by the `net_ring` driver, which sends ours.
            if let Ok(frame) = unsafe { Mbuf::from_rx(raw) } {
                return Some(frame);
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut left: [*mut rte_mbuf; BURST_MAX] = [ptr::null_mut(); BURST_MAX];
        loop {
            let (ring, objects) = (self.raw.as_ptr(), left.as_mut_ptr());
            // SAFETY: the ring lives; at most `BURST_MAX` objects are written.
            let n =
                unsafe { dpdk_sys::vsw_ring_dequeue_burst(ring, objects.cast(), BURST_MAX as u32) };
            if n == 0 {
                break;
            }
            // SAFETY: `n` frames that nobody else has.
            unsafe { dpdk_sys::rte_pktmbuf_free_bulk(objects, n) };
        }
        // SAFETY: devices keep a clone while they use the ring, so nobody does any more.
        unsafe { dpdk_sys::rte_ring_free(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("at", &self.shared.raw).finish()
    }
}
