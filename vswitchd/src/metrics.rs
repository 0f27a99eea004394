//! Prometheus metrics, in the text format 0.0.4.
//!
//! Labels are names of ports, bridges and drop reasons and numbers of workers, all of which are
//! bounded. A drop reason appears once it has happened, and a bridge while it holds learned entries:
//! most never do. Of such bridges, of tunnels and of peers the first 1,000 are shown, and the sum of the
//! others with the label `(others)`. `docs/grafana.json` shows them.

use std::fmt::{Display, Write as _};

use switch_core::DropReason;
use switch_core::datapath::{OutsideLoss, PoolUse};
use switch_core::drop::Side;
use switch_core::stats::PortTotals;
use switch_core::tunnel::OverlayTotals;
use vswitch_api::types::FdbChurn;

/// Media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4";

/// Everything that is shown, read at one moment.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the metric of its name")]
pub struct Sample {
    pub datapath: &'static str,
    pub pools: Vec<PoolUse>,
    pub uptime: u64,
    pub revision: u64,
    pub warnings: u64,
    pub fdb: u64,
    pub fdb_limit: u64,
    pub ports: Vec<PortSample>,
    pub bridges: Vec<BridgeSample>,
    pub workers: Vec<WorkerSample>,
    pub tunnels: Vec<OverlaySample>,
    pub peers: Vec<OverlaySample>,
    pub mirrors: Vec<MirrorSample>,
    pub exports: Vec<ExportSample>,
    /// How often an address was held because it kept moving between remotes.
    pub held: u64,
    pub churn: FdbChurn,
    /// What ports counted that were deleted since.
    pub retired: PortTotals,
}

/// One port.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the metric of its name")]
pub struct PortSample {
    pub name: String,
    pub state: &'static str,
    pub blocked: bool,
    pub totals: PortTotals,
    pub loss: OutsideLoss,
    pub fdb: u32,
    pub fdb_limit: Option<u32>,
}

/// One bridge.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the metric of its name")]
pub struct BridgeSample {
    pub name: String,
    pub fdb: u32,
    pub fdb_limit: u32,
}

