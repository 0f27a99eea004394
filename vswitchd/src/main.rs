//! `vswitchd`: reads its arguments and starts the switch on a backend.
#![forbid(unsafe_code)]

mod start;

use std::process::ExitCode;

use clap::Parser;
use start::run;
use vswitchd::args::Args;

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.code.exit())
        }
    }
}
