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

use std::io::{self, IoSliceMut};
use std::mem::{self, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use arrayvec::ArrayVec;

/// The most messages that one call sends or receives.
pub(crate) const MANY: usize = 32;

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

/// Bytes aligned as a sockaddr and a cmsghdr have to be.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// Room for the largest of the address structs that are received, `sockaddr_in6`.
const NAME: usize = size_of::<libc::sockaddr_in6>();
/// Room for all control messages that are asked for on one socket: 112 bytes of UDP over IPv6.
const CONTROL: usize = 128;

/// `recvmmsg`: receives messages into as many sets of buffers as there are messages, without waiting;
/// at most [`MANY`]. `read` is told of each its length, also of what found no room, its address and its
/// control messages.
fn receive_messages<'a, 'b: 'a, T>(
    fd: BorrowedFd<'_>,
    buffers: impl Iterator<Item = &'a mut [IoSliceMut<'b>]>,
    mut read: impl FnMut(usize, &[u8], &[u8]) -> T,
) -> io::Result<ArrayVec<T, MANY>> {
    let mut beside = ArrayVec::<(Aligned<NAME>, Aligned<CONTROL>), MANY>::new();
    let mut messages = ArrayVec::<libc::mmsghdr, MANY>::new();
    for buffers in buffers.take(MANY) {
        beside.push((Aligned([0; NAME]), Aligned([0; CONTROL])));
        // SAFETY: mmsghdr is a C struct of pointers and integers; all zeroes is a valid one.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        // IoSliceMut is guaranteed to have the layout of iovec.
        message.msg_hdr.msg_iov = buffers.as_mut_ptr().cast();
        message.msg_hdr.msg_iovlen = buffers.len() as _;
        messages.push(message);
    }
    for (message, (name, control)) in messages.iter_mut().zip(&mut beside) {
        message.msg_hdr.msg_name = ptr::from_mut(&mut name.0).cast();
        message.msg_hdr.msg_namelen = NAME as _;
        message.msg_hdr.msg_control = ptr::from_mut(&mut control.0).cast();
        message.msg_hdr.msg_controllen = CONTROL as _;
    }
    // MSG_TRUNC: the length of the whole message, even if it did not fit.
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    let (at, n) = (messages.as_mut_ptr(), messages.len() as libc::c_uint);
    // SAFETY: the descriptor is open while borrowed; each message points to buffers, a name and room
    // for control messages, all exclusively ours and unmoved until after the call, with true lengths;
    // without a timeout nothing else is read.
    let got = unsafe { libc::recvmmsg(fd.as_raw_fd(), at, n, flags, ptr::null_mut()) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let mut brought =
        |(message, (name, control)): (&libc::mmsghdr, &(Aligned<NAME>, Aligned<CONTROL>))| {
            let written = control.0.get(..message.msg_hdr.msg_controllen).unwrap_or_default();
            read(message.msg_len as usize, &name.0, written)
        };
    Ok(messages.iter().zip(&beside).take(got).map(&mut brought).collect())
}

/// `sendmmsg`: sends messages in order, without waiting, until the kernel refuses one, and says how many
/// it took. The error is that of the first one.
///
/// # Safety
/// Everything that the messages point to is there to be read, with true lengths.
unsafe fn send_messages(fd: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let (at, n) = (messages.as_mut_ptr(), messages.len() as libc::c_uint);
    // SAFETY: the descriptor is open while borrowed, the slice gives pointer and count, and the caller
    // says that what is behind is right.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), at, n, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
