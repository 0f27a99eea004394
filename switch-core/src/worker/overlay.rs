//! The way from a bridge to the underlay.

use std::hint::black_box;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Burst;
use crate::batch::BURST_MAX;
use crate::config::{BridgeConf, Egress, PortConf};
use crate::datapath::Datapath;
use crate::drop::DropReason;
use crate::egress::{self, Finish};
use crate::frame::{Frame, FrameMeta, InTag};
use crate::ids::PeerId;
use crate::segment;
use crate::tunnel::{self, EncapFields, Inner, PeerConf, TunnelConf};
use crate::wire::{Mirrored, VlanTag};

/// How many senders a second a worker tells that their frames are too large.
const TOO_BIG_PPS: u32 = 100;

/// Why a frame goes into a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its destination is there: its sender is told if it does not fit.
    Deliver,
    /// It is a copy for one of several, of which at most one has the destination.
    Flood,
    /// It is a mirror's copy.
    Mirror(Mirrored),
}

impl<D: Datapath> Burst<'_, D> {
    /// Sends a frame to a remote by the tunnel that its VLAN has to it.
    #[inline(never)]
    pub(super) fn output_remote(
        &mut self,
        frame: D::Frame,
        meta: &FrameMeta,
        bridge: &BridgeConf,
        peer: PeerId,
    ) {
        let overlay = self.snapshot.overlay();
        let Some(peer) = overlay.peer(peer) else { return self.flood(frame, meta, bridge) };
        match bridge.tunnel_to(overlay, meta.domain.vid(), peer) {
            Some(tunnel) => self.encapsulate(frame, meta, tunnel, peer, Purpose::Deliver),
            // The entry outlived its tunnel by a moment; the flush is on its way.
            None => self.flood(frame, meta, bridge),
        }
    }

    /// Encapsulates a frame and puts it into the batch of the VTEP's port.
    #[inline]
    pub(super) fn encapsulate(
        &mut self,
        frame: D::Frame,
        meta: &FrameMeta,
        tunnel: &TunnelConf,
        peer: &PeerConf,
        purpose: Purpose,
    ) {
        let mut frame = frame;
        let Some(out) = self.snapshot.port(tunnel.vtep) else {
            self.counters.count_drop(DropReason::NoDestination, 1);
            return;
        };
        let Some(egress) = tunnel.vlans.egress(meta.domain.vid()) else {
            self.counters.count_drop(DropReason::VlanEgress, 1);
            return;
        };
        let Some((slot, _)) = self.egress.slot_mut(out.id) else {
            self.counters.count_drop(DropReason::NoDestination, 1);
            return;
        };
        self.counters.forwarded.add(1);
        slot.counters.offered.add(1);
        if !out.up {
            return self.egress.refuse(out.id, Some(peer.id), DropReason::PortDown);
        }
        // RFC 7348 §6.1, RFC 7637 §3.3: no tag at all, not even the priority tag that ports without
        // VLANs pass on.
        let strip = tunnel.vlans.is_access() && meta.tag != InTag::Untagged;
        let max = inner_max(tunnel, peer);
        let change = tag_change(meta, egress, strip);
        if frame_len(&frame).saturating_add_signed(change) > max {
            self.too_large(tunnel, peer);
            if purpose == Purpose::Deliver {
                self.tell_too_large(&frame, l3_max(&frame, change, max));
            }
            return;
        }
        if tunnel.mss_clamp {
            let l3_mtu = l3_max(&frame, change, max);
            tunnel::mss::clamp(&mut frame, l3_mtu);
        }
        if strip {
            egress::pop_tag(&mut frame);
        } else if egress::retag(&mut frame, meta, egress).is_err() {
            return self.egress.refuse(out.id, Some(peer.id), DropReason::NoHeadroom);
        }
        // The same for each segment of a super-frame.
        let fields = self.outer_fields(&frame, tunnel, peer, purpose);
        match egress::to_finish(&frame.offload(), crate::datapath::Caps::default()) {
            Finish::Nothing => self.send_outer(frame, 0, fields, (tunnel, peer, out)),
            Finish::Checksum => match segment::finish_checksum(&mut frame) {
                Ok(()) => self.send_outer(frame, 0, fields, (tunnel, peer, out)),
                Err(_) => self.egress.refuse(out.id, Some(peer.id), DropReason::SegmentFailed),
            },
            Finish::Segment => {
                let mut segments = self.cut(&frame, out.id);
                // They stay together, so that a backend may send them in one call.
                let mut more = segments.len().saturating_sub(1);
                for segment in segments.drain(..) {
                    let more = std::mem::take(&mut more);
                    self.send_outer(segment, more, fields, (tunnel, peer, out));
                }
                self.egress.segments = segments;
            }
        }
    }

    /// What the outer headers of a frame take over from it, unless it may not go to that peer.
    #[inline]
    fn outer_fields(
        &self,
        frame: &D::Frame,
        tunnel: &TunnelConf,
        peer: &PeerConf,
        purpose: Purpose,
    ) -> Result<EncapFields, DropReason> {
        let inner = Inner::of(frame.head());
        let vtep = self.snapshot.overlay().vtep(tunnel.vtep);
        if vtep.is_some_and(|vtep| inner.was_sent_by(vtep, peer.addr)) {
            return Err(DropReason::TunnelLoop);
        }
        let mut fields = EncapFields::new(tunnel, &inner);
        if let Purpose::Mirror(mirrored) = purpose {
            fields.mirrored = mirrored;
        }
        Ok(fields)
    }

    /// The last step, for a frame that is finished and fits; `more` are best sent together with it.
    #[inline]
    fn send_outer(
        &mut self,
        frame: D::Frame,
        more: usize,
        fields: Result<EncapFields, DropReason>,
        (tunnel, peer, out): (&TunnelConf, &PeerConf, &PortConf),
    ) {
        let mut frame = frame;
        let len = frame.len() as u64;
        let result = fields.and_then(|fields| tunnel::encap(&mut frame, tunnel, peer, &fields));
        let Some((slot, pending)) = self.egress.slot_mut(out.id) else { return };
        let result = result.and_then(|()| match egress::to_finish(&frame.offload(), out.caps) {
            Finish::Nothing => Ok(()),
            _ => segment::finish_checksum(&mut frame).map_err(|_| DropReason::SegmentFailed),
        });
        match result {
            Ok(()) => {
                for counters in [&tunnel.counters, &peer.counters] {
                    if let Some(counters) = counters.get(self.worker) {
                        counters.tx_frames.add(1);
                        counters.tx_bytes.add(len);
                    }
                }
                slot.send_first(frame, more, pending, self.datapath);
            }
            Err(reason) => {
                self.egress.refuse(out.id, Some(peer.id), reason);
                self.count_overlay(tunnel, Some(peer), reason);
            }
        }
    }

    /// Counts a frame that is larger than the tunnel carries.
    #[cold]
    fn too_large(&mut self, tunnel: &TunnelConf, peer: &PeerConf) {
        self.egress.refuse(tunnel.vtep, Some(peer.id), DropReason::TunnelMtu);
        self.count_overlay(tunnel, Some(peer), DropReason::TunnelMtu);
    }

    /// Tells the sender of a frame, who is behind a port, that `l3_mtu` bytes would have got through.
    #[cold]
    #[inline(never)]
    fn tell_too_large(&mut self, frame: &D::Frame, l3_mtu: u32) {
        let Some(reply) = tunnel::too_big::reply(frame, l3_mtu, || self.datapath.alloc()) else {
            return;
        };
        // Asked only now, so that frames that get no answer take none from those that do.
        if !self.too_big.take(TOO_BIG_PPS, self.live.now) {
            return;
        }
        // It is tagged as the frame was, hence as the port sends.
        if let Some((slot, pending)) = self.egress.slot_mut(self.port.id) {
            self.counters.originated.add(1);
            self.counters.forwarded.add(1);
            slot.counters.offered.add(1);
            slot.send(reply, pending, self.datapath);
        }
    }
}

