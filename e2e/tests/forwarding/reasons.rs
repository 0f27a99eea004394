//! Every drop reason that real devices and an operator can bring about is brought about here, and
//! read where an operator reads it.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use switch_core::DropReason;
use vswitch_e2e::raw::{ethernet, mac};
use vswitch_e2e::{Cmd, Need, Process, need, until};

use crate::held::Held;
use crate::lab::{Kind, Lab, SOON};

const ALL: [u8; 6] = [0xff; 6];

/// What devices and an operator can bring about. All reasons, on devices that do what these cannot, are
/// brought about in vswitchd's `every_reason_is_told_of_everywhere`, which fails for one that is not.
const HERE: [DropReason; 14] = [
    DropReason::LoopGuard,
    DropReason::SourceGroup,
    DropReason::SourceZero,
    DropReason::ReservedDestination,
    DropReason::VlanTagInvalid,
    DropReason::VlanNotMember,
    DropReason::VlanUntagged,
    DropReason::StormLimit,
    DropReason::Hairpin,
    DropReason::Isolated,
    DropReason::NoDestination,
    DropReason::MtuExceeded,
    DropReason::PortDown,
    DropReason::TxFull,
];

#[test]
fn every_reason_a_device_can_cause_is_caused() -> Result<()> {
    need!("every_reason_a_device_can_cause_is_caused", Need::Root, Need::Tun, Need::Binaries);
    let isolated = "access = 20\nisolated = true";
    let mut lab = Lab::start(
        &[("br0", ""), ("br1", "")],
        &[
            ("acc", Kind::Tap, "br0", "access = 10"),
            ("trunk", Kind::Veth, "br0", "trunk = [10, 30]"),
            ("iso1", Kind::Tap, "br0", isolated),
            ("iso2", Kind::Veth, "br0", isolated),
            ("alone", Kind::Tap, "br1", "storm-limit = \"10 pps\""),
            ("slow", Kind::Tap, "br0", "access = 40\nstorm-limit = \"off\""),
            ("small", Kind::Veth, "br0", "access = 10\nmtu = 1000"),
            ("old", Kind::Tap, "br0", "access = 60"),
        ],
    )?;
    lab.daemon.allow("as in a loop");
    // Held by the test and never read, as by a guest that hangs.
    let _held = Held::new(&lab.host, "held", 1500)?;
    let add = "port add held --type netdev --device held --bridge br0 --access 40";
    lab.daemon.ctl(add)?.ok()?;
    lab.daemon
        .ctl(&format!(
            "port add young --type tap --bridge br0 --access 60 --netns {}",
            lab.ends.name()
        ))?
        .ok()?;
    lab.daemon.wait_healthy()?;
    lab.open("young")?;

    let seen = Seen::begin(&lab)?;
    let frame = |dst, src, tags: &[(u16, u16)]| ethernet(dst, src, tags, 0x88b5, b"dropped");
    let mut caused = Vec::new();
    let mut expect = |lab: &Lab, reason: DropReason, port: &str| -> Result<()> {
        let books = lab.drained()?;
        let count = books.port(port)?.drops.get(reason.name()).copied().unwrap_or(0);
        ensure!(count > 0, "no drop for {reason} at {port}: {books:#?}");
        caused.push(reason);
        Ok(())
    };

    lab.send("acc", &frame(ALL, [3, 0, 0, 0, 0, 1], &[]))?;
    expect(&lab, DropReason::SourceGroup, "acc")?;
    lab.send("acc", &frame(ALL, [0; 6], &[]))?;
    expect(&lab, DropReason::SourceZero, "acc")?;
    lab.send("acc", &frame([0x01, 0x80, 0xc2, 0, 0, 0x0e], mac(1), &[]))?;
    expect(&lab, DropReason::ReservedDestination, "acc")?;
    lab.send("trunk", &frame(ALL, mac(2), &[(0x8100, 0xfff)]))?;
    expect(&lab, DropReason::VlanTagInvalid, "trunk")?;
    lab.send("trunk", &frame(ALL, mac(2), &[(0x8100, 20)]))?;
    expect(&lab, DropReason::VlanNotMember, "trunk")?;
    lab.send("trunk", &frame(ALL, mac(2), &[]))?;
    expect(&lab, DropReason::VlanUntagged, "trunk")?;

    lab.send("acc", &frame(ALL, mac(1), &[]))?;
    lab.send("acc", &frame(mac(1), mac(3), &[]))?;
    expect(&lab, DropReason::Hairpin, "acc")?;
    lab.send("iso1", &frame(ALL, mac(4), &[]))?;
    lab.drained()?;
    lab.send("iso2", &frame(mac(4), mac(5), &[]))?;
    expect(&lab, DropReason::Isolated, "iso2")?;
    lab.send("alone", &frame(ALL, mac(6), &[]))?;
    expect(&lab, DropReason::NoDestination, "alone")?;
    for _ in 0..100 {
        lab.send("alone", &frame(ALL, mac(6), &[]))?;
    }
    expect(&lab, DropReason::StormLimit, "alone")?;
    lab.send("acc", &ethernet(ALL, mac(1), &[], 0x88b5, &[0; 1200]))?;
    expect(&lab, DropReason::MtuExceeded, "small")?;

    // A station of a port whose link is down, known because an operator said so.
    let shown = "02:00:00:00:00:99";
    lab.daemon.ctl(&format!("fdb add {shown} --port small --vlan 10"))?.ok()?;
    lab.ends.ip("link set small down")?;
    until(SOON, "the link to go down", || {
        let state = lab.daemon.ctl_json("port show small")?["items"][0]["state"].clone();
        Ok((state == "down").then_some(()))
    })?;
    lab.send("acc", &frame(mac(0x99), mac(1), &[]))?;
    expect(&lab, DropReason::PortDown, "small")?;

    // More than any queue holds, for somebody who does not read.
    lab.daemon.ctl("fdb add 02:00:00:00:00:40 --port held --vlan 40")?.ok()?;
    for n in 0..3000 {
        lab.send("slow", &frame(mac(0x40), mac(7), &[]))?;
        if n % 100 == 0 {
            lab.drained()?;
        }
    }
    expect(&lab, DropReason::TxFull, "held")?;

    // One address on two ports in turns.
    for _ in 0..8 {
        for port in ["old", "young"] {
            lab.send(port, &frame(ALL, mac(8), &[]))?;
            lab.drained()?;
        }
    }
    until(SOON, "the newer port to be blocked", || {
        let blocked = &lab.daemon.ctl_json("port show young")?["items"][0]["blocked"];
        Ok((*blocked == true).then_some(()))
    })?;
    lab.send("young", &frame(ALL, mac(8), &[]))?;
    expect(&lab, DropReason::LoopGuard, "young")?;

    for reason in HERE {
        ensure!(caused.contains(&reason), "{reason} was not caused");
    }
    // `drops show` tells each with its cause and cure.
    let shown = lab.daemon.ctl_json("drops show")?;
    let rows = shown["items"].as_array().context("drops show: no items")?;
    let (traced, captured) = seen.end()?;
    let (_, metrics) = lab.daemon.http("GET", "/v1/metrics", "")?;
    for reason in caused {
        ensure!(traced.contains(reason.name()), "trace live lacks {reason}");
        ensure!(captured.contains(reason.cause()), "drops --pcap lacks {reason}: {captured}");
        ensure!(metrics.contains(&format!("reason=\"{reason}\"")), "metrics lack {reason}");
        let row = rows.iter().find(|row| row["reason"] == reason.name());
        let row = row.with_context(|| format!("drops show lacks {reason}: {shown}"))?;
        ensure!(row["cause"] == reason.cause() && row["cure"] == reason.cure(), "{row}");
    }
    lab.finish()?;
    Ok(())
}

