//! Where network namespaces are made: on this machine, or in a guest with a kernel of its own.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::command::{Host, Output, Process, until};
use crate::guest::{Guest, GuestSpec, Nic};
use crate::netns::Netns;

/// A kernel that namespaces can be made in.
#[derive(Clone, Debug)]
pub enum Ground {
    /// The one under this process.
    Machine,
    /// A guest's.
    Guest(Arc<Guest>),
}

impl Ground {
    /// A guest without NICs, which has `programs` of this machine.
    ///
    /// # Errors
    /// It does not boot; the message says why.
    pub fn boot(tag: &str, programs: &[PathBuf]) -> Result<Self> {
        Ok(Self::Guest(Arc::new(Guest::boot(guest_spec(tag, Vec::new(), programs))?)))
    }

    /// Makes a network namespace. On the machine it goes when dropped, in a guest with the guest.
    ///
    /// # Errors
    /// As [`Netns::new`], or the guest does not answer.
    pub fn space(&self, tag: &str) -> Result<Space> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        match self {
            Self::Machine => Ok(Space(Kind::Machine(Netns::new(tag)?))),
            Self::Guest(guest) => {
                let name = format!("n{}-{tag}", NEXT.fetch_add(1, Ordering::Relaxed));
                guest.sh(&format!("ip netns add {name} && ip -n {name} link set lo up"))?.ok()?;
                Ok(Space(Kind::Guest { guest: Arc::clone(guest), netns: Some(name) }))
            }
        }
    }
}

/// A network namespace on either ground, in which commands run.
#[derive(Debug)]
pub struct Space(Kind);

#[derive(Debug)]
enum Kind {
    Machine(Netns),
    /// `None` is the namespace that the guest's NICs are in.
    Guest {
        guest: Arc<Guest>,
        netns: Option<String>,
    },
}

impl Space {
    /// The namespace that a guest boots in, with its NICs.
    pub fn of_guest(guest: Arc<Guest>) -> Self {
        Self(Kind::Guest { guest, netns: None })
    }

    /// Where it is.
    pub fn ground(&self) -> Ground {
        match &self.0 {
            Kind::Machine(_) => Ground::Machine,
            Kind::Guest { guest, .. } => Ground::Guest(Arc::clone(guest)),
        }
    }

    /// Its name for `ip link … netns NAME`.
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Machine(netns) => netns.name(),
            // `ip` takes a process id, too: the guest's first process is where it booted.
            Kind::Guest { netns, .. } => netns.as_deref().unwrap_or("1"),
        }
    }

    /// The namespace if it is one of this machine, for raw frames and captures.
    ///
    /// # Errors
    /// It is in a guest.
    pub fn netns(&self) -> Result<&Netns> {
        match &self.0 {
            Kind::Machine(netns) => Ok(netns),
            Kind::Guest { .. } => anyhow::bail!("{} is in a guest", self.label()),
        }
    }

    /// Runs `ip ARGS` about it and expects it to succeed.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn ip(&self, args: &str) -> Result<Output> {
        self.sh(&format!("ip {args}"))?.ok()
    }

    /// Adds an address, usable at once.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn addr(&self, device: &str, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(&format!("addr add {address} dev {device}{nodad}")).map(drop)
    }

    /// Joins two namespaces of one ground by a veth pair, both ends up. The stacks compute
    /// checksums and cut super-frames before the pair sees them, so that it carries what a real
    /// cable would.
    ///
    /// # Errors
    /// `ip` or ethtool failed; `ip` does when the two are on different grounds.
    pub fn veth(&self, device: &str, other: &Self, its_device: &str, mtu: u32) -> Result<()> {
        let up = |device: &str| {
            format!("ip link set {device} up && ethtool -K {device} tx off tso off gso off gro off")
        };
        self.sh(&format!(
            "ip link add {device} mtu {mtu} type veth peer name {its_device} mtu {mtu} netns {} && {}",
            other.name(),
            up(device)
        ))?
        .ok()?;
        other.sh(&up(its_device))?.ok().map(drop)
    }

    /// Starts a shell command in the background, with what it started killed when dropped.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(&self, command: &str) -> Result<Job> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        match &self.0 {
            Kind::Machine(netns) => {
                let out = tempfile::NamedTempFile::new()?;
                let err = Stdio::from(out.reopen()?);
                let process =
                    netns.cmd("sh").args(["-c", command]).spawn(Stdio::from(out.reopen()?), err)?;
                let id = i32::try_from(process.pid())?;
                Ok(Job(Running::Machine { process, out, group: Pid::from_raw(id) }))
            }
            Kind::Guest { guest, netns } => {
                let path = format!("/tmp/job.{}", NEXT.fetch_add(1, Ordering::Relaxed));
                // The outer shell outlives SIGTERM, to say how the command ended.
                let inner =
                    format!("trap : TERM; ({command}) >{path}.out 2>&1; echo $? >{path}.code");
                // With a /sys of its own, unlike `sh`: what stays may look there for its devices.
                let enter = netns.as_ref().map(|name| format!("ip netns exec {name} "));
                let script = format!(
                    "{} setsid sh -c {} >/dev/null 2>&1 & echo $!",
                    enter.unwrap_or_default(),
                    quoted(&inner)
                );
                let group = guest.sh(&script)?.ok()?.stdout.trim().to_owned();
                Ok(Job(Running::Guest { guest: Arc::clone(guest), path, group }))
            }
        }
    }
}

