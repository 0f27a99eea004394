//! `/dev/net/tun`: ioctls of `include/uapi/linux/if_tun.h`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use super::ifreq_named;

nix::ioctl_write_ptr!(tun_set_iff, b'T', 202, libc::c_int);
nix::ioctl_write_int!(tun_set_persist, b'T', 203);
nix::ioctl_write_int!(tun_set_offload, b'T', 208);
nix::ioctl_read!(tun_get_iff, b'T', 210, libc::c_uint);
nix::ioctl_write_ptr!(tun_set_vnet_hdr_sz, b'T', 216, libc::c_int);

/// Checksums of TCP and UDP may come unfinished.
pub(crate) const F_CSUM: u32 = 0x01;
/// TCP super-frames over IPv4 may come.
pub(crate) const F_TSO4: u32 = 0x02;
/// TCP super-frames over IPv6 may come.
pub(crate) const F_TSO6: u32 = 0x04;
/// TCP super-frames whose first segment alone has CWR may come.
pub(crate) const F_TSO_ECN: u32 = 0x08;
/// UDP super-frames may come over IPv4 and IPv6 (Linux 6.2; both or neither).
pub(crate) const F_USO: u32 = 0x20 | 0x40;

/// Opens the control device, non-blocking and close-on-exec. The file belongs to the network
/// namespace of the calling thread.
pub(crate) fn open() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
}

/// What a TAP device is to be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Make {
    /// A virtio header goes before each frame (`IFF_VNET_HDR`).
    pub(crate) vnet_hdr: bool,
    /// It may have several queues, each with a file (`IFF_MULTI_QUEUE`). Stays as the device was made.
    pub(crate) multi_queue: bool,
}

/// `TUNSETIFF`: makes the TAP device `name`, or attaches to the one that exists, by another queue
/// where it has some.
pub(crate) fn set_iff(file: &File, name: &str, make: Make) -> io::Result<()> {
    let mut req = ifreq_named(name)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if make.vnet_hdr {
        flags |= libc::IFF_VNET_HDR;
    }
    if make.multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    req.ifr_ifru.ifru_flags = flags as libc::c_short;
    // The ioctl number says `int`; the kernel copies a whole ifreq (`tun_chr_ioctl`).
    let arg: *const libc::ifreq = &req;
    // SAFETY: the file is open, and `arg` points to a live, initialised ifreq, which is what the
    // kernel reads from and writes the name into; nobody else has a reference to it.
    unsafe { tun_set_iff(file.as_raw_fd(), arg.cast()) }?;
    Ok(())
}

/// `TUNGETIFF`: whether the file still has its device, in whatever namespace that is now.
pub(crate) fn is_attached(file: &OwnedFd) -> bool {
    // SAFETY: ifreq is a C struct of integers, arrays and raw pointers; all zeroes is a valid one.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    // The ioctl number says `unsigned int`; the kernel writes a whole ifreq.
    let arg: *mut libc::ifreq = &mut req;
    // SAFETY: the file is open, and `arg` points to a live ifreq that nobody else refers to, which
    // is what the kernel writes.
    unsafe { tun_get_iff(file.as_raw_fd(), arg.cast()) }.is_ok()
}

/// `TUNSETPERSIST`: whether the device outlives its last file.
pub(crate) fn set_persist(file: &impl AsRawFd, persist: bool) -> io::Result<()> {
    // SAFETY: the file is open and the argument is a plain number.
    unsafe { tun_set_persist(file.as_raw_fd(), libc::c_ulong::from(persist)) }?;
    Ok(())
}

/// `TUNSETOFFLOAD`: what the kernel may leave undone in frames it gives us. Holds for the device,
/// not for the file, and so must be set at each attach.
pub(crate) fn set_offload(file: &File, features: u32) -> io::Result<()> {
    // SAFETY: the file is open and the argument is a plain number.
    unsafe { tun_set_offload(file.as_raw_fd(), libc::c_ulong::from(features)) }?;
    Ok(())
}

/// `TUNSETVNETHDRSZ`: the length of the virtio header before each frame.
pub(crate) fn set_vnet_hdr_len(file: &File, len: usize) -> io::Result<()> {
    let len = libc::c_int::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the file is open and the argument points to a live int, which the kernel reads.
    unsafe { tun_set_vnet_hdr_sz(file.as_raw_fd(), &len) }?;
    Ok(())
}

/// The file of a device that `tun-tap` opened, made non-blocking and close-on-exec.
pub(crate) fn adopt(iface: tun_tap::Iface) -> io::Result<File> {
    let fd = iface.into_raw_fd();
    // SAFETY: `into_raw_fd` gave up the only ownership of this open descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(fd.into())
}
