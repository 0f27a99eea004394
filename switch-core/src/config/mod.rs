//! Desired state, typed ([`spec`]).

mod spec;

pub use spec::{BridgeSpec, Netns, PortKind, PortSpec, PortType, Rate, VlanSpec};
