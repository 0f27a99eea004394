//! A tenant: a Linux stack behind one port of a peer.

use anyhow::Result;

use super::space::{Ground, Space};
use crate::command::Host;

/// A tenant, known by a number: MAC and addresses follow from it, so that they can move.
#[derive(Debug)]
pub struct Tenant {
    /// Where it is.
    pub space: Space,
    /// Its only device.
    pub device: String,
    /// Its device's MTU, bytes.
    pub mtu: u32,
    number: u8,
}

impl Tenant {
    /// A tenant without a device yet.
    ///
    /// # Errors
    /// No namespace can be made.
    pub fn new(ground: &Ground, number: u8, device: &str, mtu: u32) -> Result<Self> {
        let space = ground.space(&format!("t{number}"))?;
        // Answer a broadcast ping, and say nothing unasked.
        let settings = "set -e; cd /proc/sys/net; echo 0 >ipv4/icmp_echo_ignore_broadcasts; \
                        echo 0 >ipv6/conf/default/accept_ra; echo 0 >ipv6/conf/default/accept_dad";
        space.sh(settings)?.ok()?;
        Ok(Self { space, device: device.to_owned(), mtu, number })
    }

    /// Joins it by a cable to `port` of a host's namespace.
    ///
    /// # Errors
    /// `ip` or ethtool failed.
    pub fn plug(&self, host: &Space, port: &str) -> Result<()> {
        self.space.veth(&self.device, host, port, self.mtu)
    }

    /// Gives the device, which is there by now, its addresses.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn configure(&self) -> Result<()> {
        self.assume(self.number)
    }

    /// Takes the MAC and IP addresses that belong to `number`, and tells the network (RFC 5227,
    /// section 3: a gratuitous ARP), as a machine does that has moved here.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn assume(&self, number: u8) -> Result<()> {
        let (device, mtu) = (&self.device, self.mtu);
        let (mac, v4, v6) = (mac(number), v4(number), v6(number));
        // arping waits for an answer, which nobody owes, and says so with its exit code.
        self.space
            .sh(&format!(
                "set -e; {}; ip link set {device} address {mac} mtu {mtu} up; \
                 ip addr add {v4}/24 dev {device}; ip addr add {v6}/64 dev {device} nodad; \
                 busybox arping -U -c 1 -I {device} {v4} || true",
                self.leaving()
            ))?
            .ok()
            .map(drop)
    }

    /// Goes away: no addresses, and the device is down.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn leave(&self) -> Result<()> {
        self.space.sh(&self.leaving())?.ok().map(drop)
    }

    fn leaving(&self) -> String {
        let device = &self.device;
        // An interface that is down keeps its IPv4 addresses.
        format!("ip link set {device} down && ip addr flush dev {device}")
    }

    /// The number whose addresses it had at first.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> String {
        v4(self.number)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> String {
        v6(self.number)
    }

    /// Its MAC address.
    pub fn mac(&self) -> String {
        mac(self.number)
    }
}

/// The IPv4 address of tenant `number`; the network is a /24.
pub(super) fn v4(number: u8) -> String {
    format!("198.51.100.{number}")
}

/// The IPv6 address of tenant `number`; the network is a /64.
pub(super) fn v6(number: u8) -> String {
    format!("2001:db8:1::{number:x}")
}

/// The MAC address of tenant `number`.
pub(super) fn mac(number: u8) -> String {
    format!("02:00:00:00:01:{number:02x}")
}
