//! The binary against a daemon that says what the test wants: exit codes, the shape of errors, of
//! tables and of JSON.

mod bundle;
mod fake;
mod overlay;

use serde_json::{Value, json};

use fake::{Fake, Ran};

fn port(name: &str, state: &str) -> Value {
    json!({
        "name": name, "type": "netdev", "bridge": "br0", "state": state, "link": state == "up",
        "blocked": false, "vlan": "access 10", "queues": 1, "device": "vnet7",
        "reason": if state == "up" { Value::Null } else { "no such\ndevice".into() },
        "offloads": { "csum": true, "tso4": true, "tso6": false, "uso": false },
        "counters": { "rx-frames": 12, "rx-bytes": 900, "tx-frames": 7, "tx-bytes": 420,
            "drops": 1, "missed-rx": 0, "lost-after-tx": 0, "fdb": 2 },
        "origin": "file", "revision": 3,
        "config": { "name": name, "type": "netdev", "device": "vnet7", "bridge": "br0", "access": 10 },
    })
}

fn mutation(realised: bool, reason: Option<&str>) -> Value {
    json!({ "revision": 4, "realised": realised, "objects": [{
        "object": "port", "name": "web", "action": "added", "realised": realised,
        "reason": reason, "hint": reason.map(|_| "modprobe tun"),
    }] })
}

fn error(code: &str, message: &str) -> Value {
    json!({ "error": { "code": code, "message": message, "hint": "do that" } })
}

#[test]
fn tables_when_piped_are_plain_and_one_line_a_row() {
    let fake = Fake::new();
    fake.on(
        "GET",
        "/v1/ports",
        200,
        &json!({ "items": [port("vm7", "up"), port("vm8", "waiting")] }),
    );
    let ran = fake.run(&["port"]);
    ran.ends(0);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.stdout);
    assert!(lines[0].starts_with("NAME  TYPE    STATE    BRIDGE  VLAN"), "{}", lines[0]);
    assert!(lines[2].contains("waiting") && lines[2].ends_with("no such device"), "{}", lines[2]);
    assert!(!ran.stdout.contains('\x1b'), "no colour in a pipe");
    let bare = fake.run(&["port", "show", "--no-headers"]);
    assert_eq!(bare.stdout.lines().count(), 2);
    let wide = fake.run(&["-o", "wide", "port"]);
    assert!(wide.stdout.contains("OFFLOADS") && wide.stdout.contains("csum,tso4"));
}

#[test]
fn json_is_one_object_with_items() {
    let fake = Fake::new();
    let ports = [port("vm7", "up"), port("vm8", "failed")];
    fake.on("GET", "/v1/ports", 200, &json!({ "items": ports }));
    fake.on("GET", "/v1/ports/vm7", 200, &ports[0]);
    for args in [&["-j", "port"][..], &["port", "show", "-o", "json"], &["--json", "port", "show"]]
    {
        let out: Value = serde_json::from_str(&fake.run(args).ends(0).stdout).unwrap();
        assert_eq!(out["items"][1]["state"], "failed");
        assert_eq!(out["items"][0]["config"]["access"], 10);
    }
    let one: Value =
        serde_json::from_str(&fake.run(&["-j", "port", "show", "vm7"]).stdout).unwrap();
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    let lines = fake.run(&["-o", "jsonl", "port"]).stdout;
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert_eq!(lines.lines().count(), 2);
}

