//! What figures were measured on, and with which command.

use std::fs;

/// Prints the machine and the command.
pub fn print(command: &str) {
    println!("{}", describe(command));
}

/// The machine and the command, in a line.
pub fn describe(command: &str) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let value = |key| {
        let line = cpuinfo.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or("?").trim().to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{command}: {cpus} CPUs, {} ({} MHz), Linux {}",
        value("model name"),
        value("cpu MHz"),
        kernel.trim()
    )
}
