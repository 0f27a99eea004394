//! What checks work with: opened ports, two workers' datapaths, and hands that count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Checked, DatapathOf, Fault, FrameOf, Harness, PORTS, Packet, WORKERS, require};
use crate::batch::{BURST_MAX, Batch};
use crate::datapath::{Backend, Caps, Datapath, Ready, Wait};
use crate::drop::Side;
use crate::frame::Frame;
use crate::ids::{PortId, WorkerId};
use crate::stats::{PortCounters, PortTotals};
use crate::testing::frames::{ETHERTYPE_TEST, ethernet, pattern};
use crate::wire::MacAddr;

/// First bytes of every source address of the suite's frames; a number follows.
const MARK: [u8; 2] = [0x06, 0xc7];

/// Pieces of waiting: short enough not to be noticed, long enough not to spin.
const TICK: Duration = Duration::from_millis(2);

/// A harness with its ports open and attached to both workers.
pub struct Rig<H: Harness> {
    pub(super) harness: H,
    pub(super) workers: Vec<DatapathOf<H>>,
    pub(super) ports: Vec<RigPort>,
    /// Frames in existence when the rig was ready.
    baseline: Option<usize>,
}

#[derive(Debug)]
pub(super) struct RigPort {
    pub(super) id: PortId,
    pub(super) owner: usize,
    pub(super) caps: Caps,
    pub(super) single_queue: bool,
    /// One a worker.
    pub(super) counters: Vec<Arc<PortCounters>>,
    /// Frames given to `tx_burst`.
    pub(super) offered: u64,
    /// Frames that `rx_burst` returned.
    pub(super) returned: u64,
    attached: bool,
}

/// A frame with number `seq`, `len` (at least 14) bytes long, that only this suite sends.
pub(super) fn probe(seq: u32, len: usize) -> Vec<u8> {
    let [a, b, c, d] = seq.to_be_bytes();
    let src = MacAddr::new([MARK[0], MARK[1], a, b, c, d]);
    let dst = MacAddr::new([0x06, 0xc7, 0xff, 0xff, 0xff, 0xfe]);
    ethernet(dst, src, ETHERTYPE_TEST, &pattern(seq, len.saturating_sub(14)))
}

/// The number of a probe; `None` for what somebody else sent.
pub(super) fn seq_of(bytes: &[u8]) -> Option<u32> {
    let src: &[u8; 6] = bytes.get(6..)?.first_chunk()?;
    (src[..2] == MARK).then(|| u32::from_be_bytes([src[2], src[3], src[4], src[5]]))
}

/// Whether `got` is `sent`, perhaps padded to Ethernet's minimum on the way.
pub(super) fn same(got: &[u8], sent: &[u8]) -> bool {
    got == sent || (sent.len() < 60 && got.len() <= 60 && got.starts_with(sent))
}

/// All bytes of a frame.
pub(super) fn bytes_of<F: Frame>(frame: &F) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.copy_to(&mut bytes);
    bytes
}

impl<H: Harness> std::fmt::Debug for Rig<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl<H: Harness> Rig<H> {
    pub(super) fn start(mut harness: H) -> Result<Self, Fault> {
        let backend = harness.backend();
        let mut workers = Vec::new();
        for n in 0..WORKERS {
            workers.push(backend.worker(WorkerId(n as u16)).map_err(|e| e.to_string())?);
        }
        let mut rig = Self { harness, workers, ports: Vec::new(), baseline: None };
        for n in 0..PORTS {
            let spec = rig.harness.spec(n);
            let Some(id) = PortId::new(n as u16) else { break };
            let open = rig.harness.backend().open_port(id, &spec).map_err(|e| e.to_string())?;
            require!(
                open.queues.len() == WORKERS && open.owner.index() < WORKERS,
                "open_port gave {} queues, owner {:?}; there are {WORKERS} workers",
                open.queues.len(),
                open.owner
            );
            for (worker, queue) in rig.workers.iter_mut().zip(open.queues) {
                require!(worker.attach(id, queue).is_none(), "port {n} was attached already");
            }
            rig.ports.push(RigPort {
                id,
                owner: open.owner.index(),
                caps: open.info.caps,
                single_queue: open.info.queues <= 1,
                counters: (0..WORKERS).map(|_| Arc::default()).collect(),
                offered: 0,
                returned: 0,
                attached: true,
            });
        }
        // One frame through each port, so that everything made on first use is there.
        for n in 0..PORTS {
            let mut frames = rig.exchange(n, &[probe(u32::MAX, 60)])?;
            rig.send(n, rig.ports[n].owner, &mut frames)?;
            rig.collect(n, 1)?;
        }
        rig.baseline = rig.harness.in_use();
        Ok(rig)
    }

