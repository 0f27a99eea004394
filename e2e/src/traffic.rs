//! Ping and iperf3 between hosts of any kind.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{Host, Process, until, until_ok};
use crate::netns::Netns;

/// What ping counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Replies that came back.
    pub received: u32,
    /// Mean round-trip time in milliseconds, if anything came back.
    pub rtt_ms: Option<f64>,
}

/// Pings `to` from `from`, `count` times, 0.2 s apart, waiting 2 s for the last reply.
///
/// # Errors
/// Ping could not be run. No reply is not an error: see [`Ping::received`].
pub fn ping(from: &dyn Host, to: &str, count: u32) -> Result<Ping> {
    let output = from.sh(&format!("ping -n -c {count} -i 0.2 -W 2 {to}"))?;
    parse_ping(&output.stdout).with_context(|| format!("ping printed no summary: {output}"))
}

fn parse_ping(text: &str) -> Option<Ping> {
    // "3 packets transmitted, 3 received, …"
    let summary = text.lines().find(|l| l.contains("transmitted"))?;
    let mut counts = summary.split(',').map(|part| part.split_whitespace().next()?.parse().ok());
    let (sent, received) = (counts.next()??, counts.next()??);
    // "rtt min/avg/max/mdev = 0.1/0.2/0.3/0.1 ms"
    let rtt_ms = text
        .lines()
        .find_map(|l| l.split_once("min/avg/max")?.1.split_once("= "))
        .and_then(|(_, values)| values.split('/').nth(1)?.parse().ok());
    Some(Ping { sent, received, rtt_ms })
}

/// An iperf3 server in a namespace, stopped when dropped. Guests start one by themselves.
#[derive(Debug)]
pub struct IperfServer {
    _process: Process,
}

impl IperfServer {
    /// Starts one on iperf3's usual port, 5201, and waits until it listens.
    ///
    /// # Errors
    /// iperf3 is missing, or does not listen in 10 s.
    pub fn start(netns: &Netns) -> Result<Self> {
        let process = netns.cmd("iperf3").arg("-s").spawn(Stdio::null(), Stdio::null())?;
        until_ok(Duration::from_secs(10), "iperf3 to listen", || {
            netns.sh("ss -Hltn sport = :5201 | grep -q LISTEN")?.ok()
        })?;
        Ok(Self { _process: process })
    }
}

/// What iperf3's client and server measured.
#[derive(Clone, Debug)]
pub struct Iperf {
    /// Bytes the client sent.
    pub sent_bytes: u64,
    /// Bytes the server had received when the client said it was done; with `-n` what was still
    /// under way is missing.
    pub received_bytes: u64,
    /// Bits a second at the receiver.
    pub bits_per_second: f64,
    /// TCP segments sent again; 0 for UDP.
    pub retransmits: u64,
    /// UDP datagrams lost; 0 for TCP.
    pub lost: u64,
    /// The whole report.
    pub json: serde_json::Value,
}

/// What a client says of a server that is not done with the run before, or not up yet. It closes its
/// listening socket after each run: who comes then is refused, and who waited in it is reset.
const NOT_READY: [&str; 3] = [
    "server is busy",
    "unable to connect to server: Connection refused",
    "unable to receive control message: Connection reset",
];

/// Runs an iperf3 client against `server`, with further `args` such as `-n 10M` or `-u -b 1M`.
///
/// # Errors
/// The client failed (iperf3's own message), or its report is not understood.
pub fn iperf3(from: &dyn Host, server: &str, args: &str) -> Result<Iperf> {
    let line = format!("iperf3 -J -c {server} {args}");
    let json = until(Duration::from_secs(20), "iperf3's server to be free", || {
        let json = from.sh_for(&line, Duration::from_secs(180))?.json()?;
        let early = json["error"].as_str().is_some_and(|e| NOT_READY.iter().any(|n| e.contains(n)));
        Ok((!early).then_some(json))
    })?;
    if let Some(error) = json.get("error").and_then(|e| e.as_str()) {
        anyhow::bail!("iperf3 from {} to {server}: {error}", from.label());
    }
    let end = &json["end"];
    let udp = end.get("sum_sent").is_none();
    let (sent, received) = if udp { ("sum", "sum") } else { ("sum_sent", "sum_received") };
    let bytes = |sum: &str| end[sum]["bytes"].as_u64().context("iperf3's report lacks the bytes");
    Ok(Iperf {
        sent_bytes: bytes(sent)?,
        received_bytes: bytes(received)?,
        bits_per_second: end[received]["bits_per_second"].as_f64().unwrap_or(0.0),
        retransmits: end[sent]["retransmits"].as_u64().unwrap_or(0),
        lost: end["sum"]["lost_packets"].as_u64().unwrap_or(0),
        json,
    })
}

/// Reads a counter of a device from inside a namespace, for example `rx_packets`.
///
/// # Errors
/// No such device or counter.
pub fn device_counter(netns: &Netns, device: &str, counter: &str) -> Result<u64> {
    let path = format!("/sys/class/net/{device}/statistics/{counter}");
    let text = netns.sh(&format!("cat {path}"))?.ok()?.stdout;
    text.trim().parse().with_context(|| format!("{path} holds {text:?}"))
}

/// Reads a text file, for logs in messages; empty when it is not there.
pub(crate) fn read_lossy(path: &std::path::Path) -> String {
    fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary() {
        let iputils = "3 packets transmitted, 2 received, 33% packet loss, time 402ms\n\
                       rtt min/avg/max/mdev = 0.1/0.25/0.3/0.1 ms\n";
        assert_eq!(parse_ping(iputils), Some(Ping { sent: 3, received: 2, rtt_ms: Some(0.25) }));
        let none = "1 packets transmitted, 0 received, 100% packet loss\n";
        assert_eq!(parse_ping(none), Some(Ping { sent: 1, received: 0, rtt_ms: None }));
        assert_eq!(parse_ping("ping: bad address"), None);
    }
}
