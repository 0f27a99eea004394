//! Open vSwitch with a database and a directory of its own: the machine's is left alone.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::command::{Cmd, Output, Process, until, until_ok};
use crate::netns::Netns;
use crate::traffic::read_lossy;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Open vSwitch in a namespace, with bridges of its userspace datapath. Ended when dropped.
#[derive(Debug)]
pub struct Ovs {
    dir: tempfile::TempDir,
    switch: Process,
    _database: Process,
}

impl Ovs {
    /// Starts database and switch.
    ///
    /// # Errors
    /// Open vSwitch is not installed, or the database does not answer.
    pub fn start(host: &Netns) -> Result<Self> {
        Self::start_as(host, &["ovs-vswitchd"], &[])
    }

    /// Starts the database, sets `settings` (`KEY=VALUE`) in its `other_config`, and starts the
    /// switch with that command.
    ///
    /// # Errors
    /// As [`Ovs::start`].
    pub fn start_as(host: &Netns, switch: &[&str], settings: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vst-ovs-").tempdir()?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (conf, socket) = (path("conf.db"), path("db.sock"));
        Cmd::new("ovsdb-tool").args(["create", &conf, SCHEMA]).run()?.ok()?;
        let spawn = |name: &str, words: &[&str], args: &[String]| {
            let log = std::fs::File::create(path(&format!("{name}.log")))?;
            host.cmd(words.first().unwrap_or(&name))
                .args(words.get(1..).unwrap_or_default())
                .args(args)
                .arg(format!("--unixctl={}", path(&format!("{name}.ctl"))))
                .env("OVS_RUNDIR", &dir.path().display().to_string())
                .spawn(Stdio::null(), Stdio::from(log))
        };
        let args = [conf, format!("--remote=punix:{socket}")];
        let database = spawn("ovsdb-server", &["ovsdb-server"], &args)?;
        let remote = format!("unix:{socket}");
        until_ok(Duration::from_secs(30), "ovsdb-server to answer", || {
            let init = ["--no-wait", "init"];
            Cmd::new("ovs-vsctl").arg(format!("--db={remote}")).args(init).run()?.ok()
        })?;
        if !settings.is_empty() {
            let settings = settings.iter().map(|word| format!("other_config:{word}"));
            Cmd::new("ovs-vsctl")
                .arg(format!("--db={remote}"))
                .args(["--no-wait", "set", "Open_vSwitch", "."])
                .args(settings)
                .run()?
                .ok()?;
        }
        let switch = spawn("ovs-vswitchd", switch, &[remote])?;
        Ok(Self { dir, switch, _database: database })
    }

    /// Waits until the switch answers; with DPDK that is when it has its memory.
    ///
    /// # Errors
    /// It ended, or does not answer within `limit`; the message holds its log.
    pub fn wait_answering(&mut self, limit: Duration) -> Result<()> {
        until(limit, "Open vSwitch to answer", || {
            if let Some(code) = self.switch.poll()? {
                bail!("it ended with {code}:\n{}", self.log());
            }
            let answer = self.appctl(&["version"]);
            Ok(answer.ok().map(drop))
        })
    }

    /// The switch's process id.
    pub fn pid(&self) -> u32 {
        self.switch.pid()
    }

    /// Where its sockets are: `OVS_RUNDIR` for its tools.
    pub fn run_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `ovs-vsctl ARGS` (split at spaces) and waits until the switch has done it.
    ///
    /// # Errors
    /// It failed; or it added a device or tunnel that does not open, which `ovs-vsctl` says on
    /// standard error and nowhere else.
    pub fn vsctl(&self, args: &str) -> Result<Output> {
        let socket = self.dir.path().join("db.sock");
        let output = Cmd::new("ovs-vsctl")
            .arg(format!("--db=unix:{}", socket.display()))
            .arg("--timeout=30")
            .args(args.split_whitespace())
            .run()?
            .ok()?;
        anyhow::ensure!(output.stderr.is_empty(), "{output}\n{}", self.log());
        Ok(output)
    }

    /// Runs `ovs-ofctl ARGS`.
    ///
    /// # Errors
    /// It failed.
    pub fn ofctl(&self, args: &[&str]) -> Result<Output> {
        let dir = self.dir.path().display().to_string();
        Cmd::new("ovs-ofctl").args(args).env("OVS_RUNDIR", &dir).run()?.ok()
    }

    /// Runs `ovs-appctl ARGS` about the switch.
    ///
    /// # Errors
    /// It failed.
    pub fn appctl(&self, args: &[&str]) -> Result<Output> {
        let control = self.dir.path().join("ovs-vswitchd.ctl");
        Cmd::new("ovs-appctl").arg("-t").arg(control.display()).args(args).run()?.ok()
    }

    /// What the switch logged.
    pub fn log(&self) -> String {
        read_lossy(&self.dir.path().join("ovs-vswitchd.log"))
    }
}
