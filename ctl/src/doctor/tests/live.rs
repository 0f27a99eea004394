//! What a daemon says.

use serde_json::{Value, json};
use vswitch_api::client::SOCKET_NAME;
use vswitch_api::{ApiError, Code};

use super::super::facts::Live;
use super::*;

const RUN_DIR: &str = "/run/vswitch";

fn live(status: &Value, ports: &[Value], mtu: &Value, drops: &Value) -> Box<Live> {
    let mut whole = json!({
        "version": env!("CARGO_PKG_VERSION"), "datapath": "tap", "uptime": 9, "revision": 3,
        "workers": 1, "bridges": 1, "ports": { "up": 1, "down": 0, "waiting": 0, "failed": 0 },
        "fdb": { "used": 0, "max": 9 }, "drops-per-second": 0.0, "degraded": false,
        "warnings": [], "limits": { "ports": 9, "bridges": 9, "fdb-bytes": 9 },
    });
    whole.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    Box::new(Live {
        status: serde_json::from_value(whole).unwrap(),
        ports: ports.iter().map(|port| serde_json::from_value(port.clone()).unwrap()).collect(),
        cpus: Vec::new(),
        mtu: serde_json::from_value(mtu.clone()).unwrap(),
        drops: serde_json::from_value(drops.clone()).unwrap(),
        config: serde_json::from_value(json!({
            "revision": 3, "toml": "version = 1\n", "config": {},
        }))
        .unwrap(),
    })
}

fn port(name: &str, mtu: u32, lost: &[&str]) -> Value {
    json!({
        "name": name, "type": "netdev", "bridge": "br0", "state": "up", "link": true,
        "blocked": false, "vlan": "-", "queues": 1, "device": name, "mtu": mtu, "lost": lost,
        "offloads": { "csum": true, "tso4": true, "tso6": false, "uso": false },
        "counters": { "rx-frames": 0, "rx-bytes": 0, "tx-frames": 0, "tx-bytes": 0, "drops": 0,
            "missed-rx": 0, "lost-after-tx": 0, "fdb": 0 },
        "origin": "file", "revision": 3,
        "config": { "name": name, "type": "netdev", "device": name, "bridge": "br0" },
    })
}

fn of(machine: &Machine, area: Area, daemon: Result<Box<Live>, ApiError>) -> Vec<Finding> {
    diagnose(&Facts::of_daemon(machine.root(), Path::new(RUN_DIR), daemon), &[area])
}

fn quiet() -> Box<Live> {
    live(&json!({}), &[], &json!({ "items": [], "ports": [] }), &json!([]))
}

#[test]
fn a_daemon_that_does_not_answer_is_told_with_what_is_seen_of_it() {
    let machine = Machine::new();
    let silent = || {
        let error = ApiError::new(Code::Unreachable, "cannot reach vswitchd");
        of(&machine, Area::Daemon, Err(error.with_hint("start it")))
    };
    let found = only(&silent(), "daemon-silent", Level::Warn);
    assert_eq!(command(&found), "start it");
    assert!(found.evidence.starts_with("no process"), "{found:#?}");
    machine.process(12, "vswitchd", "vswitchd --config x", "");
    assert!(only(&silent(), "daemon-silent", Level::Warn).evidence.starts_with("process 12 "));
    let denied = Err(ApiError::new(Code::NoPermission, "permission denied"));
    only(&of(&machine, Area::Daemon, denied), "daemon-permission", Level::Warn);
    // What only it knows is skipped, and not said to be good.
    let silent = Err(ApiError::new(Code::Unreachable, "x"));
    only(&of(&machine, Area::Mtu, silent), "mtu", Level::Skipped);
}

#[test]
fn without_a_daemon_the_packages_file_is_judged() {
    let machine = Machine::new();
    machine.file(super::super::facts::CONFIG_FILE, &format!("version = 1\n{DPDK}"));
    let error = || ApiError::new(Code::Unreachable, "x");
    let facts = Facts::of_daemon(machine.root(), Path::new(RUN_DIR), Err(error()));
    assert!(facts.on_dpdk());
    assert_eq!(facts.source, "/etc/vswitch/vswitch.toml");
    machine.file(super::super::facts::CONFIG_FILE, "rubbish");
    let facts = Facts::of_daemon(machine.root(), Path::new(RUN_DIR), Err(error()));
    assert!(facts.source.ends_with("/etc/vswitch/vswitch.toml is not valid"), "{}", facts.source);
}

