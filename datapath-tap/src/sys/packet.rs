//! Packet sockets: options of `include/uapi/linux/if_packet.h` and receiving with auxiliary data.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{self, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use arrayvec::ArrayVec;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{MANY, receive_messages, send_messages, set};

/// Receive nothing.
pub(crate) const PROTO_NONE: u16 = 0;
/// Receive every frame.
pub(crate) const PROTO_ALL: u16 = libc::ETH_P_ALL as u16;

/// A non-blocking raw packet socket that receives nothing until it is bound.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Packet, SockType::Raw, flags, None)?)
}

/// Binds the socket to a device and a protocol: what it receives and where it sends.
pub(crate) fn bind(fd: BorrowedFd<'_>, ifindex: u32, proto: u16) -> io::Result<()> {
    let ifindex = i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: sockaddr_ll is a C struct of integers; all zeroes is a valid one.
    let mut addr: libc::sockaddr_ll = unsafe { mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as u16;
    addr.sll_protocol = proto.to_be();
    addr.sll_ifindex = ifindex;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the descriptor is open while borrowed; pointer and length describe `addr`, which the
    // kernel only reads.
    let done = unsafe { libc::bind(fd.as_raw_fd(), ptr::from_ref(&addr).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the device promiscuous for as long as the socket lives.
pub(crate) fn promiscuous(fd: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    let mreq = libc::packet_mreq {
        mr_ifindex: i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &mreq)
}

/// `PACKET_STATISTICS`: frames dropped because the socket's buffer was full, since the last call.
pub(crate) fn take_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    /// `struct tpacket_stats`.
    #[repr(C)]
    struct Stats {
        packets: u32,
        drops: u32,
    }
    let mut stats = Stats { packets: 0, drops: 0 };
    let mut len = size_of::<Stats>() as libc::socklen_t;
    // SAFETY: the descriptor is open while borrowed; pointer and length describe `stats`, two
    // integers for which every value is valid; the kernel writes at most `len` bytes.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            ptr::from_mut(&mut stats).cast(),
            &mut len,
        )
    };
    if done == 0 { Ok(stats.drops) } else { Err(io::Error::last_os_error()) }
}

/// What one receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes of the virtio header and the frame, also those that found no room.
    pub(crate) len: usize,
    /// The VLAN tag that the kernel took off: TPID and TCI.
    pub(crate) vlan: Option<(u16, u16)>,
}

/// Receives frames into as many sets of buffers as there are frames, without waiting; at most
/// [`MANY`].
pub(crate) fn recv_many<'a, 'b: 'a>(
    fd: BorrowedFd<'_>,
    buffers: impl Iterator<Item = &'a mut [IoSliceMut<'b>]>,
) -> io::Result<ArrayVec<Received, MANY>> {
    let read = |len, _: &[u8], control: &[u8]| Received { len, vlan: auxdata_vlan(control) };
    receive_messages(fd, buffers, read)
}

/// Sends frames, each of several pieces, in order until the kernel refuses one, and says how many it
/// took. The error is that of the first one.
pub(crate) fn send_many(fd: BorrowedFd<'_>, frames: &[&[IoSlice<'_>]]) -> io::Result<usize> {
    let message = |pieces: &&[IoSlice<'_>]| {
        // SAFETY: mmsghdr is a C struct of pointers and integers; all zeroes is a valid one.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        // IoSlice is guaranteed to have the layout of iovec.
        message.msg_hdr.msg_iov = pieces.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_iovlen = pieces.len() as _;
        message
    };
    let mut messages: ArrayVec<_, MANY> = frames.iter().take(MANY).map(message).collect();
    // SAFETY: the messages point to `frames`, live and unmoved until after the call, with true lengths;
    // the kernel only reads them.
    unsafe { send_messages(fd, &mut messages) }
}

/// The tag in the control message `PACKET_AUXDATA`, if it is there and holds one.
fn auxdata_vlan(control: &[u8]) -> Option<(u16, u16)> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let int = |at: usize| Some(u32::from_ne_bytes(*control.get(at..)?.first_chunk()?));
    let short = |at: usize| Some(u16::from_ne_bytes(*control.get(at..)?.first_chunk()?));
    // cmsg_level and cmsg_type are the last two ints of the header.
    if int(HEADER - 8)? != libc::SOL_PACKET as u32
        || int(HEADER - 4)? != libc::PACKET_AUXDATA as u32
    {
        return None;
    }
    // struct tpacket_auxdata: status, len, snaplen (u32), mac, net, vlan_tci, vlan_tpid (u16).
    let status = int(HEADER)?;
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = match status & libc::TP_STATUS_VLAN_TPID_VALID {
        0 => libc::ETH_P_8021Q as u16,
        _ => short(HEADER + 18)?,
    };
    Some((tpid, short(HEADER + 16)?))
}

/// A second handle to the same open socket or file.
pub(crate) fn duplicate(fd: &impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(status: u32, tci: u16, tpid: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&36usize.to_ne_bytes());
        bytes.extend_from_slice(&libc::SOL_PACKET.to_ne_bytes());
        bytes.extend_from_slice(&libc::PACKET_AUXDATA.to_ne_bytes());
        bytes.extend_from_slice(&status.to_ne_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&tci.to_ne_bytes());
        bytes.extend_from_slice(&tpid.to_ne_bytes());
        bytes
    }

    #[test]
    fn auxdata_tells_the_tag() {
        let (valid, tpid) = (libc::TP_STATUS_VLAN_VALID, libc::TP_STATUS_VLAN_TPID_VALID);
        assert_eq!(auxdata_vlan(&control(0, 5, 0x8100)), None);
        assert_eq!(auxdata_vlan(&control(valid, 5, 0)), Some((0x8100, 5)));
        assert_eq!(auxdata_vlan(&control(valid | tpid, 0, 0x88a8)), Some((0x88a8, 0)));
        // Cut anywhere, it is no tag.
        let whole = control(valid | tpid, 7, 0x88a8);
        for cut in 0..whole.len() {
            assert_eq!(auxdata_vlan(&whole[..cut]), None, "cut at {cut}");
        }
        let mut other = whole;
        other[size_of::<libc::cmsghdr>() - 4] ^= 0xff;
        assert_eq!(auxdata_vlan(&other), None);
    }
}
