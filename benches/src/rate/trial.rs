//! What a trial is: frames offered for a time, and what became of them.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

/// Shares of due frames that a generator may be late with before the trial says nothing about the
/// switch.
pub const LATE_SHARE: f64 = 0.001;

/// How much is offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Offer {
    /// Frames a second, of all directions together.
    Rate(f64),
    /// As many as the generator makes and the ports take.
    Flood,
}

/// Who sends what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Play {
    /// The ports of the row's direction send its flows.
    Flows,
    /// Those of the first pair do, while the third port sends that many frames a second between random
    /// addresses.
    Beside(f64),
    /// The first port's stations of a set, numbered from 1, send to the second port's first one.
    Teach(u8),
    /// That one sends to those.
    Recall(u8),
}

/// A trial to be run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Who sends.
    pub play: Play,
    /// How much.
    pub offer: Offer,
    /// How long frames are sent. Those under way at the end are waited for.
    pub time: Duration,
    /// Whether each frame's latency is recorded, which costs the sink a little.
    pub latency: bool,
}

impl Ask {
    /// The row's flows.
    pub const fn flows(offer: Offer, time: Duration) -> Self {
        Self { play: Play::Flows, offer, time, latency: false }
    }
}

/// What became of the frames of a trial.
///
/// All but the last three are of the ports that are measured: not of the third one and those behind it
/// unless all ports send flows.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// Seconds in which frames were sent.
    pub secs: f64,
    /// Frames that were due by the rate asked for. In a flood, those that were sent.
    pub due: u64,
    /// Frames that a port took.
    pub sent: u64,
    /// Frames that were due and found the port's queue full: there is no room where the switch has
    /// to fetch them, so they count as lost by it (on a NIC it would be the switch's own queue).
    pub blocked: u64,
    /// Frames that were due and that the generator was too late for.
    pub late: u64,
    /// Frames that arrived where they had to, once each.
    pub received: u64,
    /// Frames that arrived behind a later one of their flow (RFC 4737 section 3).
    pub reordered: u64,
    /// Frames that arrived again.
    pub duplicated: u64,
    /// Frames that came back to the port that sent them.
    pub returned: u64,
    /// Frames that are not of this trial, such as what a host's stack sends.
    pub foreign: u64,
    /// Frames that the sink's own ports had no room for.
    pub missed: u64,
    /// Frames for which there may have been no room at the sink while its CPU was taken away: those
    /// that were due there meanwhile, beyond what a ring holds.
    pub overrun: u64,
    /// How long the switch's workers had no CPU, in all, though they wanted one.
    pub taken: Duration,
    /// Nanoseconds from before a frame is given to its port until it is fetched from the other.
    pub latency: Option<Histogram<u64>>,
    /// Frames that arrived at a port of another pair: flooded.
    pub strayed: u64,
    /// Frames between random addresses that the third port took.
    pub random: u64,
    /// Ports at which nothing is to arrive.
    pub watching: u64,
}

impl Trial {
    /// Frames that were sent and did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Share of the frames offered to the switch that it did not deliver.
    pub fn loss(&self) -> f64 {
        let offered = self.sent + self.blocked;
        (self.lost() + self.blocked) as f64 / offered.max(1) as f64
    }

    /// Frames a second that arrived.
    pub fn rate(&self) -> f64 {
        self.received as f64 / self.secs
    }

    /// Frames a second that were offered to the switch.
    pub fn offered(&self) -> f64 {
        (self.sent + self.blocked) as f64 / self.secs
    }

    /// Why this trial says more of the generator than of the switch, if it does.
    pub fn fault(&self) -> Option<String> {
        if self.missed > 0 {
            return Some(format!("the sink's ports missed {} frames", self.missed));
        }
        let late = self.late_share();
        (late > LATE_SHARE)
            .then(|| format!("the generator was late for {:.2} % of the frames", 100.0 * late))
    }

    /// Share of the due frames that the generator was too late for.
    pub fn late_share(&self) -> f64 {
        self.late as f64 / self.due.max(1) as f64
    }

    /// Why the loss of this trial may not be the switch's doing: a fault of the generator, or a CPU that
    /// the machine gave to something else for as long as so many frames take.
    pub fn doubt(&self) -> Option<String> {
        self.fault().or_else(|| {
            let lost = self.lost() + self.blocked;
            let meanwhile = self.taken.as_secs_f64() * self.offered();
            let explained = lost > 0 && lost as f64 <= meanwhile + self.overrun as f64;
            explained.then(|| match self.overrun {
                0 => format!("CPUs of the switch were taken for {:.1} ms", millis(self.taken)),
                overrun => format!(
                    "CPUs were taken: the switch's for {:.1} ms, and the generator's, so that its rings \
                     may have been full for {overrun} frames",
                    millis(self.taken)
                ),
            })
        })
    }
}

fn millis(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// Anything that carries frames from port to port: a switch between a generator and a sink, the
/// two back to back, or a simulation.
pub trait Rig {
    /// Runs a trial.
    ///
    /// # Errors
    /// The switch or the generator is gone.
    fn trial(&mut self, ask: Ask) -> Result<Trial>;
}
