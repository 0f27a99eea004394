//! Frames in mbufs: what `Frame` promises, against a plain vector.

mod common;

use common::{bytes, content, pieces, pool, segmented};
use datapath_dpdk::ring::Ring;
use datapath_dpdk::{Mbuf, Mempool};
use proptest::prelude::*;
use switch_core::frame::{
    Csum, Frame, Gso, GsoKind, HEAD_MIN, MAX_FRAME, NoHeadroom, NoTailroom, Offload, TooShort,
};

#[test]
fn every_length_up_to_the_limit_round_trips() {
    let pool = pool(256);
    let before = pool.available();
    for n in [0, 1, 13, 14, 255, 256, 2047, 2048, 2049, 9000, MAX_FRAME] {
        let frame = pool.frame(&bytes(n)).unwrap();
        assert_eq!(content(&frame), bytes(n));
        assert!(frame.head().len() >= n.min(HEAD_MIN));
    }
    let mut frame = pool.frame(&bytes(MAX_FRAME)).unwrap();
    assert_eq!(frame.append(&[0]), Err(NoTailroom));
    assert_eq!(content(&frame), bytes(MAX_FRAME));
    drop(frame);
    assert_eq!(pool.available(), before);
}

#[test]
fn a_push_on_a_shared_three_segment_frame_copies_no_payload() {
    let pool = pool(64);
    let before = pool.available();
    let mut original = segmented(pool, &[600, 700, 800]);
    let mut copy = original.share().unwrap();
    let payload = |frame: &Mbuf, behind: usize| {
        let mut at = 0;
        let mut out = Vec::new();
        for (addr, len) in pieces(frame) {
            let skip = behind.saturating_sub(at).min(len);
            out.extend((addr + skip..addr + len).filter(|a| a % 64 == 0));
            at += len;
        }
        out
    };
    // The head is the copy's own; behind it every byte is the same memory.
    assert_ne!(pieces(&original)[0].0, pieces(&copy)[0].0);
    assert_eq!(payload(&original, 384), payload(&copy, 384));
    assert_eq!(pieces(&original)[1..], pieces(&copy)[2..]);

    copy.prepend(50).unwrap().fill(0xEE);
    copy.head_mut()[50 + 5] = 0xAA;
    original.prepend(4).unwrap().fill(0xDD);
    original.head_mut()[4 + 6] = 0xBB;

    let mut expected = bytes(2100);
    expected[6] = 0xBB;
    assert_eq!(content(&original), [&[0xDD; 4][..], &expected].concat());
    let mut expected = bytes(2100);
    expected[5] = 0xAA;
    assert_eq!(content(&copy), [&[0xEE; 50][..], &expected].concat());
    // Whoever goes first leaves the payload to the other.
    drop(original);
    assert_eq!(content(&copy)[50..], expected);
    drop(copy);
    assert_eq!(pool.available(), before);
}

#[test]
fn a_trim_beyond_the_private_head_copies_what_it_needs() {
    let pool = pool(64);
    let before = pool.available();
    for drop_copy in [false, true] {
        let mut original = segmented(pool, &[1500]);
        let mut copy = Some(original.share().unwrap());
        if drop_copy {
            copy = None;
        }
        original.trim_front(300).unwrap();
        assert!(original.head().len() >= HEAD_MIN);
        original.head_mut().fill(0);
        assert_eq!(content(&original)[HEAD_MIN..].len(), 1200 - HEAD_MIN);
        if let Some(copy) = copy {
            assert_eq!(content(&copy), bytes(1500), "writing to the original changed its share");
        }
    }
    assert_eq!(pool.available(), before);
}

#[test]
fn a_dry_pool_refuses_and_loses_nothing() {
    let pool = pool(8);
    let before = pool.available();
    let mut frame = segmented(pool, &[600, 700, 800]);
    // Four mbufs are needed for a share: each number below fails at another step.
    let mut held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    for free in 0..4 {
        assert_eq!(pool.available(), free);
        assert!(frame.share().is_none());
        assert_eq!(pool.available(), free, "a failed share leaked");
        assert_eq!(content(&frame), bytes(2100));
        held.pop();
    }
    assert!(frame.share().is_some());
    assert_eq!(frame.append(&bytes(20_000)), Err(NoTailroom));
    assert_eq!(content(&frame), bytes(2100));
    drop((frame, held));
    assert_eq!(pool.available(), before);
}

