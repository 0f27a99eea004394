//! `cargo xtask dist`.

use std::process::ExitCode;

use anyhow::Result;

/// Pack a release.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn main(_args: &Args) -> Result<ExitCode> {
    anyhow::bail!("dist is not there yet")
}

pub(crate) fn check() -> Result<String> {
    anyhow::bail!("dist is not there yet")
}
