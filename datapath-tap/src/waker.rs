//! What ends a worker's wait.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use switch_core::datapath::Wake;

/// A mio waker that costs a system call only when its worker sleeps.
pub(crate) struct TapWaker {
    waker: mio::Waker,
    /// Somebody woke the worker since its last poll began.
    kicked: AtomicBool,
    /// The worker waits in the kernel, or is about to.
    sleeping: AtomicBool,
}

impl TapWaker {
    pub(crate) fn new(waker: mio::Waker) -> Self {
        Self { waker, kicked: AtomicBool::new(false), sleeping: AtomicBool::new(false) }
    }

    /// The worker is about to wait; false if it must not, because it was woken already.
    ///
    /// Sequentially consistent, as in `wake`: of a worker that falls asleep and a thread that wakes
    /// it at the same time, at least one sees the other.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        !self.kicked.load(Ordering::SeqCst)
    }

    /// The worker is back; true if somebody woke it.
    pub(crate) fn awake(&self) -> bool {
        self.sleeping.store(false, Ordering::SeqCst);
        self.kicked.swap(false, Ordering::SeqCst)
    }
}

impl Wake for TapWaker {
    fn wake(&self) {
        if !self.kicked.swap(true, Ordering::SeqCst) && self.sleeping.load(Ordering::SeqCst) {
            // An eventfd write fails only when its counter is full, and then it wakes anyway.
            let _ = self.waker.wake();
        }
    }
}

impl fmt::Debug for TapWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapWaker").field("kicked", &self.kicked).finish_non_exhaustive()
    }
}
