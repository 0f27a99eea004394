//! The way from the underlay to a bridge: packets are opened, and what they carry comes in on its
//! tunnel.

use std::ptr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Worker;
use super::burst::{Burst, Hop};
use super::overlay::{fetch_tunnels, inner_max};
use super::plan::{self, Kind, Planned};
use crate::batch::BURST_MAX;
use crate::bridge::{self, Admitted, Untagged};
use crate::clock::Nanos;
use crate::config::{BridgeConf, PortConf, Snapshot};
use crate::datapath::Datapath;
use crate::drop::DropReason;
use crate::egress;
use crate::event::{OptionsSeen, WorkerEvent};
use crate::fdb::{Dest, Hash, Key, Tick};
use crate::frame::{Frame, FrameMeta, InTag, Options};
use crate::ids::Domain;
use crate::stats::PortCounters;
use crate::switch::Switch;
use crate::tunnel::{self, Known, Opened, OverlayCounters, PeerConf, Refused};
use crate::tunnel::{Overlay, TunnelConf, VtepConf};
use crate::verdict::Action;

/// A frame that came out of a tunnel, between the passes of a burst.
struct Arrived<'a> {
    src: (Key, Hash),
    dst: (Key, Hash),
    tag: InTag,
    origin: Origin<'a>,
}

/// Where it came out of.
#[derive(Clone, Copy)]
struct Origin<'a> {
    tunnel: &'a TunnelConf,
    peer: Option<&'a PeerConf>,
    bridge: &'a BridgeConf,
    options: Options,
}

impl Origin<'_> {
    /// Where sources are learned to be that came from there, if they are.
    #[inline(always)]
    fn teaches(&self) -> Option<Dest> {
        let learns = self.bridge.learning && self.tunnel.learning;
        self.peer.filter(|_| learns).map(|peer| Dest::Remote(peer.id.get()))
    }
}

/// The first pass of a burst that turned out not to be one plain run.
struct Begun<'a> {
    known: Option<Known<'a>>,
    run: Run<'a>,
    /// Frames whose keys are in the plan.
    taken: usize,
    /// Why the next one is refused, if it was opened.
    refused: Option<Refused<'a>>,
}

/// One a frame; `None` for one that was refused.
type Arrivals<'a> = ArrayVec<Option<Arrived<'a>>, BURST_MAX>;

impl<D: Datapath> Worker<D> {
    /// The burst is packets from the underlay: what they carry is forwarded as if it had come in on
    /// its tunnel. Answers how many were strays.
    #[inline(never)]
    pub(super) fn decapsulate(
        &mut self,
        snapshot: &Snapshot,
        port: &PortConf,
        vtep: &VtepConf,
        counters: &PortCounters,
        now: Nanos,
    ) -> usize {
        let overlay = snapshot.overlay();
        if overlay.is_crowded() {
            fetch(overlay, vtep, self.rx.as_slice(), self.id.index());
        }
        let (mut known, mut run) = (Known::new(overlay, vtep), Run::default());
        let (taken, refused) = self.take_out_run(snapshot, known.as_mut(), &mut run);
        if taken == self.rx.len()
            && let Some(origin) = run.origin()
        {
            run.settle(self.id.index());
            if !snapshot.mirrors().is_empty() {
                let vid = origin.tunnel.vlans.pvid.unwrap_or(0);
                let domain = Some(Domain::new(origin.bridge.id, vid));
                self.mirror_inner(port.id, snapshot, std::iter::repeat(domain));
            }
            return self.forward_run(snapshot, port, counters, now, &origin);
        }
        let mut arrivals = ArrayVec::new();
        let begun = Begun { known, run, taken, refused };
        self.take_out(snapshot, vtep, counters, begun, &mut arrivals);
        if !snapshot.mirrors().is_empty() {
            let domains = arrivals.iter().map(|it| it.as_ref().map(|it| it.src.0.domain()));
            self.mirror_inner(port.id, snapshot, domains);
        }
        if self.egress.is_watched
            && let Some(Some(arrived)) = arrivals.first()
        {
            self.note_arrival(arrived, now);
        }
        let (mut burst, frames, _) = self.burst(snapshot, port, counters, now);
        let hashes = arrivals.iter().flatten().map(|arrived| (arrived.src.1, arrived.dst.1));
        plan::fetch::<D>(burst.live.fdb, hashes);
        burst.learn_inner(&arrivals);
        let mut hops = [Hop::ASK; BURST_MAX];
        burst.hops_inner(frames.as_slice(), &arrivals, &mut hops);
        burst.send_or_ask(frames, &hops, |burst, frame, at| {
            match arrivals.get(at) {
                Some(Some(arrived)) => burst.forward_inner(frame, arrived),
                // Refused, and counted.
                _ => burst.strays += 1,
            }
        });
        burst.count_route();
        burst.strays
    }

