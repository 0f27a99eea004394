//! `fdb show|add|del|flush|monitor`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use vswitch_api::client::{Client, path, query};
use vswitch_api::error::exit;
use vswitch_api::types::{
    BridgeStatus, FdbBatch, FdbBatchReply, FdbEntry, FdbEvent, FdbFlush, FdbKey, FdbKind,
    FdbSelector, List, PortStatus, TunnelStatus,
};
use vswitch_api::{ApiError, Code, counted};

use crate::failure::{self, Failure, VerbDone};
use crate::output::{Column, Output, maybe};
use crate::reply::follow;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show entries
    Show(Filter),
    /// Add an entry, or replace it
    #[command(visible_alias = "replace")]
    Add {
        /// The address
        #[arg(required_unless_present = "from")]
        mac: Option<String>,
        /// The port it is on; with --remote, the tunnel
        #[arg(long, required_unless_present = "from")]
        port: Option<String>,
        /// The VTEP that it is behind
        #[arg(long, value_name = "ADDRESS")]
        remote: Option<IpAddr>,
        /// The bridge; that of the port or tunnel if left out
        #[arg(long)]
        bridge: Option<String>,
        /// The VLAN it is in; 0 is no VLAN. If left out, the tunnel's or none
        #[arg(long)]
        vlan: Option<u16>,
        /// It does not move when the address is seen elsewhere
        #[arg(long)]
        sticky: bool,
        /// Entries from a file, JSON lines as `-o jsonl fdb show` prints them; - is standard input
        #[arg(long, value_name = "FILE", conflicts_with_all = ["mac", "port", "remote",
            "bridge", "vlan", "sticky"])]
        from: Option<PathBuf>,
    },
    /// Delete an entry
    Del {
        /// The address
        mac: String,
        /// The bridge; may be left out if there is one
        #[arg(long)]
        bridge: Option<String>,
        /// The VLAN it is in; 0 is no VLAN
        #[arg(long, default_value_t = 0)]
        vlan: u16,
        /// Do nothing if there is none
        #[arg(long)]
        if_exists: bool,
    },
    /// Forget learned entries in bulk; all of them if nothing is selected
    Flush {
        /// Only of this bridge
        #[arg(long)]
        bridge: Option<String>,
        /// Only on this port or tunnel
        #[arg(long)]
        port: Option<String>,
        /// Only behind this remote VTEP
        #[arg(long, value_name = "ADDRESS")]
        remote: Option<IpAddr>,
        /// Only in this VLAN; 0 is no VLAN
        #[arg(long)]
        vlan: Option<u16>,
        /// Added entries as well
        #[arg(long = "static")]
        also_static: bool,
    },
    /// Show what happens to entries, as it happens
    Monitor {
        /// Only of this bridge
        #[arg(long)]
        bridge: Option<String>,
        /// Only on this port or tunnel
        #[arg(long)]
        port: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only of this bridge
    #[arg(long)]
    bridge: Option<String>,
    /// Only on this port or tunnel
    #[arg(long)]
    port: Option<String>,
    /// Only behind this remote VTEP
    #[arg(long, value_name = "ADDRESS")]
    remote: Option<IpAddr>,
    /// Only in this VLAN; 0 is no VLAN
    #[arg(long)]
    vlan: Option<u16>,
    /// Only of this address
    #[arg(long)]
    mac: Option<String>,
    /// Only entries that came to be in this way
    #[arg(long = "type", value_parser = ["learned", "static", "local"])]
    kind: Option<String>,
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    match verb {
        Verb::Show(filter) => show(client, output, &filter),
        Verb::Add { mac, port, remote, bridge, vlan, sticky, from } => {
            let entries = match (from, mac, port) {
                (Some(file), ..) => read_entries(&file)?,
                (None, Some(mac), Some(port)) => {
                    let place = Place { bridge, port, remote, vlan };
                    vec![entry(client, mac, place, sticky)?]
                }
                // clap has refused it already.
                _ => Vec::new(),
            };
            let batch = FdbBatch { owner: None, entries };
            send(client, output, "/v1/fdb", &batch, "added")
        }
        Verb::Del { mac, bridge, vlan, if_exists } => {
            let bridge = bridge.map_or_else(|| only_bridge(client), Ok)?;
            let batch = FdbSelector { entries: vec![FdbKey { bridge, vlan, mac }] };
            match send(client, output, "/v1/fdb/delete", &batch, "deleted") {
                Err(Failure::Api(error)) if if_exists && error.code == Code::NoSuchEntry => {
                    Ok(None)
                }
                other => other,
            }
        }
        Verb::Flush { bridge, port, remote, vlan, also_static } => {
            let flush = FdbFlush { bridge, port, remote, vlan, also_static };
            send(client, output, "/v1/fdb/flush", &flush, "flushed")
        }
        Verb::Monitor { bridge, port } => {
            let filter = [("bridge", bridge.as_deref()), ("port", port.as_deref())];
            monitor(client, output, &query("/v1/fdb/monitor", &filter))
        }
    }
}

