//! Packets of a burst that differ in their payload alone go to the kernel in one call
//! (`UDP_SEGMENT`, Linux 4.18), which cuts them apart again.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use switch_core::frame::{Csum, Frame, HeapFrame};
use switch_core::stats::PortCounters;
use switch_core::{Batch, DropReason};

use super::{Outer, Transport, Underlay, drop_reason, payload, transmit};
use crate::io::PortShared;
use crate::sys::udp;

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
        let Some(at) = self.0.iter().position(|(ip, _)| *ip == remote) else { return false };
        let Some((_, left)) = self.0.get_mut(at) else { return false };
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

/// Packets that the kernel can be given in one call.
#[derive(Debug)]
struct Run<'a> {
    outer: Outer,
    /// Whether they have a checksum.
    checksum: bool,
    frames: &'a [HeapFrame],
    /// Bytes of payload of each but the last, which may have fewer.
    size: u16,
}

impl<'a> Run<'a> {
    /// The run that `frames` begin with, if there is one of two packets or more.
    fn first_of(frames: &'a [HeapFrame]) -> Option<Self> {
        let (first, rest) = frames.split_first()?;
        let (outer, checksum, size) = part(first)?;
        let (mut n, mut bytes) = (1, size);
        for frame in rest.iter().take(RUN_MAX - 1) {
            let Some((other, with_checksum, len)) = part(frame) else { break };
            let same = (other, with_checksum) == (outer, checksum) && len <= size;
            if !same || bytes + len > BYTES_MAX {
                break;
            }
            (n, bytes) = (n + 1, bytes + len);
            if len < size {
                break;
            }
        }
        let frames = frames.get(..n).filter(|frames| frames.len() > 1)?;
        Some(Self { outer, checksum, frames, size: u16::try_from(size).ok()? })
    }
}

/// What a packet of a run is: UDP. Its payload's length is not 0, as zero would say nothing of how to
/// cut.
fn part(frame: &HeapFrame) -> Option<(Outer, bool, usize)> {
    let outer = Outer::parse(frame.head(), frame.len())?;
    let Transport::Udp { checksum, .. } = outer.transport else { return None };
    let unfinished = matches!(frame.offload().csum, Csum::Partial { .. });
    let len = frame.len().checked_sub(outer.len).filter(|len| *len > 0)?;
    Some((outer, checksum || unfinished, len))
}

impl Underlay {
    /// Sends every packet of the batch, or drops it by name.
    pub(crate) fn send_all(
        &mut self,
        batch: &mut Batch<HeapFrame>,
        shared: &PortShared,
        counters: &PortCounters,
    ) {
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            let run = Run::first_of(rest);
            let n = run.as_ref().map_or(1, |run| run.frames.len());
            let (now, later) = rest.split_at(n.min(rest.len()));
            let taken = match run {
                Some(run) if self.one_by_one.takes(run.outer.to.ip()) => {
                    shared.note_one_by_one();
                    false
                }
                Some(run) => self.send_run(&run, shared, counters),
                None => false,
            };
            if !taken {
                for frame in now {
                    count(self.send(frame, shared), std::slice::from_ref(frame), counters);
                }
            }
            rest = later;
        }
        batch.clear();
    }

    /// Sends a run and counts it; false if the kernel does not take it as one.
    fn send_run(&mut self, run: &Run<'_>, shared: &PortShared, counters: &PortCounters) -> bool {
        let Some(socket) = self.sender(&run.outer, run.checksum) else { return false };
        let mut pieces = ArrayVec::<_, { 2 * RUN_MAX }>::new();
        for frame in run.frames {
            payload(frame, run.outer.len, |piece| {
                let _ = pieces.try_push(piece);
            });
        }
        // A socket that leaves checksums away takes no run: the packets of this one have real ones, and
        // come from the same port as others. (It fails for no socket that it succeeded for before.)
        let remote = run.outer.to.ip();
        let leave_away =
            |on| !run.checksum && udp::leave_checksums_away(socket, remote, on).is_err();
        if leave_away(false) {
            return false;
        }
        let sent = transmit(socket, &run.outer, Some(run.size), &pieces);
        if leave_away(true) {
            shared.note(Errno::ENOPROTOOPT);
        }
        // Too long with the don't-fragment flag, the last one may be short enough all the same.
        let too_long = sent == Err(Errno::EMSGSIZE);
        if matches!(sent, Err(Errno::EINVAL | Errno::EIO)) || too_long && !run.outer.df {
            self.one_by_one.add(remote);
            shared.note_one_by_one();
            return false;
        }
        if too_long {
            return false;
        }
        count(sent.map_err(|e| drop_reason(e, shared)), run.frames, counters);
        true
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use switch_core::frame::{FramePool, Offload, PoolConfig};
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
        let frames: Vec<_> = packets.iter().map(of).collect();
        Run::first_of(&frames).map_or(1, |run| run.frames.len())
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
            Run::first_of(&frames).map_or(1, |run| run.frames.len())
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
