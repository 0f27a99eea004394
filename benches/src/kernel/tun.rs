//! A TAP device as a bare program opens it: `include/uapi/linux/if_tun.h`.
#![allow(unsafe_code, reason = "three ioctls that no safe library has")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, ensure};
use nix::libc;

nix::ioctl_write_ptr!(tun_set_iff, b'T', 202, libc::c_int);
nix::ioctl_write_int!(tun_set_offload, b'T', 208);

/// The `struct ifreq` of `TUNSETIFF`: a name, flags, and room for the union's largest member.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// `TUN_F_CSUM`, `TUN_F_TSO4` and `TUN_F_TSO6`.
const TCP_OFFLOADS: libc::c_ulong = 0x01 | 0x02 | 0x04;
/// `TUN_F_USO4` and `TUN_F_USO6`, which Linux has since 6.2.
const UDP_OFFLOADS: libc::c_ulong = 0x20 | 0x40;

/// Makes the TAP device `name`, non-blocking; it goes with its file. With `vnet_hdr` each frame has
/// a header of 10 bytes in front, and the kernel leaves cutting and checksums undone.
pub(super) fn open(name: &str, vnet_hdr: bool) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun")?;
    attach(&file, name, vnet_hdr).with_context(|| format!("cannot make the TAP device {name}"))?;
    Ok(file)
}

fn attach(file: &File, name: &str, vnet_hdr: bool) -> Result<()> {
    ensure!(name.len() < libc::IFNAMSIZ, "a name has at most 15 bytes");
    let header = if vnet_hdr { libc::IFF_VNET_HDR } else { 0 };
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | header) as libc::c_short;
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let argument: *mut Request = &mut request;
    // SAFETY: the file is open and `argument` points to a live request of the size and layout of an
    // ifreq, which the kernel reads and writes the name into; nobody else refers to it.
    unsafe { tun_set_iff(file.as_raw_fd(), argument.cast()) }?;
    if vnet_hdr {
        offload(file, TCP_OFFLOADS | UDP_OFFLOADS).or_else(|_| offload(file, TCP_OFFLOADS))?;
    }
    Ok(())
}

fn offload(file: &File, features: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the file is open and the argument is a plain number.
    unsafe { tun_set_offload(file.as_raw_fd(), features) }?;
    Ok(())
}
