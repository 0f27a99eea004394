//! Programs: run with a bound on their time, waited for, and killed by process id.

use std::fmt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a command printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Exit code; 128 + signal if a signal ended it; 124 if the time limit did.
    pub code: i32,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
}

impl Output {
    /// Whether the exit code is 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// The output itself if the exit code is 0.
    ///
    /// # Errors
    /// Another exit code: the message holds the command and what it printed.
    pub fn ok(self) -> Result<Self> {
        self.code_is(0)
    }

    /// The output itself if the exit code is `code`.
    ///
    /// # Errors
    /// Another exit code: the message holds the command and what it printed.
    pub fn code_is(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "expected exit code {code}: {self}");
        Ok(self)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` exited with {}", self.command, self.code)?;
        if self.code == 124 {
            f.write_str(" (time limit)")?;
        }
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, "\n{name}: {}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Something commands can be run in: a network namespace or a guest.
pub trait Host: fmt::Debug {
    /// Its name in messages.
    fn label(&self) -> &str;

    /// Runs `command` with a shell, for at most `limit`.
    ///
    /// # Errors
    /// It could not be run. A failing command is not an error: see [`Output::ok`].
    fn sh_for(&self, command: &str, limit: Duration) -> Result<Output>;

    /// Runs `command` with a shell, for at most a minute.
    ///
    /// # Errors
    /// As [`Host::sh_for`].
    fn sh(&self, command: &str) -> Result<Output> {
        self.sh_for(command, Duration::from_secs(60))
    }
}

/// A command about to be run.
#[derive(Clone, Debug)]
pub struct Cmd {
    words: Vec<String>,
    netns: Option<String>,
    limit: Duration,
    env: Vec<(String, String)>,
    survives: bool,
}

impl Cmd {
    /// `program`, looked for in `PATH`. The limit is a minute unless [`Cmd::limit`] says otherwise.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            words: vec![program.as_ref().display().to_string()],
            netns: None,
            limit: Duration::from_secs(60),
            env: Vec::new(),
            survives: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl fmt::Display) -> Self {
        self.words.push(arg.to_string());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: fmt::Display>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(args.into_iter().map(|a| a.to_string()));
        self
    }

    /// Runs inside the network namespace of that name.
    #[must_use]
    pub fn netns(mut self, name: &str) -> Self {
        self.netns = Some(name.to_owned());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// How long [`Cmd::run`] lets it run before it is killed.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// A spawned process outlives this one. Otherwise the kernel kills it when the thread that
    /// spawned it ends, so that an aborted test leaves nothing behind.
    #[must_use]
    pub fn survives(mut self, survives: bool) -> Self {
        self.survives = survives;
        self
    }

    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(netns) = &self.netns {
            // Executes in place, so the child's process id is the program's own.
            words.extend(["ip", "netns", "exec", netns].map(String::from));
        }
        words.extend_from_slice(&self.words);
        words
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.env.iter().map(|(k, v)| (k, v)));
        command.env("LC_ALL", "C");
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It could not be started.
    pub fn run(&self) -> Result<Output> {
        let mut words: Vec<String> = ["timeout", "-k", "2"].into_iter().map(String::from).collect();
        words.push(format!("{:.1}", self.limit.as_secs_f64()));
        words.extend(self.words());
        let shown = self.words().join(" ");
        let output = self
            .command(&words)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let code =
            output.status.code().or_else(|| output.status.signal().map(|s| 128 + s)).unwrap_or(-1);
        Ok(Output {
            command: shown,
            code,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts it in the background, in a process group of its own (so that Ctrl-C reaches only
    /// us), with standard output and error going to `out` and `err`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn(&self, out: Stdio, err: Stdio) -> Result<Process> {
        let mut words = Vec::new();
        if !self.survives {
            words.extend(["setpriv", "--pdeathsig", "KILL"].map(String::from));
        }
        words.extend(self.words());
        let child = self
            .command(&words)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{}`", words.join(" ")))?;
        Ok(Process { child, name: self.words[0].clone() })
    }
}

/// Runs a whole command line, split at spaces, and expects it to succeed.
///
/// # Errors
/// It could not be started or failed.
pub fn run(line: &str) -> Result<Output> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    Cmd::new(program).args(words).run()?.ok()
}

/// A process of ours, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it writes to standard output, if that was asked for as a pipe. Can be taken once.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// What it writes to standard error, if that was asked for as a pipe. Can be taken once.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// Its exit code (128 + signal for a signal), or `None` while it runs.
    ///
    /// # Errors
    /// The kernel does not know the process.
    pub fn poll(&mut self) -> Result<Option<i32>> {
        let status = self.child.try_wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(status.map(|s| s.code().or_else(|| s.signal().map(|s| 128 + s)).unwrap_or(-1)))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(code) = self.poll()? {
            bail!("{} has exited with {code}: cannot send {signal}", self.name);
        }
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        let what = format!("{} (pid {}) to end", self.name, self.pid());
        until(limit, &what, || self.poll())
    }

    /// SIGTERM, and SIGKILL if it still runs after `limit`. Its exit code.
    ///
    /// # Errors
    /// Even SIGKILL did not end it.
    pub fn terminate(&mut self, limit: Duration) -> Result<i32> {
        if let Some(code) = self.poll()? {
            return Ok(code);
        }
        // It may end between the two calls.
        let _ = self.signal(Signal::SIGTERM);
        match self.wait(limit) {
            Ok(code) => Ok(code),
            Err(_) => self.kill(),
        }
    }

    /// Lets go of it: it is neither killed nor waited for.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// SIGKILL. Its exit code, 137 unless it had ended before.
    ///
    /// # Errors
    /// The process does not go away.
    pub fn kill(&mut self) -> Result<i32> {
        let _ = self.child.kill();
        self.wait(Duration::from_secs(10))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Asks until the answer is there: the one way this harness waits.
///
/// # Errors
/// `limit` passed (the message says what was waited for), or asking failed.
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = ask().with_context(|| format!("waiting for {what}"))? {
            return Ok(answer);
        }
        ensure!(start.elapsed() < limit, "waited {limit:?} for {what}: in vain");
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Tries until it succeeds.
///
/// # Errors
/// `limit` passed; the message holds the last error.
pub fn until_ok<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut last = None;
    let answer = until(limit, what, || match attempt() {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    match (answer, last) {
        (Ok(answer), _) => Ok(answer),
        (Err(error), Some(last)) => Err(last.context(error.to_string())),
        (Err(error), None) => Err(error),
    }
}
