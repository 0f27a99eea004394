//! The underlay port of a VTEP: its sockets are opened, and paths asked for. Control side.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use switch_core::datapath::{BackendError, Caps, UdpSend, UnderlaySpec};
use switch_core::frame::FramePool;
use switch_core::tunnel::ENTROPY_FIRST;

use crate::error::{errno, failed_hint, refused};
use crate::link::Links;
use crate::sys::set_option;
use crate::sys::udp::{self, Protocol};
use crate::tap::{BUSY_TRIES, BUSY_WAIT};
use crate::underlay::{Carries, Pool, Receiver, Sockets, Underlay};

/// Bytes the kernel keeps for us while the worker is busy, a socket.
const RECEIVE_BUFFER: i32 = 8 << 20;
/// Bytes under way to the device, a sending socket: one flow may be all there is.
const SEND_BUFFER: i32 = 1 << 20;
/// Any port: only the route is asked for.
const DISCARD: u16 = 9;

/// What is held while a VTEP is open.
#[derive(Debug)]
pub(crate) struct Vtep {
    opening: Opening,
    /// Asks for paths.
    probe: OwnedFd,
    /// The same that its worker has.
    sockets: Sockets,
    /// What was asked for.
    entropy_ports: u16,
    /// Datagrams that found the buffers full of sockets that are not wanted any more.
    drops_before: u64,
}

impl Vtep {
    /// What drives it: every packet goes through kernel sockets.
    pub(crate) const DRIVER: &str = "sockets";
    /// The kernel sums up UDP. Nothing else is ever left undone in an outer packet.
    pub(crate) const CAPS: Caps = Caps { csum: true, tso4: false, tso6: false, uso: false };
    /// A socket takes whatever an IP packet can hold. What a path takes is asked a remote.
    pub(crate) const MTU: u32 = u16::MAX as u32;

    /// The largest packet that reaches `remote`; `None` if there is no route.
    pub(crate) fn path_mtu(&self, remote: IpAddr) -> Option<u32> {
        if remote.is_ipv4() != self.opening.at.is_ipv4() {
            return None;
        }
        udp::connect(self.probe.as_fd(), SocketAddr::new(remote, DISCARD)).ok()?;
        udp::path_mtu(self.probe.as_fd(), remote).ok()
    }

    /// Over how many UDP source ports each way of sending is spread, at least.
    pub(crate) fn source_ports(&self) -> u16 {
        let least = self.sockets.pools.iter().map(|pool| pool.sockets.len()).min();
        u16::try_from(least.unwrap_or_default()).unwrap_or(u16::MAX)
    }

    /// Datagrams that found a receive buffer full.
    pub(crate) fn drops(&self) -> u64 {
        self.drops_before + drops(&self.sockets.receivers)
    }

    /// What could not be had.
    pub(crate) fn lost(&self) -> Vec<String> {
        let wanted = self.entropy_ports;
        let of_udp = |r: &&Receiver| r.carries != Carries::Gre;
        let mut udp = self.sockets.receivers.iter().filter(of_udp);
        let gro = udp.any(|r| !r.gathers).then(|| "UDP_GRO: not supported".to_owned());
        self.sockets.pools.iter().filter_map(|pool| lost(pool, wanted)).chain(gro).collect()
    }

    /// Opens what `spec` wants more and lets go of what it does not want, while all others stay.
    /// `None` if none could stay.
    pub(crate) fn adjust(
        &mut self,
        spec: &UnderlaySpec,
        pool: FramePool,
    ) -> Result<Option<Underlay>, BackendError> {
        if spec.local != self.opening.at.ip() || spec.entropy_ports != self.entropy_ports {
            return Ok(None);
        }
        let sockets = self.opening.sockets(spec, &self.sockets).map_err(|e| e.told(spec))?;
        let earlier = std::mem::replace(&mut self.sockets, sockets);
        let stays =
            |r: &Receiver| self.sockets.receivers.iter().any(|s| Arc::ptr_eq(&s.socket, &r.socket));
        let gone: Vec<Receiver> = earlier.receivers.into_iter().filter(|r| !stays(r)).collect();
        self.drops_before += drops(&gone);
        Ok(Some(Underlay::new(self.sockets.clone(), pool)))
    }

