//! The search for the rates of RFC 2544 section 26.1: the highest at which no frame is lost (NDR),
//! and the highest at which not more than a share is (PDR).
//!
//! Binary search with loss verification (ETSI GS NFV-TST 009 section 12.3.3): a trial that lost a few
//! frames is run again before it counts, as a pause of a shared machine loses as much as being too slow
//! does, but not each time. One whose loss such a pause explains ([`Trial::doubt`]) is run again more
//! often. What is found is confirmed by a longer trial. All of that ends within [`Plan::most`] trials.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

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

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Goal<'a> {
    /// The share of frames that may be lost.
    pub tolerated: f64,
    /// Where the search begins, frames a second.
    pub highest: f64,
    /// Trials of the same switch in the same row that need not be run again.
    pub earlier: &'a [Tried],
}

/// A trial of a search.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// Frames a second that were asked for.
    pub rate: f64,
    /// Seconds in which frames were sent.
    pub secs: f64,
    /// Frames offered to the switch.
    pub offered: u64,
    /// Those that it did not deliver.
    pub lost: u64,
    /// Why that may not be its own doing.
    pub doubt: Option<String>,
}

impl Tried {
    /// A trial at that rate.
    pub(super) fn of(rate: f64, trial: &Trial) -> Self {
        let (offered, lost) = (trial.sent + trial.blocked, trial.lost() + trial.blocked);
        Self { rate, secs: trial.secs, offered, lost, doubt: trial.doubt() }
    }

    fn loss(&self) -> f64 {
        self.lost as f64 / self.offered.max(1) as f64
    }
}

/// Where a search is, after a trial.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Which trial, from 1.
    pub trial: u32,
    /// The most there can be.
    pub of_most: u32,
    /// What came of it.
    pub tried: &'a Tried,
    /// Whether it passed.
    pub passed: bool,
}

/// What was searched for, and found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The rate at which the confirmation passed, frames a second delivered; `None` if none did.
    pub rate: Option<f64>,
    /// The confirmation; where none passed, the last trial that did not.
    pub trial: Trial,
    /// Why the search could not go higher, if that was not the switch's doing.
    pub limited: Option<String>,
    /// All trials, in their order.
    pub tried: Vec<Tried>,
}

/// Below this share of the highest rate nothing is searched: a rate there is as good as none.
const FLOOR: f64 = 0.01;
/// Share of frames lost or late beyond which a trial is not run again: a pause takes less.
const CERTAIN: f64 = 0.02;
/// How much more often than others doubtful trials are run, at one rate and in a search.
const DOUBTS: (u32, u32) = (3, 8);
/// Where the confirmation is tried, as shares of what the bisection found. One that fails is followed
/// by one a step of the precision lower, and then by these.
const LOWER: [f64; 3] = [0.95, 0.8, 0.5];
/// Doubtful confirmations after which none is tried any more: a lower rate does not calm a machine.
const DOUBTFUL: u32 = 2;
/// Confirmations.
const CONFIRMATIONS: u32 = 2 + LOWER.len() as u32;

impl Plan {
    /// The most trials of a search: short ones, and confirmations.
    pub fn most(&self) -> (u32, u32) {
        // The worst case is a rate at the floor: each step halves what lies above.
        let halvings = ((1.0 - FLOOR) / (self.precision * FLOOR)).log2().ceil().max(0.0) as u32;
        let each = 1 + self.again;
        // At the highest rate and at the floor, too.
        ((2 + halvings) * each + DOUBTS.1, CONFIRMATIONS * each)
    }

    /// The time of so many trials, each with what is waited for afterwards.
    pub fn time(&self, (short, long): (u32, u32)) -> Duration {
        const AFTER: Duration = Duration::from_millis(60);
        (self.trial + AFTER) * short + (self.confirm + AFTER) * long
    }

    /// What a search mostly takes: its rates lie in the upper half, and one in three is run twice.
    pub fn mostly(&self) -> (u32, u32) {
        let halvings = (1.0 / self.precision).log2().ceil().max(0.0) as u32;
        ((2 + halvings) * 4 / 3, 1)
    }
}

struct Search<'a, R: Rig + ?Sized> {
    rig: &'a mut R,
    plan: Plan,
    tolerated: f64,
    /// Why the last rate that did not pass is no word on the switch.
    limited: Option<String>,
    tried: Vec<Tried>,
    doubts: u32,
    tell: &'a dyn Fn(Step<'_>),
}

