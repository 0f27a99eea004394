//! Copies for mirrors: taken where a frame comes in and where it leaves, and sent when the frame is
//! on its way.

use std::sync::Arc;

use super::Worker;
use super::burst::Burst;
use super::overlay::Purpose;
use crate::clock::Nanos;
use crate::config::{Direction, Snapshot};
use crate::datapath::Datapath;
use crate::frame::{Frame, FrameMeta, InTag, Offload, Options};
use crate::ids::{Domain, PortId, TunnelId};
use crate::mirror::{self, MirrorConf, MirrorTo};
use crate::wire;

/// Most copies that wait to be sent. They do so for a burst, or until the end of a turn.
const WAITING_MAX: usize = 4096;

/// The mirrors of one port.
pub(super) struct Mirrored {
    /// Each with its place in the snapshot.
    mirrors: Vec<(usize, Arc<MirrorConf>)>,
    /// The VLAN of frames without a tag.
    pvid: Option<u16>,
    worker: usize,
}

/// A copy that waits to be sent.
struct Copy<F> {
    /// The port whose frame it is.
    of: PortId,
    /// The place of its mirror in the snapshot.
    mirror: usize,
    frame: F,
    said: wire::Mirrored,
}

/// Copies that wait to be sent: none, between two turns.
pub(super) struct Copies<F>(Vec<Copy<F>>);

impl<F> Default for Copies<F> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<F: Frame> Copies<F> {
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Has the memory for as many as may wait, as there are mirrors now.
    pub(super) fn make_room(&mut self) {
        self.0.reserve_exact(WAITING_MAX);
    }

    /// Copies a frame of a port for a mirror, if it is the one in so many.
    fn take(
        &mut self,
        of: PortId,
        frame: &mut F,
        pvid: Option<u16>,
        (place, mirror): (usize, &MirrorConf),
        worker: usize,
    ) {
        let Some(counters) = mirror.counters.get(worker) else { return };
        if !counters.is_next(mirror.one_in) {
            return;
        }
        let room = self.0.len() < WAITING_MAX;
        let Some(mut copy) = room.then(|| frame.share()).flatten() else {
            return counters.failed.add(1);
        };
        let mut said = wire::Mirrored { vid: pvid.unwrap_or(0), is_truncated: false };
        if let Some(snap) = mirror.snap.filter(|snap| copy.len() > *snap) {
            said.is_truncated = true;
            copy.truncate(snap);
            // A piece of a frame is not finished by anybody.
            copy.set_offload(Offload::NONE);
        }
        self.0.push(Copy { of, mirror: place, frame: copy, said });
    }
}

impl Mirrored {
    /// The mirrors that copy frames of a port in that snapshot, if there are any.
    pub(super) fn of(snapshot: &Snapshot, port: PortId, worker: usize) -> Option<Box<Self>> {
        let conf = snapshot.port(port)?;
        let of_port = mirror::of_port(snapshot, conf);
        let mirrors: Vec<_> = of_port.map(|(at, mirror)| (at, Arc::clone(mirror))).collect();
        let pvid = conf.vlans.pvid;
        (!mirrors.is_empty()).then(|| Box::new(Self { mirrors, pvid, worker }))
    }

    /// Copies what mirrors want of frames that come in on a port, or leave by it.
    #[cold]
    #[inline(never)]
    pub(super) fn take<F: Frame>(
        &self,
        (port, way): (PortId, Direction),
        frames: &mut [F],
        copies: &mut Copies<F>,
    ) {
        for frame in frames {
            let here = self.mirrors.iter().filter(|(_, mirror)| mirror.direction.has(way));
            for (place, mirror) in here {
                if mirror.wants(frame.head(), frame.len(), self.pvid) {
                    copies.take(port, frame, self.pvid, (*place, mirror), self.worker);
                }
            }
        }
    }
}

impl<D: Datapath> Worker<D> {
    /// Another snapshot holds from now on: whose frames are copied or sampled may have changed.
    #[cold]
    #[inline(never)]
    pub(super) fn adopt(&mut self, snapshot: &Snapshot) {
        self.adopted = snapshot.revision();
        self.countdown.restart(snapshot);
        self.egress.set_mirrors(snapshot, self.id.index());
    }

    /// Copies what mirrors want of the burst that was received on a port.
    pub(super) fn mirror_received(&mut self, port: PortId, snapshot: &Snapshot, now: Nanos) {
        self.egress.mirror(port, self.rx.as_mut_slice());
        self.send_copies(snapshot, now);
    }