    /// The first pass, up to the first packet that is not of one plain run: through one tunnel from
    /// one peer. What the packets before it carry is in the plan then. Answers how many they are, and
    /// why that packet is refused if it was opened.
    #[inline(always)]
    fn take_out_run<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        known: Option<&mut Known<'a>>,
        run: &mut Run<'a>,
    ) -> (usize, Option<Refused<'a>>) {
        let Some(known) = known else { return (0, None) };
        let mut refused = None;
        let taken = self.plan.read(self.rx.as_mut_slice().iter_mut(), |frame| {
            let opened = known.open(frame.head(), frame.len())?;
            if !run.is_of(opened) {
                if run.tunnel.is_some() {
                    return None;
                }
                run.start(opened, snapshot);
            }
            let taken = run.take_in(opened, frame).map_err(|why| refused = Some(why));
            taken.ok().map(|(src, dst, tag)| (src.low(), dst.low(), Kind::admitted(tag)))
        });
        (taken, refused)
    }

    /// The other passes, when the whole burst is one plain run.
    #[inline(always)]
    fn forward_run(
        &mut self,
        snapshot: &Snapshot,
        port: &PortConf,
        counters: &PortCounters,
        now: Nanos,
        origin: &Origin<'_>,
    ) -> usize {
        self.plan.locate::<D>(Some(origin.tunnel.bridge), self.switch.fdb());
        if self.egress.is_watched
            && let Some(Planned { src, dst, tag: Ok(tag) }) = self.plan.get(0)
        {
            self.note_arrival(&Arrived { src, dst, tag, origin: *origin }, now);
        }
        let (mut burst, frames, plan) = self.burst(snapshot, port, counters, now);
        if let Some(there) = origin.teaches() {
            burst.learn(plan, there);
        }
        let mut hops = [Hop::ASK; BURST_MAX];
        burst.hops::<false>(frames.as_mut_slice(), plan, &mut hops);
        burst.send_or_ask(frames, &hops, |burst, frame, at| {
            if let Some(Planned { src, dst, tag: Ok(tag) }) = plan.get(at) {
                burst.forward_inner(frame, &Arrived { src, dst, tag, origin: *origin });
            }
        });
        burst.count_route();
        burst.strays
    }

    /// Notes what the one packet carries, before it teaches anything.
    #[cold]
    #[inline(never)]
    fn note_arrival(&mut self, arrived: &Arrived<'_>, now: Nanos) {
        let Arrived { src, dst, tag, origin } = arrived;
        let (fdb, tick) = (self.switch.fdb(), Tick::from(now));
        let record = &mut self.egress.record;
        record.note_station(fdb, (src.0, dst.0), *tag, origin.teaches(), tick);
        record.from = Some((origin.tunnel.id, origin.peer.map(|peer| peer.id)));
    }

    /// The first pass: what the packets carry, and where that may come in.
    fn take_out<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        vtep: &'a VtepConf,
        counters: &PortCounters,
        begun: Begun<'a>,
        arrivals: &mut Arrivals<'a>,
    ) {
        let (overlay, fdb, worker) = (snapshot.overlay(), self.switch.fdb(), self.id.index());
        self.options.clear();
        let Begun { mut known, mut run, taken: before, refused: mut stopped } = begun;
        for (at, frame) in self.rx.as_mut_slice().iter_mut().enumerate() {
            run.options = Options::default();
            let (head, len) = (frame.head(), frame.len());
            let planned = if at < before { self.plan.get(at) } else { None };
            let taken = if let Some(Planned { src, dst, tag: Ok(tag) }) = planned {
                Ok((src.0, dst.0, tag))
            } else if let Some(refused) = stopped.take() {
                Err(refused)
            } else if let Some(opened) = known.as_mut().and_then(|known| known.open(head, len)) {
                run.turn_to(opened, snapshot, worker);
                run.take_in(opened, frame)
            } else {
                tunnel::open(overlay, vtep, frame).and_then(|opened| {
                    run.turn_to(&opened, snapshot, worker);
                    let (from, to) = opened.options;
                    let options = frame.head().get(from..to).unwrap_or_default();
                    run.options = Options::keep(options, &mut self.options);
                    let taken = run.take_in(&opened, frame)?;
                    report(&self.switch, &opened, run.options.of(&self.options));
                    Ok(taken)
                })
            };
            let refused = match (taken, run.origin()) {
                (Ok((src, dst, tag)), Some(origin)) => {
                    let (src, dst) = ((src, fdb.hash(src)), (dst, fdb.hash(dst)));
                    let _ = arrivals.try_push(Some(Arrived { src, dst, tag, origin }));
                    continue;
                }
                (Ok(_), None) => DropReason::NoDestination.into(),
                (Err(refused), _) => refused,
            };
            counters.count_drop(refused.reason, 1);
            count_refused(&refused, worker);
            let _ = arrivals.try_push(None);
        }
        run.settle(worker);
    }
}

