//! What is printed: rates and ratios by pair, and what became of the goals.

use crate::pairs::{median, ratios, summary};

use super::rows::{Goal, Row};
use super::side::Side;

/// The rates of one side, one a pair.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Whose.
    pub side: Side,
    /// Millions of frames a second.
    pub mpps: Vec<f64>,
}

/// A goal, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What was to be reached, in words.
    pub what: String,
    /// What was reached.
    pub got: f64,
    /// Whether that is enough.
    pub met: bool,
    /// It is only aimed at.
    pub aim: bool,
}

/// Prints a row that compares rates; the verdicts on its goals.
pub fn rates(row: &Row, found: &[Rates]) -> Vec<Verdict> {
    let Some((ours, peers)) = found.split_first().filter(|(ours, _)| ours.side == Side::Ours)
    else {
        for Rates { side, mpps } in found {
            println!("  {:<16} {} Mpps", side.name(), summary(mpps, 2));
        }
        return Vec::new();
    };
    println!("  {:<16} {} Mpps", ours.side.name(), summary(&ours.mpps, 2));
    for peer in peers {
        let ratios = ratios(&ours.mpps, &peer.mpps);
        let each: Vec<String> = ratios.iter().map(|r| format!("{r:.2}")).collect();
        println!(
            "  {:<16} {} Mpps; ours is {} times that, by pair {}",
            peer.side.name(),
            summary(&peer.mpps, 2),
            summary(&ratios, 2),
            each.join(" ")
        );
    }
    if let Some(vpp) = row.vpp {
        println!(
            "  VPP 24.02        {vpp:.1} Mpps (published, not measured here); ours is {:.2} times that",
            median(&ours.mpps) / vpp
        );
    }
    let verdict = |goal: &Goal| {
        let peer = peers.iter().find(|peer| peer.side == goal.versus)?;
        let got = median(&ratios(&ours.mpps, &peer.mpps));
        let what = format!("{} times {}", goal.factor, goal.versus.name());
        Some(Verdict { what, got, met: got >= goal.factor, aim: goal.aim })
    };
    row.goals.iter().filter_map(verdict).collect()
}

/// Prints a verdict.
pub fn verdict(row: &Row, verdict: &Verdict) {
    let Verdict { what, got, met, aim } = verdict;
    let kind = if *aim { "aim " } else { "goal" };
    let word = match (met, aim) {
        (true, _) => "met",
        (false, true) => "not reached",
        (false, false) => "MISSED",
    };
    println!("  {kind} {:<18} at least {what:<28} {got:>7.2}  {word}", row.name);
}

/// When a curve first reaches that share of where it ends, in seconds; and where it ends: the
/// median of its last third.
pub fn reached(curve: &[f64], step: f64, share: f64) -> (Option<f64>, f64) {
    let last = curve.get(curve.len() - curve.len() / 3..).unwrap_or_default();
    let steady = median(last);
    let first = curve.iter().position(|rate| *rate >= share * steady);
    (first.map(|n| (n + 1) as f64 * step), steady)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpdk::rows::ROWS;

    #[test]
    fn goals_go_by_the_median_of_the_ratios() {
        let row = ROWS.iter().find(|row| row.name == "l2-1").expect("the row");
        let found = [
            Rates { side: Side::Ours, mpps: vec![60.0, 70.0, 30.0] },
            Rates { side: Side::TestpmdMac, mpps: vec![100.0, 100.0, 100.0] },
            Rates { side: Side::Ovs, mpps: vec![30.0, 30.0, 30.0] },
        ];
        let verdicts = rates(row, &found);
        let met: Vec<(bool, bool)> = verdicts.iter().map(|v| (v.met, v.aim)).collect();
        assert_eq!(met, [(true, false), (true, true)]);
        assert_eq!(verdicts[0].got, 2.0);
        assert!(rates(row, &found[..1]).is_empty(), "a goal without the peer");
        assert!(rates(row, &found[1..]).is_empty(), "a goal without us");
    }

    #[test]
    fn a_curve_reaches_its_end() {
        let curve = [0.0, 5.0, 9.5, 10.0, 10.0, 10.0];
        assert_eq!(reached(&curve, 0.1, 0.9), (Some(3.0 * 0.1), 10.0));
        assert_eq!(reached(&[0.0; 3], 0.1, 0.9).1, 0.0);
    }
}