/// Somebody who watches all the while: what `trace live` says of drops, and what `drops --pcap` writes.
struct Seen {
    scratch: tempfile::TempDir,
    running: Vec<Process>,
}

impl Seen {
    fn begin(lab: &Lab) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let file = |name: &str| File::create(scratch.path().join(name));
        let trace = ["trace", "live", "ether proto 0x88b5", "--rate", "100000", "-o", "jsonl"];
        let trace = lab.daemon.ctl_cmd(trace)?.spawn(file("trace")?.into(), Stdio::null())?;
        let pcap = scratch.path().join("pcap");
        let drops = ["drops", "show", "--pcap", &pcap.display().to_string()];
        let drops = lab.daemon.ctl_cmd(drops)?.spawn(Stdio::null(), Stdio::null())?;
        // A capture begins with its section, once the watch is there.
        until(SOON, "the capture to begin", || {
            Ok(std::fs::metadata(&pcap).is_ok_and(|file| file.len() > 0).then_some(()))
        })?;
        Ok(Self { scratch, running: vec![trace, drops] })
    }

    /// The lines of the trace, and the comments of the frames as tshark reads them.
    fn end(mut self) -> Result<(String, String)> {
        // What was seen is fetched fifty times a second.
        std::thread::sleep(Duration::from_millis(500));
        for process in &mut self.running {
            process.signal(Signal::SIGTERM)?;
            process.wait(SOON)?;
        }
        let traced = std::fs::read_to_string(self.scratch.path().join("trace"))?;
        let pcap = self.scratch.path().join("pcap").display().to_string();
        let read = ["-r", &pcap, "-T", "fields", "-e", "frame.comment"];
        let comments = Cmd::new("tshark").args(read).run()?.ok()?;
        Ok((traced, comments.stdout))
    }
}
