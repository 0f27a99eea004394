//! A TAP device held by the test, as QEMU holds one: what is written to its file is received by the
//! switch's `netdev` port, past the checks that packet sockets make.

use std::io;

use anyhow::{Context, Result};
use tun_tap::{Iface, Mode};
use vswitch_e2e::Netns;

/// Such a device; gone when dropped.
pub(crate) struct Held(Iface);

impl Held {
    /// Makes one in a namespace, with that MTU, and sets it up.
    pub(crate) fn new(netns: &Netns, name: &str, mtu: u32) -> Result<Self> {
        let iface = netns.enter(|| {
            Iface::without_packet_info(name, Mode::Tap)
                .with_context(|| format!("cannot make the TAP device {name}"))
        })?;
        netns.ip(&format!("link set {name} mtu {mtu} up"))?;
        Ok(Self(iface))
    }

    /// Hands a frame to the kernel, which may refuse it.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }
}
