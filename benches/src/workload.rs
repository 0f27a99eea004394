//! Which stations talk, in which order; the switch that they talk through; and the floor, two bare
//! lookups a frame in the same order.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{bounded, unbounded};
use hashbrown::HashMap;
use switch_core::config::{PortConf, PortVlans};
use switch_core::datapath::Wait;
use switch_core::fdb::{Dest, FdbConfig, Key, Learn, Tick};
use switch_core::ids::{BridgeId, Domain, PortId, WorkerId};
use switch_core::stats::PortCounters;
use switch_core::switch::Switch;
use switch_core::testing::lossy::Rng;
use switch_core::wire::MacAddr;
use switch_core::worker::{Command, Worker};
use switch_core::{DropReason, Nanos};

use crate::treadmill::Treadmill;

/// Frames after which the order of addresses repeats. Read from front to back, so that what it
/// costs to read is the same for the switch and for the floor, and little.
const ORDER: usize = 1 << 20;

/// Who talks how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// All stations alike.
    Uniform,
    /// The n-th station with a frequency of 1/n (Zipf, exponent 1).
    Zipf,
}

impl Spread {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }
}

/// Stations and the order in which they talk: odd ones on one side send to even ones on the other.
#[derive(Clone, Debug)]
pub struct Workload {
    /// How many stations there are.
    pub stations: usize,
    /// Numbers of sender and receiver of each frame.
    order: Vec<(u32, u32)>,
}

/// The address of a station: locally administered, otherwise random.
fn address(station: u32) -> MacAddr {
    let mut rng = Rng(u64::from(station) << 20);
    MacAddr::from_u64(rng.next_u64() & 0xfcff_ffff_ffff | 0x0200_0000_0000)
}

impl Workload {
    /// `stations` of them, at least two.
    pub fn new(stations: usize, spread: Spread) -> Self {
        let stations = stations.max(2);
        let side = stations / 2;
        let mut rng = Rng(0x0bad_5eed);
        let mut weights = Vec::new();
        if spread == Spread::Zipf {
            let mut sum = 0.0;
            for n in 1..=side {
                sum += 1.0 / n as f64;
                weights.push(sum);
            }
        }
        let mut pick = || match weights.last() {
            None => rng.below(side),
            Some(total) => {
                let at = rng.next_u64() as f64 / u64::MAX as f64 * total;
                weights.partition_point(|sum| *sum < at).min(side - 1)
            }
        };
        let order = (0..ORDER).map(|_| (2 * pick() as u32, 2 * pick() as u32 + 1)).collect();
        Self { stations, order }
    }
}

/// A switch with one bridge, two ports and a worker, whose FDB knows every station.
#[derive(Debug)]
pub struct Bench {
    worker: Worker<Treadmill>,
    switch: Arc<Switch>,
    counters: [Arc<PortCounters>; 2],
    epoch: Instant,
    burst: usize,
}

