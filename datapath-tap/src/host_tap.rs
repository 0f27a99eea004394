//! A TAP by which the host's own stack uses a device that a backend drives.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::BackendError;
use switch_core::wire::MacAddr;

use crate::error::refused;
use crate::link::LinkChange;
use crate::sys::tun;
use crate::tap::{self, Tap};

/// An open TAP without offloads: the kernel finishes what it sends. It stays, with its addresses,
/// when it is closed.
#[derive(Debug)]
pub struct HostTap {
    file: File,
    name: String,
    index: u32,
    mac: [u8; 6],
}

impl HostTap {
    /// Makes the TAP `name`, or takes over the one there is, and sets it up. No `mac` leaves what it
    /// has.
    ///
    /// # Errors
    /// A device of that name that is no TAP, and whatever the kernel refuses.
    pub fn open(name: &str, mac: Option<[u8; 6]>, mtu: u16) -> Result<Self, BackendError> {
        let kind =
            PortKind::Tap { device: name.to_owned(), netns: None, persist: true, queues: None };
        let mut spec = PortSpec::new(name, kind, None);
        (spec.mac, spec.mtu) = (mac.map(MacAddr::new), Some(mtu));
        let Tap { mut files, link, .. } = tap::open(name, None, true, &spec, true, 1)?;
        let (name, index, mac) = (link.name, link.index, link.mac);
        Ok(Self { file: files.swap_remove(0).into(), name, index, mac })
    }

    /// The kernel's name of it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's number of it.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// One frame that the kernel sends; `WouldBlock` if there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Gives the kernel a frame, in pieces.
    ///
    /// # Errors
    /// The kernel's: EIO while the device is down.
    pub fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(pieces).map(drop)
    }

    /// Has the device go with its last file.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self) -> Result<(), BackendError> {
        tun::set_persist(&self.file, false)
            .map_err(|e| refused(format!("delete TAP device {}", self.name), &e))
    }

    /// Sets the MTU.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), BackendError> {
        let change = LinkChange { mtu: Some(mtu.into()), ..LinkChange::default() };
        let changed =
            crate::link::Links::open().and_then(|mut links| links.change(self.index, &change));
        changed.map_err(|e| refused(format!("set mtu {mtu} of TAP device {}", self.name), &e))
    }
}

impl AsFd for HostTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
