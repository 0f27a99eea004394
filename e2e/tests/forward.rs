//! The whole thin path, real at both ends: Linux stacks in namespaces and a QEMU guest.

use std::time::Duration;

use anyhow::Result;
use vswitch_e2e::{
    Daemon, DaemonSpec, Guest, GuestSpec, IperfServer, Need, Netns, Nic, iperf3, need, ping,
    until_ok,
};

/// A bridge with a `tap` port in each namespace, named like the namespace's tag.
fn config(ports: &[(&str, &Netns)], more: &str) -> String {
    let mut text = String::from("version = 1\n[[bridge]]\nname = \"br0\"\n");
    for (name, netns) in ports {
        text.push_str(&format!(
            "[[port]]\nname = \"{name}\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{}\"\n",
            netns.name()
        ));
    }
    text + more
}

fn ports_in_fdb(daemon: &Daemon) -> Result<Vec<String>> {
    let shown = daemon.ctl_json("fdb show")?;
    let items = shown["items"].as_array().cloned().unwrap_or_default();
    let mut ports: Vec<String> =
        items.iter().filter_map(|e| e["port"].as_str().map(str::to_owned)).collect();
    ports.sort();
    ports.dedup();
    Ok(ports)
}

#[test]
fn two_namespaces_talk() -> Result<()> {
    need!("two_namespaces_talk", Need::Root, Need::Tun, Need::Binaries);
    let (a, b) = (Netns::new("a")?, Netns::new("b")?);
    let mut daemon = Daemon::start(&config(&[("a0", &a), ("b0", &b)], ""))?;
    daemon.wait_healthy()?;
    for (netns, device, n) in [(&a, "a0", 1), (&b, "b0", 2)] {
        netns.addr(device, &format!("192.0.2.{n}/24"))?;
        netns.addr(device, &format!("2001:db8::{n}/64"))?;
    }
    for to in ["192.0.2.2", "2001:db8::2"] {
        assert_eq!(ping(&a, to, 5)?.received, 5, "{to}");
    }
    assert_eq!(ports_in_fdb(&daemon)?, ["a0", "b0"]);

    // Full-size segments and TCP's own checks: no byte may be wrong, none may be missing.
    let server = IperfServer::start(&b)?;
    let sent = iperf3(&a, "192.0.2.2", "-t 2")?;
    assert!(sent.received_bytes > 0);
    drop(server);

    let books = daemon.settle()?;
    books.check()?;
    for port in ["a0", "b0"] {
        assert!(books.port(port)?.rx_frames >= 10, "{books:?}");
    }
    daemon.stop()
}

#[test]
fn taps_have_a_queue_at_each_worker() -> Result<()> {
    need!("taps_have_a_queue_at_each_worker", Need::Root, Need::Tun, Need::Binaries);
    let (a, b) = (Netns::new("a")?, Netns::new("b")?);
    let ports = [("a0", &a), ("b0", &b)];
    let mut daemon = Daemon::start(&config(&ports, "[daemon]\ncpus = \"0-1\"\n"))?;
    daemon.wait_healthy()?;
    a.addr("a0", "192.0.2.1/24")?;
    b.addr("b0", "192.0.2.2/24")?;

    // So many streams that they cannot all come to the same worker.
    let server = IperfServer::start(&b)?;
    iperf3(&a, "192.0.2.2", "-P 16 -t 1")?;
    iperf3(&a, "192.0.2.2", "-P 4 -t 1 -R")?;
    drop(server);
    for _ in 0..4 {
        vswitch_e2e::streams::tcp(&a, &b, "192.0.2.2", 4 << 20)?;
        vswitch_e2e::streams::tcp(&b, &a, "192.0.2.1", 4 << 20)?;
    }

    // With DPDK one worker reads a TAP.
    let queues = if vswitch_e2e::on_dpdk_anyway() { 1 } else { 2 };
    let cpus = daemon.ctl_json("cpu show")?;
    for (port, _) in ports {
        let shown = daemon.ctl_json(&format!("port show {port}"))?;
        assert_eq!(shown["items"][0]["queues"], queues, "{shown}");
        let text = cpus.to_string();
        assert_eq!(text.matches(&format!("\"port\":\"{port}\"")).count(), queues, "{cpus}");
    }
    for worker in 0..queues {
        let worker = &cpus["items"][worker];
        assert!(worker["frames"].as_u64() > Some(1000), "{cpus}");
    }
    daemon.settle()?.check()?;
    daemon.stop()
}

#[test]
fn namespaces_and_a_guest_talk() -> Result<()> {
    let test = "namespaces_and_a_guest_talk";
    if let Some(why) = vswitch_e2e::missing(&[Need::GUEST, &[Need::Binaries]].concat()) {
        vswitch_e2e::skip(test, why);
        return Ok(());
    }
    let (a, b) = (Netns::new("a")?, Netns::new("b")?);
    let host = Netns::new("host")?;
    let more = "[[port]]\nname = \"vm\"\ntype = \"netdev\"\ndevice = \"vt0\"\nbridge = \"br0\"\n";
    let mut spec = DaemonSpec::new(&config(&[("a0", &a), ("b0", &b)], more));
    spec.netns = Some(host.name().to_owned());
    let mut daemon = spec.start()?;
    // The guest's device is not there yet: degraded, and said to be waiting.
    daemon.ctl("status")?.code_is(3)?;
    a.addr("a0", "192.0.2.1/24")?;
    b.addr("b0", "192.0.2.2/24")?;

    let nic = Nic::new("vt0", "52:54:00:00:00:03", &["192.0.2.3/24"]);
    let mut spec = GuestSpec::new("guest", vec![nic]);
    spec.netns = Some(host.name().to_owned());
    let guest = Guest::boot(spec)?;
    daemon.wait_healthy()?;

    assert_eq!(ping(&a, "192.0.2.2", 3)?.received, 3);
    assert_eq!(ping(&a, "192.0.2.3", 3)?.received, 3);
    assert_eq!(ping(&b, "192.0.2.3", 3)?.received, 3);
    assert_eq!(ping(&guest, "192.0.2.1", 3)?.received, 3);
    assert_eq!(ports_in_fdb(&daemon)?, ["a0", "b0", "vm"]);

    // Super-frames with unfinished checksums, both ways.
    assert!(iperf3(&a, "192.0.2.3", "-t 2")?.received_bytes > 0);
    assert!(iperf3(&a, "192.0.2.3", "-t 2 -R")?.received_bytes > 0);
    daemon.settle()?.check()?;

    // A guest that goes away: its port waits, nobody else is disturbed.
    daemon.allow("vt0");
    daemon.allow("vm");
    drop(guest);
    until_ok(Duration::from_secs(20), "the port to wait", || daemon.ctl("status")?.code_is(3))?;
    assert_eq!(ping(&a, "192.0.2.2", 3)?.received, 3);
    daemon.settle()?.check()?;
    daemon.stop()
}
