//! Ports that come and go while two others talk: nothing is lost there, nothing is left behind.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use vswitch_e2e::raw::{Sender, ethernet};
use vswitch_e2e::{Daemon, Need, Netns, need, size};

use crate::rig::{
    LIMIT, Station, Talk, Usage, api_is, books, check_ledgers, daemon, host_ip, wait_port,
};

/// Memory that allocators and the store's cache may take for themselves, KiB.
const MORE_KIB: u64 = 16 << 10;

/// Adds and deletes a port, or moves one to another bridge and back.
fn flap(daemon: &Daemon, cycle: u64, away: &Netns, sender: &Sender, frame: &[u8]) -> Result<()> {
    let port = match cycle % 4 {
        0 => json!({ "name": "flap", "type": "tap", "bridge": "br0" }),
        1 => json!({ "name": "flap", "type": "netdev", "device": "vn0", "bridge": "br0" }),
        2 => json!({ "name": "flap", "type": "tap", "bridge": "br0", "netns": away.name() }),
        _ => {
            for bridge in ["br1", "br0"] {
                let patch = json!({ "bridge": bridge });
                api_is(daemon, 200, "PATCH", "/v1/ports/mover", &patch)?;
                sender.send(frame)?;
            }
            return Ok(());
        }
    };
    api_is(daemon, 200, "POST", "/v1/ports", &port)?;
    // A broadcast, so that the port has frames while it goes.
    sender.send(frame)?;
    api_is(daemon, 200, "DELETE", "/v1/ports/flap", &Value::Null)?;
    Ok(())
}

#[test]
fn flaps_through_the_api_disturb_nobody() -> Result<()> {
    need!("flaps_through_the_api_disturb_nobody", Need::Root, Need::Tun, Need::Binaries);
    let (a, b, away) = (Station::new(1)?, Station::new(2)?, Netns::new("away")?);
    let more = "[daemon]\ncpus = \"0-1\"\n[[bridge]]\nname = \"br1\"\n\
                [[port]]\nname = \"mover\"\ntype = \"tap\"\nbridge = \"br0\"\n";
    let mut daemon = daemon(&[&a, &b], more)?;
    daemon.wait_healthy()?;
    host_ip(&daemon, "link add vn0 type veth peer name vn1")?;
    host_ip(&daemon, "link set vn1 up")?;

    let sender = Sender::open(&a.netns, &a.name())?;
    let frame = ethernet([0xff; 6], a.mac(), &[], 0x88b5, b"flap");
    let talk = Talk::start(&a, &b)?;
    for cycle in 0..8 {
        flap(&daemon, cycle, &away, &sender, &frame)?;
    }
    let before = Usage::of(&daemon)?;
    let cycles = size(200, 10_000);
    for cycle in 0..cycles {
        flap(&daemon, cycle, &away, &sender, &frame)?;
    }
    let datagrams = talk.stop_whole(&daemon)?;
    let after = before.still_of(&daemon, MORE_KIB)?;
    eprintln!("{cycles} flaps, {datagrams} datagrams, 0 lost; {before:?} {after:?}");

    // Of the deleted ports only the sum of their drops is kept: each other's own books must hold.
    let counted = daemon.settle()?;
    check_ledgers(&daemon)?;
    for station in [&a, &b] {
        station.check_device(&counted)?;
    }
    ensure!(counted.port("s2")?.tx_frames >= cycles, "{counted:#?}");
    daemon.stop()
}

#[test]
fn devices_that_come_and_go_disturb_nobody() -> Result<()> {
    need!("devices_that_come_and_go_disturb_nobody", Need::Root, Need::Tun, Need::Binaries);
    let (a, b, c) = (Station::new(1)?, Station::new(2)?, Station::new(3)?);
    let more = "[daemon]\ncpus = \"0-1\"\n\
                [[port]]\nname = \"nd\"\ntype = \"netdev\"\ndevice = \"vn0\"\nbridge = \"br0\"\n";
    let mut daemon = daemon(&[&a, &b], more)?;
    let plug = format!("link add vn0 up type veth peer name s3 netns {}", c.netns.name());
    let talk = Talk::start(&a, &b)?;
    let cycles = size(30, 2_000);
    let mut before = None;
    for cycle in 0..cycles {
        host_ip(&daemon, &plug)?;
        // Most are gone before the switch can have opened them; some live for a while.
        if cycle % 5 == 0 {
            c.netns.ip("link set s3 up")?;
            wait_port(&daemon, "nd", "up")?;
            if cycle % 2 == 0 {
                host_ip(&daemon, "link set vn0 down")?;
                wait_port(&daemon, "nd", "down")?;
            }
            if before.is_none() {
                before = Some(Usage::of(&daemon)?);
            }
        }
        host_ip(&daemon, "link del vn0")?;
        if cycle % 5 == 0 {
            wait_port(&daemon, "nd", "waiting")?;
        }
    }
    host_ip(&daemon, &plug)?;
    c.netns.ip("link set s3 up")?;
    wait_port(&daemon, "nd", "up")?;
    c.plug(&[])?;
    let datagrams = talk.stop_whole(&daemon)?;
    vswitch_e2e::until_ok(LIMIT, "the device to carry frames", || c.reaches(a.ip()))?;
    let before = before.unwrap_or(Usage { fds: 0, threads: 0, rss_kib: 0 });
    let after = before.still_of(&daemon, MORE_KIB)?;
    eprintln!("{cycles} devices, {datagrams} datagrams, 0 lost; {before:?} {after:?}");

    let counted = books(&daemon)?;
    for station in [&a, &b] {
        station.check_device(&counted)?;
    }
    daemon.wait_healthy()?;
    daemon.stop()
}
