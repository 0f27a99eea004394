//! Replays: the whole switch, on frames of a capture and on their time.
//!
//! A [`Replay`] is the control thread's [`Controller`] and a real worker, as in a daemon, with three
//! things taken away: devices (`stage`), the clock, which stands where the capture says, and the
//! random seed of the FDB. So bridges, VLANs, tunnels, limits, ageing, the loop guard and all else
//! behave as they would, and the same frames give the same bytes on any machine.
//!
//! Frames go their way one at a time, and whatever the switch does by itself (ageing, releasing
//! addresses, blocks that end) is done in between, when its time has come.

mod stage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, unbounded};
use switch_core::frame::Offload;
use switch_core::{Nanos, PortId};
use vswitch_api::config::{Desired, IpfixSpec, SflowSpec};
use vswitch_api::types::{DropRow, PortStats};

use crate::clock::Clock;
use crate::control::{Chance, ControlError, Controller, Place};
use crate::events::Events;
use crate::store::{Store, StoreError};
use crate::workers::{Died, WorkerError};
use stage::{Incoming, Outgoing, Stage, StageBackend};

/// How long the switch has been up when the first frame comes: long enough that nothing is still as it
/// was at the start.
const UP: Nanos = Nanos::from_secs(60);
/// What addresses are hashed with. Any number will do, as long as it stays this one.
const FDB_SEED: u64 = 0x7673_7769_7463_6864;
/// How long one frame may take. It takes microseconds; a worker that takes seconds hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the switch looks around, by how long no frame has come: ten times a second first, as a
/// daemon does, and more rarely where nothing but the ageing of entries is left to do.
const LOOKS: [(Duration, Duration); 3] = [
    (Duration::from_secs(10), Duration::from_millis(100)),
    (Duration::from_secs(60), Duration::from_secs(1)),
    (LONGEST_GAP, RARELY),
];
/// After a minute: often enough for the FDB, whose ages are of limited range. It is looked around once
/// more before the next frame.
const RARELY: Duration = Duration::from_secs(3_600);
/// Longer gaps between two frames count as this: the oldest entry is forgotten by then.
const LONGEST_GAP: Duration = Duration::from_secs(12 * 86_400);

/// Why a replay cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// No store could be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The switch did not start, or hangs.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// There is no port or VTEP of that name, or it takes no frames.
    #[error("frames cannot come in on {0:?}: it is an uplink, or no port or VTEP at all")]
    NoSuchPort(String),
    /// The switch failed over a frame.
    #[error("the switch failed: {0}")]
    Panic(String),
    /// The switch does not end with a frame.
    #[error("the switch did not finish with a frame within {PATIENCE:?}")]
    Hangs,
}

impl From<WorkerError> for ReplayError {
    fn from(error: WorkerError) -> Self {
        Self::Control(error.into())
    }
}

/// A frame that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The port or VTEP it left by.
    pub port: Arc<str>,
    /// Its bytes: an Ethernet frame, or an IP packet where `port` is a VTEP.
    pub bytes: Vec<u8>,
    /// What was left undone about it.
    pub offload: Offload,
}

/// What was counted in a replay.
#[derive(Clone, Debug)]
pub struct Books {
    /// By port and VTEP.
    pub ports: Vec<PortStats>,
    /// By port and reason.
    pub drops: Vec<DropRow>,
}

/// A switch that is driven by a capture.
#[derive(Debug)]
pub struct Replay {
    controller: Controller<StageBackend>,
    stage: Arc<Stage>,
    clock: Clock,
    deaths: Receiver<Died>,
    /// Ports and VTEPs by name; whether it is a VTEP.
    entrances: BTreeMap<Arc<str>, (PortId, bool)>,
    names: BTreeMap<PortId, Arc<str>>,
    /// The time of the capture that the switch has come to, in nanoseconds.
    at: Option<u64>,
    /// Since the last frame, how long the switch has looked around.
    looked: Duration,
}

