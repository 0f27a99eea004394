//! The network between hosts: a hub that forwards, and one namespace a host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::space::{Ground, Space, guest_spec};
use crate::command::{Host, until_ok};
use crate::guest::{Guest, GuestSpec, Nic, Platform};

/// The hub's bridge.
const BRIDGE: &str = "hub0";

/// The version of the outer IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Hosts joined by cables to one hub, which floods multicast as it comes.
///
/// Frames on the cables are finished (see [`Space::veth`]), also a guest's, so that a capture shows
/// what a real wire would carry.
#[derive(Debug)]
pub struct Underlay {
    hub: Space,
    mtu: u32,
    hosts: AtomicU8,
}

impl Underlay {
    /// A hub without hosts; `mtu` in bytes, from 1280 on, as IPv6 wants it.
    ///
    /// # Errors
    /// No permission, or the kernel lacks bridges or veth.
    pub fn new(ground: &Ground, mtu: u32) -> Result<Self> {
        let hub = ground.space("hub")?;
        // It is a wire: it says nothing itself.
        hub.sh(&format!(
            "set -e; cd /proc/sys/net/ipv6/conf; echo 1 >all/disable_ipv6; \
             echo 1 >default/disable_ipv6; \
             ip link add {BRIDGE} mtu {mtu} type bridge mcast_snooping 0; \
             ip link set {BRIDGE} up"
        ))?
        .ok()?;
        Ok(Self { hub, mtu, hosts: AtomicU8::new(0) })
    }

    /// The namespace of the hub. A host's cable ends there in [`Site::port`].
    pub fn hub(&self) -> &Space {
        &self.hub
    }

    /// Bytes of the largest outer IP packet.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// A host that is a namespace on the hub's ground.
    ///
    /// # Errors
    /// No permission, or a tool is missing.
    pub fn site(&self, tag: &str) -> Result<Site> {
        let space = self.hub.ground().space(tag)?;
        let n = self.number();
        let port = format!("h{n}");
        space.veth("u0", &self.hub, &port, self.mtu)?;
        self.hub.ip(&format!("link set {port} master {BRIDGE}"))?;
        Ok(Site::new(space, "u0", port, n, self.mtu))
    }

    /// A host that is a guest with Debian's kernel, and `programs` of this machine.
    ///
    /// # Errors
    /// It does not boot; the message says why. The hub must be on this machine.
    pub fn guest(&self, tag: &str, programs: &[PathBuf]) -> Result<Site> {
        self.boot(tag, |port, mac| {
            let mut nic = Nic::new(port, mac, &[]);
            nic.properties =
                "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ufo=off"
                    .to_owned();
            guest_spec(tag, vec![nic], programs)
        })
    }

    /// The same, a PC with an IOMMU whose NIC is an Intel 82576 with virtual functions
    /// ([`Platform::SrIov`]): [`Site::device`] is the physical one.
    ///
    /// # Errors
    /// As [`Self::guest`].
    pub fn sriov_guest(&self, tag: &str, programs: &[PathBuf]) -> Result<Site> {
        self.boot(tag, |port, mac| {
            let mut spec = guest_spec(tag, vec![Nic::igb(port, mac, &[])], programs);
            spec.platform = Platform::SrIov;
            // Hugepages, and its file system twice while it boots.
            spec.memory = 1280;
            // A generator of frames and what it measures poll one each.
            spec.cpus = 2;
            spec
        })
    }

    /// Boots a guest with one NIC, on the TAP device and with the MAC address that `spec` gets.
    fn boot(&self, tag: &str, spec: impl FnOnce(&str, &str) -> GuestSpec) -> Result<Site> {
        let netns = self.hub.netns().context("a guest's cable ends on the machine")?;
        let n = self.number();
        let port = format!("h{n}");
        let mut spec = spec(&port, &format!("52:54:00:00:00:{n:02x}"));
        spec.nics.iter_mut().for_each(|nic| nic.mtu = self.mtu);
        spec.netns = Some(netns.name().to_owned());
        let mut guest = Guest::start(spec)?;
        netns.ip(&format!("link set {port} mtu {} master {BRIDGE} up", self.mtu))?;
        guest.wait_ready().with_context(|| format!("the host {tag}"))?;
        Ok(Site::new(Space::of_guest(Arc::new(guest)), "eth0", port, n, self.mtu))
    }

    fn number(&self) -> u8 {
        self.hosts.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A host of the underlay: a namespace, a device into the underlay and an address of each family.
#[derive(Debug)]
pub struct Site {
    /// Where it is.
    pub space: Space,
    /// Its device towards the underlay.
    pub device: String,
    /// The hub's end of its cable; in the hub's namespace.
    pub port: String,
    /// The VTEP's addresses.
    pub v4: Ipv4Addr,
    /// The same over IPv6.
    pub v6: Ipv6Addr,
    /// Bytes of the largest outer IP packet that it can send.
    pub mtu: u32,
    n: u8,
}

impl Site {
    fn new(space: Space, device: &str, port: String, n: u8, mtu: u32) -> Self {
        let device = device.to_owned();
        let mut site = Self {
            space,
            device,
            port,
            v4: Ipv4Addr::UNSPECIFIED,
            v6: Ipv6Addr::UNSPECIFIED,
            mtu,
            n,
        };
        site.number([192, 0, 2], 0);
        site
    }

    /// Takes this host's addresses in an IPv4 /24 and in the IPv6 /64 `2001:db8:0:subnet::`.
    pub(super) fn number(&mut self, [a, b, c]: [u8; 3], subnet: u16) {
        self.v4 = Ipv4Addr::new(a, b, c, self.n);
        self.v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, self.n.into());
    }

    /// Which host of the underlay it is, from 1.
    pub fn index(&self) -> u8 {
        self.n
    }

    /// The VTEP's address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Gives a device both addresses: the underlay's for a kernel's peer, another where a switch
    /// holds the underlay's device itself.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn take_addresses(&self, device: &str) -> Result<()> {
        let (four, six) = (self.v4, self.v6);
        let add = "ip addr add";
        self.space
            .sh(&format!("{add} {four}/24 dev {device} && {add} {six}/64 dev {device} nodad"))?
            .ok()
            .map(drop)
    }

    /// Waits until it reaches another host by both families.
    ///
    /// # Errors
    /// It does not in 20 s.
    pub fn reaches(&self, other: &Self) -> Result<()> {
        for address in [other.address(Family::V4), other.address(Family::V6)] {
            until_ok(Duration::from_secs(20), "the underlay", || {
                self.space.sh(&format!("ping -n -c 1 -W 1 {address}"))?.ok()
            })?;
        }
        Ok(())
    }
}
