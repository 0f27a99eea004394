//! Switches on kernel devices side by side: ours, others in user space, and what the kernel does
//! by itself.
//!
//! Every [`Side`](side::Side) of a [`Row`](rows::Row) stands at the same time, each between two
//! network stacks of its own, and is measured in turn. End points run on CPU 0, switches on CPU 1;
//! what the kernel does instead runs where the end points do.

pub mod flows;
pub mod forwarder;
pub mod report;
pub mod rows;
pub mod scene;
pub mod side;
pub mod udp;
pub mod vde;
pub mod work;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The CPU of the end points.
pub const END_POINTS: usize = 0;

/// Binds the calling thread to the CPU of the end points.
fn at_the_end_points() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(END_POINTS)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("cannot bind a thread to CPU 0")
}
