//! `vlan show|add|del`.

use clap::Subcommand;
use serde_json::Value as Json;
use vswitch_api::Code;
use vswitch_api::client::{Client, path, query};
use vswitch_api::types::{List, VlanMode, VlanRequest, VlanRow};

use crate::failure::VerbDone;
use crate::output::{Column, Output};
use crate::reply::{Tolerate, change};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show which port is in which VLAN
    Show {
        /// Only this port
        #[arg(long)]
        port: Option<String>,
        /// Only ports in this bridge
        #[arg(long)]
        bridge: Option<String>,
    },
    /// Put a port into a VLAN: tagged and beside others, unless told otherwise
    Add {
        /// The VLAN
        #[arg(value_parser = clap::value_parser!(u16).range(1..=4094))]
        vlan: u16,
        /// The port
        #[arg(long)]
        port: String,
        /// Untagged, and in no other
        #[arg(long, conflicts_with = "native")]
        access: bool,
        /// Untagged, beside others
        #[arg(long)]
        native: bool,
    },
    /// Take a port out of a VLAN
    Del {
        /// The VLAN
        #[arg(value_parser = clap::value_parser!(u16).range(1..=4094))]
        vlan: u16,
        /// The port
        #[arg(long)]
        port: String,
        /// Do nothing if it is not in it
        #[arg(long)]
        if_exists: bool,
    },
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    match verb {
        Verb::Show { port, bridge } => show(client, output, port.as_deref(), bridge.as_deref()),
        Verb::Add { vlan, port, access, native } => {
            let mode = match (access, native) {
                (true, _) => VlanMode::Access,
                (_, true) => VlanMode::Native,
                _ => VlanMode::Trunk,
            };
            let body = VlanRequest { port, vlan, mode };
            change(client, output, "POST", "/v1/vlans", Some(&body), Tolerate::NOTHING)
        }
        Verb::Del { vlan, port, if_exists } => {
            let tolerate = Tolerate::when(if_exists, Code::NoSuchVlan);
            let path = path(&["v1", "vlans", &port, &vlan.to_string()]);
            change(client, output, "DELETE", &path, None::<&Json>, tolerate)
        }
    }
}

fn show(client: &Client, output: &Output, port: Option<&str>, bridge: Option<&str>) -> VerbDone {
    let path = query("/v1/vlans", &[("port", port), ("bridge", bridge)]);
    let rows = client.get::<List<VlanRow>>(&path)?.items;
    output.list(
        &rows,
        &[
            Column::new("BRIDGE", |row: &VlanRow| row.bridge.clone()),
            Column::new("VLAN", |row| match row.last {
                last if last == row.vlan => row.vlan.to_string(),
                last => format!("{}-{last}", row.vlan),
            }),
            Column::new("PORT", |row| row.port.clone()),
            Column::new("MODE", |row| row.mode.name().into()),
        ],
    )?;
    Ok(None)
}
