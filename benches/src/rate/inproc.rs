//! Rates without a generator: sources and sinks in the switch's own process, in the place of its ports
//! (`dpdk/port.c`), as `cargo xtask bench dpdk` has them.
//!
//! A machine without a NIC has no better way: what a generator reaches over memory shared by two
//! processes bounds what it measures. Here frames cost next to nothing, and rates are by CPU time of the
//! workers, so that what others take of their CPUs does not count.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::result::{Measured, Of, Rate};
use super::row::{Row, STANDARD, Test, name};
use super::session::{Findings, Options, Watcher};
use super::sut::{Kind, Launch};
use super::table;
use super::taken::workers;
use super::traffic::{Stamp, Stream, Underlay};
use super::wiring::Wiring;
use crate::dpdk::control::{Control, PORTS, Took};
use crate::dpdk::worker::Worker;
use crate::dpdk::{frames, port};

/// Frames a second of each port while a switch learns; Open vSwitch makes a flow for each pair of
/// addresses, which it does no faster.
const LESSON: (u64, u64) = (200_000, 50_000);
/// The least time for that.
const LESSON_LEAST: Duration = Duration::from_millis(500);
/// The most memory for the frames of one source, bytes.
const FRAMES: usize = 1 << 30;
/// Share of its CPU that a worker has to get.
const SHARE: f64 = 0.1;

/// A run in which every switch has its sources and sinks inside.
#[derive(Debug)]
pub struct Inproc<'a> {
    options: &'a Options,
    watcher: &'a dyn Watcher,
    stop: Arc<AtomicBool>,
    library: PathBuf,
}

/// Why a switch is not measured so in a row, if it is not.
fn refuses(sut: Kind, row: &Row) -> Option<&'static str> {
    match sut {
        Kind::External | Kind::LinuxBridge => Some("it is no program on DPDK that is started here"),
        _ if row.test != Test::Rate => Some("--inproc measures rates; the rest takes a generator"),
        _ if row.ports > PORTS => Some("--inproc has four ports"),
        _ if row.size.largest() > STANDARD => {
            Some("the sources of --inproc give frames of one buffer, up to 1518 bytes")
        }
        _ => sut.refuses(row, PORTS, false),
    }
}

impl<'a> Inproc<'a> {
    /// Makes the sources and sinks.
    ///
    /// # Errors
    /// There is no C compiler, or no libdpdk.
    pub fn new(
        options: &'a Options,
        watcher: &'a dyn Watcher,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        Ok(Self { options, watcher, stop, library: port::build(&options.launch.dir)? })
    }

    /// Measures everything, and writes it to `findings` as it is known.
    ///
    /// # Errors
    /// A switch does not start, or carries nothing. Nothing is left running.
    pub fn run(&self, findings: &mut Findings) -> Result<()> {
        for row in &self.options.rows {
            for pair in 1..=self.options.pairs {
                for sut in self.options.suts.iter().copied() {
                    ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
                    if let Some(why) = refuses(sut, row) {
                        ensure!(self.options.suts.len() > 1, "{}, {row}: {why}", name(sut));
                        self.watcher.skipped(sut, row, why);
                        continue;
                    }
                    self.watcher.doing(&format!("{}, {row}", name(sut)));
                    let of = Of { sut, pair, row: *row };
                    let measured = self.measure(of, findings);
                    let measured = measured.with_context(|| format!("{}, {row}", name(sut)))?;
                    self.watcher.measured(&table::measured(&measured, None));
                    findings.results.push(measured);
                }
            }
        }
        Ok(())
    }

