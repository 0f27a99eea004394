//! `mirror show|add|del|set`.

use clap::Subcommand;
use serde_json::Value as Json;
use vswitch_api::Code;
use vswitch_api::client::Client;
use vswitch_api::config::mirror_to_json;
use vswitch_api::types::MirrorStatus;

use crate::failure::VerbDone;
use crate::keys::MirrorKeys;
use crate::object::Kind;
use crate::output::{Column, Output, maybe};
use crate::reply::by_reason;

const MIRRORS: Kind = Kind { plural: "mirrors", missing: Code::NoSuchMirror };

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show mirrors
    Show {
        /// Only these
        names: Vec<String>,
    },
    /// Add a mirror: copy frames of ports or bridges to a port in no bridge
    Add {
        /// Its name
        name: String,
        /// Do nothing if there is one of that name
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        keys: MirrorKeys,
    },
    /// Delete a mirror
    Del {
        /// Its name
        name: String,
        /// Do nothing if there is none of that name
        #[arg(long)]
        if_exists: bool,
    },
    /// Change a mirror
    Set {
        /// Its name
        name: String,
        /// Give this key its default back
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        #[command(flatten)]
        keys: MirrorKeys,
    },
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    match verb {
        Verb::Show { names } => show(client, output, &names),
        Verb::Add { name, if_not_exists, keys } => {
            MIRRORS.add(client, output, &name, keys.0, if_not_exists)
        }
        Verb::Del { name, if_exists } => MIRRORS.del(client, output, &name, if_exists),
        Verb::Set { name, unset, keys } => MIRRORS.set(client, output, &name, keys.0, &unset),
    }
}

fn show(client: &Client, output: &Output, names: &[String]) -> VerbDone {
    let mirrors = MIRRORS.get::<MirrorStatus>(client, names, &[])?;
    output.list(
        &mirrors,
        &[
            Column::new("NAME", |mirror: &MirrorStatus| mirror.name.clone()),
            Column::new("STATE", |mirror| mirror.state.name().into()),
            Column::new("DIRECTION", |mirror| mirror.direction.clone()),
            Column::new("PORTS", |mirror| mirror.ports.join(",")),
            Column::new("BRIDGES", |mirror| mirror.bridges.join(",")),
            Column::new("TO", |mirror| mirror.to.clone()),
            Column::number("FRAMES", |mirror| mirror.frames.to_string()),
            Column::number("DROPS", |mirror| {
                mirror.drops.iter().map(|drops| drops.frames).sum::<u64>().to_string()
            }),
            Column::wide_number("BYTES", |mirror| mirror.bytes.to_string()),
            Column::wide("VLANS", |mirror| key(mirror, "vlans")),
            Column::wide("FILTER", |mirror| key(mirror, "filter")),
            Column::wide("SNAP", |mirror| key(mirror, "snap")),
            Column::wide("ONE-IN", |mirror| mirror.config.0.one_in.to_string()),
            Column::wide("ORIGIN", |mirror| mirror.origin.name().into()),
            Column::wide("BY-REASON", |mirror| by_reason(&mirror.drops)),
            Column::new("REASON", |mirror| maybe(mirror.reason.as_ref())),
        ],
    )?;
    Ok(None)
}

/// A key as it was asked for, if it was.
fn key(mirror: &MirrorStatus, key: &str) -> String {
    match mirror_to_json(&mirror.config.0).get(key) {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Array(items)) => {
            let text = |item: &Json| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            items.iter().map(text).collect::<Vec<_>>().join(",")
        }
        other => maybe(other),
    }
}
