//! The third pass of a burst: what was decided is done.

use super::Planned;
use super::overlay::TooLarge;
use super::ports::Ports;
use super::route::Route;
use crate::bridge::{self, Effects, StormBucket};
use crate::clock::Nanos;
use crate::config::{BridgeConf, PortConf, Snapshot};
use crate::datapath::Datapath;
use crate::drop::DropReason;
use crate::egress::{self, Finish};
use crate::event::WorkerEvent;
use crate::fdb::{Dest, Fdb, Hash, Key, Learn, Tick};
use crate::frame::{Frame, FrameMeta, InTag};
use crate::ids::PortId;
use crate::segment;
use crate::stats::{PortCounters, WorkerCounters};
use crate::switch::Switch;
use crate::tunnel::{PeerConf, TunnelConf};
use crate::verdict::{Action, Verdict};

/// The effects of a worker that runs for real.
pub(super) struct Live<'a> {
    pub(super) fdb: &'a Fdb,
    pub(super) switch: &'a Switch,
    pub(super) worker: &'a WorkerCounters,
    pub(super) storm: StormBucket,
    pub(super) now: Nanos,
    pub(super) tick: Tick,
}

impl Live<'_> {
    /// What few frames bring: an address that is new or elsewhere, or may not be learned.
    #[cold]
    #[inline(never)]
    fn learn_news(&self, key: Key, hash: Hash, dest: Dest) -> Learn {
        let learned = self.fdb.learn(key, hash, dest, self.tick);
        match learned {
            Learn::Refreshed | Learn::Pinned => {}
            Learn::New => self.event(WorkerEvent::Learned { key, at: dest }),
            Learn::Moved { from } => self.event(WorkerEvent::Moved { key, from, to: dest }),
            Learn::PortLimit | Learn::BridgeLimit | Learn::TotalLimit => {
                self.worker.learn_limited.add(1);
            }
            Learn::NoSlot => self.worker.learn_no_slot.add(1),
        }
        learned
    }

    fn event(&self, event: WorkerEvent) {
        if !self.switch.send_event(event) {
            self.worker.events_lost.add(1);
        }
    }
}

impl Effects for Live<'_> {
    #[inline(always)]
    fn learn(&mut self, key: Key, hash: Hash, dest: Dest) -> Learn {
        if self.fdb.refresh(key, hash, dest, self.tick) {
            return Learn::Refreshed;
        }
        self.learn_news(key, hash, dest)
    }

    #[inline(always)]
    fn lookup(&mut self, key: Key, hash: Hash) -> Option<Dest> {
        self.fdb.lookup(key, hash)
    }

    fn take_storm_token(&mut self, port: &PortConf) -> bool {
        port.storm.is_none_or(|rate| self.storm.take(rate, self.now))
    }

    fn blocked(&self, port: &PortConf) -> bool {
        port.state.blocked(self.now)
    }
}

/// What executing verdicts of one burst needs.
pub(super) struct Burst<'a, D: Datapath> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) port: &'a PortConf,
    pub(super) counters: &'a PortCounters,
    pub(super) live: Live<'a>,
    pub(super) egress: &'a mut Ports<D::Frame>,
    pub(super) datapath: &'a mut D,
    pub(super) worker: usize,
    pub(super) too_big: &'a mut StormBucket,
    pub(super) route: Route<'a>,
}