impl<R: Rig + ?Sized> Search<'_, R> {
    /// The last trial at a rate, and whether it passed.
    fn passes(&mut self, rate: f64, time: Duration) -> Result<(Trial, bool)> {
        let (mut again, mut doubts) = (self.plan.again, DOUBTS.0);
        loop {
            let trial = self.rig.trial(Ask::flows(Offer::Rate(rate), time))?;
            let passed = trial.fault().is_none() && trial.loss() <= self.tolerated;
            let tried = Tried::of(rate, &trial);
            self.tell(&tried, passed);
            self.tried.push(tried);
            if passed {
                return Ok((trial, true));
            }
            let doubt = trial.doubt();
            let certain = trial.loss().max(trial.late_share()) > CERTAIN;
            if !certain && again > 0 {
                again -= 1;
            } else if !certain && doubt.is_some() && doubts > 0 && self.doubts > 0 {
                (doubts, self.doubts) = (doubts - 1, self.doubts - 1);
            } else {
                self.limited = doubt;
                return Ok((trial, false));
            }
        }
    }

    fn tell(&self, tried: &Tried, passed: bool) {
        let (short, long) = self.plan.most();
        let trial = self.tried.len() as u32 + 1;
        (self.tell)(Step { trial, of_most: short + long, tried, passed });
    }

    fn ended(self, rate: Option<f64>, trial: Trial, limited: Option<String>) -> Found {
        Found { rate, trial, limited, tried: self.tried }
    }
}

