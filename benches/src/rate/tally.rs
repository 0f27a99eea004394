//! What a sink makes of the frames of one stream: loss, order, repetition and delay by the numbers
//! in them.

use hdrhistogram::Histogram;

/// The longest delay that is told apart, nanoseconds: longer ones count as this.
const LONGEST: u64 = 10_000_000_000;

/// The count of one stream in one trial.
///
/// A source sends frame `n` in flow `n % flows`, so order is looked at within flows: a switch with
/// several workers may well exchange frames of different ones.
#[derive(Clone, Debug)]
pub struct Tally {
    flows: u64,
    /// Of each flow the highest round seen, counted from 1.
    rounds: Vec<u32>,
    latency: Option<Histogram<u64>>,
    /// Frames that arrived, once each.
    pub received: u64,
    /// Frames behind a later one of their flow.
    pub reordered: u64,
    /// Frames that came again right behind themselves in their flow.
    pub duplicated: u64,
}

impl Tally {
    /// For a stream of that many flows (at least 1).
    pub fn new(flows: u32, latency: bool) -> Self {
        // Three digits; the bounds are sound, so there is always one.
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3).ok();
        Self {
            flows: flows.max(1).into(),
            rounds: vec![0; flows.max(1) as usize],
            latency: latency.then(histogram).flatten(),
            received: 0,
            reordered: 0,
            duplicated: 0,
        }
    }

    /// Frame `number` arrived, `delay` nanoseconds after it was made.
    pub fn arrived(&mut self, number: u64, delay: u64) {
        let round = (number / self.flows) as u32 + 1;
        // Less than `flows`, which is the length.
        let last = &mut self.rounds[(number % self.flows) as usize];
        match round.cmp(last) {
            std::cmp::Ordering::Greater => *last = round,
            std::cmp::Ordering::Equal => {
                self.duplicated += 1;
                return;
            }
            std::cmp::Ordering::Less => self.reordered += 1,
        }
        self.received += 1;
        if let Some(latency) = &mut self.latency {
            latency.saturating_record(delay);
        }
    }

    /// The delays, if they were recorded.
    pub fn into_latency(self) -> Option<Histogram<u64>> {
        self.latency
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulated::path;
    use super::*;

    #[test]
    fn loss_is_exact() {
        for flows in [1, 7, 1_000] {
            let mut tally = Tally::new(flows, false);
            path(100_000, &mut tally, |n| n % 97 == 5, |_| false, |_| 5_000);
            let lost = (0..100_000u64).filter(|n| n % 97 == 5).count() as u64;
            assert_eq!((tally.received, tally.reordered), (100_000 - lost, 0));
        }
    }

    #[test]
    fn order_is_within_flows() {
        // Every tenth frame is overtaken by the next three: of one flow that is disorder, of eight
        // it is none.
        let late = |n: u64| if n % 10 == 4 { 350 } else { 0 };
        let mut one = Tally::new(1, false);
        path(10_000, &mut one, |_| false, |_| false, late);
        assert_eq!((one.received, one.reordered), (10_000, 1_000));
        let mut eight = Tally::new(8, false);
        path(10_000, &mut eight, |_| false, |_| false, late);
        assert_eq!((eight.received, eight.reordered), (10_000, 0));
    }

    #[test]
    fn repetitions_are_no_arrivals() {
        let mut tally = Tally::new(4, true);
        path(1_000, &mut tally, |n| n == 500, |n| n % 100 == 1, |_| 77);
        assert_eq!((tally.received, tally.duplicated), (999, 10));
        assert_eq!(tally.into_latency().unwrap().len(), 999);
    }

    #[test]
    fn delays_are_told_to_three_digits() {
        let mut tally = Tally::new(1, true);
        path(
            1_000,
            &mut tally,
            |_| false,
            |_| false,
            |n| if n == 999 { 123_456_789 } else { 4_000 },
        );
        let latency = tally.into_latency().unwrap();
        let near = |value: u64, wanted: f64| (value as f64 / wanted - 1.0).abs() < 0.001;
        assert!(near(latency.value_at_quantile(0.5), 4_000.0));
        assert!(near(latency.value_at_quantile(0.99), 4_000.0));
        assert!(near(latency.max(), 123_456_789.0));
        let mut longest = Tally::new(1, true);
        longest.arrived(0, u64::MAX);
        assert!(near(longest.into_latency().unwrap().max(), LONGEST as f64));
    }
}
