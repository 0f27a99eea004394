//! Joining: whatever is joined must be what cutting gives back.

use super::super::join::Segment;
use super::*;
use crate::datapath::Caps;
use crate::frame::{Csum, HEAD_MIN};

/// What `join` makes of finished frames: how many frames each stands for, and the bytes of all after
/// super-frames were cut again.
fn there_and_back(pool: &FramePool, frames: &[Vec<u8>], caps: Caps) -> (Vec<u64>, Vec<Vec<u8>>) {
    let made: Vec<_> = frames.iter().map(|bytes| pool.frame(bytes).unwrap()).collect();
    let (counts, bytes) = back(pool, made, caps);
    if caps == Caps::ALL {
        found_in_bytes(pool, frames, &counts);
    }
    (counts, bytes)
}

/// The same is found where TCP's were no frames yet.
fn found_in_bytes(pool: &FramePool, frames: &[Vec<u8>], counts: &[u64]) {
    let mut rest = frames;
    for count in counts {
        let (these, later) = rest.split_at(*count as usize);
        let found = InBytes::of(&rest[0], rest[1..].iter().map(Vec::as_slice), HEAD_MIN);
        let frame = pool.frame(&these[0]).unwrap();
        if Segment::of(&frame).is_some_and(|segment| segment.is_tcp()) && *count > 1 {
            let found = found.unwrap();
            assert_eq!(found.more() + 1, these.len());
            let mut whole = these[0].clone();
            these[1..].iter().for_each(|more| whole.extend_from_slice(&more[found.headers()..]));
            assert_eq!(found.total_len(), whole.len());
            let offload = found.write(&mut whole).unwrap();
            let mut frame = pool.frame(&whole).unwrap();
            frame.set_offload(offload);
            assert_eq!(cut_by_us(pool, &frame), these);
            assert_eq!(found.write(&mut whole[..40]), None, "headers that are not there");
        } else {
            assert!(found.is_none());
        }
        rest = later;
    }
}

fn back(pool: &FramePool, mut frames: Vec<HeapFrame>, caps: Caps) -> (Vec<u64>, Vec<Vec<u8>>) {
    let (mut counts, mut bytes) = (Vec::new(), Vec::new());
    join(&mut frames, caps, |joined| {
        let before = bytes.len();
        let (mut whole, mut pieces) = (Vec::new(), 0);
        joined.for_each_segment(&mut |piece| {
            whole.extend_from_slice(piece);
            pieces += 1;
        });
        assert_eq!(joined.segments(), pieces);
        let offload = joined.first().offload();
        match offload.gso {
            Some(_) => {
                // A port's owner would find nothing wrong with it.
                let claim = VnetHeader::of(joined.first()).unwrap();
                let seen = validate(&whole[..whole.len().min(256)], whole.len(), &claim).unwrap();
                assert_eq!(seen, offload);
                let mut frame = pool.frame(&whole).unwrap();
                frame.set_offload(offload);
                bytes.extend(cut_by_us(pool, &frame));
            }
            None => bytes.push(whole),
        }
        let came: usize = bytes[before..].iter().map(Vec::len).sum();
        assert_eq!((joined.frames(), joined.bytes()), ((bytes.len() - before) as u64, came as u64));
        counts.push(joined.frames());
    });
    (counts, bytes)
}

/// A packet whose segments can be joined.
fn stream(v6: bool, payload: usize) -> Packet {
    let mut packet = tcp_v4(payload);
    if v6 {
        let Ip::V6(ip, _) = udp_v6(0).ip else { unreachable!() };
        (packet.l2, packet.ip) = (udp_v6(0).l2, Ip::V6(ip, Vec::new()));
    }
    let L4::Tcp(tcp) = &mut packet.l4 else { unreachable!() };
    (tcp.fin, tcp.cwr) = (false, false);
    tcp.set_options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    packet
}

#[test]
fn segments_of_a_stream_become_one() {
    let pool = pool();
    for v6 in [false, true] {
        for (payload, size) in
            [(2896, 1448), (14_481, 1448), (65_000, 1448), (62_636, 8948), (100, 7)]
        {
            for tag in [&[][..], &[0x81, 0, 0x20, 5]] {
                let mut packet = stream(v6, payload);
                let at = packet.l2.len() - 2;
                packet.l2.splice(at..at, tag.iter().copied());
                let frames = packet.cut(size);
                let (counts, bytes) = there_and_back(&pool, &frames, Caps::ALL);
                assert_eq!(counts, [frames.len() as u64], "{v6} {payload} {size} {tag:?}");
                assert_eq!(bytes, frames);
            }
        }
    }
}

/// A packet of UDP whose datagrams can be joined.
fn datagrams(v6: bool, payload: usize) -> Packet {
    let packet = stream(v6, payload);
    Packet { l4: udp_v6(0).l4, ..packet }
}

#[test]
fn datagrams_of_a_flow_become_one() {
    let pool = pool();
    for v6 in [false, true] {
        for (payload, size) in [(128, 64), (6400, 100), (6401, 100), (60_001, 1448)] {
            let frames = datagrams(v6, payload).cut(size);
            let (counts, bytes) = there_and_back(&pool, &frames, Caps::ALL);
            assert_eq!((counts, &bytes), (vec![frames.len() as u64], &frames), "{v6} {payload}");
            let no_uso = Caps { uso: false, ..Caps::ALL };
            assert_eq!(there_and_back(&pool, &frames, no_uso), (vec![1; frames.len()], frames));
        }
    }
}

