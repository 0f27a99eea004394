//! Ages: how far apart two ticks are when only 20 bits of one were kept.
//!
//! A worker stamps an entry with the low 20 bits of the second it last saw a frame in. 2^20
//! seconds are 12 days, a little more than the longest ageing time, so a difference modulo 2^20
//! tells the age, as long as a sweep comes by before an expired entry looks young again: at
//! least every [`SWEEP_WITHIN`] seconds. The clocks of two threads may differ by a tick, and a
//! stamp from one tick ahead must not read as 12 days old: the last [`AHEAD`] values of the
//! circle are the future.

use super::entry::Tick;

/// Bits of a tick that an entry keeps.
pub(super) const SEEN_BITS: u32 = 20;
/// The low [`SEEN_BITS`] bits.
pub(super) const SEEN_MASK: u32 = (1 << SEEN_BITS) - 1;
/// How far ahead of the reader's clock a stamp may be and still count as "now", in seconds.
const AHEAD: u32 = 16_384;

/// The longest ageing time, in seconds (IEEE 802.1Q table 8-5).
pub const MAX_AGEING: u32 = 1_000_000;
/// Sweeps must not be further apart than this, in seconds.
pub const SWEEP_WITHIN: u32 = SEEN_MASK - AHEAD - MAX_AGEING;

/// Seconds from the stamp `seen` to `now`.
pub(super) const fn elapsed(seen: u32, now: Tick) -> u32 {
    let since = now.0.wrapping_sub(seen) & SEEN_MASK;
    if since > SEEN_MASK - AHEAD { 0 } else { since }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_survive_the_wrap() {
        for start in [0, 5, SEEN_MASK - 3, SEEN_MASK, u32::MAX - 100, u32::MAX] {
            let seen = start & SEEN_MASK;
            for age in [0, 1, 10, 300, MAX_AGEING, MAX_AGEING + SWEEP_WITHIN] {
                assert_eq!(elapsed(seen, Tick(start.wrapping_add(age))), age, "from {start}");
            }
        }
    }

    #[test]
    fn a_stamp_from_a_clock_ahead_is_young() {
        assert_eq!(elapsed(101, Tick(100)), 0);
        assert_eq!(elapsed(3, Tick(u32::MAX)), 0);
    }
}