/// Has the tunnels of a burst fetched, where there are too many for the caches.
#[inline(never)]
fn fetch<F: Frame>(overlay: &Overlay, vtep: &VtepConf, frames: &[F], worker: usize) {
    let mut tunnels = ArrayVec::new();
    tunnels.extend(frames.iter().filter_map(|frame| tunnel::guess(overlay, vtep, frame.head())));
    fetch_tunnels(&tunnels, worker);
}

/// The tunnel and the peer of the frame at hand, and of those before it that had the same: what
/// follows from the two, and what is not counted yet.
#[derive(Default)]
struct Run<'a> {
    tunnel: Option<&'a TunnelConf>,
    peer: Option<&'a PeerConf>,
    bridge: Option<&'a BridgeConf>,
    untagged: Option<Untagged>,
    options: Options,
    frames: u64,
    bytes: u64,
}

impl<'a> Run<'a> {
    /// Whether that packet is of the same tunnel and peer.
    #[inline(always)]
    fn is_of(&self, opened: &Opened<'a>) -> bool {
        let at = |peer: Option<&PeerConf>| peer.map(ptr::from_ref);
        self.tunnel.is_some_and(|tunnel| ptr::eq(tunnel, &**opened.tunnel))
            && at(self.peer) == at(opened.peer.map(|peer| &**peer))
    }

    /// The next frame is that packet's.
    #[inline(always)]
    fn turn_to(&mut self, opened: &Opened<'a>, snapshot: &'a Snapshot, worker: usize) {
        if !self.is_of(opened) {
            self.settle(worker);
            self.start(opened, snapshot);
        }
    }

    #[inline(never)]
    fn start(&mut self, opened: &Opened<'a>, snapshot: &'a Snapshot) {
        let tunnel = &**opened.tunnel;
        *self = Self {
            tunnel: Some(tunnel),
            peer: opened.peer.map(|peer| &**peer),
            bridge: snapshot.bridge(tunnel.bridge).map(|bridge| &**bridge),
            untagged: Untagged::of_tunnel(tunnel),
            ..Self::default()
        };
    }

