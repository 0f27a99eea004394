//! The daemon's command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// The virtual switch daemon.
///
/// Stays in the foreground and logs to stderr. SIGTERM and SIGINT stop it; SIGHUP makes it read its
/// configuration file again.
#[derive(Debug, Parser)]
#[command(name = "vswitchd", version, long_version = LONG_VERSION, args_override_self = true)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where the API's socket is made.
    #[arg(long, value_name = "DIR", default_value = "/run/vswitch", env = "VSWITCH_RUN_DIR")]
    pub run_dir: PathBuf,
    /// Where the desired state is kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/vswitch", env = "VSWITCH_STATE_DIR")]
    pub state_dir: PathBuf,
    /// Let a changed configuration file replace objects of the same name that were made through
    /// the API, instead of refusing to start.
    #[arg(long)]
    pub config_wins: bool,
    /// What is logged, instead of what the configuration says: error, warn, info, debug, trace, or
    /// by module as in "info,vswitchd::api=debug".
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How it is logged.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// What `--version` says: also which datapaths are in this build.
const LONG_VERSION: &str = if cfg!(feature = "dpdk") {
    concat!(env!("CARGO_PKG_VERSION"), " with DPDK")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " without DPDK")
};

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text each.
    #[default]
    Text,
    /// One JSON object on a line each.
    Json,
}
