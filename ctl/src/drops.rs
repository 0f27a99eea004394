//! `drops show`.

use clap::Subcommand;
use vswitch_api::client::{Client, query};
use vswitch_api::types::{DropRow, List};

use crate::failure::VerbDone;
use crate::output::{Column, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show how many frames were dropped, by port and reason; -o wide says what to do about it
    Show {
        /// Only on this port
        #[arg(long)]
        port: Option<String>,
        /// Only for this reason; vswitch-drops(7) has them all
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    let Verb::Show { port, reason } = verb;
    let path = query("/v1/drops", &[("port", port.as_deref()), ("reason", reason.as_deref())]);
    let rows = client.get::<List<DropRow>>(&path)?.items;
    output.list(
        &rows,
        &[
            Column::new("PORT", |row: &DropRow| row.port.clone()),
            Column::new("SIDE", |row| row.side.clone()),
            Column::new("REASON", |row| row.reason.clone()),
            Column::number("FRAMES", |row| row.frames.to_string()),
            Column::wide("CAUSE", |row| row.cause.clone()),
            Column::wide("CURE", |row| row.cure.clone()),
        ],
    )?;
    Ok(None)
}
