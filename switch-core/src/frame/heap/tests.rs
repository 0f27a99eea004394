use super::*;
use crate::frame::Csum;

fn pool() -> FramePool {
    FramePool::new(PoolConfig { heads: 4, tails: 2, max_heads: 4 })
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 % 251) as u8).collect()
}

fn content(frame: &HeapFrame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.copy_to(&mut out);
    out
}

#[test]
fn every_length_up_to_the_limit_round_trips() {
    let pool = pool();
    for n in [0, 1, 13, 14, 255, 256, HEAD_CAPACITY, HEAD_CAPACITY + 1, 9000, MAX_FRAME] {
        let frame = pool.frame(&bytes(n)).unwrap();
        assert_eq!(content(&frame), bytes(n));
        assert!(frame.head().len() >= n.min(HEAD_MIN));
    }
    assert!(pool.frame(&bytes(MAX_FRAME + 1)).is_none());
}

#[test]
fn appending_in_any_steps_makes_the_same_frame() {
    let pool = pool();
    for step in [1, 7, 100, 1448, HEAD_CAPACITY, 5000] {
        let mut frame = pool.alloc().unwrap();
        bytes(9000).chunks(step).for_each(|piece| frame.append(piece).unwrap());
        assert_eq!(content(&frame), bytes(9000), "in steps of {step}");
        assert!(frame.head().len() >= HEAD_MIN);
    }
    let mut frame = pool.frame(&bytes(MAX_FRAME)).unwrap();
    assert_eq!(frame.append(&[0]), Err(NoTailroom));
    assert_eq!(content(&frame), bytes(MAX_FRAME));
}

#[test]
fn appending_leaves_a_shared_tail_alone() {
    let pool = pool();
    let mut frame = pool.frame(&bytes(3000)).unwrap();
    let copy = frame.share().unwrap();
    frame.append(b"more").unwrap();
    assert_eq!(content(&copy), bytes(3000));
    assert_eq!(content(&frame), [&bytes(3000)[..], b"more"].concat());
}

#[test]
fn parts_of_a_frame_are_shared_and_read_as_they_were() {
    let pool = FramePool::new(PoolConfig { heads: 64, tails: 4, max_heads: 64 });
    let whole = pool.frame(&bytes(MAX_FRAME)).unwrap();
    let border = HEAD_CAPACITY;
    let mut part = pool.alloc().unwrap();
    for from in [0, 1, border - 500, border - 1, border, border + 1, 30_001, MAX_FRAME - 9] {
        for len in [0, 1, 9, OWN_BYTES, OWN_BYTES + 1, 1500, 9000, 40_000] {
            let range = from..from + len;
            let there = range.end <= MAX_FRAME;
            assert_eq!(part.fill_of(&whole, range.clone()), there, "{range:?}");
            let end = range.end.min(MAX_FRAME);
            assert_eq!(content(&part), bytes(MAX_FRAME)[from..end], "{range:?}");
            assert!(part.head().len() >= HEAD_MIN.min(part.len()));
        }
    }
    // Its head is its own, and what it shares is not written to.
    assert!(part.fill_of(&whole, 5000..6500));
    assert!(part.segments() == 2 && part.head().len() == OWN_BYTES);
    part.head_mut().fill(0xee);
    part.append(b"more").unwrap();
    part.trim_front(200).unwrap();
    let rest = [&bytes(6500)[5000 + OWN_BYTES..], b"more"].concat();
    assert_eq!(content(&part)[OWN_BYTES - 200..], rest);
    assert_eq!(content(&whole), bytes(MAX_FRAME));
    // It has what it shares for itself when the other one is gone.
    assert!(part.fill_of(&whole, 5000..6500));
    drop(whole);
    assert_eq!(content(&part), bytes(6500)[5000..]);
}

