//! Datagrams that the kernel hands over several at once (`UDP_GRO`, Linux 5.0), dealt out one by one,
//! or as one where they carry the segments of one super-frame: what a switch at the far end cut goes
//! through this one as it went through that one, uncut.

use std::fmt;
use std::io::IoSliceMut;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use switch_core::DropReason;
use switch_core::frame::{Csum, Frame, FramePool, HEAD_CAPACITY, HEAD_MIN, HeapFrame, Offload};
use switch_core::segment::InBytes;
use switch_core::wire::{EtherType, GeneveHeader, VxlanHeader};

use super::{Carries, HEADER_MAX, header, no_packet, packet};
use crate::io::Got;
use crate::shared::PortShared;
use crate::sys::udp::{self, Received};

/// What one receive brought. The datagrams share its bytes.
pub(super) struct Gathered {
    pool: FramePool,
    /// To receive into; none while nothing comes.
    whole: Option<HeapFrame>,
    /// Bytes that its head takes: the first datagram, if they are as long as the last ones, or nothing if
    /// that is not what a head holds. So each of them lies in one piece.
    in_head: usize,
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
        Self {
            pool,
            whole: None,
            in_head: HEAD_CAPACITY,
            from: 0,
            size: 1,
            about: None,
            header: ([0; HEADER_MAX], 0),
        }
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
        let window = whole.rx_window_of(self.in_head);
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
        if !self.take_in(carries, received, from, to) {
            return Got::Dropped(received.len, DropReason::Giant);
        }
        self.deal(frame).unwrap_or(Got::Again)
    }

    /// Takes in what was received; false if it is longer than there was room.
    fn take_in(
        &mut self,
        carries: Carries,
        received: Received,
        from: SocketAddr,
        to: IpAddr,
    ) -> bool {
        let len = received.len;
        let whole = self.whole.as_mut();
        if !whole.is_some_and(|whole| whole.set_received_of(len, self.in_head)) {
            return false;
        }
        self.from = 0;
        self.size = received.segment.map_or(len, usize::from).max(1);
        if received.segment.is_some() {
            let fits = (HEAD_MIN..=HEAD_CAPACITY).contains(&self.size);
            self.in_head = if fits { self.size } else { 0 };
        }
        self.about = Some((carries, received, from, to));
        self.header = header(carries, &Received { len: self.size, ..received }, from, to);
        true
    }

    fn left(&self) -> usize {
        self.whole.as_ref().map_or(0, Frame::len).saturating_sub(self.from)
    }

    /// Whether everything was dealt out.
    pub(super) fn is_empty(&self) -> bool {
        self.about.is_none()
    }

    /// The next datagram, or several that are one, as a packet; `None` if all were dealt out.
    pub(super) fn deal(&mut self, frame: &mut HeapFrame) -> Option<Got> {
        let (carries, received, from, to) = self.about?;
        if let Some(joined) = self.whole.as_ref().and_then(|whole| self.join(whole, frame)) {
            let (offload, dealt) = joined;
            self.from = self.from.saturating_add(dealt);
            if self.left() == 0 {
                self.about = None;
            }
            let (header, len) =
                header(carries, &Received { len: frame.len(), ..received }, from, to);
            let header = header.get(..len).unwrap_or_default();
            let got = packet(frame, header, frame.len(), |_| true);
            frame.set_offload(Offload { csum: Csum::Verified, ..offload });
            return Some(got);
        }
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
            let in_pieces = whole.segments() > 1;
            match alone {
                true if in_pieces && len <= HEAD_CAPACITY => {
                    // It would hold a buffer of 64 KiB.
                    frame.rx_head();
                    let mut fits = true;
                    whole.for_each_segment(&mut |piece| fits &= frame.append(piece).is_ok());
                    fits
                }
                true if !in_pieces || whole.head().len() >= HEAD_MIN => {
                    mem::swap(frame, whole);
                    true
                }
                _ => frame.fill_of(whole, range),
            }
        });
        if matches!(got, Got::Frame) {
            // The kernel has looked at the checksum and does not tell it. The core takes an empty field
            // for right where it is marked so.
            frame.set_offload(Offload { csum: Csum::Verified, gso: None });
        }
        Some(got)
    }

    /// Makes of the next datagrams one that carries a super-frame, if what they carry is one, and says what
    /// is left to do for it and how many bytes they have. Only of the first one something is copied.
    fn join(&self, whole: &HeapFrame, frame: &mut HeapFrame) -> Option<(Offload, usize)> {
        if self.left() <= self.size {
            return None;
        }
        let len = whole.len();
        let range = |n: usize| -> Option<Range<usize>> {
            let start = self.from.checked_add(self.size.checked_mul(n)?)?;
            (start < len).then(|| start..start.saturating_add(self.size).min(len))
        };
        let bytes = |n| in_one_piece(whole, range(n)?);
        let first = bytes(0).filter(|first| first.len() == self.size)?;
        let (tunnel, inner) = first.split_at_checked(tunnel_header(first)?)?;
        let following = (1..).map_while(|n| bytes(n)?.strip_prefix(tunnel));
        // What is written has to be in the frame's own head.
        let joined = InBytes::of(inner, following, HEAD_MIN.checked_sub(tunnel.len())?)?;
        let headers = tunnel.len().checked_add(joined.headers())?;
        let last = range(joined.more())?;
        let more = joined.total_len().checked_add(tunnel.len())?.checked_sub(self.size)?;
        let apart = (headers, self.size.checked_sub(headers)?, more);
        if !frame.fill_apart(whole, range(0)?, apart) {
            return None;
        }
        let offload = joined.write(frame.head_mut().get_mut(tunnel.len()..)?)?;
        Some((offload, last.end.checked_sub(self.from)?))
    }
}

