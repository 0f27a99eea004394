//! What a device cannot honour, by the key that asks for it, and what to do when buffers are short.

use switch_core::config::PortSpec;
use switch_core::datapath::BackendError;

use crate::ethdev::{SETTING_MAC, SETTING_MTU};
use crate::mempool::Mempool;

/// Linux's number for "out of memory".
const ENOMEM: i32 = 12;

/// The same error in words of the port's keys. `errno` is what the driver said.
pub(crate) fn explain(
    error: BackendError,
    errno: Option<i32>,
    spec: &PortSpec,
    pool: Mempool,
) -> BackendError {
    let BackendError::Failed { attempted, cause, hint } = error else { return error };
    let by_key = |key: String, hint: &str| BackendError::Failed {
        attempted: format!("{key}: {attempted}"),
        cause: cause.clone(),
        hint: Some(hint.into()),
    };
    match (spec.mtu, spec.mac) {
        (Some(mtu), _) if attempted.starts_with(SETTING_MTU) => {
            return by_key(format!("mtu = {mtu}"), "name an mtu the device carries, or none");
        }
        (_, Some(mac)) if attempted.starts_with(SETTING_MAC) => {
            let hint = "leave mac out: the device keeps the address it has";
            return by_key(format!("mac = \"{mac}\""), hint);
        }
        _ => {}
    }
    if errno != Some(ENOMEM) {
        return BackendError::Failed { attempted, cause, hint };
    }
    let (free, all) = (pool.available(), pool.size().mbufs);
    let cause = format!("{cause}: {free} of {all} buffers are free");
    let hint = "restart vswitchd, which makes its pool for the ports there are then; or give it \
                more memory: see hugepages in [dpdk], and vswitch-ctl status";
    BackendError::Failed { attempted, cause, hint: Some(hint.into()) }
}
