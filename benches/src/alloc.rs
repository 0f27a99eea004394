//! An allocator that counts: to show that the fast path does not allocate, and what tables take.
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait; calls go straight to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counted. A benchmark makes it its `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

/// Allocations and reallocations of this process so far, on all threads.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Bytes that this process has allocated and not freed, as they were asked for.
pub fn live_bytes() -> u64 {
    LIVE.load(Ordering::Relaxed)
}

// SAFETY: every method hands its arguments to `System` unchanged and returns what that returns, so
// the contract of `GlobalAlloc` is kept because `System` keeps it. Counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same for `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: `block` came from `System`, as all of this allocator's blocks do.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add((size as u64).wrapping_sub(layout.size() as u64), Ordering::Relaxed);
        // SAFETY: as for `dealloc`, and the caller keeps `realloc`'s contract.
        unsafe { System.realloc(block, layout, size) }
    }
}
