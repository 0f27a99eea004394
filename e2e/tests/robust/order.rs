//! The configuration file against what was made through the API, in every order, after a clean
//! stop and after a crash.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vswitch_e2e::{Cmd, Daemon, Need, Output, need};

use crate::rig::api_is;

const FILE: &str = "version = 1\n[[bridge]]\nname = \"br0\"\n[[bridge]]\nname = \"old\"\n";
const CHANGED: &str =
    "version = 1\n[[bridge]]\nname = \"br0\"\nageing = \"77s\"\n[[bridge]]\nname = \"new\"\n";

/// Every bridge as name, ageing and origin.
fn bridges(daemon: &Daemon) -> Result<Vec<(String, u64, String)>> {
    let shown = api_is(daemon, 200, "GET", "/v1/bridges", &Value::Null)?;
    let items = shown["items"].as_array().context("no items")?;
    items
        .iter()
        .map(|b| {
            let text = |key: &str| Some(b[key].as_str()?.to_owned());
            Some((text("name")?, b["ageing"].as_u64()?, text("origin")?))
        })
        .collect::<Option<_>>()
        .context("a bridge without name, ageing or origin")
}

fn is(daemon: &Daemon, expected: &[(&str, u64, &str)]) -> Result<()> {
    let found = bridges(daemon)?;
    let expected: Vec<_> =
        expected.iter().map(|(n, a, o)| ((*n).to_owned(), *a, (*o).to_owned())).collect();
    ensure!(found == expected, "expected {expected:?}, found {found:?}");
    Ok(())
}

fn end(daemon: &mut Daemon, crash: bool) -> Result<()> {
    if crash { daemon.kill9() } else { daemon.stop() }
}

/// Starts it by hand, expecting that it ends by itself.
fn fails_to_start(daemon: &Daemon) -> Result<Output> {
    let words = daemon.command_line()?;
    let netns = daemon.netns().context("no namespace")?;
    let out = Cmd::new(&words[0]).args(&words[1..]).netns(netns).run()?;
    ensure!(out.code != 0 && out.code != 124, "it started: {out}");
    ensure!(!out.stderr.contains("panicked"), "{out}");
    Ok(out)
}

fn orders(crash: bool) -> Result<()> {
    let mut daemon = Daemon::start(FILE)?;
    let add = |daemon: &Daemon, name: &str| {
        let body = json!({ "name": name, "ageing": "60s" });
        api_is(daemon, 200, "POST", "/v1/bridges", &body).map(drop)
    };
    add(&daemon, "mine")?;
    // A file's object that the API changed belongs to whom the API says; it must survive.
    api_is(&daemon, 200, "PATCH", "/v1/bridges/old", &json!({ "ageing": "99s" }))?;
    let before = bridges(&daemon)?;

    // The file is what it was: the store is used, and all changes are there.
    end(&mut daemon, crash)?;
    daemon.restart()?;
    ensure!(bridges(&daemon)? == before, "{before:?} became {:?}", bridges(&daemon)?);

    // Touched, but the same in content: still unchanged.
    end(&mut daemon, crash)?;
    daemon.write_config(FILE)?;
    daemon.restart()?;
    ensure!(bridges(&daemon)? == before, "{before:?} became {:?}", bridges(&daemon)?);
    api_is(&daemon, 200, "DELETE", "/v1/bridges/old", &Value::Null)?;

    // It changed: its objects are replaced, those of the API stay.
    end(&mut daemon, crash)?;
    daemon.write_config(CHANGED)?;
    daemon.restart()?;
    let replaced = [("br0", 77, "file"), ("mine", 60, "api"), ("new", 300, "file")];
    is(&daemon, &replaced)?;

    // It names what the API made, in other words: an error that names both, and nothing changes.
    end(&mut daemon, crash)?;
    let collides = format!("{CHANGED}[[bridge]]\nname = \"mine\"\nageing = \"20s\"\n");
    daemon.write_config(&collides)?;
    let out = fails_to_start(&daemon)?.code_is(6)?;
    for part in ["error[E0303]", "mine", "api", "--config-wins"] {
        ensure!(out.stderr.contains(part), "{part:?} is missing: {out}");
    }
    daemon.write_config(CHANGED)?;
    daemon.restart()?;
    is(&daemon, &replaced)?;

    // Unless the file is to win.
    end(&mut daemon, crash)?;
    daemon.write_config(&collides)?;
    let words = daemon.command_line()?;
    let netns = daemon.netns().context("no namespace")?.to_owned();
    let mut wins = Cmd::new(&words[0])
        .args(&words[1..])
        .arg("--config-wins")
        .netns(&netns)
        .spawn(std::process::Stdio::null(), std::process::Stdio::null())?;
    vswitch_e2e::until_ok(crate::rig::LIMIT, "the file to win", || {
        is(&daemon, &[("br0", 77, "file"), ("mine", 20, "file"), ("new", 300, "file")])
    })?;
    if crash {
        wins.kill()?;
    } else {
        ensure!(wins.terminate(crate::rig::LIMIT)? == 0, "no clean end");
    }
    // It won for good: the next start needs no option.
    daemon.restart()?;
    is(&daemon, &[("br0", 77, "file"), ("mine", 20, "file"), ("new", 300, "file")])?;
    daemon.stop()
}

#[test]
fn file_against_store_after_a_clean_stop() -> Result<()> {
    need!("file_against_store_after_a_clean_stop", Need::Root, Need::Tun, Need::Binaries);
    orders(false)
}

#[test]
fn file_against_store_after_a_crash() -> Result<()> {
    need!("file_against_store_after_a_crash", Need::Root, Need::Tun, Need::Binaries);
    orders(true)
}