    /// Copies what mirrors of bridges want of what came out of tunnels: frame by frame of the burst
    /// at hand, with the domains they come into; `None` for one that does not.
    #[cold]
    #[inline(never)]
    pub(super) fn mirror_inner(
        &mut self,
        vtep: PortId,
        snapshot: &Snapshot,
        domains: impl Iterator<Item = Option<Domain>>,
    ) {
        let worker = self.id.index();
        for (frame, domain) in self.rx.as_mut_slice().iter_mut().zip(domains) {
            let Some(domain) = domain else { continue };
            for (place, mirror) in mirror::of_tunnels_in(snapshot, domain.bridge()) {
                let pvid = Some(domain.vid());
                if mirror.wants(frame.head(), frame.len(), pvid) {
                    self.egress.pending.copies.take(vtep, frame, pvid, (place, mirror), worker);
                }
            }
        }
    }

    /// Gives the copies that wait to the ports they leave by.
    #[cold]
    #[inline(never)]
    pub(super) fn send_copies(&mut self, snapshot: &Snapshot, now: Nanos) {
        let mut waiting = std::mem::take(&mut self.egress.pending.copies);
        let mut copies = waiting.0.drain(..).peekable();
        while let Some(of) = copies.peek().map(|copy| copy.of) {
            let run = std::iter::from_fn(|| copies.next_if(|copy| copy.of == of));
            let (Some(port), Some(slot)) = (snapshot.port(of), self.egress.slot(of)) else {
                // Cannot be: they were taken in this turn.
                run.for_each(drop);
                continue;
            };
            let counters = Arc::clone(&slot.counters);
            let (mut burst, ..) = self.burst(snapshot, port, &counters, now);
            for copy in run {
                if let Some(mirror) = snapshot.mirrors().get(copy.mirror) {
                    burst.output_copy(copy.frame, copy.said, mirror);
                }
            }
        }
        drop(copies);
        self.egress.pending.copies = waiting;
    }
}

impl<D: Datapath> Burst<'_, D> {
    /// Sends a copy where its mirror has it sent: as it is, but for what a port cannot take.
    fn output_copy(&mut self, frame: D::Frame, said: wire::Mirrored, mirror: &MirrorConf) {
        let Some(counters) = mirror.counters.get(self.worker) else { return };
        let bytes = frame.len() as u64;
        let sent = match mirror.to {
            MirrorTo::Port(out) => self.copy_to_port(frame, out),
            MirrorTo::Tunnel(tunnel) => self.copy_into_tunnel(frame, said, tunnel),
        };
        if sent {
            counters.frames.add(1);
            counters.bytes.add(bytes);
        } else {
            counters.failed.add(1);
        }
    }

    fn copy_to_port(&mut self, frame: D::Frame, out: PortId) -> bool {
        let out = self.snapshot.port(out);
        // Attached to other workers already, to this one in a moment.
        let slot = out.and_then(|out| Some((out, self.egress.slot_mut(out.id)?.0)));
        let Some((out, slot)) = slot else { return false };
        self.counters.copied.add(1);
        self.counters.forwarded.add(1);
        slot.counters.offered.add(1);
        let caps = if out.gro { out.caps } else { out.caps.without_super_frames() };
        self.send_finished(frame, out, caps);
        true
    }

    /// To each remote, as frames of the tunnel's bridge that are flooded.
    fn copy_into_tunnel(
        &mut self,
        frame: D::Frame,
        said: wire::Mirrored,
        tunnel: TunnelId,
    ) -> bool {
        let mut frame = frame;
        let overlay = self.snapshot.overlay();
        let Some(tunnel) = overlay.tunnel(tunnel) else { return false };
        // Tags are part of what is looked at: the frame goes in as it is.
        let meta = FrameMeta {
            in_port: self.port.id,
            domain: Domain::new(tunnel.bridge, tunnel.vlans.pvid.unwrap_or(0)),
            tag: InTag::Untagged,
            mark: 0,
            tunnel: None,
            options: Options::default(),
        };
        let mut sent = false;
        for peer in tunnel.flood.iter().filter_map(|peer| overlay.peer(*peer)) {
            let Some(copy) = frame.share() else { return sent };
            self.counters.copied.add(1);
            self.encapsulate(copy, &meta, tunnel, peer, Purpose::Mirror(said));
            sent = true;
        }
        sent
    }
}
