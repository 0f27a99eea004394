//! The sockets of a VTEP: IP packets to and from the underlay. The hot side.
//!
//! The core makes and reads whole outer packets; the kernel wants datagrams. So the outer headers
//! are cut off on the way out, with what they say told to the kernel beside the datagram, and made
//! anew on the way in.

mod gathered;
mod runs;

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use switch_core::DropReason;
use switch_core::datapath::UdpSend;
use switch_core::frame::{Csum, Frame, FramePool, HeapFrame, MAX_FRAME};
use switch_core::stats::PortCounters;
use switch_core::tunnel::ENTROPY_FIRST;
use switch_core::wire::{Fragment, IpProtocol, Ipv4, Ipv4Header, Ipv6, Ipv6Header, Udp, UdpHeader};
use zerocopy::IntoBytes;

use self::gathered::Gathered;
use self::runs::OneByOne;
use crate::error::errno;
use crate::io::Got;
use crate::many::{self, Many};
use crate::shared::PortShared;
use crate::sys::MANY;
use crate::sys::udp::{self, IpFields, Outgoing, Received};

/// Datagrams taken from one socket before the next one has its turn.
const TURN: usize = 32;

/// The sockets of a VTEP. A clone has the same sockets, and the last one that has a socket closes
/// it: so a VTEP is given others while those that stay go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) pools: Vec<Pool>,
    /// For GRE, by whether the packets have the don't-fragment flag.
    pub(crate) gre: Vec<(bool, Arc<OwnedFd>)>,
}

/// A worker's use of them.
#[derive(Debug)]
pub(crate) struct Underlay {
    sockets: Sockets,
    /// The receiver whose turn it is, and how many datagrams it gave in this turn.
    at: usize,
    taken: usize,
    /// Datagrams that were received and not yet asked for.
    gathered: Gathered,
    /// GRE packets.
    many: Many<Received>,
    one_by_one: OneByOne,
}

/// A socket that receives.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) carries: Carries,
    /// Whether the kernel may hand over several datagrams at once.
    pub(crate) gathers: bool,
    /// The group that it is bound to, in place of the local address.
    pub(crate) group: Option<IpAddr>,
}

/// What a socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Datagrams to this UDP port.
    Udp(u16),
    Gre,
}

/// Sockets that UDP is sent through, one for each source port.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) way: UdpSend,
    /// At least one.
    pub(crate) sockets: Arc<[OwnedFd]>,
}

impl Underlay {
    pub(crate) fn new(sockets: Sockets, pool: FramePool) -> Self {
        Self {
            sockets,
            at: 0,
            taken: 0,
            gathered: Gathered::new(pool.clone()),
            many: Many::new(pool),
            one_by_one: OneByOne::default(),
        }
    }

    /// Takes over what an earlier one has received and not handed out.
    pub(crate) fn go_on_from(&mut self, earlier: &mut Self) {
        std::mem::swap(&mut self.gathered, &mut earlier.gathered);
        std::mem::swap(&mut self.many, &mut earlier.many);
    }

    /// The sockets that receive.
    pub(crate) fn receivers(&self) -> impl Iterator<Item = RawFd> {
        self.sockets.receivers.iter().map(|r| r.socket.as_raw_fd())
    }

    /// Whether all packets that were received together were handed out.
    pub(crate) fn is_between(&self) -> bool {
        self.gathered.is_empty() && self.many.is_empty()
    }

    /// Receives one packet into `frame`, whose content is replaced. Only when all sockets in turn
    /// are empty there is nothing: news of any of them are news of the port.
    pub(crate) fn recv(&mut self, frame: &mut HeapFrame, shared: &PortShared) -> Got {
        if let Some(got) = self.gathered.deal(frame).or_else(|| self.deal_gre(frame)) {
            return got;
        }
        for _ in 0..self.sockets.receivers.len() {
            if self.taken >= TURN {
                self.next();
            }
            let Some(receiver) = self.sockets.receivers.get(self.at) else { break };
            let (socket, carries) = (receiver.socket.as_fd(), receiver.carries);
            let got = match carries {
                Carries::Udp(_) => self.gathered.recv(socket, carries, frame, shared),
                Carries::Gre => match receive_gre(&mut self.many, socket) {
                    Ok(()) => self.deal_gre(frame).unwrap_or(Got::Again),
                    Err(e) => no_packet(&e, shared),
                },
            };
            match got {
                Got::Nothing => self.next(),
                got => {
                    self.taken = self.taken.saturating_add(1);
                    return got;
                }
            }
        }
        Got::Nothing
    }

