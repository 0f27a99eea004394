//! Threads that use DPDK's per-lcore mempool caches.
//!
//! A worker is a plain thread of the switch. Registered as a non-EAL lcore it gets a cache in every
//! mempool; without one each allocation goes to the pool's shared ring.

use std::cell::{Cell, RefCell};

use nix::sys::prctl::set_timerslack;

use crate::eal::Eal;
use crate::mempool;

thread_local! {
    static TRIED: Cell<bool> = const { Cell::new(false) };
    static REGISTERED: RefCell<Option<Registration>> = const { RefCell::new(None) };
}

/// Undoes the registration when the thread ends.
struct Registration;

impl Drop for Registration {
    fn drop(&mut self) {
        // What stays in the caches of an lcore that has no thread is lost to all others.
        mempool::flush_caches();
        // SAFETY: this thread registered itself, and its lcore is used by no frame or queue.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

/// Makes the calling thread an lcore until it ends, unless it is one or could not become one: with
/// caches in all pools, and woken in time. For threads beside the switch's workers, which do it
/// themselves.
pub fn join(_eal: Eal) {
    enter();
}

/// [`join`], where a datapath shows that the EAL runs.
pub(crate) fn enter() {
    if !TRIED.get() {
        TRIED.set(true);
        register();
        wake_in_time();
    }
}

/// The kernel adds up to 50 µs to every sleep of a thread, so that it can wake several at once. That
/// is more than a worker's whole nap.
#[cold]
fn wake_in_time() {
    if let Err(error) = set_timerslack(1000) {
        tracing::info!(%error, "an idle worker wakes up to 50 µs later than it should");
    }
}

/// Whether the calling thread has mempool caches.
pub fn is_lcore() -> bool {
    // SAFETY: reads a variable of this thread.
    let id = unsafe { dpdk_sys::vsw_lcore_id() };
    id != dpdk_sys::VSW_LCORE_ID_ANY
}

#[cold]
fn register() {
    if is_lcore() {
        return;
    }
    // SAFETY: the EAL runs, as whoever calls has a datapath; this thread is no lcore.
    if unsafe { dpdk_sys::rte_thread_register() } == 0 {
        REGISTERED.with_borrow_mut(|slot| *slot = Some(Registration));
    } else {
        let error = crate::DpdkError::last("registering the worker as an lcore");
        tracing::warn!(%error, "the worker goes without mempool caches, which is slower");
    }
}
