//! The forwarding database, end to end: learned, refreshed, aged out, moved, pinned, flushed and
//! bounded, and what each of these does to the next frame.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use vswitch_e2e::raw::{ethernet, mac};
use vswitch_e2e::{Need, need, until, until_ok};

use crate::lab::{Ends, Kind, Lab, SOON, holds};
use crate::monitor::Monitor;

const ALL: [u8; 6] = [0xff; 6];

/// Whether an entry of a VLAN and port is selected.
type Selected = fn(u16, &str) -> bool;

/// An address as the FDB shows it.
fn shown(n: u32) -> String {
    mac(n).map(|byte| format!("{byte:02x}")).join(":")
}

/// A frame from station to station with a word in it.
fn frame(dst: [u8; 6], src: u32, word: &str) -> Vec<u8> {
    ethernet(dst, mac(src), &[], 0x88b5, format!("<{word}>").as_bytes())
}

/// Captures at all ends, of frames that are told apart by a word.
struct Words {
    ends: Ends,
    expected: BTreeMap<String, Vec<String>>,
}

impl Words {
    fn start(lab: &Lab, ports: &[&str]) -> Result<Self> {
        Ok(Self { ends: lab.capture(ports)?, expected: BTreeMap::new() })
    }

    /// Sends a frame from `port` and waits until it came out at `outs`; whether it came out
    /// elsewhere or twice, [`Words::finish`] sees.
    fn send(
        &mut self,
        lab: &mut Lab,
        port: &str,
        dst: [u8; 6],
        src: u32,
        outs: &[&str],
    ) -> Result<()> {
        let word = format!("word{}", self.expected.len());
        lab.send(port, &frame(dst, src, &word))?;
        self.ends.wait(outs, format!("<{word}>").as_bytes())?;
        let outs = outs.iter().map(|&out| out.to_owned()).collect();
        self.expected.insert(word, outs);
        lab.drained()?;
        Ok(())
    }

    /// Compares all that came out with what was expected. Everything that was sent last must have
    /// come out at every end, so that nothing is still under way.
    fn finish(self) -> Result<()> {
        let captured = self.ends.stop()?;
        for (word, outs) in &self.expected {
            let mark = format!("<{word}>");
            let mut got = Vec::new();
            for (port, frames) in &captured {
                let count = frames.iter().filter(|f| holds(f, mark.as_bytes())).count();
                got.extend(std::iter::repeat_n(port.clone(), count));
            }
            let mut want = outs.clone();
            want.sort();
            ensure!(got == want, "{word} came out at {got:?}, not at {want:?}");
        }
        Ok(())
    }
}

#[test]
fn addresses_are_learned_age_out_and_move() -> Result<()> {
    need!(
        "addresses_are_learned_age_out_and_move",
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("tcpdump", "tcpdump")
    );
    let ports = ["pa", "pb", "pc"];
    let mut lab = Lab::start(
        &[("br0", "ageing = \"10s\"")],
        &[
            ("pa", Kind::Tap, "br0", ""),
            ("pb", Kind::Veth, "br0", ""),
            ("pc", Kind::Tap, "br0", ""),
        ],
    )?;
    let mut monitor = Monitor::start(&lab.daemon, "pa")?;
    let mut words = Words::start(&lab, &ports)?;

    // Unknown floods, known does not.
    words.send(&mut lab, "pb", mac(1), 2, &["pa", "pc"])?;
    words.send(&mut lab, "pa", mac(2), 1, &["pb"])?;
    words.send(&mut lab, "pb", mac(1), 2, &["pa"])?;
    words.send(&mut lab, "pc", mac(1), 3, &["pa"])?;
    monitor.wait(&format!("learned {} pa", shown(1)))?;
    let all =
        [(1, "pa"), (2, "pb"), (3, "pc")].map(|(n, port)| format!("{} 0 {port} learned", shown(n)));
    ensure!(lab.fdb("")? == all, "{:?}", lab.fdb("")?);

    // A frame from elsewhere moves it, at once.
    words.send(&mut lab, "pc", ALL, 1, &["pa", "pb"])?;
    words.send(&mut lab, "pb", mac(1), 2, &["pc"])?;
    monitor.wait(&format!("moved {} pc from pa", shown(1)))?;

    // Who goes on talking stays, who does not ages out, and is then flooded to again.
    until(SOON, "the silent station to age out", || {
        words.send(&mut lab, "pb", ALL, 2, &["pa", "pc"])?;
        let learned = lab.fdb("")?;
        ensure!(learned.contains(&format!("{} 0 pb learned", shown(2))), "{learned:?}");
        std::thread::sleep(std::time::Duration::from_millis(500));
        Ok((!learned.iter().any(|line| line.starts_with(&shown(1)))).then_some(()))
    })?;
    monitor.wait(&format!("aged {} pc", shown(1)))?;
    ensure!(!monitor.has(&format!("aged {} pb", shown(2)))?, "one that talks aged out");
    words.send(&mut lab, "pb", mac(1), 2, &["pa", "pc"])?;

    words.send(&mut lab, "pb", ALL, 2, &["pa", "pc"])?;
    words.send(&mut lab, "pa", ALL, 1, &["pb", "pc"])?;
    words.finish()?;

    // A link that goes down takes its addresses with it: they may turn up elsewhere.
    lab.ends.ip("link set pb down")?;
    let state = |lab: &Lab| {
        Ok::<_, anyhow::Error>(lab.daemon.ctl_json("port show pb")?["items"][0]["state"].clone())
    };
    until_ok(SOON, "the addresses of a port without a link to go", || {
        ensure!(lab.fdb("--port pb")?.is_empty());
        ensure!(state(&lab)? == "down");
        Ok(())
    })?;
    lab.ends.ip("link set pb up")?;
    until(SOON, "the link to come back", || Ok((state(&lab)? == "up").then_some(())))?;
    lab.open("pb")?;
    let mut words = Words::start(&lab, &ports)?;
    words.send(&mut lab, "pa", mac(2), 1, &["pb", "pc"])?;
    words.send(&mut lab, "pc", ALL, 3, &["pa", "pb"])?;
    words.send(&mut lab, "pb", ALL, 2, &["pa", "pc"])?;
    words.finish()?;
    lab.finish()?;
    Ok(())
}

