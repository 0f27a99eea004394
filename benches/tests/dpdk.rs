//! The benchmark's sources and sinks under our own daemon: what goes in comes out, and the daemon
//! counts the same as they do. Rates are nobody's concern here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vswitch_bench::dpdk::control::hash;
use vswitch_bench::dpdk::frames::Bytes;
use vswitch_bench::dpdk::port;
use vswitch_bench::dpdk::run::{Ready, Runner, Times};
use vswitch_bench::dpdk::scene::{Oracle, Scene, Store};
use vswitch_bench::dpdk::side::{Launch, Running, Side};
use vswitch_e2e::{Need, need, until};

const PAIRS: u32 = 500;
const ROUNDS: u64 = 40;
/// What each port sends.
const FRAMES: u64 = PAIRS as u64 * ROUNDS;

fn digest(frames: &[Bytes]) -> u64 {
    let round = frames.iter().fold(0u64, |sum, frame| sum.wrapping_add(hash(frame)));
    round.wrapping_mul(ROUNDS)
}

#[test]
fn every_frame_of_a_source_comes_out_of_the_other_ports_sink() -> Result<()> {
    need!(
        "every_frame_of_a_source_comes_out_of_the_other_ports_sink",
        Need::Root,
        Need::Binaries,
        Need::Dpdk,
        Need::Program("cc", "gcc"),
        Need::Program("pkg-config", "pkg-config"),
    );
    let dir = tempfile::tempdir()?;
    let launch = Launch {
        library: port::build(dir.path())?,
        dir: dir.path().to_owned(),
        binaries: None,
        hugepages: false,
    };
    let times = Times { warm: Duration::ZERO, measured: Duration::ZERO };
    let store = Store::new(dir.path());
    let mut runner = Runner { launch, store, times, fifo: false, profile: None };
    let scene = Scene::Bridge { pairs: PAIRS };
    let Ready { control, running, .. } = runner.ready(Side::Ours, scene)?;
    let Running::Ours(mut daemon) = running else { unreachable!("that is our side") };
    let idle = daemon.buffers_in_use()?;
    ensure!(control.read()?.iter().all(|port| port.rx.frames == 0), "a closed source gave frames");

    for port in 0..2 {
        control.limit(port, FRAMES)?;
        control.digest(port)?;
        control.keep(port)?;
    }
    control.open(true)?;
    let counts = until(Duration::from_secs(60), "all frames to arrive", || {
        let counts = control.read()?;
        Ok(counts.iter().all(|port| port.tx.frames >= FRAMES).then_some(counts))
    })?;
    let sent = |port| scene.frames(port, [0; 6]).context("frames");
    for (port, other) in [(0, 1), (1, 0)] {
        let (rx, tx) = (counts[port].rx, counts[port].tx);
        let bytes: u64 = sent(port)?.iter().map(|frame| frame.len() as u64).sum();
        assert_eq!((rx.frames, rx.bytes), (FRAMES, bytes * ROUNDS), "port {port} received");
        assert_eq!((tx.frames, tx.bytes), (FRAMES, bytes * ROUNDS), "port {port} sent");
        assert_eq!(tx.digest, digest(&sent(other)?), "what port {port} sent");
        let kept = control.kept(port)?;
        ensure!(!kept.is_empty(), "port {port} kept nothing");
        Oracle::new(scene).check(port, &kept)?;
    }

    let books = daemon.settle()?;
    books.check()?;
    for name in ["p0", "p1"] {
        let port = books.port(name)?;
        assert_eq!((port.rx_frames, port.tx_frames), (FRAMES, FRAMES), "{name}");
        assert_eq!((port.fdb, books.dropped_in_all()), (u64::from(PAIRS), 0), "{name}");
    }
    daemon.wait_buffers_in_use(idle)?;
    daemon.stop()
}
