//! The switch itself: frames, the forwarding database, bridging and the worker that runs them.
//!
//! Pure logic. There are no sockets, no threads and no clock in here: frames come and go through
//! the [`datapath::Datapath`] trait, and time is an argument. What a backend has to promise is
//! written on the traits and checked by the conformance suite in `testing` (feature `test-utils`).
//!
//! The way of a frame, in one direction and to completion:
//!
//! ```text
//! poll -> rx_burst(port) -> parse -> admit-in -> learn -> lookup -> Verdict
//!                per output:  admit-out -> rewrite -> per-port Batch -> tx_burst
//! ```
#![forbid(unsafe_code)]

pub mod batch;
pub mod bridge;
pub mod clock;
pub mod config;
pub mod datapath;
pub mod drop;
mod egress;
pub mod event;
pub mod fdb;
pub mod frame;
pub mod handover;
pub mod ids;
pub mod mirror;
pub mod segment;
pub mod stats;
pub mod switch;
mod sync;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
pub mod tunnel;
pub mod verdict;
pub mod watch;
pub mod wire;
pub mod worker;

pub use batch::Batch;
pub use clock::Nanos;
pub use drop::DropReason;
pub use ids::{BridgeId, Domain, PeerId, PortId, TunnelId, WorkerId};
