//! Answers with numbers: what ports and workers counted.

use std::collections::BTreeMap;

use switch_core::DropReason;
use switch_core::datapath::{Backend, OutsideLoss};
use switch_core::drop::Side;
use switch_core::stats::PortTotals;
use switch_core::tunnel::Proto;
use vswitch_api::types::{
    CopyCounters, CpuStatus, DeviceCounter, DropCount, DropRow, PortCounters, PortStats, RxQueue,
};

use super::overlay_view::totals;
use super::ports::Port;
use super::view::port_state;
use super::{Controller, Queue};
use crate::cpus;
use crate::metrics::{BridgeSample, OverlaySample, PortSample, Sample, WorkerSample, bounded};

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// What passed a port since the start, over all the times its device was there.
    pub(super) fn port_counters(&mut self, name: &str) -> Option<PortCounters> {
        let port = self.ports.get(name)?;
        let loss = loss_of(&mut self.backend, port);
        Some(counters_of(&port.totals(), loss, self.switch.fdb().port_count(port.id)))
    }

    pub(super) fn port_stats(&mut self) -> Vec<PortStats> {
        let fdb = self.switch.fdb();
        let of_ports = self
            .ports
            .iter()
            .map(|(name, port)| stats_of(&mut self.backend, name, port, fdb.port_count(port.id)));
        let mut out: Vec<_> = of_ports.collect();
        let vteps = self.vteps.iter();
        out.extend(vteps.map(|(name, vtep)| stats_of(&mut self.backend, name, vtep, 0)));
        out
    }

    /// The same for the port of one VTEP: outer packets.
    pub(super) fn vtep_stats(&mut self, name: &str) -> Option<PortStats> {
        let vtep = self.vteps.get(name)?;
        Some(stats_of(&mut self.backend, name, vtep, 0))
    }

    pub(super) fn drops(&self) -> Vec<DropRow> {
        let mut out = Vec::new();
        let ports = self.ports.iter().map(|(name, port)| (name, port.totals(), &port.spec.bridge));
        let vteps = self.vteps.iter().map(|(name, vtep)| (name, vtep.totals(), &None));
        for (name, totals, bridge) in ports.chain(vteps) {
            for reason in DropReason::ALL {
                let frames = totals.dropped_for(reason);
                if frames > 0 {
                    out.push(DropRow { bridge: bridge.clone(), ..drop_row(name, reason, frames) });
                }
            }
        }
        out
    }

    pub(super) fn cpus(&self) -> Vec<CpuStatus> {
        let mut rx: BTreeMap<usize, Vec<RxQueue>> = BTreeMap::new();
        let ports = self.ports.iter().map(|(name, port)| (name, port.id, &port.open));
        let vteps = self.vteps.iter().map(|(name, vtep)| (name, vtep.id, &vtep.open));
        for (name, id, open) in ports.chain(vteps) {
            let Some(open) = open else { continue };
            let mut workers = self.backend.rx_workers(id);
            if workers.is_empty() {
                workers.push(open.owner);
            }
            for (queue, worker) in (0..).zip(workers) {
                let queue = RxQueue { port: name.clone(), queue };
                rx.entry(worker.index()).or_default().push(queue);
            }
        }
        let names = |queues: &[RxQueue]| {
            let mut names: Vec<String> = queues.iter().map(|rx| rx.port.clone()).collect();
            names.dedup();
            names
        };
        let tsc = self.backend.tsc_hz().map(|hz| (hz as f64 / 1e6, "tsc"));
        let clocks = |cpu| tsc.or_else(|| Some((cpus::mhz(cpu)?, "cpu")));
        let per = |sum: u64, count: u64| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
        self.workers
            .each()
            .map(|(worker, cpu, counters)| {
                let clock = clocks(cpu);
                let rx_queues = rx.remove(&worker).unwrap_or_default();
                let ns_per_frame = per(counters.busy_ns.get(), counters.frames.get());
                CpuStatus {
                    worker: u16::try_from(worker).unwrap_or(u16::MAX),
                    cpu,
                    idle: self.started_as.0.idle.name().to_owned(),
                    ports: names(&rx_queues),
                    rx_queues,
                    busy_percent: self.rates.busy_percent(worker),
                    frames: counters.frames.get(),
                    ns_per_frame,
                    cycles_per_frame: clock.map(|(mhz, _)| ns_per_frame * mhz / 1e3),
                    mhz: clock.map(|(mhz, _)| mhz),
                    clock: clock.map(|(_, name)| name.to_owned()),
                    frames_per_burst: per(counters.frames.get(), counters.busy_turns.get()),
                }
            })
            .collect()
    }

    /// Everything that is shown as a metric.
    pub(super) fn sample(&mut self) -> Sample {
        let mut ports = Vec::new();
        for (name, port) in &self.ports {
            ports.push(PortSample {
                state: port_state(port).name(),
                blocked: port.state.blocked(self.clock.now()),
                totals: port.totals(),
                loss: loss_of(&mut self.backend, port),
                fdb: self.switch.fdb().port_count(port.id),
                fdb_limit: port.spec.max_fdb,
                name: name.clone(),
            });
        }
        for (name, vtep) in &self.vteps {
            ports.push(PortSample {
                state: port_state(vtep).name(),
                blocked: false,
                totals: vtep.totals(),
                loss: loss_of(&mut self.backend, vtep),
                fdb: 0,
                fdb_limit: None,
                name: name.clone(),
            });
        }
        let bridges = self
            .desired
            .bridges
            .values()
            .filter_map(|spec| {
                let id = self.bridges.get(&spec.name)?;
                let fdb = self.switch.fdb().bridge_count(*id);
                let sample =
                    || BridgeSample { name: spec.name.clone(), fdb, fdb_limit: spec.max_fdb };
                (fdb > 0).then(sample)
            })
            .collect();
        let workers = self
            .workers
            .each()
            .map(|(_, cpu, counters)| WorkerSample {
                cpu,
                turns: counters.turns.get(),
                busy_turns: counters.busy_turns.get(),
                busy_ns: counters.busy_ns.get(),
                frames: counters.frames.get(),
                learn_limited: counters.learn_limited.get(),
                learn_no_slot: counters.learn_no_slot.get(),
                events_lost: counters.events_lost.get(),
            })
            .collect();
        Sample {
            datapath: self.backend.name(),
            pools: self.backend.pools(),
            uptime: self.clock.now().secs(),
            revision: self.store.revision(),
            warnings: self.warnings().len() as u64,
            fdb: self.switch.fdb().len() as u64,
            fdb_limit: self.started_as.0.max_fdb_total.into(),
            retired: self.retired.clone(),
            ports,
            bridges,
            workers,
            tunnels: bounded(self.tunnels.by_name.iter().map(|(name, tunnel)| OverlaySample {
                labels: vec![("tunnel", name.clone())],
                totals: self.tunnel_totals(tunnel),
            })),
            peers: bounded(self.tunnels.peers.iter().map(|(_, peer)| OverlaySample {
                labels: vec![
                    ("vtep", self.port_name(peer.vtep)),
                    ("protocol", protocol(peer.proto)),
                    ("remote", peer.addr.to_string()),
                ],
                totals: totals(&peer.counters),
            })),
            mirrors: self.mirror_samples(),
            exports: self.export_samples(),
            held: self.damped,
            churn: self.churn,
        }
    }
}

