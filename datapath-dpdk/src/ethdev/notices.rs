//! What drivers tell of by themselves, from threads of theirs.
//!
//! A callback may run while its device is being closed, so nothing of a device is reached from it:
//! only a place in a table that is there as long as the process, by the device's number.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use dpdk_sys::{rte_dev_event_type, rte_eth_event_type};

/// Devices that a process may have, as libdpdk was compiled.
const DEVICES: usize = dpdk_sys::RTE_MAX_ETHPORTS as usize;

/// Events that are listened for.
const EVENTS: [rte_eth_event_type; 4] = [
    dpdk_sys::rte_eth_event_type_RTE_ETH_EVENT_INTR_LSC,
    dpdk_sys::rte_eth_event_type_RTE_ETH_EVENT_INTR_RMV,
    dpdk_sys::rte_eth_event_type_RTE_ETH_EVENT_INTR_RESET,
    dpdk_sys::rte_eth_event_type_RTE_ETH_EVENT_QUEUE_STATE,
];

/// What was told of one device since it was opened.
#[derive(Debug)]
pub(super) struct Notices {
    /// How often its link changed.
    pub(super) changes: AtomicU32,
    /// The value of `changes` up to which the far end's abilities are known.
    pub(super) known: AtomicU32,
    /// Send queues that the far end has enabled, as bits.
    pub(super) tx_enabled: AtomicU64,
    pub(super) removed: AtomicBool,
    pub(super) reset: AtomicBool,
}

impl Notices {
    const fn new() -> Self {
        Self {
            changes: AtomicU32::new(0),
            known: AtomicU32::new(u32::MAX),
            tx_enabled: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            reset: AtomicBool::new(false),
        }
    }
}

static TABLE: [Notices; DEVICES] = [const { Notices::new() }; DEVICES];
/// For numbers that no device has.
static NOBODY: Notices = Notices::new();

/// The notices of a device.
pub(super) fn of(port: u16) -> &'static Notices {
    TABLE.get(usize::from(port)).unwrap_or(&NOBODY)
}

/// Whether anybody asks for devices back: told of all of them, as long as the process lives.
static REMOVALS: Once = Once::new();

/// Begins to listen, from nothing.
pub(super) fn listen(port: u16) {
    REMOVALS.call_once(|| {
        // SAFETY: the function is there as long as the process and needs no argument.
        unsafe {
            dpdk_sys::rte_dev_event_callback_register(ptr::null(), Some(wanted), ptr::null_mut())
        };
    });
    let notices = of(port);
    notices.changes.store(0, Ordering::Relaxed);
    notices.known.store(u32::MAX, Ordering::Relaxed);
    notices.tx_enabled.store(0, Ordering::Relaxed);
    notices.removed.store(false, Ordering::Relaxed);
    notices.reset.store(false, Ordering::Release);
    for event in EVENTS {
        // SAFETY: an own port; the function is there as long as the process and needs no argument.
        unsafe {
            dpdk_sys::rte_eth_dev_callback_register(port, event, Some(told), ptr::null_mut())
        };
    }
}

/// Ends that. A callback that runs at the moment is no harm.
pub(super) fn unlisten(port: u16) {
    for event in EVENTS {
        // SAFETY: an own port, with what was registered above.
        unsafe {
            dpdk_sys::rte_eth_dev_callback_unregister(port, event, Some(told), ptr::null_mut())
        };
    }
}

unsafe extern "C" fn told(
    port: u16,
    event: rte_eth_event_type,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    let notices = of(port);
    match event {
        dpdk_sys::rte_eth_event_type_RTE_ETH_EVENT_INTR_LSC => {
            notices.changes.fetch_add(1, Ordering::AcqRel);
            // SAFETY: reads a field of a device that is there, as its driver is calling.
            if unsafe { dpdk_sys::vsw_eth_link_up(port) } == 0 {
                // The driver forgets them without a word.
                notices.tx_enabled.store(0, Ordering::Release);
            }
        }
        dpdk_sys::rte_eth_event_type_RTE_ETH_EVENT_INTR_RMV => {
            notices.removed.store(true, Ordering::Release);
        }
        dpdk_sys::rte_eth_event_type_RTE_ETH_EVENT_INTR_RESET => {
            notices.reset.store(true, Ordering::Release);
        }
        _ => queues_changed(port, notices),
    }
    0
}

/// The kernel wants a device back from `vfio-pci`: somebody unbinds it or takes a virtual function away,
/// and waits until it is closed.
unsafe extern "C" fn wanted(name: *const c_char, event: rte_dev_event_type, _: *mut c_void) {
    if event != dpdk_sys::rte_dev_event_type_RTE_DEV_EVENT_REMOVE || name.is_null() {
        return;
    }
    let mut port = 0;
    // SAFETY: the name is the bus driver's, whole during the call; the number is written.
    if unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name, &mut port) } == 0 {
        of(port).removed.store(true, Ordering::Release);
    }
}

/// Only `net_vhost` tells of queues.
fn queues_changed(port: u16, notices: &Notices) {
    let mut event = dpdk_sys::rte_eth_vhost_queue_event { queue_id: 0, rx: false, enable: false };
    // SAFETY: the structure is written; a device of another driver is an error.
    while unsafe { dpdk_sys::rte_eth_vhost_get_queue_event(port, &mut event) } == 0 {
        // Its "rx" is what the guest sends.
        let Some(bit) = 1u64.checked_shl(event.queue_id.into()).filter(|_| !event.rx) else {
            continue;
        };
        if event.enable {
            notices.tx_enabled.fetch_or(bit, Ordering::AcqRel);
        } else {
            notices.tx_enabled.fetch_and(!bit, Ordering::AcqRel);
        }
    }
}
