//! What a frame costs the core: a worker's whole burst (receive, admit, learn, look up, execute,
//! send) beside two bare lookups in a hashbrown map, in the same run and the same order.
//!
//! `cargo xtask bench core` prints criterion's figures, the table of interleaved pairs, allocations
//! a frame (and fails unless there are none), the FDB's memory, instructions a frame as callgrind
//! counts them, and then the same for tunnels: see [`vswitch_bench::overlay`]. Arguments: a filter
//! for criterion, `--table` for all but criterion's figures, or `overlay` for tunnels alone.

use std::process::{Command, ExitCode};
use std::time::Duration;

use criterion::{Criterion, Throughput};
use vswitch_bench::alloc::{self, Counting};
use vswitch_bench::machine;
use vswitch_bench::overlay::{self, Direction, Kind, Load, Rig};
use vswitch_bench::pairs::{compare, median};
use vswitch_bench::workload::{Bench, Floor, Spread, Workload};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STATIONS: [usize; 4] = [1, 1_000, 65_536, 1_000_000];
const BURSTS: [usize; 4] = [1, 8, 32, 64];
const SPREADS: [Spread; 2] = [Spread::Uniform, Spread::Zipf];
/// What this program is told when callgrind runs it: how many frames to forward, and in bursts of
/// how many or through which tunnel which way.
const UNDER_CALLGRIND: &str = "--under-callgrind";
/// The argument that asks for tunnels alone.
const OVERLAY: &str = "overlay";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, frames, what @ ..] = &args[..]
        && first == UNDER_CALLGRIND
        && let Ok(frames) = frames.parse()
    {
        return under_callgrind(frames, what);
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
        overlay::check(1_000);
        return ExitCode::SUCCESS;
    }
    let words: Vec<&str> = args.iter().map(String::as_str).filter(|a| *a != "--bench").collect();
    machine::print([&["cargo xtask bench core"], &words[..]].concat().join(" ").as_str());
    let mut allocated = 0;
    if !args.iter().any(|a| a == OVERLAY) {
        if !args.iter().any(|a| a == "--table") {
            criterion_figures();
        }
        table();
        memory();
        println!("\nInstructions a frame (callgrind, 1,000 MACs):");
        let bursts = BURSTS.map(|burst| (format!("burst {burst:>2}"), vec![burst.to_string()]));
        instructions(bursts);
        allocated += allocations();
    }
    allocated += overlay::tables();
    println!("\nInstructions a frame (callgrind, inner frames of 64 bytes, 1 flow, 1 VNI):");
    instructions(Kind::ALL.into_iter().flat_map(|kind| {
        Direction::ALL.map(|way| {
            let words = [kind.name(), way.name()];
            (words.join(" "), words.map(str::to_owned).to_vec())
        })
    }));
    if allocated == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Forwards frames as callgrind's parent asks.
fn under_callgrind(frames: usize, what: &[String]) -> ExitCode {
    match what {
        [burst] => {
            let Ok(burst) = burst.parse() else { return ExitCode::FAILURE };
            Bench::new(&Workload::new(1_000, Spread::Uniform), burst).run(frames);
        }
        [kind, way, rest @ ..] => {
            let kind = Kind::ALL.into_iter().find(|k| k.name() == kind);
            let way = Direction::ALL.into_iter().find(|w| w.name() == way);
            let (Some(kind), Some(way)) = (kind, way) else { return ExitCode::FAILURE };
            let mut counts = rest.iter().map(|count| count.parse().ok());
            let (Some(flows), Some(networks)) =
                (counts.next().unwrap_or(Some(1)), counts.next().unwrap_or(Some(1)))
            else {
                return ExitCode::FAILURE;
            };
            Rig::new(&Load { kind, inner: 64, flows, networks }, way).run(frames);
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
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

/// Runs this program under callgrind twice for each case, with few frames and with many: the
/// difference is what frames cost, without start and warm-up.
fn instructions(cases: impl IntoIterator<Item = (String, Vec<String>)>) {
    for (name, words) in cases {
        let (few, many) = (10_000, 60_000);
        match (collected(few, &words), collected(many, &words)) {
            (Ok(few_cost), Ok(many_cost)) => {
                let each = many_cost.saturating_sub(few_cost) as f64 / (many - few) as f64;
                println!("  {name}: {each:.1}");
            }
            (Err(why), _) | (_, Err(why)) => {
                println!("  not counted: {why}");
                return;
            }
        }
    }
}

/// Instructions that callgrind collects over a whole run.
fn collected(frames: usize, words: &[String]) -> Result<u64, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args([UNDER_CALLGRIND, &frames.to_string()])
        .args(words)
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|l| l.split("Collected :").nth(1));
    line.and_then(|n| n.trim().parse().ok())
        .ok_or_else(|| format!("valgrind ended with {} and no count", output.status))
}
