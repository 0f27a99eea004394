//! An open DPDK device as a port: what the control side knows of it, and what it tells.

use switch_core::datapath::{Caps, PortEventKind, PortInfo};
use switch_core::ids::WorkerId;

use super::below::Below;
use super::{devargs, vf, vhost};
use crate::ethdev::{Attach, Device};

#[derive(Debug)]
pub(crate) struct DevicePort {
    pub(crate) device: Device,
    /// Who polls each receive queue.
    pub(crate) rx_workers: Vec<WorkerId>,
    /// Settings the device goes without, in words.
    pub(crate) lost: Vec<String>,
    /// The MTU asked for, where the driver does not know the notion.
    pub(crate) mtu: Option<u16>,
    /// The kernel's device below it, if it has one.
    below: Option<Below>,
    /// As last told.
    link_up: bool,
    /// The link has been up, and then down.
    lost_link: bool,
    /// With a guest: changes of the link that were told of, and whether it may be sent to.
    changes: u32,
    known: bool,
    gone: bool,
}

impl DevicePort {
    pub(crate) fn new(device: Device, attach: &Attach, rx_workers: Vec<WorkerId>) -> Self {
        let below = match attach {
            Attach::Devargs(devargs) => devargs::kernel_device(devargs).and_then(Below::find),
            Attach::Rings { .. } => None,
        };
        let lost = device.refused().into_iter().cloned().collect();
        let mut port = Self {
            device,
            rx_workers,
            lost,
            mtu: None,
            below,
            link_up: false,
            lost_link: false,
            changes: 0,
            known: false,
            gone: false,
        };
        // A guest comes by an event, with what it takes.
        port.link_up = !port.device.has_guest() && port.has_link();
        port
    }

    /// Whether frames can pass, by what drives it and what is below that.
    fn has_link(&self) -> bool {
        self.device.link_up() && self.below.as_ref().is_none_or(Below::carrier)
    }

    /// As last told.
    pub(crate) fn link_up(&self) -> bool {
        self.link_up
    }

    pub(crate) fn info(&self) -> PortInfo {
        let (rx, tx) = self.device.queues();
        let caps = if self.device.has_guest() {
            let there = self.link_up && self.device.link_up();
            vhost::caps(if there { self.device.guest_features() } else { 0 })
        } else {
            // Segmentation needs pseudo-header sums without the length, which differs from what
            // frames carry: super-frames are cut in software.
            Caps { csum: self.device.finishes_checksums(), ..Caps::default() }
        };
        PortInfo {
            device: self.device.name().to_owned(),
            driver: self.device.driver().to_owned(),
            mtu: self.mtu.unwrap_or_else(|| self.device.mtu()).into(),
            mac: self.device.mac(),
            caps,
            queues: rx.max(tx),
            link_up: if self.device.has_guest() { self.link_up } else { self.has_link() },
            lost: self.lost.clone(),
            details: self.device.details(),
        }
    }

    /// Lets in the multicast groups that an uplink's host is in; what the device refuses is told, until
    /// it takes them.
    pub(crate) fn let_in(&mut self, groups: &[[u8; 6]]) {
        const WHAT: &str = "multicast: ";
        self.lost.retain(|lost| !lost.starts_with(WHAT));
        let refused = self.device.set_groups(groups).err();
        self.lost.extend(refused.map(|error| format!("{WHAT}{error}")));
    }

    /// What happened since the last call.
    pub(crate) fn events(&mut self) -> Vec<PortEventKind> {
        let below = || self.below.as_ref().and_then(Below::trouble);
        if let Some(trouble) = self.device.trouble().map(str::to_owned).or_else(below) {
            return self.is_gone(trouble);
        }
        if self.device.has_guest() {
            return self.guest_events();
        }
        let up = self.has_link();
        if up && self.lost_link && vf::may_be_forgotten(self.device.driver()) {
            return self.is_gone(vf::FORGOTTEN.to_owned());
        }
        self.lost_link |= self.link_up && !up;
        let kind = if up { PortEventKind::LinkUp } else { PortEventKind::LinkDown };
        (std::mem::replace(&mut self.link_up, up) != up).then_some(kind).into_iter().collect()
    }

    /// Told once: the port is closed then.
    fn is_gone(&mut self, why: String) -> Vec<PortEventKind> {
        let first = !std::mem::replace(&mut self.gone, true);
        first.then_some(PortEventKind::Gone(why)).into_iter().collect()
    }

    /// A guest that left and came back meanwhile may finish other things than before, and have other
    /// addresses: both are told. It is sent nothing until that was heard, which it was when this is
    /// called again.
    fn guest_events(&mut self) -> Vec<PortEventKind> {
        let (changes, up) = (self.device.link_changes(), self.device.link_up());
        let mut told = Vec::new();
        if changes != self.changes {
            (self.changes, self.known) = (changes, false);
            told.extend(self.link_up.then_some(PortEventKind::LinkDown));
            told.extend(up.then_some(PortEventKind::LinkUp));
            self.link_up = up;
        } else if up && !self.known {
            self.device.know_guest(changes);
            self.known = true;
        }
        told
    }
}
