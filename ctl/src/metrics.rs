//! `metrics`.

use vswitch_api::client::Client;

use crate::failure::VerbDone;
use crate::output::Output;

/// The same text as the HTTP endpoint, whatever the output format: it has one of its own.
pub(crate) fn run(client: &Client, output: &Output) -> VerbDone {
    output.text(&client.get_text("/v1/metrics")?)?;
    Ok(None)
}
