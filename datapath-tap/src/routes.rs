//! rtnetlink: routes and neighbours, for who builds outer headers itself.
//!
//! The kernel keeps both tables: operators, routing daemons and ARP or ND fill them as on any host,
//! and nothing of that is done a second time here.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NetlinkPayload};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use switch_core::datapath::BackendError;

use crate::error::{errno, refused};
use crate::link::Links;
use crate::netlink::{BUFFER, GROUP_LINK, MESSAGES_MAX, Requests, split};
use crate::sys::udp::{self, Protocol};

/// `RTNLGRP_NEIGH`, `RTNLGRP_IPV4_IFADDR`, `…_ROUTE`, `…_RULE`, and the same of IPv6: whatever can
/// change where a packet goes.
const GROUPS: [u32; 8] = [GROUP_LINK, 3, 5, 7, 8, 9, 11, 19];
/// Bytes of news that the kernel keeps for us: a routing daemon may change thousands at once.
const NEWS_BUFFER: usize = 1 << 20;

/// The way to a destination, as the kernel's routes have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the device that packets leave by.
    pub device: u32,
    /// The router; `None` where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Largest packet in bytes, where the route names one.
    pub mtu: Option<u32>,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of its device.
    pub device: u32,
    /// Its address.
    pub addr: IpAddr,
    /// How much is known of it.
    pub state: Reach,
}

/// How much is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its address on the link.
    At {
        /// The address.
        mac: [u8; 6],
        /// Whether it still holds.
        holds: Holds,
    },
    /// It is being asked for.
    Asked,
    /// It does not answer.
    Failed,
    /// The kernel has forgotten it.
    Unknown,
}

/// Whether a neighbour's address on the link still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It was entered for good (`NUD_PERMANENT`, `NUD_NOARP`). The kernel must not be told to confirm it:
    /// [`Routes::use_neighbour`] would end it.
    Always,
    /// It was heard of lately.
    Now,
    /// It has to be confirmed once it is used (`NUD_STALE`).
    Perhaps,
}

/// News of what the tables hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Of a neighbour.
    Neighbour(Neighbour),
    /// A route, rule, address or device changed.
    Routes,
    /// News were lost: ask about everything.
    Lost,
}

/// Asks the kernel of the network namespace it was opened in.
#[derive(Debug)]
pub struct Routes {
    requests: Requests,
}

impl Routes {
    /// For the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()? })
    }

    /// The way from `local` to `remote`, as `ip route get` tells it; `None` if there is none.
    /// `device` is what a link-local destination is looked for on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn route(
        &mut self,
        remote: IpAddr,
        local: IpAddr,
        device: u32,
    ) -> io::Result<Option<Route>> {
        let mut msg = RouteMessage::default();
        msg.header.address_family = family(remote);
        msg.header.destination_prefix_length = if remote.is_ipv4() { 32 } else { 128 };
        msg.header.source_prefix_length = msg.header.destination_prefix_length;
        msg.attributes.push(RouteAttribute::Destination(remote.into()));
        msg.attributes.push(RouteAttribute::Source(local.into()));
        if let IpAddr::V6(ip) = remote
            && ip.is_unicast_link_local()
        {
            msg.attributes.push(RouteAttribute::Oif(device));
        }
        let mut found = None;
        let done = self.requests.send(RouteNetlinkMessage::GetRoute(msg), 0, |answer| {
            if let RouteNetlinkMessage::NewRoute(msg) = answer
                && msg.header.kind == RouteType::Unicast
            {
                found = route_of(&msg);
            }
        });
        match done {
            Ok(()) => Ok(found),
            Err(e) => match errno(&e) {
                // No route, or one that says so.
                Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL => {
                    Ok(None)
                }
                _ => Err(e),
            },
        }
    }

    /// The neighbours on a device.
    ///
    /// # Errors
    /// The kernel's.
    pub fn neighbours(&mut self, device: u32) -> io::Result<Vec<Neighbour>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut msg = NeighbourMessage::default();
            msg.header.family = family;
            let get = RouteNetlinkMessage::GetNeighbour(msg);
            self.requests.send(get, NLM_F_DUMP, |answer| {
                if let RouteNetlinkMessage::NewNeighbour(msg) = answer {
                    found.extend(neighbour_of(&msg).filter(|n| n.device == device));
                }
            })?;
        }
        Ok(found)
    }

    /// Has the kernel find a neighbour, or find out whether it is still there (`NTF_USE`), as if a
    /// packet had been sent to it. One that was entered for good is so no more then (since Linux 5.16).
    ///
    /// # Errors
    /// The kernel's: the device is down, or its table is full.
    pub fn use_neighbour(&mut self, device: u32, addr: IpAddr) -> io::Result<()> {
        let mut msg = NeighbourMessage::default();
        msg.header.family = family(addr);
        msg.header.ifindex = device;
        msg.header.state = NeighbourState::None;
        msg.header.flags = NeighbourFlags::Use;
        msg.attributes.push(NeighbourAttribute::Destination(addr.into()));
        let request = RouteNetlinkMessage::NewNeighbour(msg);
        self.requests.send(request, NLM_F_ACK | NLM_F_CREATE, |_| {})
    }

    /// The devices that have this address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn devices_with(address: IpAddr) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        Links::open()?.each_address(|header, ip| {
            if ip == address {
                found.push(header.index);
            }
        })?;
        Ok(found)
    }
}