    /// Why it cannot go on: its address is not on this host any more.
    pub(crate) fn left(&self) -> Option<String> {
        let at = self.opening.at;
        let gone = !is_here(at);
        gone.then(|| format!("the host has the address {} no more", at.ip()))
    }
}

/// Datagrams that found one of these buffers full.
fn drops(receivers: &[Receiver]) -> u64 {
    let drops = |r: &Receiver| u64::from(udp::drops(r.socket.as_fd()).unwrap_or_default());
    receivers.iter().map(drops).sum()
}

/// What a pool lacks, in words.
fn lost(pool: &Pool, wanted: u16) -> Option<String> {
    let missing = usize::from(wanted).checked_sub(pool.sockets.len()).filter(|n| *n > 0)?;
    Some(format!("{missing} of {wanted} entropy-ports: no more UDP ports from 49152 on are free"))
}

/// Whether a VTEP could be opened at the address now.
pub(crate) fn appeared(links: &mut Links, local: IpAddr) -> bool {
    resolve(links, local).ok().flatten().is_some_and(|(at, _)| is_here(at))
}

/// Whether the address is on this host, and can be used.
fn is_here(at: SocketAddr) -> bool {
    let bound = udp::open(at.ip(), Protocol::Udp).and_then(|s| udp::bind(s.as_fd(), at));
    // Any other error says nothing of the address.
    !bound.is_err_and(|e| is_missing(&e))
}

/// Where to bind for `local`, and the device that has it: over IPv4 nobody has to know which. `None`
/// if no device has the address.
fn resolve(links: &mut Links, local: IpAddr) -> io::Result<Option<(SocketAddr, u32)>> {
    let IpAddr::V6(ip) = local else { return Ok(Some((SocketAddr::new(local, 0), 0))) };
    let Some(ifindex) = links.index_with(local)? else { return Ok(None) };
    let scope = if ip.is_unicast_link_local() { ifindex } else { 0 };
    Ok(Some((SocketAddrV6::new(ip, 0, 0, scope).into(), ifindex)))
}

/// Opens the sockets of a VTEP in the namespace of the calling thread.
pub(crate) fn open(
    links: &mut Links,
    spec: &UnderlaySpec,
    pool: FramePool,
) -> Result<(Vtep, Underlay), BackendError> {
    let attempted = format!("open VTEP {} at {}", spec.name, spec.local);
    let found = resolve(links, spec.local).map_err(|e| refused(&attempted, &e))?;
    let (at, ifindex) = found.ok_or_else(|| Refusal::Missing.told(spec))?;
    let opening = Opening { attempted, at, ifindex };
    let sockets = opening.sockets(spec, &Sockets::default()).map_err(|e| e.told(spec))?;
    let probe = opening.probe().map_err(|e| e.told(spec))?;
    let underlay = Underlay::new(sockets.clone(), pool);
    let entropy_ports = spec.entropy_ports;
    Ok((Vtep { opening, probe, sockets, entropy_ports, drops_before: 0 }, underlay))
}

/// Why a socket is not as it should be.
enum Refusal {
    /// The address is not on this host, or not usable yet (IPv6 looks for duplicates first).
    Missing,
    Error(BackendError),
}

impl Refusal {
    fn told(self, spec: &UnderlaySpec) -> BackendError {
        match self {
            Self::Missing => BackendError::NotThere { what: format!("address {}", spec.local) },
            Self::Error(e) => e,
        }
    }
}

fn is_missing(e: &io::Error) -> bool {
    // ENODEV: the device of a link-local address is gone.
    matches!(errno(e), Errno::EADDRNOTAVAIL | Errno::ENODEV)
}

/// What all sockets of a VTEP have in common.
#[derive(Debug)]
struct Opening {
    attempted: String,
    /// The local address, with its device where it is link-local.
    at: SocketAddr,
    /// The device that has the address; 0 over IPv4, which asks for the address instead.
    ifindex: u32,
}