#[test]
fn pinned_entries_stay_where_they_are() -> Result<()> {
    need!(
        "pinned_entries_stay_where_they_are",
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("tcpdump", "tcpdump")
    );
    let ports = ["pa", "pb", "pc"];
    let mut lab = Lab::start(&[("br0", "")], &ports.map(|p| (p, Kind::Tap, "br0", "")))?;
    let mut monitor = Monitor::start(&lab.daemon, "pa")?;
    let mut words = Words::start(&lab, &ports)?;
    lab.daemon.ctl(&format!("fdb add {} --port pa", shown(1)))?.ok()?;
    lab.daemon.ctl(&format!("fdb add {} --port pa --sticky", shown(2)))?.ok()?;
    monitor.wait(&format!("added {} pa", shown(1)))?;
    for n in [1, 2] {
        // Never seen, and known.
        words.send(&mut lab, "pb", mac(n), 9, &["pa"])?;
        // Seen elsewhere, and not moved; the frame itself passes.
        words.send(&mut lab, "pc", ALL, n, &["pa", "pb"])?;
        words.send(&mut lab, "pb", mac(n), 9, &["pa"])?;
        ensure!(!monitor.has(&format!("moved {} pc from pa", shown(n)))?, "a pinned entry moved");
    }
    // A flush spares them, unless told otherwise.
    lab.daemon.ctl("fdb flush")?.ok()?;
    monitor.wait(&format!("deleted {} pb", shown(9)))?;
    ensure!(lab.fdb("")? == [1, 2].map(|n| format!("{} 0 pa static", shown(n))));
    lab.daemon.ctl(&format!("fdb del {}", shown(1)))?.ok()?;
    words.send(&mut lab, "pb", mac(1), 9, &["pa", "pc"])?;
    lab.daemon.ctl("fdb flush --static")?.ok()?;
    ensure!(lab.fdb("")?.is_empty(), "{:?}", lab.fdb("")?);
    words.send(&mut lab, "pb", mac(2), 9, &["pa", "pc"])?;
    words.send(&mut lab, "pc", mac(2), 8, &["pa", "pb"])?;
    words.finish()?;
    lab.daemon.ctl(&format!("fdb del {}", shown(1)))?.code_is(4)?;
    lab.finish()?;
    Ok(())
}

