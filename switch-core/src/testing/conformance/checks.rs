//! Checks of what a datapath does with frames and ports.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::rig::{bytes_of, probe, same, seq_of};
use super::{Checked, Fault, Harness, Packet, Rig, require};
use crate::batch::Batch;
use crate::datapath::{Datapath, Ready, Wait};
use crate::drop::DropReason;
use crate::frame::MAX_FRAME;

fn probes(range: std::ops::Range<u32>, len: usize) -> Vec<Vec<u8>> {
    range.map(|seq| probe(seq, len)).collect()
}

fn seqs(packets: &[Packet]) -> Vec<u32> {
    packets.iter().filter_map(|p| seq_of(&p.bytes)).collect()
}

/// After `tx_burst` the batch is empty and the frames are the backend's.
pub(super) fn ownership_after_tx<H: Harness>(rig: &mut Rig<H>) -> Checked {
    for size in [1u32, 2, 31, 32] {
        let mut frames = rig.exchange(0, &probes(0..size, 100))?;
        rig.send(1, rig.ports[0].owner, &mut frames)?;
        rig.handover_if_needed(rig.ports[0].owner, 1, size as usize);
        rig.collect(1, size as usize)?;
    }
    rig.settle()
}

/// A receive takes no more than the batch has room for, and what it does not take is not lost.
pub(super) fn burst_limits<H: Harness>(rig: &mut Rig<H>) -> Checked {
    for limit in [1usize, 2, 32, 64] {
        let sent = probes(0..150, 64);
        for probe in &sent {
            rig.inject(0, &probe.clone().into())?;
        }
        let mut got = Vec::new();
        let mut fault = None;
        let all = rig.wait(|rig| {
            match rig.rx_once(0, limit) {
                Ok(frames) if frames.len() > limit => {
                    fault = Some(format!("{} frames in a burst of {limit}", frames.len()));
                }
                Ok(frames) => got.extend(frames.iter().map(bytes_of)),
                Err(e) => fault = Some(format!("{e:?}")),
            }
            // As long as frames come there is nothing to wait for.
            fault.is_some() || got.len() >= sent.len()
        });
        if let Some(fault) = fault {
            return Err(Fault::Broken(fault));
        }
        require!(all, "bursts of {limit}: {} of {} frames were received", got.len(), sent.len());
        require!(
            got.iter().zip(&sent).all(|(g, s)| same(g, s)),
            "bursts of {limit}: the frames received are not those that were sent"
        );
    }
    // A batch that holds frames already is filled up, not overfilled and not emptied.
    let mut batch = Batch::with_limit(8);
    for frame in rig.exchange(0, &probes(0..5, 64))? {
        let _ = batch.push(frame);
    }
    for probe in probes(5..20, 64) {
        rig.inject(0, &probe.into())?;
    }
    let (owner, id) = (rig.ports[0].owner, rig.ports[0].id);
    rig.wait(|rig| {
        let counters = &rig.ports[0].counters[owner];
        let got = rig.workers[owner].rx_burst(id, &mut batch, counters);
        rig.ports[0].returned += got as u64;
        batch.is_full()
    });
    require!(batch.len() == 8, "a batch of 8 that held 5 frames holds {} now", batch.len());
    let first = batch.as_slice().first().map(bytes_of).unwrap_or_default();
    require!(seq_of(&first) == Some(0), "the first frame of a batch was replaced");
    batch.clear();
    rig.receive(0, 12, 32)?;
    Ok(())
}

/// No buffer is lost, whichever way a frame ends.
pub(super) fn no_leak<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let max = rig.harness.frame_max();
    for round in 0..8u32 {
        for len in [rig.harness.frame_min(), 60, 300, max] {
            let frames = rig.exchange(0, &probes(round * 8..round * 8 + 8, len))?;
            // Half is sent, half is dropped by the switch.
            let mut half: Vec<_> = frames.into_iter().step_by(2).collect();
            let sent = half.len();
            rig.send(1, rig.ports[0].owner, &mut half)?;
            rig.handover_if_needed(rig.ports[0].owner, 1, sent);
            rig.collect(1, sent)?;
        }
    }
    for worker in &mut rig.workers {
        let held: Vec<_> = (0..16).filter_map(|_| worker.alloc()).collect();
        require!(held.len() == 16, "16 frames were asked for, {} came", held.len());
    }
    rig.settle()
}

