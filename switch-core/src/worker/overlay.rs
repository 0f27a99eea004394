//! The two ways between a bridge and the underlay.

use std::hint::black_box;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{Burst, Worker};
use crate::batch::BURST_MAX;
use crate::bridge::{self, Admitted};
use crate::clock::Nanos;
use crate::config::{BridgeConf, Egress, PortConf, Snapshot};
use crate::datapath::Datapath;
use crate::drop::DropReason;
use crate::egress::{self, Finish};
use crate::event::{OptionsSeen, WorkerEvent};
use crate::fdb::{Fdb, Hash};
use crate::frame::{Frame, FrameMeta, InTag, Options};
use crate::ids::PeerId;
use crate::segment;
use crate::stats::PortCounters;
use crate::switch::Switch;
use crate::tunnel::{self, EncapFields, Inner, Known, Opened, OverlayCounters, PeerConf, Refused};
use crate::tunnel::{Overlay, TunnelConf, VtepConf};
use crate::wire::VlanTag;

/// How many senders a second a worker tells that their frames are too large.
const TOO_BIG_PPS: u32 = 100;

/// Whether the sender of a frame that does not fit a tunnel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooLarge {
    /// Yes: the frame goes where its destination is.
    Tell,
    /// No: it is a copy for one of several, and only one has the destination.
    Drop,
}

/// A frame that came out of a tunnel, between the passes of a burst.
struct Arrived<'a> {
    frame: Admitted,
    options: Options,
    src: Hash,
    dst: Hash,
    tunnel: &'a TunnelConf,
    peer: Option<&'a PeerConf>,
}

impl<D: Datapath> Worker<D> {
    /// The burst is packets from the underlay: what they carry is forwarded as if it had come in on
    /// its tunnel.
    #[inline(never)]
    pub(super) fn decapsulate(
        &mut self,
        snapshot: &Snapshot,
        port: &PortConf,
        vtep: &VtepConf,
        counters: &PortCounters,
        now: Nanos,
    ) {
        let (overlay, fdb) = (snapshot.overlay(), self.switch.fdb());
        let worker = self.id.index();
        self.options.clear();
        if overlay.is_crowded() {
            fetch(overlay, vtep, self.rx.as_slice(), worker);
        }
        let mut planned = ArrayVec::<_, BURST_MAX>::new();
        let (mut known, mut run) = (Known::new(overlay, vtep), Run::default());
        for frame in self.rx.as_mut_slice() {
            let (head, len) = (frame.head(), frame.len());
            let arrived = match known.as_mut().and_then(|known| known.open(head, len)) {
                Some(opened) => take_in(&opened, frame, Options::default(), fdb),
                None => tunnel::open(overlay, vtep, frame).and_then(|opened| {
                    let (from, to) = opened.options;
                    let options = frame.head().get(from..to).unwrap_or_default();
                    let kept = Options::keep(options, &mut self.options);
                    let arrived = take_in(&opened, frame, kept, fdb)?;
                    report(&self.switch, &opened, kept.of(&self.options));
                    Ok(arrived)
                }),
            };
            match arrived {
                Ok(arrived) => {
                    run.count(&arrived, frame.len(), worker);
                    let _ = planned.try_push(Some(arrived));
                }
                Err(refused) => {
                    counters.count_drop(refused.reason, 1);
                    count_refused(&refused, worker);
                    let _ = planned.try_push(None);
                }
            }
        }
        run.settle(worker);
        super::plan::fetch::<D>(fdb, planned.iter().flatten().map(|a| (a.src, a.dst)));
        let (mut burst, rx, _) = self.burst(snapshot, port, counters, now);
        for (frame, arrived) in rx.drain().zip(&planned) {
            if let Some(arrived) = arrived {
                burst.forward_inner(frame, arrived);
            }
        }
        burst.count_route();
    }
}

/// Has the tunnels of a burst fetched, where there are too many for the caches: all misses at once.
#[inline(never)]
fn fetch<F: Frame>(overlay: &Overlay, vtep: &VtepConf, frames: &[F], worker: usize) {
    let mut tunnels = ArrayVec::<_, BURST_MAX>::new();
    tunnels.extend(frames.iter().filter_map(|frame| tunnel::guess(overlay, vtep, frame.head())));
    let mut touched = 0;
    for tunnel in &tunnels {
        touched ^= tunnel.touch();
    }
    for tunnel in &tunnels {
        touched ^= tunnel.counters.get(worker).map_or(0, |counters| counters.rx_frames.get());
    }
    black_box(touched);
}

