//! Ports that come, go and move between workers.

mod common;

use common::*;
use datapath_tap::testing::RawSocket;
use datapath_tap::{TapBackend, TapDatapath, TapOptions};
use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::{Backend, Datapath, Ready, Wait};
use switch_core::frame::Frame;
use switch_core::stats::PortCounters;
use switch_core::{Batch, WorkerId};

/// Sends numbered frames of a port from a worker.
fn transmit(worker: &mut TapDatapath, counters: &PortCounters, seeds: std::ops::Range<u8>) {
    let mut batch = Batch::new();
    for seed in seeds {
        let mut made = worker.alloc().unwrap();
        assert!(made.fill(&frame(100, &[], seed)));
        batch.push(made).unwrap();
    }
    worker.tx_burst(port(1), &mut batch, counters);
}

/// What a worker does in a turn: sends what was handed over, and receives. The last byte of each frame.
fn turn(worker: &mut TapDatapath, counters: &PortCounters) -> Vec<u8> {
    let mut ready = Ready::default();
    worker.poll(Wait::No, &mut ready);
    for port in ready.handed_over {
        worker.tx_handed_over(port, counters);
    }
    let mut got = Vec::new();
    for port in ready.rx {
        let mut batch = Batch::new();
        worker.rx_burst(port, &mut batch, counters);
        let frames = batch.drain().filter(|frame| ours(frame.head()));
        got.extend(frames.map(|frame| *bytes(&frame).last().unwrap()));
    }
    got
}

/// Last bytes of the frames made of these seeds.
fn lasts(seeds: std::ops::Range<u8>) -> Vec<u8> {
    seeds.map(|seed| *frame(100, &[], seed).last().unwrap()).collect()
}

#[test]
fn a_port_moves_to_another_worker_without_losing_a_frame() {
    if !can_run() {
        return;
    }
    let (space, veth) = (Space::new(), Veth::new());
    let kinds = [one_queue(tap_spec("t0", Some(&space))), netdev_spec(&veth.near.0)];
    for spec in kinds {
        let mut backend = TapBackend::new(TapOptions::default());
        let mut workers = [0, 1].map(|worker| backend.worker(WorkerId(worker)).unwrap());
        let opened = backend.open_port(port(1), &spec).unwrap();
        assert_eq!(opened.owner, WorkerId(0));
        for (worker, queue) in workers.iter_mut().zip(opened.queues) {
            worker.attach(port(1), queue);
        }
        let far = match &spec.kind {
            PortKind::Tap { .. } => RawSocket::open(Some(&space.name), "t0").unwrap(),
            _ => veth.far(),
        };
        let counters = PortCounters::default();
        let [a, b] = &mut workers;
        assert!(backend.begin_move(port(1), WorkerId(0)).is_none(), "it is there");

        far.send(&frame(100, &[], 0)).unwrap();
        let mut got = Vec::new();
        eventually("it is received", || {
            got.extend(turn(a, &counters));
            !got.is_empty()
        });
        // What was handed over before, meanwhile and afterwards goes out in this order.
        transmit(b, &counters, 0..20);
        let queues = backend.begin_move(port(1), WorkerId(1)).unwrap();
        let mut earlier = Vec::new();
        for (worker, queue) in [&mut *a, &mut *b].into_iter().zip(queues) {
            earlier.extend(worker.attach(port(1), queue));
        }
        far.send(&frame(100, &[], 1)).unwrap();
        transmit(a, &counters, 20..30);
        transmit(b, &counters, 30..40);
        assert_eq!((turn(a, &counters), turn(b, &counters)), (vec![], vec![]), "nobody has it");
        let queue = backend.finish_move(port(1), earlier).unwrap();
        b.attach(port(1), queue);
        transmit(b, &counters, 40..50);
        transmit(a, &counters, 50..60);
        far.send(&frame(100, &[], 2)).unwrap();
        eventually("all are received", || {
            got.extend(turn(b, &counters));
            got.len() >= 3
        });
        assert_eq!(turn(a, &counters), []);
        assert_eq!(got, lasts(0..3));
        let sent: Vec<u8> = (0..60).map(|_| *far.recv(PATIENCE).unwrap().last().unwrap()).collect();
        assert_eq!(sent, lasts(0..60));
        assert_eq!((counters.tx_frames.get(), counters.totals().dropped()), (60, 0));

        let queues = [a, b].into_iter().filter_map(|worker| worker.detach(port(1))).collect();
        backend.close_port(port(1), queues, true).unwrap();
        assert_eq!(backend.frames_in_use(), 0);
    }
}

/// Files that this thread has open.
fn open_files() -> usize {
    std::fs::read_dir("/proc/thread-self/fd").unwrap().count()
}

#[test]
fn ports_that_come_and_go_leave_no_file_and_no_frame() {
    if !can_run() {
        return;
    }
    // A table of files of its own: other tests open files meanwhile.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
    let full = std::env::var_os("VSWITCH_TEST_FULL").is_some_and(|value| value == "1");
    let cycles = if full { 10_000 } else { 200 };
    let (space, veth) = (Space::new(), Veth::new());
    let far = veth.far();
    let mut rig = Rig::new(TapOptions::default());
    let mut before = None;
    for cycle in 0..cycles {
        let persist = cycle % 2 == 0;
        let tap = PortSpec { kind: kept(&space, persist), ..tap_spec("t0", Some(&space)) };
        rig.open(1, &tap).unwrap();
        rig.open(2, &netdev_spec(&veth.near.0)).unwrap();
        // With frames under way in both directions.
        far.send(&frame(100, &[], 1)).unwrap();
        rig.send(1, &frame(100, &[], 2));
        rig.send(2, &frame(1500, &[], 3));
        turn(&mut rig.worker, &rig.counters[1]);
        rig.close(1, cycle % 4 < 2).unwrap();
        rig.close(2, true).unwrap();
        assert_eq!(rig.backend.frames_in_use(), 0, "after {cycle} cycles");
        let files = open_files();
        assert_eq!(files, *before.get_or_insert(files), "after {cycle} cycles");
    }
}

fn kept(space: &Space, persist: bool) -> PortKind {
    PortKind::Tap { device: "t0".into(), netns: Some(space.netns()), persist, queues: None }
}
