//! A frame that nobody sent, on its way through the very code that forwards all others, with nothing
//! changed by it: a worker of its own, on copies of what workers write to, with ports that lead nowhere.

use std::sync::Arc;

use crossbeam::channel::{bounded, unbounded};

use super::{Facts, Record, SNAP_MAX, Watch, WatchSpec};
use crate::batch::Batch;
use crate::bridge;
use crate::clock::Nanos;
use crate::config::Snapshot;
use crate::datapath::{Datapath, Ready, Wait, Wake};
use crate::fdb::{Dest, Fdb, FdbConfig, Learn, Tick};
use crate::frame::{Frame, FramePool, HeapFrame, PoolConfig};
use crate::ids::{PortId, WorkerId};
use crate::stats::{PortCounters, WorkerCounters};
use crate::switch::Switch;
use crate::wire::MacAddr;
use crate::worker::{Command, Worker};

/// Turns after which the frame has gone its way.
const TURNS: usize = 2;
/// A number that no worker has, so that nothing is counted for it on tunnels.
const NOBODY: WorkerId = WorkerId(u16::MAX);

/// What would become of a frame of these bytes if it came in on `port` now: an IP packet where that is
/// a VTEP's. `None` if it is longer than any frame, or the port is not open.
///
/// The FDB, the counters and what tunnels number stay as they are. The port's storm limit is taken
/// to be unused.
pub fn rehearse(
    snapshot: &Snapshot,
    fdb: &Fdb,
    port: PortId,
    bytes: &[u8],
    now: Nanos,
) -> Option<Box<Record>> {
    snapshot.port(port)?;
    let pool = FramePool::new(PoolConfig { heads: 64, tails: 4, ..PoolConfig::default() });
    let switch = Switch::new(FdbConfig { max_total: 1024, max_per_bridge: 1024 });
    copy_entries(snapshot, (fdb, switch.fdb()), port, bytes, now);
    let watch = Watch::new(WatchSpec { snap: SNAP_MAX, ..WatchSpec::default() });
    switch.publish(snapshot.rehearsed(Arc::clone(&watch)));

    let (commands, inbox) = unbounded();
    for conf in snapshot.ports() {
        let queue = if conf.id == port { Some(pool.frame(bytes)?) } else { None };
        let (done, _) = bounded(1);
        let counters = Arc::<PortCounters>::default();
        // It is there until the end of this function.
        let _ = commands.send(Command::Attach { port: conf.id, queue, counters, done });
    }
    let stage = Stage { frame: None, pool };
    let counters = Arc::<WorkerCounters>::default();
    let mut worker = Worker::new(NOBODY, stage, switch, inbox, counters);
    for _ in 0..TURNS {
        worker.turn(Wait::No, || now);
    }
    watch.take()
}

/// Copies the entries of the addresses in the frame, and the limits that learning would meet.
fn copy_entries(
    snapshot: &Snapshot,
    (fdb, copy): (&Fdb, &Fdb),
    port: PortId,
    bytes: &[u8],
    now: Nanos,
) {
    let facts = Facts::of(snapshot, port, bytes, bytes.len());
    let of_frame: Vec<MacAddr> =
        facts.levels.iter().filter_map(|level| level.macs).flat_map(|(a, b)| [a, b]).collect();
    let tick = Tick::from(now);
    fdb.for_each(|entry| {
        if of_frame.contains(&entry.key.mac()) {
            let seen = Tick(tick.0.wrapping_sub(entry.age_secs(tick)));
            // There is room for two addresses in as many VLANs as there may be on one bridge; of
            // more bridges than that, the entries do not concern this frame.
            let _ = copy.set(entry.key, entry.dest, entry.flags, seen);
        }
    });
    let Some(Ok(admitted)) = snapshot.port(port).map(|conf| bridge::admit(conf, bytes)) else {
        return;
    };
    let (src, bridge) = (admitted.src, admitted.domain().bridge());
    match fdb.learn_dry(src, fdb.hash(src), Dest::Port(port)) {
        Learn::PortLimit => copy.set_port_limit(port, Some(0)),
        Learn::BridgeLimit | Learn::TotalLimit => copy.set_bridge_limit(bridge, 0),
        _ => {}
    }
}

/// Ports that lead nowhere, and one of them has a frame.
struct Stage {
    frame: Option<(PortId, HeapFrame)>,
    pool: FramePool,
}

impl Datapath for Stage {
    type Frame = HeapFrame;
    /// The frame that waits there.
    type Queue = Option<HeapFrame>;

    fn attach(&mut self, port: PortId, queue: Self::Queue) -> Option<Self::Queue> {
        if let Some(frame) = queue {
            self.frame = Some((port, frame));
        }
        None
    }

    fn detach(&mut self, _: PortId) -> Option<Self::Queue> {
        None
    }

    fn poll(&mut self, _: Wait, ready: &mut Ready) {
        ready.rx.extend(self.frame.as_ref().map(|(port, _)| *port));
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<HeapFrame>,
        counters: &PortCounters,
    ) -> usize {
        let Some((_, frame)) = self.frame.take_if(|(at, _)| *at == port) else { return 0 };
        counters.rx_frames.add(1);
        counters.rx_bytes.add(frame.len() as u64);
        // Batches take at least one frame, and this one is empty.
        let _ = batch.push(frame);
        1
    }

    fn tx_burst(&mut self, _: PortId, batch: &mut Batch<HeapFrame>, counters: &PortCounters) {
        counters.tx_frames.add(batch.len() as u64);
        batch.clear();
    }

    fn tx_handed_over(&mut self, _: PortId, _: &PortCounters) {}

    fn alloc(&mut self) -> Option<HeapFrame> {
        self.pool.alloc()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Awake)
    }
}

/// The stage never waits.
#[derive(Debug)]
struct Awake;

impl Wake for Awake {
    fn wake(&self) {}
}
