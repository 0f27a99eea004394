//! What tests of the switch and of its backends are made with (feature `test-utils`).
//!
//! - [`loopback`]: a backend whose devices are in-memory rings; a test sits at the far ends.
//! - [`lossy`]: any datapath, behind wires that lose, double, reorder and damage frames.
//! - [`pcap`]: classic capture files, to keep what went over a wire and to replay it.
//! - [`conformance`]: what every [`crate::datapath::Datapath`] has to pass.
//! - [`broken`]: datapaths with one defect each, which prove that the suite sees it.
//! - [`frames`]: frames to send, built plainly, and a reference checksum.
//! - [`fuzz`]: bodies of the fuzz targets.

pub mod broken;
pub mod conformance;
pub mod frames;
pub mod fuzz;
pub mod loopback;
pub mod lossy;
pub mod pcap;
mod signal;

pub use loopback::{Loopback, LoopbackBackend, LoopbackPort, Packet, Wire};
