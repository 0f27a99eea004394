//! Datagrams that the kernel hands over several at once (`UDP_GRO`, Linux 5.0), dealt out one by one.

use std::fmt;
use std::io::IoSliceMut;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use switch_core::DropReason;
use switch_core::frame::{Csum, Frame, FramePool, HeapFrame, Offload};

use super::{Carries, HEADER_MAX, header, no_packet, packet};
use crate::io::Got;
use crate::shared::PortShared;
use crate::sys::udp::{self, Received};

/// What one receive brought. The datagrams share its bytes.
pub(super) struct Gathered {
    pool: FramePool,
    /// To receive into; none while nothing comes.
    whole: Option<HeapFrame>,
    /// What of it is still to be dealt out.
    from: usize,
    /// Bytes of each datagram but the last, which may have fewer.
    size: usize,
    /// What is the same of all.
    about: Option<(Carries, Received, SocketAddr, IpAddr)>,
    /// The headers of each but the last, and their length.
    header: ([u8; HEADER_MAX], usize),
}

impl fmt::Debug for Gathered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathered").field("left", &self.left()).finish_non_exhaustive()
    }
}

impl Gathered {
    /// Nothing yet; frames come from the pool.
    pub(super) const fn new(pool: FramePool) -> Self {
        Self { pool, whole: None, from: 0, size: 1, about: None, header: ([0; HEADER_MAX], 0) }
    }

    /// Receives from a socket, when everything was dealt out, and deals out the first datagram. With a
    /// dry pool there is nothing to receive into: the datagrams stay in the kernel.
    pub(super) fn recv(
        &mut self,
        socket: BorrowedFd<'_>,
        carries: Carries,
        frame: &mut HeapFrame,
        shared: &PortShared,
    ) -> Got {
        let Some(whole) = self.whole.take().or_else(|| self.pool.alloc()) else {
            return Got::Again;
        };
        let whole = self.whole.insert(whole);
        let window = whole.rx_window();
        let received = udp::recv(socket, &mut [window.head, window.tail].map(IoSliceMut::new));
        let received = match received {
            Ok(received) => received,
            Err(e) => {
                // Nothing is held back while nothing comes.
                self.whole = None;
                return no_packet(&e, shared);
            }
        };
        let (Some(from), Some(to)) = (received.from, received.to) else {
            return Got::Dropped(received.len, DropReason::OuterAddress);
        };
        let len = received.len;
        if !whole.set_received(len) {
            return Got::Dropped(len, DropReason::Giant);
        }
        self.from = 0;
        self.size = received.segment.map_or(len, usize::from).max(1);
        self.about = Some((carries, received, from, to));
        self.header = header(carries, &Received { len: self.size, ..received }, from, to);
        self.deal(frame).unwrap_or(Got::Again)
    }

    fn left(&self) -> usize {
        self.whole.as_ref().map_or(0, Frame::len).saturating_sub(self.from)
    }

    /// Whether everything was dealt out.
    pub(super) fn is_empty(&self) -> bool {
        self.about.is_none()
    }

    /// The next datagram, as a packet; `None` if all were dealt out.
    pub(super) fn deal(&mut self, frame: &mut HeapFrame) -> Option<Got> {
        let (carries, received, from, to) = self.about?;
        let len = self.size.min(self.left());
        let range = self.from..self.from.saturating_add(len);
        self.from = range.end;
        let alone = range.start == 0 && self.left() == 0;
        if self.left() == 0 {
            self.about = None;
        }
        let whole = self.whole.as_mut()?;
        if len < self.size {
            self.header = header(carries, &Received { len, ..received }, from, to);
        }
        let (header, header_len) = &self.header;
        let header = header.get(..*header_len).unwrap_or_default();
        let got = packet(frame, header, len, |frame| {
            if alone {
                mem::swap(frame, whole);
                return true;
            }
            frame.fill_of(whole, range)
        });
        if matches!(got, Got::Frame) {
            // The kernel has looked at the checksum and does not tell it. The core takes an empty field
            // for right where it is marked so.
            frame.set_offload(Offload { csum: Csum::Verified, gso: None });
        }
        Some(got)
    }
}
