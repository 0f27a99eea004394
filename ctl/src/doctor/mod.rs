//! `doctor`: whether this machine is as the switch needs it, and what mends it.
//!
//! Checks are functions of [`Facts`]: what the kernel shows, what is asked for and what the daemon
//! says. So the tests judge machines that are made up of files.

mod cpu;
mod daemon;
mod facts;
mod finding;
mod hugepages;
mod iommu;
mod kernel;
mod path;
mod root;
#[cfg(test)]
mod tests;
mod vhost;

use std::path::{Path, PathBuf};

use serde::Serialize;
use vswitch_api::client::Client;
use vswitch_api::error::exit;

use crate::config;
use crate::failure::{Failure, VerbDone};
use crate::output::{Format, Output};

use facts::{Facts, Live};
use finding::{Area, Finding, Level};
use root::Root;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do what is safe of what mends the findings, then look again
    #[arg(long)]
    fix: bool,
    /// Look at nothing else
    #[arg(long, value_enum, value_delimiter = ',', value_name = "AREA,…")]
    only: Vec<Area>,
    /// Judge the machine for this configuration, without asking vswitchd; - is standard input
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What was found, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Report {
    /// What the machine was judged for.
    judged_for: String,
    /// Whether anything is a warning or an error.
    degraded: bool,
    /// What `--fix` did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fixes: Vec<Fixed>,
    items: Vec<Finding>,
}

/// What became of something that `--fix` tried.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Fixed {
    id: &'static str,
    command: String,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn run(
    client: &impl Fn() -> Result<Client, Failure>,
    output: &Output,
    run_dir: &Path,
    args: &Args,
) -> VerbDone {
    let facts = match &args.config {
        Some(file) => Facts::of_config(Root::new("/"), run_dir, config::desired(file)?, file),
        None => of_daemon(&client()?, run_dir),
    };
    let report = judge(facts, args);
    match output.format {
        Format::Jsonl => report.items.iter().try_for_each(|finding| output.line(finding))?,
        _ => output.object(&report, || screen(&report, output))?,
    }
    Ok(report.degraded.then_some(exit::DEGRADED))
}

/// The report on this machine and its daemon.
pub(crate) fn report(client: &Client, run_dir: &Path) -> Report {
    judge(of_daemon(client, run_dir), &Args { fix: false, only: Vec::new(), config: None })
}

fn of_daemon(client: &Client, run_dir: &Path) -> Facts {
    Facts::of_daemon(Root::new("/"), run_dir, Live::ask(client))
}

fn judge(facts: Facts, args: &Args) -> Report {
    let mut items = diagnose(&facts, &args.only);
    let fixes = if args.fix { mend(&facts.root, &items) } else { Vec::new() };
    if !fixes.is_empty() {
        items = diagnose(&facts, &args.only);
    }
    let degraded = items.iter().any(|finding| finding.level >= Level::Warn);
    Report { judged_for: facts.source, degraded, fixes, items }
}

/// Looks at everything, or at these areas.
fn diagnose(facts: &Facts, only: &[Area]) -> Vec<Finding> {
    type Check = fn(&Facts) -> Vec<Finding>;
    let checks: [(Area, Check); 8] = [
        (Area::Daemon, daemon::check),
        (Area::Kernel, kernel::check),
        (Area::Hugepages, hugepages::check),
        (Area::Iommu, iommu::check),
        (Area::Cpu, cpu::check),
        (Area::Mtu, path::mtu),
        (Area::Offload, path::offload),
        (Area::Vhost, vhost::check),
    ];
    let wanted = checks.iter().filter(|(area, _)| only.is_empty() || only.contains(area));
    wanted.flat_map(|(_, check)| check(facts)).collect()
}

/// Does what is safe, each command once.
fn mend(root: &Root, items: &[Finding]) -> Vec<Fixed> {
    let mut fixes: Vec<Fixed> = Vec::new();
    for finding in items {
        let Some(fix) = &finding.fix else { continue };
        if fixes.iter().any(|fixed| fixed.command == fix.command) {
            continue;
        }
        let Some(done) = fix.apply(root) else { continue };
        let (id, command) = (finding.id, fix.command.clone());
        fixes.push(Fixed { id, command, done: done.is_ok(), error: done.err() });
    }
    fixes
}

fn screen(report: &Report, output: &Output) -> String {
    let mut lines = vec![format!("judged for {}", report.judged_for)];
    for fixed in &report.fixes {
        lines.push(match &fixed.error {
            None => format!("done    {}", fixed.command),
            Some(error) => format!("{}  {}: {error}", output.painted("failed"), fixed.command),
        });
    }
    for finding in &report.items {
        let level = finding.level.name();
        let pad = " ".repeat(7usize.saturating_sub(level.len()));
        let subject = if finding.subject.is_empty() { "" } else { ": " };
        lines.push(format!(
            "{}{pad} {:<16} {}{subject}{}",
            output.painted(level),
            finding.id,
            finding.subject,
            finding.message
        ));
        if !finding.evidence.is_empty() {
            lines.push(format!("          seen: {}", finding.evidence));
        }
        if let Some(fix) = &finding.fix {
            let note = if fix.safe { "   (doctor --fix does it)" } else { "" };
            lines.push(format!("          fix:  {}{note}", fix.command));
        }
    }
    lines.push(summary(&report.items));
    lines.push(String::new());
    lines.join("\n")
}

/// `2 errors, 1 warning, 3 notes`, or that there is nothing.
fn summary(items: &[Finding]) -> String {
    let count = |level: Level, one: &str| match items
        .iter()
        .filter(|finding| finding.level == level)
        .count()
    {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {one}s")),
    };
    let parts = [(Level::Error, "error"), (Level::Warn, "warning"), (Level::Note, "note")];
    let parts: Vec<_> = parts.iter().filter_map(|(level, one)| count(*level, one)).collect();
    if parts.is_empty() { "nothing is wrong".into() } else { parts.join(", ") }
}
