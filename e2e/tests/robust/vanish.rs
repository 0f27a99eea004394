//! Devices that vanish and come back: their port waits, says why, and comes up by itself.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitch_e2e::raw::mac;
use vswitch_e2e::{Daemon, Need, Netns, need, until_ok};

use crate::rig::{
    LIMIT, Station, Talk, books, config, daemon, host_ip, mac_text, wait_port, wait_status,
};

/// The messages of all events about a port.
fn said_of(daemon: &Daemon, port: &str) -> Result<String> {
    let (status, lines) = daemon.http("GET", "/v1/events", "")?;
    ensure!(status == 200, "{status} {lines}");
    let subject = format!("port {port}");
    let mut messages = String::new();
    for line in lines.lines() {
        // Some lines are the sizes of the chunks they came in.
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        if event["subject"] == *subject {
            messages += event["message"].as_str().context("no message")?;
            messages.push('\n');
        }
    }
    Ok(messages)
}

#[test]
fn a_netdev_comes_back_by_itself() -> Result<()> {
    need!("a_netdev_comes_back_by_itself", Need::Root, Need::Tun, Need::Binaries);
    let (a, b, c) = (Station::new(1)?, Station::new(2)?, Station::new(3)?);
    let more = "[[port]]\nname = \"nd\"\ntype = \"netdev\"\ndevice = \"vn0\"\nbridge = \"br0\"\n";
    let mut daemon = daemon(&[&a, &b], more)?;
    // Not there yet.
    let waiting = wait_port(&daemon, "nd", "waiting")?;
    ensure!(waiting["reason"].as_str().is_some_and(|r| r.contains("vn0")), "{waiting}");
    wait_status(&daemon, 3)?;
    let talk = Talk::start(&a, &b)?;
    let address = mac_text(mac(3));
    for round in 0..3 {
        let place = format!("netns {}", c.netns.name());
        host_ip(
            &daemon,
            &format!("link add vn0 up type veth peer name s3 address {address} {place}"),
        )?;
        c.netns.ip("link set s3 up")?;
        c.plug(&[])?;
        wait_port(&daemon, "nd", "up")?;
        wait_status(&daemon, 0)?;
        until_ok(LIMIT, "the device to carry frames", || c.reaches(a.ip()))?;
        if round == 1 {
            // It moves away instead: gone from here as well.
            host_ip(&daemon, &format!("link set vn0 {place}"))?;
            c.netns.ip("link del vn0")?;
        } else {
            host_ip(&daemon, "link del vn0")?;
        }
        let gone = wait_port(&daemon, "nd", "waiting")?;
        ensure!(gone["reason"].as_str().is_some_and(|r| r.contains("vn0")), "{gone}");
        ensure!(gone["hint"].is_string() && gone["link"] == false, "{gone}");
        let out = daemon.ctl("status")?.code_is(3)?;
        ensure!(out.stdout.contains("nd"), "{out}");
    }
    ensure!(said_of(&daemon, "nd")?.contains("deleted"), "{}", said_of(&daemon, "nd")?);
    talk.stop_whole(&daemon)?;
    books(&daemon)?;
    daemon.stop()
}

#[test]
fn a_tap_deleted_from_outside_is_made_again() -> Result<()> {
    need!("a_tap_deleted_from_outside_is_made_again", Need::Root, Need::Tun, Need::Binaries);
    let (a, b, c) = (Station::new(1)?, Station::new(2)?, Station::new(3)?);
    let mut daemon = daemon(&[&a, &b, &c], "")?;
    daemon.wait_healthy()?;
    let talk = Talk::start(&a, &b)?;
    for _ in 0..3 {
        until_ok(LIMIT, "the TAP to carry frames", || c.reaches(a.ip()))?;
        let index =
            |s: &Station| s.netns.ip("-j link show s3")?.json().map(|j| j[0]["ifindex"].clone());
        let old = index(&c)?;
        c.netns.ip("link del s3")?;
        until_ok(LIMIT, "another device of that name", || {
            ensure!(index(&c)? != old);
            Ok(())
        })?;
        wait_port(&daemon, "s3", "up")?;
        wait_status(&daemon, 0)?;
        c.plug(&[])?;
    }
    until_ok(LIMIT, "the TAP to carry frames", || c.reaches(a.ip()))?;
    let said = said_of(&daemon, "s3")?;
    ensure!(said.contains("device s3 was deleted"), "{said}");
    talk.stop_whole(&daemon)?;
    books(&daemon)?;
    daemon.stop()
}

#[test]
fn a_tap_waits_for_its_namespace() -> Result<()> {
    need!("a_tap_waits_for_its_namespace", Need::Root, Need::Tun, Need::Binaries);
    let (a, b) = (Station::new(1)?, Station::new(2)?);
    let name = {
        let gone = Netns::new("late")?;
        gone.name().to_owned()
    };
    let more = format!(
        "[[port]]\nname = \"late\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{name}\"\n"
    );
    let mut daemon = Daemon::start(&config(&[&a, &b], &more))?;
    a.plug(&[&b])?;
    b.plug(&[&a])?;
    let talk = Talk::start(&a, &b)?;
    for round in 0..2 {
        let waiting = wait_port(&daemon, "late", "waiting")?;
        ensure!(waiting["reason"].as_str().is_some_and(|r| r.contains(&name)), "{waiting}");
        wait_status(&daemon, 3)?;
        let late = Netns::named(&name)?;
        wait_port(&daemon, "late", "up")?;
        wait_status(&daemon, 0)?;
        late.addr("late", "192.0.2.77/24")?;
        let answer = vswitch_e2e::ping(&late, &a.ip().to_string(), 3)?;
        ensure!(answer.received > 0, "round {round}: {answer:?}");
    }
    wait_port(&daemon, "late", "waiting")?;
    talk.stop_whole(&daemon)?;
    books(&daemon)?;
    daemon.stop()
}
