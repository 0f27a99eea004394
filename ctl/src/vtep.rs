//! `vtep show|add|del|set`.

use clap::Subcommand;
use vswitch_api::Code;
use vswitch_api::client::Client;
use vswitch_api::types::VtepStatus;

use crate::failure::VerbDone;
use crate::keys::VtepKeys;
use crate::object::Kind;
use crate::output::{Column, Output, yes};
use crate::reply::by_reason;

const VTEPS: Kind = Kind { plural: "vteps", missing: Code::NoSuchVtep };

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show VTEPs
    Show {
        /// Only these
        names: Vec<String>,
    },
    /// Add a VTEP and open its sockets
    Add {
        /// Its name
        name: String,
        /// Do nothing if there is one of that name
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        keys: VtepKeys,
    },
    /// Delete a VTEP that no tunnel ends at
    Del {
        /// Its name
        name: String,
        /// Do nothing if there is none of that name
        #[arg(long)]
        if_exists: bool,
    },
    /// Change a VTEP
    Set {
        /// Its name
        name: String,
        /// Give this key its default back
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        #[command(flatten)]
        keys: VtepKeys,
    },
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    match verb {
        Verb::Show { names } => show(client, output, &names),
        Verb::Add { name, if_not_exists, keys } => {
            VTEPS.add(client, output, &name, keys.0, if_not_exists)
        }
        Verb::Del { name, if_exists } => VTEPS.del(client, output, &name, if_exists),
        Verb::Set { name, unset, keys } => VTEPS.set(client, output, &name, keys.0, &unset),
    }
}

fn show(client: &Client, output: &Output, names: &[String]) -> VerbDone {
    let vteps = VTEPS.get::<VtepStatus>(client, names, &[])?;
    output.list(
        &vteps,
        &[
            Column::new("NAME", |vtep: &VtepStatus| vtep.name.clone()),
            Column::new("LOCAL", |vtep| vtep.local.to_string()),
            Column::new("STATE", |vtep| vtep.state.name().into()),
            Column::new("UDP-PORTS", udp_ports),
            Column::new("GRE", |vtep| yes(vtep.gre)),
            Column::number("TUNNELS", |vtep| vtep.tunnels.to_string()),
            Column::number("PEERS", |vtep| vtep.peers.to_string()),
            Column::number("RX", |vtep| vtep.counters.rx_frames.to_string()),
            Column::number("TX", |vtep| vtep.counters.tx_frames.to_string()),
            Column::number("DROPS", |vtep| vtep.counters.drops.to_string()),
            Column::wide_number("ENTROPY-PORTS", |vtep| vtep.entropy_ports.to_string()),
            Column::wide_number("RX-BYTES", |vtep| vtep.counters.rx_bytes.to_string()),
            Column::wide_number("TX-BYTES", |vtep| vtep.counters.tx_bytes.to_string()),
            Column::wide("ORIGIN", |vtep| vtep.origin.name().into()),
            Column::wide("BY-REASON", |vtep| by_reason(&vtep.drops)),
            Column::new("REASON", |vtep| {
                vtep.reason.clone().unwrap_or_else(|| vtep.lost.join("; "))
            }),
        ],
    )?;
    Ok(None)
}

fn udp_ports(vtep: &VtepStatus) -> String {
    vtep.udp_ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}
