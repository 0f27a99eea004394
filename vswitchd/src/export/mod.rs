//! What is told to collectors elsewhere of the frames that pass: samples and counters by sFlow, flows by
//! IPFIX.
//!
//! Each protocol has a thread of its own, which takes records of sampled frames from a watch, as a
//! trace does, and sends datagrams. It is never waited for: what it does not take in time is missed, and
//! counted.

pub mod ipfix;
pub mod sflow;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use switch_core::stats::{PortCounters, PortTotals};
use switch_core::watch::{Fate, Record, Watch};
use switch_core::{DropReason, PortId};
use vswitch_api::types::EventLevel;

use crate::events::Events;

pub use ipfix::Ipfix;
pub use sflow::Sflow;

/// How long records and a datagram that is not full wait at most.
const TICK: Duration = Duration::from_millis(100);
/// Messages to an exporter that wait. One that does not take them gets the next ones.
const WAITING: usize = 4;
/// How soon a socket is tried again that could not be opened.
const REOPEN: Duration = Duration::from_secs(1);
/// Longest datagram, in bytes: it fits an Ethernet frame, also where there is a tunnel on the way.
const DATAGRAM_MAX: usize = 1400;

/// A port, as collectors are told of it.
#[derive(Clone, Debug)]
pub struct ExportPort {
    /// What collectors know it by.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Its speed in Mbit/s; 0 where nobody knows.
    pub mbps: u32,
    /// One a worker.
    pub counters: Vec<Arc<PortCounters>>,
}

impl ExportPort {
    fn totals(&self) -> PortTotals {
        let mut sum = PortTotals::default();
        for counters in &self.counters {
            sum.add(&counters.totals());
        }
        sum
    }
}

/// The number that collectors know a port by (`ifIndex`): numbers start at 1, as 0 means none.
pub fn index_of(port: PortId) -> u32 {
    u32::from(port.get()) + 1
}

/// What an exporter does with what it gets.
pub trait Export: Send + 'static {
    /// These are the ports from now on.
    fn set_ports(&mut self, ports: Arc<[ExportPort]>);
    /// A frame that was sampled.
    fn sample(&mut self, record: &Record, out: &mut Out);
    /// Some time has passed; what waits is to be sent.
    fn tick(&mut self, now: Instant, out: &mut Out);
}

/// What an exporter counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Frames that were sampled.
    pub samples: AtomicU64,
    /// Datagrams that were sent.
    pub datagrams: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Datagrams that were not: nobody listens there, or there is no route.
    pub failed: AtomicU64,
    /// Flows that are in the cache now.
    pub flows: AtomicU64,
    /// Why the last datagram was not sent, if it was not.
    error: Mutex<Option<String>>,
}

impl Counts {
    /// Why the last datagram was not sent, if it was not.
    pub fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A thread that exports. It ends when this is dropped.
#[derive(Debug)]
pub struct Exporter {
    ports: Sender<Arc<[ExportPort]>>,
    /// What it counted.
    pub counts: Arc<Counts>,
    /// Where it gets its records from.
    pub watch: Arc<Watch>,
}

impl Exporter {
    /// Starts one that sends to `collector`. `protocol` is what operators know it by.
    ///
    /// # Errors
    /// There is no thread left.
    pub fn start(
        protocol: &'static str,
        collector: SocketAddr,
        watch: Arc<Watch>,
        events: Events,
        export: impl Export,
    ) -> io::Result<Self> {
        let (ports, told) = bounded(WAITING);
        let counts = Arc::<Counts>::default();
        let out = Out {
            protocol,
            collector,
            socket: None,
            reopen_at: Instant::now(),
            watch: Arc::clone(&watch),
            counts: Arc::clone(&counts),
            events,
        };
        std::thread::Builder::new()
            .name(format!("export-{protocol}"))
            .spawn(move || run(&told, export, out))?;
        Ok(Self { ports, counts, watch })
    }