#[test]
fn a_trim_that_finds_the_pool_dry_changes_nothing() {
    let pool = pool(8);
    let mut frame = segmented(pool, &[1500]);
    let copy = frame.share().unwrap();
    let held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(frame.trim_front(300), Err(TooShort));
    assert_eq!((content(&frame), content(&copy)), (bytes(1500), bytes(1500)));
    drop(held);
    assert_eq!(frame.trim_front(300), Ok(()));
}

#[test]
fn a_short_first_segment_is_filled_up_when_received() {
    let pool = pool(64);
    let before = pool.available();
    let ring = Ring::new(common::eal(), &common::unique("ring"), 7).unwrap();
    for lengths in [&[20, 1000][..], &[14, 30, 40, 2000], &[60], &[20, 30], &[0, 0, 700]] {
        let frame = segmented(pool, lengths);
        let len = frame.len();
        ring.push(frame).unwrap();
        let frame = ring.pop().unwrap();
        assert!(frame.head().len() >= HEAD_MIN.min(len), "{lengths:?}");
        assert_eq!(content(&frame), bytes(len));
    }
    assert_eq!(pool.available(), before);
}

#[test]
fn a_shared_frame_received_again_has_a_head_of_its_own() {
    let pool = pool(64);
    let before = pool.available();
    let ring = Ring::new(common::eal(), &common::unique("ring"), 7).unwrap();
    let mut frame = segmented(pool, &[1500]);
    let copy = frame.share().unwrap();
    ring.push(frame).unwrap();
    let mut frame = ring.pop().unwrap();
    frame.trim_front(100).unwrap();
    frame.head_mut().fill(0);
    assert_eq!(content(&copy), bytes(1500));
    drop((frame, copy));
    assert_eq!(pool.available(), before);
}

#[test]
fn a_ring_frees_what_is_left_in_it() {
    let pool = pool(64);
    let before = pool.available();
    let ring = Ring::new(common::eal(), &common::unique("ring"), 7).unwrap();
    let mut frame = segmented(pool, &[1500, 600]);
    ring.push(frame.share().unwrap()).unwrap();
    ring.push(frame).unwrap();
    assert!(pool.available() < before);
    drop(ring);
    assert_eq!(pool.available(), before);
}

#[test]
fn offload_metadata_moves_with_the_head_and_is_copied_by_a_share() {
    let pool = pool(64);
    let mut frame = segmented(pool, &[1500, 1500]);
    assert_eq!(frame.offload(), Offload::NONE);
    let gso = Some(Gso { kind: GsoKind::TcpV6, size: 1440, ecn: true });
    let at = |start| Offload { csum: Csum::Partial { start, offset: 16 }, gso };
    frame.set_offload(at(54));
    frame.prepend(4).unwrap();
    assert_eq!(frame.offload(), at(58));
    let mut copy = frame.share().unwrap();
    assert_eq!(copy.offload(), at(58));
    copy.trim_front(18).unwrap();
    assert_eq!((copy.offload(), frame.offload()), (at(40), at(58)));
    // Far enough that the head is rebuilt.
    copy.trim_front(30).unwrap();
    frame.trim_front(350).unwrap();
    assert_eq!((copy.offload(), frame.offload().csum), (at(10), Csum::Unknown));
}

#[test]
fn headroom_is_what_it_says() {
    let pool = pool(8);
    let mut frame = pool.frame(&bytes(100)).unwrap();
    assert!(frame.headroom() >= 78, "VXLAN over IPv6 with two tags does not fit");
    assert!(matches!(frame.prepend(frame.headroom() + 1), Err(NoHeadroom)));
    let room = frame.headroom();
    frame.prepend(room).unwrap().fill(1);
    assert_eq!(content(&frame), [vec![1; room], bytes(100)].concat());
}

