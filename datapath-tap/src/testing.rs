//! The far end of a port in tests: a packet socket on a device, in any network namespace.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;
use switch_core::config::Netns;
use switch_core::datapath::BackendError;

use crate::error::{errno, failed, refused};
use crate::link::Links;
use crate::netns;
use crate::sys::packet;

/// Receives what comes in on a device and sends on it, in place of the stack it belongs to.
#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
}

impl RawSocket {
    /// A socket on `device` in `netns`, or in the test's own namespace.
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn open(netns: Option<&str>, device: &str) -> Result<Self, BackendError> {
        let attempted = format!("open a packet socket on {device}");
        let netns = netns.map(|n| Netns(n.to_owned()));
        let open = || {
            let link = Links::open().and_then(|mut l| l.by_name(device));
            let link = link.map_err(|e| refused(&attempted, &e))?;
            let link = link.ok_or_else(|| failed(&attempted, "no such device"))?;
            let socket = packet::open().map_err(|e| refused(&attempted, &e))?;
            for option in [libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
                packet::set_option(socket.as_fd(), libc::SOL_PACKET, option, 1)
                    .map_err(|e| refused(&attempted, &e))?;
            }
            packet::bind(socket.as_fd(), link.index, packet::PROTO_ALL)
                .map_err(|e| refused(&attempted, &e))?;
            Ok(Self { socket })
        };
        netns::run_in(netns.as_ref(), open)
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        write(&self.socket, frame)?;
        Ok(())
    }

    /// The next frame, with a tag that the kernel took off put back; `None` if none comes in time.
    pub fn recv(&self, patience: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        let mut bytes = vec![0; 128 * 1024];
        loop {
            match packet::recv(self.socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)]) {
                Ok(got) => {
                    bytes.truncate(got.len);
                    if let Some((tpid, tci)) = got.vlan {
                        let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
                        bytes.splice(12..12, tag);
                    }
                    return Some(bytes);
                }
                Err(e) if errno(&e) == Errno::EAGAIN => {
                    let left = end.saturating_duration_since(Instant::now());
                    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    if left == PollTimeout::ZERO {
                        return None;
                    }
                    let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, left);
                }
                // The device went down or away: whoever waits will see that nothing comes.
                Err(_) => return None,
            }
        }
    }
}
