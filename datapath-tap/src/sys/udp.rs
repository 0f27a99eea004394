//! UDP and raw IP sockets: datagrams together with what their IP header says.

use std::ffi::c_int;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{self, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use arrayvec::ArrayVec;
use nix::sys::socket::{SockaddrIn, SockaddrIn6, SockaddrLike};

use super::{MANY, receive_messages, send_messages, set};

/// What a socket carries behind its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Udp,
    /// Raw: GRE headers are ours.
    Gre,
}

/// A non-blocking socket of the address's family.
pub(crate) fn open(local: IpAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let (kind, protocol) = match protocol {
        Protocol::Udp => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        Protocol::Gre => (libc::SOCK_RAW, libc::IPPROTO_GRE),
    };
    // SAFETY: takes plain numbers.
    let fd =
        unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds a socket to an address and port.
pub(crate) fn bind(fd: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
    use nix::sys::socket::bind;
    let fd = fd.as_raw_fd();
    match to {
        SocketAddr::V4(to) => bind(fd, &SockaddrIn::from(to))?,
        SocketAddr::V6(to) => bind(fd, &SockaddrIn6::from(to))?,
    }
    Ok(())
}

/// Connects a UDP socket, or connects it anew: only a route is looked up.
pub(crate) fn connect(fd: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
    use nix::sys::socket::connect;
    let fd = fd.as_raw_fd();
    match to {
        SocketAddr::V4(to) => connect(fd, &SockaddrIn::from(to))?,
        SocketAddr::V6(to) => connect(fd, &SockaddrIn6::from(to))?,
    }
    Ok(())
}

/// Drops whatever would be put into the socket's receive queue from now on.
pub(crate) fn receive_nothing(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut none =
        libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut none };
    // `none` lives until the kernel has copied it.
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Becomes a member of a group on the device that has the address `local` (IPv4) or the index
/// `ifindex` (IPv6).
pub(crate) fn join(
    fd: BorrowedFd<'_>,
    group: IpAddr,
    local: IpAddr,
    ifindex: u32,
) -> io::Result<()> {
    match (group, local) {
        (IpAddr::V4(group), IpAddr::V4(local)) => {
            let request =
                libc::ip_mreq { imr_multiaddr: in_addr(group), imr_interface: in_addr(local) };
            set(fd, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request)
        }
        (IpAddr::V6(group), IpAddr::V6(_)) => {
            let request = libc::ipv6_mreq {
                ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() },
                ipv6mr_interface: ifindex,
            };
            set(fd, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request)
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn in_addr(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

/// `getsockopt` with an option that is `N` ints; those that the kernel does not know stay 0.
fn get<const N: usize>(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<[c_int; N]> {
    let mut value = [0; N];
    let mut len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open while borrowed; pointer and length describe `value`, for whose
    // ints every bit pattern is valid; the kernel writes at most `len` bytes.
    let done = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &mut len)
    };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// `IP_MTU`, `IPV6_MTU`: the largest IP packet of a connected socket, in bytes, by the route and
/// what the kernel learned of its path.
pub(crate) fn path_mtu(fd: BorrowedFd<'_>, remote: IpAddr) -> io::Result<u32> {
    let (level, name) = match remote {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let [mtu] = get(fd, level, name)?;
    Ok(mtu.unsigned_abs())
}

/// `SO_MEMINFO`: datagrams that found the socket's receive buffer full, since it was opened.
pub(crate) fn drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    /// `SK_MEMINFO_VARS` and `SK_MEMINFO_DROPS` of `include/uapi/linux/sock_diag.h`.
    const VARS: usize = 9;
    let values: [c_int; VARS] = get(fd, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    let [.., drops] = values;
    Ok(drops.cast_unsigned())
}

/// A control message with an int: a `struct cmsghdr`, and what it announces.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct IntMessage {
    len: usize,
    level: c_int,
    kind: c_int,
    value: c_int,
}

/// Bytes of a control message's header; level and type are its last two ints.
const HEADER: usize = size_of::<libc::cmsghdr>();

impl IntMessage {
    const fn new(level: c_int, kind: c_int, value: u8) -> Self {
        Self { len: HEADER + size_of::<c_int>(), level, kind, value: value as c_int }
    }

    /// `UDP_SEGMENT`, whose value has 16 bits.
    const fn segment(size: u16) -> Self {
        let [a, b] = size.to_ne_bytes();
        Self {
            len: HEADER + size_of::<u16>(),
            level: libc::SOL_UDP,
            kind: libc::UDP_SEGMENT,
            value: c_int::from_ne_bytes([a, b, 0, 0]),
        }
    }
}

/// Traffic class and TTL (or hop limit) of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IpFields {
    pub(crate) traffic_class: u8,
    pub(crate) ttl: u8,
}

/// Whether a UDP socket sends without checksums to addresses of that family.
pub(crate) fn leave_checksums_away(fd: BorrowedFd<'_>, to: IpAddr, away: bool) -> io::Result<()> {
    let (level, name) = match to {
        IpAddr::V4(_) => (libc::SOL_SOCKET, libc::SO_NO_CHECK),
        IpAddr::V6(_) => (libc::IPPROTO_UDP, libc::UDP_NO_CHECK6_TX),
    };
    set(fd, level, name, &c_int::from(away))
}

/// A datagram to be sent, with what goes along with it to the kernel as that wants it laid out.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    to: Address,
    control: [IntMessage; 3],
    controls: usize,
    pieces: &'a [IoSlice<'a>],
}

#[derive(Debug)]
enum Address {
    V4(SockaddrIn),
    V6(SockaddrIn6),
}

impl<'a> Outgoing<'a> {
    /// The pieces, to an address. With a `segment` the kernel makes datagrams of so many bytes each of
    /// them, and one of what is left.
    pub(crate) fn new(
        to: SocketAddr,
        fields: IpFields,
        segment: Option<u16>,
        pieces: &'a [IoSlice<'a>],
    ) -> Self {
        let IpFields { traffic_class, ttl } = fields;
        let (to, class, ttl) = match to {
            SocketAddr::V4(to) => (
                Address::V4(to.into()),
                IntMessage::new(libc::IPPROTO_IP, libc::IP_TOS, traffic_class),
                IntMessage::new(libc::IPPROTO_IP, libc::IP_TTL, ttl),
            ),
            SocketAddr::V6(to) => (
                Address::V6(to.into()),
                IntMessage::new(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, traffic_class),
                IntMessage::new(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, ttl),
            ),
        };
        // The last one is left out where there is nothing to cut.
        let control = [class, ttl, IntMessage::segment(segment.unwrap_or(0))];
        Self { to, control, controls: 2 + usize::from(segment.is_some()), pieces }
    }

    /// The same as the kernel reads it, for as long as `self` lives and stays where it is.
    fn message(&self) -> libc::msghdr {
        let (name, len) = match &self.to {
            Address::V4(to) => (to.as_ptr(), to.len()),
            Address::V6(to) => (to.as_ptr(), to.len()),
        };
        let control = &self.control[..self.controls];
        // SAFETY: msghdr is a C struct of pointers and integers; all zeroes is a valid one.
        let mut msg: libc::msghdr = unsafe { mem::zeroed() };
        msg.msg_name = name.cast_mut().cast();
        msg.msg_namelen = len;
        // IoSlice is guaranteed to have the layout of iovec.
        msg.msg_iov = self.pieces.as_ptr().cast_mut().cast();
        msg.msg_iovlen = self.pieces.len() as _;
        msg.msg_control = control.as_ptr().cast_mut().cast();
        msg.msg_controllen = size_of_val(control) as _;
        msg
    }
}

