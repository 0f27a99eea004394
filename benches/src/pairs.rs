//! Interleaved pairs: both sides of a comparison are measured in turn, so that what the machine
//! does meanwhile (clock rates, neighbours) hits both, and the ratio within a pair is compared.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Pairs that a comparison consists of.
pub const PAIRS: usize = 5;

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Nanoseconds a unit of the first, one a pair.
    pub ours: Vec<f64>,
    /// Nanoseconds a unit of the second.
    pub theirs: Vec<f64>,
}

impl Compared {
    /// The median over the pairs of `ours / theirs`.
    pub fn ratio(&self) -> f64 {
        median(&self.ratios())
    }

    /// Least and greatest ratio of a pair.
    pub fn spread(&self) -> (f64, f64) {
        spread(&self.ratios())
    }

    fn ratios(&self) -> Vec<f64> {
        ratios(&self.ours, &self.theirs)
    }
}

/// The middle value; of an even number of them the lower one of the two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// Least and greatest value.
pub fn spread(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// Median, least and greatest value.
pub fn summary(values: &[f64], digits: usize) -> String {
    let (least, greatest) = spread(values);
    format!("{:.digits$} ({least:.digits$} to {greatest:.digits$})", median(values))
}

/// Ours relative to theirs, pair by pair.
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(a, b)| a / b).collect()
}

/// CPU time that this thread has used: what neighbours take does not count, though what they do
/// to the caches does.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// Runs `work` (which does about as many units as it is told and says how many) for about `time`
/// of CPU time; nanoseconds a unit.
pub fn measure(time: Duration, mut work: impl FnMut(usize) -> usize) -> f64 {
    let start = cpu_time();
    let mut units = 0;
    let mut spent = Duration::ZERO;
    while spent < time {
        units += work(4096);
        spent = cpu_time().saturating_sub(start);
    }
    spent.as_nanos() as f64 / units as f64
}

/// Measures both in turn, [`PAIRS`] times, after a warm-up of each.
pub fn compare(
    time: Duration,
    mut ours: impl FnMut(usize) -> usize,
    mut theirs: impl FnMut(usize) -> usize,
) -> Compared {
    let [ours, theirs] = interleave(time, [&mut ours, &mut theirs]);
    Compared { ours, theirs }
}

/// Measures all in turn, [`PAIRS`] times, after a warm-up of each: nanoseconds a unit of each, one
/// a round.
pub fn interleave<const N: usize>(
    time: Duration,
    mut works: [&mut dyn FnMut(usize) -> usize; N],
) -> [Vec<f64>; N] {
    for work in &mut works {
        measure(time / 4, work);
    }
    let mut found = [const { Vec::new() }; N];
    for _ in 0..PAIRS {
        for (work, found) in works.iter_mut().zip(&mut found) {
            found.push(measure(time, work));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_taken_within_pairs() {
        let c = Compared { ours: vec![2.0, 40.0, 6.0], theirs: vec![1.0, 10.0, 2.0] };
        assert_eq!((c.ratio(), c.spread()), (3.0, (2.0, 4.0)));
    }
}
