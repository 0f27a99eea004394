//! Configurations and machines that are not as they should be: what is attempted, why it fails, and
//! the command that mends it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use vswitch_e2e::{Cmd, Daemon, DaemonSpec, Need, Netns, bins, need, until};

use crate::abuse::binaries_for_all;
use crate::rig::{
    LIMIT, Station, Talk, api_is, books, config, daemon, host_ip, wait_port, wait_status,
};

const BAD: &str = "version = 1\n\
                   [[bridge]]\n\
                   name = \"br0\"\n\
                   agein = \"300s\"\n\
                   [[port]]\n\
                   name = \"web\"\n\
                   type = \"tab\"\n\
                   bridge = \"br1\"\n\
                   access = 5000\n\
                   [[port]]\n\
                   name = \"web\"\n\
                   type = \"tap\"\n\
                   storm-limit = 12\n";

#[test]
fn an_invalid_file_is_told_whole() -> Result<()> {
    need!("an_invalid_file_is_told_whole", Need::Root, Need::Binaries);
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, BAD)?;
    let start = |file: &Path| {
        Cmd::new(bins::binary("vswitchd")?)
            .arg("--config")
            .arg(file.display())
            .arg("--run-dir")
            .arg(dir.path().join("run").display())
            .arg("--state-dir")
            .arg(dir.path().join("state").display())
            .run()
    };
    let out = start(&file)?.code_is(6)?;
    ensure!(out.stderr.starts_with("error[E0101]: ") && out.stderr.contains("\nhint: "), "{out}");
    // Line, key, and the nearest known word where there is one.
    for (line, part) in
        [(4, "agein"), (4, "ageing"), (7, "tab"), (9, "access"), (13, "storm-limit")]
    {
        let told =
            out.stderr.lines().any(|l| l.contains(&format!("line {line},")) && l.contains(part));
        ensure!(told, "line {line} and {part:?} are missing: {out}");
    }
    ensure!(!out.stderr.contains("panicked"), "{out}");
    for text in ["", "version = 2\n", "version = 1\n[[bridge]\n", "\u{0}\u{1}"] {
        std::fs::write(&file, text)?;
        let out = start(&file)?.code_is(6)?;
        ensure!(out.stderr.starts_with("error[E0101]: "), "{text:?}: {out}");
    }
    std::fs::write(&file, b"version = 1\n# \xff\xfe\n")?;
    start(&file)?.code_is(6)?;
    let out = start(&dir.path().join("nowhere.toml"))?.code_is(6)?;
    ensure!(out.stderr.contains("nowhere.toml") && out.stderr.contains("hint: "), "{out}");
    Ok(())
}

#[test]
fn a_reload_of_an_invalid_file_changes_nothing() -> Result<()> {
    need!("a_reload_of_an_invalid_file_changes_nothing", Need::Root, Need::Tun, Need::Binaries);
    let (a, b) = (Station::new(1)?, Station::new(2)?);
    let mut daemon = daemon(&[&a, &b], "")?;
    let talk = Talk::start(&a, &b)?;
    let before = api_is(&daemon, 200, "GET", "/v1/config", &Value::Null)?;
    daemon.write_config(BAD)?;
    daemon.allow("the configuration stays as it was");
    daemon.signal(Signal::SIGHUP)?;
    until(LIMIT, "the reload to be refused", || {
        let log = daemon.log();
        let told = log.lines().find(|l| l.contains("the configuration stays as it was"));
        Ok(told.map(str::to_owned))
    })
    .and_then(|told| {
        ensure!(told.contains("agein") && told.contains("storm-limit"), "{told}");
        Ok(())
    })?;
    let now = api_is(&daemon, 200, "GET", "/v1/config", &Value::Null)?;
    ensure!(now == before, "{before} became {now}");
    // A valid one is taken, and what did not change is not touched.
    daemon.write_config(&config(&[&a, &b], "[[bridge]]\nname = \"more\"\n"))?;
    daemon.signal(Signal::SIGHUP)?;
    until(LIMIT, "the reload", || {
        let (status, _) = daemon.http("GET", "/v1/bridges/more", "")?;
        Ok((status == 200).then_some(()))
    })?;
    talk.stop_whole(&daemon)?;
    books(&daemon)?;
    daemon.stop()
}

/// That a port says what was attempted, why it failed, and the command that mends it.
fn explains(port: &Value, parts: &[&str], hints: &[&str]) -> Result<()> {
    let text = |key: &str| port[key].as_str().unwrap_or_default().to_owned();
    let (reason, hint) = (text("reason"), text("hint"));
    ensure!(parts.iter().all(|p| reason.contains(p)), "{parts:?} are missing: {port}");
    ensure!(hints.iter().all(|p| hint.contains(p)), "{hints:?} are missing: {port}");
    Ok(())
}

