//! What learning costs: how many new addresses a second a switch learns, and what is left of known
//! flows while somebody sends from ever new ones.
//!
//! From outside an address is known when a frame to it goes to its port alone. So a third port has to
//! see what is flooded, as RFC 2889 section 5.8 has it with its monitoring port.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::result::Rate;
use super::search::{Found, Goal, Plan, Step, Tried, search};
use super::trial::{Ask, Offer, Play, Rig, Trial};

/// Frames a second by which is asked what is known.
const RECALL: f64 = 200_000.0;
/// How often that is asked, each time slower, while answers are lost.
const RECALLS: u32 = 4;
/// Trials as long as which a switch may take to learn all addresses.
const PATIENCE: f64 = 5.0;
/// Share of the maximum at which the loss beside a flood is measured.
const HALF: f64 = 0.5;

/// Makes a switch forget its addresses.
pub type Forget<'a> = &'a dyn Fn() -> Result<()>;

/// A rig on which a frame counts as delivered when its source address was learned.
struct Learner<'a, R: Rig + ?Sized> {
    rig: &'a mut R,
    forget: Forget<'a>,
    addresses: u64,
    set: u8,
}

impl<R: Rig + ?Sized> fmt::Debug for Learner<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learner").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl<R: Rig + ?Sized> Learner<'_, R> {
    fn ask(&mut self, play: Play, frames: u64, rate: f64) -> Result<Trial> {
        // The last frame is due a little before the end.
        let time = Duration::from_secs_f64((frames as f64 + 0.5) / rate);
        self.rig.trial(Ask { play, ..Ask::flows(Offer::Rate(rate), time) })
    }

    /// How many of the first `taught` addresses are not known.
    fn unknown(&mut self, taught: u64) -> Result<u64> {
        let mut rate = RECALL;
        let mut last = Trial::default();
        for _ in 0..RECALLS {
            last = self.ask(Play::Recall(self.set), taught, rate)?;
            ensure!(last.watching > 0, "no port sees what is flooded");
            if last.received == taught {
                break;
            }
            rate /= 4.0;
        }
        // One that was lost may have been flooded, too.
        let lost = taught.saturating_sub(last.received);
        Ok((last.strayed.div_ceil(last.watching) + lost).min(taught))
    }
}

impl<R: Rig + ?Sized> Rig for Learner<'_, R> {
    fn trial(&mut self, ask: Ask) -> Result<Trial> {
        let Offer::Rate(rate) = ask.offer else { bail!("addresses are taught at a rate") };
        // New ones, even if the switch does not forget.
        self.set = self.set.checked_add(1).unwrap_or(1);
        (self.forget)()?;
        // Makes the station known that they will speak to.
        self.ask(Play::Recall(self.set), 1, RECALL)?;
        let mut trial = self.ask(Play::Teach(self.set), self.addresses, rate)?;
        trial.received = trial.sent - self.unknown(trial.sent)?;
        Ok(trial)
    }
}

/// Searches up to `highest` addresses a second for the highest rate at which so many new ones are all
/// learned.
///
/// # Errors
/// A trial cannot be run, or the switch does not forget.
pub fn learn(
    rig: &mut (impl Rig + ?Sized),
    forget: Forget<'_>,
    addresses: u32,
    plan: Plan,
    highest: f64,
    tell: &dyn Fn(Step<'_>),
) -> Result<Found> {
    let mut learner = Learner { rig, forget, addresses: addresses.into(), set: 0 };
    let slowest = f64::from(addresses) / (PATIENCE * plan.trial.as_secs_f64());
    let mut earlier = Vec::new();
    if slowest < highest {
        // What is not learned then never is, and slower trials would take for ever.
        let ask = Ask::flows(Offer::Rate(slowest), plan.trial);
        let trial = calmest(&mut learner, ask, plan.again)?;
        earlier.push(Tried::of(slowest, &trial));
        if trial.loss() > 0.0 {
            let (rate, limited) = (None, trial.doubt());
            return Ok(Found { rate, trial, limited, tried: earlier });
        }
    }
    search(&mut learner, plan, Goal { tolerated: 0.0, highest, earlier: &earlier }, tell)
}

/// What is left of known flows beside a flood.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    /// Frames between random addresses a second that the switch took.
    pub random: f64,
    /// The flows' maximum, without and with the flood.
    pub maximum: [Rate; 2],
    /// The flows at half the first maximum, without and with it.
    pub half: [Rate; 2],
}

