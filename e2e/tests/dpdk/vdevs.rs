//! Virtual devices by `devargs`: two switches joined by one, and one that goes away.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use vswitch_e2e::{
    Daemon, DaemonSpec, IperfServer, Need, Netns, Process, iperf3, need, ping, until, until_ok,
};

const SOON: Duration = Duration::from_secs(30);

/// A switch on DPDK with a namespace behind a TAP, and the port `link` made of `keys`.
fn switch(tag: &str, address: &str, keys: &str, mtu: u32) -> Result<(Daemon, Netns)> {
    let netns = Netns::new(tag)?;
    let config = format!(
        "version = 1\n[[bridge]]\nname = \"br0\"\n\
         [[port]]\nname = \"{tag}0\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{}\"\nmtu = {mtu}\n\
         [[port]]\nname = \"link\"\nbridge = \"br0\"\nmtu = {mtu}\n{keys}",
        netns.name(),
    );
    let daemon = DaemonSpec::new(&config).dpdk().start()?;
    netns.addr(&format!("{tag}0"), address)?;
    Ok((daemon, netns))
}

fn wait_for(daemon: &Daemon, state: &str) -> Result<()> {
    until_ok(SOON, "the port's state", || {
        let port = &daemon.ctl_json("port show link")?["items"][0];
        ensure!(port["state"] == state, "{port}");
        Ok(())
    })
}

fn crosses(from: &Netns) -> Result<()> {
    until_ok(SOON, "the far end to answer", || {
        ensure!(ping(from, "192.0.2.2", 1)?.received == 1);
        Ok(())
    })?;
    assert_eq!(ping(from, "192.0.2.2", 5)?.received, 5);
    Ok(())
}

/// A packet of 8,000 bytes crosses in one piece.
fn carries_jumbo_frames(from: &Netns) -> Result<()> {
    let out = from.cmd("ping").args(["-M", "do", "-s", "8000", "-c", "3", "192.0.2.2"]).run()?;
    out.ok().map(drop)
}

/// No frame is lost sight of, and no log holds a warning.
fn end(daemons: [Daemon; 2]) -> Result<()> {
    for mut daemon in daemons {
        daemon.settle()?.check()?;
        daemon.stop()?;
    }
    Ok(())
}

fn devargs(devargs: &str) -> String {
    format!("type = \"dpdk\"\ndevargs = \"{devargs}\"\n")
}

#[test]
fn two_switches_are_joined_by_memif() -> Result<()> {
    need!("two_switches_are_joined_by_memif", Need::Root, Need::Tun, Need::Dpdk);
    let dir = tempfile::Builder::new().prefix("vst-memif-").tempdir()?;
    let side = |role: &str| {
        let socket = dir.path().join("memif.sock");
        devargs(&format!(
            "net_memif0,role={role},socket={},socket-abstract=no,bsize=2048",
            socket.display()
        ))
    };
    // The far end has one queue: a second one here would lead to it, too.
    let two_workers = side("server") + "[daemon]\ncpus = \"0-1\"\n";
    let (a, red) = switch("a", "192.0.2.1/24", &two_workers, 1500)?;
    wait_for(&a, "down")?;
    let idle = a.buffers_in_use()?;
    let (mut b, blue) = switch("b", "192.0.2.2/24", &side("client"), 1500)?;
    for daemon in [&a, &b] {
        wait_for(daemon, "up")?;
    }
    crosses(&red)?;
    let once = red.cmd("ping").args(["-n", "-c", "20", "-i", "0.02", "192.0.2.2"]).run()?.ok()?;
    ensure!(once.stdout.contains(" 20 received") && !once.stdout.contains("DUP!"), "{once}");
    let _server = IperfServer::start(&blue)?;
    ensure!(iperf3(&red, "192.0.2.2", "-t 1")?.received_bytes > 0);
    // The far end goes without a word, and comes back.
    b.kill9()?;
    wait_for(&a, "down")?;
    a.wait_buffers_in_use(idle)?;
    b.restart()?;
    wait_for(&a, "up")?;
    crosses(&red)?;
    end([b, a])
}

