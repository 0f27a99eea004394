//! `vswitchd`: reads its arguments and hands over.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use vswitchd::start::{Args, run};

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.code.exit())
        }
    }
}
