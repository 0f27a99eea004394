//! One frame to or from a device: the system calls of the hot side.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::sys::uio::{readv, writev};
use switch_core::batch::BURST_MAX;
use switch_core::datapath::Caps;
use switch_core::frame::{Frame, GsoKind, HeapFrame, MAX_FRAME};
use switch_core::segment::{self, Joined, VnetHeader, VnetLayout, validate};
use switch_core::stats::PortCounters;
use switch_core::wire::EthernetHeader;
use switch_core::{Batch, DropReason};

use crate::error::errno;
use crate::many::{self, Many};
use crate::shared::{NATIVE_TAGGED, PortShared, caps_of};
use crate::sys::MANY;
use crate::sys::packet::{self, Received};
use crate::underlay::Underlay;

/// Header before each frame of a TAP: virtio's, in the machine's byte order.
pub(crate) const TAP_LAYOUT: VnetLayout =
    VnetLayout { num_buffers: true, big_endian: cfg!(target_endian = "big") };
/// Header before each frame of a packet socket (`PACKET_VNET_HDR`).
const PACKET_LAYOUT: VnetLayout = VnetLayout::LEGACY;

/// The most pieces that go to the kernel in one call: a header, and a burst of frames with a head and a
/// tail each, or one frame of as many parts, the first of which is in two; or as many of some frames
/// with headers of their own.
const PIECES: usize = 2 + segment::PIECES_MAX;

