//! The last passes of a burst: what was decided is done.

use super::overlay::Purpose;
use super::plan::{Course, Plan, Planned};
use super::ports::Ports;
use super::route::Route;
use crate::batch::{BURST_MAX, Batch};
use crate::bridge::{self, Effects, StormBucket};
use crate::clock::Nanos;
use crate::config::{BridgeConf, Egress, PortConf, Snapshot};
use crate::datapath::{Caps, Datapath};
use crate::drop::DropReason;
use crate::egress::{self, Finish};
use crate::event::WorkerEvent;
use crate::fdb::{Dest, Fdb, Hash, Key, Learn, Tick};
use crate::frame::{Frame, FrameMeta, InTag};
use crate::ids::{Domain, PeerId, PortId};
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
    pub(super) fn learn_news(&self, key: Key, hash: Hash, dest: Dest) -> Learn {
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
    /// Frames that cost far more than others do: see [`super::rest`].
    pub(super) strays: usize,
}

impl<D: Datapath> Burst<'_, D> {
    /// All passes of a burst from a bridge's port.
    #[inline(always)]
    pub(super) fn forward_all(
        &mut self,
        frames: &mut Batch<D::Frame>,
        plan: &mut Plan,
        bridge: &BridgeConf,
    ) {
        plan.fill::<D>(frames.as_slice(), self.port, self.live.fdb);
        // A blocked port neither teaches nor sends: the loop would go on moving addresses.
        let open = !self.live.blocked(self.port);
        if open && bridge.learning {
            let here = Dest::Port(self.port.id);
            self.learn(plan, here);
        }
        let mut hops = [Hop::ASK; BURST_MAX];
        if open {
            // Two loops, as what tunnels need takes the registers that plain frames have use for.
            if self.snapshot.overlay().is_empty() {
                self.hops::<false>(frames.as_mut_slice(), plan, &mut hops);
            } else {
                self.fetch_routes(plan);
                self.hops::<true>(frames.as_mut_slice(), plan, &mut hops);
            }
        }
        self.send_or_ask(frames, &hops, |burst, frame, at| {
            if let Some(planned) = plan.get(at) {
                burst.forward(frame, &planned, bridge);
            }
        });
    }

    /// Learns that all sources of a plan are at `here`.
    #[inline(always)]
    pub(super) fn learn(&mut self, plan: &Plan, here: Dest) {
        let mut news = plan.refresh(self.live.fdb, here, self.live.tick);
        self.strays += news.count_ones() as usize;
        while news != 0 {
            if let Some(planned) = plan.get(news.trailing_zeros() as usize) {
                self.live.learn_news(planned.src.0, planned.src.1, here);
            }
            news &= news - 1;
        }
    }

    /// Sends each frame out of the port that `hops` says, and leaves others to `ask`, which is told
    /// how many frames came before.
    #[inline(always)]
    pub(super) fn send_or_ask(
        &mut self,
        frames: &mut Batch<D::Frame>,
        hops: &[Hop; BURST_MAX],
        mut ask: impl FnMut(&mut Self, D::Frame, usize),
    ) {
        let hops = hops.get(..frames.len()).unwrap_or_default();
        let mut frames = frames.drain();
        let mut at = 0;
        while let Some((hop, rest)) = hops.get(at..).and_then(<[_]>::split_first) {
            let Some(out) = hop.out() else {
                if let Some(frame) = frames.next() {
                    ask(self, frame, at);
                }
                at += 1;
                continue;
            };
            // All that are left, most likely, which is soon counted.
            let run = match rest.iter().filter(|other| *other == hop).count() {
                all if all == rest.len() => all + 1,
                _ => 1 + rest.iter().take_while(|other| *other == hop).count(),
            };
            self.send_run(out, &mut frames, run);
            at += run;
        }
    }

    /// Looks up out of which port each frame goes, as it came or, with `TUNNELS`, encapsulated, which
    /// is done at once.
    #[inline(never)]
    pub(super) fn hops<const TUNNELS: bool>(
        &mut self,
        frames: &mut [D::Frame],
        plan: &Plan,
        hops: &mut [Hop; BURST_MAX],
    ) {
        let fdb = self.live.fdb;
        match plan.common(fdb) {
            Some(course) => {
                let courses = std::iter::repeat_n(course, frames.len());
                self.hops_of::<TUNNELS>(frames, courses, plan.high(), hops);
            }
            None => self.hops_of::<TUNNELS>(frames, plan.look_up(fdb), plan.high(), hops),
        }
    }

    #[inline(always)]
    fn hops_of<const TUNNELS: bool>(
        &mut self,
        frames: &mut [D::Frame],
        courses: impl Iterator<Item = Course>,
        high: u64,
        hops: &mut [Hop; BURST_MAX],
    ) {
        let mut way = Way::default();
        for ((hop, course), frame) in hops.iter_mut().zip(courses).zip(frames) {
            if way.course != course {
                way = self.way::<TUNNELS>(course, high);
            }
            let goes = if TUNNELS && way.is_tunnel {
                self.route.encap(frame)
            } else {
                frame.len() <= way.len_max && frame.is_finished()
            };
            if goes {
                *hop = way.hop;
            }
        }
    }

    /// Which way frames of a course go.
    #[inline(never)]
    fn way<const TUNNELS: bool>(&mut self, course: Course, high: u64) -> Way {
        let no_way = Way { course, ..Way::default() };
        match course.take_apart(high) {
            Some((Dest::Port(out), domain, tag)) => {
                let len_max = self.len_max(out, domain, tag);
                len_max.map_or(no_way, |len_max| Way { hop: Hop::to(out), len_max, ..no_way })
            }
            Some((Dest::Remote(peer), domain, InTag::Untagged)) if TUNNELS => {
                let out = PeerId::new(peer).and_then(|peer| self.turn_to(domain, peer));
                out.map_or(no_way, |out| Way { hop: Hop::to(out), is_tunnel: true, ..no_way })
            }
            _ => no_way,
        }
    }

    /// What has to hold for a frame to be sent out of a port as it came, for all frames of the same
    /// domain and tag; length of the longest that may. In every other case [`bridge::decide`] and
    /// [`Self::output`] have the word.
    #[inline]
    pub(super) fn len_max(&self, out: PortId, domain: Domain, tag: InTag) -> Option<usize> {
        let plain = self.snapshot.port(out).filter(|out| {
            let egress = out.vlans.egress(domain.vid());
            let stays = match tag {
                InTag::Untagged => egress == Some(Egress::Untagged),
                InTag::Vlan => egress == Some(Egress::Tagged),
                InTag::Priority => false,
            };
            stays
                && out.id != self.port.id
                && out.bridge == Some(domain.bridge())
                && out.up
                && !(out.isolated && self.port.isolated)
                && !self.live.blocked(out)
                && self.egress.slot(out.id).is_some()
        });
        plain.map(|out| egress::plain_len_max(out.mtu))
    }

    /// Sends the first `n` frames, which leave as they came.
    #[inline(always)]
    pub(super) fn send_run(
        &mut self,
        out: PortId,
        frames: &mut impl Iterator<Item = D::Frame>,
        n: usize,
    ) {
        // There is one: `way` looked.
        let Some((slot, pending)) = self.egress.slot_mut(out) else { return };
        self.counters.forwarded.add(n as u64);
        slot.counters.offered.add(n as u64);
        slot.send_all(frames, n, pending, self.datapath);
    }

    /// The last pass, for a frame that something has to be done about or asked of.
    #[inline(never)]
    fn forward(&mut self, frame: D::Frame, planned: &Planned, bridge: &BridgeConf) {
        let admitted = match planned.admitted() {
            Ok(admitted) => admitted,
            Err(reason) => return self.refuse(reason),
        };
        let (fx, dst) = (&mut self.live, planned.dst.1);
        let verdict = bridge::decide(self.snapshot, self.port, &admitted, dst, fx);
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
            Action::Drop(reason) => self.refuse(reason),
            Action::Output(out) => match self.snapshot.port(out) {
                Some(out) => self.output(frame, meta, out),
                None => self.counters.count_drop(DropReason::NoDestination, 1),
            },
            Action::Remote(peer) => self.output_remote(frame, meta, bridge, peer),
            Action::Flood => self.flood(frame, meta, bridge),
        }
    }

    /// Drops a frame that may not come in or has nowhere to go.
    fn refuse(&mut self, reason: DropReason) {
        self.counters.count_drop(reason, 1);
        self.strays += 1;
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
        self.strays += 1;
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
                self.encapsulate(frame, meta, tunnel, peer, Purpose::Flood);
            }
        }
    }

    /// Puts a frame into the batch of its port, in the shape that the port can send.
    #[inline(always)]
    fn output(&mut self, frame: D::Frame, meta: &FrameMeta, out: &PortConf) {
        let mut frame = frame;
        let Some((slot, _)) = self.egress.slot_mut(out.id) else {
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
            return self.egress.refuse(out.id, None, DropReason::PortDown);
        }
        if egress::retag(&mut frame, meta, egress).is_err() {
            return self.egress.refuse(out.id, None, DropReason::NoHeadroom);
        }
        // What came through a tunnel may have been joined at its end.
        let uncut = out.gro || meta.tunnel.is_none();
        let caps = if uncut { out.caps } else { out.caps.without_super_frames() };
        self.send_finished(frame, out, caps);
    }

    /// Puts a frame that was offered to a port into its batch, if it fits, with what is left undone
    /// about it done unless `caps` has it.
    #[inline(always)]
    pub(super) fn send_finished(&mut self, frame: D::Frame, out: &PortConf, caps: Caps) {
        let mut frame = frame;
        if !egress::fits_mtu(&frame, out.mtu) {
            return self.egress.refuse(out.id, None, DropReason::MtuExceeded);
        }
        // There is one: it was offered to the port.
        let Some((slot, pending)) = self.egress.slot_mut(out.id) else { return };
        match egress::to_finish(&frame.offload(), caps) {
            Finish::Nothing => slot.send(frame, pending, self.datapath),
            Finish::Checksum => match segment::finish_checksum(&mut frame) {
                Ok(()) => slot.send(frame, pending, self.datapath),
                Err(_) => self.egress.refuse(out.id, None, DropReason::SegmentFailed),
            },
            Finish::Segment => self.segment(frame, out.id),
        }
    }

    /// Cuts a super-frame for a port that cannot take it whole.
    #[inline(never)]
    fn segment(&mut self, frame: D::Frame, out: PortId) {
        let mut segments = self.cut(&frame, out);
        if let Some((slot, pending)) = self.egress.slot_mut(out) {
            let mut more = segments.len().saturating_sub(1);
            for segment in segments.drain(..) {
                slot.send_first(segment, std::mem::take(&mut more), pending, self.datapath);
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
        if result.is_err() {
            self.egress.refuse(out, None, DropReason::SegmentFailed);
            segments.clear();
        }
        if let Some((slot, _)) = self.egress.slot_mut(out) {
            let more = segments.len().saturating_sub(1) as u64;
            self.counters.copied.add(more);
            self.counters.forwarded.add(more);
            slot.counters.offered.add(more);
        }
        segments
    }
}

/// What the last frame of a burst met: the next one most likely meets the same.
#[derive(Clone, Copy, Debug)]
struct Way {
    course: Course,
    hop: Hop,
    /// Length of the longest frame that takes it as it came.
    len_max: usize,
    /// Frames are encapsulated.
    is_tunnel: bool,
}

impl Default for Way {
    fn default() -> Self {
        Self { course: Course::NONE, hop: Hop::ASK, len_max: 0, is_tunnel: false }
    }
}

/// The port that a frame leaves by with nothing else to be done, as a number that is quick to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop(u16);

impl Hop {
    /// It does not, or that is still to be asked.
    pub(super) const ASK: Self = Self(u16::MAX);

    #[inline]
    pub(super) const fn to(port: PortId) -> Self {
        Self(port.get())
    }

    fn out(self) -> Option<PortId> {
        PortId::new(self.0)
    }
}

const _: () = assert!(PortId::MAX_PORTS < Hop::ASK.0 as usize);

/// Who gets a flooded frame.
#[derive(Clone, Copy)]
enum Member<'a> {
    Port(&'a PortConf),
    Remote(&'a TunnelConf, &'a PeerConf),
}
