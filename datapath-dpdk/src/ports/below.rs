//! The kernel's device below a vdev. Its driver looks at it once, when it is opened: `net_af_packet`
//! and `net_af_xdp` say that a link is up whose device was deleted long ago.

use std::fs;
use std::path::{Path, PathBuf};

/// A network device, as sysfs shows it.
#[derive(Debug)]
pub(crate) struct Below {
    device: String,
    dir: PathBuf,
    /// Its index, which another device of the same name has not.
    index: String,
}

impl Below {
    /// The device that is called so now, if there is one.
    pub(crate) fn find(device: &str) -> Option<Self> {
        Self::find_in(Path::new("/sys/class/net"), device)
    }

    fn find_in(all: &Path, device: &str) -> Option<Self> {
        let dir = all.join(device);
        let index = fs::read_to_string(dir.join("ifindex")).ok()?;
        Some(Self { device: device.to_owned(), dir, index })
    }

    /// What became of it, if it is there no more.
    pub(crate) fn trouble(&self) -> Option<String> {
        let is_there = fs::read_to_string(self.dir.join("ifindex")).is_ok_and(|i| i == self.index);
        (!is_there).then(|| format!("the device {} below it was deleted", self.device))
    }

    /// Whether it is up and has a carrier. Of one that is down the kernel does not tell.
    pub(crate) fn carrier(&self) -> bool {
        fs::read_to_string(self.dir.join("carrier")).is_ok_and(|carrier| carrier.trim() == "1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_goes_or_is_another_one() {
        let all = tempfile::tempdir().unwrap();
        assert!(Below::find_in(all.path(), "eth0").is_none());
        let dir = all.path().join("eth0");
        fs::create_dir(&dir).unwrap();
        let write = |file: &str, text: &str| fs::write(dir.join(file), text).unwrap();
        write("ifindex", "7\n");
        write("carrier", "1\n");
        let below = Below::find_in(all.path(), "eth0").unwrap();
        assert_eq!((below.trouble(), below.carrier()), (None, true));
        write("carrier", "0\n");
        assert!(!below.carrier());
        write("ifindex", "8\n");
        let gone = "the device eth0 below it was deleted";
        assert_eq!(below.trouble().as_deref(), Some(gone));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((below.trouble().as_deref(), below.carrier()), (Some(gone), false));
    }
}