#[test]
fn datagrams_that_do_not_belong_together_stay_apart() {
    let pool = pool();
    let flow = datagrams(false, 400);
    let apart = |what: &str, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut frames = flow.cut(100);
        change(&mut frames);
        let ones = vec![1; frames.len()];
        assert_eq!(there_and_back(&pool, &frames, Caps::ALL), (ones, frames), "{what}");
    };
    let l4 = flow.l4_start();
    apart("no checksum", &|frames| frames.iter_mut().for_each(|f| f[l4 + 6..l4 + 8].fill(0)));
    apart("a wrong one", &|frames| frames.iter_mut().for_each(|f| f[l4 + 6] ^= 1));
    apart("another order", &|frames| frames.reverse());
    apart("each longer than the one before", &|frames| {
        let lengths = [50, 60, 70].map(|len| flow.cut(len).remove(0));
        frames.splice(.., lengths);
    });
    apart("two flows in turn", &|frames| {
        let mut other = flow.clone();
        let L4::Udp(udp) = &mut other.l4 else { unreachable!() };
        udp.source_port += 1;
        let pairs = frames.drain(..).zip(other.cut(100)).flat_map(|(a, b)| [a, b]);
        let pairs: Vec<_> = pairs.collect();
        frames.extend(pairs);
    });
    apart("bytes behind the datagram", &|frames| {
        frames.iter_mut().for_each(|f| f[l4 + 5] -= 1);
    });
    // A shorter one is the last one.
    let mut frames = flow.cut(150);
    let mut more = flow.clone();
    let Ip::V4(ip) = &mut more.ip else { unreachable!() };
    ip.identification = ip.identification.wrapping_add(3);
    frames.extend(more.cut(100));
    assert_eq!(there_and_back(&pool, &frames, Caps::ALL), (vec![3, 4], frames));
}

#[test]
fn unfinished_checksums_are_joined_if_they_are_what_they_should_be() {
    let (pool, packet) = (&pool(), &stream(false, 3000));
    let parts = |wrong: usize| {
        let cut = packet.cut(1000).into_iter().enumerate();
        cut.map(move |(n, bytes)| {
            let mut frame = pool.frame(&bytes).unwrap();
            let l4 = packet.l4_start();
            let sum = Segment::of(&frame).unwrap().pseudo(&bytes, bytes.len() - l4).unwrap();
            let sum = sum.partial() ^ u16::from(n == wrong);
            frame.head_mut()[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
            let csum = Csum::Partial { start: l4 as u16, offset: 16 };
            frame.set_offload(Offload { csum, gso: None });
            frame
        })
    };
    assert_eq!(back(pool, parts(9).collect(), Caps::ALL), (vec![3], packet.cut(1000)));
    let mut counts = Vec::new();
    join(&mut parts(1).collect::<Vec<_>>(), Caps::ALL, |joined| counts.push(joined.frames()));
    assert_eq!(counts, [1, 1, 1]);
}

#[test]
fn nothing_is_joined_for_who_cannot_take_it() {
    let (pool, ones) = (pool(), |n| vec![1; n]);
    let no_csum = Caps { csum: false, ..Caps::ALL };
    let only_v6 = Caps { tso4: false, ..Caps::ALL };
    let frames = stream(false, 5000).cut(1000);
    for caps in [Caps::default(), no_csum, only_v6] {
        assert_eq!(there_and_back(&pool, &frames, caps), (ones(5), frames.clone()));
    }
    let frames = stream(true, 5000).cut(1000);
    assert_eq!(there_and_back(&pool, &frames, only_v6), (vec![5], frames.clone()));
}

#[test]
fn one_super_frame_is_no_longer_than_ip_can_say() {
    let mut packet = stream(false, 0);
    let mut frames = Vec::new();
    // Two packets of one connection, one behind the other.
    for _ in 0..2 {
        packet.payload = vec![7; 60_000];
        let L4::Tcp(tcp) = &mut packet.l4 else { unreachable!() };
        tcp.psh = false;
        frames.extend(packet.cut(1000));
        let (L4::Tcp(tcp), Ip::V4(ip)) = (&mut packet.l4, &mut packet.ip) else { unreachable!() };
        tcp.sequence_number = tcp.sequence_number.wrapping_add(60_000);
        ip.identification = ip.identification.wrapping_add(60);
    }
    let (counts, bytes) = there_and_back(&pool(), &frames, Caps::ALL);
    assert_eq!((counts, bytes), (vec![65, 55], frames));
}

proptest! {
    /// Segments of several packets in any order, some with a byte turned over, and whatever else.
    #[test]
    fn what_was_joined_is_cut_into_the_same_bytes(
        packets in prop::collection::vec((packets(), 40usize..2000), 1..4),
        ends in any::<[bool; 3]>(),
        order in prop::collection::vec(0usize..4, 0..64),
        turned in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..8), 0..3),
    ) {
        let mut queues: Vec<_> = packets.into_iter().zip(ends).map(|((mut packet, size), end)| {
            if let (L4::Tcp(tcp), true) = (&mut packet.l4, end) {
                (tcp.fin, tcp.psh, tcp.cwr, tcp.urg) = (false, false, false, false);
            }
            packet.cut(size).into_iter().collect::<std::collections::VecDeque<_>>()
        }).collect();
        let mut frames = Vec::new();
        for from in order {
            let n = queues.len();
            frames.extend(queues[from % n].pop_front());
        }
        frames.extend(queues.into_iter().flatten());
        for (which, at, bit) in turned {
            let frame = which.index(frames.len());
            let at = at.index(frames[frame].len().min(100));
            frames[frame][at] ^= 1 << bit;
        }
        let (counts, bytes) = there_and_back(&pool(), &frames, Caps::ALL);
        prop_assert_eq!(counts.iter().sum::<u64>(), frames.len() as u64);
        prop_assert_eq!(bytes, frames);
    }
}