impl Bench {
    /// Sets it up.
    ///
    /// # Panics
    /// If the switch does not do what it is told.
    pub fn new(workload: &Workload, burst: usize) -> Self {
        let max_total = workload.stations.max(1 << 20) as u32;
        let switch = Switch::new(FdbConfig { max_total, max_per_bridge: max_total });
        let addresses = workload
            .order
            .iter()
            .map(|(src, dst)| {
                let mut both = [0; 12];
                both[..6].copy_from_slice(&address(*dst).octets());
                both[6..].copy_from_slice(&address(*src).octets());
                both
            })
            .collect();
        let ports = [0, 1].map(|n| PortId::new(n).expect("a port number"));
        let bridge = BridgeId::new(0);
        let datapath = Treadmill::new(ports[0], addresses);
        let (commands, inbox) = unbounded();
        let mut worker =
            Worker::new(WorkerId(0), datapath, Arc::clone(&switch), inbox, Arc::default());
        worker.set_burst(burst);
        let mut snapshot = switch.snapshot().next();
        snapshot.set_bridge(bridge, "br0", true);
        let counters = [Arc::default(), Arc::default()];
        let mut answers = Vec::new();
        for (port, counters) in ports.into_iter().zip(&counters) {
            snapshot.set_port(PortConf {
                id: port,
                name: "bench".into(),
                bridge: Some(bridge),
                vlans: PortVlans::transparent(),
                isolated: false,
                loop_guard: true,
                storm: None,
                mtu: 1500,
                caps: Default::default(),
                gro: true,
                up: true,
                opened: 0,
                state: Arc::default(),
            });
            let (done, answer) = bounded(1);
            let counters = Arc::clone(counters);
            let attach = Command::Attach { port, queue: (), counters, done };
            commands.send(attach).expect("the worker is there");
            answers.push(answer);
        }
        switch.publish(snapshot);
        let fdb = switch.fdb();
        let mut unlearned = 0;
        for station in 0..workload.stations as u32 {
            let key = Key::new(address(station), Domain::new(bridge, 0));
            let dest = Dest::Port(ports[station as usize % 2]);
            let learned = fdb.learn(key, fdb.hash(key), dest, Tick(0));
            unlearned += u32::from(!matches!(learned, Learn::New | Learn::Refreshed));
        }
        assert!(unlearned <= max_total / 10_000, "{unlearned} stations were not learned");
        let mut bench = Self { worker, switch, counters, epoch: Instant::now(), burst };
        bench.run(10 * burst);
        assert!(answers.iter().all(|a| a.try_recv().is_ok()), "the ports were not attached");
        bench
    }

    /// Forwards at least that many frames; says how many.
    pub fn run(&mut self, frames: usize) -> usize {
        let mut done = 0;
        while done < frames {
            let epoch = self.epoch;
            let clock = || Nanos(epoch.elapsed().as_nanos() as u64);
            done += self.worker.turn(Wait::No, clock).frames;
        }
        done
    }

    /// Every frame was sent to the other port, but for those that hash to full buckets.
    ///
    /// # Panics
    /// If frames went elsewhere: then the figures mean nothing.
    pub fn check(&mut self) {
        let [from, to] = &self.counters;
        let (rx, tx) = (from.rx_frames.get(), to.tx_frames.get());
        let dropped: u64 = DropReason::ALL.into_iter().map(|r| from.dropped(r)).sum();
        assert_eq!((rx, dropped), (tx, 0), "the workload was not forwarded");
        assert_eq!(self.worker.datapath_mut().sent, tx);
    }

    /// Bytes that the FDB reserves.
    pub fn fdb_bytes(&self) -> usize {
        self.switch.fdb().capacity_bytes()
    }

    /// Frames in a burst.
    pub fn burst(&self) -> usize {
        self.burst
    }
}

/// The floor: what two lookups a frame cost in a plain map of the default hasher.
#[derive(Debug)]
pub struct Floor {
    map: HashMap<u64, u32>,
    order: Vec<(u64, u64)>,
    next: usize,
}

impl Floor {
    /// A map of all stations.
    pub fn new(workload: &Workload) -> Self {
        let key = |station| address(station).to_u64();
        Self {
            map: (0..workload.stations as u32).map(|n| (key(n), n)).collect(),
            order: workload.order.iter().map(|(src, dst)| (key(*src), key(*dst))).collect(),
            next: 0,
        }
    }

    /// Looks up both addresses of that many frames.
    pub fn run(&mut self, frames: usize) -> usize {
        let mut sum = 0u64;
        for _ in 0..frames {
            if let Some((src, dst)) = self.order.get(self.next) {
                sum += u64::from(self.map.get(src).copied().unwrap_or_default());
                sum += u64::from(self.map.get(dst).copied().unwrap_or_default());
            }
            self.next += 1;
            if self.next >= self.order.len() {
                self.next = 0;
            }
        }
        black_box(sum);
        frames
    }
}