impl Replay {
    /// A switch as `desired` asks for, with one worker and with ports that lead nowhere.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut desired: Desired) -> Result<Self, ReplayError> {
        // What is asked of the machine is not for this one, and what happened was exported then.
        desired.daemon.cpus = None;
        (desired.sflow, desired.ipfix) = (SflowSpec::default(), IpfixSpec::default());
        let clock = Clock::still(UP);
        let chance = Chance { clock: clock.clone(), fdb_seed: Some(FDB_SEED) };
        let backend = StageBackend::default();
        let stage = backend.stage();
        let (died, deaths) = unbounded();
        let (controller, _) = Controller::start_with(
            backend,
            Store::in_memory()?,
            desired,
            Events::default(),
            &died,
            chance,
        )?;
        let (mut entrances, mut names) = (BTreeMap::new(), BTreeMap::new());
        for (name, id, place) in controller.places() {
            let name = Arc::<str>::from(name);
            names.insert(id, Arc::clone(&name));
            if place != Place::Uplink {
                entrances.insert(name, (id, place == Place::Vtep));
            }
        }
        let looked = Duration::ZERO;
        let replay = Self { controller, stage, clock, deaths, entrances, names, at: None, looked };
        replay.settle()?;
        Ok(replay)
    }

    /// Names of the ports and VTEPs that frames can come in on, with whether it is a VTEP.
    pub fn entrances(&self) -> impl Iterator<Item = (&str, bool)> {
        self.entrances.iter().map(|(name, (_, is_vtep))| (&**name, *is_vtep))
    }

    /// Has a frame come in on a port at that time, in nanoseconds since any moment (that of the first
    /// frame is where time begins). Answers with what left because of it, in order.
    ///
    /// An earlier time than that of the frame before counts as the same.
    ///
    /// # Errors
    /// There is no such port, or the switch fails.
    pub fn frame(
        &mut self,
        port: &str,
        at: u64,
        bytes: &[u8],
        offload: Offload,
    ) -> Result<Vec<Left>, ReplayError> {
        let Some(&(id, is_vtep)) = self.entrances.get(port) else {
            return Err(ReplayError::NoSuchPort(port.to_owned()));
        };
        let gap = at.saturating_sub(self.at.unwrap_or(at));
        self.at = Some(self.at.map_or(at, |before| before.max(at)));
        self.pass(Duration::from_nanos(gap).min(LONGEST_GAP))?;
        self.stage.put(Incoming { port: id, is_vtep, bytes: bytes.to_vec(), offload });
        self.settle()?;
        Ok(self.stage.take().into_iter().filter_map(|out| self.left(out)).collect())
    }

    /// Lets that much time pass.
    fn pass(&mut self, gap: Duration) -> Result<(), ReplayError> {
        let mut left = gap;
        let mut quiet = Duration::ZERO;
        loop {
            let every =
                LOOKS.iter().find(|(until, _)| quiet < *until).map_or(RARELY, |(_, every)| *every);
            let next = every.saturating_sub(self.looked);
            if next > left {
                self.clock.advance(left);
                self.looked += left;
                return if every == RARELY { self.look_around() } else { Ok(()) };
            }
            self.clock.advance(next);
            (quiet, left) = (quiet + next, left - next);
            self.look_around()?;
        }
    }

    fn look_around(&mut self) -> Result<(), ReplayError> {
        self.looked = Duration::ZERO;
        self.controller.look_around()?;
        self.settle()
    }

    /// What was counted so far.
    pub fn books(&mut self) -> Books {
        let (ports, drops) = self.controller.books();
        Books { ports, drops }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The worker hangs.
    pub fn end(self) -> Result<(), ReplayError> {
        Ok(self.controller.end()?)
    }

    /// Waits until the worker has done what there is to do.
    fn settle(&self) -> Result<(), ReplayError> {
        if self.stage.settle(PATIENCE) {
            return Ok(());
        }
        let death = self.deaths.try_recv();
        Err(death.map_or(ReplayError::Hangs, |death| ReplayError::Panic(death.message)))
    }

    fn left(&self, out: Outgoing) -> Option<Left> {
        let Outgoing { port, bytes, offload } = out;
        let port = Arc::clone(self.names.get(&port)?);
        Some(Left { port, bytes, offload })
    }
}
