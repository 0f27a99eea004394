//! Switches on DPDK side by side, on one worker core: ours, testpmd and Open vSwitch.
//!
//! Each is started afresh for every figure, gets the same frames from the same sources, and is
//! counted outside itself: see [`vswitch_bench::dpdk`]. Five interleaved pairs by default.
//!
//! While working on the switch: `cargo xtask bench dpdk --only l2-1000 --quick --no-peers`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vswitch_bench::choice::Choice;
use vswitch_bench::dpdk::hugepages;
use vswitch_bench::dpdk::port;
use vswitch_bench::dpdk::report::{self, Rates, Verdict};
use vswitch_bench::dpdk::rows::{
    COLD_SECS, COLD_SHARE, HOSTILE_RATE, HOSTILE_SHARE, ROWS, Row, Work,
};
use vswitch_bench::dpdk::run::{Runner, Times};
use vswitch_bench::dpdk::scene::{Hostile, Scene, Store};
use vswitch_bench::dpdk::side::{Launch, Side, missing};
use vswitch_bench::machine;
use vswitch_bench::pairs::{median, summary};

/// Free hugepages that a run needs: Open vSwitch takes 1,024, frames and ours the rest.
const HUGEPAGES: u64 = 1_280;
/// Without it.
const HUGEPAGES_OURS: u64 = 384;
/// A point of the curve of a cold start.
const STEP: Duration = Duration::from_millis(50);

