//! One port sends from millions of addresses: the others keep theirs, and their traffic to
//! themselves.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitch_e2e::raw::{Sender, ethernet, mac};
use vswitch_e2e::{Daemon, Need, device_counter, need, size, until_ok};

use crate::rig::config;
use crate::rig::{LIMIT, Random, Station, Talk, Usage, api_is, books, mac_text, wait_fdb};

/// Stations behind `s2`, besides its own address.
const BEHIND: u32 = 50;
/// Memory the flood may cost: buffers, and the pages of the FDB's table (32 bytes an entry of the
/// daemon's 1,048,576) that had not been touched before, KiB.
const MORE_KIB: u64 = (32 << 10) + (16 << 10);

fn entries_on(daemon: &Daemon, port: &str) -> Result<Vec<Value>> {
    let fdb = api_is(daemon, 200, "GET", &format!("/v1/fdb?port={port}"), &Value::Null)?;
    fdb["items"].as_array().cloned().context("no items")
}

fn received(daemon: &Daemon, port: &str) -> Result<(u64, u64)> {
    let stats = api_is(daemon, 200, "GET", &format!("/v1/ports/{port}/stats"), &Value::Null)?;
    let n = |key: &str| stats["counters"][key].as_u64().context("no counter");
    Ok((n("rx-frames")?, n("missed-rx")?))
}

/// Sends from random addresses until the switch has got `wanted` frames. How many were sent.
fn flood(daemon: &Daemon, from: &Station, wanted: u64, to: impl Fn(u64) -> [u8; 6]) -> Result<u64> {
    let sender = Sender::open(&from.netns, &from.name())?;
    let mut random = Random::new();
    let (start, _) = received(daemon, &from.name())?;
    let mut sent = 0;
    while received(daemon, &from.name())?.0 < start + wanted {
        for _ in 0..wanted.clamp(1, 20_000) {
            let number = random.below(1 << 46).to_be_bytes();
            let mut source = [0; 6];
            source.copy_from_slice(&number[2..]);
            source[0] = source[0] & 0xfc | 0x02;
            sender.send_or_lose(&ethernet(to(sent), source, &[], 0x88b5, b""))?;
            sent += 1;
        }
    }
    Ok(sent)
}

fn limits_hold(limit_of_port: Option<u32>, bridge_limit: u32) -> Result<()> {
    let stations = [Station::new(1)?, Station::new(2)?, Station::new(3)?, Station::new(4)?];
    let [a, b, attacker, bystander] = &stations;
    let mut text = config(&[a, b, bystander], "");
    text = text.replace("name = \"br0\"\n", &format!("name = \"br0\"\nmax-fdb = {bridge_limit}\n"));
    text += &attacker.port();
    if let Some(limit) = limit_of_port {
        text += &format!("max-fdb = {limit}\n");
    }
    let mut daemon = Daemon::start(&text)?;
    daemon.wait_healthy()?;
    let all = [a, b, attacker, bystander];
    for station in all {
        station.plug(&all)?;
    }
    let behind = Sender::open(&b.netns, &b.name())?;
    for n in 0..BEHIND {
        behind.send(&ethernet([0xff; 6], mac(n), &[], 0x88b5, b""))?;
    }
    bystander.reaches(a.ip())?;
    let talk = Talk::start(a, b)?;
    wait_fdb(&daemon, "all to be learned", |fdb| fdb.len() as u32 >= BEHIND + 3)?;
    let known = entries_on(&daemon, "s2")?.len();
    let before = Usage::of(&daemon)?;

    // To a neighbour of the attacker's own, so that only learning is at work …
    let own = mac(0xff_ffff);
    let sources = size(100_000, 10_000_000);
    flood(&daemon, attacker, 1, |_| [0xff; 6])?;
    Sender::open(&attacker.netns, "s3")?.send(&ethernet([0xff; 6], own, &[], 0x88b5, b""))?;
    let sent = flood(&daemon, attacker, sources, |_| own)?;
    let most = limit_of_port.unwrap_or(1024).min(bridge_limit) as usize;
    let on_attacker = entries_on(&daemon, "s3")?.len();
    ensure!(on_attacker <= most, "{on_attacker} entries, at most {most}");

    // … and to addresses nobody has, which is flooded as far as the storm limit lets it.
    flood(&daemon, attacker, sources / 20, |n| mac(0x0100_0000 + n as u32))?;

    // Traffic between two others goes to them alone, all the while.
    let heard = |s: &Station| device_counter(&s.netns, &s.name(), "rx_packets");
    daemon_quiet(&daemon, attacker)?;
    // A broadcast of the stacks' own may fall into a look; a flood of what is known never ends.
    until_ok(LIMIT, "silence at those whom the talk does not concern", || {
        let (deaf, attacked) = (heard(bystander)?, heard(attacker)?);
        std::thread::sleep(std::time::Duration::from_millis(300));
        let silent = heard(bystander)? == deaf && heard(attacker)? == attacked;
        ensure!(silent, "known unicast was flooded");
        Ok(())
    })?;
    let datagrams = talk.stop_whole(&daemon)?;

    let after = before.still_of(&daemon, MORE_KIB)?;
    eprintln!(
        "{sent} frames from as many sources, {on_attacker} entries, {datagrams} datagrams between \
         others, 0 lost; {before:?} {after:?}"
    );
    let kept = entries_on(&daemon, "s2")?.len();
    ensure!(kept == known, "{known} entries on s2 became {kept}");
    // A station that is new is learned, although somebody has filled the bridge.
    let fresh = mac(0x00ab_cdef);
    until_ok(LIMIT, "a new station to be learned", || {
        behind.send(&ethernet([0xff; 6], fresh, &[], 0x88b5, b""))?;
        let found = entries_on(&daemon, "s2")?;
        ensure!(found.iter().any(|e| e["mac"] == mac_text(fresh)), "{} entries", found.len());
        Ok(())
    })?;
    let status = api_is(&daemon, 200, "GET", "/v1/status", &Value::Null)?;
    let used = status["fdb"]["used"].as_u64().context("no fdb.used")?;
    ensure!(used <= u64::from(bridge_limit), "{used} entries in a bridge of {bridge_limit}");
    let counted = books(&daemon)?;
    all.iter().try_for_each(|s| s.check_device(&counted))?;
    ensure!(counted.port("s3")?.drops.contains_key("storm-limit"), "{counted:#?}");
    daemon.stop()
}

/// Waits until the switch has taken all that a station sent.
fn daemon_quiet(daemon: &Daemon, station: &Station) -> Result<()> {
    let mut last = received(daemon, &station.name())?;
    vswitch_e2e::until(LIMIT, "the flood to end", || {
        let now = received(daemon, &station.name())?;
        let same = now == last;
        last = now;
        Ok(same.then_some(()))
    })
}

#[test]
fn a_flood_of_addresses_ends_at_the_ports_limit() -> Result<()> {
    let test = "a_flood_of_addresses_ends_at_the_ports_limit";
    need!(test, Need::Root, Need::Tun, Need::Binaries);
    limits_hold(None, 65_536)
}

#[test]
fn a_flood_of_addresses_makes_room_for_others() -> Result<()> {
    let test = "a_flood_of_addresses_makes_room_for_others";
    need!(test, Need::Root, Need::Tun, Need::Binaries);
    // No limit of the port to speak of: the bridge's own, and the port that holds most pays.
    limits_hold(Some(1_000_000), 4_096)
}
