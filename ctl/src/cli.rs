//! The command table: completions and manual pages follow it too.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use vswitch_api::client::DEFAULT_RUN_DIR;

use crate::output::Format;
use crate::{
    bridge, bundle, capture, config, cpu, docs, doctor, drops, event, export, fdb, mirror, mtu,
    port, replay, top, trace, tunnel, vlan, vtep,
};

const EXIT_CODES: &str = "Exit codes:\n  \
    0 done\n  \
    1 it ran, and the answer is \"no\" or \"different\"\n  \
    2 the command line is wrong\n  \
    3 degraded\n  \
    4 not found\n  \
    5 the daemon cannot be reached\n  \
    6 refused by the daemon\n  \
    7 accepted, but not realised";

/// Look at vswitchd, the virtual switch, and change it
///
/// Nouns come before verbs, and `show` is the verb if there is none.
#[derive(Debug, Parser)]
#[command(name = "vswitch-ctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Where vswitchd keeps its socket
    #[arg(long, global = true, value_name = "DIR", env = "VSWITCH_RUN_DIR",
        default_value = DEFAULT_RUN_DIR, hide_env_values = true)]
    pub(crate) run_dir: PathBuf,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// The same as -o json
    #[arg(short, long, global = true, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Print tables without their head
    #[arg(long, global = true)]
    pub(crate) no_headers: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// How the switch is, in one screen; exits 3 if something is not as it should be
    #[command(visible_alias = "show")]
    Status,
    /// Look whether this machine is as the switch needs it, and what mends it; exits 3 if not
    Doctor(doctor::Args),
    /// Watch rates, drops, workers and the FDB on a terminal
    Top(top::Args),
    /// Pack what helps others to help: configuration, state, counters, log, versions; no secrets
    SupportBundle(bundle::Args),
    /// Bridges: layer-2 domains
    #[command(visible_alias = "br")]
    Bridge {
        #[command(subcommand)]
        verb: bridge::Verb,
    },
    /// Ports of bridges
    Port {
        #[command(subcommand)]
        verb: port::Verb,
    },
    /// Which port is in which VLAN
    Vlan {
        #[command(subcommand)]
        verb: vlan::Verb,
    },
    /// The forwarding database
    Fdb {
        #[command(subcommand)]
        verb: fdb::Verb,
    },
    /// Tunnels: tenant networks that cross hosts
    Tunnel {
        #[command(subcommand)]
        verb: tunnel::Verb,
    },
    /// VTEPs: addresses of this host that tunnels end at
    Vtep {
        #[command(subcommand)]
        verb: vtep::Verb,
    },
    /// Mirrors: copies of frames for whoever looks at traffic
    Mirror {
        #[command(subcommand)]
        verb: mirror::Verb,
    },
    /// Samples for a collector of sFlow, which the table sflow of the configuration sets up
    Sflow {
        #[command(subcommand)]
        verb: export::Verb,
    },
    /// Flows for a collector of IPFIX, which the table ipfix of the configuration sets up
    Ipfix {
        #[command(subcommand)]
        verb: export::Verb,
    },
    /// What fits through tunnels
    Mtu {
        #[command(subcommand)]
        verb: mtu::Verb,
    },
    /// Frames that were dropped, and why
    Drops {
        #[command(subcommand)]
        verb: drops::Verb,
    },
    /// Follow frames through the switch: each thing they meet, and what decided it
    Trace {
        #[command(subcommand)]
        verb: trace::Verb,
    },
    /// Write frames to a pcapng file, or into Wireshark: as they come in and as they leave
    Capture(capture::Args),
    /// Have the switch forward a captured file once more, without a daemon: the same bytes anywhere
    Replay(replay::Args),
    /// Workers and their CPUs
    Cpu {
        #[command(subcommand)]
        verb: cpu::Verb,
    },
    /// What happened
    Event(event::Args),
    /// Prometheus metrics, as text
    Metrics,
    /// The configuration as a whole
    Config {
        #[command(subcommand)]
        verb: config::Verb,
    },
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print or write the manual pages
    Man(docs::ManArgs),
    /// Versions of vswitch-ctl and of the vswitchd that answers
    Version,
}

/// Puts `show` where a noun that has it stands without a verb.
///
/// Only for what cannot be a verb: an unknown word stays for clap to report with the nearest verb.
pub(crate) fn with_default_verb(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<_> = args.into_iter().collect();
    let Some(noun_at) = skip_globals(&args, 1) else { return args };
    let noun = args[noun_at].to_string_lossy().into_owned();
    let table = Cli::command();
    let has_show =
        table.find_subcommand(&noun).is_some_and(|noun| noun.find_subcommand("show").is_some());
    if !has_show {
        return args;
    }
    match skip_globals(&args, noun_at + 1) {
        None => args.push("show".into()),
        Some(at) => {
            let word = args[at].to_string_lossy();
            if word.starts_with('-') && !matches!(&*word, "-h" | "--help" | "-V" | "--version") {
                args.insert(at, "show".into());
            }
        }
    }
    args
}

/// Where the first word is, from `from` on, that is no option of every command.
fn skip_globals(args: &[OsString], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(word) = args.get(at) {
        let with_value = ["-o", "--output", "--run-dir"].iter().any(|opt| word == OsStr::new(opt));
        let text = word.to_string_lossy();
        let joined = text.starts_with("--output=") || text.starts_with("--run-dir=");
        let short = text.starts_with("-o") && text.len() > 2;
        at += match &*text {
            _ if with_value => 2,
            "-j" | "--json" | "--no-headers" => 1,
            _ if joined || short => 1,
            _ => return Some(at),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> String {
        let args = line.split(' ').map(OsString::from);
        let args = with_default_verb(std::iter::once("vswitch-ctl".into()).chain(args));
        let words: Vec<_> = args.iter().skip(1).map(|arg| arg.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn the_table_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn show_is_the_default_verb() {
        assert_eq!(parsed("port"), "port show");
        assert_eq!(parsed("br -j"), "br -j show");
        assert_eq!(parsed("-o json fdb --port web"), "-o json fdb show --port web");
        assert_eq!(
            parsed("--run-dir /x fdb -o wide --vlan 1"),
            "--run-dir /x fdb -o wide show --vlan 1"
        );
        assert_eq!(parsed("port -o wide show web"), "port -o wide show web");
        assert_eq!(parsed("port sohw"), "port sohw");
        assert_eq!(parsed("port --help"), "port --help");
        assert_eq!(parsed("metrics"), "metrics");
        assert_eq!(parsed("nonsense"), "nonsense");
    }
}
