//! Ports that move from a busy worker to one that has time.
//!
//! A port belongs to the worker that receives from it, from its opening on, and nobody knows then what
//! traffic will come. So every few seconds the busiest worker and the one with the most time are looked
//! at, and at most one port moves: only if both are far apart, and the move brings them closer by a good
//! deal. A port that moved stays for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use switch_core::datapath::Backend;
use switch_core::stats::PortCounters;
use switch_core::{PortId, WorkerId};
use vswitch_api::types::EventLevel;

use super::{Controller, Queue};
use crate::workers::WorkerError;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(3);
/// How long a port that moved stays where it is.
const STAYS: Duration = Duration::from_secs(30);
/// What of its time the busiest worker spends with frames, at least, for a port to move.
const BUSY: f64 = 0.5;
/// How much more that is than what the other one spends.
const APART: f64 = 0.25;
/// By how much the busier of the two is to have less to do afterwards.
const GAIN: f64 = 0.1;
/// Bytes that take about as long to copy in and out as a frame takes besides.
const BYTES_A_FRAME: u64 = 2048;

/// What the last look saw.
#[derive(Debug, Default)]
pub(super) struct Balance {
    last: Option<Look>,
    moved: BTreeMap<PortId, Instant>,
}

/// What was counted at one moment.
#[derive(Debug)]
struct Look {
    at: Instant,
    /// Nanoseconds each worker was busy, ever.
    busy: Vec<u64>,
    /// What came in by each port at each worker, ever.
    work: BTreeMap<(PortId, usize), u64>,
}

/// A port with traffic.
#[derive(Clone, Copy, Debug)]
struct Load {
    port: PortId,
    worker: usize,
    /// In units of one frame.
    work: u64,
    /// It moved a moment ago, or has a queue at other workers, too.
    stays: bool,
}

/// A port that is to be received from by another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Move {
    port: PortId,
    from: usize,
    to: usize,
}

/// The move that evens out most, if one is worth it. `busy` is what of its time each worker spends with
/// frames, 0 to 1; what a port has of that is its part of what comes in there.
fn choose(busy: &[f64], loads: &[Load]) -> Option<Move> {
    let most = |a: &(usize, &f64), b: &(usize, &f64)| a.1.total_cmp(b.1);
    let (from, &highest) = busy.iter().enumerate().max_by(most)?;
    let (to, &lowest) = busy.iter().enumerate().min_by(most)?;
    if highest < BUSY || highest - lowest < APART {
        return None;
    }
    let here = loads.iter().filter(|load| load.worker == from);
    let all: u64 = here.clone().map(|load| load.work).sum();
    let after = |load: &Load| {
        let share = highest * load.work as f64 / all.max(1) as f64;
        (highest - share).max(lowest + share)
    };
    let best = here.filter(|load| !load.stays).min_by(|a, b| after(a).total_cmp(&after(b)))?;
    (after(best) <= highest - GAIN).then_some(Move { port: best.port, from, to })
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Looks whether a port should move, and moves it.
    pub(super) fn balance(&mut self, now: Instant) -> Result<(), WorkerError> {
        let early = self.balance.last.as_ref().is_some_and(|last| now - last.at < EVERY);
        if early || self.workers.count() < 2 {
            return Ok(());
        }
        let busy = self.workers.each().map(|(.., counters)| counters.busy_ns.get()).collect();
        let work = self.counted().map(|(at, counters)| (at, work_of(counters))).collect();
        let look = Look { at: now, busy, work };
        let Some(last) = self.balance.last.replace(look) else { return Ok(()) };
        let (busy, loads) = self.since(&last, now);
        self.balance.moved.retain(|_, at| now - *at < STAYS);
        match choose(&busy, &loads) {
            Some(chosen) => self.move_port(chosen, &busy, now),
            None => Ok(()),
        }
    }

    /// Open ports and what each worker counts on them.
    fn counted(&self) -> impl Iterator<Item = ((PortId, usize), &PortCounters)> {
        let ports = self.ports.values().map(|port| (port.id, &port.open, &port.counters));
        let vteps = self.vteps.values().map(|vtep| (vtep.id, &vtep.open, &vtep.counters));
        ports.chain(vteps).filter(|(_, open, _)| open.is_some()).flat_map(|(port, _, counters)| {
            counters.iter().enumerate().map(move |(worker, counters)| ((port, worker), &**counters))
        })
    }

    /// What of their time workers were busy since, and what came in there by which ports.
    fn since(&self, last: &Look, now: Instant) -> (Vec<f64>, Vec<Load>) {
        let span = (now - last.at).as_nanos() as f64;
        let busy = self.workers.each().zip(&last.busy).map(|((.., counters), before)| {
            counters.busy_ns.get().saturating_sub(*before) as f64 / span
        });
        let load = |(at, counters): ((PortId, usize), &PortCounters)| {
            let work = work_of(counters).saturating_sub(*last.work.get(&at)?);
            let (port, worker) = at;
            let stays = || {
                self.balance.moved.contains_key(&port) || self.backend.rx_workers(port).len() > 1
            };
            (work > 0).then(|| Load { port, worker, work, stays: stays() })
        };
        (busy.collect(), self.counted().filter_map(load).collect())
    }

    fn move_port(&mut self, chosen: Move, busy: &[f64], now: Instant) -> Result<(), WorkerError> {
        let Move { port: id, from, to } = chosen;
        let worker = WorkerId(u16::try_from(to).unwrap_or(u16::MAX));
        let ports = self.ports.iter_mut();
        let ports = ports.map(|(name, p)| (p.id, "port", name, &mut p.open, &p.counters));
        let vteps = self.vteps.iter_mut();
        let vteps = vteps.map(|(name, v)| (v.id, "vtep", name, &mut v.open, &v.counters));
        let found = ports.chain(vteps).find(|(port, ..)| *port == id);
        let Some((_, kind, name, Some(open), counters)) = found else { return Ok(()) };
        let Some(queues) = self.backend.begin_move(id, worker) else { return Ok(()) };
        // From here on nobody receives from it, for some microseconds.
        let earlier = self.workers.attach(id, queues, counters)?;
        if let (Some(queue), Some(counters)) =
            (self.backend.finish_move(id, earlier), counters.get(to))
        {
            self.workers.attach_one(worker, id, queue, counters)?;
        }
        open.owner = worker;
        self.balance.moved.insert(id, now);
        let percent = |worker: usize| busy.get(worker).map_or(0.0, |busy| busy * 100.0);
        let message = format!(
            "worker {to} ({:.0} % busy) receives from it now, in place of worker {from} ({:.0} %)",
            percent(to),
            percent(from)
        );
        self.events.add(EventLevel::Info, "port-moved", &format!("{kind} {name}"), &message);
        Ok(())
    }
}