#[test]
fn appending_behind_a_far_trimmed_head_keeps_the_head_long_enough() {
    let pool = pool();
    let mut frame = pool.frame(&bytes(HEAD_CAPACITY)).unwrap();
    frame.trim_front(HEAD_CAPACITY - 10).unwrap();
    frame.append(&bytes(2000)).unwrap();
    assert!(frame.head().len() >= HEAD_MIN);
    assert_eq!(
        content(&frame),
        [&bytes(HEAD_CAPACITY)[HEAD_CAPACITY - 10..], &bytes(2000)].concat()
    );
}

#[test]
fn trimming_keeps_the_head_long_enough() {
    let pool = pool();
    let mut frame = pool.frame(&bytes(9000)).unwrap();
    let mut cut = 0;
    while frame.len() > 300 {
        frame.trim_front(200).unwrap();
        cut += 200;
        assert!(frame.head().len() >= HEAD_MIN.min(frame.len()));
        assert_eq!(content(&frame), bytes(9000)[cut..]);
    }
    let head = frame.head().len();
    assert_eq!(frame.trim_front(head + 1), Err(TooShort));
}

#[test]
fn shares_push_and_write_without_touching_each_other() {
    let pool = pool();
    let mut a = pool.frame(&bytes(9000)).unwrap();
    let mut b = a.share().unwrap();
    b.prepend(50).unwrap().fill(0xEE);
    b.head_mut()[60] = 1;
    a.prepend(8).unwrap().fill(0xDD);
    assert_eq!(content(&a)[8..], bytes(9000));
    assert_eq!(content(&b)[..50], [0xEE; 50]);
    drop(a);
    assert_eq!(content(&b)[61..], bytes(9000)[11..]);
}

#[test]
fn the_pool_is_bounded_and_gets_everything_back() {
    let pool = pool();
    let mut held: Vec<_> = (0..4).map(|_| pool.alloc().unwrap()).collect();
    assert!(pool.alloc().is_none());
    assert!(held[0].share().is_none());
    held.clear();
    assert_eq!(pool.in_use(), 0);
    assert!(pool.alloc().is_some());
}

#[test]
fn offload_positions_move_with_the_front() {
    let pool = pool();
    let mut frame = pool.frame(&bytes(100)).unwrap();
    let partial = |start| Offload { csum: Csum::Partial { start, offset: 16 }, gso: None };
    frame.set_offload(partial(34));
    frame.prepend(4).unwrap();
    assert_eq!(frame.offload(), partial(38));
    frame.trim_front(8).unwrap();
    assert_eq!(frame.offload(), partial(30));
    frame.trim_front(40).unwrap();
    assert_eq!(frame.offload().csum, Csum::Unknown);
}

#[test]
fn no_headroom_and_truncate() {
    let pool = pool();
    let mut frame = pool.frame(&bytes(3000)).unwrap();
    assert_eq!(frame.prepend(HEADROOM + 1).err(), Some(NoHeadroom));
    assert_eq!(frame.prepend(HEADROOM).map(|b| b.len()), Ok(HEADROOM));
    frame.truncate(2000);
    assert_eq!(frame.len(), 2000);
    frame.truncate(10);
    assert_eq!((frame.len(), frame.segments()), (10, 1));
}

/// Pieces of `piece` bytes with `gap` between them, behind a first range.
fn apart(whole: &[u8], first: Range<usize>, (gap, piece, more): (usize, usize, usize)) -> Vec<u8> {
    let (mut out, mut at, mut left) = (whole[first.clone()].to_vec(), first.end, more);
    while left > 0 {
        let len = piece.min(left);
        out.extend_from_slice(&whole[at + gap..][..len]);
        (at, left) = (at + gap + len, left - len);
    }
    out
}

/// A received frame of 30,000 bytes, of which `in_head` lie in its head.
fn received(pool: &FramePool, in_head: usize) -> HeapFrame {
    let (mut frame, bytes) = (pool.alloc().unwrap(), bytes(30_000));
    let window = frame.rx_window_of(in_head);
    let (first, rest) = bytes.split_at(in_head);
    window.head.copy_from_slice(first);
    window.tail[..rest.len()].copy_from_slice(rest);
    assert!(frame.set_received_of(bytes.len(), in_head));
    assert_eq!(content(&frame), bytes);
    frame
}