    /// Takes the inner frame out of a packet, counts it, and says what it is known by and how it is
    /// tagged.
    #[inline(always)]
    fn take_in<F: Frame>(
        &mut self,
        opened: &Opened<'a>,
        frame: &mut F,
    ) -> Result<(Key, Key, InTag), Refused<'a>> {
        opened.take_out(frame)?;
        clamp_inner(opened, frame);
        let head = frame.head();
        let taken = match self.untagged.and_then(|untagged| untagged.admit(head)) {
            Some((src, dst)) => (src, dst, InTag::Untagged),
            None => {
                let admitted = bridge::admit_inner(opened.tunnel, head);
                let admitted = admitted.map_err(|reason| opened.refused(reason))?;
                (admitted.src, admitted.dst, admitted.tag)
            }
        };
        self.frames = self.frames.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(frame.len() as u64);
        Ok(taken)
    }

    /// Where the frame at hand came from; `None` where its bridge is no more.
    #[inline(always)]
    fn origin(&self) -> Option<Origin<'a>> {
        let Self { peer, options, .. } = *self;
        Some(Origin { tunnel: self.tunnel?, peer, bridge: self.bridge?, options })
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
    /// Learns that the sources are behind the remotes that sent them.
    #[inline(always)]
    fn learn_inner(&mut self, arrivals: &Arrivals<'_>) {
        for Arrived { src: (key, hash), origin, .. } in arrivals.iter().flatten() {
            if let Some(there) = origin.teaches()
                && !self.live.fdb.refresh(*key, *hash, there, self.live.tick)
            {
                self.live.learn_news(*key, *hash, there);
                self.strays += 1;
            }
        }
    }

    /// Looks up out of which port each frame goes as it came.
    #[inline(always)]
    fn hops_inner(
        &self,
        frames: &[D::Frame],
        arrivals: &Arrivals<'_>,
        hops: &mut [Hop; BURST_MAX],
    ) {
        let (mut course, mut way) = (None, None);
        for ((hop, arrived), frame) in hops.iter_mut().zip(arrivals).zip(frames) {
            let Some(Arrived { dst: (key, hash), tag, .. }) = arrived else { continue };
            let place = self.live.fdb.place(*key, *hash);
            if course != Some((place, key.domain(), *tag)) {
                course = Some((place, key.domain(), *tag));
                way = match place.dest() {
                    Some(Dest::Port(out)) => {
                        self.len_max(out, key.domain(), *tag).map(|max| (Hop::to(out), max))
                    }
                    _ => None,
                };
            }
            if let Some((to, len_max)) = way
                && frame.len() <= len_max
                && frame.is_finished()
            {
                *hop = to;
            }
        }
    }

    /// The last pass, for one frame that something has to be done about or asked of.
    #[inline(never)]
    fn forward_inner(&mut self, frame: D::Frame, arrived: &Arrived<'_>) {
        let Origin { tunnel, bridge, options, .. } = arrived.origin;
        let admitted = Admitted {
            src: arrived.src.0,
            dst: arrived.dst.0,
            tag: arrived.tag,
            group: arrived.dst.0.mac().is_multicast(),
        };
        let (fx, dst) = (&mut self.live, arrived.dst.1);
        let verdict = bridge::decide_inner(self.snapshot, self.port, &admitted, dst, fx);
        if verdict.split_last().0 == Action::Drop(DropReason::SplitHorizon) {
            self.count_overlay(tunnel, None, DropReason::SplitHorizon);
        }
        let tunnel = Some(tunnel.id);
        let meta = FrameMeta { tunnel, options, ..admitted.meta(self.port.id) };
        self.execute(frame, &meta, bridge, &verdict);
    }
}
