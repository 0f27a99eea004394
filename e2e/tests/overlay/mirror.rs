//! Copies for another host in ERSPAN: what tshark makes of them, and a kernel's device.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use vswitch_e2e::Host;
use vswitch_e2e::capture::Capture;
use vswitch_e2e::overlay::{
    Family, Ground, Linux, Peer, Protocol, Switch, Tunnel, Underlay, connect,
};

use crate::rig::{finish, skipped};

pub(crate) const SESSION: u32 = 677;
pub(crate) const INDEX: u32 = 0xa_bcde;

/// Outer Ethernet, IPv4, GRE with a sequence number, and ERSPAN.
const HEADERS: usize = 14 + 20 + 8 + 8;

#[test]
fn copies_in_erspan() -> Result<()> {
    if skipped("copies_in_erspan") {
        return Ok(());
    }
    let underlay = Underlay::new(&Ground::Machine, 1500)?;
    let ours = Switch::new(underlay.site("ours")?)?;
    are_decoded(&underlay, ours)
}

/// What leaves by a tenant's port is copied to a Linux host: each frame, whole, in order.
pub(crate) fn are_decoded(underlay: &Underlay, mut ours: Switch) -> Result<()> {
    let mut linux = Linux::new(underlay.site("linux")?)?;
    let tunnel = Tunnel::new(Protocol::Vxlan, 5, Family::V4);
    let tenants = connect(&tunnel, &mut [&mut ours, &mut linux])?;
    let [a, b] = &tenants[..] else { anyhow::bail!("two tenants") };
    mirror(&ours, linux.site().address(Family::V4))?;
    let told = ours.ctl("port add late --type tap --bridge span")?.code_is(6)?;
    ensure!(told.stderr.contains("has ports, as \"late\""), "{told}");
    let show = ours.ctl("tunnel show to-probe")?.ok()?.stdout;
    ensure!(show.contains("erspan") && show.contains(&SESSION.to_string()), "{show}");

    let hub = underlay.hub().netns()?;
    let wire = Capture::start(hub, &ours.site().port, "ip proto 47")?;
    let at_a = Capture::start(a.space.netns()?, &a.device, "icmp")?;
    let largest = b.mtu - 28;
    for size in [0, 56, largest] {
        b.space.sh(&format!("ping -n -c 2 -i 0.2 -s {size} {}", a.v4()))?.ok()?;
    }
    let echo = |frame: &[u8]| frame.get(34) == Some(&8);
    at_a.wait_for(6, echo)?;
    let copied = |frame: &[u8]| frame.get(HEADERS..).is_some_and(echo);
    wire.wait_for(6, copied)?;
    ours.ctl("mirror set span --snap 64")?.ok()?;
    b.space.sh(&format!("ping -n -c 1 {}", a.v4()))?.ok()?;
    let copies = wire.wait_for(7, copied)?;

    // Nothing of the wire's format is taken from the switch's own code.
    let fields = [
        "gre.proto",
        "gre.sequence_number",
        "erspan.version",
        "erspan.spanid",
        "erspan.index",
        "erspan.vlan",
        "erspan.encap",
        "erspan.truncated",
        "_ws.malformed",
    ];
    let mut words = vec!["-n", "-T", "fields", "-E", "separator=,"];
    words.extend(fields.iter().flat_map(|field| ["-e", field]));
    let decoded = wire.tshark(&words)?.stdout;
    let rows: Vec<&str> = decoded.lines().collect();
    let whole = rows.len() - 1;
    for (n, row) in rows.iter().enumerate() {
        let truncated = u8::from(n >= whole);
        let wanted = format!("0x88be,{n},1,{SESSION},{INDEX},0,0,{truncated},");
        ensure!(*row == wanted, "packet {n}: {row}, not {wanted}\n{decoded}");
    }
    let received = at_a.stop()?;
    ensure!(received.len() == copies.len(), "{} and {}", received.len(), copies.len());
    for (n, (frame, copy)) in received.iter().zip(&copies).enumerate() {
        let wanted = if n < whole { &frame[..] } else { &frame[..64] };
        ensure!(copy[HEADERS..] == *wanted, "copy {n}:\n{copy:02x?}\n{wanted:02x?}");
    }
    drop(wire);
    finish(ours)
}

/// Copies of the pings that leave by the first tenant's port go to a host in ERSPAN.
pub(crate) fn mirror(ours: &Switch, remote: IpAddr) -> Result<()> {
    for made in [
        "bridge add span".to_owned(),
        format!(
            "tunnel add to-probe --type erspan --session {SESSION} --index {INDEX} --vtep v4 \
             --bridge span --remotes {remote}"
        ),
        "mirror add span --ports p0-1 --direction out --filter icmp --to to-probe".to_owned(),
    ] {
        ours.ctl(&made)?.ok()?;
    }
    Ok(())
}
