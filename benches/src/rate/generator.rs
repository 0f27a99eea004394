//! The generator and the sink: ports of DPDK, polled by threads on CPUs of their own.
//!
//! A thread has one or more ports. In each pass it sends to a port what is due there, at most one
//! burst, and fetches what came. So a frame waits for a pass at most, which the latency of the two
//! ends back to back shows.

use std::fmt;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath_dpdk::ethdev::{Attach, Device, DeviceConfig, RxQueue, TxQueue};
use datapath_dpdk::{Eal, EalConfig, Memory, Mempool, MempoolConfig, lcore};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use vswitch_e2e::{Hugepages, until};

use super::lane::{self, Lane, Part, Sink, Source};
use super::row::Row;
use super::traffic::{Pattern, Stream, Underlay};
use super::trial::{Ask, Offer, Play, Rig, Trial};

/// Descriptors of each queue.
pub(super) const DESCRIPTORS: u16 = 1024;
/// How long a link may take to come up.
const LINK: Duration = Duration::from_secs(20);
/// Data bytes of an mbuf that holds any frame.
const JUMBO_ROOM: u16 = 9344;
/// Mbufs: those of the ports' rings, and those in hand.
const MBUFS: u32 = 16_383;

/// How many queues a port has to receive and to send. Memif joins queues one to one: one that has no
/// other end keeps it from connecting, or gives the frames of another once more.
pub type Queues = (u16, u16);

/// The EAL of this process and a pool, which both stay until its end.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    eal: Eal,
    pool: Mempool,
}

impl Environment {
    /// Starts the EAL away from `cpus`, with hugepages if enough are free.
    ///
    /// # Errors
    /// libdpdk does not start.
    pub fn start(cpus: &[u16]) -> Result<Self> {
        let bytes = u64::from(MBUFS) * u64::from(JUMBO_ROOM + 1024);
        // Rings and the driver's own come on top.
        let mib = u32::try_from(bytes >> 20)? + 128;
        let free = Hugepages::free().unwrap_or(0);
        let memory = match free * 2 >= u64::from(mib) {
            true => Memory::Huge { reserve_mib: None },
            false => Memory::Pages { mib },
        };
        let eal = Eal::init(&EalConfig {
            memory,
            file_prefix: format!("vswitch-bench-{}", std::process::id()),
            avoid_cpus: cpus.to_vec(),
            ..EalConfig::default()
        })?;
        let (data_room, mbufs) = (JUMBO_ROOM, MBUFS);
        let config = MempoolConfig { data_room, mbufs, ..MempoolConfig::default() };
        Ok(Self { eal, pool: Mempool::new(eal, &config)? })
    }

    /// Whether it has hugepages.
    pub fn has_hugepages(self) -> bool {
        self.eal.has_hugepages()
    }
}

struct Port {
    device: Device,
    rx: Vec<RxQueue>,
    tx: TxQueue,
    /// Queues that stay empty, see [`Queues`].
    _more: Vec<TxQueue>,
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").field("ports", &self.drivers()).finish_non_exhaustive()
    }
}

/// Ports with a generator and a sink behind each, in pairs.
pub struct Generator {
    environment: Environment,
    ports: Vec<Port>,
    cpus: Vec<u16>,
    streams: Vec<Stream>,
    row: Option<Row>,
    trial: u8,
    clock: Instant,
}

impl Generator {
    /// Opens the devices, which DPDK knows by these arguments, with so many queues.
    ///
    /// # Errors
    /// There is no such device, or its driver refuses it.
    pub fn open(
        environment: Environment,
        devices: &[String],
        cpus: &[u16],
        queues: Queues,
    ) -> Result<Self> {
        ensure!(
            devices.len() >= 2 && devices.len().is_multiple_of(2),
            "ports come in pairs, and these are {}: frames of one are fetched from the next",
            devices.len()
        );
        ensure!(devices.len() <= 256, "at most 256 ports");
        let ports = devices.iter().map(|device| open(environment, device, queues));
        let ports = ports.collect::<Result<Vec<_>>>()?;
        let (clock, cpus) = (Instant::now(), cpus.to_vec());
        Ok(Self { environment, ports, cpus, streams: Vec::new(), row: None, trial: 0, clock })
    }

    /// Waits until all links are up.
    ///
    /// # Errors
    /// One is not.
    pub fn wait_link(&self) -> Result<()> {
        for port in &self.ports {
            let what = format!(
                "the link of the port {} to come up (is its other end there and in use?)",
                port.device.name()
            );
            until(LINK, &what, || Ok(port.device.link_up().then_some(())))?;
            port.device.know_guest(port.device.link_changes());
        }
        Ok(())
    }

    /// Megabits a second of the slowest link, where all ports are PCI devices: a link of software has
    /// no speed, whatever its driver says.
    pub fn link_mbps(&self) -> Option<u32> {
        let speed = |port: &Port| {
            port.device.details().link_mbps.filter(|_| port.device.name().contains(':'))
        };
        self.ports.iter().map(speed).min().flatten()
    }

    /// The drivers of the ports.
    pub fn drivers(&self) -> Vec<String> {
        self.ports.iter().map(|port| port.device.driver().to_owned()).collect()
    }

