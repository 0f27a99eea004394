//! `support-bundle`: what helps others to help, in one file.

mod archive;
mod redact;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value as Json, json};
use vswitch_api::client::{Client, path};
use vswitch_api::types::{ConfigReply, List, StatusReply, TunnelStatus};
use vswitch_api::{ApiError, Code};

use crate::doctor;
use crate::failure::VerbDone;
use crate::output::Output;

use archive::Archive;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to write, a directory for it, or - for standard output; otherwise
    /// vswitch-support-TIME.tar.gz here
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where the daemon's log is, if not in the journal
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Answers of the daemon: file and path.
const ANSWERS: [(&str, &str); 14] = [
    ("version.json", "/v1/version"),
    ("status.json", "/v1/status"),
    ("config-history.json", "/v1/config/history"),
    ("bridges.json", "/v1/bridges"),
    ("ports.json", "/v1/ports"),
    ("port-stats.json", "/v1/stats"),
    ("vlans.json", "/v1/vlans"),
    ("vteps.json", "/v1/vteps"),
    ("mirrors.json", "/v1/mirrors"),
    ("exports.json", "/v1/exports"),
    ("tunnels.json", "/v1/tunnels"),
    ("mtu.json", "/v1/mtu"),
    ("drops.json", "/v1/drops"),
    ("cpu.json", "/v1/cpu"),
];

/// Files of the kernel and the distribution.
const FILES: [&str; 12] = [
    "/etc/os-release",
    "/etc/vswitch/vswitch.toml",
    "/proc/version",
    "/proc/cmdline",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/interrupts",
    "/proc/softirqs",
    "/proc/net/dev",
    "/proc/net/snmp",
    "/proc/modules",
];

/// Commands that only look, each in words, with the file that has what it says.
const COMMANDS: [(&str, &str); 8] = [
    ("ip-link", "ip -d -s link"),
    ("ip-address", "ip address"),
    ("ip-route", "ip route show table all"),
    ("ip-neighbour", "ip neighbour"),
    ("ip-netns", "ip netns"),
    ("bridge-vlan", "bridge vlan"),
    ("nft-ruleset", "nft list ruleset"),
    ("systemctl-status", "systemctl status --no-pager --full vswitchd"),
];

/// The end of the daemon's log.
const JOURNAL: &str = "journalctl -u vswitchd --no-pager -o short-iso -n 20000";

/// Most FDB entries that go along, most tunnels whose remotes do, and most bytes of a log.
const MAX_FDB: u64 = 20_000;
const MAX_TUNNELS: usize = 100;
const MAX_LOG: u64 = 16 << 20;
/// Seconds that a command may take.
const PATIENCE: &str = "10";

/// What the bundle says of itself.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Manifest {
    made: String,
    by: String,
    files: Vec<String>,
    /// What is missing, with the reason.
    missing: Vec<Missing>,
    /// Keys whose values were left out.
    left_out: BTreeSet<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Missing {
    what: String,
    reason: String,
}

/// A bundle under construction.
struct Bundle {
    archive: Archive,
    manifest: Manifest,
}

pub(crate) fn run(client: &Client, output: &Output, run_dir: &Path, args: &Args) -> VerbDone {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let name = format!("vswitch-support-{}", now.replace(':', "-"));
    let default = PathBuf::from(format!("{name}.tar.gz"));
    let file = match &args.file {
        None => default,
        Some(dir) if dir.is_dir() => dir.join(default),
        Some(file) => file.clone(),
    };
    let mut bundle = Bundle {
        archive: Archive::create(&file, &name)?,
        manifest: Manifest {
            made: now,
            by: format!("vswitch-ctl {}", env!("CARGO_PKG_VERSION")),
            ..Manifest::default()
        },
    };
    bundle.daemon(client)?;
    let findings = serde_json::to_value(doctor::report(client, run_dir));
    bundle.add_json("doctor.json", &findings.unwrap_or_default())?;
    bundle.log(args.log.as_deref())?;
    bundle.machine()?;
    let manifest = bundle.finish()?;
    if file == Path::new("-") {
        return Ok(None);
    }
    output.object(&json!({ "file": file, "manifest": manifest }), || screen(&file, &manifest))?;
    Ok(None)
}

impl Bundle {
    fn add(&mut self, name: &str, text: &str) -> Result<(), ApiError> {
        let (text, keys) = redact::redact(text);
        self.manifest.left_out.extend(keys.into_iter().map(|key| format!("{name}: {key}")));
        self.manifest.files.push(name.to_owned());
        self.archive.add(name, &text)
    }

    fn add_json(&mut self, name: &str, value: &Json) -> Result<(), ApiError> {
        self.add(name, &format!("{value:#}\n"))
    }

    /// Adds what there is, and notes what there is not.
    fn add_or_note(&mut self, name: &str, text: Result<String, String>) -> Result<(), ApiError> {
        match text {
            Ok(text) => self.add(name, &text),
            Err(reason) => {
                self.note(name, reason);
                Ok(())
            }
        }
    }