fn show(client: &Client, output: &Output, filter: &Filter) -> VerbDone {
    let vlan = filter.vlan.map(|vlan| vlan.to_string());
    let remote = filter.remote.map(|remote| remote.to_string());
    let path = query(
        "/v1/fdb",
        &[
            ("bridge", filter.bridge.as_deref()),
            ("port", filter.port.as_deref()),
            ("remote", remote.as_deref()),
            ("vlan", vlan.as_deref()),
            ("mac", filter.mac.as_deref()),
            ("type", filter.kind.as_deref()),
        ],
    );
    let entries = client.get::<List<FdbEntry>>(&path)?.items;
    let any_remote = entries.iter().any(|entry| entry.remote.is_some());
    output.list(
        &entries,
        &[
            Column::new("BRIDGE", |entry: &FdbEntry| entry.bridge.clone()),
            Column::number("VLAN", |entry| vlan_text(entry.vlan)),
            Column::new("MAC", |entry| entry.mac.clone()),
            Column::new("PORT", |entry| entry.port.clone()),
            Column::wide_or(any_remote, "REMOTE", |entry| maybe(entry.remote.as_ref())),
            Column::new("TYPE", |entry| {
                let sticky = if entry.sticky { ",sticky" } else { "" };
                format!("{}{sticky}", entry.kind.name())
            }),
            Column::number("AGE", |entry| maybe(entry.age.as_ref())),
            Column::wide("OWNER", |entry| maybe(entry.owner.as_ref())),
        ],
    )?;
    Ok(None)
}

/// 0 is no VLAN.
fn vlan_text(vlan: u16) -> String {
    if vlan == 0 { String::new() } else { vlan.to_string() }
}

/// Where an entry is to be, as far as it was said.
struct Place {
    bridge: Option<String>,
    port: String,
    remote: Option<IpAddr>,
    vlan: Option<u16>,
}

/// An entry to add; what was not said of its bridge and VLAN, its port or tunnel says.
fn entry(client: &Client, mac: String, place: Place, sticky: bool) -> Result<FdbEntry, Failure> {
    let Place { bridge, port, remote, vlan } = place;
    let (bridge, vlan) = match (bridge, vlan, remote) {
        (Some(bridge), Some(vlan), _) => (bridge, vlan),
        (bridge, vlan, Some(_)) => {
            let tunnel: TunnelStatus = client.get(&path(&["v1", "tunnels", &port]))?;
            (bridge.unwrap_or(tunnel.bridge), vlan.or(tunnel.vlan).unwrap_or(0))
        }
        (Some(bridge), None, None) => (bridge, 0),
        (None, vlan, None) => (bridge_of(client, &port)?, vlan.unwrap_or(0)),
    };
    let kind = FdbKind::Static;
    Ok(FdbEntry { bridge, vlan, mac, port, remote, kind, sticky, age: None, owner: None })
}

fn bridge_of(client: &Client, port: &str) -> Result<String, Failure> {
    let status: PortStatus = client.get(&path(&["v1", "ports", port]))?;
    status.bridge.ok_or_else(|| {
        let message = format!("port {port} is in no bridge, so it can have no entries");
        let hint = format!("vswitch-ctl port set {port} --bridge BRIDGE");
        ApiError::new(Code::InvalidRequest, message).with_hint(hint).into()
    })
}

fn only_bridge(client: &Client) -> Result<String, Failure> {
    let mut bridges = client.get::<List<BridgeStatus>>("/v1/bridges")?.items;
    match (bridges.pop(), bridges.is_empty()) {
        (Some(bridge), true) => Ok(bridge.name),
        (None, _) => Err(ApiError::new(Code::NoSuchBridge, "there is no bridge").into()),
        (Some(_), false) => {
            let error = ApiError::new(Code::Usage, "there are several bridges");
            Err(error.with_hint("name one with --bridge").into())
        }
    }
}

fn read_entries(file: &std::path::Path) -> Result<Vec<FdbEntry>, Failure> {
    let text = crate::config::read(file)?;
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            let message = format!("{}, line {}: {error}", file.display(), index + 1);
            Failure::from(ApiError::new(Code::InvalidRequest, message))
        })
    };
    lines.map(parse).collect()
}

fn send<B: serde::Serialize>(
    client: &Client,
    output: &Output,
    path: &str,
    body: &B,
    done: &str,
) -> VerbDone {
    let reply = client.send::<B, FdbBatchReply>("POST", path, Some(body))?.body;
    output.object(&reply, || format!("{} {done}\n", counted(reply.done, "entry")))?;
    for refused in &reply.refused {
        let message = format!("entry {} was not {done}: {}", refused.index, refused.reason);
        failure::tell(&ApiError::new(Code::NotRealised, message), output);
    }
    Ok((!reply.refused.is_empty()).then_some(exit::NOT_REALISED))
}

fn monitor(client: &Client, output: &Output, path: &str) -> VerbDone {
    follow(client, path, |event: FdbEvent| {
        if output.is_json() { output.line(&event) } else { output.text(&words(&event)) }
    })?;
    Ok(None)
}

fn words(event: &FdbEvent) -> String {
    if let Some(lost) = event.lost {
        let lost = counted(lost, "event");
        return format!("{}  lost     {lost}: the reader was too slow\n", event.time);
    }
    let behind =
        |remote: Option<IpAddr>| remote.map_or_else(String::new, |at| format!(" behind {at}"));
    let from = event
        .from
        .as_ref()
        .map_or_else(String::new, |from| format!(" from {from}{}", behind(event.from_remote)));
    let remote = behind(event.remote);
    let vlan = if event.vlan == 0 { String::new() } else { format!(" vlan {}", event.vlan) };
    let (time, mac, bridge, port) = (&event.time, &event.mac, &event.bridge, &event.port);
    format!("{time}  {:<8} {mac} {bridge}{vlan} on {port}{remote}{from}\n", event.event.name())
}
