//! Time as the whole daemon sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use switch_core::Nanos;

/// Time since the daemon's start, or what somebody says it is.
#[derive(Clone, Debug)]
pub enum Clock {
    /// Goes by itself, from this moment on.
    Real(Instant),
    /// Stands still, but for [`Clock::advance`]: nanoseconds since the start.
    Virtual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self::Real(Instant::now())
    }

    /// A clock that stands still at `now`; clones of it are the same clock.
    pub fn still(now: Nanos) -> Self {
        Self::Virtual(Arc::new(AtomicU64::new(now.0)))
    }

    /// Time since the start.
    pub fn now(&self) -> Nanos {
        match self {
            Self::Real(start) => Nanos::default() + start.elapsed(),
            Self::Virtual(now) => Nanos(now.load(Ordering::Relaxed)),
        }
    }

    /// Puts a clock that stands still forward. One that goes by itself stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Self::Virtual(now) = self {
            let to = Nanos(now.load(Ordering::Relaxed)) + by;
            now.store(to.0, Ordering::Relaxed);
        }
    }
}
