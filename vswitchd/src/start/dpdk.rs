//! The DPDK backend, from what the configuration says.

use datapath_dpdk::memory::{self, Ask, Hugepages, Load};
use datapath_dpdk::{DpdkBackend, DpdkError, Eal, EalConfig, Mempool, MempoolConfig, arguments};
use datapath_tap::TapOptions;
use vswitch_api::Code;
use vswitch_api::config::{Desired, Hugepages as Wanted};

use vswitchd::args::Args;

use super::StartError;

/// Starts the EAL and makes the pool that all ports receive into.
///
/// # Errors
/// Fewer hugepages than were asked for, arguments that contradict the configuration, or what the EAL
/// refuses. Nothing is left then.
pub(super) fn backend(args: &Args, desired: &Desired) -> Result<DpdkBackend, StartError> {
    arguments::check(&desired.dpdk.eal).map_err(|error| {
        StartError::new(Code::InvalidConfig, error.to_string()).with_hint(error.hint)
    })?;
    let cpus = desired.daemon.cpus.as_ref().map(|list| list.cpus().to_vec()).unwrap_or_default();
    let ask = match desired.dpdk.hugepages {
        Wanted::Off => Ask::Off,
        Wanted::Auto => Ask::Auto,
        Wanted::MiB(mib) => Ask::MiB(mib),
    };
    let load = Load { ports: desired.ports.len(), workers: cpus.len().max(1) };
    let node = memory::node_of(&cpus);
    let plan = memory::plan(ask, load, &Hugepages::find(), memory::available(), node)
        .map_err(|few| StartError::new(Code::Local, few.message).with_hint(few.hint))?;
    match &plan.warning {
        Some(warning) => {
            let hint = warning.hint.as_deref().unwrap_or_default();
            tracing::warn!(
                buffers = plan.mbufs,
                "{}: {}; {hint}",
                warning.subject,
                warning.message
            );
        }
        None => tracing::info!(buffers = plan.mbufs, memory = ?plan.memory, "{}", plan.found),
    }
    let config = EalConfig {
        memory: plan.memory,
        avoid_cpus: cpus,
        extra: desired.dpdk.eal.clone(),
        ..EalConfig::default()
    };
    let eal = Eal::init(&config).map_err(|error| refused(error, &config.extra))?;
    let pool =
        MempoolConfig { mbufs: plan.mbufs, numa_node: plan.numa_node, ..MempoolConfig::default() };
    let pool = Mempool::new(eal, &pool).map_err(|error| match error.errno() {
        // Pools have a driver, and it is a plug-in.
        Some(EINVAL | ENOENT) => StartError::new(Code::Local, error.to_string()).with_hint(
            "DPDK's drivers seem not to be installed: apt-get install librte-mempool-ring23 \
             librte-meta-net",
        ),
        _ => refused(error, &[]),
    })?;
    tracing::info!(
        version = Eal::version(),
        hugepages = eal.has_hugepages(),
        buffers = plan.mbufs,
        "DPDK runs"
    );
    let options = TapOptions { run_dir: Some(args.run_dir.clone()), ..TapOptions::default() };
    Ok(DpdkBackend::new(eal, pool)
        .with_kernel_options(options)
        .with_warnings(plan.warning.into_iter().collect()))
}

/// What the EAL refused at the start.
fn refused(error: DpdkError, extra: &[String]) -> StartError {
    let out = StartError::new(Code::Local, error.to_string());
    if error.errno() == Some(ENOMEM) {
        return out.with_hint(
            "another program took the memory meanwhile: start again, or set \
                              hugepages = \"off\" in [dpdk]",
        );
    }
    if extra.is_empty() {
        return out.with_hint(
            "DPDK's own words are in the log above; hugepages = \"off\" in [dpdk] \
                              needs least of the system",
        );
    }
    out.with_hint(format!("look for a mistake in eal = {extra:?} in [dpdk]"))
}

/// Linux's numbers for the errors that mean something to us.
const ENOENT: i32 = 2;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