impl Opening {
    /// The sockets that `spec` wants: those of `present` that serve, and new ones.
    fn sockets(&self, spec: &UnderlaySpec, present: &Sockets) -> Result<Sockets, Refusal> {
        let mut all = Sockets::default();
        let receiver = |carries, group| {
            let same = |r: &&Receiver| (r.carries, r.group) == (carries, group);
            present.receivers.iter().find(same).cloned()
        };
        for listen in &spec.udp {
            let groups = listen.groups.iter().copied().map(Some);
            for group in std::iter::once(None).chain(groups) {
                all.receivers.push(match receiver(Carries::Udp(listen.port), group) {
                    Some(receiver) => receiver,
                    None => self.listener(listen.port, group)?,
                });
            }
        }
        if spec.gre {
            all.receivers.push(match receiver(Carries::Gre, None) {
                Some(receiver) => receiver,
                None => self.gre_receiver()?,
            });
            for df in [true, false] {
                let way = self.way(UdpSend { checksum: true, df });
                if all.gre.iter().any(|(df, _)| *df == way.df) {
                    continue;
                }
                all.gre.push(match present.gre.iter().find(|(df, _)| *df == way.df) {
                    Some(sender) => sender.clone(),
                    None => (way.df, Arc::new(self.gre_sender(way)?)),
                });
            }
        }
        let mut ports = ENTROPY_FIRST..=u16::MAX;
        for way in spec.send.iter().map(|way| self.way(*way)) {
            if all.pools.iter().any(|pool| pool.way == way) {
                continue;
            }
            all.pools.push(match present.pools.iter().find(|pool| pool.way == way) {
                Some(pool) => pool.clone(),
                None => self.pool(way, spec.entropy_ports, &mut ports)?,
            });
        }
        // At last: it changes sockets that are in use.
        if self.at.is_ipv6() {
            for listen in &spec.udp {
                let of_port = |r: &&Receiver| r.carries == Carries::Udp(listen.port);
                for receiver in all.receivers.iter().filter(of_port) {
                    let accept = i32::from(listen.accept_no_checksum);
                    let fd = receiver.socket.as_fd();
                    let set = set_option(fd, libc::IPPROTO_UDP, libc::UDP_NO_CHECK6_RX, accept);
                    self.done("accept datagrams without a checksum", set)?;
                }
            }
        }
        Ok(all)
    }

    /// A socket by which paths are asked for.
    fn probe(&self) -> Result<OwnedFd, Refusal> {
        let probe = self.socket(Protocol::Udp)?;
        self.done("make a socket", udp::receive_nothing(probe.as_fd()))?;
        self.done("bind a socket", udp::bind(probe.as_fd(), self.at))?;
        Ok(probe)
    }

    /// Names what failed.
    fn done<T>(&self, what: &str, done: io::Result<T>) -> Result<T, Refusal> {
        done.map_err(|e| {
            let attempted = format!("{}: {what}", self.attempted);
            match errno(&e) {
                _ if is_missing(&e) => Refusal::Missing,
                Errno::EMFILE | Errno::ENFILE => Refusal::Error(failed_hint(
                    attempted,
                    e,
                    "each sending port is a socket: raise LimitNOFILE (ulimit -n), or lower \
                     entropy-ports",
                )),
                _ => Refusal::Error(refused(attempted, &e)),
            }
        })
    }

    /// A socket of the address's family alone.
    fn socket(&self, protocol: Protocol) -> Result<OwnedFd, Refusal> {
        let socket = udp::open(self.at.ip(), protocol).and_then(|socket| {
            // A raw socket is of one family anyway, and refuses the option.
            if self.at.is_ipv6() && protocol == Protocol::Udp {
                set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
            }
            Ok(socket)
        });
        self.done("make a socket", socket)
    }

