//! Bursts that somebody looks at. Mirrors get their copies before anything else happens. Of watches:
//! frames that a watch selects go their way one by one, and what they met is noted; the others go as
//! they always do. Nothing is decided here.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Worker;
use super::ports::dropped_between;
use super::sampled::Samples;
use crate::bridge::{self, Admitted};
use crate::clock::Nanos;
use crate::config::{PortConf, Snapshot};
use crate::datapath::Datapath;
use crate::fdb::{Dest, Tick};
use crate::frame::Frame;
use crate::ids::PeerId;
use crate::stats::PortCounters;
use crate::watch::{Facts, Record, SAMPLERS_MAX, WATCHES_MAX, Watch};

/// The watches, and behind them the samplers, that want to know of a frame: a bit each.
type Wanted = u32;

/// How many frames of a burst each watch may look at: the first ones.
type Looks = ArrayVec<usize, WATCHES_MAX>;

const _: () = assert!(WATCHES_MAX + SAMPLERS_MAX <= Wanted::BITS as usize);

impl<D: Datapath> Worker<D> {
    /// A burst from one port, where there are watches, mirrors or samplers.
    #[cold]
    #[inline(never)]
    pub(super) fn receive_watched(
        &mut self,
        port: &PortConf,
        snapshot: &Arc<Snapshot>,
        counters: &PortCounters,
        now: Nanos,
    ) -> usize {
        let before = (!snapshot.watches().is_empty()).then(|| counters.totals());
        let received = self.datapath.rx_burst(port.id, &mut self.rx, counters);
        if let Some(before) = before {
            self.note_refused(port, snapshot, &before, counters, now);
        }
        if received == 0 {
            return 0;
        }
        self.mirror_received(port.id, snapshot, now);
        let looks = |watch: &Arc<Watch>| match watch.spec().in_port {
            Some(wanted) if wanted != port.id => 0,
            _ => watch.may_look(received, now),
        };
        let looks: Looks = snapshot.watches().iter().map(looks).collect();
        let samples = self.countdown.samples(port, snapshot, received);
        if looks.iter().all(|frames| *frames == 0) && samples == Samples::default() {
            let strays = self.forward_received(port, snapshot, counters, now);
            self.settle(port.id, received, strays);
            return received;
        }
        let mut strays = 0;
        let mut frames = std::mem::replace(&mut self.rx, crate::Batch::with_limit(self.burst));
        for (at, frame) in frames.drain().enumerate() {
            let looking = bits(looks.iter().map(|frames| at < *frames));
            let mut wanted = self.wanted(&frame, port, snapshot, looking);
            wanted |= bits(samples.iter().map(|samples| samples >> at & 1 == 1)) << WATCHES_MAX;
            if wanted != 0 {
                strays += self.forward_unseen(port, snapshot, counters, now);
                self.begin((&frame, wanted), port, snapshot, now);
            }
            // There is room: it came out of a batch of the same size.
            let _ = self.rx.push(frame);
            if wanted != 0 {
                let before = counters.totals();
                strays += self.forward_received(port, snapshot, counters, now);
                self.egress.flush_watched(&mut self.datapath);
                self.end(port, snapshot, (&before, counters), wanted, now);
            }
        }
        strays += self.forward_unseen(port, snapshot, counters, now);
        self.rx = frames;
        self.settle(port.id, received, strays);
        received
    }

    /// Frames before one that is wanted, or behind the last one: they leave before it does.
    fn forward_unseen(
        &mut self,
        port: &PortConf,
        snapshot: &Snapshot,
        counters: &PortCounters,
        now: Nanos,
    ) -> usize {
        let none = self.rx.is_empty();
        let strays = if none { 0 } else { self.forward_received(port, snapshot, counters, now) };
        self.egress.flush_all(&mut self.datapath);
        strays
    }

    /// Notes what the backend refused while it received: there is no frame of it.
    fn note_refused(
        &mut self,
        port: &PortConf,
        snapshot: &Arc<Snapshot>,
        before: &crate::stats::PortTotals,
        counters: &PortCounters,
        now: Nanos,
    ) {
        let after = counters.totals();
        if after.dropped() == before.dropped() {
            return;
        }
        for reason in dropped_between(before, &after) {
            self.egress.record.begin::<D::Frame>(now, port.id, (None, 0), snapshot);
            self.egress.record.dropped(port.id, None, reason);
            offer(snapshot, &self.egress.record, ALL_WATCHES, now);
        }
    }

