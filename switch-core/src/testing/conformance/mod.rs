//! What every [`Datapath`] has to pass.
//!
//! A backend implements [`Harness`] and runs [`run_all`]; each check gets a backend of its own, so
//! that none sees what another left behind. Far ends may be kernel devices: delivery is awaited,
//! with a bound, and frames that the suite did not send are ignored.
//!
//! The suite is proved by running it on the datapaths of [`super::broken`]: each must fail in the
//! check that is about its defect.

mod checks;
mod frame_checks;
mod rig;

use std::fmt;
use std::time::Duration;

pub use rig::Rig;

use super::Packet;
use crate::config::PortSpec;
use crate::datapath::{Backend, Datapath};
use crate::frame::HEADROOM;

/// Ports that the suite opens.
pub const PORTS: usize = 3;
/// Workers that it makes.
pub const WORKERS: usize = 2;

/// What the suite has to know about a backend, and its hands on the far ends of the ports.
pub trait Harness {
    /// The backend.
    type Backend: Backend;

    /// The backend under test: the same one each time, without workers and ports at first.
    fn backend(&mut self) -> &mut Self::Backend;

    /// What port `n`, below [`PORTS`], is opened with. All ports have an MTU of at least 1500.
    fn spec(&self, n: usize) -> PortSpec;

    /// Sends a frame to the switch from the far end of port `n`; false if this far end cannot send
    /// such a frame (a kernel device that refuses runts, or has no offloads).
    fn inject(&mut self, n: usize, packet: &Packet) -> bool;

    /// Takes what has arrived at the far end of port `n` so far, oldest first. May hold more than
    /// what the switch sent.
    fn collect(&mut self, n: usize) -> Vec<Packet>;

    /// Frames in existence, of all workers, if the backend can tell. Buffers that wait in a cache
    /// or a receive ring do not count.
    fn in_use(&self) -> Option<usize>;

    /// Longest frame that goes through: an MTU's worth with its Ethernet header.
    fn frame_max(&self) -> usize {
        1514
    }

    /// Shortest frame that a far end can send; some devices pad.
    fn frame_min(&self) -> usize {
        14
    }

    /// Free bytes that a received and an allocated frame have in front at least.
    fn headroom(&self) -> usize {
        HEADROOM
    }

    /// Frames after which a port whose far end takes nothing must have dropped one, if there is
    /// such a number.
    fn tx_capacity(&self) -> Option<usize> {
        None
    }

    /// Frames that the hand-over ring of a queue takes.
    fn handover_capacity(&self) -> usize {
        crate::handover::RING_FRAMES
    }

    /// How long to wait for what must happen.
    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// The frame of a harness's backend.
pub type FrameOf<H> = <DatapathOf<H> as Datapath>::Frame;
/// The datapath of a harness's backend.
pub type DatapathOf<H> = <<H as Harness>::Backend as Backend>::Datapath;

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The datapath broke a promise.
    Broken(String),
    /// The harness cannot do what the check needs, for this reason.
    Cannot(&'static str),
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self::Broken(what)
    }
}

/// What a check answers.
pub type Checked = Result<(), Fault>;

/// Makes a [`Fault::Broken`] unless a condition holds.
macro_rules! require {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+).into());
        }
    };
}
use require;

macro_rules! suite {
    ($($module:ident :: $check:ident),* $(,)?) => {
        /// The names of all checks, in the order in which they run.
        pub const CHECKS: &[&str] = &[$(stringify!($check)),*];

        /// Runs one check by its name.
        ///
        /// # Errors
        /// What the check found, also if there is no such check or the ports cannot be opened.
        pub fn run_one<H: Harness>(name: &str, harness: H) -> Checked {
            let mut rig = Rig::start(harness)?;
            let checked = match name {
                $(stringify!($check) => $module::$check(&mut rig),)*
                _ => Err(Fault::Broken(format!("there is no check {name}"))),
            };
            let settled = checked.and_then(|()| rig.settle());
            // Whatever was found: devices are closed.
            settled.and(rig.close())
        }
    };
}

suite! {
    checks::ownership_after_tx,
    checks::burst_limits,
    checks::no_leak,
    checks::accounting,
    checks::order,
    checks::half_drained,
    checks::waker_ends_wait,
    checks::arrival_ends_wait,
    checks::tx_full,
    checks::runt_and_giant,
    checks::detached_is_silent,
    checks::handover,
    checks::handover_full,
    frame_checks::headroom,
    frame_checks::head_contract,
    frame_checks::trim_keeps_head,
    frame_checks::append_adds,
    frame_checks::share_is_separate,
    frame_checks::push_on_shared,
    frame_checks::segments,
    frame_checks::offload_moves,
    frame_checks::offload_round_trip,
    frame_checks::gso_round_trip,
}

/// What a run of the suite found.
#[derive(Debug, Default)]
pub struct Report {
    /// Checks that passed.
    pub passed: Vec<&'static str>,
    /// Checks that failed, and how.
    pub failed: Vec<(&'static str, String)>,
    /// Checks that the harness could not run, and why.
    pub skipped: Vec<(&'static str, &'static str)>,
}

impl Report {
    /// Panics, for use as the last line of a test, if any check failed or was skipped that is not
    /// in `may_skip`.
    ///
    /// # Panics
    /// As said.
    pub fn assert_passed(&self, may_skip: &[&str]) {
        let unexpected = self.skipped.iter().any(|(name, _)| !may_skip.contains(name));
        assert!(self.failed.is_empty() && !unexpected, "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conformance: {} passed", self.passed.len())?;
        for (name, why) in &self.failed {
            write!(f, "\n  FAILED {name}: {why}")?;
        }
        for (name, why) in &self.skipped {
            write!(f, "\n  skipped {name}: {why}")?;
        }
        Ok(())
    }
}

/// Runs every check, each on a harness of its own. `make` gets the check's name.
pub fn run_all<H: Harness>(mut make: impl FnMut(&str) -> H) -> Report {
    let mut report = Report::default();
    for name in CHECKS.iter().copied() {
        match run_one(name, make(name)) {
            Ok(()) => report.passed.push(name),
            Err(Fault::Broken(why)) => report.failed.push((name, why)),
            Err(Fault::Cannot(why)) => report.skipped.push((name, why)),
        }
    }
    report
}
