//! `sflow show` and `ipfix show`.

use clap::Subcommand;
use vswitch_api::client::Client;
use vswitch_api::types::{ExportStatus, List};

use crate::failure::VerbDone;
use crate::output::{Column, Output, maybe};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show what the collector is told, and what was lost on the way; nothing if there is none
    Show,
}

pub(crate) fn run(client: &Client, output: &Output, protocol: &str, verb: Verb) -> VerbDone {
    let Verb::Show = verb;
    let mut exports = client.get::<List<ExportStatus>>("/v1/exports")?.items;
    exports.retain(|export| export.protocol == protocol);
    output.list(
        &exports,
        &[
            Column::new("COLLECTOR", |export: &ExportStatus| export.collector.to_string()),
            Column::number("ONE-IN", |export| export.one_in.to_string()),
            Column::number("SAMPLES", |export| export.samples.to_string()),
            Column::number("MISSED", |export| export.missed.to_string()),
            Column::number("FLOWS", |export| maybe(export.flows.as_ref())),
            Column::number("DATAGRAMS", |export| export.datagrams.to_string()),
            Column::number("FAILED", |export| export.failed.to_string()),
            Column::wide_number("BYTES", |export| export.bytes.to_string()),
            Column::new("ERROR", |export| maybe(export.error.as_ref())),
        ],
    )?;
    Ok(None)
}
