//! Which offloads a device has now: ioctls of `include/uapi/linux/ethtool.h`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::ifreq_named;

/// `ETHTOOL_GSTRINGS`.
const GSTRINGS: u32 = 0x1b;
/// `ETHTOOL_GFEATURES`.
const GFEATURES: u32 = 0x3a;
/// `ETH_SS_FEATURES`.
const SS_FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const STRING: usize = 32;
/// No kernel has more: `netdev_features_t` has 64 bits.
const FEATURES_MAX: usize = 128;

/// The features that are on for the device `name`, by the kernel's names
/// (`net/ethtool/common.c`), for example `tx-tcp-segmentation`.
pub(crate) fn active_features(socket: BorrowedFd<'_>, name: &str) -> io::Result<Vec<String>> {
    let names = feature_names(socket, name)?;
    // struct ethtool_gfeatures: cmd, size, then per 32 features: available, requested, active,
    // never_changed.
    let blocks = names.len().div_ceil(32);
    let mut buf = vec![0u32; 2 + 4 * (FEATURES_MAX / 32)];
    buf[0] = GFEATURES;
    buf[1] = blocks as u32;
    ioctl(socket, name, &mut buf)?;
    let active = |i: usize| buf.get(2 + 4 * (i / 32) + 2).is_some_and(|w| w >> (i % 32) & 1 == 1);
    Ok(names.into_iter().enumerate().filter(|(i, _)| active(*i)).map(|(_, n)| n).collect())
}

fn feature_names(socket: BorrowedFd<'_>, name: &str) -> io::Result<Vec<String>> {
    // struct ethtool_gstrings: cmd, string_set, len, then the strings. The kernel writes all it
    // has whatever `len` says, at most FEATURES_MAX of them.
    let mut buf = vec![0u32; 3 + FEATURES_MAX * STRING / 4];
    buf[0] = GSTRINGS;
    buf[1] = SS_FEATURES;
    ioctl(socket, name, &mut buf)?;
    let count = (buf[2] as usize).min(FEATURES_MAX);
    let bytes: Vec<u8> = buf[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
    let text = |s: &[u8]| {
        let end = s.iter().position(|b| *b == 0).unwrap_or(s.len());
        String::from_utf8_lossy(&s[..end]).into_owned()
    };
    Ok(bytes.chunks_exact(STRING).take(count).map(text).collect())
}

/// `SIOCETHTOOL` with the command in `buf[0]`; the answer is written over it.
///
/// `buf` must have room for all that the command can answer with.
fn ioctl(socket: BorrowedFd<'_>, name: &str, buf: &mut [u32]) -> io::Result<()> {
    let mut req = ifreq_named(name)?;
    req.ifr_ifru.ifru_data = buf.as_mut_ptr().cast();
    // SAFETY: the socket is open while borrowed; `req` is live and its data pointer leads to
    // `buf`, exclusively borrowed here and, by this function's contract (its two callers above,
    // FEATURES_MAX), as long as the longest answer.
    let done =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, ptr::from_mut(&mut req)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
