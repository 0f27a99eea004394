//! The switch on DPDK, with an uplink in `net_af_xdp`, and every kind of peer. The other tests of
//! this directory run on DPDK, too, with `VSWITCH_E2E_DATAPATH=dpdk`.

use std::fs::File;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::accounting::Accounting;
use vswitch_e2e::capture::Capture;
use vswitch_e2e::overlay::{
    Family, Ground, Linux, OpenVswitch, Peer, Protocol, Site, Switch, Tunnel, Underlay, checks,
    connect,
};
use vswitch_e2e::{Host, Need, until, until_ok};

use crate::lab::{all_checks, option, skipped, talk};
use crate::rig::{SOON, finish};

const NEEDS: [Need; 3] = [Need::Tun, Need::Binaries, Need::Dpdk];

/// The switch's uplink and exception TAP, see [`Switch`].
const TAP: &str = "up0";

/// An underlay, and the switch on DPDK on it.
fn start() -> Result<(Underlay, Switch)> {
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let ours = Switch::on_dpdk(underlay.site("ours")?)?;
    Ok((underlay, ours))
}

#[test]
fn the_kernels_vxlan() -> Result<()> {
    if skipped("the_kernels_vxlan", &NEEDS) {
        return Ok(());
    }
    let (underlay, mut ours) = start()?;
    let mut linux = Linux::new(underlay.site("linux")?)?;
    let mut tenants = Vec::new();
    for family in [Family::V4, Family::V6] {
        let tunnel = Tunnel::new(Protocol::Vxlan, 0xab_cdef, family);
        let fields = ["vxlan.vni", "vxlan.flags", "udp.srcport", "eth.src", "eth.dst"];
        let (seen, some) = all_checks(&underlay, &tunnel, &mut ours, &mut linux, &fields)?;
        tenants.extend(some);
        seen.same("vxlan.vni", tunnel.id)?;
        seen.same("vxlan.flags", 0x0800)?;
        let ports = seen.values("udp.srcport")?;
        ensure!(ports.iter().all(|p| p.parse().is_ok_and(|p: u16| p >= 49152)), "{ports:?}");
        // Outer Ethernet is the uplink's and the neighbour's.
        let (us, them) = (mac_of(ours.site(), TAP)?, mac_of(linux.site(), "u0")?);
        for row in &seen.rows {
            let outer = |n: usize| row[n].split(',').next().unwrap_or_default();
            ensure!(outer(3) == us && outer(4) == them, "{us} to {them}: {row:?}");
        }
    }
    finish(ours)
}

#[test]
fn open_vswitch() -> Result<()> {
    if skipped("open_vswitch", &NEEDS) {
        return Ok(());
    }
    let (underlay, mut ours) = start()?;
    let mut ovs = OpenVswitch::new(underlay.site("ovs")?)?;
    let mut tenants = Vec::new();
    for (n, protocol, family, field) in [
        (1, Protocol::Vxlan, Family::V4, "vxlan.vni"),
        (2, Protocol::Geneve, Family::V4, "geneve.vni"),
        (3, Protocol::Gre, Family::V4, "gre.key"),
        (4, Protocol::Geneve, Family::V6, "geneve.vni"),
        (5, Protocol::Gre, Family::V6, "gre.key"),
    ] {
        let tunnel = Tunnel::new(protocol, 0xab_cd00 + n, family);
        let (seen, some) = all_checks(&underlay, &tunnel, &mut ours, &mut ovs, &[field])
            .with_context(|| format!("{tunnel:?}"))?;
        tenants.extend(some);
        seen.same(field, tunnel.id)?;
    }
    finish(ours)
}

#[test]
fn copies_in_erspan() -> Result<()> {
    if skipped("dpdk::copies_in_erspan", &NEEDS) {
        return Ok(());
    }
    let (underlay, ours) = start()?;
    crate::mirror::are_decoded(&underlay, ours)
}

/// Both datapaths of the switch understand each other, options of GENEVE included.
#[test]
fn the_other_datapath() -> Result<()> {
    if skipped("the_other_datapath", &NEEDS) {
        return Ok(());
    }
    let (underlay, mut ours) = start()?;
    let mut other = Switch::new(underlay.site("other")?)?;
    for (n, protocol, family) in [
        (1, Protocol::Vxlan, Family::V6),
        (2, Protocol::Geneve, Family::V4),
        (3, Protocol::Gre, Family::V4),
    ] {
        let mut tunnel = Tunnel::new(protocol, 0xab_cd00 + n, family);
        if protocol == Protocol::Geneve {
            tunnel.options.push(option());
        }
        talk(&underlay, &tunnel, &mut ours, &mut other)?;
    }
    other.stop()?;
    ours.stop()
}

