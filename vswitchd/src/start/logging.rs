//! The log: to stderr, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use vswitch_api::Code;

use vswitchd::args::LogFormat;

use super::StartError;

/// Starts logging what `filter` lets through.
pub(super) fn start(filter: &str, format: LogFormat) -> Result<(), StartError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        let message = format!("{filter:?} does not say what is logged: {error}");
        StartError::new(Code::InvalidConfig, message).with_hint(
            "write a level (error, warn, info, debug, trace), or \"info,vswitchd=debug\"",
        )
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    // Fails only if there is a log already: in a test that runs several daemons.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    Ok(())
}
