//! Hugepages, on each NUMA node.

use vswitch_api::config::Hugepages;

use super::facts::Facts;
use super::finding::{Area, Finding, Fix, Level};
use super::root::Root;

/// Hugepages of one size on one node, or of the machine where it has no nodes.
#[derive(Clone, Copy, Debug)]
struct Pages {
    node: Option<u16>,
    kib: u64,
    total: u64,
    free: u64,
}

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let pages = pages(&facts.root);
    let found = |level, id, message: String| {
        Finding::new(Area::Hugepages, level, id, message).seen(words(&pages))
    };
    if !facts.on_dpdk() {
        let message = "not needed: datapath = \"tap\"".to_owned();
        return vec![found(Level::Ok, "hugepages", message)];
    }
    let mut out = Vec::new();
    match (facts.live(), facts.desired.dpdk.hugepages) {
        (_, Hugepages::Off) => {
            let message = "not wanted: hugepages = \"off\" in [dpdk]".to_owned();
            return vec![found(Level::Ok, "hugepages", message)];
        }
        // Whether there were enough for this configuration is known: the daemon took them, or says
        // how many it lacks.
        (Some(live), _) => {
            let without = live.status.pools.iter().find(|pool| !pool.hugepages);
            out.extend(without.map(|pool| {
                let message = format!("buffers ({}) are on ordinary pages: slower", pool.name);
                let hint = "see the warning of the daemon for how many it needs: \
                            vswitch-ctl status";
                found(Level::Warn, "hugepages-unused", message).fix(Fix::advice(hint))
            }));
        }
        (None, wanted) => out.extend(before_start(facts, wanted, &pages)),
    }
    out.extend(on_nodes_of_workers(facts, &pages));
    if out.is_empty() {
        out.push(found(Level::Ok, "hugepages", "enough, and where workers are".to_owned()));
    }
    out
}

/// Whether there are enough for a daemon that is to be started.
fn before_start(facts: &Facts, wanted: Hugepages, pages: &[Pages]) -> Option<Finding> {
    let free: u64 = pages.iter().map(|pages| pages.free * pages.kib).sum();
    let (level, id, mib, message) = match wanted {
        Hugepages::MiB(mib) if free < u64::from(mib) << 10 => {
            let message = format!(
                "hugepages = \"{mib} MiB\" is asked for, and {} MiB are free: vswitchd will not \
                 start",
                free >> 10
            );
            (Level::Error, "hugepages-few", u64::from(mib), message)
        }
        Hugepages::Auto if free == 0 => {
            let message = "none is free: buffers will be on ordinary pages, which is slower";
            (Level::Warn, "hugepages-none", AUTO_MIB, message.to_owned())
        }
        _ => return None,
    };
    // In pages of the size that is given without naming one.
    let default = default_kib(&facts.root);
    let total: u64 = pages.iter().filter(|p| p.kib == default).map(|pages| pages.total).sum();
    let missing = (mib << 10).saturating_sub(free);
    let setting = format!("vm.nr_hugepages={}", total + missing.div_ceil(default));
    let available = meminfo_kib(&facts.root, "MemAvailable").unwrap_or(0);
    let fix = if missing <= available / 2 {
        Fix::run(&["sysctl", "-q", "-w", &setting])
    } else {
        Fix::advice(format!("sysctl -w {setting}; only {} MiB of memory are left", available >> 10))
    };
    Some(Finding::new(Area::Hugepages, level, id, message).seen(words(pages)).fix(fix))
}

/// What `"auto"` likes for a few ports, in MiB; the daemon says exactly what it needs.
const AUTO_MIB: u64 = 256;

/// A worker that reads buffers of another node waits for each of them.
fn on_nodes_of_workers(facts: &Facts, pages: &[Pages]) -> Option<Finding> {
    let on = |node: u16| pages.iter().filter(move |pages| pages.node == Some(node));
    let total: u64 = pages.iter().map(|pages| pages.total).sum();
    let workers = facts.root.nodes_of(&facts.worker_cpus());
    let bare = workers.into_iter().find(|node| on(*node).all(|pages| pages.total == 0))?;
    // Where there are none at all, that is what has to be said.
    if total == 0 {
        return None;
    }
    let message = format!("workers are on NUMA node {bare}, and hugepages are on others only");
    let kib = default_kib(&facts.root);
    let count = total.min((AUTO_MIB << 10).div_ceil(kib));
    let file =
        format!("/sys/devices/system/node/node{bare}/hugepages/hugepages-{kib}kB/nr_hugepages");
    let found = Finding::new(Area::Hugepages, Level::Warn, "hugepages-node", message);
    Some(found.seen(words(pages)).fix(Fix::write(file, count)))
}

fn pages(root: &Root) -> Vec<Pages> {
    let nodes = root.nodes();
    if nodes.is_empty() {
        return pages_in(root, None, "/sys/kernel/mm/hugepages");
    }
    let of_node = |(node, _)| {
        let dir = format!("/sys/devices/system/node/node{node}/hugepages");
        pages_in(root, Some(node), &dir)
    };
    nodes.into_iter().flat_map(of_node).collect()
}

fn pages_in(root: &Root, node: Option<u16>, dir: &str) -> Vec<Pages> {
    let of_size = |name: &String| {
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let number = |file: &str| root.number(format!("{dir}/{name}/{file}"));
        Some(Pages { node, kib, total: number("nr_hugepages")?, free: number("free_hugepages")? })
    };
    root.names(dir).iter().filter_map(of_size).collect()
}

/// `node 0: 10 of 64 of 2 MiB free`, for the sizes that there are.
fn words(pages: &[Pages]) -> String {
    let any: Vec<_> = pages.iter().filter(|pages| pages.total > 0).collect();
    if any.is_empty() {
        return "the kernel has set none aside".into();
    }
    let one = |pages: &&Pages| {
        let node = pages.node.map_or_else(String::new, |node| format!("node {node}: "));
        format!("{node}{} of {} of {} MiB free", pages.free, pages.total, pages.kib >> 10)
    };
    any.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn default_kib(root: &Root) -> u64 {
    meminfo_kib(root, "Hugepagesize").filter(|kib| *kib > 0).unwrap_or(2048)
}

fn meminfo_kib(root: &Root, key: &str) -> Option<u64> {
    let text = root.read("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
