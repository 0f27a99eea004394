//! CPU time that a switch's workers wanted and did not get: what a machine gives to somebody else loses
//! frames that are not the switch's to lose.

use std::time::Duration;

use anyhow::{Context, Result};

use super::sut::Running;
use crate::dpdk::worker::Worker;
use crate::machine;

/// The threads of a switch that carry frames.
///
/// # Errors
/// It is no process that was started here, or has no such threads.
pub(super) fn workers(running: &Running, cpus: &[u16]) -> Result<Vec<Worker>> {
    let process = running.pid().context("a switch without a process")?;
    cpus.iter().map(|cpu| Worker::find(process, *cpu)).collect()
}

/// Who is watched.
#[derive(Debug, Default)]
pub(super) struct Watched {
    threads: Vec<Worker>,
    cpus: Vec<u16>,
}

impl Watched {
    /// The workers of a switch on these CPUs; nobody, where they are not known.
    pub(super) fn of(running: &Running, cpus: &[u16]) -> Self {
        match workers(running, cpus) {
            Ok(threads) => Self { threads, cpus: cpus.to_vec() },
            Err(_) => Self::default(),
        }
    }

    /// How long they have been without a CPU, in all: what the kernel gave to other threads
    /// (`schedstat`), and what a hypervisor gave to other guests.
    pub(super) fn without_cpu(&self) -> Duration {
        let waited = self.threads.iter().filter_map(|worker| worker.waited().ok());
        let stolen = self.cpus.iter().filter_map(|cpu| machine::stolen(*cpu));
        waited.chain(stolen).sum()
    }
}
