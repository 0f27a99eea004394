//! What xtask prints, and the commands it runs in the open.

use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo, as it runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What `cargo run` set for us must not reach the packages we build.
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    command
}

/// Cargo, about to build the daemon and its command line: with the DPDK datapath where its library
/// is installed.
pub(crate) fn build_switch(release: bool) -> Command {
    let mut build = cargo();
    build.args(["build", "-p", "vswitchd", "-p", "vswitch-ctl"]);
    if has_libdpdk() {
        build.args(DPDK_FEATURE);
    } else {
        note("without the DPDK datapath: apt-get install libdpdk-dev libclang-dev pkg-config");
    }
    if release {
        build.arg("--release");
    }
    build
}

/// What puts the DPDK datapath into the daemon.
pub(crate) const DPDK_FEATURE: [&str; 2] = ["--features", "vswitchd/dpdk"];

/// Whether the daemon can be built with DPDK here.
pub(crate) fn has_libdpdk() -> bool {
    let probe = Command::new("pkg-config").args(["--atleast-version=22.11", "libdpdk"]).status();
    probe.is_ok_and(|status| status.success())
}

/// A headline.
pub(crate) fn step(text: &str) {
    println!("\n{} {text}", bold("==>"));
}

/// A line below a headline.
pub(crate) fn note(text: &str) {
    for line in text.trim_end().lines() {
        println!("    {line}");
    }
}

/// Bold on a terminal.
pub(crate) fn bold(text: &str) -> String {
    if stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\u{1b}[1m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// Runs a command whose output the person sees, and expects it to succeed.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let shown = line(command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed ({status})");
    Ok(())
}

/// A command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let words = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ")
}

/// `75.3 s` or `12 min 5 s`.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 120 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}