/// What the device must be able to do for a frame to be sent past the queue.
fn needed_bits(frame: &impl Frame) -> u8 {
    let offload = frame.offload();
    if offload.is_finished() {
        return 0;
    }
    let undone = match offload.gso.map(|gso| gso.kind) {
        // A checksum is finished in place on this way too (`validate_xmit_skb`): sent through the
        // queue, a frame for a full device would seem sent.
        None => return 0,
        Some(GsoKind::TcpV4) => 1 | 1 << 1,
        Some(GsoKind::TcpV6) => 1 | 1 << 2,
        Some(GsoKind::Udp) => 1 | 1 << 3,
    };
    let tagged = matches!(frame.head().get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
    if tagged { undone | NATIVE_TAGGED } else { undone }
}

/// The file behind a queue.
#[derive(Debug)]
pub(crate) enum Io {
    /// A TAP's file.
    Tap {
        /// Open, non-blocking.
        file: OwnedFd,
        /// Whether frames come and go with a virtio header.
        vnet_hdr: bool,
    },
    /// Packet sockets bound to a device; frames come and go with a virtio header.
    Packet {
        /// Receives, and sends past the queueing discipline.
        socket: OwnedFd,
        /// Sends what the device cannot finish itself: the kernel does it on this way, and only on
        /// this one (`dev_direct_xmit` drops what would have to be segmented).
        finishing: OwnedFd,
        /// What the first one received.
        many: Box<Many<Arrived>>,
    },
    /// The sockets of a VTEP; what comes and goes are IP packets.
    Underlay(Box<Underlay>),
}

/// What a receive brought.
#[derive(Debug)]
pub enum Got {
    /// A frame is in the buffer.
    Frame,
    /// A frame of this length was dropped.
    Dropped(usize, DropReason),
    /// A signal or a passing error: ask again.
    Again,
    /// There is nothing now.
    Nothing,
}

impl Io {
    /// Calls `f` with each file that mio watches.
    pub(crate) fn each_watched(&self, mut f: impl FnMut(RawFd)) {
        match self {
            Self::Tap { file, .. } => f(file.as_raw_fd()),
            Self::Packet { socket, .. } => f(socket.as_raw_fd()),
            Self::Underlay(underlay) => underlay.receivers().for_each(f),
        }
    }

    /// Whether a device that hands over several frames at once has handed out all of them.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self, Self::Underlay(underlay) if underlay.is_between())
    }

    /// Receives one frame into `frame`, whose content is replaced.
    pub(crate) fn recv(&mut self, frame: &mut HeapFrame, shared: &PortShared) -> Got {
        let arrived = match self {
            Self::Tap { file, vnet_hdr } => recv_tap(file, *vnet_hdr, frame),
            Self::Packet { socket, many, .. } => match many.deal(frame) {
                Some(arrived) => Ok(arrived),
                None => match recv_packets(socket, many).map(|()| many.deal(frame)) {
                    Ok(Some(arrived)) => Ok(arrived),
                    Ok(None) => return Got::Again,
                    Err(e) => Err(errno(&e)),
                },
            },
            Self::Underlay(underlay) => return underlay.recv(frame, shared),
        };
        match arrived {
            Ok(arrived) => self.accept(frame, &arrived),
            Err(e) => self.no_frame(e, shared),
        }
    }

    /// Makes a frame of what was received into `frame`.
    fn accept(&self, frame: &mut HeapFrame, arrived: &Arrived) -> Got {
        let Arrived { header, received: Received { len, vlan } } = *arrived;
        let layout = self.layout();
        let len = len.saturating_sub(layout.map_or(0, VnetLayout::header_len));
        if len < EthernetHeader::LEN {
            return Got::Dropped(len, DropReason::Runt);
        }
        // The tag that is put back must fit, too.
        let tag = if vlan.is_some() { VLAN_TAG } else { 0 };
        if len + tag > MAX_FRAME || !frame.set_received(len) {
            return Got::Dropped(len, DropReason::Giant);
        }
        if let Some(layout) = layout {
            let Ok((claim, _)) = layout.decode(&header) else {
                return Got::Dropped(len, DropReason::VnetHeader);
            };
            // Positions are those without the tag: the kernel counts from the frame it hands out.
            match validate(frame.head(), len, &claim) {
                Ok(offload) => frame.set_offload(offload),
                Err(_) => return Got::Dropped(len, DropReason::VnetHeader),
            }
        }
        if let Some((tpid, tci)) = vlan
            && put_tag_back(frame, tpid, tci).is_err()
        {
            return Got::Dropped(len, DropReason::Giant);
        }
        Got::Frame
    }

    /// What an error of a receive means.
    fn no_frame(&self, e: Errno, shared: &PortShared) -> Got {
        match (self, e) {
            (_, Errno::EAGAIN) => Got::Nothing,
            (_, Errno::EINTR) => Got::Again,
            // The device went down; told once, and reading goes on when it is up again.
            (Self::Packet { .. }, Errno::ENETDOWN) => Got::Again,
            // `virtio_net_hdr_from_skb` has no words for this super-frame; it is gone.
            (Self::Packet { .. }, Errno::EINVAL) => Got::Dropped(0, DropReason::VnetHeader),
            (Self::Tap { .. }, Errno::EBADFD) => {
                shared.gone.store(true, Ordering::Release);
                Got::Nothing
            }
            _ => {
                shared.note(e);
                Got::Nothing
            }
        }
    }

    /// Sends one frame, or several as one; says why it could not.
    fn send<F: Frame>(
        &self,
        joined: &Joined<'_, F>,
        shared: &PortShared,
    ) -> Result<(), DropReason> {
        let header = match self.layout() {
            None => None,
            Some(layout) => Some((encoded(layout, joined)?, layout.header_len())),
        };
        let mut pieces = ArrayVec::<_, PIECES>::new();
        if !put_pieces(header.as_ref().map(|(bytes, len)| &bytes[..*len]), joined, &mut pieces) {
            return Err(DropReason::TxError);
        }
        let sent = match self {
            Self::Tap { file, .. } => writev(file, &pieces),
            Self::Packet { socket, finishing, .. } => {
                writev(way([socket, finishing], joined.first(), shared), &pieces)
            }
            // Its packets are heap frames alone, see above.
            Self::Underlay(_) => return Err(DropReason::TxError),
        };
        sent.map(|_| ()).map_err(|e| drop_reason(e, shared))
    }

    /// Sends every frame of the batch, joined where that is worth something, or drops it by name.
    pub(crate) fn send_all<F: Frame>(
        &self,
        batch: &mut Batch<F>,
        shared: &PortShared,
        counters: &PortCounters,
    ) {
        let joins = if batch.len() > 1 { self.joins(shared) } else { Caps::default() };
        let frames = batch.as_mut_slice();
        match self {
            Self::Packet { socket, finishing, .. } => {
                let mut all = ArrayVec::<_, BURST_MAX>::new();
                segment::join(frames, joins, |joined| all.push(joined));
                let way = |joined: &Joined<'_, F>| way([socket, finishing], joined.first(), shared);
                let mut rest = all.as_slice();
                while let Some(first) = rest.first() {
                    let socket = way(first);
                    let same = |joined: &&Joined<'_, F>| std::ptr::eq(way(joined), socket);
                    let n = rest.iter().take(MANY).take_while(same).count();
                    let sent = self.send_by(socket, &rest[..n], shared, counters);
                    rest = &rest[sent..];
                }
            }
            _ => segment::join(frames, joins, |joined| {
                count(self.send(&joined, shared), &[joined], counters);
            }),
        }
        batch.clear();
    }

    /// Sends frames by one packet socket, at least the first and as many as go in one call, and says how
    /// many.
    fn send_by<F: Frame>(
        &self,
        socket: &OwnedFd,
        frames: &[Joined<'_, F>],
        shared: &PortShared,
        counters: &PortCounters,
    ) -> usize {
        let headers: ArrayVec<_, MANY> =
            frames.iter().map_while(|joined| encoded(PACKET_LAYOUT, joined).ok()).collect();
        let (mut pieces, mut ends) = (ArrayVec::<_, PIECES>::new(), ArrayVec::<_, MANY>::new());
        for (joined, header) in frames.iter().zip(&headers) {
            if !put_pieces(Some(&header[..PACKET_LAYOUT.header_len()]), joined, &mut pieces) {
                break;
            }
            ends.push(pieces.len());
        }
        if ends.is_empty() {
            // Why not is found by trying.
            let sent = self.send(&frames[0], shared);
            count(sent, &frames[..1], counters);
            return 1;
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let messages: ArrayVec<_, MANY> =
            starts.zip(&ends).map(|(from, to)| &pieces[from..*to]).collect();
        let send =
            |at: usize| packet::send_many(socket.as_fd(), &messages[at..]).map_err(|e| errno(&e));
        many::send_all(messages.len(), send, |sent, range| {
            count(sent.map_err(|e| drop_reason(e, shared)), &frames[range], counters);
        });
        messages.len()
    }

    /// Which super-frames to make. Not for a device that would have them cut again by the kernel.
    fn joins(&self, shared: &PortShared) -> Caps {
        let joins = shared.joins.load(Ordering::Relaxed);
        match self {
            Self::Tap { .. } => caps_of(joins),
            Self::Packet { .. } => caps_of(joins & shared.native.load(Ordering::Relaxed)),
            Self::Underlay(_) => Caps::default(),
        }
    }

    fn layout(&self) -> Option<VnetLayout> {
        match self {
            Self::Tap { vnet_hdr, .. } => vnet_hdr.then_some(TAP_LAYOUT),
            Self::Packet { .. } => Some(PACKET_LAYOUT),
            Self::Underlay(_) => None,
        }
    }
}

/// What came with a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// The virtio header, if there is one.
    header: [u8; VnetLayout::MAX_LEN],
    received: Received,
}

/// Receives one frame of a TAP.
fn recv_tap(file: &OwnedFd, vnet_hdr: bool, frame: &mut HeapFrame) -> Result<Arrived, Errno> {
    let mut header = [0; VnetLayout::MAX_LEN];
    let mut spill = [0; SPILL];
    let header_len = if vnet_hdr { TAP_LAYOUT.header_len() } else { 0 };
    let mut buffers = buffers(&mut header[..header_len], frame, &mut spill);
    let len = readv(file, &mut buffers)?;
    Ok(Arrived { header, received: Received { len, vlan: None } })
}

/// Receives frames of a packet socket, several at once.
fn recv_packets(socket: &OwnedFd, many: &mut Many<Arrived>) -> io::Result<()> {
    let receive = |frames: &mut [HeapFrame]| {
        let mut beside = [([0; VnetLayout::MAX_LEN], [0; SPILL]); MANY];
        let received = {
            let mut windows: ArrayVec<_, MANY> = frames
                .iter_mut()
                .zip(&mut beside)
                .map(|(frame, (header, spill))| {
                    buffers(&mut header[..PACKET_LAYOUT.header_len()], frame, spill)
                })
                .collect();
            packet::recv_many(socket.as_fd(), windows.iter_mut().map(|window| &mut window[..]))?
        };
        let arrived = |(received, (header, _))| Arrived { header, received };
        Ok(received.into_iter().zip(beside).map(arrived).collect())
    };
    many.receive(receive, |arrived| arrived.received.len)
}

/// The packet socket for a frame.
fn way<'a>(
    [socket, finishing]: [&'a OwnedFd; 2],
    frame: &impl Frame,
    shared: &PortShared,
) -> &'a OwnedFd {
    let native = shared.native.load(Ordering::Relaxed);
    if needed_bits(frame) & !native == 0 { socket } else { finishing }
}