#[test]
fn parts_that_lie_apart_are_a_frame_and_stay_as_they_are() {
    let pool = FramePool::new(PoolConfig { heads: 64, tails: 4, max_heads: 64 });
    let all = bytes(30_000);
    // The first part in the head of the other frame, in its tail, and in both.
    for (in_head, first) in [(1450, 0..1450), (1450, 2900..4350), (1664, 0..9000), (300, 300..400)]
    {
        let whole = received(&pool, in_head);
        for (gap, piece, more) in [(62, 1388, 1388 * 5 + 7), (1, 1, 300), (90, 8910, 8910)] {
            let parts = (gap, piece, more);
            let mut frame = pool.alloc().unwrap();
            assert!(frame.fill_apart(&whole, first.clone(), parts), "{first:?} {parts:?}");
            let want = apart(&all, first.clone(), parts);
            assert_eq!(content(&frame), want, "{first:?} {parts:?}");
            let mut pieces = 0;
            frame.for_each_segment(&mut |_| pieces += 1);
            assert_eq!(frame.segments(), pieces);
            assert!(frame.head().len() >= HEAD_MIN.min(frame.len()));
            let mut together = frame.share().unwrap();
            together.bring_together();
            assert!(together.segments() <= 2 && content(&together) == want);
            drop(together);
            // A copy is the same, and what is done to one is not done to the other.
            let mut copy = frame.share().unwrap();
            copy.append(b"more").unwrap();
            copy.head_mut()[0] ^= 1;
            let changed = [&[want[0] ^ 1], &want[1..], b"more"].concat();
            assert_eq!(content(&copy), changed);
            // Parts of it are shared, too.
            let range = want.len() / 3..want.len() - 1;
            assert!(copy.fill_of(&frame, range.clone()));
            assert_eq!(content(&copy), want[range]);
            let mut cut = 0;
            while frame.len() > 200 {
                frame.trim_front(97).unwrap();
                cut += 97;
                assert!(frame.head().len() >= HEAD_MIN.min(frame.len()));
                assert_eq!(content(&frame), want[cut..]);
                frame.truncate(want.len() - cut - 1);
                assert_eq!(content(&frame), want[cut..want.len() - 1]);
                frame.append(&want[want.len() - 1..]).unwrap();
            }
        }
        assert_eq!(content(&whole), all);
    }
}

#[test]
fn parts_that_are_not_there_are_none() {
    let pool = FramePool::new(PoolConfig { heads: 64, tails: 4, max_heads: 64 });
    let whole = received(&pool, 1450);
    let mut frame = pool.alloc().unwrap();
    // Behind the end, across the border of head and tail, and nothing at all.
    for (first, parts) in [
        (1450..2900, (62, 1388, 27_100)),
        (0..1400, (62, 1388, 1388)),
        (29_000..30_001, (1, 1, 1)),
        (1450..2900, (0, 1388, 1388)),
        (1450..2900, (62, 0, 1388)),
        (0..1450, (62, usize::MAX, usize::MAX)),
    ] {
        assert!(!frame.fill_apart(&whole, first.clone(), parts), "{first:?} {parts:?}");
    }
}

#[test]
fn a_window_holds_the_longest_frame_wherever_its_head_ends() {
    let pool = pool();
    let mut frame = pool.alloc().unwrap();
    for in_head in [0, 1, HEAD_MIN - 1, HEAD_CAPACITY, usize::MAX] {
        let window = frame.rx_window_of(in_head);
        assert_eq!(window.head.len() + window.tail.len(), MAX_FRAME);
        assert!(frame.set_received_of(MAX_FRAME, in_head));
        assert_eq!((frame.len(), frame.head().len()), (MAX_FRAME, in_head.min(HEAD_CAPACITY)));
        assert!(!frame.set_received_of(MAX_FRAME + 1, in_head));
        assert!(frame.is_empty());
    }
}
