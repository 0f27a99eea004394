//! `bridge show|add|del|set`.

use clap::Subcommand;
use serde_json::{Value as Json, json};
use vswitch_api::Code;
use vswitch_api::client::{Client, path};
use vswitch_api::types::{BridgeStatus, List};

use crate::failure::VerbDone;
use crate::keys::{self, BridgeKeys};
use crate::output::{Column, Output, yes};
use crate::reply::{Tolerate, change};

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
            let mut body = keys.0;
            body.insert("name".into(), json!(name));
            let tolerate = Tolerate::when(if_not_exists, &[Code::Exists]);
            change(client, output, "POST", "/v1/bridges", Some(&body), tolerate)
        }
        Verb::Del { name, if_exists } => {
            let tolerate = Tolerate::when(if_exists, &[Code::NoSuchBridge]);
            let path = path(&["v1", "bridges", &name]);
            change(client, output, "DELETE", &path, None::<&Json>, tolerate)
        }
        Verb::Set { name, unset, keys } => {
            let mut body = keys.0;
            keys::unset(&mut body, &unset);
            let path = path(&["v1", "bridges", &name]);
            change(client, output, "PATCH", &path, Some(&body), Tolerate::NOTHING)
        }
    }
}

fn show(client: &Client, output: &Output, names: &[String]) -> VerbDone {
    let bridges: Vec<BridgeStatus> = if names.is_empty() {
        client.get::<List<_>>("/v1/bridges")?.items
    } else {
        let one = |name: &String| client.get(&path(&["v1", "bridges", name]));
        names.iter().map(one).collect::<Result<_, _>>()?
    };
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