    fn next(&mut self) {
        self.taken = 0;
        self.at = self.at.wrapping_add(1);
        if self.at >= self.sockets.receivers.len() {
            self.at = 0;
        }
    }

    /// The next GRE packet; `None` if all were dealt out.
    fn deal_gre(&mut self, frame: &mut HeapFrame) -> Option<Got> {
        self.many.deal(frame).map(|received| gre_packet(frame, &received))
    }

    /// Sends packets with these outer headers, those that follow each other by one socket in one call,
    /// and counts them or drops them by name.
    fn send_each(
        &self,
        frames: &[HeapFrame],
        outers: &[Option<Outer>],
        shared: &PortShared,
        counters: &PortCounters,
    ) {
        let (mut frames, mut outers) = (frames, outers);
        while let Some(first) = frames.first() {
            let socket = |outer: &Option<Outer>| outer.as_ref().and_then(|o| self.sender(o));
            let by = outers.first().and_then(socket);
            let Some(by) = by else {
                shared.note(Errno::EINVAL);
                count(Err(DropReason::TxError), std::slice::from_ref(first), counters);
                (frames, outers) = (&frames[1..], outers.get(1..).unwrap_or_default());
                continue;
            };
            let same = |outer: &&Option<Outer>| {
                socket(outer).map(|s| s.as_raw_fd()) == Some(by.as_raw_fd())
            };
            let n = outers.iter().take(MANY).take_while(same).count().min(frames.len()).max(1);
            let ((now, later), (of_now, of_later)) = (frames.split_at(n), outers.split_at(n));
            send_many(by, now, of_now, |sent, frames| {
                count(sent.map_err(|e| drop_reason(e, shared)), frames, counters);
            });
            (frames, outers) = (later, of_later);
        }
    }

    /// The socket for a packet.
    fn sender(&self, outer: &Outer) -> Option<BorrowedFd<'_>> {
        match outer.transport {
            Transport::Udp { src, checksum } => {
                let way = UdpSend { checksum, df: outer.df };
                let pool = self.sockets.pools.iter().find(|pool| pool.way == way)?;
                let n = usize::from(src.wrapping_sub(ENTROPY_FIRST));
                pool.sockets.get(n.checked_rem(pool.sockets.len())?).map(AsFd::as_fd)
            }
            Transport::Gre => {
                let mut senders = self.sockets.gre.iter();
                senders.find(|(df, _)| *df == outer.df).map(|(_, socket)| socket.as_fd())
            }
        }
    }
}

/// Calls `f` with what of a frame is behind `skip` bytes, which lie in its head: there is at most one
/// tail.
fn payload<'a>(frame: &'a HeapFrame, skip: usize, mut f: impl FnMut(IoSlice<'a>)) {
    let mut skip = skip;
    frame.for_each_segment(&mut |bytes| {
        f(IoSlice::new(bytes.get(skip..).unwrap_or_default()));
        skip = 0;
    });
}

/// The drop that an error of a send is.
fn drop_reason(e: Errno, shared: &PortShared) -> DropReason {
    match e {
        Errno::EMSGSIZE => DropReason::TunnelMtu,
        Errno::EAGAIN | Errno::ENOBUFS => DropReason::TxFull,
        e => {
            shared.note(e);
            DropReason::TxError
        }
    }
}

/// What an error of a receive means.
fn no_packet(e: &io::Error, shared: &PortShared) -> Got {
    match errno(e) {
        Errno::EAGAIN => Got::Nothing,
        Errno::EINTR => Got::Again,
        e => {
            shared.note(e);
            Got::Nothing
        }
    }
}

