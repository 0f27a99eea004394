//! Byte-exact delivery through every pair of port kinds and every overlay, with offloads on, off,
//! and on one side only. The combinations are pairwise: any two settings meet in one of them.

use anyhow::{Context, Result};
use vswitch_e2e::capture::Capture;
use vswitch_e2e::{size, streams};

use crate::net::{Kind, MTU, Net, Off, Path, UNDERLAY_MTU, skipped};
use crate::oracle;

const KINDS: [[Kind; 2]; 4] = [
    [Kind::Tap, Kind::Tap],
    [Kind::Veth, Kind::Tap],
    [Kind::Tap, Kind::Veth],
    [Kind::Veth, Kind::Veth],
];
const OFF: [Off; 4] = [Off::Nobody, Off::Near, Off::Far, Off::All];

/// Runs the combinations of one path: each setting of offloads once, each with other kinds than on
/// the other paths (a Latin square: the `n`th path begins with the `n`th pair of kinds).
fn run(test: &str, n: usize, path: Path) -> Result<()> {
    if skipped(test, &[]) {
        return Ok(());
    }
    for (kinds, off) in KINDS.into_iter().cycle().skip(n).zip(OFF) {
        exchange(kinds, off, path).with_context(|| format!("{kinds:?}, off: {off:?}, {path:?}"))?;
    }
    Ok(())
}

/// TCP and UDP both ways, over IPv4 and IPv6: 4 MiB; 64 at full size, and a stream of 1 GiB, with which
/// no capture keeps up.
fn exchange(kinds: [Kind; 2], off: Off, path: Path) -> Result<()> {
    let net = Net::start(kinds, off, path)?;
    // A device that finishes nothing must not be left to; a TAP takes what the switch has.
    let bare = kinds[1] == Kind::Veth && matches!(off, Off::Far | Off::All);
    let at_the_end = Capture::start(&net.far.netns, net.far.device, "tcp or udp or ip6")?;
    let wire = match path {
        Path::Tunnel(_) if off == Off::All => Some(Capture::start(net.last_host(), "u0", "ip")?),
        _ => None,
    };
    let (a, b) = (&net.near.netns, &net.far.netns);
    let megabyte = size(1, 16) as usize * 1024 * 1024;
    streams::tcp(a, b, "192.0.2.2", megabyte)?;
    streams::tcp(b, a, "192.0.2.1", megabyte)?;
    streams::tcp(a, b, "2001:db8::2", megabyte)?;
    streams::udp(a, b, "192.0.2.2", megabyte / 2)?;
    streams::udp(b, a, "2001:db8::1", megabyte / 4)?;
    streams::udp(a, b, "2001:db8::2", megabyte / 4)?;
    let frames = at_the_end.stop()?;
    if bare {
        oracle::check_all(&frames, MTU).context("at the far end")?;
    }
    if let Some(wire) = wire {
        oracle::check_all(&wire.stop()?, UNDERLAY_MTU).context("on the underlay")?;
    }
    let long = size(0, 1 << 30) as usize;
    if long > 0 {
        streams::tcp(a, b, "192.0.2.2", long)?;
    }
    streams::nothing_was_wrong(a)?;
    streams::nothing_was_wrong(b)?;
    net.stop()
}

#[test]
fn bytes_over_a_bridge() -> Result<()> {
    run("bytes_over_a_bridge", 0, Path::Bridge)
}

#[test]
fn bytes_over_vxlan() -> Result<()> {
    run("bytes_over_vxlan", 1, Path::Tunnel("vxlan"))
}

#[test]
fn bytes_over_geneve() -> Result<()> {
    run("bytes_over_geneve", 2, Path::Tunnel("geneve"))
}

#[test]
fn bytes_over_gre() -> Result<()> {
    run("bytes_over_gre", 3, Path::Tunnel("gre"))
}