/// Searches for the highest rate at which no more than the goal's share of frames is lost; `tell` gets
/// each trial.
///
/// # Errors
/// A trial cannot be run.
pub fn search(
    rig: &mut (impl Rig + ?Sized),
    plan: Plan,
    goal: Goal<'_>,
    tell: &dyn Fn(Step<'_>),
) -> Result<Found> {
    let Goal { tolerated, highest, earlier } = goal;
    let (tried, limited, doubts) = (Vec::new(), None, DOUBTS.1);
    let mut search = Search { rig, plan, tolerated, limited, tried, doubts, tell };
    // Doubtful ones tell neither.
    let (passed, failed): (Vec<&Tried>, Vec<&Tried>) =
        earlier.iter().filter(|t| t.doubt.is_none()).partition(|t| t.loss() <= tolerated);
    let mut low = passed.iter().map(|t| t.rate.min(highest)).fold(0.0, f64::max);
    let failed = failed.iter().map(|t| t.rate).filter(|rate| *rate > low);
    let mut high = failed.fold(f64::INFINITY, f64::min);
    let mut limited = None;
    if high > highest {
        high = highest;
        if search.passes(highest, plan.trial)?.1 {
            low = highest;
        }
        limited = search.limited.take();
    }
    if low <= 0.0 {
        low = FLOOR * highest;
        let (trial, passed) = search.passes(low, plan.trial)?;
        if !passed {
            let limited = search.limited.take();
            return Ok(search.ended(None, trial, limited));
        }
    }
    while high - low > plan.precision * high {
        let middle = f64::midpoint(low, high);
        if search.passes(middle, plan.trial)?.1 {
            low = middle;
        } else {
            high = middle;
            limited = search.limited.take();
        }
    }
    let mut last = Trial::default();
    let mut doubtful = 0;
    for share in [1.0, 1.0 - plan.precision].into_iter().chain(LOWER) {
        let (trial, passed) = search.passes(share * low, plan.confirm)?;
        if passed {
            let rate = Some(trial.rate());
            return Ok(search.ended(rate, trial, limited));
        }
        limited = search.limited.take();
        last = trial;
        doubtful += u32::from(limited.is_some());
        if doubtful == DOUBTFUL {
            break;
        }
    }
    Ok(search.ended(None, last, limited))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::simulated::{PLAN, Simulated};
    use super::*;

    fn within(found: Option<f64>, wanted: f64) {
        let found = found.unwrap();
        assert!((found / wanted - 1.0).abs() <= 0.01, "{found} is not {wanted}");
    }

    /// Searches with nobody told, and sees that it ends when it has to.
    fn searched(rig: &mut Simulated, plan: Plan, tolerated: f64, highest: f64) -> Result<Found> {
        let goal = Goal { tolerated, highest, earlier: &[] };
        let told = RefCell::new(0);
        let found = search(rig, plan, goal, &|step| {
            assert_eq!(step.trial, *told.borrow() + 1, "each trial is told");
            assert!(step.trial <= step.of_most, "{step:?}");
            *told.borrow_mut() = step.trial;
        })?;
        assert_eq!(found.tried.len() as u32, told.into_inner());
        Ok(found)
    }

    #[test]
    fn no_drop_rate_is_the_capacity() -> Result<()> {
        for capacity in [1.5e6, 14.88e6, 97.3e6] {
            let mut rig = Simulated::new(capacity);
            let found = searched(&mut rig, PLAN, 0.0, 100e6)?;
            within(found.rate, capacity);
            assert!(found.rate.unwrap() <= capacity, "more than it carries");
            assert_eq!((found.trial.lost(), found.limited), (0, None));
            assert!(found.tried.len() < 30, "{} trials", found.tried.len());
        }
        let found = searched(&mut Simulated::new(123_456.0), PLAN, 0.0, 5e6)?;
        within(found.rate, 123_456.0);
        Ok(())
    }

    #[test]
    fn partial_drop_rate_is_half_a_percent_above() -> Result<()> {
        let mut rig = Simulated::new(4e6);
        let no_drop = searched(&mut rig, PLAN, 0.0, 20e6)?;
        let goal = Goal { tolerated: 0.005, highest: 20e6, earlier: &no_drop.tried };
        let found = search(&mut rig, PLAN, goal, &|_| {})?;
        within(found.rate, 4e6);
        assert!(found.trial.loss() > 0.0 && found.trial.loss() <= 0.005);
        assert!(found.tried.len() <= 4, "what was tried is not tried again: {:?}", found.tried);
        Ok(())
    }

    #[test]
    fn loss_at_any_rate_leaves_no_no_drop_rate_at_once() -> Result<()> {
        let mut rig = Simulated { loss_one_in: 1_000, ..Simulated::new(4e6) };
        let found = searched(&mut rig, PLAN, 0.0, 20e6)?;
        assert_eq!(found.rate, None);
        assert_eq!(found.trial.lost(), 200, "at the lowest rate: {:?}", found.tried);
        assert!(found.tried.len() <= 3, "{:?}", found.tried);
        within(searched(&mut rig, PLAN, 0.005, 20e6)?.rate, 4e6);
        Ok(())
    }

    #[test]
    fn one_hiccup_does_not_end_a_search() -> Result<()> {
        // Every ninth trial is disturbed; each is asked again once.
        let mut rig = Simulated { hiccup_every: 9, ..Simulated::new(4e6) };
        within(searched(&mut rig, PLAN, 0.0, 20e6)?.rate, 4e6);
        let strict = Plan { again: 0, ..PLAN };
        let mut rig = Simulated { hiccup_every: 2, ..Simulated::new(4e6) };
        let found = searched(&mut rig, strict, 0.0, 20e6)?.rate.unwrap_or(0.0);
        assert!(found < 3.9e6, "a search that never asks again is misled: {found}");
        Ok(())
    }

    #[test]
    fn loss_that_a_pause_explains_is_asked_again_more_often() -> Result<()> {
        // Two of three trials lose a hundredth; in each the machine took the CPU for as long.
        let calm_every = 3;
        let mut rig = Simulated { calm_every, seen: true, ..Simulated::new(4e6) };
        within(searched(&mut rig, PLAN, 0.0, 20e6)?.rate, 4e6);
        // Where no trial is calm it is said whose doing that may be.
        let mut rig = Simulated { hiccup_every: 1, seen: true, ..Simulated::new(4e6) };
        let found = searched(&mut rig, PLAN, 0.0, 20e6)?;
        assert_eq!(found.rate, None);
        assert!(found.limited.is_some_and(|why| why.contains("CPU")), "{:?}", found.tried);
        Ok(())
    }

    #[test]
    fn a_slow_generator_is_named_and_never_a_rate() -> Result<()> {
        let mut rig = Simulated { generator: 2e6, ..Simulated::new(4e6) };
        let found = searched(&mut rig, PLAN, 0.0, 20e6)?;
        within(found.rate, 2e6);
        assert!(found.limited.is_some_and(|why| why.contains("generator was late")));
        let mut rig = Simulated { missed: 1, ..Simulated::new(4e6) };
        let found = searched(&mut rig, PLAN, 0.0, 20e6)?;
        assert_eq!(found.rate, None, "frames were lost at the sink in every trial");
        assert!(found.limited.is_some_and(|why| why.contains("sink's ports missed")));
        Ok(())
    }
}
