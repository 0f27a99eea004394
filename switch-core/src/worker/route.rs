//! The way into a tunnel that the frames of a burst take: most take one.

use arrayvec::ArrayVec;

use super::burst::Burst;
use super::overlay::fetch_tunnels;
use super::plan::Plan;
use crate::config::Egress;
use crate::datapath::Datapath;
use crate::drop::DropReason;
use crate::fdb::Dest;
use crate::frame::Frame;
use crate::ids::{Domain, PeerId, PortId};
use crate::tunnel::{Lane, OverlayCounters, PeerConf, TunnelConf};

/// Where the last frames of a burst were encapsulated to: the next one most likely goes there, too.
#[derive(Default)]
pub(super) struct Route<'a> {
    /// From which domain, to whom.
    to: Option<(Domain, PeerId)>,
    way: Option<Way<'a>>,
}

/// What plain frames get in front of them there, and what of them is not counted yet.
struct Way<'a> {
    lane: Lane<'a>,
    out: PortId,
    tunnel: &'a TunnelConf,
    peer: &'a PeerConf,
    frames: u64,
    bytes: u64,
}

impl Route<'_> {
    /// Encapsulates a frame that leaves without a tag, if nothing about it is out of the ordinary.
    #[inline(always)]
    pub(super) fn encap<F: Frame>(&mut self, frame: &mut F) -> bool {
        let Some(way) = &mut self.way else { return false };
        let len = frame.len() as u64;
        let encapsulated = way.lane.encap(frame);
        if encapsulated {
            (way.frames, way.bytes) = (way.frames.wrapping_add(1), way.bytes.wrapping_add(len));
        }
        encapsulated
    }
}

impl<'a, D: Datapath> Burst<'a, D> {
    /// Sends a frame to a remote, if nothing about either of them is out of the ordinary; hands it
    /// back otherwise. The frame leaves without a tag.
    #[inline]
    pub(super) fn output_plain(
        &mut self,
        frame: D::Frame,
        domain: Domain,
        peer: PeerId,
    ) -> Option<D::Frame> {
        let mut frame = frame;
        let Some(out) = self.turn_to(domain, peer).filter(|_| self.route.encap(&mut frame)) else {
            return Some(frame);
        };
        // There is one: `way_to` looked.
        if let Some((slot, pending)) = self.egress.slot_mut(out) {
            self.counters.forwarded.add(1);
            slot.counters.offered.add(1);
            slot.send(frame, pending, self.datapath);
        }
        None
    }

    /// The next frames are from that domain to that remote: by which port they leave, if there is a
    /// lane.
    #[inline]
    pub(super) fn turn_to(&mut self, domain: Domain, peer: PeerId) -> Option<PortId> {
        if self.route.to != Some((domain, peer)) {
            self.count_route();
            self.route = Route { to: Some((domain, peer)), way: self.way_to(domain, peer) };
        }
        self.route.way.as_ref().map(|way| way.out)
    }

    /// Has the tunnels fetched that frames of the burst are likely to go into, where there are too
    /// many for the caches.
    #[inline]
    pub(super) fn fetch_routes(&self, plan: &Plan) {
        if self.snapshot.overlay().is_crowded() {
            self.fetch_crowded(plan);
        }
    }

    #[inline(never)]
    fn fetch_crowded(&self, plan: &Plan) {
        let (overlay, high) = (self.snapshot.overlay(), plan.high());
        let mut tunnels = ArrayVec::new();
        tunnels.extend(plan.look_up(self.live.fdb).filter_map(|course| {
            let (Dest::Remote(_), domain, _) = course.take_apart(high)? else { return None };
            let bridge = self.snapshot.bridge(domain.bridge())?;
            overlay.tunnel(bridge.tunnels(domain.vid()).next()?)
        }));
        fetch_tunnels(&tunnels, self.worker);
    }

    /// `None` where not every frame that is sent this way is accepted.
    fn way_to(&self, domain: Domain, peer: PeerId) -> Option<Way<'a>> {
        let overlay = self.snapshot.overlay();
        let (bridge, peer) = (self.snapshot.bridge(domain.bridge())?, overlay.peer(peer)?);
        let tunnel = bridge.tunnel_to(overlay, domain.vid(), peer)?;
        // First, as many tunnels have none.
        let lane = Lane::new(tunnel, peer)?;
        let out = self.snapshot.port(tunnel.vtep).filter(|out| out.up)?;
        let untagged = tunnel.vlans.egress(domain.vid()) == Some(Egress::Untagged);
        self.egress.slot(out.id).filter(|_| untagged)?;
        Some(Way { lane, out: out.id, tunnel, peer, frames: 0, bytes: 0 })
    }

    /// Counts for tunnel and peer what went the way, at once for all frames. Due at the end of a
    /// burst.
    #[inline]
    pub(super) fn count_route(&mut self) {
        let Some(way) = self.route.way.as_mut().filter(|way| way.frames > 0) else { return };
        let (frames, bytes) = (way.frames, way.bytes);
        (way.frames, way.bytes) = (0, 0);
        let (tunnel, peer) = (way.tunnel, way.peer);
        for counters in [&tunnel.counters, &peer.counters] {
            if let Some(counters) = counters.get(self.worker) {
                counters.tx_frames.add(frames);
                counters.tx_bytes.add(bytes);
            }
        }
    }

    pub(super) fn count_overlay(
        &self,
        tunnel: &TunnelConf,
        peer: Option<&PeerConf>,
        reason: DropReason,
    ) {
        for counters in [Some(&tunnel.counters), peer.map(|peer| &peer.counters)] {
            let counters: Option<&OverlayCounters> = counters.and_then(|all| all.get(self.worker));
            if let Some(counters) = counters {
                counters.count_drop(reason, 1);
            }
        }
    }
}