/// One tunnel or one peer, or all that are not shown by themselves.
#[derive(Clone, Debug)]
pub struct OverlaySample {
    /// Its labels with their values.
    pub labels: Vec<(&'static str, String)>,
    /// What it counted.
    pub totals: OverlayTotals,
}

/// One mirror: what it copied.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the metric of its name")]
pub struct MirrorSample {
    pub name: String,
    pub frames: u64,
    pub bytes: u64,
    pub failed: u64,
}

/// What one collector is told.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the metric of its name")]
pub struct ExportSample {
    pub protocol: String,
    pub samples: u64,
    pub missed: u64,
    pub datagrams: u64,
    pub failed: u64,
}

/// Most bridges, most tunnels, and most peers, that are shown by themselves: labels are kept in memory by whoever
/// collects them. The rest is one sum.
pub const ROWS: usize = 1000;
/// The value of their labels in the sum of the others; no tunnel or VTEP can have such a name.
const OTHERS: &str = "(others)";

/// One worker.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the metric of its name")]
pub struct WorkerSample {
    pub cpu: Option<u16>,
    pub turns: u64,
    pub busy_turns: u64,
    pub busy_ns: u64,
    pub frames: u64,
    pub learn_limited: u64,
    pub learn_no_slot: u64,
    pub events_lost: u64,
}

/// A metric of a port: name, help, value.
type OfPort = (&'static str, &'static str, fn(&PortSample) -> u64);

const OF_PORTS: &[OfPort] = &[
    ("port_received_frames_total", "Frames received.", |p| p.totals.rx_frames),
    ("port_received_bytes_total", "Bytes received.", |p| p.totals.rx_bytes),
    ("port_sent_frames_total", "Frames that the kernel or driver took.", |p| p.totals.tx_frames),
    ("port_sent_bytes_total", "Bytes that the kernel or driver took.", |p| p.totals.tx_bytes),
    ("port_copied_frames_total", "Copies made of its frames.", |p| p.totals.copied),
    ("port_originated_frames_total", "Frames the switch made itself.", |p| p.totals.originated),
    ("port_consumed_frames_total", "Frames the switch answered itself.", |p| p.totals.consumed),
    ("port_forwarded_frames_total", "Its frames given to other ports.", |p| p.totals.forwarded),
    ("port_offered_frames_total", "Frames others gave to it.", |p| p.totals.offered),
    ("port_missed_rx_total", "Frames lost before the switch saw them.", |p| p.loss.missed_rx),
    ("port_lost_after_tx_total", "Frames lost after the kernel took them.", |p| {
        p.loss.lost_after_tx
    }),
];

/// A metric of a worker: name, help, value.
type OfWorker = (&'static str, &'static str, fn(&WorkerSample) -> u64);

const OF_WORKERS: &[OfWorker] = &[
    ("worker_turns_total", "Turns of its loop.", |w| w.turns),
    ("worker_busy_turns_total", "Turns that found frames.", |w| w.busy_turns),
    ("worker_frames_total", "Frames received.", |w| w.frames),
    ("worker_learn_limited_total", "Addresses not learned because of a limit.", |w| {
        w.learn_limited
    }),
    ("worker_learn_no_slot_total", "Addresses not learned for want of a slot.", |w| {
        w.learn_no_slot
    }),
    ("worker_events_lost_total", "Events that found the queue full.", |w| w.events_lost),
];

/// A metric of tunnels and peers: name, help, value.
type OfOverlay = (&'static str, &'static str, fn(&OverlayTotals) -> u64);

const OF_OVERLAYS: &[OfOverlay] = &[
    ("received_frames_total", "Inner frames received.", |t| t.rx_frames),
    ("received_bytes_total", "Bytes of inner frames received.", |t| t.rx_bytes),
    ("sent_frames_total", "Inner frames sent.", |t| t.tx_frames),
    ("sent_bytes_total", "Bytes of inner frames sent.", |t| t.tx_bytes),
];

/// The text.
pub fn render(sample: &Sample) -> String {
    let mut out = Text(String::with_capacity(4096));
    out.head("build_info", "gauge", "The daemon that runs; always 1.");
    let version = env!("CARGO_PKG_VERSION");
    out.line("build_info", &[("version", version), ("datapath", sample.datapath)], 1);
    out.single("uptime_seconds", "gauge", "Seconds since the start.", sample.uptime);
    out.single("config_revision", "gauge", "Revision of the desired state.", sample.revision);
    let help = "Things that are not as they should be: what status lists.";
    out.single("warnings", "gauge", help, sample.warnings);
    out.single("fdb_entries", "gauge", "Entries of the FDB.", sample.fdb);
    out.single("fdb_limit", "gauge", "Most entries of the FDB.", sample.fdb_limit);

    pools(&mut out, &sample.pools);

    out.head("port_state", "gauge", "1 for the state a port is in.");
    for port in &sample.ports {
        for state in ["up", "down", "waiting", "failed"] {
            let labels = [("port", &*port.name), ("state", state)];
            out.line("port_state", &labels, u64::from(port.state == state));
        }
    }
    out.head("port_blocked", "gauge", "1 while the loop guard blocks a port.");
    for port in &sample.ports {
        out.line("port_blocked", &[("port", &port.name)], u64::from(port.blocked));
    }
    for (name, help, value) in OF_PORTS {
        out.head(name, "counter", help);
        for port in &sample.ports {
            out.line(name, &[("port", &port.name)], value(port));
        }
    }
    out.head("port_fdb_entries", "gauge", "Learned entries on a port.");
    for port in &sample.ports {
        out.line("port_fdb_entries", &[("port", &port.name)], u64::from(port.fdb));
    }
    out.head("port_fdb_limit", "gauge", "Most learned entries on a port; absent without a limit.");
    for port in &sample.ports {
        if let Some(limit) = port.fdb_limit {
            out.line("port_fdb_limit", &[("port", &port.name)], u64::from(limit));
        }
    }
    let help =
        "Frames dropped, by port, reason and side; reasons that never happened are left out.";
    out.head("port_dropped_frames_total", "counter", help);
    for port in &sample.ports {
        drops(&mut out, "port_dropped_frames_total", Some(&port.name), &port.totals);
    }
    let help = "Frames dropped on ports that were deleted since.";
    out.head("retired_dropped_frames_total", "counter", help);
    drops(&mut out, "retired_dropped_frames_total", None, &sample.retired);

    overlays(&mut out, "tunnel", &sample.tunnels);
    overlays(&mut out, "peer", &sample.peers);
    mirrors(&mut out, &sample.mirrors);
    exports(&mut out, &sample.exports);
    let help = "Addresses held where they are because they kept moving between remotes.";
    out.single("fdb_held_total", "counter", help, sample.held);
    let FdbChurn { learned, moved, aged, evicted } = sample.churn;
    out.single("fdb_learned_total", "counter", "Addresses learned.", learned);
    let help = "Addresses that moved to another port or remote.";
    out.single("fdb_moved_total", "counter", help, moved);
    out.single("fdb_aged_total", "counter", "Entries that aged.", aged);
    out.single("fdb_evicted_total", "counter", "Entries that made room for others.", evicted);

    out.head("bridge_fdb_entries", "gauge", "Learned entries of a bridge; absent without any.");
    let (shown, others) = sample.bridges.split_at(sample.bridges.len().min(ROWS));
    for bridge in shown {
        out.line("bridge_fdb_entries", &[("bridge", &bridge.name)], u64::from(bridge.fdb));
    }
    if !others.is_empty() {
        let sum: u64 = others.iter().map(|bridge| u64::from(bridge.fdb)).sum();
        out.line("bridge_fdb_entries", &[("bridge", OTHERS)], sum);
    }
    out.head("bridge_fdb_limit", "gauge", "Most learned entries of a bridge that has some.");
    for bridge in shown {
        out.line("bridge_fdb_limit", &[("bridge", &bridge.name)], u64::from(bridge.fdb_limit));
    }
    for (name, help, value) in OF_WORKERS {
        out.head(name, "counter", help);
        for (index, worker) in sample.workers.iter().enumerate() {
            out.line(name, &worker_labels(&index.to_string(), &cpu(worker)), value(worker));
        }
    }
    out.head("worker_busy_seconds_total", "counter", "Time spent on frames.");
    for (index, worker) in sample.workers.iter().enumerate() {
        let seconds = worker.busy_ns as f64 / 1e9;
        let (index, cpu) = (index.to_string(), cpu(worker));
        out.line("worker_busy_seconds_total", &worker_labels(&index, &cpu), seconds);
    }
    out.0
}

/// A metric of a pool: name, help, value.
type OfPool = (&'static str, &'static str, fn(&PoolUse) -> u64);

const OF_POOLS: &[OfPool] = &[
    ("pool_buffers", "Buffers of a pool that frames are made from.", |p| p.buffers.into()),
    ("pool_free_buffers", "Free buffers of a pool.", |p| p.free.into()),
    ("pool_bytes", "Memory that a pool takes.", |p| p.bytes),
];

fn pools(out: &mut Text, pools: &[PoolUse]) {
    for (name, help, value) in OF_POOLS {
        out.head(name, "gauge", help);
        for pool in pools {
            out.line(name, &[("pool", &pool.name)], value(pool));
        }
    }
}

fn overlays(out: &mut Text, what: &str, rows: &[OverlaySample]) {
    for (name, help, value) in OF_OVERLAYS {
        let name = format!("{what}_{name}");
        out.head(&name, "counter", help);
        for row in rows {
            let labels: Vec<_> = row.labels.iter().map(|(key, text)| (*key, &**text)).collect();
            out.line(&name, &labels, value(&row.totals));
        }
    }
    let name = format!("{what}_dropped_frames_total");
    out.head(&name, "counter", "Frames and packets dropped, by reason.");
    for row in rows {
        for (reason, frames) in row.totals.drops() {
            let mut labels: Vec<_> = row.labels.iter().map(|(key, text)| (*key, &**text)).collect();
            labels.push(("reason", reason.name()));
            out.line(&name, &labels, frames);
        }
    }
}

/// A metric of a mirror: name, help, value.
type OfMirror = (&'static str, &'static str, fn(&MirrorSample) -> u64);

const OF_MIRRORS: &[OfMirror] = &[
    ("mirror_copied_frames_total", "Copies given to the port of a mirror.", |m| m.frames),
    ("mirror_copied_bytes_total", "Bytes of these copies.", |m| m.bytes),
    ("mirror_failed_copies_total", "Copies that were not made.", |m| m.failed),
];

fn mirrors(out: &mut Text, mirrors: &[MirrorSample]) {
    for (name, help, value) in OF_MIRRORS {
        out.head(name, "counter", help);
        for mirror in mirrors {
            out.line(name, &[("mirror", &mirror.name)], value(mirror));
        }
    }
}

/// A metric of an exporter: name, help, value.
type OfExport = (&'static str, &'static str, fn(&ExportSample) -> u64);

const OF_EXPORTS: &[OfExport] = &[
    ("export_samples_total", "Frames sampled for a collector.", |e| e.samples),
    ("export_missed_samples_total", "Samples that were more than the exporter took.", |e| e.missed),
    ("export_datagrams_total", "Datagrams sent to a collector.", |e| e.datagrams),
    ("export_failed_datagrams_total", "Datagrams that could not be sent.", |e| e.failed),
];

fn exports(out: &mut Text, exports: &[ExportSample]) {
    for (name, help, value) in OF_EXPORTS {
        out.head(name, "counter", help);
        for export in exports {
            out.line(name, &[("protocol", &export.protocol)], value(export));
        }
    }
}

/// Rows for all of these, or for the first [`ROWS`] and the sum of the others.
pub fn bounded(all: impl Iterator<Item = OverlaySample>) -> Vec<OverlaySample> {
    let mut all = all;
    let mut rows: Vec<OverlaySample> = all.by_ref().take(ROWS).collect();
    let others = all.reduce(|mut sum, row| {
        sum.totals.add(&row.totals);
        sum
    });
    rows.extend(others.map(|sum| {
        let other = |(key, _)| (key, OTHERS.to_owned());
        OverlaySample { labels: sum.labels.into_iter().map(other).collect(), ..sum }
    }));
    rows
}

fn drops(out: &mut Text, metric: &str, port: Option<&str>, totals: &PortTotals) {
    for reason in DropReason::ALL {
        let frames = totals.dropped_for(reason);
        if frames == 0 {
            continue;
        }
        let side = match reason.side() {
            Side::In => "in",
            Side::Out => "out",
        };
        let rest = [("reason", reason.name()), ("side", side)];
        match port {
            Some(port) => out.line(metric, &[("port", port), rest[0], rest[1]], frames),
            None => out.line(metric, &rest, frames),
        }
    }
}

fn cpu(worker: &WorkerSample) -> String {
    worker.cpu.map_or_else(String::new, |cpu| cpu.to_string())
}

fn worker_labels<'a>(worker: &'a str, cpu: &'a str) -> [(&'static str, &'a str); 2] {
    [("worker", worker), ("cpu", cpu)]
}