#[test]
fn exit_codes_and_errors() {
    let fake = Fake::new();
    fake.on("GET", "/v1/ports/web", 404, &error("E0204", "there is no port web"));
    fake.on("POST", "/v1/ports", 409, &error("E0301", "there is a port web already"));
    fake.on("DELETE", "/v1/ports/web", 404, &error("E0204", "there is no port web"));
    let ran = fake.run(&["port", "show", "web"]);
    ran.ends(4);
    assert_eq!(ran.stderr, "error[E0204]: there is no port web\nhint: do that\n");
    assert_eq!(ran.stdout, "");
    let add = ["port", "add", "web", "--type", "tap", "--bridge", "br0"];
    fake.run(&add).ends(6);
    fake.run(&[&add[..], &["--if-not-exists"]].concat()).ends(0);
    fake.run(&["port", "del", "web"]).ends(4);
    fake.run(&["port", "del", "web", "--if-exists"]).ends(0);
    // Only what it is for is let pass.
    fake.on("POST", "/v1/ports", 422, &error("E0101", "port.web.mtu: 7 is out of range"));
    fake.run(&[&add[..], &["--if-not-exists"]].concat()).ends(6);
    fake.on("GET", "/v1/cpu", 500, &json!("what is this"));
    fake.run(&["cpu"]).ends(5);
}

#[test]
fn without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().to_str().unwrap();
    let ran = fake::run(&["--run-dir", run_dir, "status"]);
    ran.ends(5);
    assert!(ran.stderr.starts_with("error[E0911]: cannot reach vswitchd on "), "{}", ran.stderr);
    assert!(ran.stderr.contains("\nhint: start it: sudo systemctl start vswitchd"));
    let ran = fake::run(&["--run-dir", run_dir, "version"]);
    ran.ends(0);
    assert!(ran.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", ran.stdout);
}

#[test]
fn wrong_command_lines() {
    for (args, hint) in [
        (&["prot"][..], "'port'"),
        (&["port", "sohw"], "'show'"),
        (&["port", "add"], "--help"),
        (&["port", "add", "web", "--type", "netdv"], "'netdev'"),
        (&["port", "add", "web", "--isolatd"], "'--isolated'"),
        (&["vlan", "add", "4095", "--port", "web"], "--help"),
        (&["config", "apply", "x", "--confirm", "60"], "--help"),
        (&[], "--help"),
    ] {
        let ran = fake::run(args);
        ran.ends(2);
        assert!(ran.stderr.starts_with("error[E0001]: "), "{args:?}\n{}", ran.stderr);
        let last = ran.stderr.lines().last().unwrap();
        assert!(last.starts_with("hint: ") && last.contains(hint), "{args:?}\n{}", ran.stderr);
    }
    fake::run(&["--help"]).ends(0);
    fake::run(&["--version"]).ends(0);
}

#[test]
fn accepted_but_not_realised_says_why() {
    let fake = Fake::new();
    let reason = "opening /dev/net/tun: no such file";
    fake.on("POST", "/v1/ports", 202, &mutation(false, Some(reason)));
    let ran = fake.run(&["port", "add", "web", "--type", "tap", "--bridge", "br0"]);
    ran.ends(7);
    assert_eq!(ran.stdout, "port web added\n");
    let told = format!(
        "error[E0501]: port web is added, but not realised: {reason}\nhint: modprobe tun\n"
    );
    assert_eq!(ran.stderr, told);
    fake.on("POST", "/v1/ports", 200, &mutation(true, None));
    let ran = fake.run(&["-j", "port", "add", "web", "--type", "tap", "--bridge", "br0"]);
    ran.ends(0);
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap()["realised"], true);
}

#[test]
fn options_become_the_keys_of_the_file() {
    let fake = Fake::new();
    for (method, path) in [
        ("POST", "/v1/ports"),
        ("PATCH", "/v1/ports/web"),
        ("POST", "/v1/bridges"),
        ("POST", "/v1/vlans"),
        ("DELETE", "/v1/vlans/web/10"),
    ] {
        fake.on(method, path, 200, &mutation(true, None));
    }
    let sent = |args: &[&str]| {
        fake.run(args).ends(0);
        fake.last_body()
    };
    let add = "port add web --type tap --bridge br0 --trunk 10,20-29 --native 1 --isolated \
               --persist=false --max-fdb off --mtu 1400 --netns web";
    let add: Vec<_> = add.split_whitespace().chain(["--storm-limit", "5 kpps"]).collect();
    assert_eq!(
        sent(&add),
        json!({
            "name": "web", "type": "tap", "bridge": "br0", "trunk": [10, "20-29"], "native": 1,
            "isolated": true, "persist": false, "max-fdb": "off", "mtu": 1400, "netns": "web",
            "storm-limit": "5 kpps",
        })
    );
    // What is sent is what the file's reader takes.
    vswitch_api::config::port_from_json(&fake.last_body()).unwrap();
    let set = sent(&["port", "set", "web", "--access", "20", "--unset", "mtu"]);
    assert_eq!(set, json!({ "access": 20, "mtu": null }));
    let bridge = sent(&["br", "add", "br1", "--ageing", "60s", "--learning=false"]);
    assert_eq!(bridge, json!({ "name": "br1", "ageing": "60s", "learning": false }));
    let vlan = sent(&["vlan", "add", "10", "--port", "web", "--native"]);
    assert_eq!(vlan, json!({ "port": "web", "vlan": 10, "mode": "native" }));
    fake.run(&["vlan", "del", "10", "--port", "web"]).ends(0);
}

