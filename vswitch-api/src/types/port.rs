//! Bridges and ports: what was asked for, and what became of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::keyed::{BridgeConfig, PortConfig};
use super::reply::Origin;

/// A bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BridgeStatus {
    /// Its name.
    pub name: String,
    /// Ageing time in seconds.
    pub ageing: u64,
    /// Whether source addresses are learned.
    pub learning: bool,
    /// FDB entries in it now.
    pub fdb: u64,
    /// Most learned entries.
    pub max_fdb: u64,
    /// Its ports, by name.
    pub ports: Vec<String>,
    /// Who asked for it.
    pub origin: Origin,
    /// The revision that changed it last.
    pub revision: u64,
    /// As it was asked for.
    pub config: BridgeConfig,
}

/// How a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PortState {
    /// Open, and its link is up.
    Up,
    /// Open, and its link is down.
    Down,
    /// Its device is not there yet.
    Waiting,
    /// It could not be opened.
    Failed,
}

impl PortState {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// A port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortStatus {
    /// Its name.
    pub name: String,
    /// `tap`, `netdev`, `dpdk` or `vhost-user`.
    #[serde(rename = "type")]
    pub port_type: String,
    /// The bridge it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// How it is.
    pub state: PortState,
    /// Why it is not up: what was attempted, on what, and the system's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether its link is up.
    pub link: bool,
    /// Whether the loop guard blocks it now.
    pub blocked: bool,
    /// Its VLANs in words: `-`, `access 10`, `trunk 10,20-29 native 1`.
    pub vlan: String,
    /// Largest layer-3 packet in bytes; absent until it was open once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Its device's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its device's network namespace, if that is not the switch's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Its device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What drives the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// How many queues it has.
    pub queues: u16,
    /// What else its device tells.
    #[serde(default)]
    pub details: DeviceStatus,
    /// The worker that receives from it; absent unless it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u16>,
    /// What it can send unfinished.
    pub offloads: Offloads,
    /// What the system refused and the port works without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Its counters.
    pub counters: PortCounters,
    /// Who asked for it.
    pub origin: Origin,
    /// The revision that changed it last.
    pub revision: u64,
    /// As it was asked for.
    pub config: PortConfig,
}

/// What a port's device tells of itself; absent is what it does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceStatus {
    /// Receive queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_queues: Option<u16>,
    /// Send queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_queues: Option<u16>,
    /// The NUMA node it is attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u16>,
    /// Whether it takes frames for all addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promiscuous: Option<bool>,
    /// Its speed in Mbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_mbps: Option<u32>,
    /// Offloads in use on the way in, as the driver calls them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rx_offloads: Vec<String>,
    /// Offloads in use on the way out, as the driver calls them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tx_offloads: Vec<String>,
}

/// What a port can send unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Offloads {
    /// Unfinished TCP and UDP checksums.
    pub csum: bool,
    /// TCP super-frames over IPv4.
    pub tso4: bool,
    /// TCP super-frames over IPv6.
    pub tso6: bool,
    /// UDP super-frames.
    pub uso: bool,
}

/// What passed a port since vswitchd started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortCounters {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent: taken by the kernel or driver.
    pub tx_frames: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames dropped, by either side.
    pub drops: u64,
    /// Lost before the switch saw them.
    pub missed_rx: u64,
    /// Lost after the kernel or device took them.
    pub lost_after_tx: u64,
    /// FDB entries that are on the port now.
    pub fdb: u64,
}

/// Everything that is counted on a port. `rx + copied + originated = forwarded + dropped (side in)
/// + consumed`, and `offered = sent + dropped (side out)`, once no frame is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PortStats {
    /// The port.
    pub name: String,
    /// What passed it.
    pub counters: PortCounters,
    /// What happened inside.
    pub inside: CopyCounters,
    /// What was dropped, by reason; reasons that never happened are left out.
    pub drops: Vec<DropCount>,
    /// What its device counts by itself since it was opened, with the driver's names; empty where it
    /// tells nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<DeviceCounter>,
}

/// A counter of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceCounter {
    /// The driver's name for it.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// What happened to a port's frames inside the switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CopyCounters {
    /// Copies made of its frames.
    pub copied: u64,
    /// Frames that the switch made itself.
    pub originated: u64,
    /// Frames that the switch answered itself.
    pub consumed: u64,
    /// Frames of it that were given to another port.
    pub forwarded: u64,
    /// Frames that others gave to it.
    pub offered: u64,
}

/// How often something was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DropCount {
    /// Name of the reason.
    pub reason: String,
    /// How many frames.
    pub frames: u64,
}