#[test]
fn warnings_versions_and_the_sockets_permissions() {
    let machine = Machine::new();
    machine.file("/etc/group", "root:x:0:\nvswitch:x:990:me\n");
    only(&of(&machine, Area::Daemon, Ok(quiet())), "daemon", Level::Ok);
    let status = json!({ "version": "0.0.9", "warnings": [
        { "subject": "port vm7", "message": "waiting: no device vnet7", "hint": "make it" },
    ] });
    let found = of(
        &machine,
        Area::Daemon,
        Ok(live(&status, &[], &json!({ "items": [], "ports": [] }), &json!([]))),
    );
    let ids: Vec<_> = found.iter().map(|one| one.id).collect();
    assert_eq!(ids, ["daemon-warning", "daemon-version"]);
    assert_eq!((found[0].subject.as_str(), command(&found[0])), ("port vm7", "make it"));

    let socket = format!("{RUN_DIR}/{SOCKET_NAME}");
    machine.file(&socket, "").mode(&socket, 0o660);
    only(&of(&machine, Area::Daemon, Ok(quiet())), "daemon", Level::Ok);
    machine.mode(&socket, 0o666);
    let open = only(&of(&machine, Area::Daemon, Ok(quiet())), "socket-open", Level::Error);
    assert_eq!(command(&open), format!("chmod 0660 {socket}"));
    machine.mode(&socket, 0o660).file("/etc/group", "root:x:0:\n");
    only(&of(&machine, Area::Daemon, Ok(quiet())), "socket-group", Level::Note);
}

#[test]
fn buffers_on_ordinary_pages() {
    let machine = Machine::new();
    let pool = |hugepages: bool| {
        let pool =
            json!({ "name": "p", "buffers": 9, "free": 9, "bytes": 9, "hugepages": hugepages });
        let mut said = live(
            &json!({ "pools": [pool] }),
            &[],
            &json!({ "items": [], "ports": [] }),
            &json!([]),
        );
        said.config.toml = format!("version = 1\n{DPDK}");
        of(&machine, Area::Hugepages, Ok(said))
    };
    only(&pool(true), "hugepages", Level::Ok);
    only(&pool(false), "hugepages-unused", Level::Warn);
}

#[test]
fn mtus_and_offloads() {
    let machine = Machine::new();
    let none = json!({ "items": [], "ports": [] });
    let said = live(&json!({}), &[port("a", 1500, &[]), port("b", 1500, &[])], &none, &json!([]));
    only(&of(&machine, Area::Mtu, Ok(said.clone())), "mtu", Level::Ok);
    only(&of(&machine, Area::Offload, Ok(said)), "offload", Level::Ok);
    let mtu = json!({ "items": [], "ports": [{ "port": "b", "bridge": "br0", "mtu": 9000,
        "allowed": 1450, "tunnel": "t", "fits": false }] });
    let drops = json!([{ "port": "a", "reason": "vnet-header", "side": "in", "frames": 4,
        "cause": "bad", "cure": "turn its offloads off" }]);
    let ports = [port("a", 1500, &[]), port("b", 9000, &["IFF_VNET_HDR: EINVAL"])];
    let said = live(&json!({}), &ports, &mtu, &drops);
    let found = of(&machine, Area::Mtu, Ok(said.clone()));
    assert_eq!(found.iter().map(|one| one.id).collect::<Vec<_>>(), ["mtu-tunnel", "mtu-mixed"]);
    assert_eq!(command(&found[0]), "vswitch-ctl port set b --mtu 1450");
    assert_eq!(found[1].evidence, "a 1500, b 9000");
    let found = of(&machine, Area::Offload, Ok(said));
    assert_eq!(
        found.iter().map(|one| one.id).collect::<Vec<_>>(),
        ["offload-lost", "offload-drops"]
    );
    assert_eq!(command(&found[1]), "turn its offloads off");
}