/// Sends by a socket. It may fail for what an ICMP message said of an earlier packet, which the kernel
/// tells once, in place of sending this one: what a second try says is about this one.
fn transmit<T>(send: impl Fn() -> io::Result<T>) -> Result<T, Errno> {
    match send().map_err(|e| errno(&e)) {
        done @ (Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS)) => done,
        Err(_) => send().map_err(|e| errno(&e)),
    }
}

/// Sends packets by a socket, in order, and says what became of them.
fn send_many(
    socket: BorrowedFd<'_>,
    frames: &[HeapFrame],
    outers: &[Option<Outer>],
    mut told: impl FnMut(Result<(), Errno>, &[HeapFrame]),
) {
    let all = || frames.iter().zip(outers).filter_map(|(frame, outer)| Some((frame, (*outer)?)));
    let pieces: ArrayVec<_, MANY> = all().map(|(frame, outer)| pieces(frame, outer.len)).collect();
    let datagrams: ArrayVec<_, MANY> = all()
        .zip(&pieces)
        .map(|((_, outer), pieces)| Outgoing::new(outer.to, outer.fields, None, pieces))
        .collect();
    let send = |at: usize| transmit(|| udp::send_many(socket, &datagrams[at..]));
    many::send_all(datagrams.len(), send, |sent, range| told(sent, &frames[range]));
}

/// What of a frame is behind `skip` bytes, which lie in its head: there is at most one tail.
fn pieces(frame: &HeapFrame, skip: usize) -> ArrayVec<IoSlice<'_>, 2> {
    let mut pieces = ArrayVec::new();
    payload(frame, skip, |piece| {
        let _ = pieces.try_push(piece);
    });
    pieces
}

/// Counts packets that had the same fate.
fn count(sent: Result<(), DropReason>, frames: &[HeapFrame], counters: &PortCounters) {
    match sent {
        Ok(()) => {
            counters.tx_frames.add(frames.len() as u64);
            counters.tx_bytes.add(frames.iter().map(|frame| frame.len() as u64).sum());
        }
        Err(reason) => counters.count_drop(reason, frames.len() as u64),
    }
}

/// What the outer headers of a packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outer {
    /// Their length.
    len: usize,
    /// The port is 0 for GRE.
    to: SocketAddr,
    fields: IpFields,
    /// Always set over IPv6.
    df: bool,
    transport: Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp {
        src: u16,
        /// Whether it has one, or is to get one.
        checksum: bool,
    },
    Gre,
}

impl Outer {
    /// What those of a packet that is to be sent say.
    fn of(frame: &HeapFrame) -> Option<Self> {
        let mut outer = Self::parse(frame.head(), frame.len())?;
        if let (Transport::Udp { checksum, .. }, Csum::Partial { .. }) =
            (&mut outer.transport, frame.offload().csum)
        {
            *checksum = true;
        }
        Some(outer)
    }

    /// Whether these, which are of the packet `of`, are those of another one to the last bit.
    fn same_of(&self, of: &HeapFrame, other: &HeapFrame) -> bool {
        of.len() == other.len()
            && of.offload() == other.offload()
            && of.head().get(..self.len) == other.head().get(..self.len)
    }

