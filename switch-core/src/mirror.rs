//! Mirrors, as workers see them: whose frames are copied, which of them, and where the copies go.
//!
//! A worker copies frames in two places: as it receives them, and as it gives them to the device. What
//! mirrors is therefore no part of forwarding, and a frame goes the same way with and without one.
//! Copies are no frames of any bridge and leave by a port that is in none, so that none of them is
//! copied again.

use std::sync::Arc;

use crossbeam::utils::CachePadded;

use crate::config::{Direction, PortConf, Snapshot, VlanSet};
use crate::ids::{BridgeId, PortId, TunnelId};
use crate::stats::Counter;
use crate::watch::{Facts, Filter};

/// Most mirrors at once.
pub const MIRRORS_MAX: usize = 64;

/// A mirror as workers see it.
#[derive(Debug)]
pub struct MirrorConf {
    /// Its name.
    pub name: Arc<str>,
    /// Ports whose frames are copied, ascending.
    pub ports: Vec<PortId>,
    /// Bridges of which the frames of all ports and tunnels are copied, ascending.
    pub bridges: Vec<BridgeId>,
    /// Which of their frames.
    pub direction: Direction,
    /// Only frames in these VLANs.
    pub vlans: Option<VlanSet>,
    /// Only frames that meet this.
    pub filter: Filter,
    /// Most bytes of each frame that are copied.
    pub snap: Option<usize>,
    /// Of the frames that meet all this, one in so many; at least 1.
    pub one_in: u32,
    /// Where copies go.
    pub to: MirrorTo,
    /// One a worker.
    pub counters: Arc<[CachePadded<MirrorCounters>]>,
}

/// Where the copies of a mirror go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorTo {
    /// Out of this port.
    Port(PortId),
    /// To every remote of this tunnel, with its headers in front of them.
    Tunnel(TunnelId),
}

/// What one worker counts about one mirror.
#[derive(Debug, Default)]
pub struct MirrorCounters {
    /// Copies that were given to the port they leave by.
    pub frames: Counter,
    /// Bytes of these copies.
    pub bytes: Counter,
    /// Copies that were not made, as no buffer was free or too many waited: `copy-failed`.
    pub failed: Counter,
    /// Frames that were met, of which one in so many is copied.
    met: Counter,
}

impl MirrorCounters {
    /// All at zero, one for each worker.
    pub fn each(workers: usize) -> Arc<[CachePadded<Self>]> {
        std::iter::repeat_with(CachePadded::<Self>::default).take(workers).collect()
    }

    /// Whether the next frame is the one in so many.
    pub(crate) fn is_next(&self, one_in: u32) -> bool {
        let nth = self.met.get();
        self.met.add(1);
        nth.is_multiple_of(one_in.max(1).into())
    }
}

impl MirrorConf {
    /// Whether frames of a port are copied at all.
    fn is_of(&self, port: &PortConf) -> bool {
        let of_bridge = |bridge| self.bridges.binary_search(&bridge).is_ok();
        self.to != MirrorTo::Port(port.id)
            && (self.ports.binary_search(&port.id).is_ok() || port.bridge.is_some_and(of_bridge))
    }

    /// Whether a frame of `len` bytes is wanted that begins with `head`. `pvid` is the VLAN of frames
    /// without a tag where it is.
    #[inline]
    pub(crate) fn wants(&self, head: &[u8], len: usize, pvid: Option<u16>) -> bool {
        self.vlans.is_none() && self.filter.is_all() || self.selects(head, len, pvid)
    }

    #[inline(never)]
    fn selects(&self, head: &[u8], len: usize, pvid: Option<u16>) -> bool {
        let facts = Facts::of_frame(head, len, pvid);
        let in_vlan = |vlans: &VlanSet| facts.vlan().is_some_and(|vid| vlans.contains(vid));
        self.vlans.as_ref().is_none_or(in_vlan) && self.filter.meets(&facts)
    }
}

/// Whether copies can leave now. None is made before.
fn is_open(snapshot: &Snapshot, mirror: &MirrorConf) -> bool {
    let port = match mirror.to {
        MirrorTo::Port(port) => Some(port),
        MirrorTo::Tunnel(tunnel) => snapshot.overlay().tunnel(tunnel).map(|tunnel| tunnel.vtep),
    };
    port.and_then(|port| snapshot.port(port)).is_some_and(|port| port.up)
}

/// The mirrors that copy frames of a port now, each with its place among [`Snapshot::mirrors`].
pub(crate) fn of_port<'a>(
    snapshot: &'a Snapshot,
    port: &'a PortConf,
) -> impl Iterator<Item = (usize, &'a Arc<MirrorConf>)> {
    let all = snapshot.mirrors().iter().enumerate();
    all.filter(move |(_, mirror)| mirror.is_of(port) && is_open(snapshot, mirror))
}

/// The mirrors that copy what comes into a bridge out of tunnels now, with their places.
pub(crate) fn of_tunnels_in(
    snapshot: &Snapshot,
    bridge: BridgeId,
) -> impl Iterator<Item = (usize, &Arc<MirrorConf>)> {
    let all = snapshot.mirrors().iter().enumerate();
    all.filter(move |(_, mirror)| {
        mirror.direction.has(Direction::In)
            && mirror.bridges.binary_search(&bridge).is_ok()
            && is_open(snapshot, mirror)
    })
}