#[test]
fn status_says_degraded() {
    let fake = Fake::new();
    let mut status = json!({
        "version": "0.1.0", "datapath": "tap", "uptime": 3700, "revision": 4, "workers": 2,
        "bridges": 1, "ports": { "up": 1, "down": 0, "waiting": 1, "failed": 0 },
        "fdb": { "used": 2, "max": 1048576 }, "drops-per-second": 0.5, "degraded": true,
        "warnings": [{ "subject": "port vm7", "message": "waits for vnet7", "hint": "start the guest" }],
        "limits": { "ports": 4096, "bridges": 4096, "fdb-bytes": 33554432 },
    });
    fake.on("GET", "/v1/status", 200, &status);
    let ran = fake.run(&["status"]);
    ran.ends(3);
    for words in ["1 up, 0 down, 1 waiting", "port vm7: waits for vnet7", "hint: start the guest"] {
        assert!(ran.stdout.contains(words), "{words}\n{}", ran.stdout);
    }
    status["degraded"] = json!(false);
    fake.on("GET", "/v1/status", 200, &status);
    let ran = fake.run(&["show", "-j"]);
    ran.ends(0);
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap()["workers"], 2);
}

#[test]
fn the_fdb() {
    let fake = Fake::new();
    let entry = |mac: &str, kind: &str| {
        json!({ "bridge": "br0", "vlan": 10, "mac": mac, "port": "web", "type": kind, "sticky": true,
            "age": 3 })
    };
    let mac = "52:54:00:00:00:01";
    let list = json!({ "items": [entry(mac, "learned")] });
    fake.on("GET", "/v1/fdb?port=web&vlan=10", 200, &list);
    let ran = fake.run(&["fdb", "--port", "web", "--vlan", "10"]);
    ran.ends(0);
    assert!(ran.stdout.contains("learned,sticky"), "{}", ran.stdout);
    fake.on("GET", "/v1/ports/web", 200, &port("web", "up"));
    fake.on("POST", "/v1/fdb", 200, &json!({ "done": 1 }));
    fake.run(&["fdb", "add", mac, "--port", "web", "--vlan", "10", "--sticky"]).ends(0);
    let sent = &fake.last_body()["entries"][0];
    assert_eq!((&sent["bridge"], &sent["type"]), (&json!("br0"), &json!("static")));
    let file = fake.file("entries", &format!("{0}\n{0}\n", entry(mac, "static")));
    fake.run(&["fdb", "add", "--from", &file]).ends(0);
    assert_eq!(fake.last_body()["entries"].as_array().unwrap().len(), 2);
    fake.on(
        "POST",
        "/v1/fdb",
        200,
        &json!({ "done": 0, "refused": [{ "index": 0, "reason": "no such bridge" }] }),
    );
    fake.run(&["fdb", "add", "--from", &file]).ends(7);
    fake.on("GET", "/v1/bridges", 200, &json!({ "items": [] }));
    fake.run(&["fdb", "del", mac]).ends(4);
    fake.on("POST", "/v1/fdb/flush", 200, &json!({ "done": 12 }));
    assert_eq!(fake.run(&["fdb", "flush"]).ends(0).stdout, "12 entries flushed\n");
}

