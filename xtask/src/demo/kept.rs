//! A demo left running with `--keep`: found again, used and stopped.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vswitch_e2e::{Cmd, Guest, until};

use super::{BLUE, GUEST, RED, Stage};
use crate::setup::ensure_root;
use crate::ui::{note, step};

/// Holds one process id a line: daemon and QEMU.
const PIDS: &str = "pids";

/// Leaves everything running and notes what runs.
pub(super) fn leave(stage: Stage, dir: &Path) -> Result<()> {
    let Stage { guest, daemon, mut red, mut blue } = stage;
    let pids = format!("{}\n{}\n", daemon.pid()?, guest.pid());
    fs::write(dir.join(PIDS), pids).context("cannot note what runs")?;
    let run_dir = daemon.run_dir();
    guest.leave()?;
    daemon.leave()?;
    red.keep();
    blue.keep();
    step("Everything stays up");
    note(&format!(
        "export VSWITCH_RUN_DIR={}\n\
         vswitch-ctl (in target/release) finds the daemon by it; the log is {}",
        run_dir.display(),
        dir.join("vswitchd.log").display()
    ));
    Ok(())
}

/// The processes of a kept demo that still run.
fn running(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join(PIDS)).unwrap_or_default();
    let ours = |pid: &i32| {
        // A number may have been given to another process since: ours name our directory.
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&cmdline).contains(&*dir.to_string_lossy())
    };
    text.lines().filter_map(|l| l.parse().ok()).filter(ours).collect()
}

pub(super) fn refuse_if_running(dir: &Path) -> Result<()> {
    if !running(dir).is_empty() {
        bail!("a demo is still up. Stop it with `cargo xtask demo --stop`");
    }
    Ok(())
}

/// `cargo xtask demo --guest COMMAND`.
pub(super) fn in_guest(dir: &Path, command: &str) -> Result<ExitCode> {
    if running(dir).is_empty() {
        bail!("no demo is up. Start one with `cargo xtask demo --keep`");
    }
    let output = Guest::run_in(dir, GUEST, command)?;
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    Ok(ExitCode::from(u8::try_from(output.code).unwrap_or(1)))
}

/// `cargo xtask demo --stop`.
pub(super) fn stop(dir: &Path) -> Result<ExitCode> {
    ensure_root("stopping the demo")?;
    let pids = running(dir);
    for pid in &pids {
        let process = Pid::from_raw(*pid);
        kill(process, Signal::SIGTERM).with_context(|| format!("cannot stop process {pid}"))?;
        let gone = || Ok((!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
        if until(Duration::from_secs(10), "its end", gone).is_err() {
            note(&format!("process {pid} does not end by itself: killing it"));
            kill(process, Signal::SIGKILL)?;
        }
    }
    let mut removed = 0;
    for name in [RED, BLUE] {
        removed += usize::from(Cmd::new("ip").args(["netns", "del", name]).run()?.success());
    }
    let _ = fs::remove_dir_all(dir);
    if pids.is_empty() && removed == 0 {
        println!("There was nothing to stop.");
    } else {
        println!("Stopped {} processes, removed {removed} namespaces.", pids.len());
    }
    Ok(ExitCode::SUCCESS)
}
