//! The switch and the kernel's VXLAN device.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::Host;
use vswitch_e2e::capture::Capture;
use vswitch_e2e::overlay::checks::{self, TooLarge};
use vswitch_e2e::overlay::{
    Decoded, Family, Ground, Linux, Peer, Protocol, Switch, Tenant, Tunnel, Underlay, Wire, connect,
};

use crate::rig::{Rig, finish, skipped, tunnel_counter};

#[test]
fn over_ipv4() -> Result<()> {
    if skipped("over_ipv4") {
        return Ok(());
    }
    let tunnel = Tunnel::new(Protocol::Vxlan, 0, Family::V4);
    let fields = ["ip.ttl", "ip.flags.df", "ip.dsfield", "udp.checksum"];
    let seen = everything_holds(&tunnel, &fields)?;
    seen.same("ip.ttl", 64)?;
    seen.same("ip.dsfield", 0)?;
    ensure!(
        ["1", "True"].contains(&&*seen.values("ip.flags.df")?.join(" ")),
        "fragments permitted"
    );
    // RFC 7348, section 5: it should be zero. Runs that the kernel cuts have a right one.
    ensure!(seen.values("udp.checksum")?.contains(&"0x0000".to_owned()), "a checksum on all");
    Ok(())
}

#[test]
fn over_ipv6() -> Result<()> {
    if skipped("over_ipv6") {
        return Ok(());
    }
    let tunnel = Tunnel::new(Protocol::Vxlan, 0xff_ffff, Family::V6);
    let seen = everything_holds(&tunnel, &["ipv6.hlim", "udp.checksum"])?;
    seen.same("ipv6.hlim", 64)?;
    // None is only for those who agreed on it (RFC 6935).
    ensure!(!seen.values("udp.checksum")?.contains(&"0x0000".to_owned()), "no checksum");
    Ok(())
}