/// Sends one datagram, without waiting.
pub(crate) fn send(fd: BorrowedFd<'_>, datagram: &Outgoing<'_>) -> io::Result<()> {
    let msg = datagram.message();
    // SAFETY: the descriptor is open while borrowed; `msg` points to what `datagram` has and borrows,
    // live and unmoved until after the call, with true lengths; the kernel only reads it.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &msg, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends datagrams in order until the kernel refuses one, and says how many it took. The error is that
/// of the first; an error of a later one is told when that is the first.
pub(crate) fn send_many(fd: BorrowedFd<'_>, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    let message =
        |datagram: &Outgoing<'_>| libc::mmsghdr { msg_hdr: datagram.message(), msg_len: 0 };
    let mut messages: ArrayVec<_, MANY> = datagrams.iter().take(MANY).map(message).collect();
    // SAFETY: the messages point to what `datagrams` have and borrow, live and unmoved until after the
    // call, with true lengths; the kernel only reads that.
    unsafe { send_messages(fd, &mut messages) }
}

/// What one receive brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Bytes of the datagram, also those that found no room.
    pub(crate) len: usize,
    pub(crate) from: Option<SocketAddr>,
    /// The destination address of its IP header.
    pub(crate) to: Option<IpAddr>,
    pub(crate) fields: IpFields,
    /// Bytes of each datagram but the last, if the kernel hands over several at once.
    pub(crate) segment: Option<u16>,
}

/// Receives one datagram into the buffers, without waiting.
pub(crate) fn recv(fd: BorrowedFd<'_>, buffers: &mut [IoSliceMut<'_>]) -> io::Result<Received> {
    let mut one = recv_many(fd, std::iter::once(buffers))?;
    one.pop().ok_or_else(|| io::ErrorKind::WouldBlock.into())
}