    /// Reads the outer headers of a packet of `len` bytes. `None` for what the core does not make:
    /// fragments, options, lengths that differ from the frame's, other protocols.
    fn parse(head: &[u8], len: usize) -> Option<Self> {
        let (dst, fields, df, protocol, payload, at): (IpAddr, _, _, _, _, _) =
            match head.first()? >> 4 {
                4 => {
                    let ip = Ipv4::parse_head(head, len).ok()?;
                    let header = ip.header();
                    let plain = ip.options().is_empty() && header.fragment() == Fragment::Whole;
                    if !plain || usize::from(header.total_len()) != len {
                        return None;
                    }
                    let fields =
                        IpFields { traffic_class: header.traffic_class(), ttl: header.ttl() };
                    let df = header.dont_fragment();
                    let dst = header.dst().into();
                    (dst, fields, df, header.protocol(), ip.payload(), Ipv4Header::LEN)
                }
                6 => {
                    let ip = Ipv6::parse_head(head, len).ok()?;
                    let header = ip.header();
                    let claimed = usize::from(header.payload_len()) + Ipv6Header::LEN;
                    if !ip.extensions().is_empty() || claimed != len {
                        return None;
                    }
                    let fields =
                        IpFields { traffic_class: header.traffic_class(), ttl: header.hop_limit() };
                    let dst = header.dst().into();
                    (dst, fields, true, header.next_header(), ip.payload(), Ipv6Header::LEN)
                }
                _ => return None,
            };
        let of = |len, port, transport| Self {
            len,
            to: SocketAddr::new(dst, port),
            fields,
            df,
            transport,
        };
        match protocol {
            IpProtocol::UDP => {
                let room = len.checked_sub(at)?;
                let header = Udp::parse_head(payload, room).ok()?.header();
                if usize::from(header.datagram_len()) != room {
                    return None;
                }
                let transport =
                    Transport::Udp { src: header.src(), checksum: header.checksum() != 0 };
                Some(of(at.checked_add(UdpHeader::LEN)?, header.dst(), transport))
            }
            IpProtocol::GRE => Some(of(at, 0, Transport::Gre)),
            _ => None,
        }
    }
}

/// Receives GRE packets.
fn receive_gre(many: &mut Many<Received>, socket: BorrowedFd<'_>) -> io::Result<()> {
    let receive = |frames: &mut [HeapFrame]| {
        let mut windows: ArrayVec<_, MANY> = frames
            .iter_mut()
            .take(MANY)
            .map(|frame| frame.rx_window())
            .map(|window| [window.head, window.tail].map(IoSliceMut::new))
            .collect();
        udp::recv_many(socket, windows.iter_mut().map(|window| &mut window[..]))
    };
    many.receive(receive, |received| received.len)
}

/// Makes a packet of what was received into the frame.
fn gre_packet(frame: &mut HeapFrame, received: &Received) -> Got {
    let len = received.len;
    let (Some(from), Some(to)) = (received.from, received.to) else {
        return Got::Dropped(len, DropReason::OuterAddress);
    };
    // A raw IPv4 socket hands out the IP header, and no other one does.
    if from.is_ipv4() {
        return match (len, frame.set_received(len)) {
            (..Ipv4Header::LEN, _) => Got::Dropped(len, DropReason::Runt),
            (_, true) => Got::Frame,
            (_, false) => Got::Dropped(len, DropReason::Giant),
        };
    }
    let (header, header_len) = header(Carries::Gre, received, from, to);
    let header = header.get(..header_len).unwrap_or_default();
    packet(frame, header, len, |frame| frame.set_received(len))
}

/// Makes a packet of a header and `len` bytes that `fill` puts into the frame. Without a header the
/// addresses were none of one family.
fn packet(
    frame: &mut HeapFrame,
    header: &[u8],
    len: usize,
    fill: impl FnOnce(&mut HeapFrame) -> bool,
) -> Got {
    if header.is_empty() {
        return Got::Dropped(len, DropReason::OuterAddress);
    }
    let total = len.saturating_add(header.len());
    if total > MAX_FRAME || !fill(frame) {
        return Got::Dropped(total, DropReason::Giant);
    }
    match frame.prepend(header.len()) {
        Ok(room) => {
            room.copy_from_slice(header);
            Got::Frame
        }
        Err(_) => Got::Dropped(total, DropReason::Giant),
    }
}

/// IPv6 and UDP.
const HEADER_MAX: usize = Ipv6Header::LEN + UdpHeader::LEN;

