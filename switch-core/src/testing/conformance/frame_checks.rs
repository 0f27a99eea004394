//! Checks of what a datapath's frames are: [`crate::frame::Frame`] for those that were received.

use super::rig::{bytes_of, probe, same};
use super::{Checked, Fault, FrameOf, Harness, Packet, Rig, require};
use crate::datapath::Datapath;
use crate::frame::{Csum, Frame, GsoKind, HEAD_MIN, Offload};
use crate::testing::frames::{finished, gso, pattern, tcp4, udp4};
use crate::wire::MacAddr;

/// Receives one frame with these bytes on port 0.
fn one<H: Harness>(rig: &mut Rig<H>, bytes: &[u8]) -> Result<FrameOf<H>, Fault> {
    let frame = rig.exchange(0, &[bytes.to_vec()])?.pop();
    frame.ok_or_else(|| Fault::Broken("nothing was received".into()))
}

/// The lengths at which something may change: minima, head and buffer sizes, the largest.
fn lengths<H: Harness>(rig: &Rig<H>) -> Vec<usize> {
    let max = rig.harness.frame_max();
    let mut all: Vec<usize> = (rig.harness.frame_min()..=130).collect();
    for around in [HEAD_MIN, 512, 1024, 1514, 1792, 2048, 4096, 9014, 16_384, 32_768, max] {
        all.extend(around.saturating_sub(2)..=around + 2);
    }
    all.retain(|len| (rig.harness.frame_min()..=max).contains(len));
    all
}

/// The front of the frame is its own, and pieces after it are read in order.
fn contract<F: Frame>(frame: &F) -> Checked {
    let (len, head) = (frame.len(), frame.head().len());
    require!(head >= HEAD_MIN.min(len), "the head of a frame of {len} bytes has {head}");
    let (mut pieces, mut sum, mut first) = (0, 0, 0);
    frame.for_each_segment(&mut |piece| {
        first = if pieces == 0 { piece.len() } else { first };
        pieces += 1;
        sum += piece.len();
    });
    require!(sum == len, "the segments have {sum} bytes, the frame {len}");
    require!(
        pieces == frame.segments() && pieces >= 1,
        "there are {pieces} segments, the frame says {}",
        frame.segments()
    );
    require!(first >= head, "the first segment has {first} bytes, the head {head}");
    Ok(())
}

/// Received and allocated frames have the promised room in front.
pub(super) fn headroom<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let promised = rig.harness.headroom();
    for len in lengths(rig) {
        let mut frame = one(rig, &probe(len as u32, len))?;
        let room = frame.headroom();
        require!(room >= promised, "a frame of {len} bytes has {room} bytes of headroom");
        let pushed = frame.prepend(promised).map(|pushed| pushed.len());
        require!(pushed == Ok(promised), "pushing {promised} bytes gave {pushed:?}");
        let left = frame.headroom();
        require!(left == room - promised, "headroom was {room}, {promised} were pushed, {left}");
        require!(frame.prepend(left + 1).is_err(), "more than the headroom was pushed");
        contract(&frame)?;
    }
    for worker in &mut rig.workers {
        let Some(frame) = worker.alloc() else {
            return Err(Fault::Broken("no frame to be had".into()));
        };
        let room = frame.headroom();
        require!(room >= promised, "an allocated frame has {room} bytes of headroom");
        require!(frame.is_empty(), "an allocated frame has {} bytes", frame.len());
        require!(frame.offload() == Offload::NONE, "an allocated frame has offload metadata");
    }
    Ok(())
}

/// The head is long enough for every length of frame, its bytes are right, and they are written
/// where they are read.
pub(super) fn head_contract<H: Harness>(rig: &mut Rig<H>) -> Checked {
    for len in lengths(rig) {
        let sent = probe(len as u32, len);
        let mut frame = one(rig, &sent)?;
        contract(&frame)?;
        require!(same(&bytes_of(&frame), &sent), "a frame of {len} bytes came in changed");
        let head = frame.head().len();
        frame.head_mut()[head - 1] ^= 0xff;
        frame.head_mut()[0] ^= 0xff;
        let now = bytes_of(&frame);
        let mut expected = sent;
        expected.resize(now.len(), 0);
        expected[head - 1] ^= 0xff;
        expected[0] ^= 0xff;
        require!(now == expected, "writes to the head of {len} bytes went elsewhere");
    }
    Ok(())
}

