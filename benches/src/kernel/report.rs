//! What is printed, as a table or as JSON.

use serde_json::{Value, json};

use crate::pairs::{median, ratios, spread, summary};

use super::rows::{Goal, Row};
use super::side::Side;
use super::work::Reading;

/// What was read of one side, one reading a pair.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose.
    pub side: Side,
    /// The readings.
    pub readings: Vec<Reading>,
}

impl Found {
    fn values(&self, metric: usize) -> Vec<f64> {
        self.readings.iter().map(|reading| reading.values[metric]).collect()
    }

    fn cpu(&self) -> Option<f64> {
        let cpu: Option<Vec<f64>> = self.readings.iter().map(|reading| reading.cpu).collect();
        cpu.filter(|cpu| !cpu.is_empty()).map(|cpu| median(&cpu))
    }
}

/// A goal, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The row's name.
    pub row: &'static str,
    /// What was to be reached, in words.
    pub goal: String,
    /// What was reached, by pair.
    pub got: Vec<f64>,
    /// Whether its median is enough.
    pub met: bool,
}

impl Verdict {
    /// In one line.
    pub fn line(&self) -> String {
        let word = if self.met { "met" } else { "MISSED" };
        format!("{:<10} {:<64} {:<22} {word}", self.row, self.goal, summary(&self.got, 2))
    }
}

/// What became of a row's goals; a goal is left out when none of those it is about was measured.
pub fn verdicts(row: &Row, found: &[Found]) -> Vec<Verdict> {
    let Some(ours) = found.iter().find(|found| found.side == row.ours) else { return Vec::new() };
    let verdict = |goal: &Goal| {
        let less = row.work.metrics()[goal.metric].less;
        let mut got = ours.values(goal.metric);
        if !goal.versus.is_empty() {
            let peers: Vec<Vec<f64>> = found
                .iter()
                .filter(|found| goal.versus.contains(&found.side))
                .map(|found| found.values(goal.metric))
                .collect();
            let best = |pair: usize| {
                let each = peers.iter().map(|values| values[pair]);
                if less { each.reduce(f64::min) } else { each.reduce(f64::max) }
            };
            let best: Vec<f64> = (0..got.len()).map(best).collect::<Option<_>>()?;
            got = ratios(&got, &best);
        }
        let met = goal.met(median(&got), less);
        Some(Verdict { row: row.name, goal: goal.words(row), got, met })
    };
    row.goals.iter().filter_map(verdict).collect()
}

/// The lines of a row's table.
pub fn table(row: &Row, found: &[Found]) -> Vec<String> {
    let mut lines = Vec::new();
    let ours = found.iter().find(|found| found.side == row.ours);
    for (n, metric) in row.work.metrics().iter().enumerate() {
        for one in found {
            let values = one.values(n);
            let mut line = format!(
                "  {:<18} {:<6} {:>24} {}",
                one.side.name(),
                if row.work.metrics().len() > 1 { metric.name } else { "" },
                summary(&values, metric.digits),
                metric.unit
            );
            if let Some(cpu) = one.cpu() {
                line.push_str(&format!(", {:.0} % of a CPU", 100.0 * cpu));
            }
            if let Some(ours) = ours.filter(|ours| ours.side != one.side) {
                let ratios = ratios(&ours.values(n), &values);
                line.push_str(&format!("; ours is {} times that", summary(&ratios, 2)));
            }
            lines.push(line);
        }
    }
    lines
}

/// A row as JSON.
pub fn json(row: &Row, found: &[Found], verdicts: &[Verdict]) -> Value {
    let metrics = row.work.metrics();
    let side = |found: &Found| {
        let figures = metrics.iter().enumerate().map(|(n, metric)| {
            let values = found.values(n);
            let (least, greatest) = spread(&values);
            json!({ "name": metric.name, "unit": metric.unit, "values": values,
                    "median": median(&values), "least": least, "greatest": greatest })
        });
        json!({ "side": found.side.name(), "ours": found.side == row.ours,
                "cpu": found.cpu(), "figures": figures.collect::<Vec<_>>() })
    };
    let goal = |v: &Verdict| {
        let (least, greatest) = spread(&v.got);
        json!({ "goal": v.goal, "got": median(&v.got), "least": least, "greatest": greatest,
                "met": v.met })
    };
    json!({
        "name": row.name,
        "title": row.title,
        "sides": found.iter().map(side).collect::<Vec<_>>(),
        "goals": verdicts.iter().map(goal).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::rows::ROWS;

    fn found(side: Side, values: &[[f64; 2]]) -> Found {
        let reading = |values: &[f64; 2]| Reading { values: values.to_vec(), cpu: None };
        Found { side, readings: values.iter().map(reading).collect() }
    }

    #[test]
    fn goals_go_by_the_best_of_the_peers_in_each_pair() {
        let row = ROWS.iter().find(|row| row.name == "tap-1").expect("the row");
        let all = [
            found(Side::Ours, &[[9.0, 0.0], [9.0, 0.0], [5.0, 0.0]]),
            found(Side::OvsTso, &[[10.0, 0.0], [5.0, 0.0], [5.0, 0.0]]),
            found(Side::Bridge, &[[5.0, 0.0], [10.0, 0.0], [5.0, 0.0]]),
            // No switch: not among those of the goal.
            found(Side::BareVnet, &[[99.0, 0.0], [99.0, 0.0], [99.0, 0.0]]),
        ];
        let got = verdicts(row, &all);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].got.as_slice(), got[0].met), (&[0.9, 0.9, 1.0][..], true));
        assert!(verdicts(row, &all[..1]).is_empty(), "a goal without a peer");
        assert!(verdicts(row, &all[1..]).is_empty(), "a goal without us");
        assert_eq!(table(row, &all).len(), 4);
    }

    #[test]
    fn less_is_better_in_time() {
        let row = ROWS.iter().find(|row| row.name == "ping").expect("the row");
        let all = [found(Side::Ours, &[[60.0, 300.0]]), found(Side::Bare, &[[60.0, 200.0]])];
        let met: Vec<bool> = verdicts(row, &all).iter().map(|v| v.met).collect();
        assert_eq!(met, [true, false]);
        assert_eq!(table(row, &all).len(), 4);
        let json = json(row, &all, &verdicts(row, &all));
        assert_eq!(json["goals"][1]["got"], 1.5);
        assert_eq!(json["sides"][0]["figures"][1]["median"], 300.0);
    }
}
