//! What figures were measured on, and with which command.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

/// The machine, as far as it matters for rates.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// How many CPUs this process may use.
    pub cpus: usize,
    /// The processor's model.
    pub model: String,
    /// Its clock now, MHz.
    pub mhz: String,
    /// The kernel's release.
    pub kernel: String,
    /// The hypervisor, if the processor tells of one.
    pub virtual_machine: bool,
    /// The kernel's command line, which isolation of CPUs is in.
    pub cmdline: String,
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let value = |key| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split(": ").nth(1)).unwrap_or("?").trim().to_owned()
        };
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            model: value("model name"),
            mhz: value("cpu MHz"),
            kernel: read("/proc/sys/kernel/osrelease"),
            virtual_machine: value("flags").split(' ').any(|flag| flag == "hypervisor"),
            cmdline: read("/proc/cmdline"),
        }
    }
}

/// Prints the machine and the command.
pub fn print(command: &str) {
    println!("{}", describe(command));
}

/// The machine and the command, in a line.
pub fn describe(command: &str) -> String {
    let Machine { cpus, model, mhz, kernel, .. } = Machine::here();
    format!("{command}: {cpus} CPUs, {model} ({mhz} MHz), Linux {kernel}")
}

/// Shares of a CPU that others may use before it counts as busy.
const BUSY: f64 = 0.05;
/// What a ring of 1,024 frames holds at five million frames a second: longer pauses lose some.
const PAUSE: Duration = Duration::from_micros(200);

/// What makes rates measured on these CPUs doubtful: each is watched for `time`.
pub fn doubts(cpus: &[u16], time: Duration) -> Vec<String> {
    let mut doubts = Vec::new();
    let before = cpus.iter().map(|cpu| used(*cpu)).collect::<Vec<_>>();
    std::thread::sleep(time);
    for (cpu, before) in cpus.iter().zip(before) {
        if let (Some(now), Some(before)) = (used(*cpu), before) {
            let share = (now.0 - before.0) as f64 / (now.1 - before.1).max(1) as f64;
            if share > BUSY {
                doubts.push(format!(
                    "CPU {cpu} is busy with something else ({:.0} % of the time): figures will be \
                     lower and spread; isolate it (isolcpus, cgroups) or choose another",
                    100.0 * share
                ));
            }
        }
        let dir = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        let governor = read(dir);
        if !matches!(governor.as_str(), "" | "performance") {
            doubts.push(format!(
                "CPU {cpu} has the governor {governor}: its clock follows the load; \
                 `cpupower -c {cpu} frequency-set -g performance`"
            ));
        }
    }
    doubts
}

/// Ticks of a CPU since the start, by what it did (`proc_stat(5)`).
fn ticks(cpu: u16) -> Option<Vec<u64>> {
    let stat = read("/proc/stat");
    let name = format!("cpu{cpu} ");
    let ticks = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    Some(ticks.split_whitespace().filter_map(|t| t.parse().ok()).collect())
}

/// Time since the start in which the hypervisor had given a CPU to somebody else, in hundredths of a
/// second; `None` where it does not tell.
pub fn stolen(cpu: u16) -> Option<Duration> {
    // A tick of /proc is 10 ms on all of Debian's architectures.
    ticks(cpu)?.get(7).map(|ticks| Duration::from_millis(10 * ticks))
}

/// The longest time in which a thread that polls `cpu` did not come to run within `time`, and how
/// often that was longer than [`PAUSE`].
fn pauses(cpu: u16, time: Duration) -> Result<(Duration, u32)> {
    let mut set = CpuSet::new();
    set.set(cpu.into())?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    let (start, mut longest, mut long) = (Instant::now(), Duration::ZERO, 0);
    let mut last = start;
    while last - start < time {
        let now = Instant::now();
        longest = longest.max(now - last);
        long += u32::from(now - last > PAUSE);
        last = now;
    }
    Ok((longest, long))
}

/// What keeps threads that poll these CPUs from running, watched for `time`: frames are lost then,
/// whatever the switch.
pub fn interruptions(cpus: &[u16], time: Duration) -> Vec<String> {
    let watch = |cpu: u16| {
        let (longest, long) = pauses(cpu, time).ok().filter(|(_, long)| *long > 0)?;
        Some(format!(
            "a thread that polls CPU {cpu} does not come to run for up to {:.1} ms ({long} times over \
             {:.1} ms within {time:?}): a switch loses frames then that it is not to blame for, and an \
             NDR may not be found",
            1e3 * longest.as_secs_f64(),
            1e3 * PAUSE.as_secs_f64()
        ))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = cpus.iter().map(|cpu| scope.spawn(|| watch(*cpu))).collect();
        // One that panicked has nothing to say.
        threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    })
}

/// Busy ticks and all ticks of a CPU since the start.
fn used(cpu: u16) -> Option<(u64, u64)> {
    let ticks = ticks(cpu)?;
    let all: u64 = ticks.iter().take(8).sum();
    // The fourth is idle, the fifth waits for a disk.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Some((all - idle, all))
}

/// Has everything of this session come before what others run on the machine: the nice value of its
/// scheduling group (`sched(7)`, "The autogroup feature"). Put back when dropped.
#[derive(Debug)]
pub struct Urgent(String);

impl Urgent {
    const GROUP: &str = "/proc/self/autogroup";

    /// Takes the least nice value.
    ///
    /// # Errors
    /// The kernel has no such groups, or this is not root.
    pub fn new() -> Result<Self> {
        let group = fs::read_to_string(Self::GROUP);
        let group = group.with_context(|| format!("cannot read {}", Self::GROUP))?;
        let nice = group.split_whitespace().last().context("a group without a nice value")?;
        fs::write(Self::GROUP, "-20").with_context(|| format!("cannot write {}", Self::GROUP))?;
        Ok(Self(nice.to_owned()))
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        // It ends with the session at the latest.
        let _ = fs::write(Self::GROUP, &self.0);
    }
}
