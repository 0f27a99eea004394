//! Virtual functions of a NIC (SR-IOV), in a guest. The NIC is emulated; its kernel driver, VFIO, the
//! IOMMU's and DPDK's driver are those of real hardware.
#![forbid(unsafe_code)]

mod lab;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vswitch_e2e::overlay::{
    Family, Ground, Linux, OpenVswitch, Peer, Protocol, Space, Switch, Tenant, Tunnel, Underlay,
    checks,
};
use vswitch_e2e::{Host, until, until_ok};

use crate::lab::{give_vfs, make_vfs, port, programs, skipped};

/// The emulated machine beside other work.
const SOON: Duration = Duration::from_secs(60);

/// The uplink of a [`Switch`] on DPDK.
const UPLINK: &str = "up0";

#[test]
fn a_virtual_function_is_the_uplink() -> Result<()> {
    if skipped("a_virtual_function_is_the_uplink") {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let site = underlay.sriov_guest("pc", &programs()?)?;
    let vfs = make_vfs(&site.space)?;
    let mut ours = Switch::on_dpdk_by(site, &vfs[0], 1)?;
    let uplink = port(&ours, UPLINK)?;
    ensure!(uplink["driver"] == "net_e1000_igb_vf" && uplink["state"] == "up", "{uplink:#}");
    ensure!(uplink["mac"] == "02:00:00:00:00:00", "{uplink:#}");

    let mut linux = Linux::new(underlay.site("linux")?)?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 0xab_cdef, Family::V4);
    let [near, far] = crosses(&tunnel, &mut ours, &mut linux)?;

    no_port_of_a_bridge(&ours, &vfs[1])?;
    reset(&ours, &near, &far)?;
    taken_away(&ours, &near, &far)?;

    let mut ovs = OpenVswitch::new(underlay.site("ovs")?)?;
    let tunnel = Tunnel::new(Protocol::Geneve, 77, Family::V6);
    crosses(&tunnel, &mut ours, &mut ovs)?;
    found(&ours)?;
    // Refused, as it should be; and seen on its way to its driver.
    ours.stop_but_for(&["making the virtual function", "no kernel driver has it"])?;
    generator(&ours.site().space, &vfs)
}

/// Neighbour discovery asks by multicast, of which a NIC gives a function those groups alone that it
/// was told of.
fn found(ours: &Switch) -> Result<()> {
    let uplink = port(ours, UPLINK)?;
    ensure!(uplink["details"]["promiscuous"] == false, "{uplink:#}");
    Ok(())
}

/// `vswitch-bench` from one function to the other, through the switch inside the NIC. What it finds
/// says something about QEMU alone, and it has to say so.
fn generator(guest: &Space, vfs: &[String]) -> Result<()> {
    let ports: Vec<String> = vfs.iter().map(|vf| format!("--port {vf}")).collect();
    let command = format!(
        "vswitch-bench --sut external {} --flows 1 --direction uni --quick --json /tmp/report",
        ports.join(" ")
    );
    let said = guest.sh_for(&command, 4 * SOON)?.ok()?;
    ensure!(said.stdout.contains("these figures mean nothing"), "{said}");
    let report = guest.sh("cat /tmp/report")?.ok()?.json()?;
    let maximum = &report["results"][0]["maximum"]["pps"];
    ensure!(maximum.as_f64().is_some_and(|pps| pps > 0.0), "{report:#}");
    Ok(())
}

/// Joins the switch and a peer, and has ping and TCP cross.
fn crosses(tunnel: &Tunnel, ours: &mut Switch, peer: &mut dyn Peer) -> Result<[Tenant; 2]> {
    let addresses = [&*ours as &dyn Peer, peer].map(|peer| peer.site().address(tunnel.family));
    ours.join(tunnel, &addresses[1..])?;
    peer.join(tunnel, &addresses[..1])?;
    let (near, far) = (ours.tenant(tunnel, 1)?, peer.tenant(tunnel, 2)?);
    checks::reach(&near, &far).with_context(|| format!("{tunnel:?}"))?;
    checks::largest(&near, &far)?;
    checks::tcp(&near, &far, &far.v4(), 1 << 19)?;
    checks::tcp(&far, &near, &near.v6(), 1 << 19)?;
    Ok([near, far])
}

/// What the NIC would drop without a word is refused with one, until it lets everything through.
fn no_port_of_a_bridge(ours: &Switch, vf: &str) -> Result<()> {
    ours.ctl(&format!("port add vf1 --type dpdk --devargs {vf} --bridge br0"))?.code_is(7)?;
    let refused = port(ours, "vf1")?;
    let (reason, hint) = (refused["reason"].to_string(), refused["hint"].to_string());
    ensure!(refused["state"] == "failed" && reason.contains("VF 1 of eth0"), "{refused:#}");
    let command = "ip link set eth0 vf 1 trust on spoofchk off";
    ensure!(hint.contains(command) && hint.contains("uplink of a VTEP"), "{refused:#}");
    ours.site().space.sh(command)?.ok()?;
    wait_for(ours, "vf1", "up")?;
    ours.ctl("port del vf1")?.ok().map(drop)
}

/// The physical function goes down and up below the virtual one, which has to begin anew: QEMU's
/// NIC loses the interrupt that tells of it.
fn reset(ours: &Switch, near: &Tenant, far: &Tenant) -> Result<()> {
    let _traffic = far.space.start(&format!("ping -n -q -f {}", near.v4()))?;
    ours.site().space.sh("ip link set eth0 down && ip link set eth0 up")?.ok()?;
    until(SOON, "the reset to be told", || {
        Ok(ours.log()?.contains("a virtual function is opened anew").then_some(()))
    })?;
    wait_for(ours, UPLINK, "up")?;
    checks::reach(near, far).context("after the reset")
}

/// The functions are taken away under traffic, and made again.
fn taken_away(ours: &Switch, near: &Tenant, far: &Tenant) -> Result<()> {
    let traffic = far.space.start(&format!("ping -n -q -f {}", near.v4()))?;
    let guest = &ours.site().space;
    // Returns when the switch has let go of it.
    guest.sh("echo 0 >/sys/class/net/eth0/device/sriov_numvfs")?.ok()?;
    wait_for(ours, UPLINK, "waiting")?;
    ensure!(ours.log()?.contains(&format!("port {UPLINK}: the device was removed")));
    ours.ctl("status")?.code_is(3)?;
    drop(traffic);

    give_vfs(guest)?;
    wait_for(ours, UPLINK, "up")?;
    checks::reach(near, far).context("over the function that was made again")
}

fn wait_for(switch: &Switch, name: &str, state: &str) -> Result<()> {
    until_ok(SOON, &format!("port {name} to be {state}"), || {
        let shown = port(switch, name)?;
        ensure!(shown["state"] == state, "{shown:#}");
        Ok(())
    })
}