    /// Closes every port, also those after one that gives trouble.
    pub(super) fn close(&mut self) -> Checked {
        (0..PORTS).map(|n| self.detach(n)).fold(Ok(()), Result::and)
    }

    /// Detaches port `n` everywhere and closes it.
    pub(super) fn detach(&mut self, n: usize) -> Checked {
        let id = self.ports[n].id;
        let mut queues = Vec::new();
        for (w, worker) in self.workers.iter_mut().enumerate() {
            let queue = worker.detach(id);
            queues.push(queue.ok_or_else(|| format!("worker {w} did not give port {n} back"))?);
        }
        self.ports[n].attached = false;
        let closed = self.harness.backend().close_port(id, queues, true);
        closed.map_err(|e| Fault::Broken(e.to_string()))
    }

    /// Sum over both workers.
    pub(super) fn totals(&self, n: usize) -> PortTotals {
        let mut totals = PortTotals::default();
        for counters in &self.ports[n].counters {
            totals.add(&counters.totals());
        }
        totals
    }

    /// Whether every promise about counting and buffers holds now that nothing is under way.
    pub(super) fn settle(&mut self) -> Checked {
        for n in 0..PORTS {
            let (totals, port) = (self.totals(n), &self.ports[n]);
            let (rx, tx) = (totals.rx_frames, totals.tx_frames);
            let (lost_in, lost_out) = (totals.dropped_on(Side::In), totals.dropped_on(Side::Out));
            require!(
                rx == port.returned + lost_in,
                "port {n}: rx_frames {rx}, but {} were received and {lost_in} dropped",
                port.returned
            );
            require!(
                port.offered == tx + lost_out,
                "port {n}: {} frames were to be sent, {tx} were and {lost_out} were dropped",
                port.offered
            );
        }
        let Some(baseline) = self.baseline else { return Ok(()) };
        // A device may hold frames until its far end has taken them.
        let mut now = 0;
        let free = self.wait(|rig| {
            for n in (0..PORTS).filter(|n| rig.ports[*n].attached) {
                rig.harness.collect(n);
            }
            now = rig.harness.in_use().unwrap_or_default();
            now <= baseline
        });
        require!(free, "{now} buffers are in use, {baseline} were before: some were not freed");
        Ok(())
    }

    /// Calls `done` until it says so or patience ends.
    pub(super) fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = Instant::now() + self.harness.patience();
        loop {
            if done(self) {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(TICK);
        }
    }

    /// Sends a probe from the far end; [`Fault::Cannot`] if the harness is not able to.
    pub(super) fn inject(&mut self, n: usize, packet: &Packet) -> Checked {
        if self.harness.inject(n, packet) {
            Ok(())
        } else {
            Err(Fault::Cannot("the far end cannot send such a frame"))
        }
    }

    /// One poll of the owner of port `n`; true if it reports the port.
    pub(super) fn reported(&mut self, n: usize, wait: Wait) -> bool {
        let mut ready = Ready::default();
        let port = &self.ports[n];
        self.workers[port.owner].poll(wait, &mut ready);
        ready.rx.contains(&port.id)
    }

    /// One `rx_burst` into an empty batch of that limit. Frames of others are dropped.
    pub(super) fn rx_once(&mut self, n: usize, limit: usize) -> Result<Vec<FrameOf<H>>, Fault> {
        let mut batch = Batch::with_limit(limit);
        let port = &mut self.ports[n];
        let counters = &port.counters[port.owner];
        let got = self.workers[port.owner].rx_burst(port.id, &mut batch, counters);
        require!(got == batch.len(), "rx_burst says {got}, and the batch holds {}", batch.len());
        port.returned += got as u64;
        let mut frames: Vec<_> = batch.drain().collect();
        frames.retain(|f| seq_of(f.head()).is_some());
        Ok(frames)
    }

