//! The lab itself, without the switch's tunnels: peers that others wrote understand each other.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use vswitch_e2e::overlay::{
    Family, Ground, Linux, OpenVswitch, Peer, Protocol, Tunnel, Underlay, Wire, checks, connect,
};
use vswitch_e2e::{Need, size};

use crate::lab::{option, skipped, talk};

#[test]
fn linux_and_open_vswitch() -> Result<()> {
    if skipped("linux_and_open_vswitch", &[]) {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut linux = Linux::new(underlay.site("linux")?)?;
    let mut ovs = OpenVswitch::new(underlay.site("ovs")?)?;
    for family in [Family::V4, Family::V6] {
        talk(&underlay, &Tunnel::new(Protocol::Vxlan, 10_010, family), &mut linux, &mut ovs)?;
    }
    Ok(())
}

#[test]
fn a_guest_and_open_vswitch() -> Result<()> {
    if skipped("a_guest_and_open_vswitch", Need::GUEST) {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut ovs = OpenVswitch::new(underlay.site("ovs")?)?;
    let mut guest = Linux::new(underlay.guest("guest", &[])?)?;
    let mut tunnels = vec![
        Tunnel { options: vec![option()], ..Tunnel::new(Protocol::Geneve, 77, Family::V4) },
        Tunnel::new(Protocol::Gre, 77, Family::V6),
        Tunnel { options: vec![option()], ..Tunnel::new(Protocol::Geneve, 77, Family::V6) },
        Tunnel::new(Protocol::Gre, 77, Family::V4),
    ];
    tunnels.truncate(size(2, 4) as usize);
    for tunnel in tunnels {
        talk(&underlay, &tunnel, &mut guest, &mut ovs)?;
    }
    Ok(())
}

#[test]
fn options_between_two_open_vswitches() -> Result<()> {
    if skipped("options_between_two_open_vswitches", &[]) {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut one = OpenVswitch::new(underlay.site("one")?)?;
    let mut other = OpenVswitch::new(underlay.site("other")?)?;
    let tunnel =
        Tunnel { options: vec![option()], ..Tunnel::new(Protocol::Geneve, 0xff_ffff, Family::V4) };
    let tenants = connect(&tunnel, &mut [&mut one, &mut other])?;
    checks::reach(&tenants[0], &tenants[1])?;
    ensure!(other.count_options(&tunnel)? == 0);
    checks::small(&tenants[0], &tenants[1])?;
    let counted = other.count_options(&tunnel)?;
    ensure!(counted >= 6, "six requests had the option, counted {counted}");
    Ok(())
}

/// Three hosts: each broadcast is copied once for each, and an address moves between two of them.
#[test]
fn three_hosts() -> Result<()> {
    if skipped("three_hosts", &[]) {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut linux = Linux::new(underlay.site("linux")?)?;
    let mut second = Linux::new(underlay.site("second")?)?;
    let mut ovs = OpenVswitch::new(underlay.site("ovs")?)?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 1, Family::V4);
    let tenants = connect(&tunnel, &mut [&mut linux, &mut second, &mut ovs])?;
    let [a, b, c] = &tenants[..] else { anyhow::bail!("three tenants") };
    for (from, others) in [(a, [b, c]), (b, [a, c]), (c, [a, b])] {
        others.iter().try_for_each(|other| checks::reach(from, other))?;
        checks::broadcast(from, &others)?;
    }
    checks::moves(a, c, b)?;
    checks::moves(c, a, b)?;
    let learned = linux.fdb(&tunnel)?;
    ensure!(learned.contains(&format!("{} dst {}", c.mac(), ovs.site().v4)), "{learned}");
    Ok(())
}

/// Multicast on the underlay, and a static entry in place of learning.
#[test]
fn a_group_and_static_entries() -> Result<()> {
    if skipped("a_group_and_static_entries", &[]) {
        return Ok(());
    }
    for (family, group) in [(Family::V4, "239.1.1.1"), (Family::V6, "ff05::1:1")] {
        let underlay = Underlay::new(&Ground::Machine, 1500)?;
        let mut one = Linux::new(underlay.site("one")?)?;
        let mut other = Linux::new(underlay.site("other")?)?;
        one.more = "nolearning".to_owned();
        let tunnel = Tunnel {
            group: Some(group.parse::<IpAddr>()?),
            port: 8472,
            ..Tunnel::new(Protocol::Vxlan, 5, family)
        };
        let tenants = connect(&tunnel, &mut [&mut one, &mut other])?;
        let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
        let wire = Wire::start(&underlay, one.site(), &tunnel)?;
        checks::reach(a, b)?;
        checks::broadcast(a, &[b])?;
        let address = if family == Family::V4 { "ip.dst" } else { "ipv6.dst" };
        // What is not learned always goes to the group.
        ensure!(wire.check(&[address])?.values(address)? == [group]);
        one.static_mac(&tunnel, &b.mac(), other.site().address(family))?;
        checks::small(a, b)?;
        let seen = wire.check(&[address])?.values(address)?;
        ensure!(seen.contains(&other.site().address(family).to_string()), "{seen:?}");
    }
    Ok(())
}