/// Text under construction. Every name gets the prefix `vswitch_`.
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP vswitch_{name} {help}\n# TYPE vswitch_{name} {kind}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "vswitch_{name}{labels} {value}");
    }
}

/// A label's value: the format gives backslash, quote and line feed a meaning.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use switch_core::tunnel::OverlayCounters;

    /// A switch that has one of everything.
    fn sample() -> Sample {
        let mut totals = PortTotals::default();
        totals.drops[DropReason::TxFull.index()] = 7;
        let port = PortSample {
            name: "a\"b".to_owned(),
            state: "up",
            blocked: false,
            totals: totals.clone(),
            loss: OutsideLoss::default(),
            fdb: 3,
            fdb_limit: Some(9),
        };
        let pool = PoolUse {
            name: "frames".to_owned(),
            buffers: 64,
            free: 60,
            bytes: 1 << 20,
            hugepages: false,
            numa_node: None,
        };
        let worker = WorkerSample {
            cpu: Some(1),
            turns: 1,
            busy_turns: 1,
            busy_ns: 1,
            frames: 1,
            learn_limited: 1,
            learn_no_slot: 1,
            events_lost: 1,
        };
        Sample {
            datapath: "dpdk",
            pools: vec![pool],
            uptime: 1,
            revision: 2,
            warnings: 0,
            fdb: 3,
            fdb_limit: 4,
            ports: vec![port],
            bridges: vec![BridgeSample { name: "br0".to_owned(), fdb: 3, fdb_limit: 9 }],
            workers: vec![worker],
            tunnels: vec![overlay("tunnel", 0)],
            peers: vec![OverlaySample {
                labels: ["vtep", "protocol", "remote"].map(|l| (l, "x".to_owned())).into(),
                ..overlay("", 0)
            }],
            exports: vec![ExportSample {
                protocol: "sflow".to_owned(),
                samples: 1,
                missed: 2,
                datagrams: 3,
                failed: 4,
            }],
            mirrors: vec![MirrorSample { name: "span".to_owned(), frames: 1, bytes: 2, failed: 3 }],
            held: 0,
            churn: FdbChurn::default(),
            retired: totals,
        }
    }

    fn overlay(label: &'static str, n: usize) -> OverlaySample {
        let counters = OverlayCounters::default();
        counters.rx_frames.add(2);
        counters.count_drop(DropReason::TunnelMtu, 1);
        OverlaySample { labels: vec![(label, format!("t{n}"))], totals: counters.totals() }
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample_and_zero_drops_are_left_out() {
        let text = render(&sample());
        let drops: Vec<_> =
            text.lines().filter(|l| l.starts_with("vswitch_port_dropped")).collect();
        assert_eq!(
            drops,
            [r#"vswitch_port_dropped_frames_total{port="a\"b",reason="tx-full",side="out"} 7"#]
        );
        assert!(text.contains("\nvswitch_pool_free_buffers{pool=\"frames\"} 60\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (name, value) = line.rsplit_once(' ').expect(line);
            assert!(name.starts_with("vswitch_"), "{line}");
            value.parse::<f64>().expect(line);
        }
    }

    /// Every metric that the dashboard names exists, with the labels that it chooses by, and so that
    /// it is asked for as what it is: rates of counters, values of gauges.
    #[test]
    fn the_dashboard_names_what_there_is() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/grafana.json");
        let board: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let mut asked = Vec::new();
        expressions(&board, &mut asked);
        assert!(asked.len() > 30, "the dashboard has lost its expressions: {}", asked.len());
        let text = render(&sample());
        let labels = |name: &str, expr: &str, wanted: Vec<&str>| {
            let sample = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
            // Prometheus adds the instance.
            for label in wanted.into_iter().filter(|label| *label != "instance") {
                let has = sample.is_some_and(|line| line.contains(&format!("{label}=\"")));
                assert!(has, "{name} has no label {label}: {expr}\n{sample:?}");
            }
        };
        for (expr, legend) in asked {
            for (at, _) in expr.match_indices("vswitch_") {
                let rest = &expr[at..];
                let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
                let (name, behind) = rest.split_at(end.unwrap_or(rest.len()));
                let kind =
                    text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
                let kind = kind.unwrap_or_else(|| panic!("there is no metric {name}: {expr}"));
                let rated = expr[..at].ends_with("rate(");
                let listed = expr.starts_with("label_values(");
                assert!(listed || rated == (kind == "counter"), "{name} is a {kind}: {expr}");
                let chosen = behind.strip_prefix('{').and_then(|behind| behind.split_once('}'));
                let chosen = chosen.map_or("", |(chosen, _)| chosen).split(',');
                let chosen = chosen.filter_map(|one| Some(one.split_once(['=', '!'])?.0));
                let shown = legend.split("{{").skip(1).filter_map(|part| part.split("}}").next());
                labels(name, &expr, chosen.chain(shown).collect());
            }
        }
    }

    /// Every expression, with what its legend says.
    fn expressions(value: &serde_json::Value, out: &mut Vec<(String, String)>) {
        match value {
            serde_json::Value::Object(object) => {
                for (key, value) in object {
                    match value.as_str() {
                        Some(text) if ["expr", "query"].contains(&key.as_str()) => {
                            let legend = object.get("legendFormat").and_then(|l| l.as_str());
                            out.push((text.to_owned(), legend.unwrap_or_default().to_owned()));
                        }
                        _ => expressions(value, out),
                    }
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| expressions(item, out)),
            _ => {}
        }
    }

    #[test]
    fn of_many_bridges_the_rest_is_one_sum() {
        let bridge = |n: usize| BridgeSample { name: format!("br{n}"), fdb: 2, fdb_limit: 9 };
        let text = render(&Sample { bridges: (0..ROWS + 5).map(bridge).collect(), ..sample() });
        let rows = text.lines().filter(|line| line.starts_with("vswitch_bridge_fdb_entries{"));
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows.len(), ROWS + 1);
        assert_eq!(rows.last(), Some(&r#"vswitch_bridge_fdb_entries{bridge="(others)"} 10"#));
    }

    #[test]
    fn of_many_tunnels_the_rest_is_one_sum() {
        let row = |n: usize| overlay("tunnel", n);
        let rows = bounded((0..ROWS + 5).map(row));
        assert_eq!(rows.len(), ROWS + 1);
        let others = &rows[ROWS];
        assert_eq!((&*others.labels[0].1, others.totals.rx_frames), (OTHERS, 10));
        assert_eq!(bounded((0..ROWS).map(row)).len(), ROWS);
    }
}