/// Taking bytes off the front leaves a head that is long enough, and the right bytes.
pub(super) fn trim_keeps_head<H: Harness>(rig: &mut Rig<H>) -> Checked {
    for len in lengths(rig) {
        for step in [4usize, 50, 200] {
            let sent = probe(len as u32, len);
            let mut frame = one(rig, &sent)?;
            let sent = bytes_of(&frame);
            let mut cut = 0;
            while cut + step <= sent.len() {
                if let Err(e) = frame.trim_front(step) {
                    return Err(format!("{step} of {} bytes: {e}", frame.len()).into());
                }
                cut += step;
                contract(&frame)?;
                // Reading all of it each time would take quadratic time.
                if cut < 1000 || sent.len() - cut < 2 * step {
                    require!(bytes_of(&frame) == sent[cut..], "{cut} of {len} cut, wrong bytes");
                }
            }
            let head = frame.head().len();
            require!(frame.trim_front(head + 1).is_err(), "more than the head was cut off");
        }
        let mut frame = one(rig, &probe(len as u32, len))?;
        for to in [len + 60, len, len.div_ceil(2), 14, 0] {
            let before = frame.len();
            frame.truncate(to);
            let now = frame.len();
            require!(now == to.min(before), "{before} bytes truncated to {to} are {now}");
            contract(&frame)?;
        }
    }
    Ok(())
}

/// Bytes that are appended come at the end, and not into what a copy shares.
pub(super) fn append_adds<H: Harness>(rig: &mut Rig<H>) -> Checked {
    for len in lengths(rig) {
        let mut frame = one(rig, &probe(len as u32, len))?;
        let mut expected = bytes_of(&frame);
        let copy = frame.share();
        for more in [1usize, 3, 64] {
            // A frame of the largest size has no room; then it must stay as it is.
            let bytes = pattern(more as u32, more);
            if frame.append(&bytes).is_ok() {
                expected.extend_from_slice(&bytes);
            }
            require!(bytes_of(&frame) == expected, "{len} bytes, {more} more: wrong bytes");
            contract(&frame)?;
        }
        require!(
            len > 1000 || expected.len() >= len + 68,
            "no room for 68 bytes behind a frame of {len}"
        );
        let copy = copy.map(|c| bytes_of(&c)).unwrap_or_default();
        require!(
            copy == expected[..copy.len()] && copy.len() >= len,
            "{len}: appending to the original changed the copy"
        );
        let Some(mut other) = rig.workers.first_mut().and_then(Datapath::alloc) else {
            return Err(Fault::Broken("no frame to be had".into()));
        };
        let (mut at, mut fits) = (0, true);
        frame.for_each_segment(&mut |piece| {
            fits &= other.append_of(&frame, at, piece).is_ok();
            at += piece.len();
        });
        require!(fits, "{len}: the pieces of one frame do not fit another");
        contract(&other)?;
        if let Some(byte) = other.head_mut().first_mut() {
            *byte ^= 0xff;
        }
        require!(bytes_of(&frame) == expected, "{len}: a write to a part is seen in the original");
        drop(frame);
        require!(
            bytes_of(&other)[1..] == expected[1..],
            "{len}: a part of a frame reads otherwise"
        );
    }
    rig.settle()
}

/// What is written into a copy's head is not seen in the original, nor the other way round.
pub(super) fn share_is_separate<H: Harness>(rig: &mut Rig<H>) -> Checked {
    for len in lengths(rig) {
        let mut frame = one(rig, &probe(len as u32, len))?;
        let sent = bytes_of(&frame);
        let Some(mut copy) = frame.share() else {
            return Err(format!("a frame of {len} bytes could not be shared").into());
        };
        require!(bytes_of(&copy) == sent, "the copy of {len} bytes differs");
        contract(&copy)?;
        contract(&frame)?;
        for byte in copy.head_mut() {
            *byte = !*byte;
        }
        require!(bytes_of(&frame) == sent, "{len}: a write to the copy is seen in the original");
        let mut third = copy.share();
        let inverted = bytes_of(&copy);
        if let Some(byte) = frame.head_mut().first_mut() {
            *byte ^= 0x55;
        }
        require!(bytes_of(&copy) == inverted, "{len}: a write to the original is in the copy");
        // The order in which they end does not matter.
        drop(frame);
        require!(bytes_of(&copy) == inverted, "{len}: the copy died with the original");
        drop(copy);
        let last = third.as_mut().map(|t| bytes_of(t));
        require!(last == Some(inverted), "{len}: a copy of the copy died with it");
    }
    rig.settle()
}

/// Headers pushed onto shared copies are each copy's own: what encapsulation needs.
pub(super) fn push_on_shared<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let push = rig.harness.headroom().min(78);
    for len in [60, 400, rig.harness.frame_max()] {
        let mut frame = one(rig, &probe(len as u32, len))?;
        let sent = bytes_of(&frame);
        let mut copies: Vec<FrameOf<H>> = Vec::new();
        for n in 0..3u8 {
            let Some(mut copy) = frame.share() else {
                return Err(format!("copy {n} of {len} bytes could not be made").into());
            };
            match copy.prepend(push) {
                Ok(room) => room.fill(n),
                Err(_) => return Err(format!("a copy has {} headroom", copy.headroom()).into()),
            }
            contract(&copy)?;
            copies.push(copy);
        }
        if let Ok(room) = frame.prepend(4) {
            room.fill(0xee);
        }
        copies.push(frame);
        // Through a port, as far as it lets frames of that length pass.
        for (n, copy) in copies.iter().enumerate() {
            let (front, fill) = if n == 3 { (4, 0xee) } else { (push, n as u8) };
            let bytes = bytes_of(copy);
            require!(bytes[..front].iter().all(|b| *b == fill), "copy {n} has another's header");
            require!(bytes[front..] == sent, "copy {n} of {len} bytes lost its payload");
        }
    }
    rig.settle()
}