/// What came in by a port, in units of one frame.
fn work_of(counters: &PortCounters) -> u64 {
    counters.rx_frames.get() + counters.rx_bytes.get() / BYTES_A_FRAME
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(port: u16, worker: usize, work: u64) -> Load {
        Load { port: PortId::new(port).unwrap(), worker, work, stays: false }
    }

    fn chosen(busy: &[f64], loads: &[Load]) -> Option<(u16, usize, usize)> {
        choose(busy, loads).map(|m| (m.port.get(), m.from, m.to))
    }

    #[test]
    fn the_port_moves_that_evens_out_most() {
        let loads = [load(1, 0, 700), load(2, 0, 250), load(3, 0, 50), load(4, 1, 9)];
        // With the largest one the other worker would have more to do.
        assert_eq!(chosen(&[1.0, 0.1], &loads), Some((2, 0, 1)));
        let even = [load(1, 0, 500), load(2, 0, 500)];
        assert_eq!(chosen(&[0.9, 0.0], &even), Some((1, 0, 1)));
        assert_eq!(chosen(&[0.2, 0.9, 0.5], &[load(7, 1, 5), load(8, 1, 5)]), Some((7, 1, 0)));
    }

    #[test]
    fn nothing_moves_without_need_or_gain() {
        let two = [load(1, 0, 500), load(2, 0, 500)];
        assert_eq!(chosen(&[0.4, 0.0], &two), None, "there is time enough");
        assert_eq!(chosen(&[0.9, 0.7], &two), None, "both are busy");
        assert_eq!(chosen(&[0.9, 0.0], &[load(1, 0, 1000)]), None, "it is all there is");
        let rest = [load(1, 0, 990), load(2, 0, 10)];
        assert_eq!(chosen(&[0.9, 0.0], &rest), None, "little would be won");
        let moved = two.map(|load| Load { stays: true, ..load });
        assert_eq!(chosen(&[0.9, 0.0], &moved), None, "they moved a moment ago");
        assert_eq!(chosen(&[], &[]), None);
    }

    #[test]
    fn a_move_is_not_taken_back() {
        // What it looks like afterwards, by what it was chosen for.
        for work in 1..100 {
            let (a, b) = (load(1, 0, work), load(2, 0, 100 - work));
            let Some((port, ..)) = chosen(&[0.9, 0.0], &[a, b]) else { continue };
            let moved = if port == 1 { a.work } else { b.work } as f64 * 0.009;
            let loads = [a, b].map(|l| Load { worker: usize::from(l.port.get() == port), ..l });
            assert_eq!(chosen(&[0.9 - moved, moved], &loads), None, "{work}");
        }
    }
}
