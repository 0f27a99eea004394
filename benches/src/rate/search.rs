//! The search for the rates of RFC 2544 section 26.1: the highest at which no frame is lost (NDR),
//! and the highest at which not more than a share is (PDR).
//!
//! Bisection, and what it finds is confirmed by a longer trial. A trial that lost frames is run
//! again before it counts: on a shared machine one pause of a few milliseconds loses as much as
//! being too slow does, but not twice in a row.

use std::time::Duration;

use anyhow::Result;

use super::trial::{Ask, Offer, Rig, Trial};

/// How a search goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// How long a trial of the bisection is.
    pub trial: Duration,
    /// How long the confirmation is.
    pub confirm: Duration,
    /// The bisection ends when it knows the rate to this share of it.
    pub precision: f64,
    /// How often a trial that lost frames is run again.
    pub again: u32,
}

/// What was searched for, and found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The share of frames that may be lost.
    pub tolerated: f64,
    /// The rate at which the confirmation passed, frames a second delivered; `None` if none did.
    pub rate: Option<f64>,
    /// The confirmation; where none passed, the last trial that did not.
    pub trial: Trial,
    /// Why the search could not go higher, if that was the generator's doing.
    pub limited: Option<String>,
    /// Trials that it took.
    pub trials: u32,
}

/// Confirmations before a search is given up: each failed one starts five hundredths lower.
const CONFIRMATIONS: u32 = 12;
/// What is left of a rate that was not confirmed.
const STEP_DOWN: f64 = 0.95;
/// Shares of the start under which a rate is as good as none.
const FLOOR: f64 = 1e-4;

struct Search<'a, R: Rig + ?Sized> {
    rig: &'a mut R,
    plan: Plan,
    tolerated: f64,
    limited: Option<String>,
    trials: u32,
}

impl<R: Rig + ?Sized> Search<'_, R> {
    /// The trial, and whether it passed; a failed one is run again as often as planned.
    fn passes(&mut self, rate: f64, time: Duration) -> Result<(Trial, bool)> {
        let mut again = self.plan.again;
        loop {
            self.trials += 1;
            let trial = self.rig.trial(Ask::flows(Offer::Rate(rate), time))?;
            let fault = trial.fault();
            if fault.is_none() && trial.loss() <= self.tolerated {
                return Ok((trial, true));
            }
            if again == 0 {
                // What the generator could not offer bounds the search, too.
                self.limited = fault;
                return Ok((trial, false));
            }
            again -= 1;
        }
    }
}

/// Searches up to `highest` frames a second for the highest rate with a share of loss of at most
/// `tolerated`. `known` is a rate that is known to pass, such as the NDR when searching the PDR.
///
/// # Errors
/// A trial cannot be run.
pub fn search(
    rig: &mut (impl Rig + ?Sized),
    plan: Plan,
    tolerated: f64,
    highest: f64,
    known: f64,
) -> Result<Found> {
    let mut search = Search { rig, plan, tolerated, limited: None, trials: 0 };
    let (mut low, mut high) = (known.min(highest), highest);
    let mut limited = None;
    let (mut last, passed) = search.passes(high, plan.trial)?;
    if passed {
        low = high;
    } else {
        limited = search.limited.take();
    }
    while high - low > plan.precision * high && high > FLOOR * highest {
        let middle = f64::midpoint(low, high);
        let (trial, passed) = search.passes(middle, plan.trial)?;
        if passed {
            low = middle;
        } else {
            (high, last) = (middle, trial);
            limited = search.limited.take();
        }
    }
    let mut rate = low;
    for _ in 0..CONFIRMATIONS {
        if rate < FLOOR * highest {
            break;
        }
        let (trial, passed) = search.passes(rate, plan.confirm)?;
        if passed {
            let (rate, trials) = (Some(trial.rate()), search.trials);
            return Ok(Found { tolerated, rate, trial, limited, trials });
        }
        limited = search.limited.take();
        rate *= STEP_DOWN;
        last = trial;
    }
    Ok(Found { tolerated, rate: None, trial: last, limited, trials: search.trials })
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{PLAN, Simulated};
    use super::*;

    fn within(found: Option<f64>, wanted: f64) {
        let found = found.unwrap();
        assert!((found / wanted - 1.0).abs() <= 0.01, "{found} is not {wanted}");
    }

    #[test]
    fn no_drop_rate_is_the_capacity() -> Result<()> {
        for capacity in [12_345.0, 1.5e6, 14.88e6, 97.3e6] {
            let mut rig = Simulated::new(capacity);
            let found = search(&mut rig, PLAN, 0.0, 100e6, 0.0)?;
            within(found.rate, capacity);
            assert!(found.rate.unwrap() <= capacity, "more than it carries");
            assert_eq!((found.trial.lost(), found.limited), (0, None));
            assert!(found.trials < 60, "{} trials", found.trials);
        }
        Ok(())
    }

    #[test]
    fn partial_drop_rate_is_half_a_percent_above() -> Result<()> {
        let mut rig = Simulated::new(4e6);
        let found = search(&mut rig, PLAN, 0.005, 20e6, 3.9e6)?;
        within(found.rate, 4e6);
        assert!(found.trial.loss() > 0.0 && found.trial.loss() <= 0.005);
        Ok(())
    }

    #[test]
    fn loss_at_any_rate_leaves_no_no_drop_rate() -> Result<()> {
        let mut rig = Simulated { loss_one_in: 1_000, ..Simulated::new(4e6) };
        assert_eq!(search(&mut rig, PLAN, 0.0, 20e6, 0.0)?.rate, None);
        within(search(&mut rig, PLAN, 0.005, 20e6, 0.0)?.rate, 4e6);
        Ok(())
    }

    #[test]
    fn one_hiccup_does_not_end_a_search() -> Result<()> {
        // Every ninth trial is disturbed; each is asked again once.
        let mut rig = Simulated { hiccup_every: 9, ..Simulated::new(4e6) };
        within(search(&mut rig, PLAN, 0.0, 20e6, 0.0)?.rate, 4e6);
        let strict = Plan { again: 0, ..PLAN };
        let mut rig = Simulated { hiccup_every: 2, ..Simulated::new(4e6) };
        let found = search(&mut rig, strict, 0.0, 20e6, 0.0)?.rate.unwrap_or(0.0);
        assert!(found < 3.9e6, "a search that never asks again is misled: {found}");
        Ok(())
    }

    #[test]
    fn a_slow_generator_is_named_and_never_a_rate() -> Result<()> {
        let mut rig = Simulated { generator: 2e6, ..Simulated::new(4e6) };
        let found = search(&mut rig, PLAN, 0.0, 20e6, 0.0)?;
        within(found.rate, 2e6);
        assert!(found.limited.is_some_and(|why| why.contains("generator was late")));
        let mut rig = Simulated { missed: 1, ..Simulated::new(4e6) };
        let found = search(&mut rig, PLAN, 0.0, 20e6, 0.0)?;
        assert_eq!(found.rate, None, "frames were lost at the sink in every trial");
        assert!(found.limited.is_some_and(|why| why.contains("sink's ports missed")));
        Ok(())
    }
}
