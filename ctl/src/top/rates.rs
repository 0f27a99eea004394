//! What passed between two looks at the switch, as rates.

use std::collections::BTreeMap;
use std::time::Instant;

use vswitch_api::ApiError;
use vswitch_api::client::Client;
use vswitch_api::types::{CpuStatus, DropRow, FdbChurn, List, PortState, PortStatus, StatusReply};

/// What the daemon said at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: StatusReply,
    pub(super) ports: Vec<PortStatus>,
    pub(super) drops: Vec<DropRow>,
    pub(super) cpus: Vec<CpuStatus>,
}

impl Sample {
    pub(super) fn ask(client: &Client) -> Result<Self, ApiError> {
        let ports: List<_> = client.get("/v1/ports")?;
        let drops: List<_> = client.get("/v1/drops")?;
        let cpus: List<_> = client.get("/v1/cpu")?;
        let status = client.get("/v1/status")?;
        let at = Instant::now();
        Ok(Self { at, status, ports: ports.items, drops: drops.items, cpus: cpus.items })
    }
}

/// A port between two looks; everything a second but the last two.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PortRates {
    pub(super) name: String,
    pub(super) bridge: String,
    pub(super) state: PortState,
    pub(super) blocked: bool,
    pub(super) rx: f64,
    pub(super) rx_bits: f64,
    pub(super) tx: f64,
    pub(super) tx_bits: f64,
    pub(super) drops: f64,
    /// Lost outside the switch, on either side.
    pub(super) lost: f64,
    pub(super) fdb: u64,
    pub(super) reason: Option<String>,
}

/// Drops of one port for one reason.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DropRate {
    pub(super) port: String,
    pub(super) reason: String,
    pub(super) side: String,
    pub(super) rate: f64,
    pub(super) frames: u64,
    pub(super) cure: String,
}

/// A worker between two looks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WorkerRates {
    pub(super) worker: u16,
    pub(super) cpu: Option<u16>,
    pub(super) busy_percent: f64,
    pub(super) frames: f64,
    pub(super) cycles: Option<f64>,
    /// Frames a burst had: how deep the queues are that it reads from. 32 is a whole burst, and
    /// means that more waits.
    pub(super) burst: f64,
    pub(super) queues: usize,
}

/// Everything that is shown.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    pub(super) status: StatusReply,
    /// FDB entries a second: learned, moved, gone.
    pub(super) churn: [f64; 3],
    pub(super) ports: Vec<PortRates>,
    pub(super) drops: Vec<DropRate>,
    pub(super) workers: Vec<WorkerRates>,
}

impl Rates {
    pub(super) fn between(before: &Sample, now: &Sample) -> Self {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(1e-3);
        // A daemon that was started anew counts from 0: then nothing is known for once.
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let gone = |churn: FdbChurn| churn.aged + churn.evicted;
        let (was, is) = (before.status.fdb.churn, now.status.fdb.churn);
        Self {
            status: now.status.clone(),
            churn: [
                rate(was.learned, is.learned),
                rate(was.moved, is.moved),
                rate(gone(was), gone(is)),
            ],
            ports: ports(before, now, rate),
            drops: drops(before, now, rate),
            workers: workers(before, now, seconds),
        }
    }

    /// Frames received, sent and dropped a second, and bits received and sent, over all ports.
    pub(super) fn total(&self) -> [f64; 5] {
        let sum = |of: fn(&PortRates) -> f64| self.ports.iter().map(of).sum();
        [sum(|p| p.rx), sum(|p| p.rx_bits), sum(|p| p.tx), sum(|p| p.tx_bits), sum(|p| p.drops)]
    }

    /// Drops a second by reason, most first.
    pub(super) fn reasons(&self) -> Vec<(&str, f64)> {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for drop in self.drops.iter().filter(|drop| drop.rate > 0.0) {
            *sums.entry(&drop.reason).or_default() += drop.rate;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|a, b| b.1.total_cmp(&a.1));
        sums
    }
}

fn ports(before: &Sample, now: &Sample, rate: impl Fn(u64, u64) -> f64) -> Vec<PortRates> {
    let old: BTreeMap<_, _> = before.ports.iter().map(|port| (&port.name, port.counters)).collect();
    let rates = now.ports.iter().map(|port| {
        let is = port.counters;
        // One that is new since then has no rate yet.
        let was = old.get(&port.name).copied().unwrap_or(is);
        PortRates {
            name: port.name.clone(),
            bridge: port.bridge.clone().unwrap_or_default(),
            state: port.state,
            blocked: port.blocked,
            rx: rate(was.rx_frames, is.rx_frames),
            rx_bits: rate(was.rx_bytes, is.rx_bytes) * 8.0,
            tx: rate(was.tx_frames, is.tx_frames),
            tx_bits: rate(was.tx_bytes, is.tx_bytes) * 8.0,
            drops: rate(was.drops, is.drops),
            lost: rate(was.missed_rx, is.missed_rx) + rate(was.lost_after_tx, is.lost_after_tx),
            fdb: is.fdb,
            reason: port.reason.clone(),
        }
    });
    rates.collect()
}

fn drops(before: &Sample, now: &Sample, rate: impl Fn(u64, u64) -> f64) -> Vec<DropRate> {
    let key = |row: &DropRow| (row.port.clone(), row.reason.clone());
    let old: BTreeMap<_, _> = before.drops.iter().map(|row| (key(row), row.frames)).collect();
    let rates = now.drops.iter().map(|row| DropRate {
        port: row.port.clone(),
        reason: row.reason.clone(),
        side: row.side.clone(),
        // What never happened before is not among the old ones.
        rate: rate(old.get(&key(row)).copied().unwrap_or(0), row.frames),
        frames: row.frames,
        cure: row.cure.clone(),
    });
    rates.collect()
}

fn workers(before: &Sample, now: &Sample, seconds: f64) -> Vec<WorkerRates> {
    let rates = now.cpus.iter().map(|is| {
        let was = before.cpus.iter().find(|was| was.worker == is.worker);
        // The daemon gives averages since its start; the sums behind them can be subtracted.
        let since = |sum: fn(&CpuStatus) -> f64| (sum(is) - was.map_or(0.0, sum)).max(0.0);
        let frames = since(|cpu| cpu.frames as f64);
        let per = |sum: f64, count: f64| if count > 0.0 { sum / count } else { 0.0 };
        let ns = per(since(|cpu| cpu.ns_per_frame * cpu.frames as f64), frames);
        let bursts = since(|cpu| match cpu.frames_per_burst {
            0.0 => 0.0,
            frames => cpu.frames as f64 / frames,
        });
        WorkerRates {
            worker: is.worker,
            cpu: is.cpu,
            busy_percent: is.busy_percent,
            frames: frames / seconds,
            cycles: is.mhz.filter(|_| frames > 0.0).map(|mhz| ns * mhz / 1e3),
            burst: per(frames, bursts),
            queues: is.rx_queues.len(),
        }
    });
    rates.collect()
}