/// Takes the inner frame out of a packet, and says whether and where it may come in.
#[inline(always)]
fn take_in<'a, F: Frame>(
    opened: &Opened<'a>,
    frame: &mut F,
    options: Options,
    fdb: &Fdb,
) -> Result<Arrived<'a>, Refused<'a>> {
    opened.take_out(frame)?;
    clamp_inner(opened, frame);
    let tunnel = &**opened.tunnel;
    let admitted =
        bridge::admit_inner(tunnel, frame.head()).map_err(|reason| opened.refused(reason))?;
    Ok(Arrived {
        src: fdb.hash(admitted.src),
        dst: fdb.hash(admitted.dst),
        frame: admitted,
        options,
        tunnel,
        peer: opened.peer.map(|peer| &**peer),
    })
}

/// Frames that came out of one tunnel from one peer, one after the other, and are not counted yet.
#[derive(Default)]
struct Run<'a> {
    tunnel: Option<&'a TunnelConf>,
    peer: Option<&'a PeerConf>,
    frames: u64,
    bytes: u64,
}

impl<'a> Run<'a> {
    /// Counts a frame of `len` bytes.
    #[inline(always)]
    fn count(&mut self, arrived: &Arrived<'a>, len: usize, worker: usize) {
        let at = |peer: Option<&PeerConf>| peer.map(std::ptr::from_ref);
        let goes_on = self.tunnel.is_some_and(|tunnel| std::ptr::eq(tunnel, arrived.tunnel))
            && at(self.peer) == at(arrived.peer);
        if !goes_on {
            self.settle(worker);
            (self.tunnel, self.peer) = (Some(arrived.tunnel), arrived.peer);
        }
        self.frames = self.frames.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(len as u64);
    }

    /// Adds what was counted to the counters of tunnel and peer.
    fn settle(&mut self, worker: usize) {
        let of = [self.tunnel.map(|t| &t.counters), self.peer.map(|p| &p.counters)];
        for counters in of.into_iter().flatten().filter_map(|all| all.get(worker)) {
            counters.rx_frames.add(self.frames);
            counters.rx_bytes.add(self.bytes);
        }
        (self.frames, self.bytes) = (0, 0);
    }
}

/// Clamps what the far end announces, too, so that one end is enough.
#[inline]
fn clamp_inner<F: Frame>(opened: &Opened<'_>, frame: &mut F) {
    if let (true, Some(peer)) = (opened.tunnel.mss_clamp, opened.peer) {
        let l2 = egress::l2_header(frame.head());
        let max = inner_max(opened.tunnel, peer).saturating_sub(l2);
        tunnel::mss::clamp(frame, u32::try_from(max).unwrap_or(u32::MAX));
    }
}

fn count_refused(refused: &Refused<'_>, worker: usize) {
    let of = |counters: &Arc<[OverlayCounters]>| {
        if let Some(counters) = counters.get(worker) {
            counters.count_drop(refused.reason, 1);
        }
    };
    if let Some(tunnel) = refused.tunnel {
        of(&tunnel.counters);
    }
    if let Some(peer) = refused.peer {
        of(&peer.counters);
    }
}

/// Tells the control side of senders it does not know, and of options it has not seen.
#[inline]
fn report(switch: &Switch, opened: &Opened<'_>, options: &[u8]) {
    let tunnel = opened.tunnel;
    if opened.peer.is_none() {
        // Lossy: the next packet tells again.
        let (vtep, proto, addr) = (tunnel.vtep, tunnel.proto, opened.src);
        let _ = switch.send_event(WorkerEvent::PeerSeen { vtep, proto, addr });
    }
    if !options.is_empty() && tunnel.state.is_news(options) {
        let seen = OptionsSeen {
            tunnel: tunnel.id,
            peer: opened.peer.map(|peer| peer.id),
            options: options.iter().copied().take(252).collect(),
        };
        let _ = switch.send_options(seen);
    }
}

