//! rtnetlink: what the kernel knows of a device, changes to it, and news of changes.
//!
//! A socket belongs to the network namespace it was opened in, so one opened by
//! [`crate::netns::run_in`] serves a device in there from any thread.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NetlinkPayload, Nla as _,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeader, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoTun, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::RouteAttribute;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use crate::error::errno;
use crate::netlink::{BUFFER, GROUP_LINK, MESSAGES_MAX, Requests, split};

/// A device as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    /// Whether it is Ethernet: anything else carries no layer-2 frames for us.
    pub(crate) ethernet: bool,
    pub(crate) admin_up: bool,
    /// Administratively up and with a carrier.
    pub(crate) up: bool,
    /// Index of the bridge or bond it belongs to.
    pub(crate) master: Option<u32>,
    /// What made it: `tun`, `veth`; empty for hardware.
    pub(crate) kind: String,
    /// It is a TAP that may have several queues.
    pub(crate) multi_queue: bool,
    /// How many queues programs have of such a TAP; of any other one the kernel does not tell.
    pub(crate) queues: u32,
    pub(crate) rx_dropped: u64,
    pub(crate) tx_dropped: u64,
}

impl LinkState {
    fn of(msg: &LinkMessage) -> Self {
        let flags = msg.header.flags;
        let admin_up = flags.contains(LinkFlags::Up);
        let mut link = Self {
            index: msg.header.index,
            ethernet: msg.header.link_layer_type == LinkLayerType::Ether,
            admin_up,
            up: admin_up && flags.contains(LinkFlags::LowerUp),
            ..Self::default()
        };
        for attribute in &msg.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(mac) => {
                    link.mac = mac.as_slice().try_into().unwrap_or_default();
                }
                LinkAttribute::Controller(master) => link.master = Some(*master),
                LinkAttribute::Stats64(stats) => {
                    link.rx_dropped = stats.rx_dropped;
                    link.tx_dropped = stats.tx_dropped;
                }
                LinkAttribute::LinkInfo(infos) => {
                    infos.iter().for_each(|info| link.take_info(info));
                }
                _ => {}
            }
        }
        link
    }

    fn take_info(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(InfoKind::Tun) => self.kind = "tun".into(),
            LinkInfo::Kind(kind) => self.kind = format!("{kind:?}").to_lowercase(),
            LinkInfo::Data(InfoData::Tun(attributes)) => {
                for attribute in attributes {
                    let InfoTun::Other(attribute) = attribute else { continue };
                    match attribute.kind() {
                        IFLA_TUN_MULTI_QUEUE => self.multi_queue = number(attribute) != 0,
                        IFLA_TUN_NUM_QUEUES | IFLA_TUN_NUM_DISABLED_QUEUES => {
                            self.queues += number(attribute);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

// `include/uapi/linux/if_link.h`; a byte, and two numbers of four.
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;

/// An attribute of up to four bytes, in the machine's byte order.
fn number(attribute: &DefaultNla) -> u32 {
    let mut bytes = [0; 4];
    let len = attribute.value_len();
    if len == 1 {
        attribute.emit_value(&mut bytes[..1]);
        return bytes[0].into();
    }
    if len == bytes.len() {
        attribute.emit_value(&mut bytes);
    }
    u32::from_ne_bytes(bytes)
}

/// News of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkNews {
    /// It is new or something about it changed.
    Is(LinkState),
    /// It is gone from this namespace.
    Gone {
        /// Its index.
        index: u32,
    },
    /// News were lost: ask about every device.
    Lost,
}

/// What to change about a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkChange {
    pub(crate) mtu: Option<u32>,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) up: Option<bool>,
    /// The longest super-frame that a stack may hand over, in bytes, headers included.
    pub(crate) gso_max: Option<u32>,
}

impl LinkChange {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// An rtnetlink socket for requests, and one for news.
pub(crate) struct Links {
    requests: Requests,
    news: Socket,
    buffer: Vec<u8>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Links {
    /// Sockets for the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let requests = Requests::open()?;
        let mut news = Socket::new(NETLINK_ROUTE)?;
        news.bind_auto()?;
        news.add_membership(GROUP_LINK)?;
        news.set_non_blocking(true)?;
        Ok(Self { requests, news, buffer: vec![0; BUFFER] })
    }

    /// The device of that name; `None` if there is none.
    pub(crate) fn by_name(&mut self, name: &str) -> io::Result<Option<LinkState>> {
        let mut msg = LinkMessage::default();
        msg.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get(msg)
    }

    /// The device with that index; `None` if there is none.
    pub(crate) fn by_index(&mut self, index: u32) -> io::Result<Option<LinkState>> {
        let mut msg = LinkMessage::default();
        msg.header.index = index;
        self.get(msg)
    }

    fn get(&mut self, msg: LinkMessage) -> io::Result<Option<LinkState>> {
        let mut link = None;
        let done = self.requests.send(RouteNetlinkMessage::GetLink(msg), 0, |answer| {
            if let RouteNetlinkMessage::NewLink(msg) = answer {
                link = Some(LinkState::of(&msg));
            }
        });
        match done {
            Err(e) if errno(&e) == Errno::ENODEV => Ok(None),
            done => done.map(|()| link),
        }
    }

    /// Changes a device; does nothing if nothing is to be changed.
    pub(crate) fn change(&mut self, index: u32, change: &LinkChange) -> io::Result<()> {
        if change.is_none() {
            return Ok(());
        }
        let mut msg = LinkMessage::default();
        msg.header.index = index;
        if let Some(up) = change.up {
            msg.header.change_mask = LinkFlags::Up;
            msg.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        msg.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        msg.attributes.extend(change.gso_max.map(LinkAttribute::GsoMaxSize));
        msg.attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        self.requests.send(RouteNetlinkMessage::SetLink(msg), NLM_F_ACK, |_| {})
    }

    /// Has a device send at once what it is given, as virtual devices do (`noqueue`), in place of
    /// queueing it first. For a new one, before it is up: at that the kernel would make what it
    /// queues in, which takes 6 MiB for a TAP that may have 256 queues.
    pub(crate) fn send_at_once(&mut self, index: u32) -> io::Result<()> {
        let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut msg = TcMessage::with_index(index);
        msg.header.parent = TcHandle::ROOT;
        msg.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.requests.send(RouteNetlinkMessage::NewQueueDiscipline(msg), flags, |_| {})
    }

    /// Moves a device into another namespace. It loses its addresses and goes down on the way.
    pub(crate) fn move_to(&mut self, index: u32, netns: &File) -> io::Result<()> {
        let mut msg = LinkMessage::default();
        msg.header.index = index;
        msg.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        self.requests.send(RouteNetlinkMessage::SetLink(msg), NLM_F_ACK, |_| {})
    }

    /// The addresses an operator gave the device, as `192.0.2.1/24`: IPv4 and global IPv6 ones.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        self.each_address(|header, ip| {
            // The kernel gives itself a link-local IPv6 address wherever it may.
            let automatic =
                header.family == AddressFamily::Inet6 && header.scope == AddressScope::Link;
            if header.index == index && !automatic {
                found.push(format!("{ip}/{}", header.prefix_len));
            }
        })?;
        Ok(found)
    }

    /// The first device that has the address; `None` if none has.
    pub(crate) fn index_with(&mut self, address: IpAddr) -> io::Result<Option<u32>> {
        let mut found = None;
        self.each_address(|header, ip| {
            if ip == address {
                found = found.or(Some(header.index));
            }
        })?;
        Ok(found)
    }

    /// Hands every address of this host to `each`.
    pub(crate) fn each_address(
        &mut self,
        mut each: impl FnMut(&AddressHeader, IpAddr),
    ) -> io::Result<()> {
        let get = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.requests.send(get, NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewAddress(msg) = answer else { return };
            // On a point-to-point link `Address` is the peer's, and `Local` the own one.
            let mut own = None;
            for attribute in &msg.attributes {
                match attribute {
                    AddressAttribute::Local(ip) => own = Some(*ip),
                    AddressAttribute::Address(ip) => own = own.or(Some(*ip)),
                    _ => {}
                }
            }
            if let Some(ip) = own {
                each(&msg.header, ip);
            }
        })
    }

    /// Whether a default route leads through the device.
    pub(crate) fn has_default_route(&mut self, index: u32) -> io::Result<bool> {
        use netlink_packet_route::route::RouteMessage;
        let mut found = false;
        let get = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        self.requests.send(get, NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewRoute(msg) = answer else { return };
            let through = msg.attributes.iter().any(|a| match a {
                RouteAttribute::Oif(oif) => *oif == index,
                RouteAttribute::MultiPath(hops) => hops.iter().any(|h| h.interface_index == index),
                _ => false,
            });
            // Table 255 is the kernel's own (`local`): its entries are no way out.
            found |=
                through && msg.header.destination_prefix_length == 0 && msg.header.table != 255;
        })?;
        Ok(found)
    }

    /// The socket that [`news`](Self::news) come from, for waiting on it.
    pub(crate) const fn news_socket(&self) -> &Socket {
        &self.news
    }

    /// What happened since the last call; never waits.
    pub(crate) fn news(&mut self) -> Vec<LinkNews> {
        let mut news = Vec::new();
        while news.len() < MESSAGES_MAX {
            match self.news.recv(&mut &mut self.buffer[..], 0) {
                Ok(n) => news.extend(split(&self.buffer[..n]).filter_map(|m| {
                    match m.payload {
                        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(msg)) => {
                            (msg.header.interface_family == AddressFamily::Unspec)
                                .then(|| LinkNews::Is(LinkState::of(&msg)))
                        }
                        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(msg)) => {
                            // A device that leaves a bridge is told of as deleted there, too.
                            (msg.header.interface_family == AddressFamily::Unspec)
                                .then_some(LinkNews::Gone { index: msg.header.index })
                        }
                        _ => None,
                    }
                })),
                // Read again after it: the socket goes on with what came since.
                Err(e) if errno(&e) == Errno::ENOBUFS => news.push(LinkNews::Lost),
                Err(_) => break,
            }
        }
        news
    }
}
