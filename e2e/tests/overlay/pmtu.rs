//! An underlay with a narrow link in the middle: the kernel learns of it, and so do tenants.

use anyhow::{Context, Result, ensure};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, PacketBuilder};
use serde_json::Value;
use vswitch_e2e::overlay::checks::{self, TooLarge};
use vswitch_e2e::overlay::{
    Family, Ground, Peer, Protocol, Site, Space, Switch, Tenant, Tunnel, Underlay, connect,
};
use vswitch_e2e::{Host, size, until};

use crate::packets::Wire;
use crate::rig::{SOON, finish, skipped};

/// Bytes of the largest packet on the narrow link, and of the tenants' in VXLAN over IPv4.
const NARROW: u32 = 1400;
const INNER: u32 = NARROW - 50;

/// Behind the router.
const FAR: &str = "203.0.113.2";

/// A switch, a router, and behind a narrow link a host whose kernel ends the tunnel.
struct Lab {
    ours: Switch,
    tenant: Tenant,
    /// The host behind the router, and a tenant: the tunnel's device has its addresses.
    far: Tenant,
    /// A host next to the switch.
    stranger: Site,
    _router: Site,
    _underlay: Underlay,
}

impl Lab {
    /// `far_mtu` is what the far tenant believes to fit.
    fn new(far_mtu: u32) -> Result<Self> {
        let underlay = Underlay::new(&Ground::Machine, 1500)?;
        let mut ours = Switch::new(underlay.site("ours")?)?;
        let router = underlay.site("router")?;
        router.take_addresses(&router.device)?;
        let stranger = underlay.site("stranger")?;
        stranger.take_addresses(&stranger.device)?;
        let host = Ground::Machine.space("far")?;
        router.space.veth("r1", &host, "f0", NARROW)?;
        router.space.addr("r1", "203.0.113.1/24")?;
        router.space.sh("echo 1 >/proc/sys/net/ipv4/ip_forward")?.ok()?;
        host.addr("f0", &format!("{FAR}/24"))?;
        host.ip("route add default via 203.0.113.1")?;
        ours.site().space.ip(&format!("route add 203.0.113.0/24 via {}", router.v4))?;
        let far = Self::far(host, ours.site(), far_mtu)?;
        let tunnel = Tunnel::new(Protocol::Vxlan, 7, Family::V4);
        ours.join(&tunnel, &[FAR.parse()?])?;
        let tenant = ours.tenant(&tunnel, 1)?;
        Ok(Self { ours, tenant, far, stranger, _router: router, _underlay: underlay })
    }

    fn far(host: Space, ours: &Site, mtu: u32) -> Result<Tenant> {
        let mut far = Tenant::new(&Ground::Machine, 2, "vx", mtu)?;
        let all = "00:00:00:00:00:00";
        host.sh(&format!(
            "set -e; ip link add vx type vxlan id 7 dstport 4789 local {FAR} noudpcsum; \
             bridge fdb append {all} dev vx dst {}",
            ours.v4
        ))?
        .ok()?;
        far.space = host;
        far.configure()?;
        Ok(far)
    }

    /// The row of the far host in `tunnel peers`.
    fn peer(&self) -> Result<Value> {
        let shown = self.ours.ctl("-o json tunnel peers tun0")?.ok()?.json()?;
        shown["items"].get(0).cloned().with_context(|| format!("no remote in {shown}"))
    }
}

