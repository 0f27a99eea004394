//! `vtep show|add|del|set`.

use clap::Subcommand;
use serde_json::{Value as Json, json};
use vswitch_api::Code;
use vswitch_api::client::{Client, path};
use vswitch_api::types::{List, VtepStatus};

use crate::failure::VerbDone;
use crate::keys::{self, VtepKeys};
use crate::output::{Column, Output, yes};
use crate::reply::{Tolerate, by_reason, change};

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
            let mut body = keys.0;
            body.insert("name".into(), json!(name));
            let tolerate = Tolerate::when(if_not_exists, &[Code::Exists]);
            change(client, output, "POST", "/v1/vteps", Some(&body), tolerate)
        }
        Verb::Del { name, if_exists } => {
            let tolerate = Tolerate::when(if_exists, &[Code::NoSuchVtep]);
            let path = path(&["v1", "vteps", &name]);
            change(client, output, "DELETE", &path, None::<&Json>, tolerate)
        }
        Verb::Set { name, unset, keys } => {
            let mut body = keys.0;
            keys::unset(&mut body, &unset);
            let path = path(&["v1", "vteps", &name]);
            change(client, output, "PATCH", &path, Some(&body), Tolerate::NOTHING)
        }
    }
}

fn show(client: &Client, output: &Output, names: &[String]) -> VerbDone {
    let vteps: Vec<VtepStatus> = if names.is_empty() {
        client.get::<List<_>>("/v1/vteps")?.items
    } else {
        let one = |name: &String| client.get(&path(&["v1", "vteps", name]));
        names.iter().map(one).collect::<Result<_, _>>()?
    };
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
