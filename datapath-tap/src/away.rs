//! Other network namespaces, and news of devices in them. Each has sockets of its own: those with
//! something to read are asked for all at once, so that hundreds of ports at rest cost nothing.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use switch_core::PortId;
use switch_core::config::Netns;

use crate::link::{LinkNews, Links};
use crate::netlink::MESSAGES_MAX;
use crate::netns::{self, NetnsId};

/// Sockets told of in one round; the others are in the next.
const AT_ONCE: usize = 256;
/// How often it is looked whether the names of namespaces still are those.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Another network namespace.
pub(crate) struct Away {
    pub(crate) netns: Netns,
    pub(crate) id: Option<NetnsId>,
    pub(crate) links: Links,
}

impl Away {
    /// Whether the name stands for another namespace by now, or for none.
    pub(crate) fn has_left(&self) -> bool {
        netns::identify(&self.netns) != self.id
    }
}

/// Which of the ports in other namespaces have news.
pub(crate) struct AwayNews {
    poll: Poll,
    events: Events,
    /// Ports, by index, whose news were not read to the end.
    told: HashSet<usize>,
    looked: Option<Instant>,
}

impl AwayNews {
    /// Knows of no port.
    ///
    /// # Errors
    /// The kernel has no file for it.
    pub(crate) fn new() -> io::Result<Self> {
        let (poll, events) = (Poll::new()?, Events::with_capacity(AT_ONCE));
        Ok(Self { poll, events, told: HashSet::new(), looked: None })
    }

    /// Listens for a port that was opened, until `links` is dropped.
    ///
    /// # Errors
    /// The kernel refused.
    pub(crate) fn listen(&mut self, port: PortId, links: &Links) -> io::Result<()> {
        let fd = links.news_socket().as_raw_fd();
        let token = Token(port.index());
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// Begins a round; never waits. Whether it is time to look after the names of namespaces.
    pub(crate) fn begin_round(&mut self) -> bool {
        // A signal ends it early: what is there is told in the next round.
        if self.poll.poll(&mut self.events, Some(Duration::ZERO)).is_ok() {
            self.told.extend(self.events.iter().map(|event| event.token().0));
        }
        let look = self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if look {
            self.looked = Some(Instant::now());
        }
        look
    }

    /// What happened to devices in the namespace of a port.
    pub(crate) fn news(&mut self, port: PortId, links: &mut Links) -> Vec<LinkNews> {
        if !self.told.contains(&port.index()) {
            return Vec::new();
        }
        let news = links.news();
        // It is told of again only after it was found empty.
        if news.len() < MESSAGES_MAX {
            self.told.remove(&port.index());
        }
        news
    }
}