/// That range of a frame, if it lies in one piece.
fn in_one_piece(frame: &HeapFrame, range: Range<usize>) -> Option<&[u8]> {
    let (mut at, mut found) = (0, None);
    frame.for_each_segment(&mut |piece| {
        if let Some(start) = range.start.checked_sub(at) {
            found = found.or_else(|| piece.get(start..range.end.saturating_sub(at)));
        }
        at = at.saturating_add(piece.len());
    });
    found
}

/// Length of the tunnel header that a datagram begins with, where nobody could take it for one of another
/// kind: VXLAN has the I flag (RFC 7348 §5), where GENEVE (RFC 8926 §3.4) counts eight words of options.
fn tunnel_header(datagram: &[u8]) -> Option<usize> {
    let &[flags, _, p0, p1, ..] = datagram else { return None };
    let is_ethernet = EtherType(u16::from_be_bytes([p0, p1])) == EtherType::TEB;
    match (flags & 0x08 != 0, is_ethernet) {
        (true, false) => Some(VxlanHeader::LEN),
        (false, true) => Some(GeneveHeader::LEN + usize::from(flags & 0x3f) * 4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use switch_core::frame::PoolConfig;
    use switch_core::segment::{VnetHeader, segment, validate, vnet};
    use switch_core::wire::{Ipv4, Ipv6};

    use super::super::IpFields;
    use super::*;

    fn pool() -> FramePool {
        FramePool::new(PoolConfig { heads: 256, tails: 8, max_heads: 256 })
    }

    fn content(frame: &HeapFrame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.copy_to(&mut bytes);
        bytes
    }

    fn cut(pool: &FramePool, bytes: &[u8], size: u16, from: usize) -> Vec<Vec<u8>> {
        let tag = if bytes[from + 12] == 0x81 { 4 } else { 0 };
        let v4 = bytes[from + 12 + tag] == 0x08;
        let claim = VnetHeader {
            flags: vnet::F_NEEDS_CSUM,
            gso_type: if v4 { vnet::GSO_TCPV4 } else { vnet::GSO_TCPV6 },
            hdr_len: 0,
            gso_size: size,
            csum_start: if v4 { 34 } else { 54 } + tag as u16,
            csum_offset: 16,
        };
        let mut frame = pool.frame(&bytes[from..]).unwrap();
        frame.set_offload(validate(frame.head(), frame.len(), &claim).unwrap());
        let mut parts = Vec::new();
        segment(&frame, || pool.alloc(), |part| parts.push(content(&part))).unwrap();
        parts
    }

    /// The segments of a TCP stream, from a sequence number on, each behind a tunnel header.
    fn stream(
        pool: &FramePool,
        header: &[u8],
        seq: u32,
        (len, size): (usize, u16),
    ) -> Vec<Vec<u8>> {
        let payload: Vec<u8> = (0..len).map(|n| (n * 7 + seq as usize) as u8).collect();
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, seq, 4)
            .ack(7)
            .write(&mut bytes, &payload)
            .unwrap();
        behind(pool, header, &bytes, size)
    }

    /// The same of IPv6 in a VLAN, with TCP options.
    fn tagged_v6(pool: &FramePool, header: &[u8], (len, size): (usize, u16)) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .single_vlan(9.try_into().unwrap())
            .ipv6([0xfd; 16], [0xfc; 16], 64)
            .tcp(1, 2, 3, 4)
            .ack(7)
            .options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8])
            .unwrap()
            .write(&mut bytes, &vec![7; len])
            .unwrap();
        behind(pool, header, &bytes, size)
    }

    fn behind(pool: &FramePool, header: &[u8], bytes: &[u8], size: u16) -> Vec<Vec<u8>> {
        let parts = cut(pool, bytes, size, 0);
        parts.into_iter().map(|part| [header, &part].concat()).collect()
    }

    fn vxlan(vni: u8) -> [u8; 8] {
        [8, 0, 0, 0, 0, 0, vni, 0]
    }

    /// What is dealt out of datagrams that came together, cut again where it is one for several, and of
    /// how many each was.
    fn dealt(
        gathered: &mut Gathered,
        datagrams: &[Vec<u8>],
        v6: bool,
    ) -> (Vec<usize>, Vec<Vec<u8>>) {
        let bytes = datagrams.concat();
        let mut whole = gathered.pool.alloc().unwrap();
        let window = whole.rx_window_of(gathered.in_head);
        let (first, rest) = bytes.split_at(bytes.len().min(window.head.len()));
        window.head[..first.len()].copy_from_slice(first);
        window.tail[..rest.len()].copy_from_slice(rest);
        gathered.whole = Some(whole);
        let (from, to): (SocketAddr, IpAddr) = if v6 {
            ("[2001:db8::2]:50000".parse().unwrap(), "2001:db8::1".parse().unwrap())
        } else {
            ("192.0.2.2:50000".parse().unwrap(), "192.0.2.1".parse().unwrap())
        };
        let received = Received {
            len: bytes.len(),
            from: Some(from),
            to: Some(to),
            fields: IpFields { traffic_class: 2, ttl: 7 },
            segment: (datagrams.len() > 1).then_some(datagrams[0].len() as u16),
        };
        assert!(gathered.take_in(Carries::Udp(4789), received, from, to));
        let (mut counts, mut all) = (Vec::new(), Vec::new());
        while !gathered.is_empty() {
            let mut frame = gathered.pool.alloc().unwrap();
            assert!(matches!(gathered.deal(&mut frame), Some(Got::Frame)));
            let packet = content(&frame);
            assert!(frame.head().len() >= HEAD_MIN.min(packet.len()));
            let outer = if v6 {
                let ip = Ipv6::parse_head(frame.head(), frame.len()).unwrap();
                assert_eq!(usize::from(ip.header().payload_len()) + 40, packet.len());
                48
            } else {
                let ip = Ipv4::parse_head(frame.head(), frame.len()).unwrap();
                assert!(ip.checksum_ok() && usize::from(ip.header().total_len()) == packet.len());
                28
            };
            let udp_len = u16::from_be_bytes([packet[outer - 4], packet[outer - 3]]);
            assert_eq!(usize::from(udp_len) + outer - 8, packet.len());
            assert_eq!(frame.offload().csum, Csum::Verified);
            let before = all.len();
            match frame.offload().gso {
                None => all.push(packet[outer..].to_vec()),
                Some(gso) => {
                    let tunnel = tunnel_header(&packet[outer..]).unwrap();
                    let header = &packet[outer..outer + tunnel];
                    let parts = cut(&gathered.pool, &packet, gso.size, outer + tunnel);
                    all.extend(parts.into_iter().map(|part| [header, &part].concat()));
                }
            }
            counts.push(all.len() - before);
        }
        (counts, all)
    }

    #[test]
    fn segments_of_a_stream_are_one_packet() {
        let pool = pool();
        let geneve = [2, 0, 0x65, 0x58, 0, 0, 9, 0, 1, 2, 3, 1, 4, 5, 6, 7];
        for (header, v6) in [(&vxlan(9)[..], false), (&vxlan(9), true), (&geneve, false)] {
            let mut gathered = Gathered::new(pool.clone());
            let datagrams = stream(&pool, header, 5, (60_000, 1396));
            // Where the first one ends is known from the second time on.
            let (counts, all) = dealt(&mut gathered, &datagrams, v6);
            assert!((counts, &all) == (vec![1, 1, datagrams.len() - 2], &datagrams));
            let (counts, all) = dealt(&mut gathered, &datagrams, v6);
            assert!((counts, &all) == (vec![datagrams.len()], &datagrams));
            // One alone fits into whatever is there.
            let (counts, all) = dealt(&mut gathered, &datagrams[..1], v6);
            assert!((counts, &all[..]) == (vec![1], &datagrams[..1]));
        }
        let mut gathered = Gathered::new(pool.clone());
        let datagrams = tagged_v6(&pool, &vxlan(9), (60_000, 1396));
        dealt(&mut gathered, &datagrams, false);
        let (counts, all) = dealt(&mut gathered, &datagrams, false);
        assert!((counts, &all) == (vec![datagrams.len()], &datagrams));
        // Headers that do not fit the shortest head are not joined: 8 + 192 + 14 + 4 + 40 + 32.
        let options = [&[0x30, 0, 0x65, 0x58, 0, 0, 9, 0], &[0; 192][..]].concat();
        let datagrams = tagged_v6(&pool, &options, (5000, 1000));
        let (counts, all) = dealt(&mut gathered, &datagrams, false);
        assert!((counts, &all) == (vec![1; 5], &datagrams));
        drop(gathered);
        // Longer than a head, and short ones.
        for (len, size) in [(62_000, 8908), (60_000, 1000), (9000, 300), (5000, 100)] {
            let mut gathered = Gathered::new(pool.clone());
            let datagrams = stream(&pool, &vxlan(9), 5, (len, size));
            dealt(&mut gathered, &datagrams, false);
            let (counts, all) = dealt(&mut gathered, &datagrams, false);
            assert!((counts, &all) == (vec![datagrams.len()], &datagrams), "{size}");
            let (counts, all) = dealt(&mut gathered, &datagrams[..1], false);
            assert!((counts, &all[..]) == (vec![1], &datagrams[..1]), "{size}");
        }
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn what_is_not_one_stream_is_dealt_out_as_it_came() {
        let pool = pool();
        let (one, two) = (vxlan(1), vxlan(2));
        let of = |header: &[u8], seq| stream(&pool, header, seq, (5000, 1000));
        let mut gathered = Gathered::new(pool.clone());
        let mut deals = |datagrams: &[Vec<u8>]| {
            let (counts, all) = dealt(&mut gathered, datagrams, false);
            assert!(all == datagrams);
            counts
        };
        deals(&of(&one, 1));
        assert_eq!(deals(&of(&one, 1)), [5]);
        // Two networks, a gap, a wrong checksum, another size in the middle.
        assert_eq!(deals(&[of(&one, 1), of(&two, 5001)].concat()), [5, 5]);
        assert_eq!(deals(&[of(&one, 1), of(&one, 7000)].concat()), [5, 5]);
        let mut wrong = of(&one, 1);
        *wrong[2].last_mut().unwrap() ^= 1;
        assert_eq!(deals(&wrong), [2, 1, 2]);
        let mut other = of(&one, 1);
        other[3][..8].copy_from_slice(&[8, 0, 0x65, 0x58, 0, 0, 1, 0]);
        assert_eq!(deals(&other), [3, 1, 1], "VXLAN that looks like GENEVE");
        let reversed: Vec<_> = of(&one, 1).into_iter().rev().collect();
        assert_eq!(deals(&reversed), [1; 5]);
        // Alone, and nothing that has an inner frame.
        assert_eq!(deals(&of(&one, 1)[..1]), [1]);
        assert_eq!(deals(&[vec![8, 0, 0], vec![8, 0, 0]]), [1, 1]);
        assert_eq!(deals(&[vec![0x3f, 0, 0x65, 0x58], vec![0x3f, 0, 0x65, 0x58]]), [1, 1]);
    }
}
