//! Traces and captures as an operator runs them, and what he is told when he does it wrong. What bad
//! readers do harms nobody.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::raw::{ethernet, mac};
use vswitch_e2e::{Cmd, Need, need, until};

use crate::lab::{Kind, Lab, SOON};

const ALL: [u8; 6] = [0xff; 6];

#[test]
fn frames_are_traced_and_captured() -> Result<()> {
    need!("frames_are_traced_and_captured", Need::Root, Need::Tun, Need::Binaries);
    let ports =
        [("web", Kind::Tap, "br0", "access = 10"), ("vm", Kind::Veth, "br0", "trunk = [10]")];
    let mut lab = Lab::start(&[("br0", "")], &ports)?;
    let frame = ethernet(ALL, mac(1), &[], 0x88b5, b"seen");

    // Nobody sent it, and nothing of it stays.
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let told = lab.daemon.ctl_json(&format!("trace frame --in web --hex {hex}"))?;
    ensure!(told["vlan"] == 10 && told["ends"][0]["port"] == "vm", "{told}");
    ensure!(told["ends"][0]["bytes"] == frame.len() + 4, "the tag is put in: {told}");
    ensure!(lab.fdb("")?.is_empty() && lab.daemon.accounting()?.port("web")?.rx_frames == 0);
    let made = "trace frame --in vm --arp 10.0.0.1";
    let refused = lab.daemon.ctl(made)?.code_is(1)?;
    ensure!(refused.stdout.contains("vlan-untagged") && refused.stdout.contains("hint: "));
    ensure!(refused.stdout.contains("[port vm (file, revision 1)]"), "{refused}");

    // Captured as it came and as it left, and traced.
    let scratch = tempfile::tempdir()?;
    let pcap = scratch.path().join("pcap").display().to_string();
    let capture = ["capture", "any", "ether proto 0x88b5", "-c", "2", "-w", &pcap];
    let mut capture = lab.daemon.ctl_cmd(capture)?.spawn(Stdio::null(), Stdio::null())?;
    let trace = ["trace", "live", "--in", "web", "vlan 10", "-c", "1", "-o", "jsonl"];
    let trace = std::thread::spawn({
        let cmd = lab.daemon.ctl_cmd(trace)?;
        move || cmd.run()
    });
    until(SOON, "capture and trace to see the frame", || {
        lab.send("web", &frame)?;
        Ok(capture.poll()?.filter(|_| trace.is_finished()))
    })?;
    let traced = trace.join().ok().context("the trace's thread")??.ok()?.json()?;
    ensure!(traced["ends"] == told["ends"], "{traced} and foretold was {told}");
    let fields = ["interface_name", "packet_flags_direction", "len"];
    let fields = fields.iter().flat_map(|field| ["-e".to_owned(), format!("frame.{field}")]);
    let read = ["-r", &pcap, "-T", "fields"].map(str::to_owned);
    let shown = Cmd::new("tshark").args(read.into_iter().chain(fields)).run()?.ok()?.stdout;
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split('\t').collect()).collect();
    let (came, left) = (frame.len().to_string(), (frame.len() + 4).to_string());
    ensure!(
        lines == [["web", "0x00000001", &came], ["vm", "0x00000002", &left]],
        "as it came in, and as it left: {shown}"
    );
    lab.finish()?;
    Ok(())
}

#[test]
fn what_is_asked_wrongly_is_told_and_harms_nobody() -> Result<()> {
    need!("what_is_asked_wrongly_is_told_and_harms_nobody", Need::Root, Need::Tun, Need::Binaries);
    let ports = [("web", Kind::Tap, "br0", "storm-limit = \"off\""), ("vm", Kind::Veth, "br0", "")];
    let mut lab = Lab::start(&[("br0", "")], &ports)?;
    for (asked, code, says) in [
        ("trace live tcp prot 80", 6, "\"prot\" where `and`, `or` or the end was expected"),
        ("trace live --in nobody", 4, "there is no port \"nobody\""),
        ("capture nobody -w /dev/null", 4, "there is no port \"nobody\""),
        ("capture any -s 1 -w /dev/null", 6, "64 to"),
        ("capture any -w /dev/full", 6, "No space left on device"),
        ("drops --pcap /dev/full", 6, "No space left on device"),
        ("drops --tunnel nobody", 4, "there is no tunnel \"nobody\""),
        ("trace frame --in web --hex 0x", 2, "--hex is not a row of bytes"),
        ("trace frame --in web --tcp 10.0.0.1:80", 2, "--dst-mac is missing"),
        ("trace frame --in web --pcap /dev/null", 6, "it is no capture file"),
    ] {
        let told = lab.daemon.ctl(asked)?.code_is(code)?;
        ensure!(told.stderr.contains(says) && told.stderr.contains("error[E"), "{told}");
    }

    // Readers who never read on, as many as there may be; one more is refused.
    let mut idle = Vec::new();
    for _ in 0..16 {
        let mut reader = UnixStream::connect(lab.daemon.run_dir().join("api.sock"))?;
        reader.set_read_timeout(Some(SOON))?;
        reader.write_all(b"GET /v1/capture HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut status = [0; 12];
        reader.read_exact(&mut status)?;
        ensure!(status == *b"HTTP/1.1 200", "{}", status.escape_ascii());
        idle.push(reader);
    }
    let told = lab.daemon.ctl("capture any -c 1 -w /dev/full")?;
    ensure!(told.stderr.contains("16 traces and captures run already"), "{told}");
    let out = lab.capture(&["vm"])?;
    for n in 0..2000 {
        lab.send("web", &ethernet(ALL, mac(1), &[], 0x88b5, &[0; 1000]))?;
        if n % 200 == 0 {
            lab.drained()?;
        }
    }
    lab.send("web", &ethernet(ALL, mac(1), &[], 0x88b5, b"the last one"))?;
    out.wait(&["vm"], b"the last one")?;
    drop(idle);
    until(SOON, "their places to be free again", || {
        let told = lab.daemon.ctl("capture any -w /dev/full")?;
        Ok(told.stderr.contains("No space left on device").then_some(()))
    })?;
    let books = lab.finish()?;
    ensure!(books.port("vm")?.tx_frames == 2001, "each frame was sent: {books:#?}");
    Ok(())
}
