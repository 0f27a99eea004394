//! Packets of a burst that differ in their payload alone go to the kernel in one call
//! (`UDP_SEGMENT`, Linux 4.18), which cuts them apart again.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use switch_core::Batch;
use switch_core::batch::BURST_MAX;
use switch_core::frame::{Frame, HeapFrame};
use switch_core::stats::PortCounters;

use super::{Outer, Transport, Underlay, count, drop_reason, payload, transmit};
use crate::shared::PortShared;
use crate::sys::udp::{self, Outgoing};

/// Most datagrams in one call: `UDP_MAX_SEGMENTS` of Linux before 6.9.
const RUN_MAX: usize = 64;
/// Most bytes in one call: what IPv4 and UDP leave of a length of 16 bits.
const BYTES_MAX: usize = 65_535 - 28;
/// Remotes that are remembered to be sent to one by one.
const REMOTES_MAX: usize = 64;
/// Runs to such a remote until the kernel is asked again: its route may have changed.
const ASKED_EVERY: u32 = 4096;

/// Remotes for which the kernel took no run: the route goes through IPsec or a device that sums nothing
/// (EIO), or a packet would have to be fragmented (EINVAL, later EMSGSIZE).
#[derive(Debug, Default)]
pub(super) struct OneByOne(ArrayVec<(IpAddr, u32), REMOTES_MAX>);

impl OneByOne {
    fn takes(&mut self, remote: IpAddr) -> bool {
        let mut all = self.0.iter_mut().enumerate();
        let Some((at, (_, left))) = all.find(|(_, (ip, _))| *ip == remote) else { return false };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.0.swap_remove(at);
        }
        true
    }

    fn add(&mut self, remote: IpAddr) {
        if self.0.is_full() {
            self.0.remove(0);
        }
        self.0.push((remote, ASKED_EVERY));
    }
}

/// Packets that the kernel can be given in one call: two or more.
struct Run<'a> {
    outer: Outer,
    frames: &'a [HeapFrame],
    /// Bytes of payload of each but the last, which may have fewer.
    size: u16,
}

impl<'a> Run<'a> {
    /// The run that `frames` begin with, whose outer headers are `outers`, if there is one.
    fn first_of(frames: &'a [HeapFrame], outers: &[Option<Outer>]) -> Option<Self> {
        let outer = (*outers.first()?)?;
        let payload_len = |frame: &HeapFrame| frame.len().saturating_sub(outer.len);
        let size = payload_len(frames.first()?);
        // A size of 0 would say nothing of how to cut.
        if outer.transport == Transport::Gre || size == 0 {
            return None;
        }
        let (mut n, mut bytes) = (1, size);
        for (frame, other) in frames.iter().zip(outers).take(RUN_MAX).skip(1) {
            let len = payload_len(frame);
            if *other != Some(outer) || !(1..=size).contains(&len) || bytes + len > BYTES_MAX {
                break;
            }
            (n, bytes) = (n + 1, bytes + len);
            if len < size {
                break;
            }
        }
        let frames = frames.get(..n).filter(|frames| frames.len() > 1)?;
        Some(Self { outer, frames, size: u16::try_from(size).ok()? })
    }
}

impl Underlay {
    /// Sends every packet of the batch, or drops it by name.
    pub(crate) fn send_all(
        &mut self,
        batch: &mut Batch<HeapFrame>,
        shared: &PortShared,
        counters: &PortCounters,
    ) {
        let mut all = ArrayVec::<Option<Outer>, BURST_MAX>::new();
        // A mirror's copy that was shortened is not cut, and so may still have the pieces of several.
        batch.as_mut_slice().iter_mut().for_each(HeapFrame::bring_together);
        let mut before: Option<&HeapFrame> = None;
        for frame in batch.as_slice() {
            // Segments of a super-frame have the very same headers.
            let outer = all.last().copied().flatten();
            let same = outer.filter(|outer| before.is_some_and(|it| outer.same_of(it, frame)));
            all.push(same.or_else(|| Outer::of(frame)));
            before = Some(frame);
        }
        let (mut frames, mut outers) = (batch.as_slice(), all.as_slice());
        while !frames.is_empty() {
            let run = Run::first_of(frames, outers);
            let n = match &run {
                Some(run) => run.frames.len(),
                // Up to where the next one begins.
                None => (1..frames.len())
                    .find(|n| Run::first_of(&frames[*n..], &outers[*n..]).is_some())
                    .unwrap_or(frames.len()),
            };
            let ((now, later), (of_now, of_later)) = (frames.split_at(n), outers.split_at(n));
            let taken = match run {
                Some(run) if self.one_by_one.takes(run.outer.to.ip()) => {
                    shared.one_by_one.add(1);
                    false
                }
                Some(run) => self.send_run(&run, shared, counters),
                None => false,
            };
            if !taken {
                self.send_each(now, of_now, shared, counters);
            }
            (frames, outers) = (later, of_later);
        }
        batch.clear();
    }