    /// Polls and receives until `want` probes came.
    pub(super) fn receive(
        &mut self,
        n: usize,
        want: usize,
        limit: usize,
    ) -> Result<Vec<FrameOf<H>>, Fault> {
        let mut frames = Vec::new();
        let mut fault = None;
        let came = self.wait(|rig| {
            // Bounded by `want`: whatever else comes waits for the next round.
            for _ in 0..=want {
                if frames.len() >= want || !rig.reported(n, Wait::No) {
                    break;
                }
                match rig.rx_once(n, limit) {
                    Ok(more) => frames.extend(more),
                    Err(e) => fault = Some(e),
                }
            }
            frames.len() >= want || fault.is_some()
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        require!(came, "port {n}: {} of {want} frames were received", frames.len());
        Ok(frames)
    }

    /// Sends probes from the far end of port `n` and receives them.
    pub(super) fn exchange(
        &mut self,
        n: usize,
        probes: &[Vec<u8>],
    ) -> Result<Vec<FrameOf<H>>, Fault> {
        for probe in probes {
            self.inject(n, &probe.clone().into())?;
        }
        self.receive(n, probes.len(), BURST_MAX)
    }

    /// Gives frames to `tx_burst` of one worker, in bursts of 32.
    pub(super) fn send(
        &mut self,
        n: usize,
        worker: usize,
        frames: &mut Vec<FrameOf<H>>,
    ) -> Checked {
        let mut batch = Batch::new();
        while !frames.is_empty() {
            let burst = frames.len().min(batch.room());
            for frame in frames.drain(..burst) {
                let _ = batch.push(frame);
            }
            self.send_batch(n, worker, &mut batch)?;
        }
        Ok(())
    }

    /// Gives a batch to `tx_burst` of one worker.
    pub(super) fn send_batch(
        &mut self,
        n: usize,
        worker: usize,
        batch: &mut Batch<FrameOf<H>>,
    ) -> Checked {
        let port = &mut self.ports[n];
        port.offered += batch.len() as u64;
        self.workers[worker].tx_burst(port.id, batch, &port.counters[worker]);
        let left = batch.len();
        require!(left == 0, "tx_burst left {left} frames in the batch");
        Ok(())
    }

    /// Lets the owner of port `n` send what was handed over, if its poll reports any.
    pub(super) fn run_handover(&mut self, n: usize) {
        let mut ready = Ready::default();
        let port = &self.ports[n];
        let owner = &mut self.workers[port.owner];
        owner.poll(Wait::No, &mut ready);
        if ready.handed_over.contains(&port.id) {
            owner.tx_handed_over(port.id, &port.counters[port.owner]);
        }
    }

    /// Waits for `want` probes at the far end of port `n`, in the order in which they arrived.
    pub(super) fn collect(&mut self, n: usize, want: usize) -> Result<Vec<Packet>, Fault> {
        let mut packets: Vec<Packet> = Vec::new();
        let came = self.wait(|rig| {
            let more = rig.harness.collect(n);
            packets.extend(more.into_iter().filter(|p| seq_of(&p.bytes).is_some()));
            packets.len() >= want
        });
        require!(came, "port {n}: {} of {want} frames arrived at the far end", packets.len());
        Ok(packets)
    }

    /// From far end to far end: in at port `from`, out of port `to` by the owner of `from`.
    pub(super) fn forward(
        &mut self,
        from: usize,
        to: usize,
        probes: &[Vec<u8>],
    ) -> Result<Vec<Packet>, Fault> {
        let mut frames = self.exchange(from, probes)?;
        let worker = self.ports[from].owner;
        self.send(to, worker, &mut frames)?;
        self.handover_if_needed(worker, to, probes.len());
        self.collect(to, probes.len())
    }

    /// Runs the owner of `to` often enough for `frames` that `worker` sent to it.
    pub(super) fn handover_if_needed(&mut self, worker: usize, to: usize, frames: usize) {
        if self.ports[to].owner != worker {
            for _ in 0..=frames {
                self.run_handover(to);
            }
        }
    }
}