#[derive(Clone, Debug)]
enum Op {
    Share(usize),
    Drop(usize),
    Prepend(usize, usize),
    Trim(usize, usize),
    Truncate(usize, usize),
    Append(usize, usize),
    Write(usize, usize, u8),
    Chain(usize, usize),
    Resend(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..8usize;
    prop_oneof![
        3 => at.clone().prop_map(Op::Share),
        2 => at.clone().prop_map(Op::Drop),
        3 => (at.clone(), 0..70usize).prop_map(|(i, n)| Op::Prepend(i, n)),
        3 => (at.clone(), 0..400usize).prop_map(|(i, n)| Op::Trim(i, n)),
        1 => (at.clone(), 0..5000usize).prop_map(|(i, n)| Op::Truncate(i, n)),
        1 => (at.clone(), 0..3000usize).prop_map(|(i, n)| Op::Append(i, n)),
        4 => (at.clone(), 0..400usize, any::<u8>()).prop_map(|(i, n, b)| Op::Write(i, n, b)),
        1 => (at.clone(), 0..3000usize).prop_map(|(i, n)| Op::Chain(i, n)),
        1 => at.prop_map(Op::Resend),
    ]
}

fn run(pool: Mempool, ring: &Ring, lengths: &[usize], ops: &[Op]) {
    let first = segmented(pool, lengths);
    let model = content(&first);
    ring.push(first).unwrap();
    let mut frames = vec![(ring.pop().unwrap(), model)];
    for op in ops {
        let count = frames.len();
        let (Op::Share(i)
        | Op::Drop(i)
        | Op::Prepend(i, _)
        | Op::Trim(i, _)
        | Op::Truncate(i, _)
        | Op::Append(i, _)
        | Op::Write(i, ..)
        | Op::Chain(i, _)
        | Op::Resend(i)) = *op;
        let i = i % count;
        let (frame, model) = &mut frames[i];
        match *op {
            Op::Share(_) => {
                let copy = (frame.share().unwrap(), model.clone());
                frames.push(copy);
            }
            Op::Drop(_) if count > 1 => drop(frames.remove(i)),
            Op::Drop(_) => {}
            Op::Prepend(_, n) => match frame.prepend(n) {
                Ok(new) => {
                    new.fill(n as u8);
                    model.splice(..0, std::iter::repeat_n(n as u8, n));
                }
                Err(NoHeadroom) => assert!(n > frame.headroom()),
            },
            Op::Trim(_, n) => match frame.trim_front(n) {
                Ok(()) => drop(model.drain(..n)),
                Err(TooShort) => assert!(n > frame.head().len()),
            },
            Op::Truncate(_, n) => {
                frame.truncate(n);
                model.truncate(n);
            }
            Op::Append(_, n) => {
                frame.append(&bytes(n)).unwrap();
                model.extend(bytes(n));
            }
            Op::Write(_, at, byte) => {
                if let Some(place) = frame.head_mut().get_mut(at) {
                    *place = byte;
                    model[at] = byte;
                }
            }
            Op::Chain(_, n) if frame.head().len() >= HEAD_MIN => {
                frame.chain(pool.frame(&bytes(n)).unwrap());
                model.extend(bytes(n));
            }
            Op::Chain(..) => {}
            Op::Resend(_) => {
                let (frame, model) = frames.remove(i);
                ring.push(frame).unwrap();
                frames.push((ring.pop().unwrap(), model));
            }
        }
        for (frame, model) in &frames {
            assert_eq!(&content(frame), model, "after {op:?}");
            assert!(frame.head().len() >= HEAD_MIN.min(model.len()), "after {op:?}");
            pieces(frame);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is done to a frame and its shares, in any order, no one sees another's writes.
    #[test]
    fn frames_behave_like_vectors(
        lengths in prop::collection::vec(0..2048usize, 1..5),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        static POOL: std::sync::OnceLock<(Mempool, Ring)> = std::sync::OnceLock::new();
        let (pool, ring) = POOL.get_or_init(|| {
            let ring = Ring::new(common::eal(), &common::unique("ring"), 7).unwrap();
            (pool(4096), ring)
        });
        let before = pool.available();
        run(*pool, ring, &lengths, &ops);
        prop_assert_eq!(pool.available(), before);
    }
}
