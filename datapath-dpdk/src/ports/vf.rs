//! Virtual functions of NICs (SR-IOV): what their NIC lets through, and when it forgets them.
//!
//! The switch inside the NIC delivers by address, and knows one of each function. So frames for what
//! is behind a bridge never come in, and without a word: a VF is for the underlay. Only one that the
//! NIC trusts may ask for all frames.

use std::fs;
use std::path::Path;

use datapath_tap::{VfRights, vf_rights};
use switch_core::config::pci;
use switch_core::datapath::BackendError;

/// Why a virtual function is closed, and opened anew, whose link came back.
pub(crate) const FORGOTTEN: &str =
    "its link came back: a virtual function is opened anew, as its NIC may have forgotten it";

/// Whether a driver's device is forgotten by its NIC, queues and address, when the physical function
/// is reset: set down and up, given another MTU. The function's driver hears of it by an interrupt
/// alone, which may be lost (QEMU's `igb` raises none for vector 0), and says that the link is up.
pub(crate) fn may_be_forgotten(driver: &str) -> bool {
    matches!(driver, "net_e1000_igb_vf" | "net_ixgbe_vf")
}

/// A virtual function, as sysfs shows it (Documentation/PCI/pci-iov-howto.rst).
#[derive(Debug, PartialEq, Eq)]
struct Vf {
    address: String,
    /// Its number among those of its physical function.
    number: u32,
    /// The kernel's device of the physical function, where the kernel drives that.
    pf: Option<String>,
}

/// Whether a device may be a port of a bridge. What is not sure of it, in words.
///
/// # Errors
/// It is a virtual function that gets frames for its own address only.
pub(crate) fn in_bridge(devargs: &str) -> Result<Option<String>, BackendError> {
    let found = pci::address(devargs).and_then(|address| Vf::find(&address, Path::new("/sys")));
    let Some(vf) = found else { return Ok(None) };
    let rights = vf.pf.as_deref().and_then(|pf| vf_rights(pf, vf.number).ok().flatten());
    vf.judge(rights)
}

impl Vf {
    fn find(address: &str, sys: &Path) -> Option<Self> {
        let physical = sys.join("bus/pci/devices").join(address).join("physfn");
        let number = fs::read_dir(&physical).ok()?.flatten().find_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("virtfn")?.parse().ok()?;
            fs::read_link(entry.path()).ok()?.ends_with(address).then_some(number)
        })?;
        let pf = fs::read_dir(physical.join("net"))
            .ok()
            .and_then(|mut devices| devices.next()?.ok()?.file_name().into_string().ok());
        Some(Self { address: address.to_owned(), number, pf })
    }

    fn judge(&self, rights: Option<VfRights>) -> Result<Option<String>, BackendError> {
        let (address, number) = (&self.address, self.number);
        let Some((pf, rights)) = self.pf.as_deref().zip(rights) else {
            let unsure = "frames for other addresses than its own: unless who drives the physical \
                          function lets them in";
            return Ok(Some(unsure.to_owned()));
        };
        if rights.trusted && !rights.spoof_check {
            return Ok(None);
        }
        Err(BackendError::Failed {
            attempted: format!("making the virtual function {address} a port of a bridge"),
            cause: format!(
                "its NIC lets frames through for its own address only (it is VF {number} of {pf})"
            ),
            hint: Some(format!(
                "make it the uplink of a VTEP: no `bridge` here, and `uplink` there. Or, if the \
                 NIC can: ip link set {pf} vf {number} trust on spoofchk off"
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// VF 1 of `ens1`, which is not trusted.
    fn sysfs(dir: &Path) -> Option<Vf> {
        let devices = dir.join("bus/pci/devices");
        for function in ["0000:3b:00.0/net/ens1", "0000:3b:02.0", "0000:3b:02.1"] {
            fs::create_dir_all(devices.join(function)).unwrap();
        }
        for (number, vf) in ["0000:3b:02.0", "0000:3b:02.1"].into_iter().enumerate() {
            let pf = devices.join("0000:3b:00.0");
            symlink(format!("../{vf}"), pf.join(format!("virtfn{number}"))).unwrap();
            symlink("../0000:3b:00.0", devices.join(vf).join("physfn")).unwrap();
        }
        assert_eq!(Vf::find("0000:3b:00.0", dir), None, "the physical one is none");
        Vf::find("0000:3b:02.1", dir)
    }

    #[test]
    fn a_function_is_known_by_its_number_and_its_nic() {
        let dir = tempfile::tempdir().unwrap();
        let vf = sysfs(dir.path()).unwrap();
        assert_eq!((vf.number, vf.pf.as_deref()), (1, Some("ens1")));
        // A program drives the physical function.
        fs::remove_dir_all(dir.path().join("bus/pci/devices/0000:3b:00.0/net")).unwrap();
        assert_eq!(Vf::find("0000:3b:02.1", dir.path()).unwrap().pf, None);
    }

    #[test]
    fn only_one_that_is_trusted_may_be_in_a_bridge() {
        let dir = tempfile::tempdir().unwrap();
        let mut vf = sysfs(dir.path()).unwrap();
        let rights = |trusted, spoof_check| Some(VfRights { trusted, spoof_check });
        for refused in [rights(false, false), rights(true, true), rights(false, true)] {
            let error = vf.judge(refused).unwrap_err();
            assert!(error.to_string().contains("VF 1 of ens1"), "{error}");
            let hint = error.hint().unwrap();
            assert!(hint.contains("ip link set ens1 vf 1 trust on spoofchk off"), "{hint}");
        }
        assert_eq!(vf.judge(rights(true, false)).unwrap(), None);
        // Nobody can be asked: it works or not, and the port says so.
        assert!(vf.judge(None).unwrap().unwrap().contains("physical"));
        vf.pf = None;
        assert!(vf.judge(rights(true, false)).unwrap().is_some());
    }
}
