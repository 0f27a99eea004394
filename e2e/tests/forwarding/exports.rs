//! What collectors are told, decoded by tshark and by a collector that nobody here wrote.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::capture::Capture;
use vswitch_e2e::raw::{ethernet, mac};
use vswitch_e2e::{Cmd, Host as _, Need, need, until};

use crate::lab::{Kind, Lab, SOON};

const ALL: [u8; 6] = [0xff; 6];

/// IPv4 and UDP without a checksum, from 192.0.2.1 to 192.0.2.2.
fn datagram(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let (udp, ip) = (8 + payload.len() as u16, 28 + payload.len() as u16);
    let mut out = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    out[2..4].copy_from_slice(&ip.to_be_bytes());
    let sum: u32 =
        out.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    out[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    for word in [ports.0, ports.1, udp, 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend(payload);
    out
}

/// Adds tables to the configuration of a running daemon.
fn configure(lab: &Lab, more: &str) -> Result<()> {
    let text = fs::read_to_string(lab.daemon.config_path())?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("new.toml");
    fs::write(&path, format!("{text}\n{more}"))?;
    lab.daemon.ctl_cmd(["config", "apply", &path.display().to_string()])?.run()?.ok()?;
    Ok(())
}

/// Has a collector of nfdump's listen while `work` is done; what it collected, as `nfdump` prints it.
fn collected(
    lab: &mut Lab,
    collector: &str,
    port: u16,
    format: &str,
    work: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let into = dir.path().display().to_string();
    let args = ["-p", &port.to_string(), "-b", "127.0.0.1", "-w", &into, "-t", "3600", "-z"];
    let mut process = lab.host.cmd(collector).args(args).spawn(Stdio::null(), Stdio::null())?;
    until(SOON, "the collector to listen", || {
        let listening = lab.host.sh(&format!("ss -Hlun sport = {port}"))?.ok()?.stdout;
        Ok((!listening.trim().is_empty()).then_some(()))
    })?;
    work(lab)?;
    process.terminate(Duration::from_secs(10))?;
    let args = ["-R", &into, "-q", "-N", "-o", &format!("fmt:{format}")];
    let shown = Cmd::new("nfdump").args(args).run()?.ok()?.stdout;
    Ok(shown.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

fn export(lab: &Lab, protocol: &str) -> Result<serde_json::Value> {
    let shown = lab.daemon.ctl_json(&format!("{protocol} show"))?;
    Ok(shown["items"].get(0).cloned().unwrap_or_default())
}

#[test]
fn samples_and_counters_reach_a_collector_of_sflow() -> Result<()> {
    const TEST: &str = "samples_and_counters_reach_a_collector_of_sflow";
    need!(TEST, Need::Root, Need::Tun, Need::Binaries);
    let ports =
        [("web", Kind::Tap, "br0", "access = 10"), ("vm", Kind::Veth, "br0", "trunk = [10]")];
    let mut lab = Lab::start(&[("br0", "")], &ports)?;
    for (keys, says) in [
        ("one-in = 0", "out of range"),
        ("collector = \"nowhere\"", "expected an IP address and port"),
        ("ports = [\"wb\"]", "did you mean \"web\"?"),
    ] {
        let refused = configure(&lab, &format!("[sflow]\n{keys}\n")).err().context(says)?;
        ensure!(format!("{refused:#}").contains(says), "{refused:#}");
    }
    // Nobody listens: told of once, counted, and nothing else.
    lab.daemon.allow("sflow-unreachable");
    let sflow = "[sflow]\ncollector = \"127.0.0.1:6343\"\none-in = 1\npolling = \"1s\"\n";
    configure(&lab, sflow)?;
    until(SOON, "the refusal to be noticed", || {
        let sflow = export(&lab, "sflow")?;
        let told = sflow["error"].as_str().is_some_and(|error| error.contains("refused"));
        Ok((told && sflow["failed"].as_u64() > Some(0)).then_some(()))
    })?;

    let capture = Capture::start(&lab.host, "lo", "udp dst port 6343")?;
    let frame = ethernet(mac(2), mac(1), &[], 0x0800, &datagram((1000, 2000), &[7; 400]));
    let lines = collected(&mut lab, "sfcapd", 6343, "%sa %da %sp %dp %in %svln", |lab| {
        for _ in 0..20 {
            lab.send("web", &frame)?;
        }
        until(SOON, "all samples to be sent", || {
            let sflow = export(lab, "sflow")?;
            Ok((sflow["samples"] == 20 && sflow["error"].is_null()).then_some(()))
        })?;
        capture.wait_for(1, |datagram| datagram.windows(3).any(|bytes| bytes == b"web"))?;
        Ok(())
    })?;
    ensure!(lines == vec!["192.0.2.1 192.0.2.2 1000 2000 2 10"; 20], "{lines:#?}");
    let told = capture.tshark(&["-d", "udp.port==6343,sflow", "-V"])?.stdout;
    for says in [
        "Datagram version: 5",
        "Agent address: 127.0.0.1",
        "Sampling rate: 1 out of 1 packets",
        "Header protocol: Ethernet",
        "Frame Length: 446",
        "Incoming 802.1Q VLAN: 10",
        "Src Port: 1000",
        "Interface index: 2",
    ] {
        ensure!(told.contains(says), "{says:?} is not in {told}");
    }
    ensure!(!told.contains("Malformed"), "{told}");
    drop(capture);
    // Without a collector nothing is sampled any more.
    configure(&lab, "")?;
    ensure!(export(&lab, "sflow")?.is_null());
    lab.finish()?;
    Ok(())
}

#[test]
fn flows_reach_a_collector_of_ipfix() -> Result<()> {
    const TEST: &str = "flows_reach_a_collector_of_ipfix";
    need!(TEST, Need::Root, Need::Tun, Need::Binaries);
    let ports =
        [("web", Kind::Tap, "br0", "access = 10"), ("vm", Kind::Veth, "br0", "trunk = [10]")];
    let mut lab = Lab::start(&[("br0", "")], &ports)?;
    lab.daemon.allow("ipfix-unreachable");
    let capture = Capture::start(&lab.host, "lo", "udp dst port 4739")?;
    let ipfix = "[ipfix]\ncollector = \"127.0.0.1:4739\"\none-in = 1\nidle = \"1s\"\n\
                 template-refresh = \"1s\"\ndomain = 7\n";
    let flow = |port| ethernet(mac(2), mac(1), &[], 0x0800, &datagram((1000, port), &[7; 400]));
    let format = "%sa %da %pr %sp %dp %in %out %svln %pkt %byt";
    let lines = collected(&mut lab, "nfcapd", 4739, format, |lab| {
        configure(lab, ipfix)?;
        for n in 0..30 {
            lab.send("web", &flow(if n % 3 == 0 { 53 } else { 2000 }))?;
        }
        lab.send("web", &ethernet(ALL, mac(1), &[], 0x88b5, b"no IP"))?;
        until(SOON, "both flows to be told of", || {
            let ipfix = export(lab, "ipfix")?;
            Ok((ipfix["samples"] == 31 && ipfix["flows"] == 0).then_some(()))
        })?;
        Ok(())
    })?;
    for line in [
        "192.0.2.1 192.0.2.2 17 1000 53 2 1 10 10 4280",
        "192.0.2.1 192.0.2.2 17 1000 2000 2 1 10 20 8560",
    ] {
        ensure!(lines.iter().any(|told| told == line), "{line:?} is not in {lines:#?}");
    }
    let told = capture.tshark(&["-d", "udp.port==4739,cflow", "-V"])?.stdout;
    for says in [
        "Version: 10",
        "Observation Domain Id: 7",
        "Packets: 20",
        "SrcPort: 1000 (1000)",
        "Ethernet Type: 2048",
        "Ethernet Type: 34997",
        "Sampling interval: 1",
        "IfName: web",
        "Flow End Reason: Idle timeout",
    ] {
        ensure!(told.contains(says), "{says:?} is not in {told}");
    }
    ensure!(!told.contains("Malformed"), "{told}");
    lab.finish()?;
    Ok(())
}
