//! Somebody who stops reading: a program that holds a TAP, and a whole guest that is frozen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tun_tap::{Iface, Mode};
use vswitch_e2e::accounting::{Accounting, PortCounts};
use vswitch_e2e::raw::mac;
use vswitch_e2e::{
    Daemon, DaemonSpec, Guest, GuestSpec, Need, Netns, Nic, need, ping, size, until, until_ok,
};

use crate::rig::{
    Flow, LIMIT, Station, Talk, Usage, api_is, books, config, daemon, host_ip, mac_text, wait_port,
};

/// What frames in flight and allocators may take, KiB. A queue without a bound would take 200
/// bytes and more for each frame.
const MORE_KIB: u64 = 16 << 10;

/// Waits until a port's counters are as `wanted`.
fn wait_counts(
    daemon: &Daemon,
    port: &str,
    what: &str,
    wanted: impl Fn(&PortCounts) -> bool,
) -> Result<PortCounts> {
    until(LIMIT, what, || {
        let counts = daemon.accounting()?.port(port)?.clone();
        Ok(wanted(&counts).then_some(counts))
    })
}

fn full(counts: &PortCounts) -> u64 {
    counts.drops.get("tx-full").copied().unwrap_or(0)
}

/// Only `held` dropped anything, and only for want of room.
fn only_full(books: &Accounting, held: &str) -> Result<()> {
    for (name, counts) in &books.ports {
        let others: Vec<_> =
            counts.drops.keys().filter(|r| name != held || *r != "tx-full").collect();
        ensure!(others.is_empty(), "{name} dropped for {others:?}: {books:#?}");
    }
    Ok(())
}

#[test]
fn a_program_that_never_reads_harms_itself_alone() -> Result<()> {
    let test = "a_program_that_never_reads_harms_itself_alone";
    need!(test, Need::Root, Need::Tun, Need::Binaries);
    let (a, b, c) = (Station::new(1)?, Station::new(2)?, Station::new(3)?);
    let more = "[[port]]\nname = \"held\"\ntype = \"netdev\"\ndevice = \"th0\"\nbridge = \"br0\"\n";
    let mut daemon = daemon(&[&a, &b, &c], more)?;
    let host = daemon.netns().context("no namespace")?.to_owned();
    let tap = {
        let path = format!("/run/netns/{host}");
        let enter = move || -> Result<Iface> {
            let file = std::fs::File::open(path)?;
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(Iface::without_packet_info("th0", Mode::Tap)?)
        };
        let thread = std::thread::spawn(enter);
        thread.join().map_err(|_| anyhow!("the thread that opens the TAP panicked"))??
    };
    host_ip(&daemon, "link set th0 up")?;
    wait_port(&daemon, "held", "up")?;
    daemon.wait_healthy()?;
    // Its station says nothing, so its address is not learned but added.
    let (ip, address) = ("192.0.2.99".parse()?, mac(0x99));
    c.knows("s3", ip, address)?;
    let entry = json!({ "bridge": "br0", "mac": mac_text(address), "port": "held" });
    api_is(&daemon, 200, "POST", "/v1/fdb", &json!({ "entries": [entry] }))?;

    let talk = Talk::start(&a, &b)?;
    let before = Usage::of(&daemon)?;
    // What was flooded before all had been learned.
    let earlier = daemon.accounting()?.port("held")?.clone();
    let flood = Flow::unheard(&c, ip, Duration::from_micros(100))?;
    let dropped = size(2_000, 200_000);
    wait_counts(&daemon, "held", "its queue to be full", |c| full(c) > dropped)?;
    let sent = flood.stop()?.sent;
    let datagrams = talk.stop_whole(&daemon)?;
    let after = before.still_of(&daemon, MORE_KIB)?;
    let counted = books(&daemon)?;
    only_full(&counted, "held")?;
    let held = counted.port("held")?;
    // Everything sent to it either lies in its queue of a known size or was dropped by name.
    ensure!(held.offered - earlier.offered == sent, "{sent} sent: {earlier:#?} {held:#?}");
    let taken = held.tx_frames - earlier.tx_frames;
    ensure!(taken + full(held) == sent && held.lost_after_tx == 0, "{sent} sent: {held:#?}");
    eprintln!(
        "{} frames in the queue, {} dropped; {datagrams} datagrams between others, 0 lost; \
         {before:?} {after:?}",
        held.tx_frames,
        full(held)
    );

    // It reads again: what was in the queue comes, then what is sent now.
    let (queued, lost) = (held.tx_frames, full(held));
    let (tap, seen) = (Arc::new(tap), Arc::new(AtomicU64::new(0)));
    let (more, to_read) = (200, taken + 200);
    let reader = std::thread::spawn({
        let (tap, seen) = (Arc::clone(&tap), Arc::clone(&seen));
        move || -> Result<u64> {
            let (mut frame, mut ours) = ([0; 2048], 0);
            // What was flooded, or said by the host before the switch silenced it, is there too.
            while ours < to_read {
                let len = tap.recv(&mut frame)?;
                ours += u64::from(frame[..len].starts_with(&address));
                seen.store(ours, Ordering::Release);
            }
            Ok(ours)
        }
    });
    until(LIMIT, "the queue to be read", || {
        Ok((seen.load(Ordering::Acquire) >= taken).then_some(()))
    })?;
    let flow = Flow::unheard(&c, ip, Duration::from_millis(1))?;
    let now = wait_counts(&daemon, "held", "frames to flow", |c| c.tx_frames >= queued + more)?;
    flow.stop()?;
    ensure!(full(&now) == lost, "it reads, and still {} were dropped", full(&now) - lost);
    let read = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
    ensure!(read == to_read, "{read} frames read");
    books(&daemon)?;
    daemon.allow("th0");
    daemon.stop()
}

