//! Tunnels that come and go on a VTEP, and what that must not cost the others there.

use anyhow::{Result, ensure};
use vswitch_e2e::overlay::{Family, Peer, Protocol, Tunnel, checks, connect};
use vswitch_e2e::until;

use crate::rig::{Rig, SOON, finish, skipped};

/// What each tunnel needs of the VTEP that no other one does: a UDP port, GRE, a way of sending.
const OTHERS: [&str; 3] =
    ["--type geneve --vni 9", "--type gre --key 9", "--type vxlan --vni 9 --udp-checksum=true"];

#[test]
fn other_tunnels_cost_a_stream_nothing() -> Result<()> {
    if skipped("other_tunnels_cost_a_stream_nothing") {
        return Ok(());
    }
    let mut rig = Rig::new()?;
    let mut tunnel = Tunnel::new(Protocol::Vxlan, 50, Family::V4);
    // Apart from the port of the other VXLAN tunnel.
    tunnel.port = 8472;
    rig.ours.tunnel = "udp-checksum = false\n".to_owned();
    let tenants = connect(&tunnel, &mut [&mut rig.ours, &mut rig.linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    checks::reach(a, b)?;
    rig.ours.ctl("bridge add br9")?.ok()?;
    let remote = rig.linux.site().address(Family::V4);
    for round in 0..usize::try_from(vswitch_e2e::size(6, 20))? {
        // Without -q it says when it has begun.
        let stream = a.space.start(&format!("exec ping -n -i 0.002 -c 250 {}", b.v4()))?;
        until(SOON, "the stream to begin", || {
            Ok(stream.printed()?.contains("icmp_seq=1 ").then_some(()))
        })?;
        let other = OTHERS[round % OTHERS.len()];
        let place = format!("--vtep v4 --bridge br9 --remotes {remote}");
        rig.ours.ctl(&format!("tunnel add other {other} {place}"))?.ok()?;
        rig.ours.ctl("tunnel del other")?.ok()?;
        let printed = stream.finish(SOON)?;
        let whole =
            printed.contains("250 packets transmitted, 250 received") && !printed.contains("DUP!");
        ensure!(whole, "round {round}, {other}: {printed}");
    }
    finish(rig.ours)
}
