//! `vswitch-ctl`: the one tool an operator of vswitchd needs.
//!
//! One file or directory a noun. What a command does goes through the daemon's public API; validating
//! a file, replays, the schema and the documents need no daemon, and `doctor` and `support-bundle` look at the
//! machine, too.
#![forbid(unsafe_code)]

mod bridge;
mod bundle;
mod capture;
mod cli;
mod config;
mod cpu;
mod docs;
mod doctor;
mod drops;
mod event;
mod export;
mod failure;
mod fdb;
mod keys;
mod metrics;
mod mirror;
mod mtu;
mod object;
mod output;
mod pcap;
mod port;
mod replay;
mod reply;
mod status;
mod top;
mod trace;
mod tunnel;
mod version;
mod vlan;
mod vtep;

use std::process::ExitCode;

use clap::Parser;
use vswitch_api::client::Client;
use vswitch_api::error::exit;

use cli::{Cli, Noun};
use failure::{Done, Failure};
use output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(cli::with_default_verb(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(failure::usage(&error)),
    };
    let output = Output::new(&cli.global);
    match run(cli, &output) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(failure.tell(&output)),
    }
}

fn run(cli: Cli, output: &Output) -> Done {
    let client = || Client::new(&cli.global.run_dir).map_err(Failure::from);
    match cli.noun {
        Noun::Status => status::show(&client()?, output),
        Noun::Doctor(args) => doctor::run(&client, output, &cli.global.run_dir, &args),
        Noun::Top(args) => top::run(client()?, output, &args),
        Noun::SupportBundle(args) => bundle::run(&client()?, output, &cli.global.run_dir, &args),
        Noun::Bridge { verb } => bridge::run(&client()?, output, verb),
        Noun::Port { verb } => port::run(&client()?, output, verb),
        Noun::Vlan { verb } => vlan::run(&client()?, output, verb),
        Noun::Fdb { verb } => fdb::run(&client()?, output, verb),
        Noun::Tunnel { verb } => tunnel::run(&client()?, output, verb),
        Noun::Vtep { verb } => vtep::run(&client()?, output, verb),
        Noun::Mirror { verb } => mirror::run(&client()?, output, verb),
        Noun::Sflow { verb } => export::run(&client()?, output, "sflow", verb),
        Noun::Ipfix { verb } => export::run(&client()?, output, "ipfix", verb),
        Noun::Mtu { verb } => mtu::run(&client()?, output, verb),
        Noun::Drops { verb } => drops::run(&client()?, output, verb),
        Noun::Trace { verb } => trace::run(&client()?, output, verb),
        Noun::Capture(args) => capture::run(&client()?, output, args),
        Noun::Replay(args) => replay::run(output, &args),
        Noun::Cpu { verb } => cpu::run(&client()?, output, verb),
        Noun::Event(args) => event::run(&client()?, output, &args),
        Noun::Metrics => metrics::run(&client()?, output),
        Noun::Config { verb } => config::run(&client, output, verb),
        Noun::Completion { shell } => docs::completion(output, shell),
        Noun::Man(args) => docs::man(output, &args),
        Noun::Version => version::run(&client()?, output),
    }
    .map(|code| code.unwrap_or(exit::DONE))
}
