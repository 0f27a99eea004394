//! The TAP backend: ports on kernel devices, driven by mio.
//!
//! - A `tap` port is a TAP device that the switch makes or takes over, in its own or another
//!   network namespace.
//! - A `netdev` port is any Ethernet device that is there already (a TAP whose file QEMU has, a
//!   veth end, a NIC), attached through a packet socket, with the host's stack kept off it.
//!
//! - The underlay port of a VTEP is a set of kernel sockets: UDP, and raw ones for GRE.
//!
//! [`TapBackend`] is the control side and [`TapDatapath`] a worker's hot side; both are described by
//! the traits of [`switch_core::datapath`]. Unsafe code is in `sys` alone.
#![deny(unsafe_code)]

mod away;
mod backend;
mod datapath;
mod error;
mod host_tap;
mod io;
mod link;
mod many;
mod netdev;
mod netlink;
mod netns;
mod note;
mod port;
pub mod routes;
mod shared;
mod silence;
mod sys;
mod tap;
#[cfg(feature = "test-utils")]
pub mod testing;
mod underlay;
mod vf;
mod vtep;
mod waker;

pub use backend::{SilenceBy, TapBackend, TapOptions};
pub use datapath::{KernelQueue, TapDatapath, TapQueue};
pub use host_tap::HostTap;
pub use io::Got;
pub use vf::{VfRights, vf_rights};
