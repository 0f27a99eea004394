//! SIGKILL at random moments: what was acknowledged is there afterwards, and nothing by half.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use vswitch_e2e::{Cmd, Daemon, Need, need, size, until_ok};

use crate::rig::{LIMIT, Random, Station, api_is, books, config, daemon, request};

/// What was asked for: ageing and limit of every bridge but `br0`.
type Bridges = BTreeMap<String, (u64, u64)>;

/// One change, and what it makes of the bridges.
struct Step {
    method: &'static str,
    path: String,
    body: Value,
    then: Bridges,
}

/// Ten bridges in one change: either all of them are of a generation, or none is.
fn generation(number: u64) -> (String, Bridges) {
    let mut text = String::new();
    let mut bridges = Bridges::new();
    for n in 0..10 {
        let (name, ageing, limit) = (format!("g{n}"), 10 + number, 1000 + number);
        text +=
            &format!("[[bridge]]\nname = \"{name}\"\nageing = \"{ageing}s\"\nmax-fdb = {limit}\n");
        bridges.insert(name, (ageing, limit));
    }
    (text, bridges)
}

fn step(file: &str, now: &Bridges, random: &mut Random) -> Step {
    let number = random.below(100_000);
    let value = (10 + number, 1 + number);
    let body = json!({ "ageing": format!("{}s", value.0), "max-fdb": value.1 });
    let name = format!("k{}", random.below(20));
    let mut then = now.clone();
    if random.below(4) == 0 {
        let (text, bridges) = generation(number);
        then.extend(bridges);
        let body = json!({ "toml": format!("{file}{text}") });
        return Step { method: "POST", path: "/v1/config/apply".into(), body, then };
    }
    let path = format!("/v1/bridges/{name}");
    if !now.contains_key(&name) {
        let mut body = body;
        body["name"] = name.clone().into();
        then.insert(name, value);
        Step { method: "POST", path: "/v1/bridges".into(), body, then }
    } else if random.below(2) == 0 {
        then.insert(name, value);
        Step { method: "PATCH", path, body, then }
    } else {
        then.remove(&name);
        Step { method: "DELETE", path, body: Value::Null, then }
    }
}

/// What a client knows when the daemon is gone.
struct Known {
    acknowledged: Bridges,
    /// With the change that was not answered.
    unanswered: Bridges,
    changes: u64,
}

/// Changes one thing after the other until the daemon is gone. Tells of its first answer.
fn mutate(
    socket: PathBuf,
    file: String,
    start: Bridges,
) -> (JoinHandle<Result<Known>>, Receiver<()>) {
    let (tell, first) = sync_channel(1);
    let thread = std::thread::spawn(move || {
        let mut random = Random::new();
        let (mut now, mut changes) = (start, 0);
        loop {
            let step = step(&file, &now, &mut random);
            match request(&socket, step.method, &step.path, &step.body) {
                Ok((200, _)) => {
                    (now, changes) = (step.then, changes + 1);
                    let _ = tell.try_send(());
                }
                Ok((status, answer)) => {
                    bail!("{} {} {}: {status} {answer}", step.method, step.path, step.body)
                }
                Err(_) => {
                    return Ok(Known { acknowledged: now, unanswered: step.then, changes });
                }
            }
        }
    });
    (thread, first)
}

fn bridges(daemon: &Daemon) -> Result<Bridges> {
    let shown = api_is(daemon, 200, "GET", "/v1/bridges", &Value::Null)?;
    let mut bridges = Bridges::new();
    for item in shown["items"].as_array().context("no items")? {
        let name = item["name"].as_str().context("no name")?;
        let n = |key: &str| item[key].as_u64().with_context(|| format!("no {key}: {item}"));
        if name != "br0" {
            bridges.insert(name.to_owned(), (n("ageing")?, n("max-fdb")?));
        }
    }
    Ok(bridges)
}

/// Number, name and addresses of a station's device.
fn device(station: &Station) -> Result<Value> {
    let shown = station.netns.ip(&format!("-j addr show dev {}", station.name()))?.json()?;
    let device = &shown[0];
    Ok(json!([device["ifindex"], device["address"], device["addr_info"]]))
}

fn port_configs(daemon: &Daemon) -> Result<Vec<Value>> {
    let shown = api_is(daemon, 200, "GET", "/v1/ports", &Value::Null)?;
    let items = shown["items"].as_array().context("no items")?;
    Ok(items.iter().map(|port| json!([port["config"], port["origin"]])).collect())
}

/// Starts the daemon and kills it before it can have said that it is ready.
fn kill_while_starting(daemon: &Daemon, after: Duration) -> Result<()> {
    let words = daemon.command_line()?;
    let netns = daemon.netns().context("no namespace")?;
    let cmd = Cmd::new(Path::new(&words[0])).args(&words[1..]).netns(netns);
    let mut process = cmd.spawn(Stdio::null(), Stdio::null())?;
    std::thread::sleep(after);
    process.kill().map(drop)
}

#[test]
fn kills_at_random_moments_lose_nothing_acknowledged() -> Result<()> {
    let test = "kills_at_random_moments_lose_nothing_acknowledged";
    need!(test, Need::Root, Need::Tun, Need::Binaries);
    let (a, b) = (Station::new(1)?, Station::new(2)?);
    let mut daemon = daemon(&[&a, &b], "")?;
    daemon.wait_healthy()?;
    let file = config(&[&a, &b], "");
    let ports = port_configs(&daemon)?;
    let devices = (device(&a)?, device(&b)?);
    let mut random = Random::new();
    let mut known = Bridges::new();
    let (mut changes, mut unanswered) = (0, 0);
    let kills = size(12, 200);
    for kill in 0..kills {
        let (thread, first) =
            mutate(daemon.run_dir().join("api.sock"), daemon.config_text(&file), known.clone());
        // If it fails before its first answer, its end says why.
        let _ = first.recv();
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        daemon.kill9()?;
        let end = thread.join().map_err(|_| anyhow!("the client panicked"))??;
        changes += end.changes;
        if kill % 4 == 3 {
            kill_while_starting(&daemon, Duration::from_micros(random.below(60_000)))?;
        }
        daemon.restart()?;

        let found = bridges(&daemon)?;
        ensure!(
            found == end.acknowledged || found == end.unanswered,
            "kill {kill}: found {found:#?}\nacknowledged {:#?}\nwith the unanswered one {:#?}",
            end.acknowledged,
            end.unanswered
        );
        unanswered += u64::from(found == end.unanswered);
        ensure!(port_configs(&daemon)? == ports, "kill {kill}: the ports changed");
        ensure!((device(&a)?, device(&b)?) == devices, "kill {kill}: a device changed");
        until_ok(LIMIT, "traffic to be back", || a.reaches(b.ip()))?;
        known = found;
    }
    eprintln!("{kills} kills among {changes} changes; {unanswered} unanswered ones were done");
    daemon.wait_healthy()?;
    books(&daemon)?;
    daemon.stop()
}
