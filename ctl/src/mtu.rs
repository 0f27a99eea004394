//! `mtu show`.

use clap::Subcommand;
use vswitch_api::client::{Client, query};
use vswitch_api::types::{MtuReply, Overhead, PortMtu, TunnelMtu};

use crate::failure::VerbDone;
use crate::output::{Column, Output, maybe, yes};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show what fits through tunnels, as a sum, and which ports ask for more
    Show {
        /// Only of this tunnel, and of the ports of its bridge
        tunnel: Option<String>,
    },
}

pub(crate) fn run(client: &Client, output: &Output, verb: Verb) -> VerbDone {
    let Verb::Show { tunnel } = verb;
    let reply: MtuReply = client.get(&query("/v1/mtu", &[("tunnel", tunnel.as_deref())]))?;
    output.object(&reply, || {
        let mut out = output.table(
            &reply.items,
            &[
                Column::new("TUNNEL", |row: &TunnelMtu| row.tunnel.clone()),
                Column::new("REMOTE", remote),
                Column::number("INNER-MTU", |row| row.inner_mtu.to_string()),
                Column::new("SUM", sum),
            ],
        );
        if !reply.ports.is_empty() {
            out.push('\n');
            out.push_str(&output.table(
                &reply.ports,
                &[
                    Column::new("PORT", |row: &PortMtu| row.port.clone()),
                    Column::new("BRIDGE", |row| row.bridge.clone()),
                    Column::number("MTU", |row| maybe(row.mtu.as_ref())),
                    Column::number("ALLOWED", |row| row.allowed.to_string()),
                    Column::new("BY", |row| row.tunnel.clone()),
                    Column::new("FITS", |row| yes(row.fits)),
                ],
            ));
        }
        out
    })?;
    Ok(None)
}

/// The first remote of a row, and how many there are beside it.
fn remote(row: &TunnelMtu) -> String {
    match (row.remote, row.remotes) {
        (Some(remote), 2..) => format!("{remote} and {} more", row.remotes - 1),
        (remote, _) => maybe(remote.as_ref()),
    }
}

/// `1500 underlay − 20 IPv4 − 8 UDP − 8 VXLAN − 14 Ethernet = 1450`.
fn sum(row: &TunnelMtu) -> String {
    let Overhead { outer_ip, udp, tunnel, options, inner_ethernet, kept_tag } = row.overhead;
    let ip = if outer_ip == 20 { "IPv4" } else { "IPv6" };
    let header = row.tunnel_type.to_uppercase();
    let parts = [
        (outer_ip, ip),
        (udp, "UDP"),
        (tunnel, header.as_str()),
        (options, "options"),
        (inner_ethernet, "Ethernet"),
        (kept_tag, "VLAN tag"),
    ];
    let parts = parts.iter().filter(|(bytes, _)| *bytes > 0);
    let parts: String = parts.map(|(bytes, what)| format!(" − {bytes} {what}")).collect();
    format!("{} underlay{parts} = {}", row.underlay_mtu, row.inner_mtu)
}
