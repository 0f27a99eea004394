//! Overlays: tenants' frames in packets between hosts.
//!
//! A **VTEP** is a port of its own, the *underlay port*. It carries IP packets: what is received
//! from it and sent to it starts with the outer IPv4 or IPv6 header. A **tunnel** is a network that
//! the VTEP takes part in: a VNI or key, and the bridge or VLAN that its frames belong to. A
//! **peer** is a remote VTEP, one for each protocol it is spoken to in. Tunnels share peers, and the
//! FDB names one as [`Dest::Remote`](crate::fdb::Dest::Remote).
//!
//! - `table.rs`: VTEPs, peers and tunnels as workers see them
//! - `build.rs`: tunnels made from what is asked for
//! - `counters.rs`: what is counted of them
//! - `outer.rs`, `inner.rs`: templates of outer headers, and what they take over from inner frames
//! - `encap.rs`, `decap.rs`: the two directions
//! - `lane.rs`, `known.rs`: the same for plain frames of one tunnel and peer, at a fraction of the cost
//! - `plain.rs`: what plain inner frames say at first sight
//! - `unfinished.rs`: inner checksums that arrive undone
//! - `too_big.rs`, `mss.rs`: what senders are told of the MTU

#![cfg_attr(
    not(test),
    deny(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)
)]

mod build;
mod counters;
mod decap;
mod encap;
mod inner;
mod known;
mod lane;
pub mod mss;
mod outer;
mod plain;
mod table;
#[cfg(test)]
mod tests;
pub mod too_big;
mod unfinished;

pub use build::TunnelParts;
pub use counters::{OverlayCounters, OverlayTotals};
pub use decap::{Opened, Refused, guess, open};
pub use encap::{EncapFields, encap};
pub use inner::{Inner, InnerIp};
pub use known::Known;
pub use lane::{Lane, LaneHeader};
pub use outer::{ENTROPY_FIRST, OuterHeader};
pub use unfinished::left_unfinished;

pub use table::{
    Accepts, HeaderKind, NetworkKey, Overlay, PeerConf, PeerState, Proto, Sequence, TunnelConf,
    TunnelHeader, TunnelState, VtepConf,
};
