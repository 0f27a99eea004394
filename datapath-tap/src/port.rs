//! What the control side knows of one port.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use switch_core::WorkerId;
use switch_core::config::Netns;
use switch_core::datapath::{Caps, DeviceDetails, PortEventKind, PortInfo};
use switch_core::frame::HeapFrame;
use switch_core::handover::HandoverRing;

use crate::away::Away;
use crate::link::{LinkNews, LinkState, Links};
use crate::netdev::Netdev;
use crate::netns;
use crate::shared::{PortShared, caps_bits};
use crate::sys::tun;
use crate::vtep::{self, Vtep};

/// How often errors of sending are told of one port at most.
const ERRORS_TOLD_EVERY: Duration = Duration::from_secs(10);

/// An open port.
pub(crate) struct Port {
    pub(crate) device: Device,
    pub(crate) shared: Arc<PortShared>,
    /// Where its queues are; none until it was handed out.
    pub(crate) places: Vec<Place>,
    /// As last told or seen.
    pub(crate) link: LinkState,
    /// The device's counters when the port was opened.
    pub(crate) base: LinkState,
    pub(crate) driver: &'static str,
    pub(crate) caps: Caps,
    pub(crate) lost: Vec<String>,
    pub(crate) gone: bool,
    /// It is a TAP that somebody moved where we cannot ask for it.
    pub(crate) moved: bool,
    /// Errors of the hot side that were told, and when.
    pub(crate) errors_told: u64,
    pub(crate) told_at: Option<Instant>,
}

/// The worker that has a queue, and the way to it for those that have none.
pub(crate) struct Place {
    pub(crate) worker: WorkerId,
    pub(crate) ring: HandoverRing<HeapFrame>,
}

pub(crate) enum Device {
    Tap {
        /// A second handle to the first queue's file.
        file: std::os::fd::OwnedFd,
        /// The namespace it is in, and sockets there.
        away: Option<Away>,
    },
    Netdev(Netdev),
    Vtep(Vtep),
}

/// What a port that could not be opened waits for.
pub(crate) enum Waiting {
    Device {
        name: String,
        netns: Option<Netns>,
        /// Whether the namespace itself was missing.
        netns_missing: bool,
    },
    /// An address of this host.
    Address(IpAddr),
}

impl Port {
    /// A port that was just opened.
    pub(crate) fn new(
        device: Device,
        link: LinkState,
        driver: &'static str,
        caps: Caps,
        lost: Vec<String>,
    ) -> Self {
        Self {
            device,
            shared: Arc::default(),
            places: Vec::new(),
            base: link.clone(),
            link,
            driver,
            caps,
            lost,
            gone: false,
            moved: false,
            errors_told: 0,
            told_at: None,
        }
    }

    /// What the kernel refused.
    fn lost(&self) -> Vec<String> {
        let mut lost = self.lost.clone();
        let runs = self.shared.one_by_one.get();
        if runs > 0 {
            let to = self.shared.one_by_one_to.lock().map(|to| to.clone()).unwrap_or_default();
            let to = to.iter().map(|(remote, e)| format!("{remote} ({e})"));
            let to = to.collect::<Vec<_>>().join(", ");
            lost.push(format!(
                "UDP_SEGMENT: runs of packets that went one by one: {runs}, to {to}"
            ));
        }
        lost
    }

    /// Whether frames for it are joined.
    pub(crate) fn set_gro(&self, gro: bool) {
        let joins = if gro { caps_bits(self.caps) } else { 0 };
        self.shared.joins.store(joins, Ordering::Relaxed);
    }

    /// The device as it is now; `None` if it is gone or cannot be asked.
    pub(crate) fn ask(&mut self, own: &mut Option<Links>) -> Option<LinkState> {
        if self.moved {
            return None;
        }
        let index = self.link.index;
        let links = match &mut self.device {
            Device::Tap { away: Some(away), .. } => &mut away.links,
            // It is no device of its own.
            Device::Vtep(_) => return Some(self.link.clone()),
            _ => own.as_mut()?,
        };
        links.by_index(index).ok().flatten()
    }

