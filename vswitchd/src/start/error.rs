//! Why the daemon does not start, as its operator sees it.

use std::fmt;
use std::path::Path;

use switch_core::datapath::BackendError;
use vswitch_api::Code;
use vswitch_api::config::Problems;

use vswitchd::api::SocketError;
use vswitchd::control::ControlError;
use vswitchd::store::{LoadError, Misfit, StoreError};

/// What is wrong, and what to do. Shown as `error[CODE]: …` and `hint: …`.
#[derive(Debug)]
pub(crate) struct StartError {
    /// Which error it is; decides the exit code.
    pub(crate) code: Code,
    /// What was attempted, on what, and why it failed.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

impl StartError {
    /// An error without a hint.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with advice.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error about desired state.
    pub(super) fn load(file: &Path, error: LoadError) -> Self {
        let all = |problems: &Problems| -> String {
            problems.0.iter().map(|problem| format!("\n  {problem}")).collect()
        };
        let file = file.display();
        match &error {
            LoadError::Store(_) => match error {
                LoadError::Store(error) => error.into(),
                other => Self::new(Code::Internal, other.to_string()),
            },
            LoadError::File(problems) => {
                let words = format!("the configuration {file} is not valid:{}", all(problems));
                Self::new(Code::InvalidConfig, words)
                    .with_hint(format!("mend it, then: vswitch-ctl config validate {file}"))
            }
            LoadError::Misfit(Misfit::Collision(problems)) => {
                let words = format!("the configuration {file} collides:{}", all(problems));
                Self::new(Code::OriginConflict, words)
            }
            LoadError::Misfit(Misfit::Whole(problems)) => {
                let words = format!(
                    "the configuration {file} does not fit what was made through the API:{}",
                    all(problems)
                );
                Self::new(Code::InvalidConfig, words)
                    .with_hint("--config-wins leaves out what does not fit the file")
            }
            LoadError::Stored(problems) => {
                let words = format!("the store is not valid for this version:{}", all(problems));
                Self::new(Code::InvalidConfig, words)
                    .with_hint("start the version that wrote it, or move the store away")
            }
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for StartError {}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::new(Code::Local, error.to_string()).with_hint(error.hint())
    }
}

impl From<SocketError> for StartError {
    fn from(error: SocketError) -> Self {
        let hint = match &error {
            SocketError::Live(_) => "stop it, or give this one its own --run-dir and --state-dir",
            SocketError::Taken(_) => "move it away, or name another --run-dir",
            SocketError::Io { .. } => "run vswitchd as root, or name another --run-dir",
        };
        Self::new(Code::Local, error.to_string()).with_hint(hint)
    }
}

impl From<BackendError> for StartError {
    fn from(error: BackendError) -> Self {
        let out = Self::new(Code::Local, error.to_string());
        match error.hint() {
            Some(hint) => out.with_hint(hint),
            None => out,
        }
    }
}

impl From<ControlError> for StartError {
    fn from(error: ControlError) -> Self {
        use vswitchd::workers::WorkerError;
        let hint = match &error {
            ControlError::Backend { cause, .. } => cause.hint().map(str::to_owned),
            ControlError::Worker(WorkerError::Pin { .. }) => {
                Some("name CPUs in cpus that exist and that vswitchd may use (taskset -p)".into())
            }
            ControlError::Worker(WorkerError::TooMany { .. }) => {
                Some("name fewer CPUs in cpus".into())
            }
            ControlError::Worker(_) => None,
        };
        Self { code: Code::Local, message: error.to_string(), hint }
    }
}
