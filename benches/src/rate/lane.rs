//! One port of a trial: what it sends, and what it makes of what comes.

use std::time::{Duration, Instant};

use datapath_dpdk::ethdev::{Refused, RxQueue, TxQueue};
use datapath_dpdk::{Mbuf, Mempool};
use switch_core::batch::Batch;
use switch_core::frame::Frame;

use super::generator::DESCRIPTORS;
use super::tally::Tally;
use super::traffic::{Stamp, Stream};
use super::trial::{Offer, Trial};

/// Frames of a burst: what drivers like.
const BURST: usize = 32;
/// Due frames that are made up for later; more of them are late or blocked. It is less than what the
/// ring of a port holds, so that a pause of the generator does not lose frames at the switch.
const BACKLOG: u64 = 512;
/// How long a sink waits after the last frame.
const QUIET: Duration = Duration::from_millis(50);
/// The most it waits after the last frame was sent.
const DRAIN: Duration = Duration::from_secs(2);

/// What a port sends.
#[derive(Debug)]
pub(super) struct Source<'a> {
    stream: &'a Stream,
    /// Frames a nanosecond; `None` is a flood.
    rate: Option<f64>,
    sent: u64,
    blocked: u64,
    late: u64,
    /// Whether the port took less than it was given the last time.
    full: bool,
}

impl<'a> Source<'a> {
    /// Its part of the offer, one of `senders`.
    pub(super) fn new(stream: &'a Stream, offer: Offer, senders: usize) -> Self {
        let rate = match offer {
            Offer::Rate(rate) => Some(rate / senders as f64 / 1e9),
            Offer::Flood => None,
        };
        Self { stream, rate, sent: 0, blocked: 0, late: 0, full: false }
    }

    /// How many frames are to be sent now, `nanos` after the start.
    fn due(&mut self, nanos: u64) -> usize {
        let Some(rate) = self.rate else { return BURST };
        let due = (nanos as f64 * rate) as u64;
        let mut backlog = due.saturating_sub(self.sent + self.blocked + self.late);
        if let Some(over) = backlog.checked_sub(BACKLOG).filter(|over| *over > 0) {
            *(if self.full { &mut self.blocked } else { &mut self.late }) += over;
            backlog = BACKLOG;
        }
        backlog.min(BURST as u64) as usize
    }

    /// What is left undone at the end of `time`.
    fn end(&mut self, time: Duration) {
        if let Some(rate) = self.rate {
            let due = (time.as_nanos() as f64 * rate) as u64;
            let left = due.saturating_sub(self.sent + self.blocked + self.late);
            *(if self.full { &mut self.blocked } else { &mut self.late }) += left;
        }
    }
}

/// What a port is in a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What it sends and gets is measured.
    Measured,
    /// It disturbs those, or sees what is flooded.
    Beside,
}

/// What a port makes of what comes.
#[derive(Debug)]
pub(super) struct Sink {
    part: Part,
    port: u8,
    trial: u8,
    tally: Tally,
    returned: u64,
    strayed: u64,
    foreign: u64,
    refused: Refused,
    /// Frames a nanosecond that are due here; 0 in a flood.
    due: f64,
    /// Until when it was looked at, nanoseconds after the start.
    looked: u64,
    /// Frames that were due in pauses, beyond what the port's ring holds.
    overrun: f64,
}

impl Sink {
    /// For port `port`, which gets the frames of the other of its pair.
    pub(super) fn new(part: Part, port: usize, trial: u8, flows: u32, latency: bool) -> Self {
        Self {
            part,
            port: port as u8,
            trial,
            tally: Tally::new(flows, latency),
            returned: 0,
            strayed: 0,
            foreign: 0,
            refused: Refused::default(),
            due: 0.0,
            looked: 0,
            overrun: 0.0,
        }
    }

    /// One for frames that are due at `rate` a second.
    pub(super) fn expecting(self, rate: f64) -> Self {
        Self { due: rate / 1e9, ..self }
    }

    /// It is looked at, `nanos` after the start.
    fn look(&mut self, nanos: u64) {
        let frames = nanos.saturating_sub(self.looked) as f64 * self.due;
        self.overrun += (frames - f64::from(DESCRIPTORS)).max(0.0);
        self.looked = nanos;
    }

    fn take(&mut self, frame: &[u8], now: u64) {
        match Stamp::find(frame).filter(|stamp| stamp.trial == self.trial) {
            None => self.foreign += 1,
            Some(stamp) if stamp.stream == self.port ^ 1 => {
                self.tally.arrived(stamp.number, now.saturating_sub(stamp.time));
            }
            Some(stamp) if stamp.stream == self.port => self.returned += 1,
            Some(_) => self.strayed += 1,
        }
    }
}

