//! Network namespaces: a Linux stack for each end of a test.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::command::{Cmd, Host, Output, run};

/// Names made by tests: `vst-PID-N-tag`. The process id tells leftovers of the dead from the rest.
const PREFIX: &str = "vst-";

/// A network namespace, deleted when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    keep: bool,
}

impl Netns {
    /// Makes one with a unique name that ends in `tag`; its loopback device is up.
    ///
    /// # Errors
    /// No permission, or `ip` is missing.
    pub fn new(tag: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("{PREFIX}{}-{n}-{tag}", std::process::id()))
    }

    /// Makes one of exactly that name.
    ///
    /// # Errors
    /// The name is taken, no permission, or `ip` is missing.
    pub fn named(name: &str) -> Result<Self> {
        run(&format!("ip netns add {name}"))
            .with_context(|| format!("cannot make the network namespace {name}"))?;
        let netns = Self { name: name.to_owned(), keep: false };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name, as `ip netns` shows it and a port's `netns` key takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves it in place when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// A command that will run inside.
    pub fn cmd(&self, program: &str) -> Cmd {
        Cmd::new(program).netns(&self.name)
    }

    /// Runs `ip ARGS` (split at spaces) about this namespace and expects it to succeed.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn ip(&self, args: &str) -> Result<Output> {
        run(&format!("ip -n {} {args}", self.name))
    }

    /// Adds an address to a device and turns duplicate address detection off for it, so that an
    /// IPv6 address can be used at once.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn addr(&self, device: &str, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(&format!("addr add {address} dev {device}{nodad}"))?;
        Ok(())
    }

    /// Runs `work` in a thread that has entered the namespace: what it opens stays there.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` failed.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter the network namespace {}", self.name))?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(anyhow!("the thread in {} panicked", self.name)))
        })
    }

    /// Deletes what dead test processes left behind. How many namespaces that were.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn sweep() -> Result<usize> {
        let listed = run("ip netns list")?;
        let mut swept = 0;
        for name in listed.stdout.lines().filter_map(|l| l.split_whitespace().next()) {
            let Some(pid) = name.strip_prefix(PREFIX).and_then(|r| r.split('-').next()) else {
                continue;
            };
            if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
                run(&format!("ip netns del {name}"))?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl Host for Netns {
    fn label(&self) -> &str {
        &self.name
    }

    fn sh_for(&self, command: &str, limit: Duration) -> Result<Output> {
        let mut output = self.cmd("sh").args(["-c", command]).limit(limit).run()?;
        output.command = format!("{}: {command}", self.name);
        Ok(output)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep {
            let _ = run(&format!("ip netns del {}", self.name));
        }
    }
}
