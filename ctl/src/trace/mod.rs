//! `trace`.

mod build;

use std::ops::ControlFlow;

use clap::Subcommand;
use vswitch_api::client::{Client, query};
use vswitch_api::counted;
use vswitch_api::error::exit;
use vswitch_api::types::{Fate, Trace, TraceRequest};

use crate::failure::VerbDone;
use crate::output::{Format, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Follow frames that pass, until interrupted
    Live {
        /// Only frames that meet this, in the words of tcpdump: tcp port 80 and not host 10.0.0.1
        filter: Vec<String>,
        /// Only frames that come in on this port or VTEP
        #[arg(long = "in", value_name = "PORT")]
        in_port: Option<String>,
        /// End after so many frames
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// Of the frames that are meant, follow one in so many
        #[arg(long, value_name = "N")]
        one_in: Option<u32>,
        /// Follow at most so many a second; 100 by default
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
    },
    /// Say what would become of a frame if it came in now, which changes nothing; exits 1 if it would
    /// be dropped
    Frame(build::Args),
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    match verb {
        Verb::Live { filter, in_port, count, one_in, rate } => {
            let filter = filter.join(" ");
            let (one_in, rate) = (one_in.map(|n| n.to_string()), rate.map(|n| n.to_string()));
            let path = query(
                "/v1/trace",
                &[
                    ("filter", (!filter.is_empty()).then_some(filter.as_str())),
                    ("in", in_port.as_deref()),
                    ("one-in", one_in.as_deref()),
                    ("rate", rate.as_deref()),
                ],
            );
            live(client, output, &path, count)
        }
        Verb::Frame(args) => {
            let mut dropped = false;
            for frame in build::frames(&args)? {
                let hex = frame.iter().map(|byte| format!("{byte:02x}")).collect();
                let asked = TraceRequest { in_port: args.in_port.clone(), hex };
                let reply = client.send::<_, Trace>("POST", "/v1/trace/frame", Some(&asked))?;
                dropped |= reply.body.ends.iter().any(|end| end.fate == Fate::Dropped);
                output.object(&reply.body, || words(&reply.body, output))?;
            }
            Ok(dropped.then_some(exit::NO))
        }
    }
}

fn live(client: &Client, output: &Output, path: &str, count: Option<u64>) -> VerbDone {
    // One JSON object is only possible for what has an end.
    let collect = output.format == Format::Json && count.is_some();
    let (mut collected, mut seen) = (Vec::new(), 0);
    let mut printed = Ok(());
    client.lines(path, |trace: Trace| {
        seen += 1;
        if collect {
            collected.push(trace);
        } else if output.is_json() {
            printed = output.line(&trace);
        } else {
            printed = output.text(&words(&trace, output));
        }
        let enough = count.is_some_and(|count| seen >= count);
        if enough || printed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    printed?;
    if collect {
        output.list(&collected, &[])?;
    }
    Ok(None)
}

/// A frame in a line, and a line for each thing that it met.
fn words(trace: &Trace, output: &Output) -> String {
    let mut out = String::new();
    if trace.missed > 0 {
        out.push_str(&format!("(before this, {} not seen)\n", counted(trace.missed, "frame")));
    }
    out.push_str(&format!("{}  {}\n", trace.time, output.bold(&trace.frame)));
    for hop in &trace.hops {
        let by = hop.by.as_ref().map_or_else(String::new, |by| format!("  [{by}]"));
        let step = format!("{:<6}", hop.step.name());
        out.push_str(&format!("  {step}  {}{by}\n", hop.says));
        for line in &hop.rewrite {
            out.push_str(&format!("            {line}\n"));
        }
        if let Some(hint) = &hop.hint {
            out.push_str(&format!("          hint: {hint}\n"));
        }
    }
    if trace.more > 0 {
        out.push_str(&format!("  … and {} more copies or segments\n", trace.more));
    }
    out
}
