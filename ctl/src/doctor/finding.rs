//! A finding: what was looked at, what is wrong with it, and what mends it.

use std::fmt;
use std::fs;
use std::process::Command;

use clap::ValueEnum;
use serde::Serialize;

use super::root::Root;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Area {
    /// Whether vswitchd answers, its warnings, its socket's permissions, versions
    Daemon,
    /// What the kernel has to have
    Kernel,
    /// Hugepages on each NUMA node
    Hugepages,
    /// IOMMU, VFIO groups and the drivers of PCI functions
    Iommu,
    /// CPUs of workers: there, isolated, not throttled, not shared
    Cpu,
    /// Whether one MTU fits from end to end
    Mtu,
    /// Checksums and segmentation that ports leave to devices
    Offload,
    /// VMs of vhost-user ports: shared memory, sockets, queues
    Vhost,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Could not be looked at.
    Skipped,
    /// Could be better; nothing is wrong.
    Note,
    /// Something works less well than asked for.
    Warn,
    /// Something does not work.
    Error,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Finding {
    /// Which finding it is; never changes its meaning.
    pub(super) id: &'static str,
    pub(super) area: Area,
    pub(super) level: Level,
    /// What it is about, such as `port vm7`; empty for the machine.
    pub(super) subject: String,
    pub(super) message: String,
    /// What was seen, and where.
    pub(super) evidence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<Fix>,
}

impl Finding {
    pub(super) fn new(area: Area, level: Level, id: &'static str, message: String) -> Self {
        let (subject, evidence) = (String::new(), String::new());
        Self { id, area, level, subject, message, evidence, fix: None }
    }

    pub(super) fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    pub(super) fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = evidence.into();
        self
    }

    pub(super) fn fix(mut self, fix: Fix) -> Self {
        self.fix = Some(fix);
        self
    }
}

/// What mends a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Fix {
    /// The command, or advice where there is none.
    pub(super) command: String,
    /// Whether `--fix` does it: nothing is cut off by it, and it can be taken back.
    pub(super) safe: bool,
    #[serde(skip)]
    action: Option<Action>,
}

/// What `--fix` does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Run(Vec<String>),
    Write { file: String, text: String },
}

impl Fix {
    /// Left to the operator.
    pub(super) fn advice(command: impl Into<String>) -> Self {
        Self { command: command.into(), safe: false, action: None }
    }

    /// A safe command.
    pub(super) fn run(words: &[&str]) -> Self {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Self { command: words.join(" "), safe: true, action: Some(Action::Run(words)) }
    }

    /// A safe write to a file of the kernel's.
    pub(super) fn write(file: impl Into<String>, text: impl fmt::Display) -> Self {
        let (file, text) = (file.into(), text.to_string());
        let command = format!("echo {text} > {file}");
        Self { command, safe: true, action: Some(Action::Write { file, text }) }
    }

    /// Does it, if it is safe. `None` if it is not.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn apply(&self, root: &Root) -> Option<Result<(), String>> {
        Some(match self.action.as_ref()? {
            Action::Write { file, text } => {
                fs::write(root.path(file), text).map_err(|error| error.to_string())
            }
            Action::Run(words) => run(words),
        })
    }
}

fn run(words: &[String]) -> Result<(), String> {
    let (program, args) = words.split_first().ok_or("there is no command")?;
    let out = Command::new(program).args(args).output();
    let out = out.map_err(|error| format!("cannot run {program}: {error}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(if said.is_empty() { format!("{program} ended with {}", out.status) } else { said })
}