/// Everything that must hold between two tenants; what the switch put on the wire meanwhile.
fn everything_holds(tunnel: &Tunnel, fields: &[&str]) -> Result<Decoded> {
    let mut rig = Rig::new()?;
    let tenants = connect(tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
    let wire = rig.wire(tunnel)?;
    checks::pair(&tenants[0], &tenants[1])?;
    counters_agree(&mut rig.ours, &wire)?;
    let common = ["vxlan.vni", "vxlan.flags", "udp.srcport"];
    let seen = wire.check(&[&common, fields].concat())?;
    seen.same("vxlan.vni", tunnel.id)?;
    // The I flag and nothing else (RFC 7348, section 5).
    seen.same("vxlan.flags", 0x0800)?;
    let ports = seen.values("udp.srcport")?;
    ensure!(ports.iter().all(|p| p.parse().is_ok_and(|p: u16| p >= 49152)), "{ports:?}");
    finish(rig.ours)?;
    Ok(seen)
}

/// The tunnel counted just what was on the wire since the capture began, or more: of before.
fn counters_agree(ours: &mut Switch, wire: &Wire) -> Result<()> {
    ours.daemon()?.settle()?.check()?;
    let sent = tunnel_counter(ours, "tun0", "tx-frames")?;
    let captured = wire.frames()?.len() as u64;
    ensure!(captured > 0 && captured <= sent, "{captured} captured, {sent} counted");
    Ok(())
}

/// Who does not know the MTU is told: by the tenant's own stack, or by ICMP.
#[test]
fn too_large_is_told() -> Result<()> {
    if skipped("too_large_is_told") {
        return Ok(());
    }
    let mut rig = Rig::new()?;
    let mut all = Vec::new();
    for (family, mtu) in [(Family::V4, 1450), (Family::V6, 1430)] {
        let tunnel = Tunnel::new(Protocol::Vxlan, 7, family);
        let tenants = connect(&tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
        let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
        checks::reach(a, b)?;
        // The TAP was given the tunnel's MTU: its stack knows.
        ensure!(a.mtu == mtu);
        ensure!(checks::too_large(a, b)? == [TooLarge::Local(mtu), TooLarge::Local(mtu)]);
        // Raised by hand, and the switch has to say it, as if it were the one asked for.
        a.space.ip(&format!("link set {} mtu 1500", a.device))?;
        for to in [b.v4(), b.v6()] {
            let found = checks::of_size(a, &to, mtu + 1)?;
            ensure!(found == TooLarge::Icmp { from: to.clone(), mtu }, "{found:?}");
            // The tenant's stack has learned it.
            let found = checks::of_size(a, &to, mtu + 1)?;
            ensure!(found == TooLarge::Local(mtu), "{found:?}");
            ensure!(checks::of_size(a, &to, mtu)? == TooLarge::Answered);
            checks::tcp(a, b, &to, 1 << 19)?;
        }
        let daemon = rig.ours.daemon()?;
        let books = daemon.settle()?;
        books.check()?;
        ensure!(books.dropped("tunnel-mtu") >= 2, "{books:#?}");
        all.extend(tenants);
    }
    finish(rig.ours)
}

/// One copy a remote, and nothing from one remote to another.
#[test]
fn three_remotes() -> Result<()> {
    if skipped("three_remotes") {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut ours = Switch::new(underlay.site("ours")?)?;
    let mut others =
        ["one", "two", "three"].map(|tag| underlay.site(tag).and_then(Linux::new)).into_iter();
    let mut linux = || others.next().context("no more")?;
    let (mut one, mut two, mut three) = (linux()?, linux()?, linux()?);
    let tunnel = Tunnel::new(Protocol::Vxlan, 4096, Family::V4);
    let tenants = connect(&tunnel, &mut [&mut ours, &mut one, &mut two, &mut three])?;
    let [a, b, c, d] = &tenants[..] else { anyhow::bail!("four tenants") };
    for (from, to) in [(a, [b, c, d]), (b, [a, c, d])] {
        to.iter().try_for_each(|to| checks::reach(from, to))?;
    }

    // From the switch: broadcast, multicast and unknown unicast.
    let wire = Wire::start(&underlay, ours.site(), &tunnel)?;
    checks::broadcast(a, &[b, c, d])?;
    unknown_unicast(a, 5)?;
    let seen = wire.check(&["ip.dst", "eth.dst"])?;
    // A row holds outer and inner values: "192.0.2.2,198.51.100.255".
    let inner = |row: &Vec<String>, n: usize| {
        row.get(n).and_then(|v| v.split(',').nth(1)).unwrap_or_default().to_owned()
    };
    let outer = |row: &Vec<String>| row[0].split(',').next().unwrap_or_default().to_owned();
    let copies = |to: &str| -> BTreeMap<String, usize> {
        let rows = seen.rows.iter().filter(|r| inner(r, 1) == to);
        rows.fold(BTreeMap::new(), |mut m, r| {
            *m.entry(outer(r)).or_default() += 1;
            m
        })
    };
    for (to, least) in [("ff:ff:ff:ff:ff:ff", 6), ("33:33:00:00:00:01", 3), (NOBODY, 5)] {
        let copies = copies(to);
        let counts: Vec<usize> = copies.values().copied().collect();
        ensure!(
            copies.len() == 3 && counts.iter().all(|n| *n == counts[0] && *n >= least),
            "one copy a remote of each frame to {to}: {copies:?}"
        );
    }

    // From a remote: the others have their copy from it, not from us.
    let wire = Wire::start(&underlay, ours.site(), &tunnel)?;
    checks::broadcast(b, &[a, c, d])?;
    unknown_unicast(b, 5)?;
    // What it sends us for another remote is not handed on, either.
    one.static_mac(&tunnel, &c.mac(), ours.site().v4.into())?;
    let before = ours.daemon()?.settle()?;
    let ping = b.space.sh(&format!("ping -n -c 3 -i 0.1 -W 0.5 {}", c.v4()))?;
    ensure!(!ping.success(), "from remote to remote: {ping}");
    let after = ours.daemon()?.settle()?;
    after.check()?;
    ensure!(after.dropped("split-horizon") >= before.dropped("split-horizon") + 3, "{after:#?}");
    // Behind outer Ethernet, IPv4, UDP and VXLAN is the inner frame: destination and source.
    let frames = wire.frames()?;
    let from = |mac: &str| frames.iter().filter(|f| f.get(56..62) == Some(&mac_bytes(mac))).count();
    ensure!(from(&a.mac()) > 0, "answers of our own tenant");
    ensure!(from(&b.mac()) == 0, "{} frames of one remote went to another", from(&b.mac()));
    for n in ["rx-frames", "tx-frames"] {
        ensure!(tunnel_counter(&ours, "tun0", n)? > 0, "{n}");
    }
    finish(ours)
}

/// An address that nobody has.
const NOBODY: &str = "02:00:00:00:99:99";

/// Sends frames to nobody: each is flooded.
fn unknown_unicast(from: &Tenant, count: u32) -> Result<()> {
    let device = &from.device;
    let script = format!(
        "ip neigh replace 198.51.100.99 lladdr {NOBODY} dev {device} nud permanent; \
         ping -n -c {count} -i 0.05 -W 0.1 198.51.100.99 || true; \
         ip neigh del 198.51.100.99 dev {device}"
    );
    from.space.sh(&script)?.ok().map(drop)
}

fn mac_bytes(mac: &str) -> Vec<u8> {
    mac.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect()
}

/// A tenant's addresses move from behind the switch to behind the kernel and back.
#[test]
fn addresses_move() -> Result<()> {
    if skipped("addresses_move") {
        return Ok(());
    }
    let mut rig = Rig::new()?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 12, Family::V6);
    let tenants = connect(&tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    // A watcher beside the one that moves, and one on the other side.
    let near = rig.ours.tenant(&tunnel, 3)?;
    let far = rig.linux.tenant(&tunnel, 4)?;
    let behind = |ours: &Switch| -> Result<String> {
        let fdb = ours.ctl("-o json fdb show")?.ok()?.json()?;
        let rows = fdb["items"].as_array().context("no entries")?;
        let row = rows.iter().find(|r| r["mac"] == a.mac().as_str()).context("not in the FDB")?;
        Ok(row.to_string())
    };
    checks::moves(a, b, &near)?;
    ensure!(behind(&rig.ours)?.contains("p0-1"), "{}", behind(&rig.ours)?);
    checks::moves(a, b, &far)?;
    a.leave()?;
    b.assume(a.number())?;
    checks::reach(&near, a)?;
    let remote = rig.linux.site().v6.to_string();
    ensure!(behind(&rig.ours)?.contains(&remote), "{}", behind(&rig.ours)?);
    finish(rig.ours)
}

/// BUM to a multicast group of the underlay, on both sides.
#[test]
fn a_multicast_group() -> Result<()> {
    if skipped("a_multicast_group") {
        return Ok(());
    }
    for (family, group) in [(Family::V4, "239.1.1.1"), (Family::V6, "ff05::1:1")] {
        let mut rig = Rig::new()?;
        let group: IpAddr = group.parse()?;
        let base = Tunnel::new(Protocol::Vxlan, 5, family);
        let tunnel = Tunnel { group: Some(group), ..base };
        let tenants = connect(&tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
        let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
        let wire = rig.wire(&tunnel)?;
        checks::reach(a, b)?;
        checks::broadcast(a, &[b])?;
        checks::broadcast(b, &[a])?;
        checks::largest(a, b)?;
        let address = if family == Family::V4 { "ip.dst" } else { "ipv6.dst" };
        let seen = wire.check(&[address, "eth.dst"])?;
        let remote = rig.linux.site().address(family).to_string();
        for row in &seen.rows {
            let to = row[0].split(',').next().unwrap_or_default();
            let inner = row[1].split(',').nth(1).unwrap_or_default();
            let flooded = inner.starts_with("ff:ff") || inner.starts_with("33:33");
            ensure!(!flooded || to == group.to_string(), "a copy for each remote: {row:?}");
        }
        // What was learned goes to the one remote.
        ensure!(seen.values(address)?.contains(&remote), "{:?}", seen.values(address)?);
        finish(rig.ours)?;
    }
    Ok(())
}

/// Port 8472, and a switch that learns nothing from the tunnel but was told.
#[test]
fn static_addresses_on_another_port() -> Result<()> {
    if skipped("static_addresses_on_another_port") {
        return Ok(());
    }
    let mut rig = Rig::new()?;
    rig.ours.tunnel = "learning = false\n".to_owned();
    let tunnel = Tunnel { port: 8472, ..Tunnel::new(Protocol::Vxlan, 5, Family::V4) };
    let tenants = connect(&tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    checks::reach(a, b)?;
    let fdb = || -> Result<String> { Ok(rig.ours.ctl("fdb show")?.ok()?.stdout) };
    ensure!(fdb()?.contains(&a.mac()) && !fdb()?.contains(&b.mac()), "{}", fdb()?);
    let remote = rig.linux.site().v4;
    rig.ours
        .ctl(&format!("fdb add {} --bridge br0 --port tun0 --remote {remote}", b.mac()))?
        .ok()?;
    ensure!(fdb()?.contains(&format!("{remote}")), "{}", fdb()?);
    let wire = Wire::start(&rig.underlay, rig.ours.site(), &tunnel)?;
    checks::small(a, b)?;
    wire.check(&["udp.dstport"])?.same("udp.dstport", 8472)?;
    // With another remote configured that is nobody, flooded frames would go there, too.
    rig.ours.ctl("tunnel peers tun0 add 192.0.2.99")?.ok()?;
    let wire = Wire::start(&rig.underlay, rig.ours.site(), &tunnel)?;
    checks::small(a, b)?;
    let to = wire.check(&["ip.dst"])?.values("ip.dst")?;
    ensure!(to == [remote.to_string()], "{to:?}");
    finish(rig.ours)
}

/// TTL, DSCP and ECN of outer packets, as configured and as RFC 6040 wants it.
#[test]
fn outer_fields() -> Result<()> {
    if skipped("outer_fields") {
        return Ok(());
    }
    let mut rig = Rig::new()?;
    let tos = |dscp: u32, ecn: u32| dscp << 2 | ecn;
    // With fixed values.
    rig.ours.tunnel = "ttl = 9\ndscp = 46\ndf = false\nudp-checksum = true\n".to_owned();
    let tunnel = Tunnel::new(Protocol::Vxlan, 21, Family::V4);
    let tenants = connect(&tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    checks::reach(a, b)?;
    for ecn in 0..4 {
        let wire = rig.wire(&tunnel)?;
        ping_with(a, b, tos(10, ecn), 33)?;
        let seen =
            wire.check(&["ip.ttl", "ip.dsfield", "ip.flags.df", "udp.checksum", "ip.dst"])?;
        let inner = b.v4();
        let rows: Vec<_> = seen.rows.iter().filter(|r| r[4].ends_with(&inner)).collect();
        ensure!(!rows.is_empty(), "no ping in {seen:?}");
        for row in rows {
            let outer = |n: usize| row[n].split(',').next().unwrap_or_default();
            ensure!(outer(0) == "9" && row[0].ends_with(",33"), "TTL {row:?}");
            ensure!(outer(1) == format!("{:#04x}", tos(46, ecn)), "DSCP and ECN {row:?}");
            ensure!(["0", "False"].contains(&outer(2)), "DF {row:?}");
            ensure!(row[3] != "0x0000", "no UDP checksum {row:?}");
        }
    }
    // Copied from the inner packet.
    rig.ours.ctl("tunnel set tun0 --ttl copy --dscp copy --unset df")?.ok()?;
    let wire = rig.wire(&tunnel)?;
    ping_with(a, b, tos(10, 2), 33)?;
    let seen = wire.check(&["ip.ttl", "ip.dsfield", "ip.dst", "ip.flags.df"])?;
    let pings: Vec<_> = seen.rows.iter().filter(|r| r[2].ends_with(&b.v4())).collect();
    ensure!(!pings.is_empty(), "no ping in {seen:?}");
    for row in pings {
        ensure!(row[0] == "33,33" && row[1] == "0x2a,0x2a", "not copied: {row:?}");
        ensure!(row[3].starts_with('1') || row[3].starts_with("True"), "DF {row:?}");
    }
    finish(rig.ours)
}

/// Three pings with a traffic class and a TTL.
fn ping_with(a: &Tenant, b: &Tenant, tos: u32, ttl: u32) -> Result<()> {
    let to = b.v4();
    a.space.sh(&format!("ping -n -c 3 -i 0.05 -W 5 -Q {tos} -t {ttl} {to}"))?.ok().map(drop)
}

/// Source ports spread over flows, and each flow keeps its own.
#[test]
fn flows_spread_over_source_ports() -> Result<()> {
    if skipped("flows_spread_over_source_ports") {
        return Ok(());
    }
    const FLOWS: usize = 200;
    let mut rig = Rig::new()?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 22, Family::V4);
    let tenants = connect(&tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    checks::reach(a, b)?;
    let netns = a.space.netns()?;
    let port = &rig.ours.site().port;
    let hub = rig.underlay.hub().netns()?;
    let capture = Capture::start(hub, port, "udp dst port 4789")?;
    let to = b.v4();
    netns.enter(|| {
        for n in 0..FLOWS {
            let socket = std::net::UdpSocket::bind(("0.0.0.0", 20_000 + n as u16))?;
            for _ in 0..3 {
                socket.send_to(b"flow", (to.as_str(), 9))?;
            }
        }
        Ok(())
    })?;
    // Outer Ethernet 14, IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14, IPv4 20, UDP: source port.
    let field = |f: &[u8], at: usize| Some(u16::from_be_bytes(f.get(at..at + 2)?.try_into().ok()?));
    let flow = |f: &[u8]| {
        let inner = field(f, 84).filter(|p| (20_000..20_000 + FLOWS as u16).contains(p))?;
        (f.get(73) == Some(&17)).then_some((inner, field(f, 34)?))
    };
    let frames = capture.wait_for(3 * FLOWS, |f| flow(f).is_some())?;
    let mut ports: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
    for (inner, outer) in frames.iter().filter_map(|f| flow(f)) {
        ports.entry(inner).or_default().push(outer);
    }
    ensure!(ports.len() == FLOWS, "{} flows", ports.len());
    for (flow, seen) in &ports {
        ensure!(seen.len() == 3 && seen.iter().all(|p| *p == seen[0]), "flow {flow}: {seen:?}");
    }
    let mut distinct: Vec<u16> = ports.values().map(|seen| seen[0]).collect();
    distinct.sort_unstable();
    distinct.dedup();
    // 64 sockets by default. Of 200 flows that fall at random, 64 · (1 − (63/64)^200) ≈ 61 are
    // used; fewer than 50 is not what a hash does.
    ensure!((50..=64).contains(&distinct.len()), "{} source ports", distinct.len());
    ensure!(distinct.iter().all(|p| *p >= 49152), "{distinct:?}");
    finish(rig.ours)
}

/// A host that leaves checksums and cutting to its NIC, which is a cable: what arrives was neither
/// summed up nor cut by anybody.
#[test]
fn offloads_that_nobody_does() -> Result<()> {
    if skipped("offloads_that_nobody_does") {
        return Ok(());
    }
    for family in [Family::V4, Family::V6] {
        let mut rig = Rig::new()?;
        let tunnel = Tunnel::new(Protocol::Vxlan, 23, family);
        let tenants = connect(&tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
        let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
        let on = |device: &str| format!("ethtool -K {device} tx on tso on gso on gro on");
        b.space.sh(&on(&b.device))?.ok()?;
        rig.linux.site().space.sh(&on("u0"))?.ok()?;
        for site in [rig.linux.site(), rig.ours.site()] {
            rig.underlay.hub().sh(&on(&site.port))?.ok()?;
        }
        rig.ours.site().space.sh(&on("u0"))?.ok()?;
        checks::reach(a, b)?;
        for (to, back) in [(b.v4(), a.v4()), (b.v6(), a.v6())] {
            checks::tcp(a, b, &to, 1 << 20)?;
            checks::tcp(b, a, &back, 1 << 22)?;
        }
        finish(rig.ours)?;
    }
    Ok(())
}