#[test]
fn a_narrow_link_in_the_underlay() -> Result<()> {
    if skipped("a_narrow_link_in_the_underlay") {
        return Ok(());
    }
    let lab = Lab::new(INNER)?;
    let (a, b) = (&lab.tenant, &lab.far);
    checks::reach(a, b)?;
    ensure!(lab.peer()?["path-mtu"] == 1500, "{}", lab.peer()?);

    // Nobody knows yet: the router drops the packet and tells the switch's host.
    let first = checks::of_size(a, &b.v4(), 1450)?;
    ensure!(first != TooLarge::Answered, "{first:?}");
    let learned = until(SOON, "the path's MTU to be learned", || {
        let peer = lab.peer()?;
        Ok((peer["path-mtu"] == NARROW).then_some(peer))
    })?;
    ensure!(learned["inner-mtu"] == INNER, "{learned}");
    let shown = lab.ours.ctl("mtu show tun0")?.ok()?.stdout;
    let sum = format!("{NARROW} underlay − 20 IPv4 − 8 UDP − 8 VXLAN − 14 Ethernet = {INNER}");
    ensure!(shown.contains(&sum), "{shown}");

    // The TAP follows, and a tenant who raises his MTU by hand is told by ICMP.
    until(SOON, "the TAP's MTU", || {
        let found = checks::of_size(a, &b.v4(), INNER + 1)?;
        Ok((found == TooLarge::Local(INNER)).then_some(()))
    })?;
    ensure!(checks::of_size(a, &b.v4(), INNER)? == TooLarge::Answered);
    a.space.ip(&format!("link set {} mtu 1500", a.device))?;
    for (to, back) in [(b.v4(), a.v4()), (b.v6(), a.v6())] {
        let found = checks::of_size(a, &to, 1500)?;
        ensure!(found == TooLarge::Icmp { from: to.clone(), mtu: INNER }, "{found:?}");
        checks::tcp(a, b, &to, 1 << 20)?;
        checks::tcp(b, a, &back, 1 << 20)?;
    }
    finish(lab.ours)
}

/// TCP that begins before anybody knows: its first large packets are lost.
#[test]
fn tcp_finds_its_way_through() -> Result<()> {
    if skipped("tcp_finds_its_way_through") {
        return Ok(());
    }
    let lab = Lab::new(1450)?;
    let (a, b) = (&lab.tenant, &lab.far);
    checks::reach(a, b)?;
    checks::tcp(a, b, &b.v4(), 1 << 20)?;
    ensure!(lab.peer()?["path-mtu"] == NARROW, "{}", lab.peer()?);
    finish(lab.ours)
}

/// Every protocol, over both families, with a switch on the far side.
#[test]
fn each_protocol_learns_of_a_narrow_link() -> Result<()> {
    if skipped("each_protocol_learns_of_a_narrow_link") {
        return Ok(());
    }
    let all = [
        (Protocol::Vxlan, Family::V6),
        (Protocol::Gre, Family::V4),
        (Protocol::Geneve, Family::V4),
        (Protocol::Gre, Family::V6),
    ];
    for (protocol, family) in all.into_iter().take(size(2, 4) as usize) {
        learns(protocol, family).with_context(|| format!("{protocol:?} over {family:?}"))?;
    }
    Ok(())
}

fn learns(protocol: Protocol, family: Family) -> Result<()> {
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let ours = underlay.site("ours")?;
    let router = underlay.site("router")?;
    let far = underlay.site("far")?;
    let (mut ours, mut far) = (Switch::new(ours)?, Switch::new(far)?);
    router.take_addresses(&router.device)?;
    behind(&underlay, &router, ours.site(), far.site())?;
    let tunnel = Tunnel::new(protocol, 7, family);
    let tenants = connect(&tunnel, &mut [&mut ours, &mut far])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    checks::reach(a, b)?;
    let (wide, narrow) = (tunnel.inner_mtu(1500), tunnel.inner_mtu(NARROW));
    let peer = || -> Result<Value> {
        Ok(ours.ctl("-o json tunnel peers tun0")?.ok()?.json()?["items"][0].clone())
    };
    ensure!(peer()?["inner-mtu"] == wide, "{}", peer()?);
    until(SOON, "the path's MTU to be learned", || {
        checks::of_size(a, &b.v4(), wide)?;
        Ok((peer()?["path-mtu"] == NARROW).then_some(()))
    })?;
    until(SOON, "the TAP's MTU", || {
        let found = checks::of_size(a, &b.v4(), narrow + 1)?;
        Ok((found == TooLarge::Local(narrow)).then_some(()))
    })?;
    ensure!(checks::of_size(a, &b.v4(), narrow)? == TooLarge::Answered);
    checks::tcp(a, b, &b.v6(), 1 << 19)?;
    finish(ours)?;
    finish(far)
}

