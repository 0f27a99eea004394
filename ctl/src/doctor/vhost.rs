//! VMs of vhost-user ports: QEMU's command line says whether the switch can reach their memory.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::Value as Json;
use switch_core::config::{PortKind, VhostMode};

use super::facts::Facts;
use super::finding::{Area, Finding, Fix, Level};
use super::root::{Process, Root};

/// A vhost-user port, as it was asked for.
#[derive(Clone, Copy, Debug)]
struct Port<'a> {
    name: &'a str,
    socket: &'a str,
    mode: VhostMode,
    queues: u16,
}

/// One side of a QEMU command line: the socket of a `vhost-user` netdev.
#[derive(Debug)]
struct Netdev {
    path: String,
    serves: bool,
    queues: u16,
}

pub(super) fn is_qemu(name: &str) -> bool {
    name.starts_with("qemu") || name == "kvm"
}

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let ports = facts.ports(|spec| match &spec.kind {
        PortKind::VhostUser { socket, mode, queues } => Some((socket.as_str(), *mode, *queues)),
        _ => None,
    });
    let ports: Vec<_> =
        ports.map(|(name, (socket, mode, queues))| Port { name, socket, mode, queues }).collect();
    let guests = facts.root.processes(is_qemu);
    let daemon = facts.daemon_process();
    let mut found = Vec::new();
    for port in &ports {
        let subject = format!("port {}", port.name);
        found.extend(
            of_port(&facts.root, *port, &guests, daemon.as_ref())
                .into_iter()
                .map(|one| one.of(&subject)),
        );
    }
    if found.is_empty() {
        let message = match ports.len() {
            0 => "no port is of type vhost-user".to_owned(),
            _ => "vhost-user ports and their VMs fit each other".to_owned(),
        };
        let ok = Finding::new(Area::Vhost, Level::Ok, "vhost", message);
        found.push(ok.seen(format!("running QEMUs: {}", guests.len())));
    }
    found
}

fn finding(level: Level, id: &'static str, message: String) -> Finding {
    Finding::new(Area::Vhost, level, id, message)
}

fn of_port(
    root: &Root,
    port: Port<'_>,
    guests: &[Process],
    daemon: Option<&Process>,
) -> Vec<Finding> {
    let with = |guest: &'_ Process| {
        let mut netdevs = netdevs(guest).into_iter();
        netdevs.find(|netdev| netdev.path == port.socket)
    };
    let found = guests.iter().find_map(|guest| Some((guest, with(guest)?)));
    let Some((guest, netdev)) = found else { return vec![nobody(root, port)] };
    let mut out = Vec::new();
    out.extend(not_shared(guest));
    out.extend(same_side(port, &netdev, guest));
    out.extend(too_many_queues(port, &netdev, guest));
    // Whoever serves the socket made it; the other has to be able to connect.
    let connects = match port.mode {
        VhostMode::Server => Some(("QEMU", guest)),
        VhostMode::Client => daemon.map(|process| ("vswitchd", process)),
    };
    out.extend(connects.and_then(|(who, process)| not_permitted(root, port, who, process)));
    out
}

fn nobody(root: &Root, port: Port<'_>) -> Finding {
    let message = format!("no running QEMU has {}", port.socket);
    let there = if root.exists(port.socket) { "exists" } else { "does not exist" };
    let side = match port.mode {
        VhostMode::Client => "server=on",
        VhostMode::Server => "server=off,reconnect=1",
    };
    let fix = format!(
        "start the VM with -chardev socket,id=c0,path={},{side} -netdev vhost-user,id=n0,chardev=c0",
        port.socket
    );
    let seen = format!("the socket {there}; monitors other than QEMU are not looked at");
    finding(Level::Note, "vhost-nobody", message).seen(seen).fix(Fix::advice(fix))
}

/// Without shared memory the VM comes up, sees a link, and no frame ever passes.
fn not_shared(guest: &Process) -> Option<Finding> {
    let mut shared = HashMap::new();
    for object in guest.after("-object").map(options) {
        let kind = object.get("qom-type").or_else(|| object.get("")).cloned().unwrap_or_default();
        if let (Some(id), true) = (object.get("id"), kind.starts_with("memory-backend-")) {
            // These two are shared unless told otherwise (qapi/qom.json).
            let by_itself = ["memory-backend-memfd", "memory-backend-shm"].contains(&kind.as_str());
            let is = object.get("share").map_or(by_itself, |value| is_on(value));
            shared.insert(id.clone(), is);
        }
    }
    let machine = ["-machine", "-M"].into_iter().flat_map(|flag| guest.after(flag));
    let machine = machine.filter_map(|text| options(text).remove("memory-backend"));
    let nodes = guest.after("-numa").filter_map(|text| options(text).remove("memdev"));
    let used: Vec<_> = machine.chain(nodes).collect();
    let private = used.iter().find(|id| !shared.get(*id).copied().unwrap_or(false));
    let seen = match private {
        None if !used.is_empty() => return None,
        None => format!("QEMU (process {}) has no -machine memory-backend=", guest.pid),
        Some(id) => format!("-object …,id={id} of QEMU (process {}) has no share=on", guest.pid),
    };
    let message = "the VM's memory is not shared with the switch: no frame can pass".to_owned();
    let size =
        guest.after("-m").next().map_or("SIZE", |size| size.split(',').next().unwrap_or(size));
    let size = size.strip_prefix("size=").unwrap_or(size);
    let fix = format!(
        "start it with -object memory-backend-memfd,id=mem,size={size},share=on -machine \
         memory-backend=mem; with libvirt: <memoryBacking><source type='memfd'/><access \
         mode='shared'/></memoryBacking>"
    );
    Some(finding(Level::Error, "vhost-share", message).seen(seen).fix(Fix::advice(fix)))
}

