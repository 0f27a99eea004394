//! Datagrams that the kernel hands over several at once (`UDP_GRO`, Linux 5.0), dealt out one by one.

use std::fmt;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use switch_core::DropReason;
use switch_core::frame::{Csum, Frame, HeapFrame, Offload};

use super::{Carries, header, no_packet, packet};
use crate::io::Got;
use crate::shared::PortShared;
use crate::sys::udp::{self, Received};

/// The most that one receive brings: lengths of IP have 16 bits.
const BYTES: usize = 65_536;

/// What one receive brought.
pub(super) struct Gathered {
    bytes: Box<[u8]>,
    /// What of it is still to be dealt out.
    from: usize,
    to: usize,
    /// Bytes of each datagram but the last, which may have fewer.
    size: usize,
    /// What is the same of all.
    about: Option<(Carries, Received, SocketAddr, IpAddr)>,
}

impl Default for Gathered {
    fn default() -> Self {
        let bytes = vec![0; BYTES].into_boxed_slice();
        Self { bytes, from: 0, to: 0, size: 1, about: None }
    }
}

impl fmt::Debug for Gathered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathered").field("left", &self.to.saturating_sub(self.from)).finish()
    }
}

impl Gathered {
    /// Receives from a socket, when everything was dealt out, and deals out the first datagram.
    pub(super) fn recv(
        &mut self,
        socket: BorrowedFd<'_>,
        carries: Carries,
        frame: &mut HeapFrame,
        shared: &PortShared,
    ) -> Got {
        let received = match udp::recv(socket, &mut [IoSliceMut::new(&mut self.bytes)]) {
            Ok(received) => received,
            Err(e) => return no_packet(&e, shared),
        };
        let (Some(from), Some(to)) = (received.from, received.to) else {
            return Got::Dropped(received.len, DropReason::OuterAddress);
        };
        let len = received.len.min(self.bytes.len());
        (self.from, self.to) = (0, len);
        self.size = received.segment.map_or(len, usize::from).clamp(1, BYTES);
        self.about = Some((carries, received, from, to));
        self.deal(frame).unwrap_or(Got::Again)
    }

    /// Whether everything was dealt out.
    pub(super) fn is_empty(&self) -> bool {
        self.about.is_none()
    }

    /// The next datagram, as a packet; `None` if all were dealt out.
    pub(super) fn deal(&mut self, frame: &mut HeapFrame) -> Option<Got> {
        let (carries, received, from, to) = self.about?;
        let end = self.from.saturating_add(self.size).min(self.to);
        let payload = self.bytes.get(self.from..end)?;
        self.from = end;
        if end == self.to {
            self.about = None;
        }
        let len = payload.len();
        let (header, header_len) = header(carries, &Received { len, ..received }, from, to);
        let header = header.get(..header_len).unwrap_or_default();
        let got = packet(frame, header, len, |frame| frame.fill(payload));
        if matches!(got, Got::Frame) {
            // The kernel has looked at the checksum and does not tell it. The core takes an empty field
            // for right where it is marked so.
            frame.set_offload(Offload { csum: Csum::Verified, gso: None });
        }
        Some(got)
    }
}