    /// Which of the watches that look want to know of a frame, as far as can be told beforehand.
    fn wanted(
        &self,
        frame: &D::Frame,
        port: &PortConf,
        snapshot: &Snapshot,
        looking: Wanted,
    ) -> Wanted {
        let mut facts = None;
        // What leaves through a tunnel may meet a filter that it did not meet before.
        let may_change = !snapshot.overlay().is_empty();
        let mut wants = |watch: &Arc<Watch>| {
            let spec = watch.spec();
            (may_change || spec.filter.is_all() || {
                let of = || Facts::of(snapshot, port.id, frame.head(), frame.len());
                spec.filter.meets(facts.get_or_insert_with(of))
            }) && spec.port.is_none_or(|wanted| {
                wanted == port.id || self.may_leave_by(wanted, frame, port, snapshot)
            })
        };
        let watches = snapshot.watches().iter().enumerate();
        bits(watches.map(|(at, watch)| looking >> at & 1 == 1 && wants(watch)))
    }

    /// Whether a frame may leave by `out`: it does not if its destination is known to be elsewhere.
    fn may_leave_by(
        &self,
        out: crate::PortId,
        frame: &D::Frame,
        port: &PortConf,
        snapshot: &Snapshot,
    ) -> bool {
        if port.bridge.is_none() {
            return true;
        }
        let Ok(Admitted { dst, .. }) = bridge::admit(port, frame.head()) else { return false };
        match self.switch.fdb().peek(dst).map(|entry| entry.dest) {
            Some(Dest::Port(there)) => there == out,
            Some(Dest::Remote(peer)) => {
                let peer = PeerId::new(peer).and_then(|peer| snapshot.overlay().peer(peer));
                peer.is_none_or(|peer| peer.vtep == out)
            }
            None => true,
        }
    }

    /// Notes a frame before it goes its way.
    fn begin(
        &mut self,
        (frame, wanted): (&D::Frame, Wanted),
        port: &PortConf,
        snapshot: &Arc<Snapshot>,
        now: Nanos,
    ) {
        let record = &mut self.egress.record;
        let snap = those(snapshot, wanted).map(|watch| watch.spec().snap).max().unwrap_or(0);
        record.begin(now, port.id, (Some(frame), snap), snapshot);
        record.blocked = port.state.blocked(now);
        if let Some(bridge) = port.bridge.and_then(|id| snapshot.bridge(id))
            && let Ok(Admitted { src, dst, tag, .. }) = bridge::admit(port, frame.head())
        {
            let learns = bridge.learning && !record.blocked;
            let here = learns.then_some(Dest::Port(port.id));
            record.note_station(self.switch.fdb(), (src, dst), tag, here, Tick::from(now));
        }
        self.egress.is_watched = true;
    }

    /// It went: what is known of it is offered to those that want to know.
    fn end(
        &mut self,
        port: &PortConf,
        snapshot: &Snapshot,
        (before, counters): (&crate::stats::PortTotals, &PortCounters),
        wanted: Wanted,
        now: Nanos,
    ) {
        self.egress.is_watched = false;
        let after = counters.totals();
        for reason in dropped_between(before, &after) {
            // Others were noted where they happened.
            if reason.side() == crate::drop::Side::In {
                self.egress.record.dropped(port.id, None, reason);
            }
        }
        offer(snapshot, &self.egress.record, wanted, now);
        self.egress.record.clear();
    }
}

/// Offers a record to the watches that want it.
fn offer(snapshot: &Snapshot, record: &Record, wanted: Wanted, now: Nanos) {
    those(snapshot, wanted).for_each(|watch| watch.offer(record, now));
}

/// The watches of these bits, those of samplers included.
fn those(snapshot: &Snapshot, wanted: Wanted) -> impl Iterator<Item = &Arc<Watch>> {
    let watches = snapshot.watches().iter().zip(0..);
    let samplers = snapshot.samplers().iter().map(|sampler| &sampler.watch).zip(WATCHES_MAX..);
    let all = watches.chain(samplers);
    all.filter(move |(_, at)| wanted >> at & 1 == 1).map(|(watch, _)| watch)
}

/// Every watch, and no sampler.
const ALL_WATCHES: Wanted = (1 << WATCHES_MAX) - 1;

/// The bits of those that are true.
fn bits(flags: impl Iterator<Item = bool>) -> Wanted {
    flags.zip(0..).fold(0, |bits, (flag, at)| bits | Wanted::from(flag) << at)
}