fn same_side(port: Port<'_>, netdev: &Netdev, guest: &Process) -> Option<Finding> {
    if netdev.serves == (port.mode == VhostMode::Client) {
        return None;
    }
    let side = |serves: bool| if serves { "serve" } else { "connect" };
    let message = format!("both sides {} on {}", side(netdev.serves), port.socket);
    let seen = format!("mode = {:?}, and -chardev of process {}", port.mode.name(), guest.pid);
    let mode = if netdev.serves { VhostMode::Client } else { VhostMode::Server };
    let fix = format!("vswitch-ctl port set {} --mode {}", port.name, mode.name());
    Some(finding(Level::Error, "vhost-mode", message).seen(seen).fix(Fix::advice(fix)))
}

fn too_many_queues(port: Port<'_>, netdev: &Netdev, guest: &Process) -> Option<Finding> {
    (netdev.queues > port.queues).then(|| {
        let message =
            format!("the VM asks for {} queues, and the port has {}", netdev.queues, port.queues);
        let fix = format!("vswitch-ctl port set {} --queues {}", port.name, netdev.queues);
        finding(Level::Error, "vhost-queues", message)
            .seen(format!("-netdev of process {}", guest.pid))
            .fix(Fix::advice(fix))
    })
}

fn not_permitted(root: &Root, port: Port<'_>, who: &str, process: &Process) -> Option<Finding> {
    let meta = fs::metadata(root.path(port.socket)).ok()?;
    let uid = process.ids("Uid").get(1).copied()?;
    let groups = [process.ids("Gid"), process.ids("Groups")].concat();
    let mode = meta.permissions().mode();
    let may = if uid == 0 {
        true
    } else if uid == meta.uid() {
        mode & 0o200 != 0
    } else if groups.contains(&meta.gid()) {
        mode & 0o020 != 0
    } else {
        mode & 0o002 != 0
    };
    (!may).then(|| {
        let message = format!("{who} may not connect to {}", port.socket);
        let seen = format!(
            "process {} is user {uid}; the socket has mode {:04o}, owner {}, group {}",
            process.pid,
            mode & 0o777,
            meta.uid(),
            meta.gid()
        );
        let fix = format!("setfacl -m u:{uid}:rw {}", port.socket);
        finding(Level::Error, "vhost-permission", message).seen(seen).fix(Fix::advice(fix))
    })
}

fn netdevs(guest: &Process) -> Vec<Netdev> {
    let mut sockets = HashMap::new();
    for mut chardev in guest.after("-chardev").map(options) {
        if let (Some(id), Some(path)) = (chardev.remove("id"), chardev.remove("path")) {
            sockets.insert(id, (path, chardev.get("server").is_some_and(|value| is_on(value))));
        }
    }
    let mut netdevs = Vec::new();
    for netdev in guest.after("-netdev").map(options) {
        let kind = netdev.get("type").or_else(|| netdev.get(""));
        let socket = netdev.get("chardev").and_then(|id| sockets.get(id));
        if let (Some("vhost-user"), Some((path, serves))) = (kind.map(String::as_str), socket) {
            let queues = netdev.get("queues").and_then(|text| text.parse().ok()).unwrap_or(1);
            netdevs.push(Netdev { path: path.clone(), serves: *serves, queues });
        }
    }
    netdevs
}

/// QEMU's options: `socket,id=c0,server=on`, whose first word has no key, or a JSON object.
fn options(text: &str) -> HashMap<String, String> {
    if let Ok(Json::Object(object)) = serde_json::from_str(text) {
        let word = |value: Json| match value {
            Json::String(text) => text,
            other => other.to_string(),
        };
        return object.into_iter().map(|(key, value)| (key, word(value))).collect();
    }
    // A comma within a value is written twice.
    let escaped = text.replace(",,", "\0");
    let parts = escaped.split(',').enumerate();
    let pair = |(at, part): (usize, &str)| {
        let part = part.replace('\0', ",");
        match part.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None if at == 0 => (String::new(), part),
            None => (part, "on".to_owned()),
        }
    };
    parts.map(pair).collect()
}

/// QEMU's words for true; `server` and `share` may also stand alone.
fn is_on(value: &str) -> bool {
    ["on", "yes", "true", "y"].contains(&value)
}
