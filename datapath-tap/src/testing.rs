//! The far end of a port in tests: a packet socket on a device, in any network namespace; and a TAP
//! without a switch behind it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::writev;
use nix::unistd::write;
use switch_core::config::Netns;
use switch_core::datapath::BackendError;
use switch_core::frame::{Frame, FramePool, Offload, PoolConfig};
use switch_core::segment::{VnetHeader, VnetLayout, validate};

use crate::error::{errno, failed, refused};
use crate::link::Links;
use crate::netns;
use crate::sys::{packet, set_option, tun};

/// A TAP device as a bare program opens it, non-blocking; it goes with its file. With `vnet_hdr` each
/// frame has a header of 10 bytes in front, and the kernel leaves cutting and checksums undone.
///
/// # Errors
/// Whatever the kernel refuses.
pub fn bare_tap(name: &str, vnet_hdr: bool) -> io::Result<File> {
    let file = tun::open()?;
    tun::set_iff(&file, name, tun::Make { vnet_hdr, multi_queue: false })?;
    if vnet_hdr {
        let tcp = tun::F_CSUM | tun::F_TSO4 | tun::F_TSO6;
        tun::set_offload(&file, tcp | tun::F_USO).or_else(|_| tun::set_offload(&file, tcp))?;
    }
    Ok(file)
}

/// Receives what comes in on a device and sends on it, in place of the stack it belongs to.
#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
    offloads: bool,
}

/// Bytes the kernel keeps for a test that does not read at once.
const RECEIVE_BUFFER: i32 = 64 << 20;

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
                set_option(socket.as_fd(), libc::SOL_PACKET, option, 1)
                    .map_err(|e| refused(&attempted, &e))?;
            }
            let force = libc::SO_RCVBUFFORCE;
            set_option(socket.as_fd(), libc::SOL_SOCKET, force, RECEIVE_BUFFER)
                .map_err(|e| refused(&attempted, &e))?;
            packet::bind(socket.as_fd(), link.index, packet::PROTO_ALL)
                .map_err(|e| refused(&attempted, &e))?;
            Ok(Self { socket, offloads: false })
        };
        netns::run_in(netns.as_ref(), open)
    }

    /// The same with unfinished frames: see [`Self::send_unfinished`] and [`Self::try_recv`].
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn open_with_offloads(netns: Option<&str>, device: &str) -> Result<Self, BackendError> {
        let socket = Self { offloads: true, ..Self::open(netns, device)? };
        let fd = socket.socket.as_fd();
        set_option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
            .map_err(|e| refused(format!("open a packet socket on {device}"), &e))?;
        Ok(socket)
    }

    /// Sends one frame with its metadata. Only if opened with offloads.
    ///
    /// # Errors
    /// Whatever the kernel refuses; also metadata that no header can carry.
    pub fn send_unfinished(&self, frame: &[u8], offload: Offload) -> io::Result<()> {
        let pool = FramePool::new(PoolConfig { heads: 1, tails: 1, max_heads: 1 });
        let mut probe = pool.alloc().ok_or(io::ErrorKind::OutOfMemory)?;
        if !probe.fill(frame) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        probe.set_offload(offload);
        let header = VnetHeader::of(&probe).map_err(io::Error::other)?;
        let header = VnetLayout::LEGACY.encode(&header);
        let header = &header[..VnetLayout::LEGACY.header_len()];
        writev(&self.socket, &[IoSlice::new(header), IoSlice::new(frame)])?;
        Ok(())
    }

    fn take(&self, bytes: &mut [u8]) -> io::Result<packet::Received> {
        let mut buffers = [IoSliceMut::new(bytes)];
        let mut one = packet::recv_many(self.socket.as_fd(), std::iter::once(&mut buffers[..]))?;
        one.pop().ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// The next frame with its metadata, if there is one now. Only if opened with offloads.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; and whatever the kernel refuses.
    pub fn try_recv(&self) -> io::Result<(Vec<u8>, Offload)> {
        let mut bytes = vec![0; 128 * 1024];
        let got = self.take(&mut bytes)?;
        bytes.truncate(got.len);
        let (header, frame) = VnetLayout::LEGACY.decode(&bytes).map_err(io::Error::other)?;
        let mut offload = validate(frame, frame.len(), &header).map_err(io::Error::other)?;
        let mut frame = frame.to_vec();
        if let Some((tpid, tci)) = got.vlan {
            frame.splice(12..12, [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
            offload = offload.pushed(4);
        }
        Ok((frame, offload))
    }

    /// Sends one frame. Only if opened without offloads.
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        debug_assert!(!self.offloads, "opened with offloads");
        write(&self.socket, frame)?;
        Ok(())
    }

    /// The next frame, with a tag that the kernel took off put back; `None` if none comes in time.
    /// Only if opened without offloads.
    pub fn recv(&self, patience: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        let mut bytes = vec![0; 128 * 1024];
        loop {
            match self.take(&mut bytes) {
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