#[test]
fn what_cannot_be_opened_is_explained() -> Result<()> {
    need!("what_cannot_be_opened_is_explained", Need::Root, Need::Tun, Need::Binaries);
    let (a, b) = (Station::new(1)?, Station::new(2)?);
    let mut daemon = daemon(&[&a, &b], "")?;
    daemon.allow("event=\"port-failed\"");
    let talk = Talk::start(&a, &b)?;
    let add = |body: Value| {
        // Accepted, and not realised.
        let answer = api_is(&daemon, 202, "POST", "/v1/ports", &body)?;
        ensure!(answer["realised"] == false, "{answer}");
        let name = body["name"].as_str().context("no name")?.to_owned();
        crate::rig::port(&daemon, &name)
    };
    let tap = |name: &str| json!({ "name": name, "type": "tap", "bridge": "br0" });
    let netdev = |device: &str| json!({ "name": device, "type": "netdev", "device": device, "bridge": "br0" });

    host_ip(&daemon, "link add taken type veth peer name far0")?;
    let port = add(tap("taken"))?;
    ensure!(port["state"] == "failed", "{port}");
    explains(&port, &["open TAP device taken", "no TAP"], &["ip link del taken"])?;

    let port = add(netdev("nowhere"))?;
    ensure!(port["state"] == "waiting", "{port}");
    explains(&port, &["nowhere"], &[])?;

    host_ip(&daemon, "link add used type veth peer name far1")?;
    host_ip(&daemon, "link set far1 up")?;
    host_ip(&daemon, "addr add 198.51.100.7/24 dev used")?;
    let port = add(netdev("used"))?;
    explains(&port, &["attach device used", "198.51.100.7"], &["ip addr del", "take-over"])?;
    wait_status(&daemon, 3)?;

    // What mends it is done, and the port comes up by itself.
    host_ip(&daemon, "addr del 198.51.100.7/24 dev used")?;
    host_ip(&daemon, "link del taken")?;
    for name in ["used", "taken"] {
        wait_port(&daemon, name, "up")?;
    }
    talk.stop_whole(&daemon)?;
    books(&daemon)?;
    daemon.stop()
}

/// A daemon that is started through a shell script of these lines.
fn through(dir: &Path, script: &str, text: &str, host: &Netns) -> Result<Daemon> {
    let bin = dir.join("bin");
    std::fs::create_dir(&bin)?;
    std::os::unix::fs::symlink(dir.join("vswitch-ctl"), bin.join("vswitch-ctl"))?;
    let wrapper = bin.join("vswitchd");
    std::fs::write(&wrapper, format!("#!/bin/sh\n{script}\n"))?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    let home = dir.join("daemon");
    std::fs::create_dir(&home)?;
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o777))?;
    let mut spec = DaemonSpec::new(text).allow("event=\"port-failed\"");
    spec.binaries = Some(bin);
    spec.dir = Some(home);
    spec.netns = Some(host.name().to_owned());
    spec.start()
}

const TWO: &str = "version = 1\n[[bridge]]\nname = \"br0\"\n\
                   [[port]]\nname = \"t0\"\ntype = \"tap\"\nbridge = \"br0\"\n\
                   [[port]]\nname = \"n0\"\ntype = \"netdev\"\ndevice = \"dm0\"\nbridge = \"br0\"\n";

#[test]
fn without_permission_ports_fail_and_say_so() -> Result<()> {
    let test = "without_permission_ports_fail_and_say_so";
    need!(test, Need::Root, Need::Tun, Need::Binaries, Need::Program("setpriv", "util-linux"));
    let (dir, host) = (tempfile::tempdir()?, Netns::new("host")?);
    binaries_for_all(dir.path())?;
    host.ip("link add dm0 up type veth peer name far0")?;
    host.ip("link set far0 up")?;
    let script = format!(
        "exec setpriv --reuid=65534 --regid=65534 --clear-groups {}/vswitchd \"$@\"",
        dir.path().display()
    );
    let mut daemon = through(dir.path(), &script, TWO, &host)?;
    for (name, attempted) in [("t0", "open TAP device t0"), ("n0", "attach device dm0")] {
        let port = wait_port(&daemon, name, "failed")?;
        explains(&port, &[attempted, "not permitted"], &["setcap cap_net_admin"])?;
    }
    let out = daemon.ctl("status")?.code_is(3)?;
    ensure!(out.stdout.contains("setcap"), "{out}");
    books(&daemon)?;
    daemon.stop()
}

#[test]
fn without_the_tun_driver_taps_fail_and_say_so() -> Result<()> {
    let test = "without_the_tun_driver_taps_fail_and_say_so";
    need!(test, Need::Root, Need::Tun, Need::Binaries, Need::Program("unshare", "util-linux"));
    let (dir, host) = (tempfile::tempdir()?, Netns::new("host")?);
    binaries_for_all(dir.path())?;
    host.ip("link add dm0 up type veth peer name far0")?;
    host.ip("link set far0 up")?;
    // Hidden from this process alone.
    let script = format!(
        "exec unshare -m sh -c 'mount -t tmpfs none /dev/net && exec {}/vswitchd \"$@\"' sh \"$@\"",
        dir.path().display()
    );
    let mut daemon = through(dir.path(), &script, TWO, &host)?;
    let port = wait_port(&daemon, "t0", "failed")?;
    explains(&port, &["open TAP device t0", "/dev/net/tun"], &["modprobe tun"])?;
    // What needs no TAP works.
    wait_port(&daemon, "n0", "up")?;
    daemon.ctl("status")?.code_is(3)?;
    books(&daemon)?;
    daemon.stop()
}