#[test]
fn virtio_user_meets_vhost_user() -> Result<()> {
    need!("virtio_user_meets_vhost_user", Need::Root, Need::Tun, Need::Dpdk);
    let dir = tempfile::Builder::new().prefix("vst-virtio-").tempdir()?;
    let socket = dir.path().join("vu.sock");
    let serves =
        format!("type = \"vhost-user\"\nsocket = \"{}\"\nmode = \"server\"\n", socket.display());
    let (b, blue) = switch("b", "192.0.2.2/24", &serves, 9000)?;
    let comes = devargs(&format!("net_virtio_user0,path={},server=0", socket.display()));
    let (a, red) = switch("a", "192.0.2.1/24", &comes, 9000)?;
    for daemon in [&a, &b] {
        wait_for(daemon, "up")?;
    }
    crosses(&red)?;
    carries_jumbo_frames(&red)?;
    let _server = IperfServer::start(&blue)?;
    ensure!(iperf3(&red, "192.0.2.2", "-t 1")?.received_bytes > 0);
    let port = &a.ctl_json("port show link")?["items"][0];
    assert_eq!(port["driver"], "net_virtio_user", "{port}");
    end([a, b])
}

#[test]
fn a_device_that_waits_for_its_peer_is_refused() -> Result<()> {
    need!("a_device_that_waits_for_its_peer_is_refused", Need::Root, Need::Tun, Need::Dpdk);
    let dir = tempfile::Builder::new().prefix("vst-virtio-").tempdir()?;
    let waits = format!("net_virtio_user0,path={},server=1", dir.path().join("vu.sock").display());
    let config = format!(
        "version = 1\n[[bridge]]\nname = \"br0\"\n[[port]]\nname = \"link\"\nbridge = \"br0\"\n{}",
        devargs(&waits)
    );
    let mut daemon =
        DaemonSpec::new(&config).dpdk().allow("waits until somebody connects").start()?;
    let port = &daemon.ctl_json("port show link")?["items"][0];
    assert_eq!(port["state"], "failed", "{port}");
    let why = port["reason"].as_str().unwrap_or_default();
    ensure!(why.contains("server=1"), "{port}");
    daemon.stop()
}

/// Joins `eth0` of a namespace to a device of `host`, with the same MAC address each time.
pub(crate) fn plug(host: &Netns, device: &str, netns: &Netns, address: &str) -> Result<()> {
    let (name, last) = (netns.name(), address.as_bytes()[8]);
    let mac = format!("address 02:00:00:00:00:{last:02x}");
    host.ip(&format!("link add {device} up type veth peer name eth0 {mac} netns {name}"))?;
    netns.addr("eth0", address)?;
    netns.ip("link set eth0 up").map(drop)
}

/// Sends from `from` for so long.
fn flood(from: &Netns, secs: u32) -> Result<Process> {
    let ping =
        from.cmd("timeout").args([&secs.to_string(), "ping", "-f", "-s", "1000", "192.0.2.2"]);
    ping.spawn(Stdio::null(), Stdio::null())
}

#[test]
fn a_device_that_goes_takes_nothing_with_it() -> Result<()> {
    need!("a_device_that_goes_takes_nothing_with_it", Need::Root, Need::Tun, Need::Dpdk);
    let [host, a, b, c] = ["host", "a", "b", "c"].map(Netns::new);
    let (host, a, b, c) = (host?, a?, b?, c?);
    let mut config = String::from("version = 1\n[[bridge]]\nname = \"br0\"\n");
    for (name, netns, address, driver) in [
        ("va", &a, "192.0.2.1/24", "net_af_packet"),
        ("vb", &b, "192.0.2.2/24", "net_af_xdp"),
        ("vc", &c, "192.0.2.3/24", "net_af_packet"),
    ] {
        plug(&host, name, netns, address)?;
        config += &format!(
            "[[port]]\nname = \"{name}\"\ntype = \"dpdk\"\nbridge = \"br0\"\n\
             devargs = \"{driver}_{name},iface={name}\"\n"
        );
    }
    let mut spec = DaemonSpec::new(&config)
        .allow("vb")
        .allow("removing XDP program")
        .allow("bpf_xdp_detach failed");
    spec.netns = Some(host.name().to_owned());
    let mut daemon = spec.dpdk().start()?;
    crosses(&a)?;
    let mut traffic = flood(&a, 3)?;
    host.ip("link del vb")?;
    let down = until(SOON, "the port to go down", || {
        let port = daemon.ctl_json("port show vb")?["items"][0].clone();
        Ok((port["state"] != "up").then_some(port))
    })?;
    ensure!(down["reason"].as_str().is_some_and(|why| !why.is_empty()), "{down}");
    traffic.wait(SOON)?;
    assert_eq!(ping(&a, "192.0.2.3", 5)?.received, 5, "others do not notice");
    daemon.settle()?.check()?;
    // It comes back with the device.
    plug(&host, "vb", &b, "192.0.2.2/24")?;
    crosses(&a)?;
    daemon.stop()
}
