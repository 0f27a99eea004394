//! Exporters: started and stopped as they are asked for, and told of ports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use switch_core::datapath::Backend;
use switch_core::watch::{Sampled, Sampler, Watch, WatchSpec};
use vswitch_api::config::{IpfixSpec, SampledSpec, SflowSpec};
use vswitch_api::types::{EventLevel, ExportStatus};

use super::ports::Port;
use super::{Controller, Queue};
use crate::export::{Export, ExportPort, Exporter, Ipfix, Sflow, index_of, ipfix, sflow};
use crate::metrics::ExportSample;

/// Most samples a second that an exporter is given; more are missed.
const SAMPLES_PER_SEC: u32 = 50_000;

/// Bytes of a frame that flows are known by: layers 2 to 4, with tags and extension headers.
const FLOW_HEADERS: usize = 256;

/// The exporters that run.
#[derive(Debug, Default)]
pub(super) struct Exports {
    sflow: Option<Running<SflowSpec>>,
    ipfix: Option<Running<IpfixSpec>>,
    /// Revision of the snapshot whose ports they know.
    told: u64,
}

/// An exporter, with what was asked for when it was started.
#[derive(Debug)]
struct Running<S> {
    spec: S,
    exporter: Exporter,
}

impl Exports {
    /// Each exporter with its name, collector, how often it samples, and whose frames.
    fn each(
        &self,
    ) -> impl Iterator<Item = (&'static str, SocketAddr, u32, &SampledSpec, &Exporter)> {
        let sflow = self.sflow.as_ref().and_then(|running| {
            let SflowSpec { collector, one_in, of, .. } = &running.spec;
            Some(("sflow", (*collector)?, *one_in, of, &running.exporter))
        });
        let ipfix = self.ipfix.as_ref().and_then(|running| {
            let IpfixSpec { collector, one_in, of, .. } = &running.spec;
            Some(("ipfix", (*collector)?, *one_in, of, &running.exporter))
        });
        sflow.into_iter().chain(ipfix)
    }
}