/// A port in a trial.
pub(super) struct Lane<'a> {
    rx: &'a mut [RxQueue],
    tx: &'a mut TxQueue,
    pool: Mempool,
    batch: Batch<Mbuf>,
    source: Option<Source<'a>>,
    sink: Sink,
}

impl<'a> Lane<'a> {
    /// A port with these queues.
    pub(super) fn new(
        rx: &'a mut [RxQueue],
        tx: &'a mut TxQueue,
        pool: Mempool,
        source: Option<Source<'a>>,
        sink: Sink,
    ) -> Self {
        Self { rx, tx, pool, batch: Batch::with_limit(BURST), source, sink }
    }

    /// Sends what is due `nanos` after the start, at most one burst; how many frames the port took.
    fn send(&mut self, clock: Instant, nanos: u64) -> usize {
        let Some(source) = &mut self.source else { return 0 };
        let frames = source.due(nanos);
        if frames == 0 {
            return 0;
        }
        let now = clock.elapsed().as_nanos() as u64;
        for n in 0..frames as u64 {
            let number = source.sent + n;
            // A dry pool is full rings: the switch does not take what it is given.
            let Some(mut frame) = self.pool.alloc() else { break };
            if frame.append(source.stream.template(number)).is_err() {
                break;
            }
            source.stream.fill_in(number, now, frame.head_mut());
            // There is room: the batch was empty.
            let _ = self.batch.push(frame);
        }
        let sent = self.tx.tx_burst(&mut self.batch);
        source.sent += sent.frames;
        source.full = sent.frames < frames as u64;
        sent.frames as usize
    }

    /// Sends the rest of what is due in `time`, as far as the port takes it.
    fn finish(&mut self, clock: Instant, time: Duration) {
        let paced = self.source.as_ref().is_some_and(|source| source.rate.is_some());
        while paced && self.send(clock, time.as_nanos() as u64) > 0 {}
        if let Some(source) = &mut self.source {
            source.end(time);
        }
    }

    /// Fetches what came; whether there was anything.
    fn receive(&mut self, clock: Instant) -> bool {
        for queue in &mut *self.rx {
            // A batch that is full leaves the rest for the next pass.
            queue.rx_burst(&mut self.batch, &mut self.sink.refused);
        }
        if self.batch.is_empty() {
            return false;
        }
        let now = clock.elapsed().as_nanos() as u64;
        for frame in self.batch.drain() {
            self.sink.take(frame.head(), now);
        }
        true
    }

    /// What came of it.
    pub(super) fn ended(self) -> Ended {
        let counts = self.source.map_or([0; 3], |s| [s.sent, s.blocked, s.late]);
        Ended { counts, sink: self.sink }
    }
}

/// A port after a trial.
pub(super) struct Ended {
    counts: [u64; 3],
    sink: Sink,
}

impl Ended {
    /// Adds its counts to the trial's.
    pub(super) fn add_to(self, trial: &mut Trial) {
        let [sent, blocked, late] = self.counts;
        trial.strayed += self.sink.strayed;
        if self.sink.part == Part::Beside {
            trial.random += sent;
            trial.watching += 1;
            return;
        }
        trial.due += sent + blocked + late;
        trial.sent += sent;
        trial.blocked += blocked;
        trial.late += late;
        trial.received += self.sink.tally.received;
        trial.reordered += self.sink.tally.reordered;
        trial.duplicated += self.sink.tally.duplicated;
        trial.returned += self.sink.returned;
        trial.foreign += self.sink.foreign;
        trial.overrun += self.sink.overrun as u64;
        // What could not be passed on here is the sink's fault.
        trial.missed += self.sink.refused.frames();
        if let Some(latency) = self.sink.tally.into_latency() {
            match &mut trial.latency {
                // Both have the same bounds.
                Some(all) => drop(all.add(latency)),
                None => trial.latency = Some(latency),
            }
        }
    }
}

/// Polls ports for a time, and then until nothing comes any more. Seconds in which it sent.
pub(super) fn poll(lanes: &mut [Lane<'_>], clock: Instant, time: Duration) -> f64 {
    let start = clock.elapsed();
    while clock.elapsed() - start < time {
        for lane in &mut *lanes {
            let nanos = (clock.elapsed() - start).as_nanos() as u64;
            lane.sink.look(nanos);
            lane.send(clock, nanos);
            lane.receive(clock);
        }
    }
    lanes.iter_mut().for_each(|lane| lane.finish(clock, time));
    lanes.iter_mut().for_each(|lane| lane.sink.look(time.as_nanos() as u64));
    let stopped = clock.elapsed();
    let mut last = stopped;
    loop {
        for lane in &mut *lanes {
            if lane.receive(clock) {
                last = clock.elapsed();
            }
        }
        let now = clock.elapsed();
        if now - last > QUIET || now - stopped > DRAIN {
            return (stopped - start).as_secs_f64();
        }
    }
}
