//! Mirrors and samples: what each must hold, and what only all objects show.

use std::collections::HashMap;

use switch_core::config::{MirrorSpec, TunnelSpec, TunnelType};
use switch_core::watch::Filter;

use super::{CANDIDATES, Declared, Desired, Problem, nearest};

/// What is wrong with a mirror by itself: the key, and the problem without its path.
pub(crate) fn mirror(spec: &MirrorSpec) -> Vec<(&'static str, Problem)> {
    let mut out = Vec::new();
    let mut add = |key, message: String, hint: &str| {
        out.push((key, Problem::new("", message).with_hint(hint)));
    };
    if spec.ports.is_empty() && spec.bridges.is_empty() {
        let message = "a mirror needs something to copy: ports or bridges";
        add("ports", message.into(), "add ports = [\"web\"] or bridges = [\"br0\"]");
    }
    if spec.ports.contains(&spec.to) {
        let message = format!("port {:?} would be mirrored to itself", spec.to);
        add("to", message, "name a port that carries nothing else");
    }
    if let Some(Err(bad)) = spec.filter.as_deref().map(str::parse::<Filter>) {
        add("filter", bad.to_string(), "vswitch-ctl capture --help has examples");
    }
    out
}

/// Adds what is wrong with mirrors and samples among all else.
pub(super) fn all(desired: &Desired, declared: &Declared, out: &mut Vec<Problem>) {
    for (object, of) in [("sflow", &desired.sflow.of), ("ipfix", &desired.ipfix.of)] {
        sources(desired, declared, object, (&of.ports, &of.bridges), out);
    }
    let mut taken: HashMap<&str, &str> = HashMap::new();
    for (name, spec) in &desired.mirrors {
        let key = |key: &str| format!("mirror.{name}.{key}");
        sources(desired, declared, &format!("mirror.{name}"), (&spec.ports, &spec.bridges), out);
        if let Some(other) = taken.insert(&spec.to, name) {
            let kind = if desired.tunnels.contains_key(&spec.to) { "tunnel" } else { "port" };
            let message =
                format!("{kind} {:?} has the copies of mirror {other:?} already", spec.to);
            let hint = "one mirror can copy several ports and bridges";
            out.push(Problem::new(key("to"), message).with_hint(hint));
        }
        out.extend(cannot_take(desired, declared, spec, key("to")));
    }
    for (name, tunnel) in &desired.tunnels {
        if tunnel.kind.tunnel_type() == TunnelType::Erspan {
            out.extend(has_ports(desired, tunnel, format!("tunnel.{name}.bridge")));
        }
    }
}

/// Adds what is wrong with the ports and bridges whose frames are copied or sampled.
fn sources(
    desired: &Desired,
    declared: &Declared,
    object: &str,
    (ports, bridges): (&[String], &[String]),
    out: &mut Vec<Problem>,
) {
    let key = |key: &str| format!("{object}.{key}");
    for bridge in bridges {
        if !desired.bridges.contains_key(bridge) && !declared.bridges.contains(bridge) {
            let known = desired.bridges.keys().map(String::as_str);
            out.push(missing(key("bridges"), &["bridge"], bridge, known));
        }
    }
    for port in ports {
        match desired.ports.get(port) {
            Some(source) if source.bridge.is_none() => {
                let message =
                    format!("port {port:?} is in no bridge, so that there is nothing to see");
                let hint = "name a port of a bridge; VTEPs and their uplinks carry packets";
                out.push(Problem::new(key("ports"), message).with_hint(hint));
            }
            None if !declared.ports.contains(port) => {
                let known = desired.ports.keys().map(String::as_str);
                out.push(missing(key("ports"), &["port"], port, known));
            }
            _ => {}
        }
    }
}

/// Why copies cannot leave by the port of a mirror.
fn cannot_take(
    desired: &Desired,
    declared: &Declared,
    spec: &MirrorSpec,
    key: String,
) -> Option<Problem> {
    if let Some(tunnel) = desired.tunnels.get(&spec.to) {
        return shared(desired, tunnel, spec, key);
    }
    let Some(port) = desired.ports.get(&spec.to) else {
        if declared.ports.contains(&spec.to) || declared.tunnels.contains(&spec.to) {
            return None;
        }
        let known = desired.tunnels.keys().chain(desired.ports.keys()).map(String::as_str);
        return Some(missing(key, &["port", "tunnel"], &spec.to, known));
    };
    if let Some(bridge) = &port.bridge {
        let message = format!(
            "port {:?} is in bridge {bridge:?}, and the port of a mirror carries nothing else",
            spec.to
        );
        let hint = format!("leave bridge out of port {:?}, or name another port", spec.to);
        return Some(Problem::new(key, message).with_hint(hint));
    }
    let is_uplink = |uplink: &Option<String>| uplink.as_ref() == Some(&spec.to);
    let (vtep, _) = desired.vteps.iter().find(|(_, vtep)| is_uplink(&vtep.uplink))?;
    let message = format!("port {:?} is the uplink of VTEP {vtep:?}", spec.to);
    Some(Problem::new(key, message).with_hint("name a port that carries nothing else"))
}

/// Why the copies of a mirror cannot go into a tunnel.
fn shared(
    desired: &Desired,
    tunnel: &TunnelSpec,
    spec: &MirrorSpec,
    key: String,
) -> Option<Problem> {
    let bridge = &tunnel.bridge;
    if spec.bridges.contains(bridge) {
        let message =
            format!("tunnel {:?} of bridge {bridge:?} would be mirrored to itself", spec.to);
        let hint = "name a tunnel of a bridge that is not mirrored";
        return Some(Problem::new(key, message).with_hint(hint));
    }
    // Of one that is for nothing else, it is said anyway.
    let is_checked = tunnel.kind.tunnel_type() == TunnelType::Erspan;
    if is_checked { None } else { has_ports(desired, tunnel, key) }
}

/// Whether a tunnel for copies is in a bridge with ports.
fn has_ports(desired: &Desired, tunnel: &TunnelSpec, key: String) -> Option<Problem> {
    let bridge = tunnel.bridge.as_str();
    let port = desired.ports.values().find(|port| port.bridge.as_deref() == Some(bridge))?;
    let message = format!(
        "bridge {bridge:?} of tunnel {:?} has ports, as {:?}, and the tunnel of a mirror carries \
         nothing else",
        tunnel.name, port.name
    );
    let hint = "add a bridge of its own for the tunnel, without ports";
    Some(Problem::new(key, message).with_hint(hint))
}

/// There is nothing of that name among these kinds of objects.
fn missing<'d>(
    key: String,
    kinds: &[&str],
    name: &str,
    known: impl Iterator<Item = &'d str>,
) -> Problem {
    let problem = Problem::new(key, format!("there is no {} {name:?}", kinds.join(" or ")));
    match nearest(name, known.take(CANDIDATES)) {
        Some(near) => problem.with_hint(format!("did you mean {near:?}?")),
        None => {
            let tables: Vec<_> = kinds.iter().map(|kind| format!("[[{kind}]]")).collect();
            problem.with_hint(format!("add a {} with name = {name:?}", tables.join(" or ")))
        }
    }
}
