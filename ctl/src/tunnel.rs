//! `tunnel show|add|del|set|peers`.

use std::net::IpAddr;

use clap::Subcommand;
use vswitch_api::client::{Client, path};
use vswitch_api::types::{
    List, PeersReply, PeersRequest, ReceivedOption, TunnelPeer, TunnelStatus,
};
use vswitch_api::{Code, counted};

use crate::failure::VerbDone;
use crate::keys::TunnelKeys;
use crate::object::Kind;
use crate::output::{Column, Output, maybe, yes};
use crate::reply::by_reason;

const TUNNELS: Kind = Kind { plural: "tunnels", missing: Code::NoSuchTunnel };

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show tunnels; -o wide shows drops by reason and the GENEVE options that arrived
    Show {
        /// Only these
        names: Vec<String>,
        /// Only those in this bridge
        #[arg(long, conflicts_with = "names")]
        bridge: Option<String>,
        /// Only those that end at this VTEP
        #[arg(long, conflicts_with = "names")]
        vtep: Option<String>,
    },
    /// Add a tunnel
    Add {
        /// Its name
        name: String,
        /// Do nothing if there is one of that name
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        keys: TunnelKeys,
    },
    /// Delete a tunnel
    Del {
        /// Its name
        name: String,
        /// Do nothing if there is none of that name
        #[arg(long)]
        if_exists: bool,
    },
    /// Change a tunnel
    Set {
        /// Its name
        name: String,
        /// Give this key its default back
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        #[command(flatten)]
        keys: TunnelKeys,
    },
    /// Show the remotes of a tunnel, or add or delete some until vswitchd stops
    Peers {
        /// The tunnel
        name: String,
        #[command(subcommand)]
        verb: Option<PeersVerb>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeersVerb {
    /// Add remotes until vswitchd stops; `tunnel set NAME --remotes` is for good
    Add {
        /// Their addresses
        #[arg(required = true)]
        addresses: Vec<IpAddr>,
        /// Who they belong to; api if left out
        #[arg(long)]
        owner: Option<String>,
    },
    /// Delete remotes that were added so
    Del {
        /// Their addresses
        #[arg(required = true)]
        addresses: Vec<IpAddr>,
        /// Who they belong to; api if left out
        #[arg(long)]
        owner: Option<String>,
    },
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    match verb {
        Verb::Show { names, bridge, vtep } => show(
            client,
            output,
            &names,
            &[("bridge", bridge.as_deref()), ("vtep", vtep.as_deref())],
        ),
        Verb::Add { name, if_not_exists, keys } => {
            TUNNELS.add(client, output, &name, keys.0, if_not_exists)
        }
        Verb::Del { name, if_exists } => TUNNELS.del(client, output, &name, if_exists),
        Verb::Set { name, unset, keys } => TUNNELS.set(client, output, &name, keys.0, &unset),
        Verb::Peers { name, verb } => {
            let at = path(&["v1", "tunnels", &name, "peers"]);
            match verb {
                None => peers(client, output, &at),
                Some(PeersVerb::Add { addresses, owner }) => {
                    let body = PeersRequest { owner, remotes: addresses };
                    send(client, output, &at, &body, "added")
                }
                Some(PeersVerb::Del { addresses, owner }) => {
                    let body = PeersRequest { owner, remotes: addresses };
                    send(client, output, &format!("{at}/delete"), &body, "deleted")
                }
            }
        }
    }
}

fn show(
    client: &Client,
    output: &Output,
    names: &[String],
    filter: &[(&str, Option<&str>)],
) -> VerbDone {
    let tunnels = TUNNELS.get::<TunnelStatus>(client, names, filter)?;
    output.list(
        &tunnels,
        &[
            Column::new("NAME", |tunnel: &TunnelStatus| tunnel.name.clone()),
            Column::new("TYPE", |tunnel| tunnel.tunnel_type.clone()),
            Column::new("STATE", |tunnel| tunnel.state.name().into()),
            Column::new("VTEP", |tunnel| tunnel.vtep.clone()),
            Column::number("NETWORK", |tunnel| maybe(tunnel.network.as_ref())),
            Column::new("BRIDGE", |tunnel| tunnel.bridge.clone()),
            Column::number("VLAN", |tunnel| maybe(tunnel.vlan.as_ref())),
            Column::number("REMOTES", |tunnel| tunnel.remotes.to_string()),
            Column::number("INNER-MTU", |tunnel| tunnel.inner_mtu.to_string()),
            Column::number("RX", |tunnel| tunnel.counters.rx_frames.to_string()),
            Column::number("TX", |tunnel| tunnel.counters.tx_frames.to_string()),
            Column::number("DROPS", |tunnel| tunnel.counters.drops.to_string()),
            Column::number("FDB", |tunnel| tunnel.counters.fdb.to_string()),
            Column::wide_number("UDP-PORT", |tunnel| maybe(tunnel.udp_port.as_ref())),
            Column::wide_number("OVERHEAD", |tunnel| tunnel.overhead.to_string()),
            Column::wide("ORIGIN", |tunnel| tunnel.origin.name().into()),
            Column::wide("BY-REASON", |tunnel| by_reason(&tunnel.drops)),
            Column::wide("OPTIONS", |tunnel| options(&tunnel.received_options)),
            Column::new("REASON", |tunnel| maybe(tunnel.reason.as_ref())),
        ],
    )?;
    Ok(None)
}

/// As they are configured, with the remote they came from.
fn options(received: &[ReceivedOption]) -> String {
    let words = received.iter().map(|option| {
        let ReceivedOption { remote, class, option_type, data } = option;
        format!("{class:#06x}:{option_type:#04x}:{data} from {remote}")
    });
    words.collect::<Vec<_>>().join(", ")
}

fn peers(client: &Client, output: &Output, path: &str) -> VerbDone {
    let peers = client.get::<List<TunnelPeer>>(path)?.items;
    output.list(
        &peers,
        &[
            Column::new("ADDRESS", |peer: &TunnelPeer| peer.address.to_string()),
            Column::new("FROM", source),
            Column::new("SEEN", |peer| yes(peer.seen)),
            Column::number("PATH-MTU", |peer| maybe(peer.path_mtu.as_ref())),
            Column::number("INNER-MTU", |peer| peer.inner_mtu.to_string()),
            Column::number("RX", |peer| peer.counters.rx_frames.to_string()),
            Column::number("TX", |peer| peer.counters.tx_frames.to_string()),
            Column::number("DROPS", |peer| peer.counters.drops.to_string()),
            Column::number("FDB", |peer| peer.counters.fdb.to_string()),
            Column::wide_number("RX-BYTES", |peer| peer.counters.rx_bytes.to_string()),
            Column::wide_number("TX-BYTES", |peer| peer.counters.tx_bytes.to_string()),
            Column::wide("BY-REASON", |peer| by_reason(&peer.drops)),
        ],
    )?;
    Ok(None)
}

/// Who says that it is a remote; nobody of one that `peers = "any"` let in.
fn source(peer: &TunnelPeer) -> String {
    let configured = peer.configured.then_some("config");
    let all = configured.into_iter().chain(peer.owners.iter().map(String::as_str));
    all.collect::<Vec<_>>().join(",")
}

fn send(client: &Client, output: &Output, path: &str, body: &PeersRequest, done: &str) -> VerbDone {
    let reply = client.send::<_, PeersReply>("POST", path, Some(body))?.body;
    output.object(&reply, || format!("{} {done}\n", counted(reply.done, "remote")))?;
    Ok(None)
}
