//! PCI functions of `dpdk` ports: there, with the right driver, in a group that is theirs alone, behind
//! an IOMMU, and near their workers.

use switch_core::config::PortKind;
use switch_core::config::pci::{self, DRIVERS_FOR_PROGRAMS};

use super::facts::Facts;
use super::finding::{Area, Finding, Fix, Level};
use super::root::Root;

const DEVICES: &str = "/sys/bus/pci/devices";
/// Lets a group without an IOMMU be used, by which a device may write to all memory.
const UNSAFE: &str = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let functions: Vec<_> = facts
        .ports(|spec| match &spec.kind {
            PortKind::Dpdk { devargs } => pci::address(devargs),
            _ => None,
        })
        .collect();
    let mut found = Vec::new();
    for (port, address) in &functions {
        let subject = format!("port {port}");
        found.extend(function(facts, address).into_iter().map(|finding| finding.of(&subject)));
    }
    if !functions.is_empty() {
        found.extend(module(&facts.root));
        found.extend(unprotected(&facts.root));
    }
    if found.is_empty() {
        let message = match functions.len() {
            0 => "no port is on a PCI function".to_owned(),
            _ => "the PCI functions of ports are ready".to_owned(),
        };
        let ok = Finding::new(Area::Iommu, Level::Ok, "iommu", message);
        found.push(ok.seen(candidates(&facts.root)));
    }
    found
}

fn finding(level: Level, id: &'static str, message: String) -> Finding {
    Finding::new(Area::Iommu, level, id, message)
}

fn function(facts: &Facts, address: &str) -> Vec<Finding> {
    let (root, dir) = (&facts.root, format!("{DEVICES}/{address}"));
    if !root.exists(&dir) {
        let message = format!("there is no PCI function {address}");
        let hint = "lspci -D | grep -i ethernet; for a VF: echo N > \
                    /sys/class/net/PF/device/sriov_numvfs";
        let found = finding(Level::Error, "pci-absent", message).seen(candidates(root));
        return vec![found.fix(Fix::advice(hint))];
    }
    let mut found = Vec::new();
    let driver = root.link(format!("{dir}/driver"));
    match driver.as_deref() {
        Some("vfio-pci") => found.extend(behind_iommu(root, address)),
        Some(driver) if DRIVERS_FOR_PROGRAMS.contains(&driver) => {}
        other => found.push(wrong_driver(root, address, other)),
    }
    found.extend(far_from_workers(facts, address));
    found
}

fn wrong_driver(root: &Root, address: &str, driver: Option<&str>) -> Finding {
    let message = match driver {
        None => format!("no driver has {address}"),
        Some(driver) => format!("the kernel's driver {driver} has {address}"),
    };
    let devices = root.names(format!("{DEVICES}/{address}/net"));
    let seen = if devices.is_empty() {
        format!("{DEVICES}/{address}/driver")
    } else {
        format!("it is the host's {}, which goes when it is given away", devices.join(", "))
    };
    let command = format!("driverctl set-override {address} vfio-pci");
    finding(Level::Error, "pci-driver", message).seen(seen).fix(Fix::advice(command))
}

/// A function on `vfio-pci` is usable if it has a group, and that has nobody else in it.
fn behind_iommu(root: &Root, address: &str) -> Option<Finding> {
    let Some(group) = root.link(format!("{DEVICES}/{address}/iommu_group")) else {
        let message = format!("{address} is on vfio-pci, and the IOMMU is off");
        return Some(
            finding(Level::Error, "iommu-off", message).seen(arguments(root)).fix(iommu_on(root)),
        );
    };
    let driver = |address: &str| root.link(format!("{DEVICES}/{address}/driver"));
    // The kernel's rule (vfio_dev_viable): bridges, and what has no driver, do not count.
    let in_the_way = |other: &String| {
        let name = driver(other)?;
        let harmless = ["vfio-pci", "pcieport", "pci-stub"].contains(&name.as_str());
        (other != address && !harmless).then(|| (other.clone(), name))
    };
    let members = root.names(format!("/sys/kernel/iommu_groups/{group}/devices"));
    let others: Vec<_> = members.iter().filter_map(in_the_way).collect();
    if others.is_empty() {
        return None;
    }
    let message = format!("{address} shares IOMMU group {group} with functions that others drive");
    let seen: Vec<_> = others.iter().map(|(other, name)| format!("{other} ({name})")).collect();
    let commands: Vec<_> = others
        .iter()
        .map(|(other, _)| format!("driverctl set-override {other} vfio-pci"))
        .collect();
    let advice = format!("{} (or another slot, or ACS in the firmware)", commands.join(" && "));
    let found = finding(Level::Error, "vfio-group", message).seen(seen.join(", "));
    Some(found.fix(Fix::advice(advice)))
}

