//! Two ports cabled together outside the switch: the storm is bounded, the loop guard ends it, and
//! everybody else goes on.

use anyhow::{Context, Result, ensure};
use vswitch_e2e::raw::{ethernet, mac};
use vswitch_e2e::{Need, need, until, until_ok};

use crate::lab::{Kind, Lab, SOON, holds, veth};

const ALL: [u8; 6] = [0xff; 6];

/// A switch with two stations, and two later ports whose far ends are not connected so far.
fn start(loop_keys: &str) -> Result<Lab> {
    let lab = Lab::start(&[("br0", "")], &["pa", "pb"].map(|port| (port, Kind::Tap, "br0", "")))?;
    for port in ["loop1", "loop2"] {
        veth(&lab.host, &lab.ends, port)?;
        let add = format!("port add {port} --type netdev --device {port}s --bridge br0");
        lab.daemon.ctl(&format!("{add} {loop_keys}"))?.ok()?;
    }
    lab.daemon.wait_healthy()?;
    Ok(lab)
}

/// A hub between the far ends of both: a bridge that learns nothing.
fn connect(lab: &Lab) -> Result<()> {
    lab.ends.ip("link add cable type bridge stp_state 0 ageing_time 0 mcast_snooping 0")?;
    for port in ["loop1", "loop2"] {
        lab.ends.ip(&format!("link set {port} master cable"))?;
    }
    lab.ends.ip("link set cable up")?;
    Ok(())
}

fn blocked(lab: &Lab) -> Result<Vec<String>> {
    let shown = lab.daemon.ctl_json("port show")?;
    let items = shown["items"].as_array().context("port show: no items")?;
    let blocked = items.iter().filter(|port| port["blocked"] == true);
    Ok(blocked.filter_map(|port| port["name"].as_str().map(str::to_owned)).collect())
}

#[test]
fn the_loop_guard_ends_a_loop() -> Result<()> {
    need!(
        "the_loop_guard_ends_a_loop",
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("tcpdump", "tcpdump")
    );
    let mut lab = start("")?;
    lab.daemon.allow("as in a loop");
    connect(&lab)?;
    lab.send("pa", &ethernet(ALL, mac(1), &[], 0x88b5, b"storm"))?;

    // The newer of the two is blocked; it is said, and it is counted.
    until(
        SOON,
        "the newer port to be blocked",
        || Ok((blocked(&lab)? == ["loop2"]).then_some(())),
    )?;
    let status = lab.daemon.ctl("-o json status")?.code_is(3)?.json()?;
    let warnings = status["warnings"].to_string();
    ensure!(warnings.contains("port loop2") && warnings.contains("loop guard"), "{warnings}");
    let events = lab.daemon.ctl("-o json event")?.ok()?.json()?;
    let event = events["items"].as_array().context("no events")?.iter();
    let event: Vec<_> = event.filter(|event| event["event"] == "loop-guard").collect();
    ensure!(event.len() == 1 && event[0]["subject"] == "port loop2", "{event:?}");
    let books = lab.check()?;

    // The storm is over and the rest works: what is sent arrives once, and comes back never.
    let before = books.port("loop2")?.rx_frames;
    let ends = lab.capture(&["pa", "pb"])?;
    for (port, dst, n, word) in [
        ("pa", ALL, 1, b"<one>"),
        ("pb", mac(1), 2, b"<two>"),
        ("pa", mac(2), 1, b"<six>"),
        ("pb", ALL, 2, b"<ten>"),
    ] {
        lab.send(port, &ethernet(dst, mac(n), &[], 0x88b5, word))?;
        let other = if port == "pa" { "pb" } else { "pa" };
        ends.wait(&[other], word)?;
        lab.drained()?;
    }
    let captured = ends.stop()?;
    for (port, words) in [("pa", [b"<two>", b"<ten>"]), ("pb", [b"<one>", b"<six>"])] {
        let got = &captured[port];
        ensure!(
            got.len() == 2 && words.iter().zip(got).all(|(word, frame)| holds(frame, *word)),
            "at {port}: {got:x?}"
        );
    }
    let books = lab.check()?;
    // Each broadcast goes around once more and ends at the blocked port.
    ensure!(books.port("loop2")?.rx_frames - before <= 4, "the storm goes on: {books:#?}");
    // The storm itself may have met the storm limit before the block; these meet the block.
    ensure!(books.port("loop2")?.drops.contains_key("loop-guard"), "{books:#?}");

    // Without the cable the block ends by itself, and the port is a port like any other.
    lab.ends.ip("link del cable")?;
    until_ok(SOON * 2, "the block to end", || {
        ensure!(blocked(&lab)?.is_empty());
        lab.daemon.ctl("status")?.code_is(0).map(drop)
    })?;
    lab.open("loop2")?;
    let ends = lab.capture(&["pa", "loop2"])?;
    lab.send("loop2", &ethernet(ALL, mac(7), &[], 0x88b5, b"<back>"))?;
    ends.wait(&["pa"], b"<back>")?;
    lab.drained()?;
    lab.send("pa", &ethernet(mac(7), mac(1), &[], 0x88b5, b"<there>"))?;
    ends.wait(&["loop2"], b"<there>")?;
    lab.finish()?;
    Ok(())
}

#[test]
fn the_storm_limit_bounds_a_loop_that_nobody_ends() -> Result<()> {
    need!(
        "the_storm_limit_bounds_a_loop_that_nobody_ends",
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("tcpdump", "tcpdump")
    );
    let mut lab = start("--loop-guard=false --storm-limit=100pps")?;
    connect(&lab)?;
    lab.send("pa", &ethernet(ALL, mac(1), &[], 0x88b5, b"storm"))?;
    until(SOON, "the limit to drop frames", || {
        Ok((lab.daemon.accounting()?.dropped("storm-limit") > 0).then_some(()))
    })?;
    ensure!(blocked(&lab)?.is_empty());

    // Stations still reach each other beside the storm.
    let ends = lab.capture(&["pb"])?;
    lab.send("pb", &ethernet(ALL, mac(2), &[], 0x88b5, b"here"))?;
    until_ok(SOON, "a frame to a known station", || {
        lab.send("pb", &ethernet(ALL, mac(2), &[], 0x88b5, b"here"))?;
        lab.send("pa", &ethernet(mac(2), mac(1), &[], 0x88b5, b"<hello>"))?;
        ends.wait(&["pb"], b"<hello>")
    })?;
    lab.ends.ip("link del cable")?;
    let books = lab.check()?;
    ensure!(books.dropped("loop-guard") == 0, "{books:#?}");
    lab.finish()?;
    Ok(())
}
