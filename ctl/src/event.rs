//! `event`.

use vswitch_api::client::{Client, query};
use vswitch_api::types::Event;

use crate::failure::VerbDone;
use crate::output::{Format, Output};
use crate::reply::follow;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stay, and show what happens from now on
    #[arg(short, long)]
    follow: bool,
}

pub(crate) fn run(client: &Client, output: &Output, args: &Args) -> VerbDone {
    let path = query("/v1/events", &[("follow", args.follow.then_some("true"))]);
    // One JSON object is only possible for what has an end.
    let collect = output.format == Format::Json && !args.follow;
    let mut collected = Vec::new();
    follow(client, &path, |event: Event| {
        if collect {
            collected.push(event);
            Ok(())
        } else if output.is_json() {
            output.line(&event)
        } else {
            output.text(&words(&event, output))
        }
    })?;
    if collect {
        output.list(&collected, &[])?;
    }
    Ok(None)
}

fn words(event: &Event, output: &Output) -> String {
    let level = event.level.name();
    let pad = " ".repeat(5usize.saturating_sub(level.len()));
    let subject = if event.subject.is_empty() { "" } else { ": " };
    format!(
        "{}  {}{pad}  {:<16}  {}{subject}{}\n",
        event.time,
        output.painted(level),
        event.event,
        event.subject,
        event.message
    )
}
