//! What the tests of this directory share.

use anyhow::{Result, ensure};
use vswitch_e2e::overlay::{GeneveOption, Peer, Tunnel, Underlay, Wire, checks, connect};
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