/// Measures known flows beside `random` frames a second between random addresses.
///
/// # Errors
/// A trial cannot be run, or nothing arrives.
pub fn flood(rig: &mut (impl Rig + ?Sized), random: f64, plan: Plan) -> Result<Left> {
    let ask = |play, offer| Ask { play, ..Ask::flows(offer, plan.trial) };
    let alone = rig.trial(ask(Play::Beside(0.0), Offer::Flood))?;
    ensure!(alone.received > 0, "it carried nothing of {} frames of known flows", alone.sent);
    let beside = rig.trial(ask(Play::Beside(random), Offer::Flood))?;
    let half = Offer::Rate(HALF * alone.rate());
    let half_alone = calmest(rig, ask(Play::Beside(0.0), half), plan.again)?;
    let half_beside = calmest(rig, ask(Play::Beside(random), half), plan.again)?;
    Ok(Left {
        random: beside.random as f64 / beside.secs,
        maximum: [Rate::of(&alone), Rate::of(&beside)],
        half: [Rate::of(&half_alone), Rate::of(&half_beside)],
    })
}

/// The trial with the least loss of one and `again` more, as long as there is any: what takes CPUs
/// away for a moment does so once.
///
/// # Errors
/// A trial cannot be run.
pub fn calmest(rig: &mut (impl Rig + ?Sized), ask: Ask, again: u32) -> Result<Trial> {
    let mut best = rig.trial(ask)?;
    for _ in 0..again {
        if best.loss() > 0.0 {
            let other = rig.trial(ask)?;
            best = if other.loss() < best.loss() { other } else { best };
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::simulated::{PLAN, Simulated};
    use super::*;

    #[test]
    fn the_learn_rate_is_the_switchs() -> Result<()> {
        let forgotten = Cell::new(0);
        let forget = || {
            forgotten.set(forgotten.get() + 1);
            Ok(())
        };
        for learns in [50_000.0, 1.2e6] {
            let mut rig = Simulated { learns, ..Simulated::new(4e6) };
            let found = learn(&mut rig, &forget, 100_000, PLAN, 10e6, &|_| {})?;
            let rate = found.rate.unwrap();
            assert!((rate / learns - 1.0).abs() <= 0.01, "{rate} is not {learns}");
            assert_eq!(found.trial.sent, 100_000, "all were taught");
            assert!(forgotten.replace(0) > found.tried.len(), "before each trial");
        }
        Ok(())
    }

    #[test]
    fn a_table_that_is_too_small_never_learns_all() -> Result<()> {
        let mut rig = Simulated { table: 65_536, ..Simulated::new(4e6) };
        let found = learn(&mut rig, &|| Ok(()), 100_000, PLAN, 4e6, &|_| {})?;
        assert_eq!(found.rate, None);
        assert_eq!(found.trial.lost(), 100_000 - 65_536, "each that is not known is counted once");
        Ok(())
    }

    #[test]
    fn what_a_flood_leaves_is_told() -> Result<()> {
        let mut rig = Simulated { beside: 0.25, ..Simulated::new(4e6) };
        let left = flood(&mut rig, 1e6, PLAN)?;
        let [alone, beside] = left.maximum.map(|rate| rate.pps);
        assert!((alone - 4e6).abs() < 1.0 && (beside - 1e6).abs() < 1.0, "{left:?}");
        assert_eq!((left.half[0].lost, left.random), (0, 1e6));
        assert!((left.half[1].loss - 0.5).abs() < 0.001, "half of half the maximum: {left:?}");
        Ok(())
    }
}
