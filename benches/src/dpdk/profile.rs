//! The worker's thread: where its time goes, and having its CPU to itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use vswitch_e2e::Cmd;

/// Symbols that are printed.
const SYMBOLS: usize = 25;

/// Samples the worker of a switch for two seconds and prints its hottest symbols: by the CPU clock,
/// as virtual machines have no counters.
///
/// # Errors
/// `perf` is not there, or refuses.
pub fn record(pid: u32, path: &Path) -> Result<()> {
    let thread = worker(pid)?;
    let file = path.display().to_string();
    Cmd::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", "10000", "-t", &thread.to_string()])
        .args(["-o", &file, "--", "sleep", "2"])
        .run()?
        .ok()
        .context("perf (`apt-get install linux-perf`) does not record")?;
    let report = Cmd::new("perf")
        .args(["report", "-i", &file, "--stdio", "--no-children", "-g", "none"])
        .args(["--percent-limit", "0.4", "--sort", "symbol,dso"])
        .limit(Duration::from_secs(120))
        .run()?
        .ok()?;
    println!("Samples of the worker (`perf annotate -i {file}` has the instructions):");
    let lines = report.stdout.lines().filter(|line| line.contains('%') && !line.starts_with('#'));
    for line in lines.take(SYMBOLS) {
        println!("  {}", line.trim_end());
    }
    Ok(())
}

/// Gives the worker of a switch real-time priority. Only that thread: libdpdk's start waits for
/// threads that would not come to run.
///
/// # Errors
/// `chrt` failed.
pub fn prefer(pid: u32) -> Result<()> {
    let thread = worker(pid)?;
    Cmd::new("chrt").args(["-f", "-p", "50", &thread.to_string()]).run()?.ok().map(drop)
}

/// The thread that has used most CPU time.
fn worker(pid: u32) -> Result<u32> {
    let mut busiest = (0, pid);
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // User and system time are fields 14 and 15, counted from the name's end.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let ticks: u64 = fields.take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let name = task.file_name();
        let thread = name.to_string_lossy().parse().context("a thread without a number")?;
        busiest = busiest.max((ticks, thread));
    }
    Ok(busiest.1)
}
