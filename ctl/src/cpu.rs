//! `cpu show`.

use clap::Subcommand;
use vswitch_api::client::Client;
use vswitch_api::types::{CpuStatus, List};

use crate::failure::VerbDone;
use crate::output::{Column, Output, maybe};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the workers
    Show,
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    let Verb::Show = verb;
    let workers = client.get::<List<CpuStatus>>("/v1/cpu")?.items;
    output.list(
        &workers,
        &[
            Column::number("WORKER", |worker: &CpuStatus| worker.worker.to_string()),
            Column::number("CPU", |worker| maybe(worker.cpu.as_ref())),
            Column::new("IDLE", |worker| worker.idle.clone()),
            Column::number("BUSY%", |worker| format!("{:.1}", worker.busy_percent)),
            Column::number("FRAMES", |worker| worker.frames.to_string()),
            Column::number("NS/FRAME", |worker| format!("{:.0}", worker.ns_per_frame)),
            Column::number("FRAMES/BURST", |worker| format!("{:.1}", worker.frames_per_burst)),
            Column::new("PORTS", |worker| worker.ports.join(",")),
        ],
    )?;
    Ok(None)
}
