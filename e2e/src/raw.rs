//! Frames of any bytes into a device's stack side, through a packet socket.
//!
//! What comes out is looked at with [`crate::capture`]: tcpdump puts back the VLAN tag that the
//! kernel strips, which needs more of the socket API than safe Rust offers.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket,
};

use crate::netns::Netns;

/// Sends frames out of one device of a namespace, as that namespace's stack would.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    device: String,
}

impl Sender {
    /// Opens the device. It must be up and have a link-layer address.
    ///
    /// # Errors
    /// No such device in the namespace, or no permission.
    pub fn open(netns: &Netns, device: &str) -> Result<Self> {
        let socket = netns.enter(|| {
            // Protocol 0 would do for sending, and would receive nothing; the safe API has no 0,
            // so what is received stays in the socket's bounded queue and is never read.
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .context("cannot open a packet socket")?;
            let address = link_address(device)?
                .with_context(|| format!("{} has no device {device}", netns.name()))?;
            bind(socket.as_raw_fd(), &address)
                .with_context(|| format!("cannot bind a packet socket to {device}"))?;
            Ok(socket)
        })?;
        Ok(Self { socket, device: device.to_owned() })
    }

    /// Sends one frame: Ethernet header and payload, without FCS, at least 14 bytes and at most
    /// the device's MTU and a VLAN tag more. Blocks while the device's queue is full, if it has one.
    ///
    /// # Errors
    /// The kernel refused it: wrong length, the device is down, or has no queue and no room.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).with_context(|| {
            format!("cannot send a frame of {} bytes on {}", frame.len(), self.device)
        })?;
        ensure!(sent == frame.len(), "only {sent} of {} bytes were sent", frame.len());
        Ok(())
    }

    /// The same, where a frame may be lost for want of room, as it is on a TAP that the switch does not
    /// read as fast: these have no queue.
    ///
    /// # Errors
    /// As of [`Self::send`], but for the last.
    pub fn send_or_lose(&self, frame: &[u8]) -> Result<()> {
        match self.send(frame) {
            Err(error) if error.root_cause().downcast_ref() == Some(&Errno::ENOBUFS) => Ok(()),
            result => result,
        }
    }
}

/// The device's address in the calling thread's namespace, which holds its index.
fn link_address(device: &str) -> Result<Option<LinkAddr>> {
    let mut all = getifaddrs().context("cannot list devices")?;
    Ok(all.find_map(|i| {
        (i.interface_name == device).then_some(())?;
        i.address?.as_link_addr().copied()
    }))
}

/// An Ethernet frame: addresses, the VLAN tags (TPID and TCI each, outermost first), type and
/// payload, filled up with zeros to 60 bytes.
pub fn ethernet(
    destination: [u8; 6],
    source: [u8; 6],
    tags: &[(u16, u16)],
    ethertype: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64 + payload.len());
    frame.extend(destination);
    frame.extend(source);
    for (tpid, tci) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend_from_slice(payload);
    if frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// A locally administered unicast MAC address made from a number.
pub fn mac(n: u32) -> [u8; 6] {
    let [a, b, c, d] = n.to_be_bytes();
    [0x02, 0, a, b, c, d]
}