/// Receives datagrams into as many sets of buffers as there are datagrams, without waiting; at most
/// [`MANY`].
pub(crate) fn recv_many<'a, 'b: 'a>(
    fd: BorrowedFd<'_>,
    buffers: impl Iterator<Item = &'a mut [IoSliceMut<'b>]>,
) -> io::Result<ArrayVec<Received, MANY>> {
    receive_messages(fd, buffers, |len, name, control| read_control(control, len, address(name)))
}

/// A `sockaddr_in` or `sockaddr_in6`.
fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match c_int::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *name.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new(ip.into(), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = *name.get(8..)?.first_chunk()?;
            Some(SocketAddrV6::new(ip.into(), port, 0, 0).into())
        }
        _ => None,
    }
}

fn int(bytes: &[u8]) -> Option<c_int> {
    bytes.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes))
}

/// Puts together what the control messages tell.
fn read_control(mut rest: &[u8], len: usize, from: Option<SocketAddr>) -> Received {
    let fields = IpFields::default();
    let mut received = Received { len, from, to: None, fields, segment: None };
    while let Some(len) = rest.first_chunk().map(|len| usize::from_ne_bytes(*len)) {
        // A length below the header's makes no slice either, so that each turn gets on.
        let (Some(header), Some(data)) = (rest.get(HEADER - 8..HEADER), rest.get(HEADER..len))
        else {
            break;
        };
        let level = int(header).unwrap_or_default();
        let kind = header.get(4..).and_then(int).unwrap_or_default();
        let fields = &mut received.fields;
        match (level, kind) {
            // struct in_pktinfo: ipi_ifindex, ipi_spec_dst, ipi_addr.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let ip = data.get(8..).and_then(|data| data.first_chunk::<4>());
                received.to = ip.map(|ip| Ipv4Addr::from(*ip).into());
            }
            // struct in6_pktinfo: ipi6_addr, ipi6_ifindex.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                received.to = data.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip).into());
            }
            // A single byte, unlike all the others.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                fields.traffic_class = data.first().copied().unwrap_or_default();
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                fields.traffic_class = int(data).unwrap_or_default() as u8;
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                fields.ttl = int(data).unwrap_or_default() as u8;
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                received.segment = int(data).and_then(|size| u16::try_from(size).ok());
            }
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    received
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: c_int, kind: c_int, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    #[test]
    fn a_control_message_is_as_long_as_the_kernel_thinks() {
        // SAFETY: computes a number.
        let space = unsafe { libc::CMSG_SPACE(size_of::<c_int>() as u32) };
        assert_eq!(size_of::<IntMessage>(), space as usize);
        // SAFETY: computes a number.
        let len = unsafe { libc::CMSG_LEN(size_of::<c_int>() as u32) };
        assert_eq!(IntMessage::new(0, 0, 0).len, len as usize);
    }

    #[test]
    fn control_messages_tell_the_header_in_any_order_and_cut_anywhere() {
        let v4 = [
            message(libc::IPPROTO_IP, libc::IP_TTL, &63_i32.to_ne_bytes()),
            message(libc::IPPROTO_IP, libc::IP_TOS, &[0xb9]),
            message(libc::IPPROTO_IP, libc::IP_PKTINFO, &[9, 0, 0, 0, 1, 1, 1, 1, 192, 0, 2, 1]),
        ]
        .concat();
        let got = read_control(&v4, 7, None);
        assert_eq!(got.to, Some(Ipv4Addr::new(192, 0, 2, 1).into()));
        assert_eq!(got.fields, IpFields { traffic_class: 0xb9, ttl: 63 });
        assert_eq!(got.len, 7);
        for cut in 0..v4.len() {
            // What is whole is read, the rest is left; the last four bytes are padding or not.
            let got = read_control(&v4[..cut], 7, None);
            assert_eq!(got.to.is_some(), cut >= v4.len() - 4 && v4.len() % 8 == 0 && cut >= 76);
        }
        let six: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let v6 = [
            message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[&six.octets()[..], &[0; 4]].concat()),
            message(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &255_i32.to_ne_bytes()),
            message(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &3_i32.to_ne_bytes()),
        ]
        .concat();
        let got = read_control(&v6, 0, None);
        assert_eq!(got.to, Some(six.into()));
        assert_eq!(got.fields, IpFields { traffic_class: 3, ttl: 255 });
    }

    #[test]
    fn a_length_that_lies_ends_the_reading() {
        for len in [0_usize, 1, HEADER - 1, HEADER + 5, usize::MAX] {
            let mut bytes = message(libc::IPPROTO_IP, libc::IP_TTL, &63_i32.to_ne_bytes());
            bytes.truncate(HEADER + 4);
            bytes[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(read_control(&bytes, 0, None).fields, IpFields::default(), "{len}");
        }
    }
}
