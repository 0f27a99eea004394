//! What the tests of this directory share.

use anyhow::{Context, Result, anyhow, ensure};
use vswitch_e2e::overlay::checks::{self, TooLarge};
use vswitch_e2e::overlay::{
    Decoded, Family, GeneveOption, Peer, Switch, Tenant, Tunnel, Underlay, Wire, connect,
};
use vswitch_e2e::{Need, missing, skip};

/// What the lab needs on the machine.
const LAB: [Need; 7] = [
    Need::Root,
    Need::Program("ethtool", "ethtool"),
    Need::Program("busybox", "busybox-static"),
    Need::Program("ping", "iputils-ping"),
    Need::Program("tcpdump", "tcpdump"),
    Need::Program("tshark", "tshark"),
    Need::Program("ovs-vswitchd", "openvswitch-switch"),
];

/// Whether the test cannot run, which is said.
pub(crate) fn skipped(test: &str, more: &[Need]) -> bool {
    let why = missing(&LAB).or_else(|| missing(more));
    if let Some(why) = &why {
        skip(test, why);
    }
    why.is_some()
}

/// An option that nobody knows, and that is not critical.
pub(crate) fn option() -> GeneveOption {
    GeneveOption { class: 0x0102, kind: 0x42, data: vec![0xde, 0xad, 0xbe, 0xef] }
}

/// Joins the peers, runs all checks of the two tenants, and reads what both sent. `b` sends the
/// tunnel's options, if it has any.
pub(crate) fn talk(
    underlay: &Underlay,
    tunnel: &Tunnel,
    a: &mut dyn Peer,
    b: &mut dyn Peer,
) -> Result<()> {
    let tenants = connect(tunnel, &mut [&mut *a, &mut *b])?;
    let wires = [a.site(), b.site()].map(|site| Wire::start(underlay, site, tunnel));
    checks::pair(&tenants[0], &tenants[1])?;
    let [from_a, from_b] = wires;
    let id = tunnel.protocol.id_field();
    let option = "geneve.option.unknown.data";
    from_a?.check(&[id])?.same(id, tunnel.id)?;
    let seen = from_b?.check(&[id, option])?;
    seen.same(id, tunnel.id)?;
    ensure!(
        tunnel.options.is_empty() || seen.values(option)? == ["deadbeef"],
        "options: {:?}",
        seen.values(option)?
    );
    Ok(())
}

/// Everything that must hold between a tenant of the switch and one of `peer`: the checks of a
/// pair, MAC moves over the tunnel and back, and that who does not know the MTU is told. Answers
/// `fields` of what the switch sent meanwhile, and the tenants: two at each side, of which the first
/// was busy. A port that goes takes its counters along, and the books would not balance.
pub(crate) fn all_checks(
    underlay: &Underlay,
    tunnel: &Tunnel,
    ours: &mut Switch,
    peer: &mut dyn Peer,
    fields: &[&str],
) -> Result<(Decoded, [Tenant; 4])> {
    let tenants = connect(tunnel, &mut [&mut *ours, &mut *peer])?;
    let [a, b]: [Tenant; 2] = tenants.try_into().map_err(|_| anyhow!("two tenants"))?;
    let wire = Wire::start(underlay, ours.site(), tunnel)?;
    checks::pair(&a, &b)?;
    // Watched by a neighbour that stays, on either side.
    let near = ours.tenant(tunnel, 3)?;
    checks::moves(&a, &b, &near).context("from the switch to the peer and back")?;
    let far = peer.tenant(tunnel, 4)?;
    checks::moves(&b, &a, &far).context("from the peer to the switch and back")?;
    told(&a, &b)?;
    let (mac, remote) = (b.mac(), peer.site().address(tunnel.family).to_string());
    let fdb = ours.ctl("fdb show")?.ok()?.stdout;
    ensure!(
        fdb.lines().any(|line| line.contains(&mac) && line.contains(&remote)),
        "{mac} is behind {remote}:\n{fdb}"
    );

    let (outer, header) = match tunnel.family {
        Family::V4 => ("ip.len", 0),
        Family::V6 => ("ipv6.plen", 40),
    };
    let largest = wire.check(&[outer])?.values(outer)?;
    let largest = largest.iter().filter_map(|l| l.parse::<u32>().ok()).max();
    ensure!(
        largest.map(|l| l + header) == Some(underlay.mtu()),
        "the largest inner packet fills the underlay's MTU: {largest:?}"
    );
    Ok((wire.check(fields)?, [a, b, near, far]))
}

/// With a device of 1500 bytes, `a` learns the MTU from the switch, and TCP gets through.
pub(crate) fn told(a: &Tenant, b: &Tenant) -> Result<()> {
    a.space.ip(&format!("link set {} mtu 1500", a.device))?;
    for to in [b.v4(), b.v6()] {
        let found = checks::of_size(a, &to, a.mtu + 1)?;
        ensure!(
            matches!(found, TooLarge::Icmp { mtu, .. } if mtu == a.mtu),
            "an ICMP message with the MTU {} to {to}, not {found:?}",
            a.mtu
        );
        ensure!(checks::of_size(a, &to, a.mtu)? == TooLarge::Answered, "{} bytes to {to}", a.mtu);
        checks::tcp(a, b, &to, 1 << 18)?;
    }
    Ok(())
}
