//! Overlays: VTEPs, tunnels, their peers, and what fits through.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::keyed::{TunnelConfig, VtepConfig};
use super::port::{DropCount, PortCounters, PortState};
use super::reply::Origin;

/// A VTEP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VtepStatus {
    /// Its name.
    pub name: String,
    /// The address that outer packets are sent from and accepted at.
    #[schema(value_type = String)]
    pub local: IpAddr,
    /// How it is. It is a port of the switch, whose frames are outer packets.
    pub state: PortState,
    /// Why it is not up: what was attempted, on what, and the system's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The UDP ports it listens at, ascending.
    pub udp_ports: Vec<u16>,
    /// Whether it listens for GRE.
    pub gre: bool,
    /// Over how many UDP source ports its packets are spread now; fewer than asked for where ports
    /// were in use.
    pub entropy_ports: u64,
    /// How many tunnels end at it.
    pub tunnels: u64,
    /// How many remotes it has, each counted once a protocol.
    pub peers: u64,
    /// Its counters, of outer packets.
    pub counters: PortCounters,
    /// What was dropped, by reason; reasons that never happened are left out.
    pub drops: Vec<DropCount>,
    /// What the system refused and the VTEP works without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Who asked for it.
    pub origin: Origin,
    /// The revision that changed it last.
    pub revision: u64,
    /// As it was asked for.
    pub config: VtepConfig,
}

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TunnelStatus {
    /// Its name.
    pub name: String,
    /// `vxlan`, `geneve`, `gre`, `nvgre` or `erspan`.
    #[serde(rename = "type")]
    pub tunnel_type: String,
    /// The VTEP it ends at.
    pub vtep: String,
    /// VNI, VSID, GRE key or ERSPAN session; absent for GRE without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<u32>,
    /// The UDP port that packets are sent to and accepted at; absent for the others than VXLAN and GENEVE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_port: Option<u16>,
    /// The bridge it is in.
    pub bridge: String,
    /// The one VLAN that it carries; absent if it carries the bridge's untagged traffic, or all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// How it is: as its VTEP, or failed by itself.
    pub state: PortState,
    /// Why it is not up: what was attempted, on what, and the system's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// How many remotes it has: configured, or added by an owner.
    pub remotes: u64,
    /// Largest layer-3 packet in bytes that fits through to every remote.
    pub inner_mtu: u32,
    /// Bytes that an outer packet has around such a packet, the inner Ethernet header included.
    pub overhead: u32,
    /// What passed it.
    pub counters: TunnelCounters,
    /// What was dropped, by reason; reasons that never happened are left out.
    pub drops: Vec<DropCount>,
    /// GENEVE options that arrived last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub received_options: Vec<ReceivedOption>,
    /// Who asked for it.
    pub origin: Origin,
    /// The revision that changed it last.
    pub revision: u64,
    /// As it was asked for.
    pub config: TunnelConfig,
}

/// What passed a tunnel or a remote since vswitchd started: inner frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TunnelCounters {
    /// Frames that came out of it.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that went into it, one for each copy.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames and packets dropped, in either direction.
    pub drops: u64,
    /// FDB entries behind it now.
    pub fdb: u64,
}

/// A GENEVE option that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ReceivedOption {
    /// The remote that sent it.
    #[schema(value_type = String)]
    pub remote: IpAddr,
    /// Its class (IANA "GENEVE Option Class").
    pub class: u16,
    /// Its type; 128 and above is critical.
    #[serde(rename = "type")]
    pub option_type: u8,
    /// Its data, two hexadecimal digits a byte.
    pub data: String,
}

/// A remote of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TunnelPeer {
    /// Its address; for a multicast group, that.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Whether the tunnel's configuration or its VTEP's names it.
    pub configured: bool,
    /// Who added it through the API; several may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// Whether a packet of it was accepted since vswitchd started.
    pub seen: bool,
    /// Largest outer packet in bytes that reaches it, as the underlay says; absent until it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// Largest inner layer-3 packet in bytes that fits through to it.
    pub inner_mtu: u32,
    /// What passed it, in all tunnels of this protocol and VTEP.
    pub counters: TunnelCounters,
    /// What was dropped of it, by reason, in all tunnels of this protocol and VTEP.
    pub drops: Vec<DropCount>,
}

/// Remotes to add to a tunnel or to delete from it. They are volatile: not part of the
/// configuration, and gone when vswitchd stops. What is there already, or not, is no error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PeersRequest {
    /// Who they belong to; `api` if left out. Only an owner's own are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Their addresses.
    #[schema(value_type = Vec<String>)]
    pub remotes: Vec<IpAddr>,
}

/// What became of remotes that were to be added or deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PeersReply {
    /// How many were added or deleted.
    pub done: u64,
}

/// What fits through tunnels, and which ports ask for more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MtuReply {
    /// One row for each tunnel and each different MTU of the underlay to its remotes.
    pub items: Vec<TunnelMtu>,
    /// The ports of bridges that tunnels are in.
    pub ports: Vec<PortMtu>,
}

/// What fits through a tunnel: `inner-mtu` is `underlay-mtu` without `overhead`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TunnelMtu {
    /// The tunnel.
    pub tunnel: String,
    /// Its type.
    #[serde(rename = "type")]
    pub tunnel_type: String,
    /// The first of the remotes that the row is for; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub remote: Option<IpAddr>,
    /// How many remotes the row is for.
    pub remotes: u64,
    /// Largest outer packet in bytes that reaches them.
    pub underlay_mtu: u32,
    /// What the outer packet has around the inner layer-3 packet.
    pub overhead: Overhead,
    /// Largest inner layer-3 packet in bytes.
    pub inner_mtu: u32,
}

/// What an outer packet has around the inner layer-3 packet, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Overhead {
    /// Outer IP header: 20 for IPv4, 40 for IPv6.
    pub outer_ip: u32,
    /// Outer UDP header: 8 for VXLAN and GENEVE, or else 0.
    pub udp: u32,
    /// Tunnel header, without options.
    pub tunnel: u32,
    /// GENEVE options.
    pub options: u32,
    /// Inner Ethernet header: 14.
    pub inner_ethernet: u32,
    /// Inner VLAN tag: 4 if the tunnel keeps tags.
    pub kept_tag: u32,
}

impl Overhead {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> u32 {
        let outer = self.outer_ip.saturating_add(self.udp);
        let tunnel = self.tunnel.saturating_add(self.options);
        let inner = self.inner_ethernet.saturating_add(self.kept_tag);
        outer.saturating_add(tunnel).saturating_add(inner)
    }
}

/// Whether a port's MTU fits through the tunnels of its bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortMtu {
    /// The port.
    pub port: String,
    /// Its bridge.
    pub bridge: String,
    /// Its MTU in bytes; absent until it was open once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Largest layer-3 packet in bytes that fits through every tunnel of the bridge.
    pub allowed: u32,
    /// The tunnel that allows no more.
    pub tunnel: String,
    /// Whether the port's MTU is no larger.
    pub fits: bool,
}