/// The virtio header of what is to be sent.
fn encoded<F: Frame>(
    layout: VnetLayout,
    joined: &Joined<'_, F>,
) -> Result<[u8; VnetLayout::MAX_LEN], DropReason> {
    let header = VnetHeader::of(joined.first()).map_err(|_| DropReason::TxError)?;
    Ok(layout.encode(&header))
}

/// Puts a header and the pieces of a frame, or of several, behind others; false, with nothing put there,
/// if they do not fit.
fn put_pieces<'a, F: Frame, const N: usize>(
    header: Option<&'a [u8]>,
    joined: &Joined<'a, F>,
    pieces: &mut ArrayVec<IoSlice<'a>, N>,
) -> bool {
    if joined.segments() + usize::from(header.is_some()) > pieces.remaining_capacity() {
        return false;
    }
    pieces.extend(header.map(IoSlice::new));
    joined.for_each_segment(&mut |bytes| pieces.push(IoSlice::new(bytes)));
    true
}

/// Counts frames that had the same fate.
fn count<F: Frame>(
    sent: Result<(), DropReason>,
    frames: &[Joined<'_, F>],
    counters: &PortCounters,
) {
    for joined in frames {
        match sent {
            Ok(()) => {
                counters.tx_frames.add(joined.frames());
                counters.tx_bytes.add(joined.bytes());
            }
            Err(reason) => counters.count_drop(reason, joined.frames()),
        }
    }
}

/// One byte more than any frame may have tells a giant from the longest one.
const SPILL: usize = 1;

/// Where a frame is to be received.
fn buffers<'a>(
    header: &'a mut [u8],
    frame: &'a mut HeapFrame,
    spill: &'a mut [u8; SPILL],
) -> [IoSliceMut<'a>; 4] {
    let window = frame.rx_window();
    [header, window.head, window.tail, spill].map(IoSliceMut::new)
}