/// Every frame and byte is counted once, on its port.
pub(super) fn accounting<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let max = rig.harness.frame_max();
    let from = 0;
    // Out of a queue of its own, and out of one that it has to hand over to.
    for to in [0, 1] {
        let (rx, tx) = (rig.totals(from), rig.totals(to));
        let (mut bytes_in, mut bytes_out) = (0, 0);
        for (i, len) in [60, 61, 128, 1000, max].into_iter().enumerate() {
            let first = i as u32 * 10;
            let frames = rig.exchange(from, &probes(first..first + 10, len))?;
            bytes_in += 10 * len as u64;
            let mut to_send: Vec<_> = frames.into_iter().take(7).collect();
            bytes_out += 7 * len as u64;
            let worker = rig.ports[from].owner;
            rig.send(to, worker, &mut to_send)?;
            rig.handover_if_needed(worker, to, 7);
            rig.collect(to, 7)?;
        }
        let now = rig.totals(from);
        let (frames, bytes) = (now.rx_frames - rx.rx_frames, now.rx_bytes - rx.rx_bytes);
        // Frames of others may have come in besides.
        require!(
            frames >= 50 && bytes >= bytes_in && (frames > 50 || bytes == bytes_in),
            "50 frames of {bytes_in} bytes came; counted are {frames} of {bytes}"
        );
        let now = rig.totals(to);
        let (frames, bytes) = (now.tx_frames - tx.tx_frames, now.tx_bytes - tx.tx_bytes);
        require!(
            (frames, bytes) == (35, bytes_out),
            "35 frames of {bytes_out} bytes left; counted are {frames} of {bytes}"
        );
    }
    rig.settle()
}

/// Frames of one port leave and arrive in the order in which they were given.
pub(super) fn order<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let mut expected = Vec::new();
    for round in 0..6u32 {
        let range = round * 40..round * 40 + 40;
        let mut frames = rig.exchange(0, &probes(range.clone(), 80))?;
        let got: Vec<_> =
            frames.iter().filter_map(|f| seq_of(crate::frame::Frame::head(f))).collect();
        require!(got.iter().copied().eq(range.clone()), "received out of order: {got:?}");
        rig.send(0, rig.ports[0].owner, &mut frames)?;
        expected.extend(range);
    }
    let got = seqs(&rig.collect(0, expected.len())?);
    require!(got == expected, "sent out of order: {got:?}");
    Ok(())
}

/// A port from which not everything was taken is reported again, without anything new arriving.
pub(super) fn half_drained<H: Harness>(rig: &mut Rig<H>) -> Checked {
    for probe in probes(0..20, 64) {
        rig.inject(0, &probe.into())?;
    }
    let mut got = 0;
    for burst in 0..20 {
        let mut fault = None;
        let came = rig.wait(|rig| {
            if rig.reported(0, Wait::No) {
                match rig.rx_once(0, 1) {
                    Ok(frames) => got += frames.len(),
                    Err(e) => fault = Some(e),
                }
            }
            fault.is_some() || got > burst
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        require!(came, "after {got} of 20 frames the port is not reported any more");
    }
    // Nor is a drained one reported for ever: the worker would never sleep.
    let quiet = rig.wait(|rig| {
        let reported = rig.reported(0, Wait::No);
        if reported {
            let _ = rig.rx_once(0, 32);
        }
        !reported
    });
    require!(quiet, "a drained port is still reported");
    Ok(())
}

/// Lets worker 0 poll on a thread of its own, for longer than anyone is patient, and returns
/// whether `end` ended that. Returns before `end` do not count: a wait may end early.
fn wait_ended_by<H: Harness>(rig: &mut Rig<H>, end: impl FnOnce(&mut H)) -> bool {
    let patience = rig.harness.patience();
    let (worker, harness) = (&mut rig.workers[0], &mut rig.harness);
    let about_to_end = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (done, ended) = mpsc::channel();
        scope.spawn(move || {
            loop {
                worker.poll(Wait::AtMost(patience * 3), &mut Ready::default());
                if about_to_end.load(Ordering::Acquire) {
                    break;
                }
            }
            let _ = done.send(());
        });
        // Most likely it waits by now; if not, the wake must be remembered.
        std::thread::sleep(Duration::from_millis(20));
        about_to_end.store(true, Ordering::Release);
        end(harness);
        ended.recv_timeout(patience).is_ok()
    })
}

/// Whether worker 0's next wait ends at once.
fn returns_at_once<H: Harness>(rig: &mut Rig<H>) -> bool {
    let patience = rig.harness.patience();
    let start = Instant::now();
    rig.workers[0].poll(Wait::AtMost(patience), &mut Ready::default());
    start.elapsed() < patience
}

/// The waker ends a wait, also one that begins only afterwards.
pub(super) fn waker_ends_wait<H: Harness>(rig: &mut Rig<H>) -> Checked {
    for n in 0..super::PORTS {
        rig.wait(|rig| !rig.reported(n, Wait::No) || rig.rx_once(n, 64).is_err());
    }
    let waker = rig.workers[0].waker();
    for _ in 0..3 {
        require!(wait_ended_by(rig, |_| waker.wake()), "the waker did not end a wait");
    }
    waker.wake();
    require!(returns_at_once(rig), "a wake before the wait was forgotten");
    Ok(())
}