#[test]
fn streams() {
    let fake = Fake::new();
    let learned = json!({ "time": "2026-01-31T12:00:00.000Z", "event": "moved", "bridge": "br0",
        "vlan": 0, "mac": "52:54:00:00:00:01", "port": "b", "from": "a" });
    fake.text("/v1/fdb/monitor", &format!("{learned}\n{learned}\n"));
    let ran = fake.run(&["fdb", "monitor"]);
    ran.ends(0);
    assert!(ran.stdout.contains("moved    52:54:00:00:00:01 br0 on b from a\n"), "{}", ran.stdout);
    let lines = fake.run(&["-o", "jsonl", "fdb", "monitor"]).stdout;
    assert_eq!(lines.lines().count(), 2);
    let event = json!({ "number": 1, "time": "2026-01-31T12:00:00.000Z", "level": "warn",
        "event": "loop-guard", "subject": "port web", "message": "blocked for 30 s" });
    fake.text("/v1/events", &format!("{event}\n"));
    let ran = fake.run(&["event"]);
    assert!(ran.stdout.contains("port web: blocked for 30 s"), "{}", ran.stdout);
    let all: Value = serde_json::from_str(&fake.run(&["-j", "event"]).stdout).unwrap();
    assert_eq!(all["items"][0]["number"], 1);
    fake.text("/v1/metrics", "vswitch_up 1\n");
    assert_eq!(fake.run(&["metrics"]).ends(0).stdout, "vswitch_up 1\n");
}

#[test]
fn configurations() {
    let fake = Fake::new();
    let good = fake.file("good.toml", "version = 1\n");
    let bad = fake.file("bad.toml", "version = 1\n[deamon]\n[[port]]\nname = \"p\"\n");
    // Needs no daemon: nothing answers in this directory.
    let ran = fake::run(&["--run-dir", "/nonexistent", "config", "validate", &good]);
    ran.ends(0);
    let ran = fake::run(&["--run-dir", "/nonexistent", "config", "validate", &bad]);
    ran.ends(1);
    assert!(ran.stderr.starts_with("error[E0101]: "), "{}", ran.stderr);
    let place = format!("{bad}:2:2: deamon: unknown key (did you mean `daemon`?)");
    assert!(ran.stderr.contains(&place), "{place}\n{}", ran.stderr);
    let ran = fake::run(&["-j", "config", "validate", &bad]);
    ran.ends(1);
    let out: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&out["valid"], &out["items"][0]["line"]), (&json!(false), &json!(2)));
    fake.run(&["config", "apply", &bad]).ends(6);
    fake.run(&["config", "validate", "/nonexistent/file"]).ends(6);
    fake.on("POST", "/v1/config/apply", 200, &mutation(true, None));
    fake.run(&["config", "apply", &good, "--confirm", "1m"]).ends(0);
    assert_eq!(fake.last_body(), json!({ "toml": "version = 1\n", "confirm": 60 }));
    let change = json!({ "change": "changed", "object": "bridge", "name": "br0", "key": "ageing",
        "old": "\"300s\"", "new": "\"60s\"" });
    fake.on("POST", "/v1/config/diff", 200, &json!({ "revision": 3, "changes": [change] }));
    let ran = fake.run(&["config", "diff", &good]);
    ran.ends(1);
    assert_eq!(ran.stdout, "~ bridge br0 ageing: \"300s\" -> \"60s\"\n");
    fake.on("POST", "/v1/config/diff", 200, &json!({ "revision": 3, "changes": [] }));
    fake.run(&["config", "diff", &good]).ends(0);
    let reply = json!({ "revision": 3, "toml": "version = 1\n", "config": { "version": 1 } });
    fake.on("GET", "/v1/config", 200, &reply);
    assert_eq!(fake.run(&["config"]).ends(0).stdout, "version = 1\n");
    fake.on("POST", "/v1/config/rollback", 404, &error("E0207", "there is no revision 99"));
    fake.run(&["config", "rollback", "99"]).ends(4);
    fake.on(
        "GET",
        "/v1/config/history",
        200,
        &json!({ "items": [{ "revision": 3,
        "time": "2026-01-31T12:00:00.000Z", "origin": "api", "what": "port add web", "changes": 1,
        "current": true }] }),
    );
    assert!(fake.run(&["config", "history"]).ends(0).stdout.contains("port add web"));
    let schema: Value = serde_json::from_str(&fake::run(&["config", "schema"]).stdout).unwrap();
    assert!(schema["properties"]["port"]["items"]["properties"]["netns"].is_object());
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let bash = fake::run(&["completion", "bash"]);
    bash.ends(0);
    assert!(bash.stdout.contains("--storm-limit") && bash.stdout.contains("rollback"));
    let dir = tempfile::tempdir().unwrap();
    fake::run(&["man", "--dir", dir.path().to_str().unwrap()]).ends(0);
    let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(page("vswitch-ctl-port.1").contains("storm\\-limit"));
    assert!(page("vswitch-ctl.1").contains("Exit codes"));
    let tunnel = page("vswitch-ctl-tunnel.1");
    for words in [".SH PEERS ADD\n", "strict\\-reserved", "tunnel peers <NAME> del"] {
        assert!(tunnel.contains(words), "{words}\n{tunnel}");
    }
    assert!(page("vswitch.toml.5").contains("max\\-fdb\\-total"));
    let drops = page("vswitch-drops.7");
    for reason in switch_core::DropReason::ALL {
        assert!(drops.contains(&reason.name().replace('-', "\\-")), "{reason}");
    }
    fake::run(&["man", "nothing"]).ends(2);
}

