//! `version`.

use serde_json::json;
use vswitch_api::client::Client;
use vswitch_api::types::VersionReply;

use crate::failure::VerbDone;
use crate::output::Output;

/// That no daemon answers is an answer too.
pub(crate) fn run(client: &Client, output: &Output) -> VerbDone {
    let own = env!("CARGO_PKG_VERSION");
    let daemon = client.get::<VersionReply>("/v1/version");
    let version = daemon.as_ref().ok().map(|reply| reply.version.clone());
    output.object(&json!({ "vswitch-ctl": own, "vswitchd": version }), || {
        let daemon = match &daemon {
            Ok(reply) => format!("vswitchd {} (API {})", reply.version, reply.api),
            Err(error) => format!("vswitchd: {}", error.message),
        };
        format!("vswitch-ctl {own}\n{daemon}\n")
    })?;
    Ok(None)
}
