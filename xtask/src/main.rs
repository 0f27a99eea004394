//! `cargo xtask demo | test | bench | dist | setup`: one door for a person and for CI.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod dist;
mod setup;
mod test;
mod ui;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shows, tests, measures and packs the switch.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the switch at work: two network namespaces and a QEMU guest talk through it.
    Demo(demo::Args),
    /// Run every test and print how long each part took.
    Test(test::Args),
    /// Run a benchmark: core, isolation, restart or another of benches/.
    Bench(bench::Args),
    /// Build a release and pack it as a .deb in target/dist.
    Dist(dist::Args),
    /// Install what the other commands need (they do it by themselves).
    Setup(setup::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(args) => demo::main(&args),
        Command::Test(args) => test::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Dist(args) => dist::main(&args),
        Command::Setup(args) => setup::main(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
