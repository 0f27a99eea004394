//! Remotes, addresses and ports that are not as they should be, and what that must not disturb.

use anyhow::{Result, ensure};
use vswitch_e2e::overlay::{Family, Peer, Protocol, Tunnel, checks};
use vswitch_e2e::{Host, ping, until};

use crate::rig::{Rig, SOON, finish, skipped, tunnel_counter};

/// One remote does not exist, another one refuses: the third has all it is sent.
#[test]
fn dead_remotes_disturb_nobody() -> Result<()> {
    if skipped("dead_remotes_disturb_nobody") {
        return Ok(());
    }
    for family in [Family::V4, Family::V6] {
        let mut rig = Rig::new()?;
        // Its kernel answers each packet with "port unreachable".
        let refuses = rig.underlay.site("refuses")?;
        refuses.take_addresses(&refuses.device)?;
        refuses.reaches(rig.ours.site())?;
        let nobody = match family {
            Family::V4 => "192.0.2.99".parse()?,
            Family::V6 => "2001:db8::99".parse()?,
        };
        let tunnel = Tunnel::new(Protocol::Vxlan, 40, family);
        let good = rig.linux.site().address(family);
        rig.ours.join(&tunnel, &[nobody, good, refuses.address(family)])?;
        rig.linux.join(&tunnel, &[rig.ours.site().address(family)])?;
        let (a, b) = (rig.ours.tenant(&tunnel, 1)?, rig.linux.tenant(&tunnel, 2)?);
        checks::reach(&a, &b)?;
        // Each of these goes to all three, until the kernel has given the first one up and after.
        let flood = a.space.start(&format!(
            "ip neigh replace 198.51.100.99 lladdr 02:00:00:00:99:99 dev {0} nud permanent; \
             exec ping -n -q -i 0.002 198.51.100.99",
            a.device
        ))?;
        let count = u32::try_from(vswitch_e2e::size(30, 200))?;
        let through = ping(&a.space, &b.v4(), count)?;
        ensure!(through.received == count, "{through:?}");
        checks::tcp(&a, &b, &b.v6(), 1 << 20)?;
        drop(flood);
        let books = rig.ours.daemon()?.settle()?;
        books.check()?;
        let vtep = books.port(if family == Family::V4 { "v4" } else { "v6" })?;
        println!("{family:?}: sent {}, drops {:?}", vtep.tx_frames, vtep.drops);
        finish(rig.ours)?;
    }
    Ok(())
}

/// The VTEP's address goes from the host and comes back.
#[test]
fn an_address_goes_and_comes_back() -> Result<()> {
    if skipped("an_address_goes_and_comes_back") {
        return Ok(());
    }
    let mut rig = Rig::new()?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 41, Family::V4);
    let tenants = vswitch_e2e::overlay::connect(&tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    checks::reach(a, b)?;
    let site = rig.ours.site();
    let address = format!("{}/24 dev {}", site.v4, site.device);
    site.space.ip(&format!("addr del {address}"))?;
    let status = until(SOON, "the loss to be seen", || {
        let status = rig.ours.ctl("status")?;
        Ok((status.code == 3).then_some(status))
    })?;
    ensure!(status.stdout.contains(&site.v4.to_string()), "{status}");
    let shown = rig.ours.ctl("vtep show v4")?.ok()?.stdout;
    ensure!(shown.contains("waiting"), "{shown}");
    let lost = a.space.sh(&format!("ping -n -c 2 -i 0.1 -W 0.5 {}", b.v4()))?;
    ensure!(!lost.success(), "by which address? {lost}");
    site.space.ip(&format!("addr add {address}"))?;
    until(SOON, "the VTEP to be up again", || {
        Ok((rig.ours.ctl("status")?.code == 0).then_some(()))
    })?;
    checks::reach(a, b)?;
    rig.ours.daemon()?.allow("v4");
    finish(rig.ours)
}

/// Somebody else has the UDP port: it is said who to look for, and mended when he is gone.
#[test]
fn a_port_in_use() -> Result<()> {
    if skipped("a_port_in_use") {
        return Ok(());
    }
    let rig = Rig::new()?;
    let site = rig.ours.site();
    site.space.ip("link add taken type vxlan id 1 dstport 4789 dev u0")?;
    site.space.ip("link set taken up")?;
    rig.ours.ctl("bridge add br9")?.ok()?;
    rig.ours.ctl(&format!("vtep add v4 --local {}", site.v4))?.ok()?;
    let words = format!("--vni 1 --bridge br9 --remotes {}", rig.linux.site().v4);
    let added = rig.ours.ctl(&format!("tunnel add t --type vxlan {words}"))?.code_is(7)?;
    let said = format!("{added}");
    ensure!(said.contains("UDP port 4789 is in use") && said.contains("ip -d link"), "{said}");
    site.space.ip("link del taken")?;
    until(SOON, "the port to be taken", || Ok((rig.ours.ctl("status")?.code == 0).then_some(())))?;
    let vtep = rig.ours.ctl("-o json vtep show v4")?.ok()?.json()?;
    ensure!(vtep["items"][0]["udp-ports"] == serde_json::json!([4789]), "{vtep}");
    ensure!(tunnel_counter(&rig.ours, "t", "tx-frames").is_ok());
    let mut ours = rig.ours;
    ours.daemon()?.allow("4789");
    finish(ours)
}