fn protocol(proto: Proto) -> String {
    match proto {
        Proto::Udp(port) => format!("udp/{port}"),
        Proto::Gre => "gre".to_owned(),
    }
}

/// Frames lost outside, over all the times a port was open.
fn loss_of<B: Backend, S: Clone>(backend: &mut B, port: &Port<S>) -> OutsideLoss {
    let mut loss = port.lost_before;
    if port.open.is_some() {
        let now = backend.outside_loss(port.id);
        loss.missed_rx += now.missed_rx;
        loss.lost_after_tx += now.lost_after_tx;
    }
    loss
}

fn counters_of(totals: &PortTotals, loss: OutsideLoss, fdb: u32) -> PortCounters {
    PortCounters {
        rx_frames: totals.rx_frames,
        rx_bytes: totals.rx_bytes,
        tx_frames: totals.tx_frames,
        tx_bytes: totals.tx_bytes,
        drops: totals.dropped(),
        missed_rx: loss.missed_rx,
        lost_after_tx: loss.lost_after_tx,
        fdb: fdb.into(),
    }
}

fn stats_of<B: Backend, S: Clone>(
    backend: &mut B,
    name: &str,
    port: &Port<S>,
    fdb: u32,
) -> PortStats {
    let (totals, loss) = (port.totals(), loss_of(backend, port));
    let device = match port.open {
        Some(_) => backend.device_counters(port.id),
        None => Vec::new(),
    };
    let drops = DropReason::ALL.into_iter().filter(|reason| totals.dropped_for(*reason) > 0);
    PortStats {
        name: name.to_owned(),
        counters: counters_of(&totals, loss, fdb),
        inside: CopyCounters {
            copied: totals.copied,
            originated: totals.originated,
            consumed: totals.consumed,
            forwarded: totals.forwarded,
            offered: totals.offered,
        },
        drops: drops
            .map(|reason| DropCount {
                reason: reason.name().to_owned(),
                frames: totals.dropped_for(reason),
            })
            .collect(),
        device: device.into_iter().map(|(name, value)| DeviceCounter { name, value }).collect(),
    }
}

/// So many frames were dropped on a port for a reason.
pub(crate) fn drop_row(port: &str, reason: DropReason, frames: u64) -> DropRow {
    DropRow {
        port: port.to_owned(),
        bridge: None,
        tunnel: None,
        reason: reason.name().to_owned(),
        side: side(reason).to_owned(),
        frames,
        cause: reason.cause().to_owned(),
        cure: reason.cure().to_owned(),
    }
}

fn side(reason: DropReason) -> &'static str {
    match reason.side() {
        Side::In => "in",
        Side::Out => "out",
    }
}
