//! What the kernel has to have.

use switch_core::config::PortKind;

use super::facts::Facts;
use super::finding::{Area, Finding, Fix, Level};
use super::root::Root;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let release = facts.root.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut found = Vec::new();
    found.extend(tun(facts));
    found.extend(silence(facts, &release));
    if found.is_empty() {
        let message = format!("Linux {release} has what the ports need");
        found.push(Finding::new(Area::Kernel, Level::Ok, "kernel", message));
    }
    found
}

/// TAP ports, and the exception TAPs of uplinks.
fn tun(facts: &Facts) -> Option<Finding> {
    if facts.root.exists("/dev/net/tun") {
        return None;
    }
    let tap = |kind: &PortKind| matches!(kind, PortKind::Tap { .. });
    let needs: Vec<_> = facts
        .ports(|spec| (tap(&spec.kind) || spec.exception.is_some()).then_some(()))
        .map(|(name, ())| name)
        .collect();
    let level = if needs.is_empty() { Level::Note } else { Level::Error };
    let message = "there is no /dev/net/tun: TAP ports cannot be opened".to_owned();
    let seen = match needs.as_slice() {
        [] => "no port needs it".to_owned(),
        names => format!("needed by {}", names.join(", ")),
    };
    let found = Finding::new(Area::Kernel, level, "tun-absent", message).seen(seen);
    Some(found.fix(Fix::run(&["modprobe", "tun"])))
}

/// The host's stack on a `netdev` port is silenced by a tcx link, or by nft on older kernels.
fn silence(facts: &Facts, release: &str) -> Option<Finding> {
    let netdev = facts.ports(|spec| matches!(spec.kind, PortKind::Netdev { .. }).then_some(()));
    let names: Vec<_> = netdev.map(|(name, ())| name).collect();
    let old = version(release).is_some_and(|version| version < (6, 6));
    if names.is_empty() || !old || has_program(&facts.root, "nft") {
        return None;
    }
    let message = "the host's own stack on attached devices cannot be silenced".to_owned();
    let seen = format!(
        "Linux {release} has no tcx (6.6), and nft is not installed; it concerns {}",
        names.join(", ")
    );
    let found = Finding::new(Area::Kernel, Level::Error, "nft-absent", message).seen(seen);
    Some(found.fix(Fix::advice("apt-get install nftables")))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn has_program(root: &Root, name: &str) -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|dir| root.exists(format!("{dir}/{name}")))
}