    /// A socket that receives with what the IP header says.
    fn receiver(&self, protocol: Protocol) -> Result<OwnedFd, Refusal> {
        let socket = self.socket(protocol)?;
        let fd = socket.as_fd();
        // It sends nothing: whatever an ICMP message quotes that seems to be from its port was
        // never sent, and changes no path (`IP_PMTUDISC_INTERFACE`: PMTU messages are ignored).
        let options: &[_] = match self.at {
            SocketAddr::V4(_) => &[
                (libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
                (libc::IPPROTO_IP, libc::IP_RECVTOS, 1),
                (libc::IPPROTO_IP, libc::IP_RECVTTL, 1),
                (libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0),
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_INTERFACE),
            ],
            SocketAddr::V6(_) => &[
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1),
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_INTERFACE),
            ],
        };
        self.done("set up a receiving socket", set_all(fd, options))?;
        let buffer = set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER);
        self.done("set a receive buffer", buffer)?;
        Ok(socket)
    }

    /// A socket for a UDP port: at the local address, or at a group's. One that is bound to a
    /// unicast address never sees a group's packets, and one bound to the wildcard address would
    /// take those of all other addresses of the host.
    fn listener(&self, port: u16, group: Option<IpAddr>) -> Result<Receiver, Refusal> {
        let socket = self.receiver(Protocol::Udp)?;
        let fd = socket.as_fd();
        let mut at = self.at;
        if let Some(group) = group {
            at = SocketAddr::new(group, 0);
            if group.is_ipv6() {
                // A membership holds for packets of all devices there. It also gives the groups of
                // the link's scope their device.
                let ifindex = i32::try_from(self.ifindex).unwrap_or_default();
                let set = set_option(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, ifindex);
                self.done("bind a socket to its device", set)?;
            }
            // Others may be members, too: each gets its copy. At the own address this would let
            // two switches share a port, with one of them getting nothing.
            let set = set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
            self.done("share a group's port", set)?;
        }
        at.set_port(port);
        match bind_when_free(fd, at) {
            Err(e) if errno(&e) == Errno::EADDRINUSE => {
                return Err(Refusal::Error(failed_hint(
                    &self.attempted,
                    format!("UDP port {port} is in use"),
                    format!(
                        "see by whom: ss -Hulpn 'sport = :{port}' ; a port without a process is a \
                         kernel tunnel's: ip -d link show type vxlan (or geneve)"
                    ),
                )));
            }
            bound => self.done(&format!("bind UDP port {port}"), bound)?,
        }
        if let Some(group) = group {
            let joined = udp::join(fd, group, self.at.ip(), self.ifindex);
            self.done(&format!("join group {group}"), joined)?;
        }
        // Linux 5.0; without, datagrams come one by one.
        let gathers = set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        let carries = Carries::Udp(port);
        Ok(Receiver { socket: Arc::new(socket), carries, gathers, group })
    }

    fn gre_receiver(&self) -> Result<Receiver, Refusal> {
        let socket = self.receiver(Protocol::Gre)?;
        self.done("bind a GRE socket", udp::bind(socket.as_fd(), self.at))?;
        let carries = Carries::Gre;
        Ok(Receiver { socket: Arc::new(socket), carries, gathers: false, group: None })
    }

    /// The way in which packets really go: IPv6 is never fragmented on the way.
    fn way(&self, way: UdpSend) -> UdpSend {
        UdpSend { df: way.df || self.at.is_ipv6(), ..way }
    }

    fn gre_sender(&self, way: UdpSend) -> Result<OwnedFd, Refusal> {
        let socket = self.sender(Protocol::Gre, way)?;
        self.done("bind a GRE socket", udp::bind(socket.as_fd(), self.at))?;
        Ok(socket)
    }

    /// A socket that only sends. What arrives at its port is nobody's: it is dropped before it is
    /// queued. (A raw socket gets a copy of every GRE packet; reading cannot be shut down on a
    /// socket that is not connected.)
    fn sender(&self, protocol: Protocol, way: UdpSend) -> Result<OwnedFd, Refusal> {
        let socket = self.socket(protocol)?;
        let fd = socket.as_fd();
        let set_up = || {
            udp::receive_nothing(fd)?;
            // With RECVERR a full queue of the device is told (ENOBUFS). What ICMP says is queued
            // as well, which nobody reads: the smallest buffer has room for two messages or so.
            set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 0)?;
            // Multicast goes out by the device of the address, which over IPv4 the kernel looks for
            // itself, and does not come back to this host: its members are us.
            match self.at.ip() {
                IpAddr::V4(_) => {
                    let df = if way.df { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
                    let options = [
                        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, df),
                        (libc::IPPROTO_IP, libc::IP_RECVERR, 1),
                        (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, 0),
                    ];
                    set_all(fd, &options)?;
                }
                IpAddr::V6(_) => {
                    let ifindex = i32::try_from(self.ifindex).unwrap_or_default();
                    let options = [
                        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
                        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
                        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, 0),
                        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, ifindex),
                    ];
                    set_all(fd, &options)?;
                }
            }
            if protocol == Protocol::Udp && !way.checksum {
                udp::leave_checksums_away(fd, self.at.ip(), true)?;
            }
            set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)
        };
        self.done("set up a sending socket", set_up())?;
        Ok(socket)
    }

    /// As many sending sockets as wanted, on ports that nobody uses: the first ones of the range,
    /// so that a restart finds the same.
    fn pool(
        &self,
        way: UdpSend,
        wanted: u16,
        ports: &mut RangeInclusive<u16>,
    ) -> Result<Pool, Refusal> {
        let mut sockets = Vec::new();
        for _ in 0..wanted.max(1) {
            let socket = self.sender(Protocol::Udp, way)?;
            if !self.bind_free(socket.as_fd(), ports)? {
                break;
            }
            sockets.push(socket);
        }
        if sockets.is_empty() {
            return Err(Refusal::Error(failed_hint(
                &self.attempted,
                "no UDP port from 49152 on is free to send from",
                "see who has them: ss -Huapn 'sport >= :49152'",
            )));
        }
        Ok(Pool { way, sockets: sockets.into() })
    }

    /// Binds to the next free port; false if there is none.
    fn bind_free(
        &self,
        fd: BorrowedFd<'_>,
        ports: &mut RangeInclusive<u16>,
    ) -> Result<bool, Refusal> {
        for port in ports {
            let mut at = self.at;
            at.set_port(port);
            match udp::bind(fd, at) {
                Ok(()) => return Ok(true),
                Err(e) if errno(&e) == Errno::EADDRINUSE => {}
                Err(e) => self.done("bind a sending socket", Err(e))?,
            }
        }
        Ok(false)
    }
}

