//! Switches on kernel devices side by side: ours, Open vSwitch in user space, VDE, a bare forwarder,
//! and what the kernel does by itself.
//!
//! End points run on CPU 0, switches on CPU 1. All sides of a row stand at once and are measured in
//! turn, in five interleaved pairs by default: see [`vswitch_bench::kernel`].
//!
//! While working on the switch: `cargo xtask bench kernel --only udp --quick --no-peers`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vswitch_bench::choice::Choice;
use vswitch_bench::kernel::forwarder;
use vswitch_bench::kernel::report::{self, Found, Verdict};
use vswitch_bench::kernel::rows::{ROWS, Row};
use vswitch_bench::kernel::scene::Scene;
use vswitch_bench::kernel::side::Side;
use vswitch_bench::machine::{self, Urgent};
use vswitch_e2e::Netns;

/// Switches on kernel devices side by side, in five interleaved pairs.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(flatten)]
    choice: Choice<Side>,
    /// Seconds that are measured each time.
    #[arg(long, default_value_t = 3)]
    secs: u32,
    /// Come before everything else on a machine that does other things, too.
    #[arg(long)]
    urgent: bool,
    /// Print one JSON document on standard output, and how it goes on standard error.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What this program does as a part of itself.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Forward between two TAP devices, frame by frame, until killed.
    #[command(hide = true)]
    Forward {
        /// With a header in front of each frame, and all offloads.
        #[arg(long)]
        vnet_hdr: bool,
        a: String,
        b: String,
    },
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(Part::Forward { vnet_hdr, a, b }) = &args.part {
        match forwarder::run([a, b], *vnet_hdr)? {}
    }
    if args.choice.list {
        for row in ROWS {
            println!("{:<10} {}", row.name, row.title);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows = args.choice.rows(ROWS, |row| row.name);
    ensure!(!rows.is_empty(), "no such row: `--list` shows them");
    ensure!(
        args.choice.pairs > 0 && args.secs > 0,
        "nothing to measure: --pairs and --secs are above 0"
    );
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stopped))?;
    }
    // What an earlier run left that was killed.
    Netns::sweep()?;
    let _urgent = args.urgent.then(Urgent::new).transpose()?;
    let ours = args.choice.binaries()?;
    Bench { args, ours, stopped }.run(&rows)?;
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    args: Args,
    /// The directory of our programs.
    ours: Option<PathBuf>,
    /// Ctrl-C was pressed: everything is dropped, and so ended, on the way out.
    stopped: Arc<AtomicBool>,
}

impl Bench {
    fn run(&self, rows: &[&'static Row]) -> Result<()> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let command = format!("cargo xtask bench kernel {}", words.join(" "));
        let machine = machine::describe(&command);
        self.say(&machine);
        self.say(
            "End points on CPU 0, switches on CPU 1, the kernel's own on CPU 0. \
             Median of the pairs (least to greatest); CPU is the switch's.",
        );
        let (mut all, mut documents) = (Vec::new(), Vec::new());
        for row in rows {
            self.say(&format!("\n{} ({})", row.title, row.name));
            let found = self.row(row).with_context(|| row.name)?;
            let verdicts = report::verdicts(row, &found);
            for line in report::table(row, &found) {
                self.say(&line);
            }
            self.goals(&verdicts);
            documents.push(report::json(row, &found, &verdicts));
            all.extend(verdicts);
        }
        if rows.len() > 1 {
            self.say("\nAll goals:");
            self.goals(&all);
        }
        let missed = all.iter().filter(|verdict| !verdict.met).count();
        self.say(&format!("\n{} goals, {missed} of them missed", all.len()));
        if self.args.json {
            let whole = serde_json::json!({ "machine": machine, "rows": documents });
            println!("{}", serde_json::to_string_pretty(&whole)?);
        }
        Ok(())
    }

    fn say(&self, line: &str) {
        if self.args.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    fn goals(&self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            self.say(&format!("  goal {}", verdict.line()));
        }
    }

    /// Starts ours and those peers of a row that are to be measured and are there.
    fn scenes(&self, row: &Row) -> Result<Vec<(Scene, Found)>> {
        let mut scenes = Vec::new();
        for side in [&[row.ours], row.peers].concat() {
            if !self.args.choice.wants(&side, &row.ours) {
                continue;
            }
            if let Some(why) = side.missing() {
                self.say(&format!("  {} is not measured: {why}", side.name()));
                continue;
            }
            self.go_on()?;
            let mut scene = side.start(self.ours.as_deref())?;
            row.work.prepare(&mut scene)?;
            scenes.push((scene, Found { side, readings: Vec::new() }));
        }
        Ok(scenes)
    }

    fn row(&self, row: &Row) -> Result<Vec<Found>> {
        let (pairs, secs) =
            if self.args.choice.quick { (1, 1) } else { (self.args.choice.pairs, self.args.secs) };
        let mut scenes = self.scenes(row)?;
        if !self.args.choice.quick {
            for (scene, found) in &scenes {
                self.go_on()?;
                row.work.warm(scene).with_context(|| found.side.name())?;
            }
        }
        for _ in 0..pairs {
            for (scene, found) in &mut scenes {
                self.go_on()?;
                let reading = row.work.measure(scene, Duration::from_secs(secs.into()));
                found.readings.push(reading.with_context(|| found.side.name())?);
            }
        }
        let mut all = Vec::new();
        for (scene, found) in scenes {
            scene.stop().with_context(|| found.side.name())?;
            all.push(found);
        }
        Ok(all)
    }

    fn go_on(&self) -> Result<()> {
        ensure!(!self.stopped.load(Ordering::Relaxed), "stopped by a signal");
        Ok(())
    }
}
