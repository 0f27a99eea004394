//! `port show|add|del|set|stats`.

use clap::Subcommand;
use vswitch_api::Code;
use vswitch_api::client::{Client, path};
use vswitch_api::types::{DeviceCounter, List, PortStats, PortStatus};

use crate::failure::{Failure, VerbDone};
use crate::keys::PortKeys;
use crate::object::Kind;
use crate::output::{Column, Format, Output, maybe};
use crate::reply::by_reason;

const PORTS: Kind = Kind { plural: "ports", missing: Code::NoSuchPort };

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show ports
    Show {
        /// Only these
        names: Vec<String>,
        /// Only those in this bridge
        #[arg(long, conflicts_with = "names")]
        bridge: Option<String>,
    },
    /// Add a port and open its device
    Add {
        /// Its name
        name: String,
        /// Do nothing if there is one of that name
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        keys: PortKeys,
    },
    /// Delete a port, and its TAP device if the switch made it
    Del {
        /// Its name
        name: String,
        /// Do nothing if there is none of that name
        #[arg(long)]
        if_exists: bool,
    },
    /// Change a port
    Set {
        /// Its name
        name: String,
        /// Give this key its default back
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        #[command(flatten)]
        keys: PortKeys,
    },
    /// Show what is counted on ports; of those named, also what their devices count
    Stats {
        /// Only these
        names: Vec<String>,
    },
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    match verb {
        Verb::Show { names, bridge } => show(client, output, &names, bridge.as_deref()),
        Verb::Add { name, if_not_exists, keys } => {
            PORTS.add(client, output, &name, keys.0, if_not_exists)
        }
        Verb::Del { name, if_exists } => PORTS.del(client, output, &name, if_exists),
        Verb::Set { name, unset, keys } => PORTS.set(client, output, &name, keys.0, &unset),
        Verb::Stats { names } => stats(client, output, &names),
    }
}

fn show(client: &Client, output: &Output, names: &[String], bridge: Option<&str>) -> VerbDone {
    let ports = PORTS.get::<PortStatus>(client, names, &[("bridge", bridge)])?;
    output.list(
        &ports,
        &[
            Column::new("NAME", |port: &PortStatus| port.name.clone()),
            Column::new("TYPE", |port| port.port_type.clone()),
            Column::new("STATE", |port| port.state.name().into()),
            Column::new("BRIDGE", |port| maybe(port.bridge.as_ref())),
            Column::new("VLAN", |port| port.vlan.clone()),
            Column::number("MTU", |port| maybe(port.mtu.as_ref())),
            Column::new("DEVICE", |port| maybe(port.device.as_ref())),
            Column::new("NETNS", |port| maybe(port.netns.as_ref())),
            Column::number("RX", |port| port.counters.rx_frames.to_string()),
            Column::number("TX", |port| port.counters.tx_frames.to_string()),
            Column::number("DROPS", |port| port.counters.drops.to_string()),
            Column::number("FDB", |port| port.counters.fdb.to_string()),
            Column::wide("MAC", |port| maybe(port.mac.as_ref())),
            Column::wide("DRIVER", |port| maybe(port.driver.as_ref())),
            Column::wide_number("QUEUES", |port| port.queues.to_string()),
            Column::wide_number("WORKER", |port| maybe(port.worker.as_ref())),
            Column::wide_number("RXQ", |port| maybe(port.details.rx_queues.as_ref())),
            Column::wide_number("TXQ", |port| maybe(port.details.tx_queues.as_ref())),
            Column::wide_number("NUMA", |port| maybe(port.details.numa_node.as_ref())),
            Column::wide("PROMISC", |port| match port.details.promiscuous {
                Some(true) => "yes".into(),
                Some(false) => "no".into(),
                None => String::new(),
            }),
            Column::wide_number("MBIT/S", |port| maybe(port.details.link_mbps.as_ref())),
            Column::wide("OFFLOADS", offloads),
            Column::wide("RX-OFFLOADS", |port| port.details.rx_offloads.join(",")),
            Column::wide("TX-OFFLOADS", |port| port.details.tx_offloads.join(",")),
            Column::wide("ORIGIN", |port| port.origin.name().into()),
            Column::new("REASON", reason),
        ],
    )?;
    Ok(None)
}

fn offloads(port: &PortStatus) -> String {
    let all = [
        ("csum", port.offloads.csum),
        ("tso4", port.offloads.tso4),
        ("tso6", port.offloads.tso6),
        ("uso", port.offloads.uso),
    ];
    let has: Vec<_> = all.iter().filter(|offload| offload.1).map(|offload| offload.0).collect();
    has.join(",")
}

fn reason(port: &PortStatus) -> String {
    match &port.reason {
        Some(reason) => reason.clone(),
        None if port.blocked => "blocked by the loop guard".into(),
        None => port.lost.join("; "),
    }
}

fn stats(client: &Client, output: &Output, names: &[String]) -> VerbDone {
    let stats: Vec<PortStats> = if names.is_empty() {
        client.get::<List<_>>("/v1/stats")?.items
    } else {
        let one = |name: &String| client.get(&path(&["v1", "ports", name, "stats"]));
        names.iter().map(one).collect::<Result<_, _>>()?
    };
    output.list(
        &stats,
        &[
            Column::new("NAME", |port: &PortStats| port.name.clone()),
            Column::number("RX-FRAMES", |port| port.counters.rx_frames.to_string()),
            Column::number("RX-BYTES", |port| port.counters.rx_bytes.to_string()),
            Column::number("TX-FRAMES", |port| port.counters.tx_frames.to_string()),
            Column::number("TX-BYTES", |port| port.counters.tx_bytes.to_string()),
            Column::number("DROPS", |port| port.counters.drops.to_string()),
            Column::number("MISSED-RX", |port| port.counters.missed_rx.to_string()),
            Column::number("LOST-AFTER-TX", |port| port.counters.lost_after_tx.to_string()),
            Column::wide_number("COPIED", |port| port.inside.copied.to_string()),
            Column::wide_number("ORIGINATED", |port| port.inside.originated.to_string()),
            Column::wide_number("CONSUMED", |port| port.inside.consumed.to_string()),
            Column::wide_number("FORWARDED", |port| port.inside.forwarded.to_string()),
            Column::wide_number("OFFERED", |port| port.inside.offered.to_string()),
            Column::wide("BY-REASON", |port| by_reason(&port.drops)),
        ],
    )?;
    if !output.is_json() && (!names.is_empty() || output.format == Format::Wide) {
        device_counters(output, &stats)?;
    }
    Ok(None)
}

/// What devices count by themselves: a table of what is not zero, as a driver may count hundreds of
/// things that never happen. JSON has them all.
fn device_counters(output: &Output, stats: &[PortStats]) -> Result<(), Failure> {
    let of_port = |port: &PortStats| {
        let counters = port.device.iter().filter(|counter| counter.value > 0);
        counters.map(|counter| (port.name.clone(), counter.clone())).collect::<Vec<_>>()
    };
    let rows: Vec<(String, DeviceCounter)> = stats.iter().flat_map(of_port).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let columns = [
        Column::new("NAME", |row: &(String, DeviceCounter)| row.0.clone()),
        Column::new("DEVICE-COUNTER", |row| row.1.name.clone()),
        Column::number("VALUE", |row| row.1.value.to_string()),
    ];
    output.text(&format!("\n{}", output.table(&rows, &columns)))
}