/// An arriving frame ends a wait, and so does one that another worker hands over.
pub(super) fn arrival_ends_wait<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let Some(n) = (0..super::PORTS).find(|n| rig.ports[*n].owner == 0) else {
        return Err(Fault::Cannot("worker 0 owns no port"));
    };
    for round in 0..3 {
        rig.wait(|rig| !rig.reported(n, Wait::No) || rig.rx_once(n, 64).is_err());
        let packet = Packet::from(probe(round, 100));
        let woken = wait_ended_by(rig, |harness| {
            harness.inject(n, &packet);
        });
        require!(woken, "a frame arrived on port {n}, and the wait went on");
        rig.receive(n, 1, 32)?;
    }
    Ok(())
}

/// A queue whose reader stopped drops by name at once, and nothing else suffers.
pub(super) fn tx_full<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let Some(capacity) = rig.harness.tx_capacity() else {
        return Err(Fault::Cannot("no number of frames fills a queue for certain"));
    };
    let owner = rig.ports[0].owner;
    let patience = rig.harness.patience();
    let mut sent = 0;
    while sent < capacity + 64 {
        let mut batch = Batch::new();
        while let Some(mut frame) = (!batch.is_full()).then(|| rig.workers[owner].alloc()).flatten()
        {
            if let Ok(room) = crate::frame::Frame::prepend(&mut frame, 60) {
                room.copy_from_slice(&probe(sent as u32, 60));
            }
            let _ = batch.push(frame);
            sent += 1;
        }
        require!(!batch.is_empty(), "no frame to send after {sent}: the full queue holds them all");
        rig.ports[0].offered += batch.len() as u64;
        // On a thread, so that a call that blocks is found out.
        let (worker, port) = (&mut rig.workers[owner], &rig.ports[0]);
        let in_time = std::thread::scope(|scope| {
            let (done, ended) = mpsc::channel();
            scope.spawn(move || {
                worker.tx_burst(port.id, &mut batch, &port.counters[owner]);
                let _ = done.send(());
            });
            ended.recv_timeout(patience).is_ok()
        });
        require!(in_time, "tx_burst blocks when the queue is full");
    }
    let totals = rig.totals(0);
    require!(
        totals.dropped_for(DropReason::TxFull) > 0,
        "{sent} frames were sent to a reader that stopped, and no tx-full was counted"
    );
    // The other ports of the same worker, and the other worker's, go on.
    for (from, to) in [(2, 2), (1, 1), (1, 2), (2, 1)] {
        let got = rig.forward(from, to, &probes(0..32, 64))?;
        require!(seqs(&got).into_iter().eq(0..32), "port {to} suffers from a full port 0");
    }
    let lost = rig.totals(1).dropped() + rig.totals(2).dropped();
    require!(lost == 0, "{lost} frames of other ports were dropped");
    // Once the reader is back, frames pass again.
    rig.wait(|rig| rig.harness.collect(0).is_empty());
    let got = rig.forward(1, 0, &probes(5000..5010, 64))?;
    require!(seqs(&got).contains(&5009), "nothing passes after the reader came back");
    rig.settle()
}

/// What no frame can be made of is dropped by name, and what comes after it is received.
pub(super) fn runt_and_giant<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let runt = probe(0, 14)[..13].to_vec();
    let runts = [vec![], runt[..1].to_vec(), runt].map(|r| rig.harness.inject(0, &r.into()));
    let runts = runts.into_iter().filter(|sent| *sent).count() as u64;
    let giant = rig.harness.inject(0, &probe(0, MAX_FRAME + 1).into());
    let frames = rig.exchange(0, &[probe(9, 100)])?;
    require!(
        frames.len() == 1 && same(&bytes_of(&frames[0]), &probe(9, 100)),
        "after a runt, something else was received than what was sent"
    );
    let totals = rig.totals(0);
    let (got, giants) =
        (totals.dropped_for(DropReason::Runt), totals.dropped_for(DropReason::Giant));
    require!(got == runts, "{runts} runts came, {got} were counted");
    require!(giants == u64::from(giant), "{} giants came, {giants} were counted", u64::from(giant));
    drop(frames);
    rig.settle()
}

