//! Pools of mbufs.

use std::ffi::CStr;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use crate::eal::{Eal, c_string};
use crate::error::DpdkError;
use crate::mbuf::{HEAD_PRIVATE, Mbuf};

/// Free bytes in front of a received frame, as libdpdk was compiled (128 at Debian).
pub const HEADROOM: u16 = dpdk_sys::VSW_PKTMBUF_HEADROOM;

/// Data bytes of an mbuf unless asked otherwise: a 1,500-byte MTU with tags.
pub const DATA_ROOM: u16 = 2048;

/// Mbufs each lcore keeps for itself, at most (libdpdk allows 512).
const CACHE: u32 = 256;

/// How a pool is made.
#[derive(Clone, Debug)]
pub struct MempoolConfig {
    /// Its name, at most 26 bytes, unique in the process.
    pub name: String,
    /// How many mbufs it has.
    pub mbufs: u32,
    /// Data bytes of one, without the headroom.
    pub data_room: u16,
    /// The NUMA node it is to be on; `None` is anywhere.
    pub numa_node: Option<u16>,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self { name: "frames".into(), mbufs: 16_384, data_room: DATA_ROOM, numa_node: None }
    }
}

/// A pool of mbufs; clones are the same pool.
///
/// It stays until the process ends. An mbuf is a bare pointer that may be anywhere (in a driver's
/// ring, say), so no one could tell when the pool's memory is no longer needed.
#[derive(Clone, Copy)]
pub struct Mempool {
    raw: NonNull<dpdk_sys::rte_mempool>,
}

/// What a pool is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSize {
    /// How many mbufs it has.
    pub mbufs: u32,
    /// Bytes of one, with its headroom and all that describes it.
    pub mbuf_bytes: u32,
    /// The NUMA node it is on, if it is on one in particular.
    pub numa_node: Option<u16>,
}

// SAFETY: libdpdk's mempools are made for use by all threads at once; a thread's cache is found
// through its lcore id, which no two threads share.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

/// All pools, for the caches that an ending lcore leaves.
static POOLS: Mutex<Vec<Mempool>> = Mutex::new(Vec::new());

