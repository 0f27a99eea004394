//! The DPDK backend, from what the configuration says.

use datapath_dpdk::{DpdkBackend, DpdkError, Eal, EalConfig, Memory, Mempool, MempoolConfig};
use vswitch_api::Code;
use vswitch_api::config::{Desired, Hugepages};

use super::{Args, StartError};

/// MiB of ordinary memory without hugepages.
const PAGES_MIB: u32 = 256;

/// Starts the EAL and makes the pool that all ports receive into.
///
/// # Errors
/// What the EAL refuses.
pub(super) fn backend(_args: &Args, desired: &Desired) -> Result<DpdkBackend, StartError> {
    let memory = match desired.dpdk.hugepages {
        Hugepages::Off => Memory::Pages { mib: PAGES_MIB },
        Hugepages::Auto => Memory::Huge { reserve_mib: None },
        Hugepages::MiB(mib) => Memory::Huge { reserve_mib: Some(mib) },
    };
    let config = EalConfig { memory, extra: desired.dpdk.eal.clone(), ..EalConfig::default() };
    let failed = |error: DpdkError| StartError::new(Code::Internal, error.to_string());
    let eal = Eal::init(&config).map_err(failed)?;
    let pool = Mempool::new(eal, &MempoolConfig::default()).map_err(failed)?;
    Ok(DpdkBackend::new(eal, pool))
}