/// The drop that an error of a send is.
fn drop_reason(e: Errno, shared: &PortShared) -> DropReason {
    match e {
        Errno::EAGAIN => DropReason::TxFull,
        Errno::ENOBUFS => {
            shared.refused.add(1);
            DropReason::TxFull
        }
        // A TAP that is down says EIO, one that was deleted EBADFD; a packet socket ENETDOWN, and
        // ENXIO when its device is gone.
        Errno::ENETDOWN | Errno::EIO | Errno::EBADFD | Errno::ENXIO | Errno::ENODEV => {
            DropReason::PortDown
        }
        e => {
            shared.note(e);
            DropReason::TxError
        }
    }
}

/// Length of a VLAN tag.
const VLAN_TAG: usize = 4;

/// Puts a tag behind the addresses.
fn put_tag_back(
    frame: &mut HeapFrame,
    tpid: u16,
    tci: u16,
) -> Result<(), switch_core::frame::NoHeadroom> {
    frame.prepend(VLAN_TAG)?;
    let head = frame.head_mut();
    head.copy_within(VLAN_TAG..VLAN_TAG + 12, 0);
    head[12..14].copy_from_slice(&tpid.to_be_bytes());
    head[14..16].copy_from_slice(&tci.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::shared::caps_bits;
    use switch_core::frame::{Csum, FramePool, Gso, PoolConfig};

    /// A datagram socket in place of a TAP's file: it, too, gives one frame a read.
    fn tap(vnet_hdr: bool) -> (Io, UnixDatagram, HeapFrame, PortShared) {
        let (ours, far) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let frame = FramePool::new(PoolConfig::default()).alloc().unwrap();
        (Io::Tap { file: ours.into(), vnet_hdr }, far, frame, PortShared::default())
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 % 251) as u8).collect()
    }

    #[test]
    fn every_length_is_a_frame_or_a_named_drop() {
        for vnet_hdr in [false, true] {
            let (mut io, far, mut frame, shared) = tap(vnet_hdr);
            let header = if vnet_hdr { 12 } else { 0 };
            for len in (0..=64).chain([1514, 1518, 9216, 65_535, 65_536, MAX_FRAME, MAX_FRAME + 1])
            {
                let sent = pattern(len);
                far.send(&[vec![0; header], sent.clone()].concat()).unwrap();
                match (io.recv(&mut frame, &shared), len) {
                    (Got::Dropped(n, DropReason::Runt), 0..14) => assert_eq!(n, len),
                    (Got::Dropped(n, DropReason::Giant), _) => {
                        assert_eq!((n, len), (MAX_FRAME + 1, MAX_FRAME + 1));
                    }
                    (Got::Frame, 14..=MAX_FRAME) => {
                        let mut got = Vec::new();
                        frame.copy_to(&mut got);
                        assert_eq!(got, sent);
                    }
                    (got, _) => panic!("{len} bytes: {got:?}"),
                }
            }
            // Less than the header itself.
            if vnet_hdr {
                far.send(&[0; 5]).unwrap();
                assert!(matches!(io.recv(&mut frame, &shared), Got::Dropped(0, DropReason::Runt)));
            }
            assert!(matches!(io.recv(&mut frame, &shared), Got::Nothing));
            assert_eq!(shared.errors.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_header_that_lies_is_a_named_drop() {
        let (mut io, far, mut frame, shared) = tap(true);
        // Flags, type, hdr_len, gso_size, csum_start, csum_offset, num_buffers.
        let lies: [[u8; 12]; 5] = [
            [1, 0, 0, 0, 0, 0, 0xff, 0xff, 16, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 34, 0, 7, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0],
            [0, 3, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0],
            [0, 0x77, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0],
        ];
        for lie in lies {
            far.send(&[lie.to_vec(), pattern(1000)].concat()).unwrap();
            let got = io.recv(&mut frame, &shared);
            assert!(matches!(got, Got::Dropped(1000, DropReason::VnetHeader)), "{lie:?}: {got:?}");
        }
    }

    #[test]
    fn sending_to_what_is_full_or_closed_is_a_named_drop() {
        let (io, far, mut frame, shared) = tap(true);
        assert!(frame.fill(&pattern(3000)));
        let mut sent = 0;
        let full = loop {
            match io.send(&Joined::from(&frame), &shared) {
                Ok(()) => sent += 1,
                Err(reason) => break reason,
            }
        };
        assert_eq!(full, DropReason::TxFull);
        assert!(sent > 0);
        let mut got = vec![0; 5000];
        let n = far.recv(&mut got).unwrap();
        assert_eq!(got[..n], [vec![0; 10], vec![1, 0], pattern(3000)].concat());
        drop(far);
        assert_eq!(io.send(&Joined::from(&frame), &shared), Err(DropReason::TxError));
        assert_eq!(shared.last_error.load(Ordering::Relaxed), Errno::ECONNREFUSED as i32);
    }

    #[test]
    fn segments_in_sequence_go_in_one_call() {
        use switch_core::testing::frames::{gso, mac, tcp4};

        let stream = gso(tcp4(mac(2), mac(1), &pattern(5000)), GsoKind::TcpV4, 1000);
        let pool = FramePool::new(PoolConfig::default());
        let mut whole = pool.frame(&stream.bytes).unwrap();
        whole.set_offload(stream.offload);
        let joins = caps_bits(Caps::ALL);
        for (joins, calls) in [(joins, 1), (0, 5)] {
            let (io, far, _, shared) = tap(true);
            shared.joins.store(joins, Ordering::Relaxed);
            let (mut batch, counters) = (Batch::new(), PortCounters::default());
            segment::segment(&whole, || pool.alloc(), |s| batch.push(s).unwrap()).unwrap();
            let bytes: usize = batch.as_slice().iter().map(Frame::len).sum();
            io.send_all(&mut batch, &shared, &counters);
            far.set_nonblocking(true).unwrap();
            let mut got = Vec::new();
            let mut buffer = vec![0; 70_000];
            while let Ok(n) = far.recv(&mut buffer) {
                got.push(buffer[..n].to_vec());
            }
            assert_eq!(got.len(), calls);
            let totals = counters.totals();
            assert_eq!((totals.tx_frames, totals.tx_bytes), (5, bytes as u64));
            if calls == 1 {
                let header = VnetHeader::of(&whole).unwrap();
                assert_eq!(got[0], [&TAP_LAYOUT.encode(&header), &stream.bytes[..]].concat());
            }
        }
    }

    #[test]
    fn a_tag_goes_back_between_addresses_and_type() {
        let mut frame = FramePool::new(PoolConfig::default()).alloc().unwrap();
        assert!(frame.fill(&pattern(60)));
        let csum = |start| Csum::Partial { start, offset: 16 };
        frame.set_offload(switch_core::frame::Offload { csum: csum(34), gso: None });
        put_tag_back(&mut frame, 0x88a8, 0x2005).unwrap();
        let plain = pattern(60);
        let tagged = [&plain[..12], &[0x88, 0xa8, 0x20, 0x05], &plain[12..]].concat();
        assert_eq!(frame.head(), tagged);
        assert_eq!(frame.offload().csum, csum(38));
    }

    #[test]
    fn only_what_the_device_finishes_goes_past_the_queue() {
        let mut frame = FramePool::new(PoolConfig::default()).alloc().unwrap();
        assert!(frame.fill(&pattern(60)));
        assert_eq!(needed_bits(&frame), 0);
        let csum = Csum::Partial { start: 34, offset: 16 };
        frame.set_offload(switch_core::frame::Offload { csum, gso: None });
        assert_eq!(needed_bits(&frame), 0);
        let gso = Some(Gso { kind: GsoKind::TcpV4, size: 40, ecn: false });
        frame.set_offload(switch_core::frame::Offload { csum, gso });
        let tso = caps_bits(Caps { csum: true, tso4: true, ..Caps::default() });
        assert_eq!(needed_bits(&frame), tso);
        put_tag_back(&mut frame, 0x8100, 5).unwrap();
        assert_eq!(needed_bits(&frame), tso | NATIVE_TAGGED);
    }
}