/// Takes a host's cable out of the hub and plugs it into the router, as the narrow link.
fn behind(underlay: &Underlay, router: &Site, near: &Site, far: &Site) -> Result<()> {
    let port = &far.port;
    underlay.hub().ip(&format!("link set {port} netns {}", router.space.name()))?;
    router
        .space
        .sh(&format!(
            "set -e; echo 1 >/proc/sys/net/ipv4/ip_forward; \
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; \
             echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects; \
             ip link set {port} mtu {NARROW} up; ip addr add 203.0.113.1/24 dev {port}; \
             ip addr add 2001:db8:f::1/64 dev {port} nodad; \
             ip route add {}/32 dev {port}; ip route add {}/128 dev {port}",
            far.v4, far.v6
        ))?
        .ok()?;
    far.space
        .sh(&format!(
            "set -e; ip link set {0} mtu {NARROW}; ip addr add 203.0.113.2/24 dev {0}; \
             ip addr add 2001:db8:f::2/64 dev {0} nodad; ip route add {1}/32 via 203.0.113.1; \
             ip route add {2}/128 via 2001:db8:f::1",
            far.device, near.v4, near.v6
        ))?
        .ok()?;
    near.space
        .sh(&format!(
            "set -e; ip route add {}/32 via {}; ip route add {}/128 via {}",
            far.v4, router.v4, far.v6, router.v6
        ))?
        .ok()
        .map(drop)
}

/// ICMP messages that quote what the switch never sent.
#[test]
fn forged_messages_change_nothing() -> Result<()> {
    if skipped("forged_messages_change_nothing") {
        return Ok(());
    }
    let lab = Lab::new(INNER)?;
    let (a, b) = (&lab.tenant, &lab.far);
    checks::reach(a, b)?;
    let ours = lab.ours.site();
    let source = Wire::new(&lab.stranger, lab.stranger.v4.into(), ours, ours.v4.into())?;
    let remote: std::net::Ipv4Addr = FAR.parse()?;
    // From a port that sends nothing, from the one that only listens, and in the other direction.
    let flows = [
        (ours.v4, 40_000, remote, 4789),
        (ours.v4, 4789, remote, 4789),
        (remote, 50_000, ours.v4, 4789),
    ];
    let count = || -> Result<u64> {
        let shown = ours.space.sh("nstat -asz IcmpInMsgs")?.ok()?.stdout;
        let line = shown.lines().find(|l| l.starts_with("IcmpInMsgs")).context("no counter")?;
        Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
    };
    let before = count()?;
    for (src, sport, dst, dport) in flows {
        let mut quoted = Vec::new();
        PacketBuilder::ipv4(src.octets(), dst.octets(), 60)
            .udp(sport, dport)
            .write(&mut quoted, &[0; 1400])?;
        quoted.truncate(548);
        let told = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 600 };
        source.icmp(Icmpv4Type::DestinationUnreachable(told), &quoted)?;
    }
    until(SOON, "the messages to arrive", || Ok((count()? >= before + 3).then_some(())))?;
    // Paths are asked for anew, and the largest packet still gets to the router.
    for _ in 0..3 {
        checks::small(a, b)?;
    }
    let route = ours.space.sh(&format!("ip route get {FAR}"))?.ok()?.stdout;
    ensure!(!route.contains("mtu"), "{route}");
    ensure!(lab.peer()?["path-mtu"] == 1500, "{}", lab.peer()?);
    finish(lab.ours)
}
