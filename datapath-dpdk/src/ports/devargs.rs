//! Ports of type `dpdk`: what is wrong with their devices, before and after DPDK was asked.

use std::fs;
use std::path::{Path, PathBuf};

use switch_core::config::pci::{self, DRIVERS_FOR_PROGRAMS};
use switch_core::datapath::BackendError;

use crate::error::DpdkError;

/// Linux's number for "no such device".
const ENODEV: i32 = 19;

/// The kernel's device that a vdev is made for, if the driver is one of those that need one.
pub(super) fn kernel_device(devargs: &str) -> Option<&str> {
    let needs = ["net_af_packet", "net_af_xdp"].iter().any(|driver| devargs.starts_with(driver));
    devargs.split(',').skip(1).filter(|_| needs).find_map(|arg| arg.strip_prefix("iface="))
}

/// What `net_tap` knows (`rte_eth_tap.c`, `valid_arguments`). Other drivers refuse what they do not
/// know; this one makes another device than was asked for.
const NET_TAP_KEYS: &[&str] = &["iface", "remote", "mac", "persist"];

fn ignored_key(devargs: &str) -> Option<&str> {
    let mut keys = devargs.split(',').skip(1).map(|arg| arg.split('=').next().unwrap_or(arg));
    keys.find(|key| devargs.starts_with("net_tap") && !NET_TAP_KEYS.contains(key))
}

/// `vhost_user_setup` of `net_virtio_user` accepts its peer before it returns.
fn waits_for_its_peer(devargs: &str) -> bool {
    devargs.starts_with("net_virtio_user") && devargs.split(',').any(|arg| arg == "server=1")
}

/// Whether a device may have no more than one queue in each direction. `net_memif` takes queues that
/// the far end lacks for its first one (`memif_get_ring_from_queue`): frames would come twice, and
/// overwrite one another.
pub(crate) fn has_one_queue(devargs: &str) -> bool {
    name(devargs).starts_with("net_memif")
}

/// The device's name in DPDK.
pub(crate) fn name(devargs: &str) -> String {
    let name = devargs.split(',').next().unwrap_or_default();
    pci::address(devargs).unwrap_or_else(|| name.strip_prefix("vdev:").unwrap_or(name).to_owned())
}

/// Looks at the system before DPDK does, which says little of what it finds.
///
/// # Errors
/// The device is not there, or not left to DPDK.
pub(crate) fn check(devargs: &str) -> Result<(), BackendError> {
    if let Some(device) = kernel_device(devargs)
        && !Path::new("/sys/class/net").join(device).exists()
    {
        return Err(BackendError::NotThere { what: format!("device {device}") });
    }
    let failed = |cause: String, hint: String| BackendError::Failed {
        attempted: format!("attaching the device {}", name(devargs)),
        cause,
        hint: Some(hint),
    };
    if let Some(key) = ignored_key(devargs) {
        return Err(failed(
            format!("net_tap has no argument {key:?}, and ignores all others because of it"),
            format!("its arguments are {}", NET_TAP_KEYS.join(", ")),
        ));
    }
    if waits_for_its_peer(devargs) {
        let cause = "with server=1 DPDK waits until somebody connects to its socket, and nothing \
                     else of the switch goes on meanwhile";
        return Err(failed(cause.into(), "let the far end serve the socket (server=0)".into()));
    }
    pci::address(devargs).map_or(Ok(()), |address| check_pci(&address, Path::new("/sys")))
}

