//! The worker's thread of a switch: its CPU time, its priority, and where its time goes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use vswitch_e2e::{Cmd, until};

/// Symbols that are printed.
const SYMBOLS: usize = 25;

/// How long threads are watched to tell the one that polls.
const WATCH: Duration = Duration::from_millis(50);
/// CPU time that it has to use in that time, on a machine that does other things, too.
const POLLS: Duration = Duration::from_millis(5);

/// The thread of a process that is bound to a worker's CPU; the busiest, where others are bound there:
/// libdpdk binds some of its own, and everything of a process may be confined to that CPU.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    process: u32,
    thread: u32,
}

impl Worker {
    /// Waits for it: it may be bound a little after the ports were started.
    ///
    /// # Errors
    /// There is none.
    pub fn find(process: u32, cpu: u16) -> Result<Self> {
        let what = format!("process {process} to have a busy thread on CPU {cpu} alone");
        let cpu = cpu.to_string();
        until(Duration::from_secs(10), &what, || {
            let before = Self::on(process, &cpu)?;
            std::thread::sleep(WATCH);
            let used = |(worker, time): (Self, Duration)| {
                Some((worker.cpu_time().ok()?.saturating_sub(time), worker))
            };
            let busiest = before.into_iter().filter_map(used).max_by_key(|(used, _)| *used);
            Ok(busiest.filter(|(used, _)| *used > POLLS).map(|(_, worker)| worker))
        })
    }

    /// The threads of a process that may run on that CPU only, with the time they have used.
    fn on(process: u32, cpu: &str) -> Result<Vec<(Self, Duration)>> {
        let mut found = Vec::new();
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let name = task?.file_name();
            let thread = name.to_string_lossy().parse().context("a thread without a number")?;
            let status = format!("/proc/{process}/task/{thread}/status");
            let status = fs::read_to_string(status).unwrap_or_default();
            let cpus = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
            let worker = Self { process, thread };
            if cpus.is_some_and(|cpus| cpus.trim() == cpu)
                && let Ok(time) = worker.cpu_time()
            {
                found.push((worker, time));
            }
        }
        Ok(found)
    }

    /// CPU time it has used: what others take of its CPU meanwhile does not count.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu_time(self) -> Result<Duration> {
        self.schedstat(0)
    }

    /// How long it was ready to run while its CPU ran something else.
    ///
    /// # Errors
    /// It is gone.
    pub fn waited(self) -> Result<Duration> {
        self.schedstat(1)
    }

    fn schedstat(self, field: usize) -> Result<Duration> {
        let path = format!("/proc/{}/task/{}/schedstat", self.process, self.thread);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let nanos = text.split_whitespace().nth(field).context("a short schedstat")?;
        Ok(Duration::from_nanos(nanos.parse()?))
    }

    /// Gives it real-time priority. Only that thread: libdpdk's start waits for threads that would
    /// not come to run.
    ///
    /// # Errors
    /// `chrt` failed.
    pub fn prefer(self) -> Result<()> {
        Cmd::new("chrt").args(["-f", "-p", "50", &self.thread.to_string()]).run()?.ok().map(drop)
    }

    /// Samples it for two seconds and prints its hottest symbols: by the CPU clock, as virtual
    /// machines have no counters.
    ///
    /// # Errors
    /// `perf` is not there, or refuses.
    pub fn profile(self, path: &Path) -> Result<()> {
        let file = path.display().to_string();
        Cmd::new("perf")
            .args(["record", "-q", "-e", "cpu-clock", "-F", "10000"])
            .args(["-t", &self.thread.to_string(), "-o", &file, "--", "sleep", "2"])
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
        let hot = |line: &&str| line.contains('%') && !line.starts_with('#');
        for line in report.stdout.lines().filter(hot).take(SYMBOLS) {
            println!("  {}", line.trim_end());
        }
        Ok(())
    }
}
