//! How long a run takes, to be told before it starts.

use std::collections::HashSet;
use std::time::Duration;

use super::super::row::{Row, Test};
use super::{LESSON, LOADS, LOOK, Options};

/// What it takes until a switch is started, on average, and to end it.
const START: Duration = Duration::from_secs(4);

impl Options {
    /// The time that the run mostly takes and the most that its trials can take; and how many
    /// measurements that is.
    pub fn expected(&self) -> (Duration, Duration, usize) {
        let ours = self.named.0.is_empty();
        let runs: Vec<&Row> = self
            .suts
            .iter()
            .flat_map(|sut| self.rows.iter().map(move |row| (sut, row)))
            .filter(|(sut, row)| sut.refuses(row, self.ports(), ours).is_none())
            .map(|(_, row)| row)
            .collect();
        let kinds: HashSet<String> =
            runs.iter().map(|row| row.without_switch().to_string()).collect();
        let ceilings = self.plan.time((2, 0)) * kinds.len() as u32;
        let pairs = self.pairs as u32;
        let sum = |time: &dyn Fn(&Row) -> Duration| {
            ceilings + runs.iter().map(|row| time(row)).sum::<Duration>() * pairs
        };
        let mostly = sum(&|row| self.of_row(row, false));
        (mostly, sum(&|row| self.of_row(row, true)), runs.len() * self.pairs)
    }

    /// The time of one measurement.
    fn of_row(&self, row: &Row, most: bool) -> Duration {
        let plan = self.plan;
        let lesson = Duration::from_secs_f64(2.0 * f64::from(row.flows) / LESSON);
        let (short, long) = if most { plan.most() } else { plan.mostly() };
        let again = if most { 1 + plan.again } else { 1 };
        let trials = match row.test {
            Test::Rate => {
                let searched = u32::from(self.search);
                let latency = if self.latency { LOADS.len() as u32 } else { 0 };
                // The PDR is a second search, which knows the first one's trials.
                let second = if most { short } else { short / 2 };
                (1 + latency + searched * (short + second), 2 * searched * long)
            }
            Test::Learn => (short, long),
            Test::Flood => (2 + 2 * again, 0),
            Test::Reconfigure => (1, 2 * again),
        };
        START + lesson + LOOK.1 + plan.time(trials)
    }
}
