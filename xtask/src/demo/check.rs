//! The demo as a test: it must work, and leave nothing behind however it ends.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vswitch_e2e::{Cmd, Need, Output, run};

use super::{BLUE, RED, TAP, dir};
use crate::test::Outcome;
use crate::ui::{has_libdpdk, note};

/// A build beside it, or a slow machine, must not fail it.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn check() -> Result<Outcome> {
    if let Some(why) = vswitch_e2e::missing(Need::GUEST) {
        return Ok(Outcome::Skipped { why, could_run: true });
    }
    let me = std::env::current_exe().context("cannot tell where xtask lies")?;
    super::kept::refuse_if_running(&dir()?)?;

    let mut demos = 3;
    note("to its end");
    whole(&me, &["--debug"])?;
    if has_libdpdk() {
        note("the same on DPDK");
        whole(&me, &["--debug", "--datapath", "dpdk"])?;
        demos += 1;
    }

    note("interrupted in the middle");
    interrupted(&me)?;
    nothing_left()?;

    note("kept and stopped");
    demo(&me, &["--debug", "--keep"])?.ok()?;
    let again = demo(&me, &["--debug"])?;
    let said = demo(&me, &["--guest", "echo from the guest; exit 4"])?;
    let stopped = demo(&me, &["--stop"])?;
    ensure!(!again.success() && again.stderr.contains("--stop"), "a second demo: {again}");
    ensure!(said.code == 4 && said.stdout == "from the guest\n", "{said}");
    ensure!(stopped.ok()?.stdout.contains("Stopped 2 processes, removed 2 namespaces"), "no stop");
    nothing_left()?;
    Ok(Outcome::Passed(format!("{demos} demos")))
}

/// The demo to its end, with everything it is to show.
fn whole(me: &Path, args: &[&str]) -> Result<()> {
    let shown = demo(me, args)?.ok()?;
    let all = ["3 of 3 answered", "Mbit/s", "reserved-destination", "sent", "Try next"];
    for text in all {
        ensure!(shown.stdout.contains(text), "the demo did not show {text:?}: {shown}");
    }
    ensure!(shown.stdout.matches("3 of 3 answered").count() == 6, "not all six pings: {shown}");
    let mut warnings = shown.stdout.lines().filter(|line| line.contains("the daemon's log:"));
    // A machine without hugepages is one to be warned of, and no failure.
    let unexpected = warnings.find(|line| !line.contains("memory: ordinary pages"));
    ensure!(unexpected.is_none(), "the daemon warned: {shown}");
    nothing_left()
}

fn demo(me: &Path, args: &[&str]) -> Result<Output> {
    Cmd::new(me).arg("demo").args(args).limit(LIMIT).run()
}

/// Ctrl-C as soon as the pings begin.
fn interrupted(me: &Path) -> Result<()> {
    let mut process =
        Cmd::new(me).args(["demo", "--debug"]).spawn(Stdio::piped(), Stdio::null())?;
    let output = process.take_stdout().context("no output")?;
    let mut lines = BufReader::new(output).lines();
    let at_ping = lines.by_ref().map_while(Result::ok).any(|l| l.contains("Ping between"));
    ensure!(at_ping, "the demo ended before its pings");
    process.signal(Signal::SIGINT)?;
    // Read on, so that it does not block on a full pipe.
    lines.map_while(Result::ok).for_each(drop);
    let code = process.wait(Duration::from_secs(60))?;
    ensure!(code == 1, "an interrupted demo exits with {code}");
    Ok(())
}

fn nothing_left() -> Result<()> {
    let listed = run("ip netns list")?.stdout;
    ensure!(!listed.contains(RED) && !listed.contains(BLUE), "namespaces are left: {listed}");
    let devices = run("ip -o link show")?.stdout;
    ensure!(!devices.contains(TAP), "devices are left: {devices}");
    let dir = dir()?;
    let left = Cmd::new("pgrep").arg("-f").arg(format!("^[^ ]*(vswitchd|qemu).*{}", dir.display()));
    let left = left.run()?;
    ensure!(!left.success(), "processes are left: {left}");
    Ok(())
}
