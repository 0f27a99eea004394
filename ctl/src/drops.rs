//! `drops show`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use vswitch_api::client::{Client, query};
use vswitch_api::types::{DropRow, List};

use crate::capture;
use crate::failure::VerbDone;
use crate::output::{Column, Format, Output};

/// How often `--follow` looks.
const EVERY: Duration = Duration::from_secs(1);

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
        /// Only on ports of this bridge
        #[arg(long)]
        bridge: Option<String>,
        /// Only in this tunnel
        #[arg(long)]
        tunnel: Option<String>,
        /// Stay, and show each second what was dropped in it
        #[arg(short, long)]
        follow: bool,
        /// Write the frames that are dropped from now on to a pcapng file, each with its reason as its
        /// comment; `-` is standard output
        #[arg(long, value_name = "FILE", conflicts_with_all = ["follow", "bridge", "tunnel"])]
        pcap: Option<PathBuf>,
        /// End after so many frames
        #[arg(short, long, value_name = "N", requires = "pcap",
            value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    let Verb::Show { port, reason, bridge, tunnel, follow, pcap, count } = verb;
    if let Some(file) = pcap {
        let path = query(
            "/v1/capture",
            &[("dropped", Some("true")), ("port", port.as_deref()), ("reason", reason.as_deref())],
        );
        let file = Some(&*file).filter(|file| *file != "-");
        return capture::write(client, output, &path, file, count);
    }
    let path = query(
        "/v1/drops",
        &[
            ("port", port.as_deref()),
            ("reason", reason.as_deref()),
            ("bridge", bridge.as_deref()),
            ("tunnel", tunnel.as_deref()),
        ],
    );
    let rows = client.get::<List<DropRow>>(&path)?.items;
    if follow {
        return keep_looking(client, output, &path, rows);
    }
    output.list(&rows, COLUMNS)?;
    Ok(None)
}

const COLUMNS: &[Column<DropRow>] = &[
    Column::new("PORT", |row| row.port.clone()),
    Column::new("SIDE", |row| row.side.clone()),
    Column::new("REASON", |row| row.reason.clone()),
    Column::number("FRAMES", |row| row.frames.to_string()),
    Column::wide("BRIDGE", |row| row.bridge.clone().unwrap_or_default()),
    Column::wide("CAUSE", |row| row.cause.clone()),
    Column::wide("CURE", |row| row.cure.clone()),
];

/// Drops as a table.
pub(crate) fn table(output: &Output, rows: &[DropRow]) -> String {
    output.table(rows, COLUMNS)
}

/// Shows what is new each second, to no end.
fn keep_looking(client: &Client, output: &Output, path: &str, rows: Vec<DropRow>) -> VerbDone {
    let counted = |rows: &[DropRow]| -> BTreeMap<(String, String), u64> {
        rows.iter().map(|row| ((row.port.clone(), row.reason.clone()), row.frames)).collect()
    };
    let mut before = counted(&rows);
    loop {
        std::thread::sleep(EVERY);
        let rows = client.get::<List<DropRow>>(path)?.items;
        let now = counted(&rows);
        let new = rows.into_iter().filter_map(|row| {
            let seen = before.get(&(row.port.clone(), row.reason.clone())).copied();
            let frames = row.frames.saturating_sub(seen.unwrap_or_default());
            (frames > 0).then_some(DropRow { frames, ..row })
        });
        for row in new {
            match output.format {
                Format::Json | Format::Jsonl => output.line(&row)?,
                Format::Table => output.text(&line(&row))?,
                Format::Wide => {
                    output.text(&format!("{}    {}\n    {}\n", line(&row), row.cause, row.cure))?;
                }
            }
        }
        before = now;
    }
}

fn line(row: &DropRow) -> String {
    let DropRow { port, side, reason, frames, .. } = row;
    format!("{frames:>9}  {port:<15}  {side:<3}  {reason}\n")
}