/// `head` closes the pipe: that is no error of ours.
#[test]
fn a_reader_that_has_had_enough() {
    use std::io::Read as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_vswitch-ctl"))
        .args(["completion", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let out = child.wait_with_output().unwrap();
    let ran = Ran::from(out);
    ran.ends(0);
    assert_eq!(ran.stderr, "");
}

#[test]
fn doctor_judges_with_and_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().to_str().unwrap();
    let ran = fake::run(&["--run-dir", run_dir, "-j", "doctor"]);
    ran.ends(3);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&report["degraded"], &report["items"][0]["id"]),
        (&true.into(), &"daemon-silent".into())
    );
    assert!(report["items"][0]["fix"]["command"].as_str().unwrap().contains("systemctl start"));

    // A file is judged without one; this machine has no such CPU and no such device.
    let fake = Fake::new();
    let file = fake.file(
        "a.toml",
        "version = 1\n[daemon]\ndatapath = \"dpdk\"\ncpus = \"1023\"\n[[port]]\nname = \"vf0\"\n\
         type = \"dpdk\"\ndevargs = \"ffff:ff:1f.7\"\n",
    );
    let ran = fake.run(&["doctor", "--config", &file, "--only", "cpu,iommu"]);
    ran.ends(3);
    assert!(ran.stdout.starts_with(&format!("judged for {file}\n")), "{}", ran.stdout);
    for part in [
        "error   pci-absent       port vf0: there is no PCI function ffff:ff:1f.7",
        "\nerror   cpu-absent ",
        "\n          fix:  ",
    ] {
        assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
    }
    let lines = fake.run(&["-o", "jsonl", "doctor", "--config", &file, "--only", "vhost"]);
    let line: Value = serde_json::from_str(&lines.ends(0).stdout).unwrap();
    assert_eq!((&line["id"], &line["level"]), (&"vhost".into(), &"ok".into()));

    let bad = fake.file("bad.toml", "version = 1\n[[prot]]\n");
    let ran = fake.run(&["doctor", "--config", &bad]);
    ran.ends(6);
    assert!(ran.stderr.contains("bad.toml:2:3: prot: unknown key"), "{}", ran.stderr);
    fake.run(&["doctor", "--only", "cpus"]).ends(2);
}