    /// How many ports there are.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// What is sent from now on. `underlay` is for tunnels.
    pub fn prepare(&mut self, row: Row, underlay: Underlay) {
        self.streams = (0..self.ports.len()).map(|n| Stream::new(&row, n, underlay)).collect();
        self.row = Some(row);
    }

    /// Sends one frame of each flow from every port, so that a switch knows all addresses; twice, as
    /// the first ones are flooded.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn teach(&mut self, rate: f64) -> Result<()> {
        let flows = self.row.context("no row was prepared")?.flows;
        let all = rate * self.ports.len() as f64;
        let time = Duration::from_secs_f64((2.0 * f64::from(flows) / rate).max(0.05));
        self.run(Ask::flows(Offer::Rate(all), time), |_| Some(Pattern::Flows)).map(drop)
    }

    /// Runs a trial in which ports send what `sends` says, if anything.
    fn run(&mut self, ask: Ask, sends: impl Fn(usize) -> Option<Pattern>) -> Result<Trial> {
        let row = self.row.context("no row was prepared")?;
        self.trial = self.trial.wrapping_add(1);
        let part = |port| match ask.play {
            Play::Beside(_) | Play::Teach(_) | Play::Recall(_) if port > 1 => Part::Beside,
            _ => Part::Measured,
        };
        let measured = |port: &usize| sends(*port).is_some() && part(*port) == Part::Measured;
        let senders = (0..self.ports.len()).filter(measured).count();
        ensure!(senders > 0, "no port sends");
        let missed = self.missed();
        let mut groups: Vec<Vec<Lane<'_>>> = self.cpus.iter().map(|_| Vec::new()).collect();
        let threads = groups.len();
        let pool = self.environment.pool;
        for (n, (port, stream)) in self.ports.iter_mut().zip(&mut self.streams).enumerate() {
            let pattern = sends(n);
            stream.begin(self.trial, pattern.unwrap_or(Pattern::Flows));
            let (offer, share) = match ask.play {
                Play::Beside(rate) if part(n) == Part::Beside => (Offer::Rate(rate), 1),
                _ => (ask.offer, senders),
            };
            let source = pattern.map(|_| Source::new(stream, offer, share));
            let due = match ask.offer {
                Offer::Rate(rate) if sends(n ^ 1).is_some() => rate / senders as f64,
                _ => 0.0,
            };
            let sink = Sink::new(part(n), n, self.trial, row.flows, ask.latency).expecting(due);
            groups[n % threads].push(Lane::new(&mut port.rx, &mut port.tx, pool, source, sink));
        }
        groups.retain(|lanes| !lanes.is_empty());
        let (clock, eal) = (self.clock, self.environment.eal);
        let barrier = Barrier::new(groups.len());
        let work = |mut lanes: Vec<Lane<'_>>, cpu: u16| {
            let bound = bind(cpu);
            lcore::join(eal);
            barrier.wait();
            bound?;
            let secs = lane::poll(&mut lanes, clock, ask.time);
            anyhow::Ok((secs, lanes.into_iter().map(Lane::ended).collect::<Vec<_>>()))
        };
        let ended = std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = groups
                .into_iter()
                .zip(&self.cpus)
                .map(|(lanes, cpu)| scope.spawn(move || work(lanes, *cpu)))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let mut trial = Trial::default();
        for (secs, lanes) in ended {
            trial.secs = trial.secs.max(secs);
            lanes.into_iter().for_each(|ended| ended.add_to(&mut trial));
        }
        trial.missed += self.missed().saturating_sub(missed);
        Ok(trial)
    }

    /// Frames that the ports had no room for, so far.
    fn missed(&self) -> u64 {
        self.ports.iter().map(|port| port.device.stats().missed).sum()
    }
}

impl Rig for Generator {
    fn trial(&mut self, ask: Ask) -> Result<Trial> {
        let direction = self.row.context("no row was prepared")?.direction;
        self.run(ask, |port| match (ask.play, port) {
            (Play::Beside(rate), 2) => (rate > 0.0).then_some(Pattern::Random),
            (Play::Flows, _) | (Play::Beside(_), 0 | 1) => {
                direction.sends(port).then_some(Pattern::Flows)
            }
            (Play::Teach(set), 0) => Some(Pattern::From(set)),
            (Play::Recall(set), 1) => Some(Pattern::To(set)),
            _ => None,
        })
    }
}

fn open(environment: Environment, devargs: &str, (rx_queues, tx_queues): Queues) -> Result<Port> {
    let descriptors = DESCRIPTORS;
    let config = DeviceConfig { descriptors, rx_queues, tx_queues, ..DeviceConfig::default() };
    let attach = Attach::Devargs(devargs.to_owned());
    let (device, rx, tx) = Device::open(environment.eal, &attach, &config, environment.pool)
        .with_context(|| format!("cannot open the port {devargs}"))?;
    let mut tx = tx.into_iter();
    let first = tx.next().with_context(|| format!("{devargs} has no send queue"))?;
    Ok(Port { device, rx, tx: first, _more: tx.collect() })
}

/// Binds this thread to a CPU.
///
/// # Errors
/// This process may not use it.
pub(super) fn bind(cpu: u16) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu.into()).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).with_context(
        || format!("cannot bind a thread to CPU {cpu}: `nproc --all` says how many there are"),
    )
}
