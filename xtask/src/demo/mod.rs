//! `cargo xtask demo`: two network namespaces and a QEMU guest talk through the switch.

mod check;
mod kept;
mod show;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vswitch_e2e::bins::target_dir;
use vswitch_e2e::guest::Platform;
use vswitch_e2e::{Daemon, DaemonSpec, Guest, GuestSpec, Netns, Nic, problems, until_ok};

use crate::setup::{Purpose, ensure_image, ensure_packages, ensure_root, ensure_tun};
use crate::ui::{build_switch, has_libdpdk, note, show as run_shown, step};

pub(crate) use check::check;

/// Show the switch at work.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave everything running at the end, to look at it.
    #[arg(long, conflicts_with = "stop")]
    keep: bool,
    /// Stop what `--keep` left running.
    #[arg(long)]
    stop: bool,
    /// Run a shell command in the guest that `--keep` left running.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["keep", "stop"])]
    guest: Option<String>,
    /// Build without optimisation: sooner done, and slower traffic.
    #[arg(long)]
    debug: bool,
    /// What moves the frames; the rest of the configuration is the same.
    #[arg(long, value_enum, default_value_t)]
    datapath: Datapath,
}

/// What moves the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Datapath {
    /// The kernel's devices.
    #[default]
    Tap,
    /// DPDK.
    Dpdk,
}

impl Datapath {
    /// The configuration with its one word changed.
    fn config(self) -> String {
        match self {
            Self::Tap => CONFIG.to_owned(),
            Self::Dpdk => CONFIG.replace("\"tap\"         #", "\"dpdk\"        #"),
        }
    }
}

const RED: &str = "vsdemo-red";
const BLUE: &str = "vsdemo-blue";
/// The TAP device that QEMU makes and owns.
const TAP: &str = "vsdemo-vm";
const GUEST: &str = "guest";

/// What the newcomer reads first: the whole configuration.
const CONFIG: &str = r#"version = 1

[daemon]
datapath = "tap"         # what moves the frames: "tap" or "dpdk"

[[bridge]]
name = "br0"

[[port]]                 # a TAP device, made by the switch
name = "red"
type = "tap"
bridge = "br0"
netns = "vsdemo-red"     # and moved into this network namespace

[[port]]
name = "blue"
type = "tap"
bridge = "br0"
netns = "vsdemo-blue"

[[port]]                 # a device that somebody else made: here QEMU's TAP
name = "vm"
type = "netdev"
device = "vsdemo-vm"
bridge = "br0"
"#;

/// Everything that is up. Fields are dropped in this order, each cleaning up after itself.
struct Stage {
    guest: Guest,
    daemon: Daemon,
    red: Netns,
    blue: Netns,
}

/// Set when the person pressed Ctrl-C, or the terminal went away.
#[derive(Clone)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn register() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .context("cannot listen for Ctrl-C")?;
        }
        Ok(Self(flag))
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let dir = dir()?;
    if args.stop {
        return kept::stop(&dir);
    }
    if let Some(command) = &args.guest {
        return kept::in_guest(&dir, command);
    }
    let stop = Stop::register()?;
    ensure_root("the demo")?;
    kept::refuse_if_running(&dir)?;
    // Ctrl-C reaches cargo and apt too: their failing is then no news.
    prepare(args, &stop).map_err(|error| stop.check().err().unwrap_or(error))?;

    let stage = set_up(args, &dir, &stop);
    let shown = match stage {
        Ok(stage) => show::all(&stage, &stop).map(|()| stage),
        Err(error) => Err(error),
    };
    match shown {
        Ok(stage) if args.keep => kept::leave(stage, &dir)?,
        Ok(mut stage) => {
            step("Cleaning up");
            stage.daemon.stop()?;
            let warnings = problems(&stage.daemon.log(), &[]);
            drop(stage);
            for (_, line) in warnings {
                note(&format!("the daemon's log: {line}"));
            }
            let _ = fs::remove_dir_all(&dir);
            note("the daemon, the guest, both namespaces and their devices are gone");
        }
        Err(error) => {
            // What was up has cleaned up after itself when the error left its function.
            let log = fs::read_to_string(dir.join("vswitchd.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            if stop.check().is_ok() && !lines.is_empty() {
                eprintln!(
                    "\nthe end of the daemon's log ({}):",
                    dir.join("vswitchd.log").display()
                );
                eprintln!("{}", lines[lines.len().saturating_sub(15)..].join("\n"));
            }
            eprintln!("\nEverything the demo made has been removed.");
            return Err(error);
        }
    }
    show::farewell(args.keep);
    Ok(ExitCode::SUCCESS)
}