impl<D: Datapath> Burst<'_, D> {
    /// The third pass, for one frame: decides and does it.
    #[inline(always)]
    pub(super) fn forward(&mut self, frame: D::Frame, plan: &Planned, bridge: &BridgeConf) {
        let Planned { frame: admitted, src, dst } = plan;
        let fx = &mut self.live;
        let verdict = bridge::decide(self.snapshot, self.port, bridge, admitted, *src, *dst, fx);
        self.execute(frame, &admitted.meta(self.port.id), bridge, &verdict);
    }

    /// Does what a verdict says. The last action gets the frame, earlier ones copies.
    #[inline(always)]
    pub(super) fn execute(
        &mut self,
        frame: D::Frame,
        meta: &FrameMeta,
        bridge: &BridgeConf,
        verdict: &Verdict,
    ) {
        let mut frame = frame;
        let (last, before) = verdict.split_last();
        if !before.is_empty() {
            self.execute_on_copies(&mut frame, meta, bridge, before);
        }
        self.act(frame, meta, bridge, last);
    }

    /// Out of line, so that [`Self::act`] is in line where it is for nearly every frame.
    #[cold]
    #[inline(never)]
    fn execute_on_copies(
        &mut self,
        frame: &mut D::Frame,
        meta: &FrameMeta,
        bridge: &BridgeConf,
        actions: &[Action],
    ) {
        for action in actions {
            if let Some(copy) = self.copy(frame) {
                self.act(copy, meta, bridge, *action);
            }
        }
    }

    #[inline(always)]
    fn act(&mut self, frame: D::Frame, meta: &FrameMeta, bridge: &BridgeConf, action: Action) {
        match action {
            Action::Drop(reason) => self.counters.count_drop(reason, 1),
            Action::Output(out) => match self.snapshot.port(out) {
                Some(out) => self.output(frame, meta, out),
                None => self.counters.count_drop(DropReason::NoDestination, 1),
            },
            Action::Remote(peer) => self.output_remote(frame, meta, bridge, peer),
            Action::Flood => self.flood(frame, meta, bridge),
        }
    }

    /// A copy for one more output; a failure is counted as a frame that was made and lost.
    pub(super) fn copy(&self, frame: &mut D::Frame) -> Option<D::Frame> {
        let copy = frame.share();
        self.counters.copied.add(1);
        if copy.is_none() {
            self.counters.count_drop(DropReason::CopyFailed, 1);
        }
        copy
    }

    /// The original goes to the last member, copies to those before it.
    #[inline(never)]
    pub(super) fn flood(&mut self, frame: D::Frame, meta: &FrameMeta, bridge: &BridgeConf) {
        let mut frame = frame;
        let (snapshot, port, vid) = (self.snapshot, self.port, meta.domain.vid());
        let mut last: Option<Member<'_>> = None;
        let mut next = |burst: &mut Self, member| {
            if let Some(earlier) = last.replace(member)
                && let Some(copy) = burst.copy(&mut frame)
            {
                burst.output_flooded(copy, meta, earlier);
            }
        };
        for id in bridge.flood(vid) {
            if let Some(out) = snapshot.port(*id)
                && bridge::floods_to(port, out, &self.live)
            {
                next(self, Member::Port(out));
            }
        }
        // Split horizon: who sent a frame into the tunnel sent it to every remote.
        if meta.tunnel.is_none() {
            let overlay = snapshot.overlay();
            for tunnel in bridge.tunnels(vid).filter_map(|id| overlay.tunnel(id)) {
                for peer in tunnel.flood.iter().filter_map(|id| overlay.peer(*id)) {
                    next(self, Member::Remote(tunnel, peer));
                }
            }
        }
        match last {
            Some(out) => self.output_flooded(frame, meta, out),
            None => self.counters.count_drop(DropReason::NoDestination, 1),
        }
    }

    /// [`Self::output`] out of line, so that it is in line where known unicast goes.
    #[inline(never)]
    fn output_flooded(&mut self, frame: D::Frame, meta: &FrameMeta, out: Member<'_>) {
        match out {
            Member::Port(out) => self.output(frame, meta, out),
            Member::Remote(tunnel, peer) => {
                let mut frame = frame;
                // To several remotes it would be another route for each copy.
                if meta.tag == InTag::Untagged && tunnel.flood.len() == 1 {
                    match self.output_plain(frame, meta.domain, peer.id) {
                        None => return,
                        Some(other) => frame = other,
                    }
                }
                self.encapsulate(frame, meta, tunnel, peer, TooLarge::Drop);
            }
        }
    }

    /// Puts a frame into the batch of its port, in the shape that the port can send.
    #[inline(always)]
    fn output(&mut self, frame: D::Frame, meta: &FrameMeta, out: &PortConf) {
        let mut frame = frame;
        let Some((slot, dirty)) = self.egress.slot_mut(out.id) else {
            // Attached to other workers already, to this one in a moment.
            self.counters.count_drop(DropReason::NoDestination, 1);
            return;
        };
        let Some(egress) = out.vlans.egress(meta.domain.vid()) else {
            self.counters.count_drop(DropReason::VlanEgress, 1);
            return;
        };
        self.counters.forwarded.add(1);
        slot.counters.offered.add(1);
        if !out.up {
            slot.counters.count_drop(DropReason::PortDown, 1);
            return;
        }
        if egress::retag(&mut frame, meta, egress).is_err() {
            slot.counters.count_drop(DropReason::NoHeadroom, 1);
            return;
        }
        if !egress::fits_mtu(&frame, out.mtu) {
            slot.counters.count_drop(DropReason::MtuExceeded, 1);
            return;
        }
        match egress::to_finish(&frame.offload(), out.caps) {
            Finish::Nothing => slot.send(frame, dirty, self.datapath),
            Finish::Checksum => match segment::finish_checksum(&mut frame) {
                Ok(()) => slot.send(frame, dirty, self.datapath),
                Err(_) => slot.counters.count_drop(DropReason::SegmentFailed, 1),
            },
            Finish::Segment => self.segment(frame, out.id),
        }
    }

    /// Cuts a super-frame for a port that cannot take it whole.
    #[inline(never)]
    fn segment(&mut self, frame: D::Frame, out: PortId) {
        let mut segments = self.cut(&frame, out);
        if let Some((slot, dirty)) = self.egress.slot_mut(out) {
            for segment in segments.drain(..) {
                slot.send(segment, dirty, self.datapath);
            }
        }
        self.egress.segments = segments;
    }

    /// The segments of a super-frame that was offered to `out`; none if it cannot be cut, which is
    /// then counted. The list is to be given back.
    ///
    /// On the egress ledger the first segment is the frame itself and the others are made; on the
    /// ingress ledger they are copies that were forwarded.
    pub(super) fn cut(&mut self, frame: &D::Frame, out: PortId) -> Vec<D::Frame> {
        let mut segments = std::mem::take(&mut self.egress.segments);
        let alloc = || self.datapath.alloc();
        let result = segment::segment(frame, alloc, |segment| segments.push(segment));
        if let Some((slot, _)) = self.egress.slot_mut(out) {
            if result.is_err() {
                slot.counters.count_drop(DropReason::SegmentFailed, 1);
                segments.clear();
            }
            let more = segments.len().saturating_sub(1) as u64;
            self.counters.copied.add(more);
            self.counters.forwarded.add(more);
            slot.counters.offered.add(more);
        }
        segments
    }
}

/// Who gets a flooded frame.
#[derive(Clone, Copy)]
enum Member<'a> {
    Port(&'a PortConf),
    Remote(&'a TunnelConf, &'a PeerConf),
}
