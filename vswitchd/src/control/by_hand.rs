//! A controller that somebody drives, instead of a thread of its own: for replays.

use std::time::Instant;

use switch_core::PortId;
use switch_core::datapath::Backend;
use vswitch_api::types::{DropRow, PortStats};

use super::{Controller, Queue};
use crate::workers::WorkerError;

/// What frames can come in on, or leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A port that takes Ethernet frames.
    Port,
    /// A port whose frames are its VTEPs' or the host's.
    Uplink,
    /// A VTEP, whose frames are IP packets.
    Vtep,
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Looks around once, as [`Controller::run`] does ten times a second.
    ///
    /// # Errors
    /// A worker hangs.
    pub(crate) fn look_around(&mut self) -> Result<(), WorkerError> {
        self.tick(Instant::now())
    }

    /// Ports and VTEPs by name.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, PortId, Place)> {
        let ports = self.ports.iter().map(|(name, port)| {
            let place = if port.is_uplink() { Place::Uplink } else { Place::Port };
            (name.as_str(), port.id, place)
        });
        ports.chain(self.vteps.iter().map(|(name, vtep)| (name.as_str(), vtep.id, Place::Vtep)))
    }

    /// What was counted on each port and VTEP, and what was dropped.
    pub(crate) fn books(&mut self) -> (Vec<PortStats>, Vec<DropRow>) {
        (self.port_stats(), self.drops())
    }
}