/// Binds, with a little patience for a port that is just being closed: by a switch that was killed a
/// moment ago, or in a child process between its fork and its exec.
fn bind_when_free(fd: BorrowedFd<'_>, at: SocketAddr) -> io::Result<()> {
    for _ in 0..BUSY_TRIES {
        match udp::bind(fd, at) {
            Err(e) if errno(&e) == Errno::EADDRINUSE => std::thread::sleep(BUSY_WAIT),
            bound => return bound,
        }
    }
    udp::bind(fd, at)
}

fn set_all(fd: BorrowedFd<'_>, options: &[(i32, i32, i32)]) -> io::Result<()> {
    options.iter().try_for_each(|(level, name, value)| set_option(fd, *level, *name, *value))
}

/// Sets a buffer's size beyond the host's limit, or up to it where that is not permitted.
fn set_buffer(fd: BorrowedFd<'_>, force: i32, plain: i32, bytes: i32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, force, bytes)
        .or_else(|_| set_option(fd, libc::SOL_SOCKET, plain, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_takes_the_ports_that_there_are() {
        let at = "127.77.12.34:0".parse().unwrap();
        let opening = Opening { attempted: "open".into(), at, ifindex: 0 };
        let mut ports = 50_000..=50_003;
        let way = UdpSend { checksum: true, df: true };
        let pool = opening.pool(way, 3, &mut ports).ok().unwrap();
        assert_eq!((pool.sockets.len(), lost(&pool, 3)), (3, None));
        // The next one goes on from there.
        let pool = opening.pool(way, 8, &mut ports).ok().unwrap();
        assert_eq!(pool.sockets.len(), 1);
        let told = lost(&pool, 8).unwrap();
        assert_eq!(told, "7 of 8 entropy-ports: no more UDP ports from 49152 on are free");
        let Err(Refusal::Error(e)) = opening.pool(way, 8, &mut ports) else { panic!() };
        assert!(e.to_string().contains("no UDP port") && e.hint().is_some(), "{e}");
    }
}
