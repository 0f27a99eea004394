//! The built `vswitchd`, started, watched and stopped.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::accounting::Accounting;
use crate::bins::binary;
use crate::command::{Cmd, Output, Process, until};
use crate::log::problems;
use crate::netns::Netns;
use crate::traffic::read_lossy;

/// From the start of the process to an answer on its API socket.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How to start a daemon.
#[derive(Clone, Debug)]
pub struct DaemonSpec {
    /// The configuration file's text.
    pub config: String,
    /// The network namespace it runs in; `None` makes one of its own, so that nothing a test
    /// does is seen outside.
    pub netns: Option<String>,
    /// Run in the machine's own network namespace instead.
    pub in_host: bool,
    /// Further arguments.
    pub args: Vec<String>,
    /// Parts of log lines of level WARN or ERROR that this test expects.
    pub allow: Vec<String>,
    /// Where configuration, sockets, state and log go; `None` is a temporary directory.
    pub dir: Option<PathBuf>,
    /// The directory of `vswitchd` and `vswitch-ctl`; `None` is where this executable's profile
    /// puts them.
    pub binaries: Option<PathBuf>,
    /// The daemon outlives this process (`cargo xtask demo --keep`).
    pub survives: bool,
    /// Every configuration it gets is moved to the DPDK datapath.
    pub dpdk: bool,
    /// Words in front of the daemon's own, such as `taskset -c 0,1`; what they run must end by
    /// executing the rest, so that the process is the daemon.
    pub before: Vec<String>,
}

impl DaemonSpec {
    /// A daemon with that configuration, in a network namespace of its own. It runs on DPDK if
    /// `VSWITCH_E2E_DATAPATH` is `dpdk`: so tests of one datapath run on the other.
    pub fn new(config: &str) -> Self {
        Self {
            config: config.to_owned(),
            netns: None,
            in_host: false,
            args: Vec::new(),
            allow: Vec::new(),
            dir: None,
            binaries: None,
            survives: false,
            dpdk: on_dpdk_anyway(),
            before: Vec::new(),
        }
    }

    /// The same configuration on the DPDK datapath, with ordinary memory, which every machine has,
    /// unless it says something of `[dpdk]` itself. Needs [`Need::Dpdk`](crate::Need::Dpdk).
    #[must_use]
    pub fn dpdk(mut self) -> Self {
        self.dpdk = true;
        self
    }

    /// Expects log lines of level WARN or ERROR that contain `part`.
    #[must_use]
    pub fn allow(mut self, part: &str) -> Self {
        self.allow.push(part.to_owned());
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// The binaries are not built, or the daemon ends or does not answer in 30 s; the message
    /// holds its log.
    pub fn start(self) -> Result<Daemon> {
        let (dir, temp) = match &self.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temp = tempfile::Builder::new().prefix("vst-daemon-").tempdir()?;
                (temp.path().to_owned(), Some(temp))
            }
        };
        let own = match (&self.netns, self.in_host) {
            (None, false) => Some(Netns::new("host")?),
            _ => None,
        };
        let netns = self.netns.clone().or_else(|| own.as_ref().map(|n| n.name().to_owned()));
        let mut daemon =
            Daemon { process: None, spec: self, netns, dir, checked: 0, own, _temp: temp };
        fs::create_dir_all(&daemon.dir)?;
        daemon.write_config(&daemon.spec.config)?;
        daemon.launch()?;
        Ok(daemon)
    }
}

/// A `vswitchd` that was started by us, with directories of its own.
///
/// Dropping one that was not stopped kills it, and panics if its log holds an unexpected warning
/// or error: a test must not pass over those.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    spec: DaemonSpec,
    netns: Option<String>,
    dir: PathBuf,
    /// How much of the log has been looked at, bytes.
    checked: usize,
    own: Option<Netns>,
    _temp: Option<tempfile::TempDir>,
}

impl Daemon {
    /// Starts a daemon with that configuration, in a network namespace of its own.
    ///
    /// # Errors
    /// As [`DaemonSpec::start`].
    pub fn start(config: &str) -> Result<Self> {
        DaemonSpec::new(config).start()
    }