    fn measure(&self, of: Of, findings: &mut Findings) -> Result<Measured> {
        let (Of { row, sut, .. }, plan) = (of, self.options.plan);
        let wiring = Wiring::inside(row.ports);
        let devices: Vec<&str> = wiring.switch.iter().map(String::as_str).collect();
        let control = Control::create(self.options.launch.dir.join("ports"), &devices)?;
        let under = port::under(&self.library, control.path());
        let launch = Launch { under, ..self.options.launch.clone() };
        findings.configured(sut, || launch.config(&row, &wiring.switch));
        let mut running = launch.start(sut, &row, &wiring)?;
        control.wait_started(|| running.alive())?;
        let underlay = running.underlay(&row)?;
        for port in 0..row.ports {
            let file = launch.dir.join(format!("frames-{port}"));
            write(&file, &row, port, underlay)?;
            control.load(port, &file)?;
        }
        let workers = workers(&running, launch.workers_of(&row))?;
        teach(&control, sut, &row)?;
        std::thread::sleep(plan.trial);
        (0..row.ports).try_for_each(|port| control.keep(port))?;
        let took = control.measure(plan.trial, || time_of(&workers))?;
        look(&control, &row)?;
        running.stop()?;
        ensure!(
            took.secs > SHARE * took.wall,
            "its workers came to run for {:.3} s of {:.1} only: the CPUs are taken",
            took.secs,
            took.wall
        );
        Ok(measured(of, &wiring, &took))
    }
}

/// What a switch did, as a rate.
fn measured(of: Of, wiring: &Wiring, took: &Took) -> Measured {
    let sum = |f: fn(&crate::dpdk::control::PortCounts) -> u64| took.ports.iter().map(f).sum();
    let (given, sent): (u64, u64) = (sum(|port| port.rx.frames), sum(|port| port.tx.frames));
    let lost = given.saturating_sub(sent);
    let maximum = Rate {
        pps: sent as f64 / took.secs,
        loss: lost as f64 / given.max(1) as f64,
        offered: given,
        lost,
        reordered: None,
        duplicated: None,
    };
    let notes = vec![format!(
        "{:.1} frames a burst; a worker had {:.0} % of its CPU",
        took.burst(),
        100.0 * took.secs / took.wall
    )];
    Measured { notes, ..Measured::new(of, wiring.kind, maximum) }
}

/// Writes what the source of a port gives.
fn write(path: &Path, row: &Row, port: usize, underlay: Underlay) -> Result<()> {
    let stream = Stream::new(row, port, underlay);
    let count = (row.flows as usize).next_multiple_of(row.size.round().len());
    let room = count * (usize::from(row.size.largest()) + row.shape.extra());
    ensure!(
        room <= FRAMES,
        "{count} frames would take {} MiB in the source of each port: fewer flows, or shorter ones",
        room >> 20
    );
    let frames: Vec<_> = (0..count as u64).map(|n| stream.frame(n, 0)).collect();
    frames::write(path, &frames)
}

/// CPU time of the workers, on average.
fn time_of(workers: &[Worker]) -> Result<Duration> {
    let times = workers.iter().map(|worker| worker.cpu_time()).collect::<Result<Vec<_>>>()?;
    Ok(times.iter().sum::<Duration>() / workers.len().max(1) as u32)
}

/// Has all stations speak, slowly; then those that send in this row, without end.
fn teach(control: &Control, sut: Kind, row: &Row) -> Result<()> {
    let rate = if sut == Kind::OvsDpdk { LESSON.1 } else { LESSON.0 };
    (0..row.ports).try_for_each(|port| control.rate(port, rate))?;
    control.open(true)?;
    // Twice, as the first frames are flooded.
    let time = Duration::from_secs_f64(2.0 * f64::from(row.flows) / rate as f64);
    std::thread::sleep(time.max(LESSON_LEAST));
    for port in 0..row.ports {
        control.rate(port, 0)?;
        control.open_port(port, row.direction.sends(port))?;
    }
    Ok(())
}

/// Whether what sinks kept is what the other port of their pair gave.
fn look(control: &Control, row: &Row) -> Result<()> {
    for port in 0..row.ports {
        let stamps: Vec<_> =
            control.kept(port)?.iter().filter_map(|frame| Stamp::find(frame)).collect();
        if stamps.is_empty() && row.direction.sends(port ^ 1) {
            bail!("nothing of what port {} gave came out of port {port}", port ^ 1);
        }
        if let Some(other) = stamps.iter().find(|stamp| usize::from(stamp.stream) != port ^ 1) {
            bail!(
                "a frame to a known address that port {} gave came out of port {port}",
                other.stream
            );
        }
    }
    Ok(())
}
