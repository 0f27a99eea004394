//! The switch and every peer: all checks of two tenants, and what both send decoded.

use anyhow::Result;
use vswitch_e2e::Need;
use vswitch_e2e::overlay::{Family, Ground, Linux, Peer, Protocol, Switch, Tunnel, Underlay};

use crate::lab::{option, skipped, talk};

const NEEDS: [Need; 2] = [Need::Tun, Need::Binaries];

/// A tunnel of each of `protocols` over each family. GENEVE's has an option.
fn tunnels(protocols: &[Protocol]) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    for (n, family) in [(1, Family::V4), (2, Family::V6)] {
        for &protocol in protocols {
            let mut tunnel = Tunnel::new(protocol, 0xab_cd00 + n, family);
            if protocol == Protocol::Geneve {
                tunnel.options.push(option());
            }
            tunnels.push(tunnel);
        }
    }
    tunnels
}

const ALL: [Protocol; 3] = [Protocol::Vxlan, Protocol::Geneve, Protocol::Gre];

#[test]
fn linux_vxlan() -> Result<()> {
    if skipped("linux_vxlan", &NEEDS) {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut linux = Linux::new(underlay.site("linux")?)?;
    with(&underlay, &mut linux, &tunnels(&[Protocol::Vxlan]))
}

#[test]
fn another_switch() -> Result<()> {
    if skipped("another_switch", &NEEDS) {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut other = Switch::new(underlay.site("other")?)?;
    with(&underlay, &mut other, &tunnels(&ALL))?;
    other.stop()
}

fn with(underlay: &Underlay, peer: &mut dyn Peer, tunnels: &[Tunnel]) -> Result<()> {
    let mut ours = Switch::new(underlay.site("ours")?)?;
    for tunnel in tunnels {
        // The second one's frames are looked at for options: Linux sends none.
        talk(underlay, tunnel, peer, &mut ours)?;
    }
    ours.stop()
}
