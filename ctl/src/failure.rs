//! How a command can fail, and how that is told.

use std::io::{self, Write as _};

use vswitch_api::error::exit;
use vswitch_api::{ApiError, Code};

use crate::output::Output;

/// What a command ends with: an exit code.
pub(crate) type Done = Result<u8, Failure>;

/// What a verb ends with: an exit code, if it is not 0.
pub(crate) type VerbDone = Result<Option<u8>, Failure>;

/// Why a command did not end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The daemon refused it, or a file could not be read.
    Api(Box<ApiError>),
    /// Standard output could not be written.
    Output(io::Error),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(Box::new(error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl Failure {
    /// Tells it on standard error and gives the exit code.
    pub(crate) fn tell(self, output: &Output) -> u8 {
        match self {
            Self::Api(error) => {
                tell(&error, output);
                error.code.exit()
            }
            // Whoever reads us has had enough (`| head`): nothing is wrong.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => exit::DONE,
            Self::Output(error) => {
                let message = format!("cannot write to standard output: {error}");
                tell(&ApiError::new(Code::Local, message), output);
                Code::Local.exit()
            }
        }
    }
}

/// `error[CODE]: …`, what is wrong in detail, and `hint: …`.
pub(crate) fn tell(error: &ApiError, output: &Output) {
    let mut out = format!("{}: {}\n", output.red(&format!("error[{}]", error.code)), error.message);
    // One problem is the message already.
    if error.problems.len() > 1 {
        for problem in &error.problems {
            out.push_str(&format!("  {problem}\n"));
        }
    }
    if let Some(hint) = &error.hint {
        out.push_str(&format!("{}: {hint}\n", output.bold_error("hint")));
    }
    // Nobody can be told that standard error is closed.
    let _ = io::stderr().write_all(out.as_bytes());
}

/// Tells a wrong command line in the same shape, or prints the help that was asked for.
pub(crate) fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        let _ = error.print();
        return exit::DONE;
    }
    let text = error.to_string();
    let mut out = String::new();
    let mut hint = "--help shows what there is";
    for (index, line) in text.lines().filter(|line| !line.trim().is_empty()).enumerate() {
        match (index, line.strip_prefix("error: "), line.trim_start().strip_prefix("tip: ")) {
            (0, Some(message), _) => out.push_str(&format!("error[{}]: {message}", Code::Usage)),
            // Without a noun or verb, clap shows the help and says nothing.
            (0, None, _) => {
                out.push_str(&format!("error[{}]: a noun or verb is missing\n{line}", Code::Usage));
            }
            (_, _, Some(tip)) => {
                hint = tip;
                continue;
            }
            _ if line.starts_with("For more information") => continue,
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out.push_str(&format!("hint: {hint}\n"));
    let _ = io::stderr().write_all(out.as_bytes());
    exit::USAGE
}