    /// Its process id.
    ///
    /// # Errors
    /// It is not running.
    pub fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Process::pid).context("the daemon is not running")
    }

    /// The network namespace it runs in; `None` is the machine's own.
    pub fn netns(&self) -> Option<&str> {
        self.netns.as_deref()
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("vswitch.toml")
    }

    /// Where its API socket is.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Where it keeps its store.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where its log goes.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("vswitchd.log")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        read_lossy(&self.log_path())
    }

    /// Writes another configuration file; the daemon is not told.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_config(&self, config: &str) -> Result<()> {
        fs::write(self.config_path(), self.config_text(config))
            .context("cannot write the configuration")
    }

    /// A configuration as this daemon gets it: on its datapath.
    pub fn config_text(&self, config: &str) -> String {
        if self.spec.dpdk { on_dpdk(config) } else { config.to_owned() }
    }

    /// Expects log lines of level WARN or ERROR that contain `part`, from now on.
    pub fn allow(&mut self, part: &str) {
        self.spec.allow.push(part.to_owned());
    }

    /// A `vswitch-ctl` command for this daemon, about to be run.
    ///
    /// # Errors
    /// It is not built.
    pub fn ctl_cmd<S: std::fmt::Display>(&self, args: impl IntoIterator<Item = S>) -> Result<Cmd> {
        let run_dir = self.run_dir();
        let cmd = Cmd::new(self.binary("vswitch-ctl")?)
            .arg("--run-dir")
            .arg(run_dir.display())
            .args(args)
            .env("NO_COLOR", "1");
        Ok(cmd)
    }

    /// Runs `vswitch-ctl ARGS` (split at spaces).
    ///
    /// # Errors
    /// It is not built. A failing command is not an error: see [`Output::ok`].
    pub fn ctl(&self, args: &str) -> Result<Output> {
        self.ctl_cmd(args.split_whitespace())?.run()
    }

    /// Runs `vswitch-ctl -o json ARGS` and expects it to succeed. What it printed.
    ///
    /// # Errors
    /// It failed, or printed no JSON.
    pub fn ctl_json(&self, args: &str) -> Result<serde_json::Value> {
        self.ctl(&format!("-o json {args}"))?.ok()?.json()
    }

    /// One HTTP request on the API socket. The status and the body.
    ///
    /// # Errors
    /// The socket is not there, or the answer is no HTTP.
    pub fn http(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        http(&self.run_dir().join("api.sock"), method, path, body)
    }

    /// The counters of every port, as they are now.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn accounting(&self) -> Result<Accounting> {
        Accounting::read(self)
    }

    /// The counters when no frame is under way any more: read until two readings are the same.
    ///
    /// # Errors
    /// The daemon does not answer, or traffic does not end in 20 s.
    pub fn settle(&self) -> Result<Accounting> {
        let mut last = self.accounting()?;
        until(Duration::from_secs(20), "traffic to settle", || {
            let now = self.accounting()?;
            let same = now == last;
            last = now.clone();
            Ok(same.then_some(now))
        })
    }

    /// Buffers of the daemon's pools that are not free, those included that devices hold for what
    /// they are about to receive. 0 with a datapath that has no pools.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn buffers_in_use(&self) -> Result<u64> {
        // A degraded daemon answers, too.
        let status = self.ctl("-o json status")?.json()?;
        let pools = status["pools"].as_array().cloned().unwrap_or_default();
        let count = |pool: &serde_json::Value, key: &str| pool[key].as_u64().context("no count");
        pools.iter().map(|pool| Ok(count(pool, "buffers")? - count(pool, "free")?)).sum()
    }

    /// Waits until exactly that many buffers are in use, as before the traffic of a test.
    ///
    /// # Errors
    /// There are others after 20 s: buffers leaked.
    pub fn wait_buffers_in_use(&self, wanted: u64) -> Result<()> {
        crate::command::until_ok(Duration::from_secs(20), "buffers to be given back", || {
            let now = self.buffers_in_use()?;
            ensure!(now == wanted, "{now} buffers are in use, and were {wanted}");
            Ok(())
        })
    }

    /// Waits until `vswitch-ctl status` exits with 0: nothing is degraded or waiting.
    ///
    /// # Errors
    /// It does not in 20 s; the message holds the last answer.
    pub fn wait_healthy(&self) -> Result<()> {
        crate::command::until_ok(Duration::from_secs(20), "a healthy status", || {
            self.ctl("status")?.ok().map(drop)
        })
    }

    /// SIGKILL, as if it had crashed.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill9(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon is not running")?;
        process.kill()?;
        Ok(())
    }

    /// SIGTERM, and waits for a clean end; its log must hold nothing unexpected.
    ///
    /// # Errors
    /// It does not end in 20 s, exits with another code than 0, or its log holds an unexpected
    /// warning or error.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon is not running")?;
        process.signal(Signal::SIGTERM)?;
        let code = process.wait(Duration::from_secs(20))?;
        ensure!(code == 0, "vswitchd ended with {code} upon SIGTERM\n{}", self.log());
        self.check_log()
    }

    /// Lets go of it: it goes on running when this process has ended. Needs
    /// [`DaemonSpec::survives`] and [`DaemonSpec::dir`].
    ///
    /// # Errors
    /// It is not running, or was not started to survive.
    pub fn leave(mut self) -> Result<()> {
        ensure!(self.spec.survives && self.spec.dir.is_some(), "not started to survive");
        self.process.take().context("the daemon is not running")?.leave();
        if let Some(own) = &mut self.own {
            own.keep();
        }
        Ok(())
    }

    /// Starts it again, with the same directories and whatever the configuration file holds now.
    ///
    /// # Errors
    /// It still runs, or does not start.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon still runs");
        self.launch()
    }

    /// Stops the whole process (SIGSTOP) or lets it go on (SIGCONT).
    ///
    /// # Errors
    /// It is not running.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().context("the daemon is not running")?.signal(signal)
    }

    /// Looks for unexpected warnings and errors in the part of the log not looked at before.
    ///
    /// # Errors
    /// There are some; the message holds them.
    pub fn check_log(&mut self) -> Result<()> {
        let log = self.log();
        let fresh = log.get(self.checked..).unwrap_or(&log);
        let found = problems(fresh, &self.spec.allow);
        self.checked = log.len();
        if !found.is_empty() {
            let lines: Vec<String> = found.into_iter().map(|(_, line)| line).collect();
            bail!("the daemon's log holds what this test does not expect:\n{}", lines.join("\n"));
        }
        Ok(())
    }

    /// The command that starts it, for messages.
    ///
    /// # Errors
    /// It is not built.
    pub fn command_line(&self) -> Result<Vec<String>> {
        let mut words = self.spec.before.clone();
        words.push(self.binary("vswitchd")?.display().to_string());
        for (option, path) in [
            ("--config", self.config_path()),
            ("--run-dir", self.run_dir()),
            ("--state-dir", self.state_dir()),
        ] {
            words.extend([option.to_owned(), path.display().to_string()]);
        }
        words.extend(self.spec.args.iter().cloned());
        Ok(words)
    }

    fn binary(&self, name: &str) -> Result<PathBuf> {
        match &self.spec.binaries {
            Some(dir) => Ok(dir.join(name)),
            None => binary(name),
        }
    }

    fn launch(&mut self) -> Result<()> {
        let words = self.command_line()?;
        let mut cmd = Cmd::new(&words[0])
            .args(&words[1..])
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            .survives(self.spec.survives);
        if let Some(netns) = &self.netns {
            cmd = cmd.netns(netns);
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut process = cmd.spawn(Stdio::from(log.try_clone()?), Stdio::from(log))?;
        // The socket of a killed predecessor may still lie there, so only an answer counts.
        let socket = self.run_dir().join("api.sock");
        until(READY_LIMIT, "vswitchd to answer", || {
            if let Some(code) = process.poll()? {
                bail!("vswitchd exited with {code}:\n{}", self.log());
            }
            Ok(http(&socket, "GET", "/v1/status", "").ok().map(drop))
        })
        .with_context(|| format!("`{}`", words.join(" ")))?;
        self.process = Some(process);
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.process.take());
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        } else if let Err(error) = self.check_log() {
            panic!("{error}");
        }
    }
}

