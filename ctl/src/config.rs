//! `config show|validate|diff|apply|confirm|rollback|history|schema`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use vswitch_api::client::{Client, path};
use vswitch_api::config::{self, Desired, MAX_CONFIG_BYTES, Problem, Problems};
use vswitch_api::error::exit;
use vswitch_api::types::{
    ApplyRequest, ConfigReply, ConfigText, DiffReply, HistoryEntry, List, RollbackRequest,
};
use vswitch_api::{ApiError, Code};

use crate::failure::{Failure, VerbDone};
use crate::output::{Column, Output};
use crate::reply::{Tolerate, change};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the desired state, as a file
    Show {
        /// As of this revision
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Find everything that is wrong with a file, without a daemon; exits 1 if anything is
    Validate {
        /// The file; - is standard input
        file: PathBuf,
    },
    /// Show what a file would change; exits 1 if anything
    Diff {
        /// The file; - is standard input
        file: PathBuf,
    },
    /// Make a file the desired state
    Apply {
        /// The file; - is standard input
        file: PathBuf,
        /// Roll back by itself unless confirmed within this time
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        confirm: Option<u64>,
    },
    /// Keep the change that waits for it
    Confirm,
    /// Make an earlier revision the desired state again
    Rollback {
        /// Which; the one before the current if left out
        revision: Option<u64>,
    },
    /// Show the revisions, newest first
    History,
    /// Print the JSON Schema of the file
    Schema,
}

fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected 1s to 24h, as in 60s, found {text:?}");
    let time = humantime::parse_duration(text).map_err(|_| wrong())?;
    match time.as_secs() {
        seconds @ 1..=86_400 if time.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(wrong()),
    }
}

pub(crate) fn run(
    client: &impl Fn() -> Result<Client, Failure>,
    output: &Output,
    verb: Verb,
) -> VerbDone {
    match verb {
        Verb::Show { revision } => show(&client()?, output, revision),
        Verb::Validate { file } => validate(output, &file),
        Verb::Diff { file } => diff(&client()?, output, &file),
        Verb::Apply { file, confirm } => {
            let body = ApplyRequest { toml: checked(&file)?, confirm };
            let client = client()?;
            change(&client, output, "POST", "/v1/config/apply", Some(&body), Tolerate::NOTHING)
        }
        Verb::Confirm => {
            let path = "/v1/config/confirm";
            change(&client()?, output, "POST", path, None::<&()>, Tolerate::NOTHING)
        }
        Verb::Rollback { revision } => {
            let (client, body) = (client()?, RollbackRequest { revision });
            let path = "/v1/config/rollback";
            change(&client, output, "POST", path, Some(&body), Tolerate::NOTHING)
        }
        Verb::History => history(&client()?, output),
        Verb::Schema => {
            let schema = config::schema();
            output.text(&format!("{schema:#}\n"))?;
            Ok(None)
        }
    }
}

fn show(client: &Client, output: &Output, revision: Option<u64>) -> VerbDone {
    let path = match revision {
        Some(number) => path(&["v1", "config", "history", &number.to_string()]),
        None => "/v1/config".to_owned(),
    };
    let reply: ConfigReply = client.get(&path)?;
    output.object(&reply.config, || reply.toml.clone())?;
    Ok(None)
}

fn validate(output: &Output, file: &Path) -> VerbDone {
    let problems = match config::from_toml_bytes(&read(file)?) {
        Ok(_) => Vec::new(),
        Err(Problems(problems)) => problems,
    };
    let valid = problems.is_empty();
    if output.is_json() {
        output.object(&json!({ "valid": valid, "items": problems }), String::new)?;
    } else if valid {
        output.text(&format!("{} is valid\n", file.display()))?;
    } else {
        crate::failure::tell(&invalid(file, problems), output);
    }
    Ok((!valid).then_some(exit::NO))
}

/// The text of a file that has no problems: what the daemon would refuse is told with the file's
/// name, and without one.
fn checked(file: &Path) -> Result<String, Failure> {
    let bytes = read(file)?;
    parsed(file, &bytes)?;
    // What was read as a configuration is UTF-8.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a file says. What is wrong with it is told with its name.
pub(crate) fn desired(file: &Path) -> Result<Desired, Failure> {
    parsed(file, &read(file)?)
}

fn parsed(file: &Path, bytes: &[u8]) -> Result<Desired, Failure> {
    let parsed = config::from_toml_bytes(bytes);
    Ok(parsed.map_err(|Problems(problems)| invalid(file, problems))?)
}

/// With the file's name and place in front, as editors and terminals make links of.
fn invalid(file: &Path, problems: Vec<Problem>) -> ApiError {
    let name = file.display();
    let located = |mut problem: Problem| {
        let place = match (problem.line.take(), problem.column.take()) {
            (Some(line), Some(column)) => format!("{name}:{line}:{column}: "),
            _ => format!("{name}: "),
        };
        let text = problem.to_string();
        Problem::new("", format!("{place}{text}"))
    };
    let problems: Vec<_> = problems.into_iter().map(located).collect();
    let message = match problems.as_slice() {
        [one] => one.message.clone(),
        several => format!("{name} has {} problems", several.len()),
    };
    let error = ApiError::new(Code::InvalidConfig, message);
    ApiError { problems, ..error.with_hint("man vswitch.toml explains every key") }
}

fn diff(client: &Client, output: &Output, file: &Path) -> VerbDone {
    let body = ConfigText { toml: checked(file)? };
    let reply = client.send::<_, DiffReply>("POST", "/v1/config/diff", Some(&body))?.body;
    let object = json!({ "revision": reply.revision, "items": reply.changes });
    output
        .object(&object, || reply.changes.iter().map(|change| format!("{change}\n")).collect())?;
    Ok((!reply.changes.is_empty()).then_some(exit::NO))
}

fn history(client: &Client, output: &Output) -> VerbDone {
    let revisions = client.get::<List<HistoryEntry>>("/v1/config/history")?.items;
    output.list(
        &revisions,
        &[
            Column::number("REVISION", |entry: &HistoryEntry| entry.revision.to_string()),
            Column::new("TIME", |entry| entry.time.clone()),
            Column::new("ORIGIN", |entry| entry.origin.name().into()),
            Column::number("CHANGES", |entry| entry.changes.to_string()),
            Column::new("CURRENT", |entry| if entry.current { "yes" } else { "" }.into()),
            Column::new("WHAT", |entry| entry.what.clone()),
        ],
    )?;
    Ok(None)
}

/// Reads a file, or standard input for `-`, up to a little more than the limit: what is longer is
/// refused by those who check.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot read {}: {error}", file.display());
        Failure::from(ApiError::new(Code::Local, message))
    };
    let source: Box<dyn std::io::Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(failed)?)
    };
    let mut bytes = Vec::new();
    source.take(MAX_CONFIG_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
