//! Options for the keys of bridges, ports, VTEPs, tunnels and mirrors, from the configuration's key table.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use serde_json::{Map, Value as Json, json};
use vswitch_api::config::{Key, KeyType, Section};

/// The keys of a bridge that were given, with their values as in a request.
#[derive(Debug)]
pub(crate) struct BridgeKeys(pub(crate) Map<String, Json>);

/// The keys of a port that were given, with their values as in a request.
#[derive(Debug)]
pub(crate) struct PortKeys(pub(crate) Map<String, Json>);

/// The keys of a VTEP that were given, with their values as in a request.
#[derive(Debug)]
pub(crate) struct VtepKeys(pub(crate) Map<String, Json>);

/// The keys of a tunnel that were given, with their values as in a request.
#[derive(Debug)]
pub(crate) struct TunnelKeys(pub(crate) Map<String, Json>);

/// The keys of a mirror that were given, with their values as in a request.
#[derive(Debug)]
pub(crate) struct MirrorKeys(pub(crate) Map<String, Json>);

macro_rules! options {
    ($name:ident, $section:expr) => {
        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                augment(command, $section)
            }

            fn augment_args_for_update(command: Command) -> Command {
                augment(command, $section)
            }
        }

        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
                Ok(Self(given(matches, $section)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
                self.0.extend(given(matches, $section));
                Ok(())
            }
        }
    };
}

options!(BridgeKeys, Section::Bridge);
options!(PortKeys, Section::Port);
options!(VtepKeys, Section::Vtep);
options!(TunnelKeys, Section::Tunnel);
options!(MirrorKeys, Section::Mirror);

/// The name is an argument of its own.
fn keys(section: Section) -> impl Iterator<Item = &'static Key> {
    section.keys().filter(|key| key.name != "name")
}

fn augment(command: Command, section: Section) -> Command {
    command.args(keys(section).map(|key| {
        let arg = Arg::new(key.name).long(key.name).help(help(key)).action(ArgAction::Set);
        match key.value {
            KeyType::Choice(words) => arg.value_parser(PossibleValuesParser::new(words)),
            KeyType::Bool => arg
                .value_parser(["true", "false"])
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .hide_possible_values(true)
                .value_name("true|false"),
            other => arg.value_name(placeholder(other)),
        }
    }))
}

/// The first sentence: the manual page of the file has the rest.
fn help(key: &Key) -> String {
    let sentence = key.doc.split(". ").next().unwrap_or(key.doc).trim_end_matches('.');
    if key.applies.is_empty() {
        return sentence.to_owned();
    }
    format!("{sentence} ({} only)", key.applies.join(", "))
}

const fn placeholder(value: KeyType) -> &'static str {
    match value {
        KeyType::Int { .. } => "N",
        KeyType::Limit { .. } => "N|off",
        KeyType::Rate { .. } => "N pps|off",
        KeyType::Duration { .. } => "TIME",
        KeyType::Device => "DEVICE",
        KeyType::Netns => "NETNS",
        KeyType::Path => "PATH",
        KeyType::Vlan => "VLAN",
        KeyType::Vlans => "VLANS|all",
        KeyType::Mac => "MAC",
        KeyType::Name => "NAME",
        KeyType::Names => "NAMES",
        KeyType::Ip => "ADDRESS",
        KeyType::Ips => "ADDRESSES",
        KeyType::OrCopy { .. } => "N|copy",
        KeyType::GeneveOptions => "CLASS:TYPE:DATA",
        _ => "VALUE",
    }
}

fn given(matches: &ArgMatches, section: Section) -> Map<String, Json> {
    let value = |key: &'static Key| {
        let text = matches.get_one::<String>(key.name)?;
        Some((key.name.to_owned(), json_value(key.value, text)))
    };
    keys(section).filter_map(value).collect()
}

/// What does not fit its type goes as text, for the daemon to say what is wrong with it.
fn json_value(value: KeyType, text: &str) -> Json {
    let number = |text: &str| text.parse::<i64>().map_or_else(|_| json!(text), |n| json!(n));
    match value {
        KeyType::Bool => json!(text == "true"),
        KeyType::Int { .. } | KeyType::Limit { .. } | KeyType::Vlan | KeyType::OrCopy { .. } => {
            number(text)
        }
        KeyType::Vlans if text != "all" => {
            text.split(',').map(|part| number(part.trim())).collect()
        }
        KeyType::Texts => json!([text]),
        // Nothing is a list without anything in it, which is not the same as no list.
        KeyType::Ips | KeyType::Names | KeyType::GeneveOptions => {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
        }
        _ => json!(text),
    }
}