/// Frames of several segments arrive and leave as they are.
pub(super) fn segments<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let max = rig.harness.frame_max();
    for len in [max, max - 1, max / 2, 1515.min(max)] {
        for to in [0, 1] {
            let sent = probe(len as u32, len);
            let got = rig.forward(0, to, std::slice::from_ref(&sent))?;
            require!(
                got.len() == 1 && same(&got[0].bytes, &sent),
                "a frame of {len} bytes arrived as {} of {:?}",
                got.len(),
                got.iter().map(|p| p.bytes.len()).collect::<Vec<_>>()
            );
        }
        // And a tag pushed in front of whatever the segments are.
        let sent = probe(len as u32, len - 4);
        let mut frame = one(rig, &sent)?;
        if frame.prepend(4).is_err() {
            return Err(Fault::Broken("no room for a tag".into()));
        }
        let head = frame.head_mut();
        head.copy_within(4..16, 0);
        head[12..16].copy_from_slice(&[0x81, 0, 0, 7]);
        let expected = bytes_of(&frame);
        let owner = rig.ports[0].owner;
        rig.send(0, owner, &mut vec![frame])?;
        let got = rig.collect(0, 1)?;
        require!(same(&got[0].bytes, &expected), "a tag pushed onto {len} bytes came out wrong");
    }
    rig.settle()
}

/// The positions in the metadata move with the front of the frame.
pub(super) fn offload_moves<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let partial = |start| Offload { csum: Csum::Partial { start, offset: 16 }, gso: None };
    let mut frame = one(rig, &probe(1, 200))?;
    frame.set_offload(partial(34));
    require!(frame.offload() == partial(34), "metadata is not kept: {:?}", frame.offload());
    let pushed = frame.prepend(4).map(|_| ());
    require!(pushed.is_ok() && frame.offload() == partial(38), "push: {:?}", frame.offload());
    let copy = frame.share();
    let of_copy = copy.as_ref().map(Frame::offload);
    require!(of_copy == Some(partial(38)), "the copy has {of_copy:?}");
    let cut = frame.trim_front(8);
    require!(cut.is_ok() && frame.offload() == partial(30), "trim: {:?}", frame.offload());
    let of_copy = copy.as_ref().map(Frame::offload);
    require!(of_copy == Some(partial(38)), "trimming changed the copy: {of_copy:?}");
    Ok(())
}

const DST: MacAddr = MacAddr::new([0x06, 0xc7, 0xff, 0xff, 0xff, 0xfe]);
const SRC: MacAddr = MacAddr::new([0x06, 0xc7, 0, 0, 0, 1]);

/// An unfinished checksum is either finished or still marked as unfinished, at both ends.
pub(super) fn offload_round_trip<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let data = pattern(3, 301);
    for packet in [tcp4(DST, SRC, &data), udp4(DST, SRC, &data)] {
        rig.inject(0, &packet)?;
        let mut frames = rig.receive(0, 1, 32)?;
        let got = Packet { bytes: bytes_of(&frames[0]), offload: frames[0].offload() };
        require!(
            finished(&got) == finished(&packet),
            "an unfinished checksum came in as {:?} and is lost",
            got.offload
        );
        if !rig.ports[0].caps.csum && !got.offload.is_finished() {
            continue;
        }
        let owner = rig.ports[0].owner;
        rig.send(0, owner, &mut frames)?;
        let out = rig.collect(0, 1)?;
        require!(
            out.len() == 1 && finished(&out[0]) == finished(&packet),
            "an unfinished checksum left as {:?} and is lost",
            out[0].offload
        );
    }
    rig.settle()
}

/// A super-frame comes in and leaves whole, with its metadata, where the port is able to.
pub(super) fn gso_round_trip<H: Harness>(rig: &mut Rig<H>) -> Checked {
    if !(rig.ports[0].caps.tso4 && rig.ports[0].caps.csum) {
        return Err(Fault::Cannot("the port takes no TCP super-frames"));
    }
    let packet = gso(tcp4(DST, SRC, &pattern(4, 20_000)), GsoKind::TcpV4, 1448);
    rig.inject(0, &packet)?;
    let mut frames = rig.receive(0, 1, 32)?;
    contract(&frames[0])?;
    let got = Packet { bytes: bytes_of(&frames[0]), offload: frames[0].offload() };
    require!(got.bytes == packet.bytes, "a super-frame came in as {} bytes", got.bytes.len());
    require!(got.offload == packet.offload, "a super-frame came in as {:?}", got.offload);
    let owner = rig.ports[0].owner;
    rig.send(0, owner, &mut frames)?;
    let out = rig.collect(0, 1)?;
    require!(
        out.len() == 1 && out[0] == packet,
        "a super-frame left as {} bytes, {:?}",
        out[0].bytes.len(),
        out[0].offload
    );
    rig.settle()
}
