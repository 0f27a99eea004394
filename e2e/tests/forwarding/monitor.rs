//! `vswitch-ctl fdb monitor`, read beside the test.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result};
use serde_json::Value;
use vswitch_e2e::{Daemon, Process, until};

use crate::lab::SOON;

/// A running monitor; ends when dropped.
#[derive(Debug)]
pub(crate) struct Monitor {
    lines: Receiver<String>,
    seen: Vec<Value>,
    _process: Process,
}

impl Monitor {
    /// Starts one; what happens in the FDB after this is seen. `port` is one that untagged frames
    /// may use: an entry added there shows that the monitor listens.
    pub(crate) fn start(daemon: &Daemon, port: &str) -> Result<Self> {
        let mut process = daemon
            .ctl_cmd(["-o", "jsonl", "fdb", "monitor"])?
            .spawn(Stdio::piped(), Stdio::null())?;
        let out = process.take_stdout().context("no standard output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut monitor = Self { lines, seen: Vec::new(), _process: process };
        const MARK: &str = "02:00:00:00:ff:ff";
        until(SOON, "the monitor to listen", || {
            daemon.ctl(&format!("fdb add {MARK} --port {port}"))?.ok()?;
            daemon.ctl(&format!("fdb del {MARK} --bridge {}", bridge_of(daemon, port)?))?.ok()?;
            Ok(monitor.has(&format!("deleted {MARK} {port}"))?.then_some(()))
        })?;
        Ok(monitor)
    }

    /// Waits for an event: `EVENT MAC PORT`, or `moved MAC PORT from PORT`.
    pub(crate) fn wait(&mut self, event: &str) -> Result<()> {
        until(SOON, event, || Ok(self.has(event)?.then_some(())))
            .with_context(|| format!("the monitor's lines: {:#?}", self.words()))
    }

    /// Whether it was seen.
    pub(crate) fn has(&mut self, event: &str) -> Result<bool> {
        while let Ok(line) = self.lines.try_recv() {
            self.seen.push(serde_json::from_str(&line).with_context(|| line.clone())?);
        }
        Ok(self.words().iter().any(|words| words == event))
    }

    fn words(&self) -> Vec<String> {
        let word = |value: &Value, key: &str| value[key].as_str().unwrap_or("?").to_owned();
        let words = |value: &Value| {
            let start = ["event", "mac", "port"].map(|key| word(value, key)).join(" ");
            match value["from"].as_str() {
                Some(from) => format!("{start} from {from}"),
                None => start,
            }
        };
        self.seen.iter().map(words).collect()
    }
}

fn bridge_of(daemon: &Daemon, port: &str) -> Result<String> {
    let shown = daemon.ctl_json(&format!("port show {port}"))?;
    let bridge = shown["items"][0]["bridge"].as_str().context("the port has no bridge")?;
    Ok(bridge.to_owned())
}
