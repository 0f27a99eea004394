//! `cpu show`.

use clap::Subcommand;
use vswitch_api::client::Client;
use vswitch_api::types::{CpuStatus, List, RxQueue};

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
            Column::number("CYCLES/FRAME", |worker| {
                worker.cycles_per_frame.map_or_else(String::new, |cycles| format!("{cycles:.0}"))
            }),
            Column::number("FRAMES/BURST", |worker| format!("{:.1}", worker.frames_per_burst)),
            Column::wide("CLOCK", |worker| match (&worker.clock, worker.mhz) {
                (Some(clock), Some(mhz)) => format!("{clock} {mhz:.0} MHz"),
                _ => String::new(),
            }),
            Column::new("RX-QUEUES", |worker| queues(&worker.rx_queues)),
        ],
    )?;
    Ok(None)
}

/// `vf0:0,2` for the queues 0 and 2 of port vf0; several ports with spaces between.
fn queues(all: &[RxQueue]) -> String {
    let of_port = |queues: &[RxQueue]| {
        let numbers: Vec<String> = queues.iter().map(|rx| rx.queue.to_string()).collect();
        format!("{}:{}", queues[0].port, numbers.join(","))
    };
    all.chunk_by(|a, b| a.port == b.port).map(of_port).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_listed_by_port() {
        let rx = |port: &str, queue| RxQueue { port: port.into(), queue };
        assert_eq!(queues(&[]), "");
        assert_eq!(queues(&[rx("vf0", 0), rx("vf0", 2), rx("web", 0)]), "vf0:0,2 web:0");
    }
}
