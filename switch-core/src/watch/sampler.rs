//! Samplers: one frame in so many, for whoever makes statistics of them elsewhere.

use std::sync::Arc;

use super::Watch;
use crate::config::PortConf;
use crate::ids::{BridgeId, PortId};

/// Most samplers at once.
pub const SAMPLERS_MAX: usize = 2;

/// Takes one in so many of the frames that come in on ports of bridges, at random. Workers count down
/// to the next one, so that a burst without a sample costs next to nothing.
#[derive(Debug)]
pub struct Sampler {
    /// Where records of the frames go.
    pub watch: Arc<Watch>,
    /// One in so many, on average; at least 1.
    pub one_in: u32,
    /// Whose frames; `None` is those of all ports that are in a bridge.
    pub of: Option<Sampled>,
}

/// Ports and bridges that are sampled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// These ports, ascending.
    pub ports: Vec<PortId>,
    /// All ports of these bridges, ascending.
    pub bridges: Vec<BridgeId>,
}

impl Sampler {
    /// Whether frames that come in on a port are sampled.
    pub fn is_of(&self, port: &PortConf) -> bool {
        let Some(bridge) = port.bridge else { return false };
        self.of.as_ref().is_none_or(|of| {
            of.ports.binary_search(&port.id).is_ok() || of.bridges.binary_search(&bridge).is_ok()
        })
    }
}
