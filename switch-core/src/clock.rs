//! Time as the core sees it: an argument, never a system call.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds since an arbitrary start (the daemon's start, or 0 on a test's virtual clock).
///
/// 64 bits last 584 years, so arithmetic saturates instead of checking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Whole seconds: the unit of FDB ages.
    pub const fn secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// `secs` seconds after the start.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// `millis` milliseconds after the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }
}

impl Add<Duration> for Nanos {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Nanos {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