/// Where the demo keeps its files.
fn dir() -> Result<PathBuf> {
    Ok(target_dir()?.join("demo"))
}

/// Packages, the guest's image and the build.
fn prepare(args: &Args, stop: &Stop) -> Result<()> {
    ensure_packages(Purpose::Demo)?;
    ensure_tun()?;
    stop.check()?;
    let possible = args.datapath == Datapath::Tap || has_libdpdk();
    ensure!(possible, "there is no libdpdk here: apt-get install libdpdk-dev libclang-dev");
    step("Building the switch (the first time takes some minutes)");
    run_shown(&mut build_switch(!args.debug))?;
    stop.check()?;
    step("Making the guest's image (once)");
    ensure_image(Platform::Virtual)?;
    note("kernel and userland come from Debian packages and lie in target/guest");
    stop.check()
}

fn set_up(args: &Args, dir: &PathBuf, stop: &Stop) -> Result<Stage> {
    // A demo that was killed may have left these two behind; their devices go with them.
    for name in [RED, BLUE] {
        let _ = vswitch_e2e::Cmd::new("ip").args(["netns", "del", name]).run()?;
    }
    let _ = fs::remove_dir_all(dir);

    step("Making two network namespaces, red and blue");
    let (red, blue) = (Netns::named(RED)?, Netns::named(BLUE)?);
    stop.check()?;

    step("Starting vswitchd with this configuration");
    let config = args.datapath.config();
    note(&config);
    let mut spec = DaemonSpec::new(&config);
    spec.in_host = true;
    // Warnings are shown at the end instead of ending the demo half-way.
    spec = spec.allow("");
    spec.dir = Some(dir.clone());
    spec.survives = args.keep;
    spec.binaries = Some(target_dir()?.join(if args.debug { "debug" } else { "release" }));
    let daemon = spec.start()?;
    note(&format!("$ {}", daemon.command_line()?.join(" ")));
    red.addr("red", "192.0.2.1/24")?;
    blue.addr("blue", "192.0.2.2/24")?;
    stop.check()?;

    step("Its ports: vm waits, as its device is not there yet");
    show::ctl(&daemon, "port show")?;

    step("Booting the guest (QEMU, emulated; a few seconds)");
    let nic = Nic::new(TAP, "52:54:00:00:00:03", &["192.0.2.3/24"]);
    let mut spec = GuestSpec::new(GUEST, vec![nic]);
    spec.dir = Some(dir.clone());
    spec.survives = args.keep;
    let mut guest = Guest::start(spec)?;
    note(&format!("QEMU made and owns the TAP device {TAP}; the switch attaches its other side"));
    stop.check()?;
    guest.wait_ready()?;
    note("the guest has booted");
    until_ok(std::time::Duration::from_secs(20), "the switch to attach the guest's port", || {
        // A degraded switch says so in its log, which is shown at the end.
        let ports = daemon.ctl("-o json status")?.json()?["ports"].clone();
        ensure!(ports["waiting"] == 0 && ports["failed"] == 0, "not all ports are open: {ports}");
        Ok(())
    })?;
    show::ctl(&daemon, "port show")?;
    stop.check()?;
    Ok(Stage { guest, daemon, red, blue })
}