impl Host for Space {
    fn label(&self) -> &str {
        match &self.0 {
            Kind::Machine(netns) => netns.label(),
            Kind::Guest { guest, netns } => netns.as_deref().unwrap_or_else(|| guest.label()),
        }
    }

    fn sh_for(&self, command: &str, limit: Duration) -> Result<Output> {
        match &self.0 {
            Kind::Machine(netns) => netns.sh_for(command, limit),
            Kind::Guest { guest, netns: None } => guest.sh_for(command, limit),
            Kind::Guest { guest, netns: Some(netns) } => {
                // Not `ip netns exec`: a mount namespace a command takes an emulated machine longer
                // than most commands. A path, since busybox would prefer its own shell.
                let enter =
                    format!("nsenter --net=/run/netns/{netns} /bin/sh -c {}", quoted(command));
                guest.sh_for(&enter, limit)
            }
        }
    }
}

/// A guest with room for `programs`, which are in its memory twice while it boots.
pub(super) fn guest_spec(tag: &str, nics: Vec<Nic>, programs: &[PathBuf]) -> GuestSpec {
    let mut spec = GuestSpec::new(tag, nics);
    spec.programs = programs.to_vec();
    if !programs.is_empty() {
        spec.memory = 512;
    }
    spec
}

/// One word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A command in the background.
#[derive(Debug)]
pub struct Job(Running);

enum Running {
    Machine { process: Process, out: tempfile::NamedTempFile, group: Pid },
    Guest { guest: Arc<Guest>, path: String, group: String },
}

impl Job {
    /// What it printed so far, on standard output and error.
    ///
    /// # Errors
    /// The file or the guest is gone.
    pub fn printed(&self) -> Result<String> {
        match &self.0 {
            Running::Machine { out, .. } => Ok(std::fs::read_to_string(out.path())?),
            Running::Guest { guest, path, .. } => {
                Ok(guest.sh(&format!("cat {path}.out"))?.ok()?.stdout)
            }
        }
    }

    /// Its exit code, or `None` while it runs.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn poll(&mut self) -> Result<Option<i32>> {
        match &mut self.0 {
            Running::Machine { process, .. } => process.poll(),
            Running::Guest { guest, path, .. } => {
                let code = guest.sh(&format!("cat {path}.code 2>/dev/null || true"))?.ok()?.stdout;
                Ok(code.trim().parse().ok())
            }
        }
    }

    /// Waits for its end, which must be a success. What it printed.
    ///
    /// # Errors
    /// It failed, or runs longer than `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<String> {
        let code = until(limit, "a command in the background", || self.poll());
        let printed = self.printed()?;
        anyhow::ensure!(
            code.with_context(|| printed.clone())? == 0,
            "in the background: {printed}"
        );
        Ok(printed)
    }

    /// Sends a signal to it and to what it started.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match &self.0 {
            Running::Machine { group, .. } => Ok(killpg(*group, signal)?),
            Running::Guest { guest, group, .. } => {
                guest.sh(&format!("kill -{} -{group}", signal as i32))?.ok().map(drop)
            }
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Once it has ended its group's number may be another's.
        if matches!(self.poll(), Ok(None)) {
            let _ = self.signal(Signal::SIGKILL);
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine { group, .. } => write!(f, "process group {group}"),
            Self::Guest { path, group, .. } => write!(f, "process group {group} ({path})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_survive_a_shell() -> anyhow::Result<()> {
        let text = "it's \"$HOME\" `x` \\";
        let command = format!("printf %s {}", quoted(text));
        assert_eq!(crate::Cmd::new("sh").args(["-c", &command]).run()?.ok()?.stdout, text);
        Ok(())
    }
}
