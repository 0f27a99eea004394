//! What needs a running switch to be seen: the MTU from end to end, and offloads.

use std::collections::BTreeMap;

use vswitch_api::counted;
use vswitch_api::types::{PortState, PortStatus};

use super::facts::{Facts, Live};
use super::finding::{Area, Finding, Fix, Level};

/// Drops that come of checksums or segmentation left to somebody who does not do it.
const OFFLOAD_DROPS: [&str; 2] = ["vnet-header", "gre-checksum"];

pub(super) fn mtu(facts: &Facts) -> Vec<Finding> {
    let Some(live) = facts.live() else { return vec![skipped(Area::Mtu, "mtu")] };
    let mut found = beyond_tunnels(live);
    found.extend(mixed(live));
    if found.is_empty() {
        let message = "the ports of each bridge fit each other and their tunnels".to_owned();
        let ok = Finding::new(Area::Mtu, Level::Ok, "mtu", message);
        found.push(ok.seen(format!(
            "{}, {}",
            counted(live.ports.len(), "port"),
            counted(live.mtu.items.len(), "tunnel row")
        )));
    }
    found
}

pub(super) fn offload(facts: &Facts) -> Vec<Finding> {
    let Some(live) = facts.live() else { return vec![skipped(Area::Offload, "offload")] };
    let mut found: Vec<_> = live.ports.iter().filter_map(lost).collect();
    found.extend(dropped(live));
    if found.is_empty() {
        let message = "ports have the offloads that their devices offer".to_owned();
        let up = || live.ports.iter().filter(|port| port.state == PortState::Up);
        let super_frames = up().filter(|port| port.offloads.tso4).count();
        let seen =
            format!("{super_frames} of {} ports that are up take super-frames", up().count());
        found.push(Finding::new(Area::Offload, Level::Ok, "offload", message).seen(seen));
    }
    found
}

fn skipped(area: Area, id: &'static str) -> Finding {
    let message = "not looked at: only a running vswitchd knows".to_owned();
    Finding::new(area, Level::Skipped, id, message)
}

fn beyond_tunnels(live: &Live) -> Vec<Finding> {
    let too_large = live.mtu.ports.iter().filter(|port| !port.fits);
    let told = too_large.map(|port| {
        let mtu = port.mtu.unwrap_or_default();
        let message = format!("its MTU of {mtu} is more than tunnel {} carries", port.tunnel);
        Finding::new(Area::Mtu, Level::Warn, "mtu-tunnel", message)
            .of(format!("port {}", port.port))
            .seen(format!("{} fit (vswitch-ctl mtu show)", port.allowed))
            .fix(Fix::advice(format!("vswitch-ctl port set {} --mtu {}", port.port, port.allowed)))
    });
    told.collect()
}

/// Frames that are larger than the port they leave by are dropped.
fn mixed(live: &Live) -> Vec<Finding> {
    let mut bridges: BTreeMap<&str, Vec<(&str, u32)>> = BTreeMap::new();
    for port in &live.ports {
        if let (Some(bridge), Some(mtu), PortState::Up) = (&port.bridge, port.mtu, port.state) {
            bridges.entry(bridge).or_default().push((&port.name, mtu));
        }
    }
    let mut found = Vec::new();
    for (bridge, ports) in bridges {
        let least = ports.iter().map(|(_, mtu)| *mtu).min().unwrap_or_default();
        let larger: Vec<_> = ports.iter().filter(|(_, mtu)| *mtu > least).collect();
        let Some((first, _)) = larger.first() else { continue };
        let message = format!("its ports have different MTUs: what exceeds {least} is dropped");
        let seen: Vec<_> = ports.iter().map(|(name, mtu)| format!("{name} {mtu}")).collect();
        let fix = format!("vswitch-ctl port set {first} --mtu {least} (or raise the others)");
        let mixed = Finding::new(Area::Mtu, Level::Note, "mtu-mixed", message);
        found
            .push(mixed.of(format!("bridge {bridge}")).seen(seen.join(", ")).fix(Fix::advice(fix)));
    }
    found
}

fn lost(port: &PortStatus) -> Option<Finding> {
    if port.lost.is_empty() {
        return None;
    }
    let message = "works without what the system refused".to_owned();
    let found = Finding::new(Area::Offload, Level::Note, "offload-lost", message);
    let device = port.device.as_deref().unwrap_or("DEVICE");
    let fix =
        format!("compare with what the device has: ethtool -k {device}; a newer kernel or driver");
    Some(found.of(format!("port {}", port.name)).seen(port.lost.join(", ")).fix(Fix::advice(fix)))
}

fn dropped(live: &Live) -> Vec<Finding> {
    let rows = live.drops.iter().filter(|row| OFFLOAD_DROPS.contains(&row.reason.as_str()));
    let told = rows.map(|row| {
        let found = Finding::new(Area::Offload, Level::Warn, "offload-drops", row.cause.clone());
        let seen = format!("{} dropped as {}", counted(row.frames, "frame"), row.reason);
        found.of(format!("port {}", row.port)).seen(seen).fix(Fix::advice(&row.cure))
    });
    told.collect()
}