/// The host behind the uplink: its address answers, and sends, beside a tunnel's traffic.
#[test]
fn the_host_keeps_its_uplink() -> Result<()> {
    if skipped("the_host_keeps_its_uplink", &NEEDS) {
        return Ok(());
    }
    let (underlay, mut ours) = start()?;
    let mut linux = Linux::new(underlay.site("linux")?)?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 5, Family::V4);
    let tenants = connect(&tunnel, &mut [&mut ours, &mut linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    checks::reach(a, b)?;
    // ARP, ND and pings in both directions, each answered once.
    for family in [Family::V4, Family::V6] {
        for (from, to) in [(ours.site(), linux.site()), (linux.site(), ours.site())] {
            let to = to.address(family);
            let ping = from.space.sh(&format!("ping -n -c 3 -i 0.05 -W 5 -s 1400 {to}"))?.ok()?;
            ensure!(ping.stdout.contains(" 3 received,"), "{ping}");
            ensure!(!ping.stdout.contains("DUP!"), "{ping}");
        }
    }
    // So is a connection to the host, which no tunnel listens at.
    let ours_v4 = ours.site().v4;
    let server = ours.site().space.start("busybox nc -l -p 7777")?;
    let client = format!("echo hello | busybox nc -w 2 {ours_v4} 7777 || true");
    until(SOON, "a connection to the host", || {
        linux.site().space.sh(&client)?;
        Ok(server.printed()?.contains("hello").then_some(()))
    })?;
    drop(server);

    // The address goes, the VTEP waits; it comes back, the tunnel does, too.
    let tap = |ours: &Switch, change: &str| -> Result<()> {
        ours.site().space.ip(&format!("addr {change} {ours_v4}/24 dev {TAP}")).map(drop)
    };
    let state = |ours: &Switch| -> Result<String> {
        let shown = ours.ctl("-o json vtep show v4")?.json()?;
        Ok(shown["items"][0]["state"].as_str().unwrap_or_default().to_owned())
    };
    tap(&ours, "del")?;
    until(SOON, "the VTEP to wait", || Ok((state(&ours)? == "waiting").then_some(())))?;
    tap(&ours, "add")?;
    until(SOON, "the VTEP to be up", || Ok((state(&ours)? == "up").then_some(())))?;
    checks::reach(a, b)?;
    checks::tcp(a, b, &b.v4(), 1 << 20)?;

    // So it is with the uplink itself: another MTU takes opening it again.
    let daemon = ours.daemon()?;
    daemon.settle()?.check()?;
    daemon.ctl(&format!("port set {TAP} --mtu 1400"))?.ok()?;
    until(SOON, "the VTEP to be up", || Ok((state(&ours)? == "up").then_some(())))?;
    checks::reach(a, b)?;
    let mtu = ours.site().space.sh(&format!("cat /sys/class/net/{TAP}/mtu"))?.ok()?.stdout;
    ensure!(mtu.trim() == "1400", "{mtu}");
    ours.stop()?;
    // The TAP stays, with its addresses, for the next start.
    let shown = ours.site().space.ip(&format!("addr show dev {TAP}"))?.stdout;
    ensure!(shown.contains(&ours_v4.to_string()), "{shown}");
    Ok(())
}

/// Next hops follow the kernel's tables: unresolved, failed, gone, moved, and by a router.
#[test]
fn next_hops() -> Result<()> {
    if skipped("next_hops", &NEEDS) {
        return Ok(());
    }
    let (underlay, mut ours) = start()?;
    let mut linux = Linux::new(underlay.site("linux")?)?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 5, Family::V4);
    let tenants = connect(&tunnel, &mut [&mut ours, &mut linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    // The first packet of all waits for ARP and is not lost.
    let first = a.space.sh(&format!("ping -n -c 1 -W 5 {}", b.v4()))?;
    first.ok()?;

    // The peer is given another address on the link.
    let moved = "02:00:00:00:77:01";
    linux.site().space.ip(&format!("link set u0 address {moved}"))?;
    linux.site().space.sh(&format!("ping -n -c 1 -W 2 {}", ours.site().v4))?;
    until_ok(SOON, "the neighbour's new address", || {
        a.space.sh(&format!("ping -n -c 1 -W 1 {}", b.v4()))?.ok()
    })?;
    checks::tcp(a, b, &b.v4(), 1 << 20)?;

    // Nobody is there: frames to it are dropped by name, and the others' are not touched.
    let daemon = ours.daemon()?;
    let scratch = tempfile::tempdir()?;
    let traced = scratch.path().join("trace");
    let trace = daemon.ctl_cmd(["trace", "live", "--rate", "10000", "-o", "jsonl"])?;
    let mut trace = trace.spawn(File::create(&traced)?.into(), Stdio::null())?;
    // The first ones wait for the answer, and a trace has them as sent.
    let told = |reason: &str| {
        until(SOON, &format!("the trace to tell of {reason}"), || {
            a.space.sh("ping -n -b -c 1 -W 0.2 198.51.100.255 || true")?;
            Ok(std::fs::read_to_string(&traced)?.contains(reason).then_some(()))
        })
    };
    let before = daemon.settle()?;
    daemon.ctl("tunnel peers tun0 add 192.0.2.99")?.ok()?;
    a.space.sh("ping -n -b -c 1 -W 1 198.51.100.255 || true")?;
    dropped_at_least(&mut ours, &before, "neighbour-unresolved")?;
    told("neighbour-unresolved")?;
    checks::reach(a, b)?;
    ours.ctl("tunnel peers tun0 del 192.0.2.99")?.ok()?;
    // No way leads there.
    let before = ours.daemon()?.settle()?;
    ours.ctl("tunnel peers tun0 add 203.0.113.9")?.ok()?;
    a.space.sh("ping -n -b -c 1 -W 1 198.51.100.255 || true")?;
    dropped_at_least(&mut ours, &before, "no-route")?;
    told("no-route")?;
    trace.terminate(SOON)?;
    // By a router: the peer, which takes what is for others and does not know what to do with it.
    let via = linux.site().v4;
    ours.site().space.ip(&format!("route add 203.0.113.0/24 via {via} dev {TAP} mtu 1300"))?;
    let capture = Capture::start(linux.site().space.netns()?, "u0", "udp port 4789")?;
    until(SOON, "a packet by the router", || {
        a.space.sh("ping -n -b -c 1 -W 0.2 198.51.100.255 || true")?;
        let frames = capture.frames()?;
        let to_router = frames.iter().any(|frame| {
            frame.get(..6) == Some(&[2, 0, 0, 0, 0x77, 1])
                && frame.get(30..34) == Some(&[203, 0, 113, 9])
        });
        Ok(to_router.then_some(()))
    })?;
    until(SOON, "the route's MTU to be known", || {
        let shown = ours.ctl("-o json tunnel peers tun0")?.ok()?.stdout;
        Ok(shown.contains("1300").then_some(()))
    })?;
    finish(ours)
}

/// Each worker polls a queue of the uplink, whose packets the device spreads by their flows.
#[test]
fn several_receive_queues() -> Result<()> {
    const WORKERS: u16 = 2;
    if skipped("several_receive_queues", &NEEDS) {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut ours = Switch::on_dpdk_by(underlay.site("ours")?, "net_tap0,iface=w0", WORKERS)?;
    // The cable ends in the kernel's end of the TAP, which is to have an address of its own.
    ours.site()
        .space
        .sh("set -e; ip link set w0 address 02:00:00:00:77:02; ip link add wire type bridge; \
         for end in w0 u0; do ip link set $end master wire up; done; ip link set wire up")?;
    let mut linux = Linux::new(underlay.site("linux")?)?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 5, Family::V4);
    let tenants = connect(&tunnel, &mut [&mut ours, &mut linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    checks::pair(a, b)?;
    for _ in 0..8 {
        checks::tcp(b, a, &a.v4(), 1 << 20)?;
    }

    let daemon = ours.daemon()?;
    let cpus = daemon.ctl_json("cpu show")?;
    for worker in 0..usize::from(WORKERS) {
        let polled = cpus["items"][worker]["rx-queues"].to_string();
        ensure!(polled.contains(TAP), "worker {worker} polls {polled}");
    }
    let stats = daemon.ctl_json(&format!("port stats {TAP}"))?;
    let counters = stats["items"][0]["device"].as_array().cloned().unwrap_or_default();
    for queue in 0..WORKERS {
        let name = format!("rx_q{queue}_packets");
        let counter = counters.iter().find(|c| c["name"] == *name).context("no such counter")?;
        ensure!(counter["value"].as_u64() > Some(100), "{counters:?}");
    }
    finish(ours)
}

fn dropped_at_least(ours: &mut Switch, before: &Accounting, reason: &str) -> Result<()> {
    let daemon = ours.daemon()?;
    until(SOON, &format!("a drop for {reason}"), || {
        let now = daemon.accounting()?;
        Ok((now.dropped(reason) > before.dropped(reason)).then_some(()))
    })?;
    let shown = daemon.ctl(&format!("drops show --reason {reason}"))?.ok()?.stdout;
    ensure!(shown.contains(reason), "{shown}");
    let (_, metrics) = daemon.http("GET", "/v1/metrics", "")?;
    ensure!(metrics.contains(&format!("reason=\"{reason}\"")), "metrics lack {reason}");
    Ok(())
}

fn mac_of(site: &Site, device: &str) -> Result<String> {
    let shown = site.space.sh(&format!("cat /sys/class/net/{device}/address"))?.ok()?.stdout;
    Ok(shown.trim().to_owned())
}