/// `detach` gives the queue back, and then the worker has no more to do with the port.
pub(super) fn detached_is_silent<H: Harness>(rig: &mut Rig<H>) -> Checked {
    rig.forward(0, 0, &probes(0..10, 64))?;
    rig.inject(0, &probe(10, 64).into())?;
    rig.wait(|rig| rig.reported(0, Wait::No));
    let (owner, id) = (rig.ports[0].owner, rig.ports[0].id);
    let queue = rig.workers[owner].detach(id);
    let Some(queue) = queue else { return Err(Fault::Broken("no queue came back".into())) };
    require!(rig.workers[owner].detach(id).is_none(), "a queue came back twice");
    for _ in 0..5 {
        rig.harness.inject(0, &probe(11, 64).into());
        require!(!rig.reported(0, Wait::No), "a detached port is reported");
        let frames = rig.rx_once(0, 32)?;
        require!(frames.is_empty(), "{} frames came from a detached port", frames.len());
    }
    // A frame for it that was decided a moment before is a named drop, not a panic.
    let mut frames = rig.exchange(1, &probes(20..23, 64))?;
    rig.send(0, owner, &mut frames)?;
    let down = rig.totals(0).dropped_for(DropReason::PortDown);
    require!(down == 3, "3 frames went to a detached port, {down} are port-down");
    // The others never noticed, and the port works again when it is back.
    rig.forward(1, 2, &probes(30..40, 64))?;
    require!(rig.workers[owner].attach(id, queue).is_none(), "a detached port was still attached");
    let got = rig.forward(0, 0, &probes(50..51, 64));
    // Those that came meanwhile may come first.
    require!(got.is_ok(), "the port does not come back: {got:?}");
    Ok(())
}

/// A port with one queue takes frames from both workers, each worker's in their order.
pub(super) fn handover<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let Some(to) = (0..super::PORTS).find(|n| rig.ports[*n].owner == 0) else {
        return Err(Fault::Cannot("worker 0 owns no port"));
    };
    if !rig.ports[to].single_queue {
        return Err(Fault::Cannot("the port has a queue for each worker"));
    }
    let mut next = [0u32, 100_000];
    for _ in 0..10 {
        for worker in [0usize, 1] {
            let mut frames = Vec::new();
            for _ in 0..20 {
                let Some(mut frame) = rig.workers[worker].alloc() else {
                    return Err(Fault::Broken("no frame to send".into()));
                };
                if let Ok(room) = crate::frame::Frame::prepend(&mut frame, 64) {
                    room.copy_from_slice(&probe(next[worker], 64));
                }
                next[worker] += 1;
                frames.push(frame);
            }
            rig.send(to, worker, &mut frames)?;
        }
        rig.run_handover(to);
    }
    rig.handover_if_needed(1, to, 10);
    let got = seqs(&rig.collect(to, 400)?);
    for (worker, range) in [(0, 0..200), (1, 100_000..100_200)] {
        let of_worker: Vec<_> = got.iter().copied().filter(|s| range.contains(s)).collect();
        require!(
            of_worker.iter().copied().eq(range),
            "frames of worker {worker} were lost or changed places: {of_worker:?}"
        );
    }
    rig.settle()
}

/// A full hand-over ring drops by name, on the side of the sender, and loses nothing else.
pub(super) fn handover_full<H: Harness>(rig: &mut Rig<H>) -> Checked {
    let Some(to) = (0..super::PORTS).find(|n| rig.ports[*n].owner == 0) else {
        return Err(Fault::Cannot("worker 0 owns no port"));
    };
    if !rig.ports[to].single_queue {
        return Err(Fault::Cannot("the port has a queue for each worker"));
    }
    let capacity = rig.harness.handover_capacity();
    let mut offered = 0;
    while offered < capacity + 100 {
        let mut batch = Batch::new();
        while let Some(mut frame) = (!batch.is_full()).then(|| rig.workers[1].alloc()).flatten() {
            if let Ok(room) = crate::frame::Frame::prepend(&mut frame, 60) {
                room.copy_from_slice(&probe(offered as u32, 60));
            }
            let _ = batch.push(frame);
            offered += 1;
        }
        require!(!batch.is_empty(), "no frame to send after {offered}");
        rig.send_batch(to, 1, &mut batch)?;
    }
    let dropped = rig.ports[to].counters[1].dropped(DropReason::HandoverFull);
    require!(
        dropped == (offered - capacity) as u64,
        "{offered} frames for a ring of {capacity}: {dropped} are handover-full"
    );
    // Taken by the far end as they come, so that its own limit does not matter.
    let mut got = 0;
    let all = rig.wait(|rig| {
        rig.run_handover(to);
        got += seqs(&rig.harness.collect(to)).len();
        got >= capacity || rig.totals(to).dropped_for(DropReason::TxFull) > 0
    });
    require!(all, "{got} of {capacity} frames that were handed over arrived");
    rig.wait(|rig| {
        rig.run_handover(to);
        rig.settle().is_ok()
    });
    rig.settle()
}