#[test]
fn a_frozen_guest_harms_itself_alone() -> Result<()> {
    let test = "a_frozen_guest_harms_itself_alone";
    if let Some(why) = vswitch_e2e::missing(&[Need::GUEST, &[Need::Binaries]].concat()) {
        vswitch_e2e::skip(test, why);
        return Ok(());
    }
    let stations = [Station::new(1)?, Station::new(2)?, Station::new(3)?];
    let [a, b, c] = &stations;
    let host = Netns::new("host")?;
    let more = "[[port]]\nname = \"vm\"\ntype = \"netdev\"\ndevice = \"vt0\"\nbridge = \"br0\"\n";
    let mut spec = DaemonSpec::new(&config(&[a, b, c], more));
    spec.netns = Some(host.name().to_owned());
    let mut daemon = spec.start()?;
    for station in &stations {
        station.plug(&[a, b, c])?;
    }
    let (ip, address) = ("192.0.2.50".parse()?, [0x52, 0x54, 0, 0, 0, 0x50]);
    let nic = Nic::new("vt0", &mac_text(address), &["192.0.2.50/24"]);
    let mut spec = GuestSpec::new("frozen", vec![nic]);
    spec.netns = Some(host.name().to_owned());
    let mut guest = Guest::boot(spec)?;
    daemon.wait_healthy()?;
    c.knows("s3", ip, address)?;
    c.reaches(ip)?;
    let talk = Talk::start(a, b)?;

    let before = Usage::of(&daemon)?;
    guest.freeze()?;
    let flood = Flow::unheard(c, ip, Duration::from_micros(100))?;
    let dropped = size(2_000, 50_000);
    let frozen = wait_counts(&daemon, "vm", "the guest's queue to be full", |c| full(c) > dropped)?;
    flood.stop()?;
    let after = before.still_of(&daemon, MORE_KIB)?;

    guest.thaw()?;
    until_ok(LIMIT, "the guest to answer again", || c.reaches(ip))?;
    ensure!(ping(&guest, &c.ip().to_string(), 3)?.received > 0, "the guest reaches nobody");
    let datagrams = talk.stop_whole(&daemon)?;
    let counted = books(&daemon)?;
    // The guest's own stack says things that nobody takes (router solicitations, say).
    ensure!(counted.ports.iter().all(|(n, c)| n == "vm" || c.drops.is_empty()), "{counted:#?}");
    eprintln!(
        "{} frames dropped on the frozen guest; {datagrams} datagrams between others, 0 lost; \
         {before:?} {after:?}",
        full(&frozen)
    );
    let state = api_is(&daemon, 200, "GET", "/v1/drops?port=vm&reason=tx-full", &Value::Null)?;
    ensure!(state["items"][0]["side"] == "out", "{state}");
    daemon.allow("vt0");
    drop(guest);
    daemon.stop()
}