    /// Tells it of the ports there are. False if it has no time to listen.
    pub fn set_ports(&self, ports: Arc<[ExportPort]>) -> bool {
        self.ports.try_send(ports).is_ok()
    }
}

fn run(told: &Receiver<Arc<[ExportPort]>>, mut export: impl Export, mut out: Out) {
    let watch = Arc::clone(&out.watch);
    loop {
        match told.recv_timeout(TICK) {
            Ok(ports) => export.set_ports(ports),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Some(record) = watch.take() {
            out.counts.samples.fetch_add(1, Ordering::Relaxed);
            export.sample(&record, &mut out);
            watch.give_back(record);
        }
        export.tick(Instant::now(), &mut out);
    }
}

/// The way to a collector.
#[derive(Debug)]
pub struct Out {
    protocol: &'static str,
    collector: SocketAddr,
    socket: Option<UdpSocket>,
    /// When a socket is tried again.
    reopen_at: Instant,
    watch: Arc<Watch>,
    counts: Arc<Counts>,
    events: Events,
}

impl Out {
    /// How many samples found no free record.
    fn missed(&self) -> u64 {
        self.watch.missed()
    }

    /// The address that datagrams leave from, as far as the system's routes say.
    fn local(&mut self) -> Option<IpAddr> {
        let _ = self.open();
        Some(self.socket.as_ref()?.local_addr().ok()?.ip())
    }

    fn open(&mut self) -> io::Result<()> {
        if self.socket.is_some() {
            return Ok(());
        }
        let any: IpAddr = match self.collector {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(self.collector)?;
        self.socket = Some(socket);
        Ok(())
    }

    /// Sends a datagram. One that cannot be sent is counted, and told of once.
    fn send(&mut self, datagram: &[u8]) {
        let sent = if self.socket.is_none() && Instant::now() < self.reopen_at {
            // As it was a moment ago.
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
            return;
        } else {
            self.open().and_then(|()| match &self.socket {
                Some(socket) => socket.send(datagram),
                None => Ok(0),
            })
        };
        let mut error = self.counts.error.lock().unwrap_or_else(PoisonError::into_inner);
        match sent {
            Ok(bytes) => {
                self.counts.datagrams.fetch_add(1, Ordering::Relaxed);
                self.counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                *error = None;
            }
            Err(cause) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                let told = error.is_some();
                let message = format!("send to {}: {cause}", self.collector);
                *error = Some(message.clone());
                drop(error);
                // The answer that nobody listens comes with the next datagram: each second one is
                // sent. Other errors may be the socket's.
                if cause.kind() != io::ErrorKind::ConnectionRefused {
                    self.socket = None;
                    self.reopen_at = Instant::now() + REOPEN;
                }
                if !told {
                    let event = format!("{}-unreachable", self.protocol);
                    self.events.add(EventLevel::Warn, &event, self.protocol, &message);
                }
            }
        }
    }
}

/// Where a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    /// Out of this port.
    One(PortId),
    /// Out of so many.
    Several(u32),
    /// Nowhere, for this reason.
    Dropped(DropReason),
    /// Nobody knows.
    Unknown,
}

fn went(record: &Record) -> Went {
    let mut ports: Vec<PortId> = Vec::new();
    let mut dropped = None;
    for end in record.ends() {
        match end.fate {
            Fate::Dropped(reason) => dropped = Some(reason),
            Fate::Sent | Fate::HandedOver if ports.contains(&end.port) => {}
            Fate::Sent | Fate::HandedOver => ports.push(end.port),
        }
    }
    match (ports.as_slice(), dropped) {
        ([], Some(reason)) => Went::Dropped(reason),
        ([], None) => Went::Unknown,
        ([port], _) if record.more() == 0 => Went::One(*port),
        (ports, _) => Went::Several((ports.len() as u32).saturating_add(record.more())),
    }
}