    /// Sends a run and counts it; false if the kernel does not take it as one.
    fn send_run(&mut self, run: &Run<'_>, shared: &PortShared, counters: &PortCounters) -> bool {
        let Run { outer, frames, size } = run;
        let Some(socket) = self.sender(outer) else { return false };
        let mut pieces = ArrayVec::<_, { 2 * RUN_MAX }>::new();
        for frame in *frames {
            payload(frame, outer.len, |piece| {
                let _ = pieces.try_push(piece);
            });
        }
        // A socket that leaves checksums away takes no run: the packets of this one have real ones, and
        // come from the same port as others. (It fails for no socket that it succeeded for before.)
        let (remote, bare) =
            (outer.to.ip(), matches!(outer.transport, Transport::Udp { checksum: false, .. }));
        let leave_away = |on| bare && udp::leave_checksums_away(socket, remote, on).is_err();
        if leave_away(false) {
            return false;
        }
        let datagram = Outgoing::new(outer.to, outer.fields, Some(*size), &pieces);
        let sent = transmit(|| udp::send(socket, &datagram));
        if leave_away(true) {
            shared.note(Errno::ENOPROTOOPT);
        }
        match sent {
            // Too long with the don't-fragment flag, the last one may be short enough all the same.
            Err(Errno::EMSGSIZE) if outer.df => return false,
            Err(e @ (Errno::EINVAL | Errno::EIO | Errno::EMSGSIZE)) => {
                self.one_by_one.add(remote);
                shared.note_one_by_one(remote, e);
                shared.one_by_one.add(1);
                return false;
            }
            sent => count(sent.map_err(|e| drop_reason(e, shared)), frames, counters),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switch_core::frame::{Csum, FramePool, Offload, PoolConfig};
    use switch_core::wire::{IpProtocol, Ipv4Header, UdpHeader};
    use zerocopy::IntoBytes;

    /// An outer packet to `192.0.2.LAST` from a port, with a payload of `len` bytes.
    fn packet(pool: &FramePool, last: u8, src: u16, len: usize) -> HeapFrame {
        let udp = UdpHeader::new(src, 4789, len as u16);
        let to = [192, 0, 2, last].into();
        let ip = Ipv4Header::new([192, 0, 2, 1].into(), to, IpProtocol::UDP, udp.datagram_len());
        pool.frame(&[ip.as_bytes(), udp.as_bytes(), &vec![7; len]].concat()).unwrap()
    }

    fn run_of(packets: &[(u8, u16, usize)]) -> usize {
        let pool = FramePool::new(PoolConfig::default());
        let of = |&(last, src, len): &(u8, u16, usize)| packet(&pool, last, src, len);
        run_len(&packets.iter().map(of).collect::<Vec<_>>())
    }

    fn run_len(frames: &[HeapFrame]) -> usize {
        let outers: Vec<_> = frames.iter().map(Outer::of).collect();
        Run::first_of(frames, &outers).map_or(1, |run| run.frames.len())
    }

    #[test]
    fn a_run_has_one_flow_and_one_length() {
        let a = (2, 50_000, 1400);
        assert_eq!(run_of(&[a]), 1);
        assert_eq!(run_of(&[a, a, a]), 3);
        // The last one may be shorter, and nothing is behind it; none may be longer.
        assert_eq!(run_of(&[a, a, (2, 50_000, 9), a]), 3);
        assert_eq!(run_of(&[a, (2, 50_000, 1401)]), 1);
        // Another remote, another port.
        assert_eq!(run_of(&[a, a, (3, 50_000, 1400)]), 2);
        assert_eq!(run_of(&[a, a, (2, 50_001, 1400)]), 2);
        assert_eq!(run_of(&[(2, 50_000, 0), (2, 50_000, 0)]), 1);
        // As many as the kernel takes, and as many bytes.
        assert_eq!(run_of(&[a; 60]), BYTES_MAX / 1400);
        assert_eq!(run_of(&[(2, 50_000, 100); 70]), RUN_MAX);
    }

    #[test]
    fn checksums_and_headers_have_to_be_alike() {
        let pool = FramePool::new(PoolConfig::default());
        let two = |change: &dyn Fn(&mut HeapFrame)| {
            let mut frames = [packet(&pool, 2, 1, 100), packet(&pool, 2, 1, 100)];
            change(&mut frames[1]);
            run_len(&frames)
        };
        assert_eq!(two(&|_| ()), 2);
        let csum = Csum::Partial { start: 20, offset: 6 };
        assert_eq!(two(&|frame| frame.set_offload(Offload { csum, gso: None })), 1);
        // ECN, TTL.
        assert_eq!(two(&|frame| frame.head_mut()[1] ^= 1), 1);
        assert_eq!(two(&|frame| frame.head_mut()[8] ^= 1), 1);
    }

    #[test]
    fn a_remote_that_takes_no_runs_is_asked_again() {
        let (mut one_by_one, remote) = (OneByOne::default(), IpAddr::from([192, 0, 2, 2]));
        assert!(!one_by_one.takes(remote));
        one_by_one.add(remote);
        let times = (0..).take_while(|_| one_by_one.takes(remote)).count();
        assert_eq!(times, ASKED_EVERY as usize);
        for n in 0..=255 {
            one_by_one.add([192, 0, 2, n].into());
        }
        assert!(one_by_one.takes([192, 0, 2, 255].into()) && !one_by_one.takes(remote));
    }
}