fn iommu_on(root: &Root) -> Fix {
    let amd = root.read("/proc/cpuinfo").is_some_and(|text| text.contains("AuthenticAMD"));
    let given = arguments(root);
    let firmware = if amd { "AMD-Vi (IOMMU)" } else { "VT-d" };
    let argument = if amd { "amd_iommu=on iommu=pt" } else { "intel_iommu=on iommu=pt" };
    if given.contains("iommu=on") || (amd && !given.contains("iommu=off")) {
        return Fix::advice(format!("turn {firmware} on in the firmware, and start again"));
    }
    Fix::advice(format!(
        "turn {firmware} on in the firmware, add \"{argument}\" to GRUB_CMDLINE_LINUX in \
         /etc/default/grub, update-grub, and start again"
    ))
}

/// The kernel's arguments that matter here.
fn arguments(root: &Root) -> String {
    let line = root.read("/proc/cmdline").unwrap_or_default();
    let matters = |word: &&str| {
        ["iommu", "intel_iommu", "amd_iommu", "vfio"].iter().any(|key| word.starts_with(key))
    };
    let words: Vec<_> = line.split_whitespace().filter(matters).collect();
    if words.is_empty() {
        return "the kernel has no argument for it (/proc/cmdline)".into();
    }
    format!("kernel arguments: {}", words.join(" "))
}

fn module(root: &Root) -> Option<Finding> {
    if root.exists("/sys/bus/pci/drivers/vfio-pci") {
        return None;
    }
    let message = "the driver vfio-pci is not loaded".to_owned();
    let found = finding(Level::Error, "vfio-absent", message).seen("/sys/bus/pci/drivers");
    Some(found.fix(Fix::run(&["modprobe", "vfio-pci"])))
}

fn unprotected(root: &Root) -> Option<Finding> {
    let on = root.read(UNSAFE).is_some_and(|text| text == "Y" || text == "1");
    on.then(|| {
        let message = "devices may write to all memory: VFIO runs without an IOMMU".to_owned();
        finding(Level::Warn, "vfio-unsafe", message)
            .seen(format!("{UNSAFE} is Y"))
            .fix(iommu_on(root))
    })
}

fn far_from_workers(facts: &Facts, address: &str) -> Option<Finding> {
    let node = facts.root.read(format!("{DEVICES}/{address}/numa_node"))?.parse::<u16>().ok()?;
    let workers = facts.root.nodes_of(&facts.worker_cpus());
    if workers.is_empty() || workers.contains(&node) {
        return None;
    }
    let message = format!("{address} is on NUMA node {node}, and no worker is");
    let near = facts.root.nodes().into_iter().find(|(other, _)| *other == node);
    let near = near.map_or_else(String::new, |(_, cpus)| super::root::cpu_words(&cpus));
    let found =
        finding(Level::Warn, "numa-cross", message).seen(format!("workers are on {workers:?}"));
    Some(found.fix(Fix::advice(format!("choose cpus in [daemon] from {near}"))))
}

/// The NICs of the machine, with who has them: `0000:3b:00.0 ixgbe (eth0)`.
fn candidates(root: &Root) -> String {
    let nic = |address: &String| {
        let dir = format!("{DEVICES}/{address}");
        // Class 0x02: network controllers.
        root.read(format!("{dir}/class"))?.strip_prefix("0x02")?;
        let driver = root.link(format!("{dir}/driver")).unwrap_or_else(|| "no driver".into());
        let devices = root.names(format!("{dir}/net"));
        let devices = devices.first().map_or_else(String::new, |name| format!(" ({name})"));
        Some(format!("{address} {driver}{devices}"))
    };
    let nics: Vec<_> = root.names(DEVICES).iter().filter_map(nic).collect();
    if nics.is_empty() { "no NIC on PCI".into() } else { format!("NICs: {}", nics.join(", ")) }
}