/// The outer headers of a datagram as the kernel tells of them, and their length; 0 if the
/// addresses are not of one family.
fn header(
    carries: Carries,
    received: &Received,
    from: SocketAddr,
    to: IpAddr,
) -> ([u8; HEADER_MAX], usize) {
    let IpFields { traffic_class, ttl } = received.fields;
    let mut bytes = [0; HEADER_MAX];
    let mut len = 0;
    let mut put = |part: &[u8]| {
        if let Some(room) = bytes.get_mut(len..).and_then(|room| room.get_mut(..part.len())) {
            room.copy_from_slice(part);
            len = len.wrapping_add(part.len());
        }
    };
    // The kernel hands out nothing longer than what its own header said in 16 bits.
    let payload = u16::try_from(received.len).unwrap_or(u16::MAX);
    let (protocol, udp, payload) = match carries {
        Carries::Udp(port) => {
            let udp = UdpHeader::new(from.port(), port, payload);
            (IpProtocol::UDP, Some(udp), udp.datagram_len())
        }
        Carries::Gre => (IpProtocol::GRE, None, payload),
    };
    match (from.ip(), to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = Ipv4Header::new(from, to, protocol, payload);
            ip.set_traffic_class(traffic_class);
            ip.set_ttl(ttl);
            put(ip.as_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut ip = Ipv6Header::new(from, to, protocol, payload);
            ip.set_traffic_class(traffic_class);
            ip.set_hop_limit(ttl);
            put(ip.as_bytes());
        }
        _ => return (bytes, 0),
    }
    if let Some(udp) = udp {
        put(udp.as_bytes());
    }
    (bytes, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn received(len: usize, from: &str, to: &str) -> (Received, SocketAddr, IpAddr) {
        let fields = IpFields { traffic_class: 0xb9, ttl: 7 };
        let (from, to): (SocketAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        (Received { len, from: Some(from), to: Some(to), fields, segment: None }, from, to)
    }

    #[test]
    fn made_headers_are_read_back() {
        let cases = [
            ("192.0.2.2:50000", "192.0.2.1", Carries::Udp(4789), 28),
            ("[2001:db8::2]:50000", "2001:db8::1", Carries::Udp(4789), 48),
            ("[2001:db8::2]:0", "2001:db8::1", Carries::Gre, 40),
        ];
        for (from, to, carries, want) in cases {
            for payload in [0, 1, 1400, 65_000] {
                let (got, from, to) = received(payload, from, to);
                let (bytes, len) = header(carries, &got, from, to);
                assert_eq!(len, want);
                let outer = Outer::parse(&bytes[..len], len + payload).unwrap();
                assert_eq!((outer.len, outer.fields, outer.to.ip()), (want, got.fields, to));
                if let Carries::Udp(port) = carries {
                    assert_eq!(outer.to.port(), port);
                    assert_eq!(outer.transport, Transport::Udp { src: 50_000, checksum: false });
                } else {
                    assert_eq!(outer.transport, Transport::Gre);
                }
                if to.is_ipv4() {
                    assert!(Ipv4::parse_head(&bytes[..len], len + payload).unwrap().checksum_ok());
                }
                // Neither shorter nor longer than it says.
                assert_eq!(Outer::parse(&bytes[..len], (len + payload).saturating_sub(1)), None);
                assert_eq!(Outer::parse(&bytes[..len], len + payload + 1), None);
            }
        }
        let (got, from, to) = received(9, "192.0.2.2:1", "2001:db8::1");
        assert_eq!(header(Carries::Udp(1), &got, from, to).1, 0);
    }

    proptest! {
        #[test]
        fn noise_is_no_packet_and_no_panic(
            mut head in prop::collection::vec(any::<u8>(), 0..80),
            v6: bool,
            more in 0usize..70_000,
            fix: bool,
        ) {
            let len = head.len() + more;
            if fix && head.len() >= 48 {
                head[0] = if v6 { 0x60 } else { 0x45 };
                let at = if v6 { 4 } else { 2 };
                let claimed = (len - if v6 { 40 } else { 0 }) as u16;
                head[at..at + 2].copy_from_slice(&claimed.to_be_bytes());
                head[if v6 { 6 } else { 9 }] = 17;
            }
            if let Some(outer) = Outer::parse(&head, len) {
                prop_assert!(outer.len <= head.len());
                prop_assert!(outer.len >= 20);
            }
        }
    }
}