/// Tells of changes to routes and neighbours.
#[derive(Debug)]
pub struct RouteNews {
    socket: Socket,
    buffer: Vec<u8>,
}

impl RouteNews {
    /// Listens from now on, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        // As much as is permitted: what does not fit is told as `News::Lost`.
        let _ = socket.set_rx_buf_sz(NEWS_BUFFER);
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// What happened since the last call; never waits.
    pub fn read(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        while news.len() < MESSAGES_MAX {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(n) => news.extend(split(&self.buffer[..n]).filter_map(|m| match m.payload {
                    NetlinkPayload::InnerMessage(message) => news_of(&message),
                    _ => None,
                })),
                Err(e) if errno(&e) == Errno::ENOBUFS => news.push(News::Lost),
                Err(_) => break,
            }
        }
        news
    }
}

impl AsFd for RouteNews {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for RouteNews {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

/// Keeps the host a member of multicast groups on a device, as long as it lives.
#[derive(Debug)]
pub struct Membership {
    _socket: OwnedFd,
}

impl Membership {
    /// Joins `group` on the device `index`, which has the address `local`. The kernel answers the
    /// queries of routers and switches; packets to the group are nothing it gets to see.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(group: IpAddr, local: IpAddr, index: u32) -> Result<Self, BackendError> {
        let joined = udp::open(group, Protocol::Udp).and_then(|socket| {
            udp::receive_nothing(socket.as_fd())?;
            udp::join(socket.as_fd(), group, local, index)?;
            Ok(Self { _socket: socket })
        });
        joined.map_err(|e| refused(format!("join the multicast group {group} at {local}"), &e))
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_of(msg: &RouteMessage) -> Option<Route> {
    let (mut device, mut gateway, mut mtu) = (None, None, None);
    for attribute in &msg.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(IpAddr::V4(*ip)),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => gateway = Some(IpAddr::V6(*ip)),
            // An IPv4 route may lead over an IPv6 router (RFC 5549).
            RouteAttribute::Via(RouteVia::Inet(ip)) => gateway = Some(IpAddr::V4(*ip)),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => gateway = Some(IpAddr::V6(*ip)),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Route { device: device?, gateway, mtu })
}

fn neighbour_of(msg: &NeighbourMessage) -> Option<Neighbour> {
    let (mut addr, mut mac) = (None, None);
    for attribute in &msg.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                addr = Some(IpAddr::V4(*ip));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                addr = Some(IpAddr::V6(*ip));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let known = |holds| mac.map_or(Reach::Unknown, |mac| Reach::At { mac, holds });
    let state = match msg.header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => known(Holds::Always),
        NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe => {
            known(Holds::Now)
        }
        NeighbourState::Stale => known(Holds::Perhaps),
        NeighbourState::Incomplete => Reach::Asked,
        NeighbourState::Failed => Reach::Failed,
        _ => Reach::Unknown,
    };
    Some(Neighbour { device: msg.header.ifindex, addr: addr?, state })
}

fn news_of(message: &RouteNetlinkMessage) -> Option<News> {
    match message {
        RouteNetlinkMessage::NewNeighbour(msg) => neighbour_of(msg).map(News::Neighbour),
        RouteNetlinkMessage::DelNeighbour(msg) => {
            neighbour_of(msg).map(|n| News::Neighbour(Neighbour { state: Reach::Unknown, ..n }))
        }
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_)
        | RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_)
        | RouteNetlinkMessage::NewLink(_)
        | RouteNetlinkMessage::DelLink(_) => Some(News::Routes),
        _ => None,
    }
}
