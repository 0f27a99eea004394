//! The harness of the end-to-end tests, and of `cargo xtask demo`.
//!
//! Real things at both ends: [`Netns`] holds a Linux stack in a network namespace, [`Guest`] is a
//! QEMU machine with its own kernel, [`Daemon`] is the `vswitchd` that was built, driven through
//! `vswitch-ctl` and its API socket. Everything cleans up when dropped, and carries the process id
//! in its name, so that test runs beside each other do not meet.
//!
//! ```no_run
//! use vswitch_e2e::{Daemon, Netns, ping};
//!
//! # fn main() -> anyhow::Result<()> {
//! let (a, b) = (Netns::new("a")?, Netns::new("b")?);
//! let mut daemon = Daemon::start(&format!(
//!     "version = 1\n[[bridge]]\nname = \"br0\"\n\
//!      [[port]]\nname = \"a0\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{}\"\n\
//!      [[port]]\nname = \"b0\"\ntype = \"tap\"\nbridge = \"br0\"\nnetns = \"{}\"\n",
//!     a.name(),
//!     b.name(),
//! ))?;
//! a.ip("addr add 192.0.2.1/24 dev a0")?;
//! b.ip("addr add 192.0.2.2/24 dev b0")?;
//! assert_eq!(ping(&a, "192.0.2.2", 3)?.received, 3);
//! daemon.settle()?.check()?;
//! daemon.stop()
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod accounting;
pub mod bins;
pub mod capture;
mod command;
mod daemon;
pub mod guest;
mod hugepages;
pub mod incident;
mod log;
mod need;
mod netns;
pub mod overlay;
pub mod ovs;
pub mod raw;
pub mod streams;
mod traffic;

pub use command::{Cmd, Host, Output, Process, run, until, until_ok};
pub use daemon::{Daemon, DaemonSpec, on_dpdk_anyway};
pub use guest::{Backend, Guest, GuestSpec, Nic};
pub use hugepages::Hugepages;
pub use log::{Level, problems};
pub use need::{Need, missing, skip};
pub use netns::Netns;
pub use traffic::{Iperf, IperfServer, Ping, device_counter, iperf3, ping};

/// How big a test is to be: small in CI, the size an issue names with `cargo xtask test --full`.
pub fn size(ci: u64, full: u64) -> u64 {
    if std::env::var_os("VSWITCH_TEST_FULL").is_some_and(|v| v == "1") { full } else { ci }
}
