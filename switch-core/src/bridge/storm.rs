//! The storm limit: a token bucket of BUM frames for each port.

use crate::clock::Nanos;

const SECOND: u64 = 1_000_000_000;

/// A token bucket, counted in nanoseconds so that no fraction of a token is lost.
///
/// It holds a tenth of a second's worth (at least 16 frames), so over any second the rate is kept
/// to within that much.
#[derive(Clone, Copy, Debug, Default)]
pub struct StormBucket {
    /// Time up to which tokens have been used: as in GCRA, never further back than the depth.
    used_until: u64,
}

impl StormBucket {
    /// The bucket of which tokens were used up to that time: what [`Self::until`] gave.
    pub(crate) const fn used_until(used_until: u64) -> Self {
        Self { used_until }
    }

    /// Up to which time tokens have been used, in nanoseconds.
    pub(crate) const fn until(self) -> u64 {
        self.used_until
    }

    /// Takes one token at `rate` frames a second; false if there is none.
    pub fn take(&mut self, rate: u32, now: Nanos) -> bool {
        if rate == 0 {
            return false;
        }
        let one = SECOND / u64::from(rate);
        let depth = (SECOND / 10).max(one.saturating_mul(16));
        let from = self.used_until.max(now.0.saturating_sub(depth));
        let until = from.saturating_add(one);
        let passes = until <= now.0.max(depth);
        if passes {
            self.used_until = until;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(rate: u32, offered_pps: u64, secs: u64) -> u64 {
        let mut bucket = StormBucket::default();
        let start = Nanos::from_secs(100);
        (0..offered_pps * secs)
            .filter(|i| bucket.take(rate, Nanos(start.0 + i * SECOND / offered_pps)))
            .count() as u64
    }

    #[test]
    fn the_rate_is_kept() {
        for rate in [1, 10, 1000, 333_333] {
            let got = passed(rate, 400_000, 5);
            let depth = u64::from(rate / 10).max(16);
            let want = u64::from(rate) * 5;
            assert!(got >= want && got <= want + depth + 1, "rate {rate}: {got}");
        }
    }

    #[test]
    fn below_the_rate_nothing_is_lost() {
        assert_eq!(passed(1000, 900, 3), 2700);
        assert_eq!(passed(0, 10, 1), 0);
    }
}
