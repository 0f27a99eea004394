//! Two switches: what can be changed while they run, and what survives a crash.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::overlay::checks::TooLarge;
use vswitch_e2e::overlay::{
    Family, Ground, Job, Peer, Protocol, Switch, Tenant, Tunnel, Underlay, Wire, checks, connect,
};
use vswitch_e2e::{Host, until};

use crate::rig::{SOON, finish, skipped, tunnel_counter, tunnel_show};

struct Two {
    a: Switch,
    b: Switch,
    underlay: Underlay,
}

impl Two {
    fn new() -> Result<Self> {
        let underlay = Underlay::new(&Ground::Machine, 1500)?;
        let a = Switch::new(underlay.site("a")?)?;
        let b = Switch::new(underlay.site("b")?)?;
        a.site().reaches(b.site())?;
        Ok(Self { a, b, underlay })
    }

    fn connect(&mut self, tunnel: &Tunnel) -> Result<[Tenant; 2]> {
        let tenants = connect(tunnel, &mut [&mut self.a, &mut self.b])?;
        tenants.try_into().ok().context("two tenants")
    }

    fn both(&self, command: &str) -> Result<()> {
        for switch in [&self.a, &self.b] {
            switch.ctl(command)?.ok()?;
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        finish(self.a)?;
        finish(self.b)
    }
}

/// How many frames and bytes each end counted as sent that the other one did not count as
/// received. What was said before both had the tunnel is such.
fn missing(two: &Two, name: &str) -> Result<[i64; 4]> {
    let read = || -> Result<[i64; 4]> {
        let mut found = [0; 4];
        let ways = [(&two.a, &two.b), (&two.b, &two.a)];
        let all = ways.iter().flat_map(|way| ["frames", "bytes"].map(|unit| (way, unit)));
        for (slot, ((from, to), unit)) in found.iter_mut().zip(all) {
            let sent = tunnel_counter(from, name, &format!("tx-{unit}"))?;
            let got = tunnel_counter(to, name, &format!("rx-{unit}"))?;
            *slot = i64::try_from(sent)? - i64::try_from(got)?;
        }
        Ok(found)
    };
    let mut last = read()?;
    until(SOON, "counters to rest", || {
        let now = read()?;
        let same = now == last;
        last = now;
        Ok(same.then_some(now))
    })
}

/// Whether `a` reaches `b` at all.
fn is_reached(a: &Tenant, b: &Tenant) -> Result<bool> {
    Ok(a.space.sh(&format!("ping -n -c 1 -W 1 {}", b.v4()))?.success())
}

/// Traffic without end.
fn stream(a: &Tenant, b: &Tenant) -> Result<Job> {
    a.space.start(&format!("exec ping -n -q -i 0.01 {}", b.v4()))
}

/// GRE with everything it may have.
#[test]
fn gre_with_checksum_and_sequence() -> Result<()> {
    if skipped("gre_with_checksum_and_sequence") {
        return Ok(());
    }
    numbered_gre(Family::V4)?;
    numbered_gre(Family::V6)
}

fn numbered_gre(family: Family) -> Result<()> {
    let mut two = Two::new()?;
    for switch in [&mut two.a, &mut two.b] {
        switch.tunnel = "checksum = true\nsequence = true\ndscp = 10\nttl = 7\n".to_owned();
    }
    let tunnel = Tunnel::new(Protocol::Gre, 0xffff_ffff, family);
    let [a, b] = two.connect(&tunnel)?;
    let wire = Wire::start(&two.underlay, two.a.site(), &tunnel)?;
    checks::reach(&a, &b)?;
    let before = missing(&two, "tun0")?;
    checks::small(&a, &b)?;
    checks::tcp(&a, &b, &b.v4(), 1 << 20)?;
    checks::tcp(&b, &a, &a.v6(), 1 << 20)?;
    // A checksum and a number are 8 bytes more than the lab allows for.
    let shown = tunnel_show(&two.a, "tun0")?;
    let mtu = tunnel.inner_mtu(1500) - 8;
    ensure!(shown["inner-mtu"] == mtu, "{shown}");
    ensure!(checks::of_size(&a, &b.v4(), mtu)? == TooLarge::Answered);
    ensure!(checks::of_size(&a, &b.v4(), mtu + 1)? == TooLarge::Local(mtu));
    let outer = match family {
        Family::V4 => ["ip.ttl", "ip.dsfield.dscp"],
        Family::V6 => ["ipv6.hlim", "ipv6.tclass.dscp"],
    };
    let seen =
        wire.check(&["gre.key", "gre.checksum", "gre.sequence_number", outer[0], outer[1]])?;
    seen.same("gre.key", tunnel.id)?;
    ensure!(!seen.values("gre.checksum")?.contains(&String::new()), "no checksum");
    let numbers: Vec<u64> = seen.rows.iter().filter_map(|row| row[2].parse().ok()).collect();
    ensure!(numbers.len() == seen.rows.len(), "some have no number");
    ensure!(numbers.is_sorted_by(|a, b| a + 1 == *b), "not in a row: {numbers:?}");
    seen.same(outer[0], 7)?;
    seen.same(outer[1], 10)?;
    let now = missing(&two, "tun0")?;
    ensure!(now == before, "{now:?}, {before:?}");
    two.finish()
}

#[test]
fn nvgre() -> Result<()> {
    if skipped("nvgre") {
        return Ok(());
    }
    nvgre_over(Family::V4, "v4")?;
    nvgre_over(Family::V6, "v6")
}

fn nvgre_over(family: Family, vtep: &str) -> Result<()> {
    let mut two = Two::new()?;
    let tunnel = Tunnel::new(Protocol::Gre, 1, family);
    let [a, b] = two.connect(&tunnel)?;
    checks::reach(&a, &b)?;
    // In place of the GRE tunnel between the same tenants.
    two.both("tunnel del tun0")?;
    for (switch, other) in [(&two.a, &two.b), (&two.b, &two.a)] {
        let remote = other.site().address(family);
        let keys = format!("--vni 4096 --vtep {vtep} --bridge br0 --remotes {remote}");
        switch.ctl(&format!("tunnel add nv --type nvgre {keys}"))?.ok()?;
    }
    let wire = Wire::start(&two.underlay, two.a.site(), &tunnel)?;
    checks::reach(&a, &b)?;
    let before = missing(&two, "nv")?;
    checks::pair(&a, &b)?;
    let seen = wire.check(&["gre.key", "gre.checksum", "vlan.id"])?;
    let keys: Vec<u32> = seen.values("gre.key")?.iter().filter_map(|k| hex(k)).collect();
    // The VSID is in the upper 24 bits, and the flow below (RFC 7637, section 3.2).
    ensure!(!keys.is_empty() && keys.iter().all(|k| k >> 8 == 4096), "{keys:x?}");
    ensure!(seen.values("gre.checksum")? == [""], "{:?}", seen.values("gre.checksum")?);
    let now = missing(&two, "nv")?;
    ensure!(now == before, "{now:?}, {before:?}");
    two.finish()
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// VXLAN and GENEVE with options, and the outer checksums that are not the default.
#[test]
fn udp_tunnels_agree() -> Result<()> {
    if skipped("udp_tunnels_agree") {
        return Ok(());
    }
    for protocol in [Protocol::Vxlan, Protocol::Geneve] {
        agree(protocol, Family::V4)?;
        agree(protocol, Family::V6)?;
    }
    Ok(())
}

fn agree(protocol: Protocol, family: Family) -> Result<()> {
    let mut two = Two::new()?;
    for switch in [&mut two.a, &mut two.b] {
        switch.tunnel = format!("udp-checksum = {}\n", family == Family::V4);
    }
    let mut tunnel = Tunnel::new(protocol, 5000, family);
    if protocol == Protocol::Geneve {
        tunnel.options.push(crate::lab::option());
    }
    let [a, b] = two.connect(&tunnel)?;
    let wire = Wire::start(&two.underlay, two.a.site(), &tunnel)?;
    checks::reach(&a, &b)?;
    let before = missing(&two, "tun0")?;
    checks::pair(&a, &b)?;
    if family == Family::V4 {
        let sums = wire.check(&["udp.checksum"])?.values("udp.checksum")?;
        ensure!(!sums.contains(&"0x0000".to_owned()), "{protocol:?}: {sums:?}");
    } else {
        without_checksums(&wire)?;
    }
    let now = missing(&two, "tun0")?;
    ensure!(now == before, "{now:?}, {before:?}");
    if protocol == Protocol::Geneve {
        let shown = tunnel_show(&two.b, "tun0")?;
        let option = &shown["received-options"][0];
        let remote = two.a.site().address(family).to_string();
        ensure!(option["data"] == "deadbeef" && option["remote"] == remote.as_str(), "{shown}");
    }
    two.finish()
}

/// No UDP checksums over IPv6, which both ends agreed on (RFC 6935), but on runs that the kernel cuts;
/// and nothing else is wrong.
fn without_checksums(wire: &Wire) -> Result<()> {
    // Outer Ethernet 14, IPv6 40: the UDP checksum is at 6.
    let frames = wire.frames()?;
    ensure!(frames.iter().any(|f| f.get(60..62) == Some(&[0, 0])), "a checksum on all");
    // The kernel writes a sum of zero as ffff, also for TCP: equal, and an error to tshark.
    let wrong = "_ws.malformed || (_ws.expert.severity == error && !(tcp.checksum == 0xffff))";
    let agreed = "udp.ignore_ipv6_zero_checksum:TRUE";
    let found = wire.capture().tshark(&["-n", "-o", agreed, "-Y", wrong])?;
    ensure!(found.stdout.trim().is_empty(), "{}", found.stdout);
    Ok(())
}

/// Neither side is told that the other one crashed.
#[test]
fn a_killed_switch_comes_back() -> Result<()> {
    if skipped("a_killed_switch_comes_back") {
        return Ok(());
    }
    let mut two = Two::new()?;
    for switch in [&mut two.a, &mut two.b] {
        switch.tunnel = "sequence = true\n".to_owned();
    }
    let gre = Tunnel::new(Protocol::Gre, 9, Family::V4);
    let [a, b] = two.connect(&gre)?;
    for switch in [&mut two.a, &mut two.b] {
        switch.tunnel.clear();
    }
    let vxlan = Tunnel::new(Protocol::Vxlan, 9, Family::V6);
    let [c, d] = two.connect(&vxlan)?;
    checks::reach(&a, &b)?;
    checks::reach(&c, &d)?;
    let traffic = [stream(&a, &b)?, stream(&d, &c)?];
    for _ in 0..vswitch_e2e::size(2, 20) {
        two.b.daemon()?.kill9()?;
        ensure!(!is_reached(&a, &b)?, "by whom?");
        two.b.daemon()?.restart()?;
        // Numbers begin at 0 again, and the other side believes that.
        checks::reach(&a, &b)?;
        checks::reach(&c, &d)?;
    }
    drop(traffic);
    checks::tcp(&a, &b, &b.v4(), 1 << 20)?;
    checks::tcp(&d, &c, &c.v6(), 1 << 20)?;
    two.finish()
}

/// Remotes that are in no configuration.
#[test]
fn peers_come_and_go() -> Result<()> {
    if skipped("peers_come_and_go") {
        return Ok(());
    }
    let mut two = Two::new()?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 30, Family::V4);
    two.a.join(&tunnel, &[])?;
    two.b.join(&tunnel, &[])?;
    let (a, b) = (two.a.tenant(&tunnel, 1)?, two.b.tenant(&tunnel, 2)?);
    let addresses = [&two.a, &two.b].map(|s| IpAddr::from(s.site().v4));
    ensure!(!is_reached(&a, &b)?, "without remotes");
    // Told on one side only: the other one hears a stranger.
    two.a.ctl(&format!("tunnel peers tun0 add {}", addresses[1]))?.ok()?;
    let before = two.b.daemon()?.settle()?;
    a.space.sh(&format!("busybox arping -c 3 -w 3 -I {} {}", a.device, b.v4()))?;
    let now = until(SOON, "packets of a stranger", || {
        let now = two.b.daemon()?.accounting()?;
        Ok((now.dropped("tunnel-peer") >= before.dropped("tunnel-peer") + 3).then_some(now))
    })?;
    ensure!(now.port("p0-2")?.offered == before.port("p0-2")?.offered, "a stranger was heard");
    two.b.ctl(&format!("tunnel peers tun0 add {}", addresses[0]))?.ok()?;
    checks::pair(&a, &b)?;
    counters_of_peers(&two.a, addresses[1])?;
    // Gone again: what was learned of it, too.
    two.a.ctl(&format!("tunnel peers tun0 del {}", addresses[1]))?.ok()?;
    let fdb = two.a.ctl("fdb show")?.ok()?.stdout;
    ensure!(!fdb.contains(&addresses[1].to_string()), "{fdb}");
    ensure!(!is_reached(&a, &b)?, "after the remote was deleted");
    let again = format!("tunnel peers tun0 add {}", addresses[1]);
    two.a.ctl(&again)?.ok()?;
    checks::reach(&a, &b)?;
    two.finish()
}

fn counters_of_peers(switch: &Switch, address: IpAddr) -> Result<()> {
    let shown = switch.ctl("-o json tunnel peers tun0")?.ok()?.json()?;
    let rows = shown["items"].as_array().context("no remotes")?;
    let row = rows.iter().find(|row| row["address"] == address.to_string().as_str());
    let row = row.with_context(|| format!("no {address} in {shown}"))?;
    ensure!(row["seen"] == true && row["configured"] == false, "{row}");
    ensure!(row["owners"] == serde_json::json!(["api"]), "{row}");
    ensure!(row["counters"]["rx-frames"].as_u64() > Some(0), "{row}");
    ensure!(row["path-mtu"] == 1500, "{row}");
    Ok(())
}

/// A tunnel's number is changed, and the tunnel deleted, while frames go through.
#[test]
fn changes_under_traffic() -> Result<()> {
    if skipped("changes_under_traffic") {
        return Ok(());
    }
    let (mut two, mut all) = (Two::new()?, Vec::new());
    for (n, protocol) in [Protocol::Vxlan, Protocol::Geneve].into_iter().enumerate() {
        let tunnel = Tunnel::new(protocol, 100, Family::V6);
        let [a, b] = two.connect(&tunnel)?;
        checks::reach(&a, &b)?;
        let traffic = [stream(&a, &b)?, stream(&b, &a)?];
        for round in 0..vswitch_e2e::size(2, 50) {
            let vni = 200 + round;
            let before = two.b.daemon()?.accounting()?;
            two.a.ctl(&format!("tunnel set tun{n} --vni {vni}"))?.ok()?;
            until(SOON, "packets of another network", || {
                let now = two.b.daemon()?.accounting()?;
                let more = now.dropped("tunnel-unknown") > before.dropped("tunnel-unknown");
                Ok(more.then_some(()))
            })?;
            two.b.ctl(&format!("tunnel set tun{n} --vni {vni}"))?.ok()?;
            checks::reach(&a, &b)?;
        }
        // On one side, then on both.
        two.a.ctl(&format!("tunnel del tun{n}"))?.ok()?;
        ensure!(!is_reached(&a, &b)?, "through what?");
        two.b.ctl(&format!("tunnel del tun{n}"))?.ok()?;
        ensure!(!is_reached(&b, &a)?, "through what?");
        drop(traffic);
        two.a.ctl(&format!("tunnel show tun{n}"))?.code_is(4)?;
        all.extend([a, b]);
    }
    two.finish()
}