impl<D: Datapath> Burst<'_, D> {
    /// The last pass, for one frame that came out of a tunnel.
    #[inline]
    fn forward_inner(&mut self, frame: D::Frame, arrived: &Arrived<'_>) {
        let Arrived { frame: admitted, options, src, dst, tunnel, peer } = arrived;
        let Some(bridge) = self.snapshot.bridge(tunnel.bridge) else {
            self.counters.count_drop(DropReason::NoDestination, 1);
            return;
        };
        let verdict = bridge::decide_inner(
            self.snapshot,
            self.port,
            tunnel,
            peer.map(|peer| peer.id),
            bridge,
            admitted,
            *src,
            *dst,
            &mut self.live,
        );
        if verdict.split_last().0 == crate::verdict::Action::Drop(DropReason::SplitHorizon) {
            self.count_overlay(tunnel, None, DropReason::SplitHorizon);
        }
        let (tunnel, options) = (Some(tunnel.id), *options);
        let meta = FrameMeta { tunnel, options, ..admitted.meta(self.port.id) };
        self.execute(frame, &meta, bridge, &verdict);
    }

    /// Sends a frame to a remote by the tunnel that its VLAN has to it.
    #[inline(never)]
    pub(super) fn output_remote(
        &mut self,
        frame: D::Frame,
        meta: &FrameMeta,
        bridge: &BridgeConf,
        peer: PeerId,
    ) {
        let mut frame = frame;
        if meta.tag == InTag::Untagged {
            match self.output_plain(frame, meta.domain, peer) {
                None => return,
                Some(other) => frame = other,
            }
        }
        let overlay = self.snapshot.overlay();
        let Some(peer) = overlay.peer(peer) else { return self.flood(frame, meta, bridge) };
        match bridge.tunnel_to(overlay, meta.domain.vid(), peer) {
            Some(tunnel) => self.encapsulate(frame, meta, tunnel, peer, TooLarge::Tell),
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
        too_large: TooLarge,
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
            slot.counters.count_drop(DropReason::PortDown, 1);
            return;
        }
        // RFC 7348 §6.1, RFC 7637 §3.3: no tag at all, not even the priority tag that ports without
        // VLANs pass on.
        let strip = tunnel.vlans.is_access() && meta.tag != InTag::Untagged;
        let max = inner_max(tunnel, peer);
        let change = tag_change(meta, egress, strip);
        if frame_len(&frame).saturating_add_signed(change) > max {
            self.too_large(tunnel, peer);
            if too_large == TooLarge::Tell {
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
            slot.counters.count_drop(DropReason::NoHeadroom, 1);
            return;
        }
        match egress::to_finish(&frame.offload(), crate::datapath::Caps::default()) {
            Finish::Nothing => self.send_outer(frame, tunnel, peer, out),
            Finish::Checksum => match segment::finish_checksum(&mut frame) {
                Ok(()) => self.send_outer(frame, tunnel, peer, out),
                Err(_) => slot.counters.count_drop(DropReason::SegmentFailed, 1),
            },
            Finish::Segment => {
                let mut segments = self.cut(&frame, out.id);
                for segment in segments.drain(..) {
                    self.send_outer(segment, tunnel, peer, out);
                }
                self.egress.segments = segments;
            }
        }
    }

    /// The last step, for a frame that is finished and fits.
    #[inline]
    fn send_outer(
        &mut self,
        frame: D::Frame,
        tunnel: &TunnelConf,
        peer: &PeerConf,
        out: &PortConf,
    ) {
        let mut frame = frame;
        let inner = Inner::of(frame.head());
        let len = frame.len() as u64;
        let fields = EncapFields::new(tunnel, &inner);
        let vtep = self.snapshot.overlay().vtep(tunnel.vtep);
        let result = if vtep.is_some_and(|vtep| inner.was_sent_by(vtep, peer.addr)) {
            Err(DropReason::TunnelLoop)
        } else {
            tunnel::encap(&mut frame, tunnel, peer, &fields)
        };
        let Some((slot, dirty)) = self.egress.slot_mut(out.id) else { return };
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
                slot.send(frame, dirty, self.datapath);
            }
            Err(reason) => {
                slot.counters.count_drop(reason, 1);
                self.count_overlay(tunnel, Some(peer), reason);
            }
        }
    }

    /// Counts a frame that is larger than the tunnel carries.
    #[cold]
    fn too_large(&mut self, tunnel: &TunnelConf, peer: &PeerConf) {
        if let Some((slot, _)) = self.egress.slot_mut(tunnel.vtep) {
            slot.counters.count_drop(DropReason::TunnelMtu, 1);
        }
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
        if let Some((slot, dirty)) = self.egress.slot_mut(self.port.id) {
            self.counters.originated.add(1);
            self.counters.forwarded.add(1);
            slot.counters.offered.add(1);
            slot.send(reply, dirty, self.datapath);
        }
    }
}

/// Longest inner frame, in bytes, that a tunnel carries to a peer.
#[inline]
fn inner_max(tunnel: &TunnelConf, peer: &PeerConf) -> usize {
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
