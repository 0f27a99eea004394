//! Desired state, typed, and the snapshot of it that workers read.

mod flood;
mod mirror;
pub mod pci;
mod snapshot;
mod spec;
mod tunnel;

pub use mirror::{Direction, MirrorSpec};
pub use snapshot::{
    BridgeConf, Egress, PortConf, PortState, PortVlans, Snapshot, VID_MAX, VlanSet,
};
pub use spec::{BridgeSpec, Netns, PortKind, PortSpec, PortType, Rate, VhostMode, VlanSpec};
pub use tunnel::{Dscp, InnerTags, PeerPolicy, Ttl, TunnelKind, TunnelSpec, TunnelType, VtepSpec};
