//! What only the whole shows: references, collisions and totals.

use std::collections::{BTreeMap, BTreeSet};

use switch_core::config::{PortKind, PortSpec};
use switch_core::ids::{BridgeId, PortId, TunnelId};
use switch_core::mirror::MIRRORS_MAX;

use super::desired::{Datapath, Desired};
use super::problem::{Problem, Problems};
use super::value::nearest;

mod mirror;
mod overlay;
pub(crate) use mirror::mirror;
pub(crate) use overlay::tunnel;

/// Names that are in a file but whose objects have problems of their own, so that what refers to
/// them is not reported as well.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    pub(crate) bridges: BTreeSet<String>,
    pub(crate) ports: BTreeSet<String>,
    pub(crate) vteps: BTreeSet<String>,
    pub(crate) tunnels: BTreeSet<String>,
}

/// Checks desired state that was changed object by object.
///
/// # Errors
/// Everything that does not fit together.
pub fn check(desired: &Desired) -> Result<(), Problems> {
    let problems = all(desired, &Declared::default());
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

/// The nearest name is looked for among so many bridges…
const CANDIDATES: usize = 256;
/// …and only for so many references.
const GUESSES: usize = 20;

/// Everything that does not fit together. The work is linear in the configuration.
pub(crate) fn all(desired: &Desired, declared: &Declared) -> Vec<Problem> {
    let mut out = Vec::new();
    let counts = [
        ("bridge", desired.bridges.len(), BridgeId::MAX_BRIDGES),
        ("port", desired.ports.len(), PortId::MAX_PORTS),
        ("vtep", desired.vteps.len(), PortId::MAX_PORTS),
        ("tunnel", desired.tunnels.len(), TunnelId::MAX_TUNNELS),
        ("mirror", desired.mirrors.len(), MIRRORS_MAX),
    ];
    for (section, have, most) in counts {
        if have > most {
            out.push(Problem::new(section, format!("{have} of these are more than {most}")));
        }
    }
    // More objects than allowed are not looked at one by one: that bounds the work.
    if !out.is_empty() {
        return out;
    }
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for (name, port) in &desired.ports {
        let guess = out.len() < GUESSES;
        if let Some(bridge) = &port.bridge {
            out.extend(bridge_exists(desired, declared, ("port", name), bridge, guess));
        }
        out.extend(fits_datapath(desired.daemon.datapath, port));
        let (key, resource, shown) = resource(port);
        if let Some(other) = owners.insert(resource, name) {
            let message = format!("{shown} is that of port {other:?} already");
            out.push(Problem::new(format!("port.{name}.{key}"), message));
        }
    }
    overlay::all(desired, declared, &mut out);
    mirror::all(desired, declared, &mut out);
    out
}

/// `object` is the section and the name of what is in the bridge.
fn bridge_exists(
    desired: &Desired,
    declared: &Declared,
    object: (&str, &str),
    bridge: &str,
    guess: bool,
) -> Option<Problem> {
    if desired.bridges.contains_key(bridge) || declared.bridges.contains(bridge) {
        return None;
    }
    let (section, name) = object;
    let problem =
        Problem::new(format!("{section}.{name}.bridge"), format!("there is no bridge {bridge:?}"));
    let most = if guess { CANDIDATES } else { 0 };
    let known = desired.bridges.keys().take(most).map(String::as_str);
    Some(match nearest(bridge, known) {
        Some(near) => problem.with_hint(format!("did you mean {near:?}?")),
        None => problem.with_hint(format!("add a [[bridge]] with name = {bridge:?}")),
    })
}

fn fits_datapath(datapath: Datapath, port: &PortSpec) -> Option<Problem> {
    let poll_mode = matches!(port.kind, PortKind::Dpdk { .. } | PortKind::VhostUser { .. });
    if datapath == Datapath::Dpdk || !poll_mode {
        return None;
    }
    let port_type = port.kind.port_type();
    let message = format!("a port of type {port_type} needs the DPDK datapath");
    let hint = "set datapath = \"dpdk\" in [daemon]";
    Some(Problem::new(format!("port.{}.type", port.name), message).with_hint(hint))
}

/// What only one port can have: the key that names it, an identity, and words for it.
fn resource(port: &PortSpec) -> (&'static str, String, String) {
    match &port.kind {
        PortKind::Tap { device, netns, .. } => {
            let place = netns.as_ref().map_or_else(String::new, |netns| format!(" in {netns}"));
            ("device", format!("device {device}{place}"), format!("the device {device:?}{place}"))
        }
        PortKind::Netdev { device, .. } => {
            ("device", format!("device {device}"), format!("the device {device:?}"))
        }
        PortKind::Dpdk { devargs } => {
            ("devargs", format!("devargs {devargs}"), format!("the DPDK device {devargs:?}"))
        }
        PortKind::VhostUser { socket, .. } => {
            ("socket", format!("socket {socket}"), format!("the socket {socket:?}"))
        }
    }
}
