//! The same super-frame, cut by the kernel and cut by the switch, is the same frames: IP IDs, flags,
//! checksums and all.
//!
//! A Linux bridge that learns nothing floods what one stack sends to two cables. One has no offloads,
//! so the kernel cuts before it; behind the other is the switch, which cuts for a tunnel.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::capture::Capture;
use vswitch_e2e::streams::{self, PORT};
use vswitch_e2e::{Daemon, Netns, ping, size, until};

use crate::net::{MTU, NOTHING, SOON, daemon, set, skipped, tunnel, underlay};
use crate::oracle;

#[test]
fn the_switch_cuts_as_the_kernel_does() -> Result<()> {
    if skipped("the_switch_cuts_as_the_kernel_does", &[]) {
        return Ok(());
    }
    let (hub, hosts) = (Netns::new("hub")?, underlay(false)?);
    let (a, kernel, ours) = (Netns::new("a")?, Netns::new("kernel")?, Netns::new("ours")?);
    hub.ip("link add br0 up type bridge ageing_time 0 mcast_snooping 0")?;
    for (name, to, peer) in [("a0", &a, "eth0"), ("k0", &kernel, "eth0"), ("s0", &hosts[0], "s1")] {
        hub.ip(&format!("link add {name} type veth peer name {peer} netns {}", to.name()))?;
        hub.ip(&format!("link set {name} up master br0"))?;
        to.ip(&format!("link set {peer} up"))?;
    }
    hosts[1].ip(&format!("link add o0 up type veth peer name eth0 netns {}", ours.name()))?;
    ours.ip("link set eth0 up")?;
    for (netns, device) in [(&hub, "k0"), (&kernel, "eth0"), (&ours, "eth0")] {
        set(netns, device, NOTHING)?;
    }
    for (netns, n) in [(&a, 1), (&ours, 2)] {
        netns.addr("eth0", &format!("192.0.2.{n}/24"))?;
        netns.addr("eth0", &format!("2001:db8::{n}/64"))?;
    }
    let mut daemons = Vec::new();
    for (n, (host, device)) in hosts.iter().zip(["s1", "o0"]).enumerate() {
        // What arrives is to stay in pieces.
        let port = format!(
            "[[port]]\nname = \"{device}\"\ntype = \"netdev\"\ndevice = \"{device}\"\n\
             bridge = \"br0\"\ngro = false\n"
        );
        daemons.push(daemon(host, &(port + &tunnel("vxlan", n + 1, 2 - n)))?);
    }
    for address in ["192.0.2.2", "2001:db8::2"] {
        until(SOON, "the ends to reach each other", || {
            Ok((ping(&a, address, 1)?.received > 0).then_some(()))
        })?;
    }

    let filter = format!("dst port {PORT}");
    let captures = [&kernel, &ours].map(|netns| Capture::start(netns, "eth0", &filter));
    let [by_kernel, by_switch] = captures;
    let (by_kernel, by_switch) = (by_kernel?, by_switch?);
    let before = daemons[0].accounting()?.port("s1")?.copied;
    let bytes = size(1, 32) as usize * 1024 * 1024;
    for address in ["192.0.2.2", "2001:db8::2"] {
        streams::tcp(&a, &ours, address, bytes)?;
        streams::udp(&a, &ours, address, bytes / 4)?;
    }
    let (mut cut, mut missed) = (0, 0);
    for daemon in &daemons {
        let books = daemon.settle()?;
        books.check()?;
        missed += books.ports.values().map(|port| port.missed_rx).sum::<u64>();
        missed += books.dropped_in_all();
        cut = cut.max(books.port("s1").map_or(0, |port| port.copied - before));
    }
    ensure!(cut > 200, "only {cut} segments were made of super-frames");
    let (by_kernel, by_switch) = (by_kernel.stop()?, by_switch.stop()?);
    oracle::check_all(&by_switch, MTU)?;
    same_frames(&by_kernel, &by_switch, missed == 0)?;
    eprintln!("{} frames are the same, {cut} of them cut", by_switch.len());
    daemons.iter_mut().try_for_each(Daemon::stop)
}

/// Every frame of the switch's is one of the kernel's, as often; and the other way round if `all`
/// came through: else TCP has sent again what the switch missed.
fn same_frames(kernel: &[Vec<u8>], switch: &[Vec<u8>], all: bool) -> Result<()> {
    let mut counts: BTreeMap<&[u8], i64> = BTreeMap::new();
    for frame in kernel {
        *counts.entry(frame).or_default() += 1;
    }
    for (n, frame) in switch.iter().enumerate() {
        let count = counts.entry(frame).or_default();
        *count -= 1;
        ensure!(
            *count >= 0,
            "frame {n} of {} bytes is none of the kernel's: {:02x?}",
            frame.len(),
            frame.get(..80).unwrap_or(frame)
        );
    }
    let missing = counts.iter().find(|(_, count)| **count > 0);
    if let Some((frame, count)) = missing.filter(|_| all) {
        let head = frame.get(..80).context("a short frame")?;
        anyhow::bail!("{count} times the kernel alone sent {head:02x?}");
    }
    Ok(())
}