/// Has what workers need of these tunnels fetched: all misses at once.
#[inline]
pub(super) fn fetch_tunnels(tunnels: &ArrayVec<&Arc<TunnelConf>, BURST_MAX>, worker: usize) {
    let mut touched = 0;
    for tunnel in tunnels {
        touched ^= tunnel.touch();
    }
    for tunnel in tunnels {
        touched ^= tunnel.counters.get(worker).map_or(0, |counters| counters.rx_frames.get());
    }
    black_box(touched);
}

/// Longest inner frame, in bytes, that a tunnel carries to a peer.
#[inline]
pub(super) fn inner_max(tunnel: &TunnelConf, peer: &PeerConf) -> usize {
    let outer = peer.outer.len().saturating_add(tunnel.header.bytes.len());
    (peer.state.path_mtu() as usize).saturating_sub(outer)
}

/// Largest layer-3 packet in such a frame, where inner frames of `max` bytes get through.
/// `tag_change` is how much longer it leaves.
fn l3_max<F: Frame>(frame: &F, tag_change: isize, max: usize) -> u32 {
    let l2 = egress::l2_header(frame.head()).saturating_add_signed(tag_change);
    u32::try_from(max.saturating_sub(l2)).unwrap_or(u32::MAX)
}

/// Length of a frame, or of the longest segment of a super-frame.
#[inline]
fn frame_len<F: Frame>(frame: &F) -> usize {
    match frame.offload().gso {
        None => frame.len(),
        Some(gso) => segment::header_len(frame.head(), &frame.offload())
            .map_or_else(|| frame.len(), |headers| headers.saturating_add(gso.size.into())),
    }
}

/// By how many bytes a frame changes when it leaves as `egress`, or has its tag stripped.
#[inline]
fn tag_change(meta: &FrameMeta, egress: Egress, strip: bool) -> isize {
    match (meta.tag, egress) {
        _ if strip => -(VlanTag::LEN as isize),
        (InTag::Untagged, Egress::Tagged) => VlanTag::LEN as isize,
        _ => 0,
    }
}
