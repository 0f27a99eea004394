//! A switch with a known capacity, loss, delay and disorder, for tests of what measures switches.

use std::time::Duration;

use anyhow::Result;

use super::search::Plan;
use super::tally::Tally;
use super::trial::{Ask, Offer, Play, Rig, Trial};

/// The switch, and the generator in front of it.
#[derive(Clone, Debug)]
pub(super) struct Simulated {
    /// Frames a second it carries.
    pub(super) capacity: f64,
    /// Frames a second its generator makes.
    pub(super) generator: f64,
    /// It loses one frame of so many at any rate; 0 is none.
    pub(super) loss_one_in: u64,
    /// Every so many trials something else takes its CPU for a while; 0 is never.
    pub(super) hiccup_every: u32,
    /// Something else does so in all but every so many; 0 is in none.
    pub(super) calm_every: u32,
    /// Whether the machine tells of it.
    pub(super) seen: bool,
    /// Frames that the sink misses in a trial.
    pub(super) missed: u64,
    /// Trials so far.
    pub(super) trials: u32,
    /// Addresses a second it learns.
    pub(super) learns: f64,
    /// Addresses it has room for.
    pub(super) table: u64,
    /// The share of its capacity that a flood beside leaves.
    pub(super) beside: f64,
    /// The set of addresses it was taught last, and how many of it it knows.
    pub(super) known: (u8, u64),
}

/// How it is measured.
pub(super) const PLAN: Plan = Plan {
    trial: Duration::from_secs(1),
    confirm: Duration::from_secs(5),
    precision: 0.005,
    again: 1,
};

/// Ports that see what it floods.
const WATCHING: u64 = 2;

impl Simulated {
    /// A switch with that capacity and no fault.
    pub(super) fn new(capacity: f64) -> Self {
        Self {
            capacity,
            generator: f64::INFINITY,
            loss_one_in: 0,
            hiccup_every: 0,
            calm_every: 0,
            seen: false,
            missed: 0,
            trials: 0,
            learns: f64::INFINITY,
            table: u64::MAX,
            beside: 1.0,
            known: (0, 0),
        }
    }
}

impl Rig for Simulated {
    fn trial(&mut self, ask: Ask) -> Result<Trial> {
        self.trials += 1;
        let secs = ask.time.as_secs_f64();
        let wanted = match ask.offer {
            Offer::Rate(rate) => rate,
            Offer::Flood => self.generator.min(10.0 * self.capacity),
        };
        let due = (wanted * secs) as u64;
        let sent = (wanted.min(self.generator) * secs) as u64;
        let (capacity, random) = match ask.play {
            Play::Beside(random) if random > 0.0 => (self.beside * self.capacity, random),
            _ => (self.capacity, 0.0),
        };
        let every = |n: u32| n != 0 && self.trials.is_multiple_of(n);
        let disturbed =
            every(self.hiccup_every) || (self.calm_every != 0 && !every(self.calm_every));
        let taken = if disturbed && self.seen { ask.time / 90 } else { Duration::ZERO };
        let mut received = sent.min((capacity * secs) as u64);
        received -= received.checked_div(self.loss_one_in).unwrap_or(0);
        received -= if disturbed { received / 100 } else { 0 };
        let late = due - sent;
        let strayed = self.learn_or_flood(ask.play, received, secs);
        let (missed, random) = (self.missed, (random * secs) as u64);
        let watching = WATCHING;
        let trial = Trial { secs, due, sent, late, received, missed, taken, ..Trial::default() };
        Ok(Trial { strayed, random, watching, ..trial })
    }
}

impl Simulated {
    /// What frames do to its table, and how many arrive at ports that watch.
    fn learn_or_flood(&mut self, play: Play, frames: u64, secs: f64) -> u64 {
        match play {
            Play::Teach(set) => {
                let in_time = (self.learns * secs) as u64;
                self.known = (set, frames.min(in_time).min(self.table));
                0
            }
            Play::Recall(set) => {
                let known = if self.known.0 == set { self.known.1 } else { 0 };
                WATCHING * frames.saturating_sub(known)
            }
            Play::Flows | Play::Beside(_) => 0,
        }
    }
}

/// Frames numbered from 0 through a path that loses, repeats and exchanges some: what arrives, as
/// [`Tally`] gets it, with the delays in nanoseconds.
pub(super) fn path(
    frames: u64,
    tally: &mut Tally,
    lost: impl Fn(u64) -> bool,
    twice: impl Fn(u64) -> bool,
    delay: impl Fn(u64) -> u64,
) {
    // A frame each 100 ns; what is delayed longer is overtaken.
    let mut arrivals: Vec<(u64, u64)> = (0..frames)
        .filter(|n| !lost(*n))
        .flat_map(|n| std::iter::repeat_n((100 * n + delay(n), n), 1 + usize::from(twice(n))))
        .collect();
    arrivals.sort();
    for (at, n) in arrivals {
        tally.arrived(n, at - 100 * n);
    }
}
