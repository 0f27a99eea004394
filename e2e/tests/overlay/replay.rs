//! What passed a tunnel passes it again in a replay, on either datapath.

use anyhow::{Context, Result, ensure};
use vswitch_e2e::Need;
use vswitch_e2e::incident::Recording;
use vswitch_e2e::overlay::{
    Family, Ground, Linux, Protocol, Switch, Tunnel, Underlay, checks, connect,
};

use crate::lab::skipped;

fn happens_again(start: fn(vswitch_e2e::overlay::Site) -> Result<Switch>) -> Result<()> {
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let mut ours = start(underlay.site("ours")?)?;
    let mut linux = Linux::new(underlay.site("linux")?)?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 0xab_cd01, Family::V4);
    let tenants = connect(&tunnel, &mut [&mut ours, &mut linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    // Until next hops are known, packets wait, and a capture has them as sent.
    checks::reach(a, b)?;
    let recording = Recording::begin(ours.daemon()?)?;
    checks::small(a, b)?;
    checks::largest(a, b)?;
    // Few enough segments for a capture to have all that became of a super-frame.
    checks::tcp(a, b, &b.v4(), 8000)?;
    checks::tcp(b, a, &a.v4(), 8000)?;
    let incident = recording.end(ours.daemon()?)?;
    let told = incident.happens_again(ours.daemon()?)?;
    let ports = told["ports"].as_array().context("no ports")?;
    for row in ports.iter().filter(|row| row["port"] != "up0" && row["port"] != "v6") {
        let (came, left) = (row["in"].as_u64(), row["out"].as_u64());
        ensure!(came > Some(10) && left > Some(10), "{row} in {told}");
    }
    ensure!(told["expected"]["same"].as_u64() > Some(30), "{told}");
    ours.stop()
}

#[test]
fn a_captured_tunnel_carries_the_same_again() -> Result<()> {
    if skipped("a_captured_tunnel_carries_the_same_again", &[Need::Tun, Need::Binaries]) {
        return Ok(());
    }
    happens_again(Switch::new)
}

#[test]
fn a_captured_tunnel_on_dpdk_carries_the_same_again() -> Result<()> {
    let needs = [Need::Tun, Need::Binaries, Need::Dpdk];
    if skipped("a_captured_tunnel_on_dpdk_carries_the_same_again", &needs) {
        return Ok(());
    }
    happens_again(Switch::on_dpdk)
}