    pub(crate) fn info(&self) -> PortInfo {
        let queues = u16::try_from(self.places.len()).unwrap_or(u16::MAX);
        PortInfo {
            device: self.link.name.clone(),
            driver: self.driver.to_owned(),
            mtu: self.link.mtu,
            mac: self.link.mac,
            caps: self.caps,
            queues: match &self.device {
                Device::Vtep(vtep) => vtep.source_ports(),
                _ => queues,
            },
            link_up: self.link.up && !self.gone,
            lost: self.lost(),
            details: match &self.device {
                // One socket for each way a packet may come or go: nothing of the kind.
                Device::Vtep(_) => DeviceDetails::default(),
                _ => DeviceDetails {
                    rx_queues: Some(queues),
                    tx_queues: Some(queues),
                    ..DeviceDetails::default()
                },
            },
        }
    }

    /// Takes in what the device is now, and says what changed.
    pub(crate) fn update(&mut self, now: &LinkState) -> Vec<PortEventKind> {
        let mut changes = Vec::new();
        if now.up != self.link.up {
            changes.push(if now.up { PortEventKind::LinkUp } else { PortEventKind::LinkDown });
        }
        if now.mtu != self.link.mtu {
            changes.push(PortEventKind::Mtu(now.mtu));
        }
        self.link = now.clone();
        if let Device::Netdev(netdev) = &self.device {
            self.shared.native.store(netdev.native(&self.link), Ordering::Relaxed);
        }
        changes
    }

    /// The device is not where it was.
    pub(crate) fn left(&mut self) -> Option<PortEventKind> {
        if let Device::Tap { file, .. } = &self.device
            && tun::is_attached(file)
        {
            // Somebody moved it into another namespace. The file went along and works, but nothing
            // tells of its link any more: frames for one that is down are refused one by one.
            self.moved = true;
            let was_up = std::mem::replace(&mut self.link.up, true);
            return (!was_up).then_some(PortEventKind::LinkUp);
        }
        self.set_gone(format!("device {} was deleted", self.link.name))
    }

    pub(crate) fn set_gone(&mut self, why: String) -> Option<PortEventKind> {
        let first = !std::mem::replace(&mut self.gone, true);
        first.then_some(PortEventKind::Gone(why))
    }
}

impl Waiting {
    pub(crate) fn appeared(&mut self, news: &[LinkNews], links: &mut Option<Links>) -> bool {
        match self {
            Self::Device { name, netns: None, .. } => news.iter().any(|item| match item {
                LinkNews::Is(link) => link.name == *name,
                LinkNews::Gone { .. } => false,
                LinkNews::Lost => true,
            }),
            // Told once, when the name is there; one that is no namespace yet is tried again.
            Self::Device { netns: Some(netns), netns_missing, .. } => {
                let there = netns::identify(netns).is_some();
                let appeared = there && *netns_missing;
                *netns_missing = !there;
                appeared
            }
            Self::Address(address) => {
                links.as_mut().is_some_and(|links| vtep::appeared(links, *address))
            }
        }
    }
}

impl Port {
    /// What the hot side could not send, if that has not been told for a while.
    pub(crate) fn tx_error(&mut self) -> Option<PortEventKind> {
        let errors = self.shared.errors.load(Ordering::Relaxed);
        let told = self.told_at.is_some_and(|at| at.elapsed() < ERRORS_TOLD_EVERY);
        if errors == self.errors_told || told {
            return None;
        }
        let e = Errno::from_raw(self.shared.last_error.load(Ordering::Relaxed));
        let (device, more) = (&self.link.name, errors.wrapping_sub(self.errors_told));
        let what = format!("device {device} refused {more} frames, the last one with {e}");
        self.errors_told = errors;
        self.told_at = Some(Instant::now());
        Some(PortEventKind::TxError(what))
    }
}
