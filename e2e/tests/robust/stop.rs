//! What is left behind: after a clean stop under traffic, and after a crash.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitch_e2e::{Daemon, Need, Netns, need, ping, until_ok};

use crate::rig::{Flow, LIMIT, Station, books, config, host_ip, wait_port};

/// What the switch may change on a netdev: IPv6, promiscuity, link state, programs.
fn netdev_state(daemon: &Daemon, device: &str) -> Result<Value> {
    let host = daemon.netns().context("no namespace")?;
    let link = vswitch_e2e::run(&format!("ip -n {host} -d -j link show dev {device}"))?.json()?;
    let link = &link[0];
    let key = format!("net.ipv6.conf.{device}.disable_ipv6");
    let ipv6 = vswitch_e2e::run(&format!("ip netns exec {host} sysctl -n {key}"))?.stdout;
    let up = link["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == "UP"));
    let master = &link["master"];
    Ok(serde_json::json!([link["promiscuity"], up, master, link["mtu"], ipv6.trim()]))
}

/// That the host's own stack can use the device again: nothing filters it any more.
fn host_uses(daemon: &Daemon, device: &str, peer: &Netns) -> Result<()> {
    host_ip(daemon, &format!("link set {device} up"))?;
    host_ip(daemon, &format!("addr add 198.51.100.1/24 dev {device}"))?;
    until_ok(LIMIT, "the host's stack to answer", || {
        ensure!(ping(peer, "198.51.100.1", 2)?.received > 0);
        Ok(())
    })?;
    host_ip(daemon, &format!("addr del 198.51.100.1/24 dev {device}"))
}

fn addresses(station: &Station) -> Result<Value> {
    let shown = station.netns.ip(&format!("-j addr show dev {}", station.name()))?.json()?;
    let device = &shown[0];
    Ok(serde_json::json!([device["ifindex"], device["address"], device["addr_info"]]))
}

fn ends(crash: bool) -> Result<()> {
    let (a, b, peer) = (Station::new(1)?, Station::new(2)?, Netns::new("peer")?);
    let text = config(&[&a, &b], "");
    let mut daemon = Daemon::start(&text)?;
    a.plug(&[&b])?;
    b.plug(&[&a])?;
    // One that is up, and one that is down, as an operator may have them.
    for (n, up) in [(0, " up"), (1, "")] {
        let place = format!("netns {}", peer.name());
        host_ip(&daemon, &format!("link add vn{n}{up} type veth peer name vp{n} {place}"))?;
        peer.ip(&format!("link set vp{n} up"))?;
    }
    peer.addr("vp0", "198.51.100.2/24")?;
    let before = [netdev_state(&daemon, "vn0")?, netdev_state(&daemon, "vn1")?];
    for n in 0..2 {
        let body = serde_json::json!({
            "name": format!("nd{n}"), "type": "netdev", "device": format!("vn{n}"), "bridge": "br0"
        });
        crate::rig::api_is(&daemon, 200, "POST", "/v1/ports", &body)?;
        wait_port(&daemon, &format!("nd{n}"), "up")?;
    }
    daemon.wait_healthy()?;
    // While it is attached the host's stack is silent there: it does not even ask.
    host_ip(&daemon, "addr add 198.51.100.1/24 dev vn0")?;
    ensure!(ping(&peer, "198.51.100.1", 2)?.received == 0, "two answer on the device");
    host_ip(&daemon, "addr del 198.51.100.1/24 dev vn0")?;

    until_ok(LIMIT, "the first answer", || a.reaches(b.ip()))?;
    let kept = (addresses(&a)?, addresses(&b)?);
    let flow = Flow::paced(&a, &b)?;
    let unheard = Flow::unheard(&b, "192.0.2.200".parse()?, std::time::Duration::from_millis(2))?;
    until_ok(LIMIT, "traffic", || {
        ensure!(daemon.accounting()?.port("s1")?.rx_frames > 100);
        Ok(())
    })?;
    if crash {
        daemon.kill9()?
    } else {
        daemon.stop()?
    }

    // Persistent TAPs are there with their addresses, and traffic is sent into nowhere meanwhile.
    ensure!((addresses(&a)?, addresses(&b)?) == kept, "{kept:?}");
    if crash {
        // What must vanish with the process does; what the next life has to undo, it knows: here
        // it starts without the two ports.
        host_uses(&daemon, "vn0", &peer)?;
        std::fs::remove_dir_all(daemon.state_dir())?;
        daemon.restart()?;
        until_ok(LIMIT, "the devices to be as before", || {
            let now = [netdev_state(&daemon, "vn0")?, netdev_state(&daemon, "vn1")?];
            ensure!(now == before, "{before:?} became {now:?}");
            Ok(())
        })?;
    } else {
        let now = [netdev_state(&daemon, "vn0")?, netdev_state(&daemon, "vn1")?];
        ensure!(now == before, "{before:?} became {now:?}");
        host_uses(&daemon, "vn0", &peer)?;
        ensure!(!daemon.run_dir().join("api.sock").exists(), "the socket is still there");
        daemon.restart()?;
    }
    if !crash {
        wait_port(&daemon, "nd0", "up")?;
    }
    until_ok(LIMIT, "traffic to be back", || a.reaches(b.ip()))?;
    ensure!((addresses(&a)?, addresses(&b)?) == kept, "{kept:?}");
    let (heard, _) = (flow.stop()?, unheard.stop()?);
    ensure!(heard.received > 0 && heard.twice == 0, "{heard:?}");
    books(&daemon)?;
    daemon.stop()
}

#[test]
fn a_clean_stop_under_traffic_leaves_devices_as_promised() -> Result<()> {
    let test = "a_clean_stop_under_traffic_leaves_devices_as_promised";
    need!(test, Need::Root, Need::Tun, Need::Binaries);
    ends(false)
}

#[test]
fn a_crash_under_traffic_leaves_devices_as_promised() -> Result<()> {
    let test = "a_crash_under_traffic_leaves_devices_as_promised";
    need!(test, Need::Root, Need::Tun, Need::Binaries);
    ends(true)
}
