//! The way into a tunnel that the frames of a burst take: most take one.

use super::burst::Burst;
use crate::config::Egress;
use crate::datapath::Datapath;
use crate::drop::DropReason;
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

impl<'a, D: Datapath> Burst<'a, D> {
    /// Sends a frame to a remote, if nothing about either of them is out of the ordinary; hands it
    /// back otherwise. The frame has no tag.
    #[inline(always)]
    pub(super) fn output_plain(
        &mut self,
        frame: D::Frame,
        domain: Domain,
        peer: PeerId,
    ) -> Option<D::Frame> {
        let mut frame = frame;
        if self.route.to != Some((domain, peer)) {
            self.take_route(domain, peer);
        }
        let Some(way) = &mut self.route.way else { return Some(frame) };
        let len = frame.len() as u64;
        if !way.lane.encap(&mut frame) {
            return Some(frame);
        }
        (way.frames, way.bytes) = (way.frames.wrapping_add(1), way.bytes.wrapping_add(len));
        if let Some((slot, dirty)) = self.egress.slot_mut(way.out) {
            slot.send(frame, dirty, self.datapath);
        }
        None
    }

    /// Looks up what frames of `domain` to `peer` have in common.
    #[inline(never)]
    fn take_route(&mut self, domain: Domain, peer: PeerId) {
        self.count_route();
        self.route = Route { to: Some((domain, peer)), way: self.way_to(domain, peer) };
    }

    /// `None` where not every frame that is sent this way is accepted.
    fn way_to(&self, domain: Domain, peer: PeerId) -> Option<Way<'a>> {
        let overlay = self.snapshot.overlay();
        let (bridge, peer) = (self.snapshot.bridge(domain.bridge())?, overlay.peer(peer)?);
        let tunnel = bridge.tunnel_to(overlay, domain.vid(), peer)?;
        let out = self.snapshot.port(tunnel.vtep).filter(|out| out.up)?;
        let untagged = tunnel.vlans.egress(domain.vid()) == Some(Egress::Untagged);
        self.egress.slot(out.id).filter(|_| untagged)?;
        let lane = Lane::new(tunnel, peer)?;
        Some(Way { lane, out: out.id, tunnel, peer, frames: 0, bytes: 0 })
    }

    /// Counts what went the way, at once for all frames. Due at the end of a burst.
    #[inline]
    pub(super) fn count_route(&mut self) {
        let Some(way) = self.route.way.as_mut().filter(|way| way.frames > 0) else { return };
        let (frames, bytes) = (way.frames, way.bytes);
        (way.frames, way.bytes) = (0, 0);
        let (out, tunnel, peer) = (way.out, way.tunnel, way.peer);
        self.counters.forwarded.add(frames);
        if let Some(slot) = self.egress.slot(out) {
            slot.counters.offered.add(frames);
        }
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
