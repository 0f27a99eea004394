//! What has to be restored on an attached netdev, and where that is kept for the case that the
//! process is killed.
//!
//! The silencing itself needs no note: it ends with the process. What outlives it (a device that
//! was brought up, IPv6 that was turned off where the kernel left no better way) is written to
//! `RUN_DIR/netdev/DEVICE` while the device is attached. The next life takes the note over when it
//! attaches the device again, and undoes it if it does not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::link::{LinkChange, Links};

/// What is to be undone on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// It was down before it was attached.
    pub(crate) was_down: bool,
    /// IPv6 was on before it was attached.
    pub(crate) had_ipv6: bool,
}

fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join("netdev")
}

impl Note {
    /// Keeps the note for a next life, if there is something in it.
    pub(crate) fn save(self, run_dir: Option<&Path>, device: &str) -> io::Result<()> {
        let Some(run_dir) = run_dir else { return Ok(()) };
        if self == Self::default() {
            return Ok(());
        }
        fs::create_dir_all(directory(run_dir))?;
        let mut text = String::new();
        if self.was_down {
            text += "was-down\n";
        }
        if self.had_ipv6 {
            text += "had-ipv6\n";
        }
        fs::write(directory(run_dir).join(device), text)
    }

    /// The notes that an earlier life left, by device.
    pub(crate) fn leftovers(run_dir: &Path) -> Vec<(String, Self)> {
        let Ok(entries) = fs::read_dir(directory(run_dir)) else { return Vec::new() };
        let read = |entry: fs::DirEntry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let has = |line| text.lines().any(|l| l == line);
            let note = Self { was_down: has("was-down"), had_ipv6: has("had-ipv6") };
            Some((entry.file_name().into_string().ok()?, note))
        };
        entries.filter_map(Result::ok).filter_map(read).collect()
    }

    /// Deletes the note.
    pub(crate) fn forget(run_dir: Option<&Path>, device: &str) {
        if let Some(run_dir) = run_dir {
            let _ = fs::remove_file(directory(run_dir).join(device));
        }
    }

    /// Puts the device back as the note says.
    pub(crate) fn undo(self, links: &mut Links, index: u32, device: &str) -> io::Result<()> {
        if self.was_down {
            links.change(index, &LinkChange { up: Some(false), ..LinkChange::default() })?;
        }
        if self.had_ipv6 {
            set_ipv6(device, true)?;
        }
        Ok(())
    }
}

fn ipv6_switch(device: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv6/conf").join(device).join("disable_ipv6")
}

/// Whether IPv6 is on for the device.
pub(crate) fn has_ipv6(device: &str) -> bool {
    fs::read_to_string(ipv6_switch(device)).is_ok_and(|s| s.trim() == "0")
}

/// Turns IPv6 on or off for the device.
pub(crate) fn set_ipv6(device: &str, on: bool) -> io::Result<()> {
    fs::write(ipv6_switch(device), if on { "0" } else { "1" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_outlives_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let note = Note { was_down: true, had_ipv6: false };
        note.save(Some(dir.path()), "eth9").unwrap();
        Note::default().save(Some(dir.path()), "eth8").unwrap();
        assert_eq!(Note::leftovers(dir.path()), [("eth9".to_owned(), note)]);
        Note::forget(Some(dir.path()), "eth9");
        assert_eq!(Note::leftovers(dir.path()), []);
        assert_eq!(Note::leftovers(&dir.path().join("nowhere")), []);
    }
}
