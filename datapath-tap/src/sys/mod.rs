//! All unsafe code of this crate: system calls that no safe wrapper of `nix` covers.
//!
//! Every function takes borrowed files and slices, so that nothing above can pass a stale
//! descriptor or a wrong length.
#![allow(unsafe_code, reason = "the only module of this crate that may")]

pub(crate) mod bpf;
pub(crate) mod ethtool;
pub(crate) mod packet;
pub(crate) mod tun;

use std::io;
use std::mem;

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
