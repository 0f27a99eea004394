//! `bridge show|add|del|set`.

use clap::Subcommand;
use vswitch_api::Code;
use vswitch_api::client::Client;
use vswitch_api::types::BridgeStatus;

use crate::failure::VerbDone;
use crate::keys::BridgeKeys;
use crate::object::Kind;
use crate::output::{Column, Output, yes};

const BRIDGES: Kind = Kind { plural: "bridges", missing: Code::NoSuchBridge };

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show bridges
    Show {
        /// Only these
        names: Vec<String>,
    },
    /// Add a bridge
    Add {
        /// Its name
        name: String,
        /// Do nothing if there is one of that name
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        keys: BridgeKeys,
    },
    /// Delete a bridge that no port is in
    Del {
        /// Its name
        name: String,
        /// Do nothing if there is none of that name
        #[arg(long)]
        if_exists: bool,
    },
    /// Change a bridge
    Set {
        /// Its name
        name: String,
        /// Give this key its default back
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        #[command(flatten)]
        keys: BridgeKeys,
    },
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    match verb {
        Verb::Show { names } => show(client, output, &names),
        Verb::Add { name, if_not_exists, keys } => {
            BRIDGES.add(client, output, &name, keys.0, if_not_exists)
        }
        Verb::Del { name, if_exists } => BRIDGES.del(client, output, &name, if_exists),
        Verb::Set { name, unset, keys } => BRIDGES.set(client, output, &name, keys.0, &unset),
    }
}

fn show(client: &Client, output: &Output, names: &[String]) -> VerbDone {
    let bridges = BRIDGES.get::<BridgeStatus>(client, names, &[])?;
    output.list(
        &bridges,
        &[
            Column::new("NAME", |bridge: &BridgeStatus| bridge.name.clone()),
            Column::number("PORTS", |bridge| bridge.ports.len().to_string()),
            Column::number("FDB", |bridge| bridge.fdb.to_string()),
            Column::number("MAX-FDB", |bridge| bridge.max_fdb.to_string()),
            Column::number("AGEING", |bridge| format!("{}s", bridge.ageing)),
            Column::new("ORIGIN", |bridge| bridge.origin.name().into()),
            Column::wide("LEARNING", |bridge| yes(bridge.learning)),
            Column::wide_number("REVISION", |bridge| bridge.revision.to_string()),
            Column::wide("MEMBERS", |bridge| bridge.ports.join(",")),
        ],
    )?;
    Ok(None)
}