fn check_pci(address: &str, sys: &Path) -> Result<(), BackendError> {
    let device = sys.join("bus/pci/devices").join(address);
    if !device.exists() {
        return Err(BackendError::NotThere { what: format!("PCI device {address}") });
    }
    let link = |name: &str| fs::read_link(device.join(name)).ok();
    let last = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let driver = link("driver").and_then(last);
    let failed = |cause: String, hint: String| BackendError::Failed {
        attempted: format!("attaching the PCI device {address}"),
        cause,
        hint: Some(hint),
    };
    let bind = format!(
        "give it to programs: dpdk-devbind.py -b vfio-pci {address}  (or: driverctl set-override \
         {address} vfio-pci). The host loses it"
    );
    match driver.as_deref() {
        None => Err(failed("no kernel driver has it".into(), bind)),
        Some("vfio-pci") if link("iommu_group").is_none() => {
            let cause = "it is bound to vfio-pci, and the machine has no IOMMU or does not use it";
            let hint = "turn the IOMMU on in the firmware and boot with intel_iommu=on iommu=pt \
                        (amd_iommu=on); or, without protection of memory: \
                        echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
            Err(failed(cause.into(), hint.into()))
        }
        Some(driver) if DRIVERS_FOR_PROGRAMS.contains(&driver) => Ok(()),
        Some(driver) => Err(failed(format!("the kernel's driver {driver} has it"), bind)),
    }
}

/// What DPDK refused, for an operator.
pub(crate) fn refused(error: DpdkError, devargs: &str) -> BackendError {
    if error.errno() == Some(ENODEV) {
        return BackendError::NotThere { what: format!("the DPDK device {devargs}") };
    }
    let hint = match name(devargs).strip_prefix("net_") {
        Some(_) => {
            "compare with the arguments of the driver: \
                    https://doc.dpdk.org/guides-22.11/nics/"
        }
        None => "look at it: dpdk-devbind.py --status-dev net",
    };
    error.into_backend(Some(hint))
}

/// Two ports cannot have one device.
pub(crate) fn taken(name: &str) -> BackendError {
    BackendError::Failed {
        attempted: format!("attaching the device {name}"),
        cause: "another port has it".into(),
        hint: Some(
            "see: vswitch-ctl port show ; a vdev may have any name that begins with its \
                    driver's"
                .into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn addresses_and_names() {
        for (devargs, wanted) in [
            ("0000:3b:02.0", "0000:3b:02.0"),
            ("3B:2.1,mac=1", "0000:3b:02.1"),
            ("pci:0001:00:1f.7", "0001:00:1f.7"),
            ("net_tap0,iface=a.b", "net_tap0"),
            ("vdev:net_null0", "net_null0"),
            ("net_x:y.z", "net_x:y.z"),
            ("", ""),
            ("1:2:3:4.5", "1:2:3:4.5"),
        ] {
            assert_eq!(name(devargs), wanted, "{devargs}");
        }
        assert_eq!(kernel_device("net_af_xdp1,queue_count=2,iface=eth9"), Some("eth9"));
        assert_eq!(kernel_device("net_tap1,iface=eth9"), None, "it makes one");
    }

    #[test]
    fn what_is_wrong_with_a_pci_function_is_told_with_the_command_that_mends_it() {
        let sys = tempfile::tempdir().unwrap();
        let device = sys.path().join("bus/pci/devices/0000:3b:02.0");
        fs::create_dir_all(&device).unwrap();
        let tell = || check_pci("0000:3b:02.0", sys.path());
        let hint = |error: &BackendError| error.hint().unwrap_or_default().to_owned();
        let absent = check_pci("0000:3b:02.1", sys.path()).unwrap_err();
        assert!(matches!(absent, BackendError::NotThere { .. }), "{absent}");

        let error = tell().unwrap_err();
        assert!(hint(&error).contains("dpdk-devbind.py -b vfio-pci 0000:3b:02.0"), "{error}");
        symlink("../../drivers/ixgbe", device.join("driver")).unwrap();
        let error = tell().unwrap_err();
        assert!(error.to_string().contains("driver ixgbe has it"), "{error}");
        assert!(hint(&error).contains("driverctl set-override 0000:3b:02.0"), "{error}");
        fs::remove_file(device.join("driver")).unwrap();
        symlink("../../drivers/vfio-pci", device.join("driver")).unwrap();
        let error = tell().unwrap_err();
        assert!(error.to_string().contains("no IOMMU"), "{error}");
        symlink("../../../kernel/iommu_groups/7", device.join("iommu_group")).unwrap();
        tell().unwrap();
    }
}
