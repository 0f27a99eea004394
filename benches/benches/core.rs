//! What a frame costs the core: a worker's whole burst (receive, admit, learn, look up, execute,
//! send) beside two bare lookups in a hashbrown map, in the same run and the same order.
//!
//! `cargo xtask bench core` prints criterion's figures, the table of interleaved pairs, allocations
//! a frame (and fails unless there are none), the FDB's memory, and instructions a frame as
//! callgrind counts them. Arguments: a filter for criterion, or `--table` for the table alone.

use std::process::{Command, ExitCode};
use std::time::Duration;

use criterion::{Criterion, Throughput};
use vswitch_bench::alloc::{self, Counting};
use vswitch_bench::pairs::{compare, median};
use vswitch_bench::workload::{Bench, Floor, Spread, Workload};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STATIONS: [usize; 4] = [1, 1_000, 65_536, 1_000_000];
const BURSTS: [usize; 4] = [1, 8, 32, 64];
const SPREADS: [Spread; 2] = [Spread::Uniform, Spread::Zipf];
/// What this program is told when callgrind runs it: how many frames to forward.
const UNDER_CALLGRIND: &str = "--under-callgrind";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, frames, burst] = &args[..]
        && first == UNDER_CALLGRIND
        && let (Ok(frames), Ok(burst)) = (frames.parse(), burst.parse())
    {
        Bench::new(&Workload::new(1_000, Spread::Uniform), burst).run(frames);
        return ExitCode::SUCCESS;
    }
    // `cargo bench` says so; `cargo test --benches` does not, and asks whether it works, not how
    // fast.
    let measures = args.iter().any(|a| a == "--bench" || a == "--table");
    if !measures {
        for burst in BURSTS {
            let mut bench = Bench::new(&Workload::new(1_000, Spread::Zipf), burst);
            bench.run(10_000);
            bench.check();
        }
        return ExitCode::SUCCESS;
    }
    if !args.iter().any(|a| a == "--table") {
        criterion_figures();
    }
    table();
    memory();
    instructions();
    if allocations() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Bursts of 32 only: the table has the rest.
fn criterion_figures() {
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300))
        .without_plots()
        .configure_from_args();
    for spread in SPREADS {
        let mut group = criterion.benchmark_group(format!("burst-32-{}", spread.name()));
        for stations in STATIONS {
            let workload = Workload::new(stations, spread);
            let mut bench = Bench::new(&workload, 32);
            let mut floor = Floor::new(&workload);
            group.throughput(Throughput::Elements(32));
            group.bench_function(format!("worker-{stations}"), |b| b.iter(|| bench.run(32)));
            group.bench_function(format!("floor-{stations}"), |b| b.iter(|| floor.run(32)));
            bench.check();
        }
        group.finish();
    }
    criterion.final_summary();
}

fn table() {
    println!("\nNanoseconds a frame, five interleaved pairs each; floor: two hashbrown lookups.");
    println!("    MACs  spread   burst  worker   floor   ratio  (least to greatest)");
    for stations in STATIONS {
        for spread in SPREADS {
            let workload = Workload::new(stations, spread);
            let mut floor = Floor::new(&workload);
            for burst in BURSTS {
                let mut bench = Bench::new(&workload, burst);
                let time = Duration::from_millis(60);
                let found = compare(time, |n| bench.run(n), |n| floor.run(n));
                bench.check();
                let (least, greatest) = found.spread();
                println!(
                    "{stations:>8}  {:<7}  {burst:>5}  {:>6.1}  {:>6.1}  {:>6.2}  ({least:.2} to {greatest:.2})",
                    spread.name(),
                    median(&found.ours),
                    median(&found.theirs),
                    found.ratio(),
                );
            }
        }
    }
}

/// Counts what a second's worth of bursts allocates.
fn allocations() -> u64 {
    const FRAMES: usize = 1_000_000;
    let workload = Workload::new(65_536, Spread::Uniform);
    let mut bench = Bench::new(&workload, 32);
    bench.run(10_000);
    let before = alloc::calls();
    let frames = bench.run(FRAMES);
    let calls = alloc::calls() - before;
    println!("\nAllocations in {frames} frames: {calls}");
    calls
}

fn memory() {
    let bench = Bench::new(&Workload::new(1_000_000, Spread::Uniform), 32);
    let bytes = bench.fdb_bytes();
    println!(
        "\nFDB for {} entries: {bytes} bytes, {:.1} an entry",
        1 << 20,
        bytes as f64 / f64::from(1 << 20)
    );
}

/// Runs this program under callgrind twice, with few frames and with many: the difference is what
/// frames cost, without start and warm-up.
fn instructions() {
    println!("\nInstructions a frame (callgrind, 1,000 MACs):");
    for burst in BURSTS {
        let (few, many) = (20_000, 120_000);
        match (collected(few, burst), collected(many, burst)) {
            (Ok(few_cost), Ok(many_cost)) => {
                let each = many_cost.saturating_sub(few_cost) as f64 / (many - few) as f64;
                println!("  burst {burst:>2}: {each:.1}");
            }
            (Err(why), _) | (_, Err(why)) => {
                println!("  not counted: {why}");
                return;
            }
        }
    }
}

/// Instructions that callgrind collects over a whole run.
fn collected(frames: usize, burst: usize) -> Result<u64, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args([UNDER_CALLGRIND, &frames.to_string(), &burst.to_string()])
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|l| l.split("Collected :").nth(1));
    line.and_then(|n| n.trim().parse().ok())
        .ok_or_else(|| format!("valgrind ended with {} and no count", output.status))
}
