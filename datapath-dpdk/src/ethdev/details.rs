//! What an operator may want to know of a device: settings and counters, as the driver tells them.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

use dpdk_sys::{rte_eth_conf, rte_eth_xstat, rte_eth_xstat_name};
use switch_core::datapath::DeviceDetails;

use super::Device;
use crate::error::DpdkError;

/// How the error of [`Device::set_mac`] begins.
pub(crate) const SETTING_MAC: &str = "setting the address of";

/// The most counters of its own that a device is asked for: some have hundreds for each queue.
const COUNTERS_MAX: u32 = 1 << 16;

/// What of `offered` (`flow_type_rss_offloads`) received frames are spread over queues by: addresses
/// and ports, of the inner headers of tunnels where the device sees them. Outer ones do as well with
/// UDP, whose source port differs by flow; all GRE from one remote is for one queue.
pub(super) fn hash_of(offered: u64) -> u64 {
    let kinds = dpdk_sys::VSW_RSS_IP | dpdk_sys::VSW_RSS_TCP | dpdk_sys::VSW_RSS_UDP;
    let (kinds, inner) = (kinds & offered, dpdk_sys::VSW_RSS_INNER);
    // The level alone means nothing.
    if kinds != 0 { kinds | offered & inner } else { 0 }
}

/// Whether a driver is for virtual functions (SR-IOV): `net_e1000_igb_vf`, `net_iavf`.
pub(super) fn is_virtual_function(driver: &str) -> bool {
    driver.ends_with("vf")
}

impl Device {
    /// Its queues, node, speed, and the offloads in use.
    pub fn details(&self) -> DeviceDetails {
        let (rx, tx) = self.queues();
        let port = self.open.port;
        let mut conf = MaybeUninit::<rte_eth_conf>::zeroed();
        // SAFETY: an open port; the structure is written.
        unsafe { dpdk_sys::rte_eth_dev_conf_get(port, conf.as_mut_ptr()) };
        // SAFETY: C integers, enums with a zero value and null pointers; zeroed before.
        let conf = unsafe { conf.assume_init() };
        // SAFETY: an open port. What the driver does not know is SOCKET_ID_ANY, -1.
        let node = unsafe { dpdk_sys::rte_eth_dev_socket_id(port) };
        // SAFETY: an open port. Neither 0 nor 1 is what a driver without the notion says.
        let promiscuous = unsafe { dpdk_sys::rte_eth_promiscuous_get(port) };
        // SAFETY: an open port.
        let mbps = unsafe { dpdk_sys::vsw_eth_link_mbps(port) };
        // SAFETY: no precondition; the answer is never null.
        let mut rx_offloads = names(conf.rxmode.offloads, |bit| unsafe {
            dpdk_sys::rte_eth_dev_rx_offload_name(bit)
        });
        if conf.rx_adv_conf.rss_conf.rss_hf & dpdk_sys::VSW_RSS_INNER != 0 {
            rx_offloads.push("RSS_INNER".to_owned());
        }
        DeviceDetails {
            rx_queues: Some(rx),
            tx_queues: Some(tx),
            numa_node: u16::try_from(node).ok(),
            promiscuous: (0..=1).contains(&promiscuous).then_some(promiscuous == 1),
            // 0 is none, the largest number an unknown one.
            link_mbps: Some(mbps).filter(|mbps| !matches!(*mbps, 0 | u32::MAX)),
            rx_offloads,
            // SAFETY: as above.
            tx_offloads: names(conf.txmode.offloads, |bit| unsafe {
                dpdk_sys::rte_eth_dev_tx_offload_name(bit)
            }),
        }
    }

    /// Gives it another address.
    ///
    /// # Errors
    /// What the driver refuses; many have no such function.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), DpdkError> {
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: an open port; the address is read.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(self.open.port, &mut address) };
        self.open.check(SETTING_MAC, code)
    }

    /// Lets in frames to these multicast addresses, and no more to those of the last call. Without
    /// effect where all frames come in, and where the driver has no such function.
    ///
    /// # Errors
    /// What the driver refuses: more groups than the NIC has room for.
    pub fn set_groups(&self, groups: &[[u8; 6]]) -> Result<(), DpdkError> {
        let mut list: Vec<_> =
            groups.iter().map(|&addr_bytes| dpdk_sys::rte_ether_addr { addr_bytes }).collect();
        let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
        // SAFETY: an open port; so many addresses are read.
        let code = unsafe {
            dpdk_sys::rte_eth_dev_set_mc_addr_list(self.open.port, list.as_mut_ptr(), count)
        };
        if code == -super::ENOTSUP {
            return Ok(());
        }
        self.open.check("letting multicast groups into", code)
    }

    /// What it counts by itself (`xstats`), with the driver's names. Empty if it has nothing of the
    /// kind.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let port = self.open.port;
        // SAFETY: an open port; without room the answer is how many there are.
        let count = unsafe { dpdk_sys::rte_eth_xstats_get_names(port, std::ptr::null_mut(), 0) };
        let count = u32::try_from(count).unwrap_or(0).min(COUNTERS_MAX);
        let mut names = vec![rte_eth_xstat_name { name: [0; 64] }; count as usize];
        let mut values = vec![rte_eth_xstat { id: 0, value: 0 }; count as usize];
        // SAFETY: an open port; there is room for `count` names.
        let named = unsafe { dpdk_sys::rte_eth_xstats_get_names(port, names.as_mut_ptr(), count) };
        // SAFETY: an open port; there is room for `count` values.
        let valued = unsafe { dpdk_sys::rte_eth_xstats_get(port, values.as_mut_ptr(), count) };
        // More than there is room for means that nothing was written: queues were added meanwhile.
        let written =
            |n: i32| usize::try_from(n).ok().filter(|n| *n <= count as usize).unwrap_or(0);
        names.truncate(written(named));
        values.truncate(written(valued));
        let named = |value: &rte_eth_xstat| {
            let name = names.get(usize::try_from(value.id).ok()?)?;
            let bytes = name.name.map(c_char::cast_unsigned);
            let name = CStr::from_bytes_until_nul(&bytes).ok()?;
            Some((name.to_string_lossy().into_owned(), value.value))
        };
        values.iter().filter_map(named).collect()
    }
}

/// The names of the bits that are set.
fn names(bits: u64, name: impl Fn(u64) -> *const c_char) -> Vec<String> {
    let set = (0..64).map(|bit| 1u64 << bit).filter(|bit| bits & bit != 0);
    set.map(|bit| {
        // SAFETY: a terminated string that is part of the library.
        let name = unsafe { CStr::from_ptr(name(bit)) };
        name.to_string_lossy().into_owned()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_spread_by_inner_headers_where_the_device_sees_them() {
        let (ip, udp, inner) =
            (dpdk_sys::VSW_RSS_IP, dpdk_sys::VSW_RSS_UDP, dpdk_sys::VSW_RSS_INNER);
        assert_eq!(hash_of(0), 0);
        assert_eq!(hash_of(inner), 0);
        assert_eq!(hash_of(ip | udp | 1 << 62), ip | udp);
        assert_eq!(hash_of(ip | inner), ip | inner);
        // Both bits of the level: the device can do any.
        assert_eq!(hash_of(ip | 3 << 50), ip | inner);
    }
}