    fn note(&mut self, what: &str, reason: impl Into<String>) {
        self.manifest.missing.push(Missing { what: what.to_owned(), reason: reason.into() });
    }

    /// What the daemon says; that it says nothing is part of the bundle.
    fn daemon(&mut self, client: &Client) -> Result<(), ApiError> {
        let status: StatusReply = match client.get("/v1/status") {
            Ok(status) => status,
            Err(error) => {
                self.note("answers of vswitchd", error.message);
                return Ok(());
            }
        };
        for (name, path) in ANSWERS {
            self.add_or_note(name, answer(client, path))?;
        }
        let config = client.get::<ConfigReply>("/v1/config").map(|reply| reply.toml);
        self.add_or_note("config.toml", config.map_err(|error| error.message))?;
        for (name, path) in [("events.jsonl", "/v1/events"), ("metrics.txt", "/v1/metrics")] {
            let text = client.get_text(path).map_err(|error| error.message);
            self.add_or_note(name, text)?;
        }
        let fdb = if status.fdb.used > MAX_FDB {
            Err(format!("{} entries; vswitch-ctl -o jsonl fdb show lists them", status.fdb.used))
        } else {
            answer(client, "/v1/fdb")
        };
        self.add_or_note("fdb.json", fdb)?;
        self.peers(client)
    }

    fn peers(&mut self, client: &Client) -> Result<(), ApiError> {
        let Ok(tunnels) = client.get::<List<TunnelStatus>>("/v1/tunnels") else { return Ok(()) };
        if tunnels.items.len() > MAX_TUNNELS {
            let reason = format!("of the first {MAX_TUNNELS} of {} only", tunnels.items.len());
            self.note("remotes of tunnels", reason);
        }
        for tunnel in tunnels.items.iter().take(MAX_TUNNELS) {
            let answer = answer(client, &path(&["v1", "tunnels", &tunnel.name, "peers"]));
            self.add_or_note(&format!("peers/{}.json", tunnel.name), answer)?;
        }
        Ok(())
    }

    fn log(&mut self, file: Option<&Path>) -> Result<(), ApiError> {
        let Some(file) = file else {
            return self.add_or_note("log.txt", said(JOURNAL));
        };
        // A file that was named and cannot be read is a mistake to be told, not a gap.
        let text = tail(file).map_err(|error| {
            let message = format!("cannot read the log {}: {error}", file.display());
            ApiError::new(Code::Local, message).with_hint("leave --log out to take the journal")
        })?;
        self.add("log.txt", &text)
    }

    fn machine(&mut self) -> Result<(), ApiError> {
        for file in FILES {
            let text = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let name = format!("machine{file}");
            self.add_or_note(&name, text.map_err(|error| error.to_string()))?;
        }
        for (name, command) in COMMANDS {
            self.add_or_note(&format!("machine/{name}.txt"), said(command))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Manifest, ApiError> {
        let text = serde_json::to_value(&self.manifest).unwrap_or_default();
        self.archive.add("manifest.json", &format!("{text:#}\n"))?;
        self.archive.finish()?;
        Ok(self.manifest)
    }
}

/// An answer of the daemon as text, or why there is none.
fn answer(client: &Client, path: &str) -> Result<String, String> {
    let answer = client.get::<Json>(path);
    answer.map(|value| format!("{value:#}\n")).map_err(|error| error.message)
}

/// The end of a log.
fn tail(file: &Path) -> std::io::Result<String> {
    let mut log = fs::File::open(file)?;
    // What cannot be sought, such as a pipe, is read from where it stands.
    if let Ok(length) = log.seek(SeekFrom::End(0)) {
        log.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG)))?;
    }
    let mut bytes = Vec::new();
    log.take(MAX_LOG).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a command says, or why it says nothing. It is ended when it takes too long.
fn said(command: &str) -> Result<String, String> {
    let out = Command::new("timeout").arg(PATIENCE).args(command.split(' ')).output();
    let out = out.map_err(|error| format!("cannot run {command}: {error}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() || !text.is_empty() {
        return Ok(text);
    }
    match out.status.code() {
        Some(124) => Err(format!("{command} did not end within {PATIENCE} s")),
        Some(127) => Err(format!("{command}: not installed")),
        _ => {
            let said = String::from_utf8_lossy(&out.stderr);
            Err(said.trim().lines().next().unwrap_or("it said nothing").to_owned())
        }
    }
}

fn screen(file: &Path, manifest: &Manifest) -> String {
    let mut out = format!("{}: {} files\n", file.display(), manifest.files.len() + 1);
    for missing in &manifest.missing {
        let _ = writeln!(out, "not in it: {} ({})", missing.what, missing.reason);
    }
    for key in &manifest.left_out {
        let _ = writeln!(out, "value left out: {key}");
    }
    let note = "addresses and names of ports are in it: look through it before you hand it on";
    let _ = writeln!(out, "{note}: tar -tzf {}", file.display());
    out
}