impl Mempool {
    /// Makes a pool.
    ///
    /// # Errors
    /// A name that is taken or too long, too little memory, or a data room in which a frame's head
    /// cannot be private.
    pub fn new(_eal: Eal, config: &MempoolConfig) -> Result<Self, DpdkError> {
        let attempted = format!("making the mempool {}", config.name);
        let room = HEADROOM.checked_add(config.data_room).ok_or_else(|| {
            DpdkError::unfit(&attempted, format!("the data room is over {}", u16::MAX - HEADROOM))
        })?;
        if usize::from(config.data_room) < 2 * HEAD_PRIVATE {
            let cause = format!("the data room must be at least {} bytes", 2 * HEAD_PRIVATE);
            return Err(DpdkError::unfit(attempted, cause));
        }
        let name = c_string(&attempted, &config.name)?;
        // A cache may hold at most two thirds of the pool.
        let cache = CACHE.min(config.mbufs / 2);
        let socket = config.numa_node.map_or(dpdk_sys::VSW_SOCKET_ID_ANY, i32::from);
        // SAFETY: the EAL runs, the name is a terminated string.
        let raw = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(name.as_ptr(), config.mbufs, cache, 0, room, socket)
        };
        let raw = NonNull::new(raw).ok_or_else(|| DpdkError::last(attempted))?;
        let pool = Self { raw };
        POOLS.lock().unwrap_or_else(PoisonError::into_inner).push(pool);
        Ok(pool)
    }

    /// A pool for one device, whose driver does not give back what it holds when it is closed.
    pub(crate) fn for_driver(name: &str, mbufs: u32, data_room: u16) -> Result<Self, DpdkError> {
        let attempted = format!("making the mempool {name}");
        let (c_name, socket) = (c_string(&attempted, name)?, dpdk_sys::VSW_SOCKET_ID_ANY);
        let room = HEADROOM + data_room;
        // No caches: those of workers would outlive it.
        // SAFETY: the EAL runs, as there is a device; the name is a terminated string.
        let raw = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(c_name.as_ptr(), mbufs, 0, 0, room, socket)
        };
        let raw = NonNull::new(raw).ok_or_else(|| DpdkError::last(attempted))?;
        let pool = Self { raw };
        pool.keep_what_af_xdp_shares(mbufs);
        Ok(pool)
    }

    /// Takes out, for good, what the driver does not share with the kernel: it counts with mbufs
    /// that lie side by side (`xdp_umem_configure`), but none crosses a page, and so the last ones
    /// lie behind the end of what it shares. The kernel refuses them without a word.
    fn keep_what_af_xdp_shares(self, mbufs: u32) {
        const PAGE: usize = 4096;
        let all: Vec<Mbuf> = std::iter::from_fn(|| self.alloc()).collect();
        let address = |frame: &Mbuf| frame.as_ptr().addr();
        let first = all.iter().map(address).min().unwrap_or(0) & !(PAGE - 1);
        // SAFETY: the pool lives.
        let each = unsafe { dpdk_sys::vsw_mempool_object_bytes(self.raw.as_ptr()) } as usize;
        let end = first + mbufs as usize * each;
        let (shared, rest): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|frame| address(frame) + each <= end);
        drop(shared);
        rest.into_iter().for_each(std::mem::forget);
    }

    /// Ends a pool, whatever of it was not given back.
    ///
    /// # Safety
    /// It is one of [`Self::for_driver`]; neither the driver nor anybody else has an mbuf of it that
    /// is still going to be used.
    pub(crate) unsafe fn free(self) {
        // SAFETY: as the caller vouches.
        unsafe { dpdk_sys::rte_mempool_free(self.raw.as_ptr()) }
    }

    /// # Safety
    /// `raw` is a live pool of mbufs, which stays until the process ends, with a data room of at
    /// least twice [`HEAD_PRIVATE`].
    pub(crate) unsafe fn from_raw(raw: NonNull<dpdk_sys::rte_mempool>) -> Self {
        Self { raw }
    }

    pub(crate) fn as_ptr(self) -> *mut dpdk_sys::rte_mempool {
        self.raw.as_ptr()
    }

    /// An empty frame with [`HEADROOM`]; `None` when the pool is dry.
    pub fn alloc(self) -> Option<Mbuf> {
        // SAFETY: the pool lives.
        let raw = unsafe { dpdk_sys::vsw_pktmbuf_alloc(self.raw.as_ptr()) };
        let raw = NonNull::new(raw)?;
        // SAFETY: fresh from the pool: one segment, ours alone.
        Some(unsafe { Mbuf::from_fresh(raw) })
    }

    /// A frame with these bytes, over as many mbufs as it takes; `None` when the pool is dry.
    pub fn frame(self, bytes: &[u8]) -> Option<Mbuf> {
        let mut frame = self.alloc()?;
        switch_core::frame::Frame::append(&mut frame, bytes).ok()?;
        Some(frame)
    }

    /// Free mbufs now, those in all caches included. Exact while nothing uses the pool.
    pub fn available(self) -> u32 {
        // SAFETY: the pool lives.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }

    /// Its name.
    pub fn name(self) -> String {
        // SAFETY: the pool lives.
        let name = unsafe { dpdk_sys::vsw_mempool_name(self.raw.as_ptr()) };
        // SAFETY: a terminated string in the pool.
        let name = unsafe { CStr::from_ptr(name) };
        name.to_string_lossy().into_owned()
    }

    /// How big it is.
    pub fn size(self) -> PoolSize {
        let raw = self.raw.as_ptr();
        // SAFETY: the pool lives.
        let mbuf_bytes = unsafe { dpdk_sys::vsw_mempool_object_bytes(raw) };
        // SAFETY: the pool lives; any node is SOCKET_ID_ANY, -1.
        let node = unsafe { dpdk_sys::vsw_mempool_socket(raw) };
        // SAFETY: the pool lives.
        let mbufs = unsafe { dpdk_sys::vsw_mempool_size(raw) };
        PoolSize { mbufs, mbuf_bytes, numa_node: u16::try_from(node).ok() }
    }

    /// Data bytes of a fresh mbuf behind its headroom.
    pub fn data_room(self) -> u16 {
        // SAFETY: the pool lives and was made for mbufs.
        unsafe { dpdk_sys::vsw_pktmbuf_data_room_size(self.raw.as_ptr()) - HEADROOM }
    }
}

/// Gives back what the calling lcore keeps in its caches.
pub(crate) fn flush_caches() {
    for pool in POOLS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // SAFETY: the pool lives, and only this thread uses the cache of its lcore.
        unsafe { dpdk_sys::vsw_mempool_cache_flush(pool.raw.as_ptr()) };
    }
}

impl fmt::Debug for Mempool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mempool").field("available", &self.available()).finish()
    }
}