#[test]
fn flush_forgets_what_is_selected_and_nothing_else() -> Result<()> {
    need!("flush_forgets_what_is_selected_and_nothing_else", Need::Root, Need::Tun, Need::Binaries);
    let trunk = "trunk = [10, 20]\nnative = 1";
    let mut lab = Lab::start(
        &[("br0", ""), ("br1", "")],
        &[
            ("pa", Kind::Tap, "br0", trunk),
            ("pb", Kind::Veth, "br0", trunk),
            ("px", Kind::Tap, "br1", trunk),
        ],
    )?;
    let everything: Vec<(u32, u16, &str)> = [("pa", 0x10), ("pb", 0x20), ("px", 0x30)]
        .into_iter()
        .flat_map(|(port, base)| [1u16, 10, 20].map(|vid| (base + u32::from(vid), vid, port)))
        .collect();
    let selections: [(&str, Selected); 7] = [
        ("", |_, _| true),
        ("--port pa", |_, port| port == "pa"),
        ("--vlan 10", |vid, _| vid == 10),
        ("--bridge br0", |_, port| port != "px"),
        ("--bridge br1 --vlan 20", |vid, port| port == "px" && vid == 20),
        ("--port pb --vlan 10", |vid, port| port == "pb" && vid == 10),
        ("--port pb --bridge br1", |_, _| false),
    ];
    for (selection, selected) in selections {
        for (n, vid, port) in &everything {
            // The native VLAN is that of untagged frames.
            let tag = [(0x8100, *vid)];
            let tags = if *vid == 1 { &[][..] } else { &tag };
            lab.send(port, &ethernet(ALL, mac(*n), tags, 0x88b5, b""))?;
        }
        lab.drained()?;
        let lines = |keep: &dyn Fn(u16, &str) -> bool| {
            let kept = everything.iter().filter(|(_, vid, port)| keep(*vid, port));
            let mut lines: Vec<String> =
                kept.map(|(n, vid, port)| format!("{} {vid} {port} learned", shown(*n))).collect();
            lines.sort();
            lines
        };
        ensure!(lab.fdb("")? == lines(&|_, _| true), "before {selection:?}: {:?}", lab.fdb("")?);
        // Showing selects like flushing.
        ensure!(
            lab.fdb(selection)? == lines(&selected),
            "{selection:?}: {:?}",
            lab.fdb(selection)?
        );
        lab.daemon.ctl(&format!("fdb flush {selection}"))?.ok()?;
        let left = lab.fdb("")?;
        ensure!(left == lines(&|vid, port| !selected(vid, port)), "after {selection:?}: {left:?}");
    }
    for unknown in ["--port nobody", "--bridge nobody"] {
        lab.daemon.ctl(&format!("fdb flush {unknown}"))?.code_is(4)?;
    }
    lab.finish()?;
    Ok(())
}

#[test]
fn limits_hold_and_the_others_keep_their_entries() -> Result<()> {
    need!(
        "limits_hold_and_the_others_keep_their_entries",
        Need::Root,
        Need::Tun,
        Need::Binaries,
        Need::Program("tcpdump", "tcpdump")
    );
    let ports = ["pa", "pb", "pc"];
    let mut lab = Lab::start(
        &[("br0", "max-fdb = 16")],
        &[
            ("pa", Kind::Tap, "br0", "max-fdb = 4\nstorm-limit = \"off\""),
            ("pb", Kind::Tap, "br0", ""),
            // No limit of its own.
            ("pc", Kind::Veth, "br0", "storm-limit = \"off\""),
        ],
    )?;
    let mut words = Words::start(&lab, &ports)?;
    for n in [0xb1, 0xb2] {
        words.send(&mut lab, "pb", ALL, n, &["pa", "pc"])?;
    }
    for n in 0..20 {
        lab.send("pa", &frame(ALL, 0xa00 + n, "flood"))?;
    }
    lab.drained()?;
    let first: Vec<String> = (0..4).map(|n| format!("{} 0 pa learned", shown(0xa00 + n))).collect();
    ensure!(lab.fdb("--port pa")? == first, "{:?}", lab.fdb("--port pa")?);
    // A full port is worth a warning; beyond its limit frames pass, and are answered by floods.
    let status = lab.daemon.ctl("-o json status")?.code_is(3)?.json()?;
    ensure!(status["warnings"].to_string().contains("port pa"), "{status}");
    words.send(&mut lab, "pb", mac(0xa00), 0xb1, &["pa"])?;
    words.send(&mut lab, "pb", mac(0xa04), 0xb1, &["pa", "pc"])?;

    // The bridge's limit: who floods makes room, the others keep theirs.
    for n in 0..200 {
        lab.send("pc", &frame(ALL, 0xc00 + n, "flood"))?;
        if n % 50 == 0 {
            lab.drained()?;
        }
    }
    lab.drained()?;
    let all = lab.fdb("")?;
    ensure!(all.len() <= 16, "{} entries: {all:?}", all.len());
    ensure!(lab.fdb("--port pa")? == first, "{all:?}");
    ensure!(lab.fdb("--port pb")?.len() == 2, "{all:?}");
    words.send(&mut lab, "pc", mac(0xb1), 0xc00, &["pb"])?;
    // Room is made by the one that holds most, so that a newcomer is learned all the same.
    until_ok(SOON, "room for a newcomer", || {
        words.send(&mut lab, "pb", ALL, 0xb3, &["pa", "pc"])?;
        ensure!(lab.fdb("--port pb")?.len() == 3, "{:?}", lab.fdb("")?);
        Ok(())
    })?;
    words.send(&mut lab, "pa", mac(0xb3), 0xa00, &["pb"])?;
    words.send(&mut lab, "pc", ALL, 0xc00, &["pa", "pb"])?;
    words.send(&mut lab, "pa", ALL, 0xa00, &["pb", "pc"])?;
    words.finish()?;
    lab.finish()?;
    Ok(())
}