/// Whether all daemons are to run on DPDK.
pub fn on_dpdk_anyway() -> bool {
    std::env::var("VSWITCH_E2E_DATAPATH").as_deref() == Ok("dpdk")
}

/// The text of a configuration with `datapath = "dpdk"`, and `hugepages = "off"` unless it says
/// something of `[dpdk]` itself.
pub(crate) fn on_dpdk(config: &str) -> String {
    let key = "[daemon]\ndatapath = \"dpdk\"\n";
    let without = config.replace("datapath = \"tap\"\n", "");
    let mut out = match without.contains("datapath = \"dpdk\"") {
        true => without,
        false if without.contains("[daemon]\n") => without.replacen("[daemon]\n", key, 1),
        false => format!("{}\n{key}", without.trim_end()),
    };
    if !out.contains("[dpdk]") {
        out.push_str("\n[dpdk]\nhugepages = \"off\"\n");
    }
    out
}

/// A bare HTTP/1.1 request over a Unix socket: tests of the API must not rest on its own client.
///
/// # Errors
/// No connection, or the answer is no HTTP.
pub(crate) fn http(socket: &Path, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: vswitch\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::on_dpdk;

    #[test]
    fn a_configuration_moves_to_dpdk() {
        let off = "[dpdk]\nhugepages = \"off\"\n";
        let daemon = "[daemon]\ndatapath = \"dpdk\"\n";
        assert_eq!(on_dpdk("version = 1\n"), format!("version = 1\n{daemon}\n{off}"));
        assert_eq!(
            on_dpdk("version = 1\n[daemon]\ndatapath = \"tap\"\nidle = \"poll\"\n"),
            format!("version = 1\n{daemon}idle = \"poll\"\n\n{off}")
        );
        let own = format!("version = 1\n{daemon}[dpdk]\nhugepages = \"auto\"\n");
        assert_eq!(on_dpdk(&own), own);
    }
}