/// Switches on DPDK side by side, in five interleaved pairs.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    choice: Choice<Side>,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Seconds at full load before those.
    #[arg(long, default_value_t = 3.0)]
    warm: f64,
    /// Sample our worker after each measurement (`perf record`) and print where its time goes.
    #[arg(long)]
    profile: bool,
    /// Give workers real-time priority, on a machine that does other things, too.
    #[arg(long)]
    fifo: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.choice.list {
        for row in ROWS {
            println!("{:<18} {}", row.name, row.title);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows = args.choice.rows(ROWS, |row| row.name);
    ensure!(!rows.is_empty(), "no such row: `--list` shows them");
    let words: Vec<String> = std::env::args().skip(1).collect();
    machine::print(&format!("cargo xtask bench dpdk {}", words.join(" ")));
    println!(
        "One worker on CPU 1, control on CPU 0; 64-byte frames without FCS; millions of frames that \
         reached the sinks a second of the worker's CPU time: median (least to greatest)."
    );
    let peers = !args.choice.no_peers && rows.iter().any(|row| row.peers.contains(&Side::Ovs));
    let _pages = hugepages::ensure(if peers { HUGEPAGES } else { HUGEPAGES_OURS })?;
    let mut bench = Bench::new(args)?;
    let mut verdicts = Vec::new();
    for row in rows {
        println!("\n{} ({})", row.title, row.name);
        for verdict in bench.row(row).with_context(|| row.name)? {
            report::verdict(row, &verdict);
            verdicts.push((row, verdict));
        }
    }
    let missed = verdicts.iter().filter(|(_, v)| !v.met && !v.aim).count();
    if verdicts.len() > 1 {
        println!("\nAll goals:");
        for (row, verdict) in &verdicts {
            report::verdict(row, verdict);
        }
    }
    println!(
        "\n{} goals, {missed} of them missed",
        verdicts.iter().filter(|(_, v)| !v.aim).count()
    );
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    args: Args,
    runner: Runner,
    pairs: usize,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(args: Args) -> Result<Self> {
        // In memory, so that counters never wait for a disk.
        let dir = tempfile::Builder::new().prefix("vswitch-bench-").tempdir_in("/dev/shm")?;
        let launch = Launch {
            library: port::build(dir.path())?,
            dir: dir.path().to_owned(),
            binaries: args.choice.binaries()?,
            hugepages: true,
        };
        let secs = |secs: f64| {
            Duration::from_secs_f64(if args.choice.quick { secs.min(1.0) } else { secs })
        };
        let times = Times { warm: secs(args.warm), measured: secs(args.secs) };
        let profile = args.profile.then(|| std::env::temp_dir().join("vswitch-bench.perf"));
        let store = Store::new(dir.path());
        let pairs = if args.choice.quick { 1 } else { args.choice.pairs.max(1) };
        Ok(Self {
            runner: Runner { launch, store, times, fifo: args.fifo, profile },
            args,
            pairs,
            _dir: dir,
        })
    }

    /// Ours and those peers of a row that are to be measured and are there.
    fn sides(&self, row: &Row) -> Vec<Side> {
        let mut sides = Vec::new();
        for side in [&[Side::Ours], row.peers]
            .concat()
            .into_iter()
            .filter(|s| self.args.choice.wants(s, &Side::Ours))
        {
            match missing(side) {
                Some(why) => println!("  {} is not measured: {why}", side.name()),
                None => sides.push(side),
            }
        }
        sides
    }

    fn row(&mut self, row: &Row) -> Result<Vec<Verdict>> {
        match row.work {
            Work::Steady(scene) => self.steady(row, scene),
            Work::Cold(pairs) => self.cold(row, pairs),
            Work::Hostile(what) => self.hostile(row, what),
        }
    }

    fn steady(&mut self, row: &Row, scene: Scene) -> Result<Vec<Verdict>> {
        let mut found: Vec<Rates> = Vec::new();
        for side in self.sides(row) {
            found.push(Rates { side, mpps: Vec::new() });
        }
        for pair in 1..=self.pairs {
            for rates in &mut found {
                let lesson = row.lesson.filter(|_| rates.side == Side::Ovs);
                let took = self.runner.steady(rates.side, scene, lesson)?;
                println!(
                    "  pair {pair}  {:<16} {:>7.2} Mpps, {:.1} frames a burst, {:.0} bytes a frame; \
                     its worker had {:.0} % of the CPU",
                    rates.side.name(),
                    took.mpps(),
                    took.burst(),
                    took.length(),
                    100.0 * took.secs / took.wall,
                );
                rates.mpps.push(took.mpps());
            }
        }
        Ok(report::rates(row, &found))
    }

    fn cold(&mut self, row: &Row, pairs: u32) -> Result<Vec<Verdict>> {
        let mut verdicts = Vec::new();
        for side in self.sides(row) {
            let mut times = Vec::new();
            for pair in 1..=self.pairs {
                let time = Duration::from_secs(if side == Side::Ours { 4 } else { 10 });
                let curve = self.runner.cold(side, Scene::Bridge { pairs }, time, STEP)?;
                let (after, end) = report::reached(&curve, STEP.as_secs_f64(), COLD_SHARE);
                let after = after.unwrap_or(f64::INFINITY);
                let name = side.name();
                // Open vSwitch's end is no state of rest: its own share of that says nothing.
                match side {
                    Side::Ours => println!(
                        "  pair {pair}  {name:<16} {end:.2} Mpps in the end, 90 % of it after {after:.2} s"
                    ),
                    _ => println!("  pair {pair}  {name:<16} {end:.2} Mpps after 10 s"),
                }
                let points: Vec<String> = [0, 1, 2, 3, 5, 9, 19, 39, 79, 159]
                    .into_iter()
                    .filter_map(|n| {
                        let at = (n + 1) as f64 * STEP.as_secs_f64();
                        curve.get(n).map(|rate| format!("{at:.2} s {rate:.2}"))
                    })
                    .collect();
                println!("          {}", points.join(" · "));
                times.push(after);
            }
            if side == Side::Ours {
                println!("  {:<16} 90 % after {} s", side.name(), summary(&times, 2));
                let got = median(&times);
                let what = "90 % in 1 s; seconds".to_owned();
                verdicts.push(Verdict { what, got, met: got <= COLD_SECS, aim: false });
            }
        }
        Ok(verdicts)
    }

    fn hostile(&mut self, row: &Row, what: Hostile) -> Result<Vec<Verdict>> {
        let mut verdicts = Vec::new();
        for side in self.sides(row) {
            // The last one is as much as the switch asks for: printed, as what it costs then is its
            // port's share of the core.
            for (rate, name) in [(HOSTILE_RATE, "1.49 Mpps"), (0, "endless")] {
                let mut shares = Vec::new();
                for pair in 1..=self.pairs {
                    let scene = Scene::Hostile { what };
                    let (with, without) = self.runner.hostile(side, scene, rate)?;
                    println!(
                        "  pair {pair}  {:<16} {name:<9}  {without:>7.2} Mpps without, {with:>7.2} with",
                        side.name()
                    );
                    shares.push(with / without);
                }
                println!(
                    "  {:<16} {name:<9}  {} of the rate is left to the other ports",
                    side.name(),
                    summary(&shares, 3)
                );
                if side == Side::Ours && rate > 0 {
                    let (got, what) = (median(&shares), format!("{HOSTILE_SHARE} of the rate"));
                    verdicts.push(Verdict { what, got, met: got >= HOSTILE_SHARE, aim: false });
                }
            }
        }
        Ok(verdicts)
    }
}
