//! What happened on a running switch, kept so that it can happen again: the capture of all its ports
//! and its configuration, as somebody would attach them to a report.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{Process, until};
use crate::daemon::Daemon;

/// How long a capture may take to begin and to end on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A capture under way.
#[derive(Debug)]
pub struct Recording {
    dir: TempDir,
    capture: Process,
}

impl Recording {
    /// Begins to capture whatever passes the switch.
    ///
    /// # Errors
    /// The capture does not begin.
    pub fn begin(daemon: &Daemon) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("incident.pcapng");
        let capture = ["capture", "any", "--snap", "65550", "-w", &file.display().to_string()];
        let capture = daemon.ctl_cmd(capture)?.spawn(Stdio::null(), Stdio::null())?;
        // It begins with its section, once the switch looks.
        until(SOON, "the capture to begin", || {
            Ok(fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(()))
        })?;
        Ok(Self { dir, capture })
    }

    /// Ends it, and asks the switch for its configuration.
    ///
    /// # Errors
    /// The capture does not end, or the switch does not answer.
    pub fn end(mut self, daemon: &Daemon) -> Result<Incident> {
        // What was seen is fetched fifty times a second.
        std::thread::sleep(Duration::from_millis(500));
        self.capture.signal(Signal::SIGTERM)?;
        self.capture.wait(SOON)?;
        let config = daemon.ctl("config show")?.ok()?.stdout;
        fs::write(self.dir.path().join("vswitch.toml"), config)?;
        Ok(Incident { dir: self.dir })
    }
}

/// What is attached to a report.
#[derive(Debug)]
pub struct Incident {
    dir: TempDir,
}

impl Incident {
    /// The configuration's file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("vswitch.toml")
    }

    /// The capture's file.
    pub fn capture(&self) -> PathBuf {
        self.dir.path().join("incident.pcapng")
    }

    /// Replays it twice. Both times what leaves is what left then, and the files of it are the same,
    /// byte for byte. Answers with what `vswitch-ctl replay -o json` says.
    ///
    /// # Errors
    /// Something differs, or cannot be replayed.
    pub fn happens_again(&self, daemon: &Daemon) -> Result<Value> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let (capture, config) = (file("incident.pcapng"), file("vswitch.toml"));
        let mut told = Vec::new();
        for out in ["first", "second"] {
            let out = file(out);
            let args = ["replay", &capture, "--config", &config, "--expect", &capture];
            let args = args.into_iter().chain(["-w", &out, "-o", "json"]);
            told.push(daemon.ctl_cmd(args)?.run()?.ok()?.json()?);
        }
        ensure!(told[0] == told[1], "{} and then {}", told[0], told[1]);
        let [first, second] = ["first", "second"].map(|out| fs::read(file(out)));
        ensure!(first? == second?, "two replays differ");
        let told = told.pop().context("no replay")?;
        ensure!(told["missed"] == 0 && told["cut"] == 0, "the capture is not whole: {told}");
        Ok(told)
    }
}