/// A watch on samples, of each of which so many bytes are kept.
fn watch(snap: usize) -> Arc<Watch> {
    Watch::new(WatchSpec { snap, records_per_sec: SAMPLES_PER_SEC, ..WatchSpec::default() })
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Starts and stops exporters as the desired state has it, and has frames sampled for them.
    pub(super) fn adopt_exports(&mut self) {
        // An earlier one ends by being dropped.
        let sflow = &self.desired.sflow;
        if self.exports.sflow.as_ref().is_none_or(|running| running.spec != *sflow) {
            self.exports.sflow = self.start_sflow(sflow.clone());
            self.exports.told = 0;
        }
        let ipfix = &self.desired.ipfix;
        if self.exports.ipfix.as_ref().is_none_or(|running| running.spec != *ipfix) {
            self.exports.ipfix = self.start_ipfix(ipfix.clone());
            self.exports.told = 0;
        }
        self.publish_samplers();
        self.tell_exporters();
    }

    fn start_sflow(&self, spec: SflowSpec) -> Option<Running<SflowSpec>> {
        let settings =
            sflow::Settings { agent: spec.agent, one_in: spec.one_in, polling: spec.polling };
        let exporter = self.start_exporter(
            "sflow",
            spec.collector?,
            spec.header as usize,
            Sflow::new(settings),
        )?;
        Some(Running { spec, exporter })
    }

    fn start_ipfix(&self, spec: IpfixSpec) -> Option<Running<IpfixSpec>> {
        let settings = ipfix::Settings {
            domain: spec.domain,
            one_in: spec.one_in,
            template_refresh: spec.template_refresh,
            active: spec.active,
            idle: spec.idle,
            max_flows: spec.max_flows as usize,
        };
        let exporter = self.start_exporter(
            "ipfix",
            spec.collector?,
            FLOW_HEADERS,
            Ipfix::new(settings, self.clock.clone()),
        )?;
        Some(Running { spec, exporter })
    }

    fn start_exporter(
        &self,
        protocol: &'static str,
        collector: SocketAddr,
        snap: usize,
        export: impl Export,
    ) -> Option<Exporter> {
        let started =
            Exporter::start(protocol, collector, watch(snap), self.events.clone(), export);
        if let Err(error) = &started {
            let (event, message) =
                (format!("{protocol}-failed"), format!("start its exporter: {error}"));
            self.events.add(EventLevel::Warn, &event, protocol, &message);
        }
        started.ok()
    }

    /// Has the frames of those ports and bridges sampled that are asked for.
    fn publish_samplers(&self) {
        let present = self.switch.snapshot();
        let sampler = |(_, _, one_in, of, exporter): (_, _, _, &SampledSpec, &Exporter)| {
            let watch = Arc::clone(&exporter.watch);
            Arc::new(Sampler { watch, one_in, of: self.sampled(of) })
        };
        let samplers: Vec<Arc<Sampler>> = self.exports.each().map(sampler).collect();
        let same = |(a, b): (&Arc<Sampler>, &Arc<Sampler>)| {
            Arc::ptr_eq(&a.watch, &b.watch) && a.one_in == b.one_in && a.of == b.of
        };
        let stays = present.samplers().len() == samplers.len()
            && present.samplers().iter().zip(&samplers).all(same);
        if !stays {
            let mut next = present.next();
            next.set_samplers(samplers);
            self.switch.publish(next);
            self.workers.wake();
        }
    }

    fn sampled(&self, spec: &SampledSpec) -> Option<Sampled> {
        if spec.ports.is_empty() && spec.bridges.is_empty() {
            return None;
        }
        let ports = spec.ports.iter().filter_map(|name| Some(self.ports.get(name)?.id));
        let bridges = spec.bridges.iter().filter_map(|name| self.bridges.get(name).copied());
        let mut of = Sampled { ports: ports.collect(), bridges: bridges.collect() };
        of.ports.sort_unstable();
        of.bridges.sort_unstable();
        Some(of)
    }

    /// Tells exporters of the ports there are, if these may be others.
    pub(super) fn tell_exporters(&mut self) {
        let revision = self.switch.snapshot().revision();
        if self.exports.told == revision || self.exports.each().next().is_none() {
            return;
        }
        let ports = self.ports.iter().map(|(name, port)| export_port(name, port));
        let vteps = self.vteps.iter().map(|(name, vtep)| export_port(name, vtep));
        let ports: Arc<[ExportPort]> = ports.chain(vteps).collect();
        let told = self.exports.each().all(|(.., exporter)| exporter.set_ports(Arc::clone(&ports)));
        if told {
            self.exports.told = revision;
        }
    }

    pub(super) fn exports_status(&self) -> Vec<ExportStatus> {
        let status = |(protocol, collector, one_in, _, exporter): (&str, _, _, _, &Exporter)| {
            let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let counts = &exporter.counts;
            ExportStatus {
                protocol: protocol.to_owned(),
                collector,
                one_in,
                samples: get(&counts.samples),
                missed: exporter.watch.missed(),
                flows: (protocol == "ipfix").then(|| get(&counts.flows)),
                datagrams: get(&counts.datagrams),
                bytes: get(&counts.bytes),
                failed: get(&counts.failed),
                error: counts.error(),
            }
        };
        self.exports.each().map(status).collect()
    }

    pub(super) fn export_samples(&self) -> Vec<ExportSample> {
        let sample = |status: ExportStatus| ExportSample {
            protocol: status.protocol,
            samples: status.samples,
            missed: status.missed,
            datagrams: status.datagrams,
            failed: status.failed,
        };
        self.exports_status().into_iter().map(sample).collect()
    }
}

fn export_port<S: Clone>(name: &str, port: &Port<S>) -> ExportPort {
    ExportPort {
        index: index_of(port.id),
        name: name.to_owned(),
        up: port.is_up(),
        mbps: port.info.as_ref().and_then(|info| info.details.link_mbps).unwrap_or(0),
        counters: port.counters.clone(),
    }
}
