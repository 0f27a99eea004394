//! All unsafe code of this crate: system calls that no safe wrapper of `nix` covers.
//!
//! Every function takes borrowed files and slices, so that nothing above can pass a stale
//! descriptor or a wrong length.
#![allow(unsafe_code, reason = "the only module of this crate that may")]

pub(crate) mod bpf;
pub(crate) mod ethtool;
pub(crate) mod packet;
pub(crate) mod tun;
pub(crate) mod udp;

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// An ifreq for the device `name`; `InvalidInput` if the name does not fit.
fn ifreq_named(name: &str) -> io::Result<libc::ifreq> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: ifreq is a C struct of integers, arrays and raw pointers; all zeroes is a valid one.
    let mut req: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(req)
}

/// `setsockopt` with an option that is an int.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    set(fd, level, name, &value)
}

/// `setsockopt` with an option that is an int or a C struct.
fn set<T: Copy>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open while borrowed; pointer and length describe `value`, which
    // the kernel only reads.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, ptr::from_ref(value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
