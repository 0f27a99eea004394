//! The datapath on `net_ring` devices: what the far ends see, and that every mbuf comes back.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{FarEnd, bytes, content, pieces, segmented};
use datapath_dpdk::datapath::PortQueue;
use datapath_dpdk::ethdev::Attach;
use datapath_dpdk::{DpdkBackend, DpdkDatapath, DpdkError, Eal, EalConfig, Mempool, lcore};
use switch_core::batch::Batch;
use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::{Backend, Datapath, OpenPort, Ready, Wait};
use switch_core::drop::DropReason;
use switch_core::frame::{Csum, Frame, HEAD_MIN, Offload};
use switch_core::ids::{PortId, WorkerId};
use switch_core::stats::PortCounters;

/// A backend with its workers, and what its pool had at first.
struct Bench {
    backend: DpdkBackend,
    workers: Vec<DpdkDatapath>,
    pool: Mempool,
    before: u32,
}

impl Bench {
    fn new(workers: u16, mbufs: u32) -> Self {
        let mut backend = DpdkBackend::new(common::eal(), common::pool(mbufs));
        let workers = (0..workers).map(|n| backend.worker(WorkerId(n)).unwrap()).collect();
        let pool = backend.pool();
        Self { backend, workers, pool, before: pool.available() }
    }

    /// A port on rings of that size, attached to all workers.
    fn ring_port(&mut self, index: u16, frames: u32) -> (PortId, FarEnd) {
        let port = PortId::new(index).unwrap();
        let (far, attach) = FarEnd::new(frames);
        let open = self.backend.open_device(port, &attach, None).unwrap();
        assert_eq!((&*open.info.driver, open.info.queues), ("net_ring", 1));
        assert_eq!(open.owner.index(), usize::from(index) % self.workers.len());
        self.attach(port, open);
        (port, far)
    }

    fn attach(&mut self, port: PortId, open: OpenPort<PortQueue>) {
        for (worker, queue) in self.workers.iter_mut().zip(open.queues) {
            assert!(worker.attach(port, queue).is_none());
        }
    }

    fn close(&mut self, port: PortId) {
        let queues = self.workers.iter_mut().map(|w| w.detach(port).unwrap()).collect();
        self.backend.close_port(port, queues, true).unwrap();
    }

    /// Every mbuf is back where it was.
    #[track_caller]
    fn settled(&self) {
        assert_eq!(self.pool.available(), self.before, "mbufs were leaked");
    }

    fn receive(&mut self, worker: usize, port: PortId, counters: &PortCounters) -> Batch<FrameOf> {
        let mut batch = Batch::new();
        self.workers[worker].rx_burst(port, &mut batch, counters);
        batch
    }
}

type FrameOf = <DpdkDatapath as Datapath>::Frame;

fn batch_of(frames: impl IntoIterator<Item = FrameOf>) -> Batch<FrameOf> {
    let mut batch = Batch::with_limit(64);
    frames.into_iter().for_each(|frame| batch.push(frame).unwrap());
    batch
}

#[test]
fn a_three_segment_mbuf_and_a_pushed_share_leave_without_a_copy_of_the_payload() {
    let mut bench = Bench::new(1, 256);
    let (port, far) = bench.ring_port(0, 63);
    let counters = PortCounters::default();
    far.to_switch.push(segmented(bench.pool, &[600, 700, 800])).unwrap();
    let mut original = bench.receive(0, port, &counters).pop().unwrap();
    assert_eq!((original.len(), original.segments()), (2100, 3));
    assert!(original.head().len() >= HEAD_MIN);

    let mut encapsulated = original.share().unwrap();
    encapsulated.prepend(50).unwrap().fill(0xEE);
    let payload = pieces(&original)[1..].to_vec();
    assert_eq!(pieces(&encapsulated)[2..], payload);
    assert_eq!(content(&original), bytes(2100), "a push on the share changed the original");

    let mut batch = batch_of([original, encapsulated]);
    bench.workers[0].tx_burst(port, &mut batch, &counters);
    assert!(batch.is_empty());
    let mut out = far.collect();
    assert_eq!(out.len(), 2);
    assert_eq!(content(&out[0]), bytes(2100));
    assert_eq!(content(&out[1]), [vec![0xEE; 50], bytes(2100)].concat());
    // Not even the way through the driver moved it.
    for frame in &out {
        let pieces = pieces(frame);
        assert_eq!(pieces[pieces.len() - 2..], payload);
    }
    assert_eq!((counters.tx_frames.get(), counters.tx_bytes.get()), (2, 4250));
    out.clear();
    bench.close(port);
    bench.settled();
}

#[test]
fn a_burst_beyond_the_ring_is_tx_full_and_freed() {
    let mut bench = Bench::new(1, 1024);
    let (port, far) = bench.ring_port(0, 15);
    let counters = PortCounters::default();
    let mut original = segmented(bench.pool, &[600, 900]);
    // Shared ones among them: the payload goes when the last of them does.
    let frames: Vec<_> = (0..40).map(|_| original.share().unwrap()).collect();
    bench.workers[0].tx_burst(port, &mut batch_of(frames), &counters);
    assert_eq!((counters.tx_frames.get(), counters.tx_bytes.get()), (15, 15 * 1500));
    assert_eq!(counters.dropped(DropReason::TxFull), 25);
    drop(original);
    assert_eq!(far.collect().iter().map(content).collect::<Vec<_>>(), vec![bytes(1500); 15]);
    bench.settled();
    // Dropped half-way: the batch goes while it still holds frames.
    let mut batch = batch_of((0..32).map(|_| segmented(bench.pool, &[600, 900])));
    drop(batch.drain_front(10).collect::<Vec<_>>());
    drop(batch);
    bench.settled();
    bench.close(port);
}

#[test]
fn a_closed_port_gives_back_what_was_under_way() {
    let mut bench = Bench::new(2, 1024);
    let (port, far) = bench.ring_port(1, 63);
    let counters = PortCounters::default();
    for _ in 0..40 {
        far.to_switch.push(segmented(bench.pool, &[300, 400])).unwrap();
    }
    // Some are in the stash of the poll, some in the hand-over ring, some in the far end's.
    let mut ready = Ready::default();
    bench.workers[1].poll(Wait::No, &mut ready);
    assert_eq!(ready.rx, [port]);
    let frames = (0..20).map(|_| bench.pool.frame(&bytes(60)).unwrap());
    let mut batch = batch_of(frames.collect::<Vec<_>>());
    bench.workers[0].tx_burst(port, &mut batch, &counters);
    let frames = (0..20).map(|_| bench.pool.frame(&bytes(60)).unwrap());
    let mut batch = batch_of(frames.collect::<Vec<_>>());
    bench.workers[1].tx_burst(port, &mut batch, &counters);
    assert!(bench.pool.available() < bench.before);
    bench.close(port);
    drop(far);
    bench.settled();
    // The name is free again.
    let (again, far) = bench.ring_port(1, 63);
    far.to_switch.push(bench.pool.frame(&bytes(60)).unwrap()).unwrap();
    assert_eq!(bench.receive(1, again, &counters).len(), 1);
    bench.close(again);
}

#[test]
fn a_device_is_not_closed_under_a_worker() {
    let mut bench = Bench::new(2, 256);
    let (port, far) = bench.ring_port(0, 63);
    let counters = PortCounters::default();
    let queue = bench.workers[0].detach(port).unwrap();
    // Worker 0 kept its queue: the device must go on until that is gone.
    let error = bench.backend.close_port(port, Vec::new(), true).unwrap_err();
    assert!(error.to_string().contains("still has a queue"), "{error}");
    bench.workers[0].attach(port, queue);
    far.to_switch.push(bench.pool.frame(&bytes(60)).unwrap()).unwrap();
    assert_eq!(bench.receive(0, port, &counters).len(), 1);
    bench.workers[0].detach(port);
    bench.workers[1].detach(port);
    bench.settled();
}

#[test]
fn frames_for_a_port_that_is_gone_are_port_down() {
    let mut bench = Bench::new(1, 256);
    let (port, _far) = bench.ring_port(0, 63);
    bench.close(port);
    let counters = PortCounters::default();
    let mut batch = batch_of([bench.pool.frame(&bytes(60)).unwrap()]);
    bench.workers[0].tx_burst(port, &mut batch, &counters);
    assert!(batch.is_empty());
    assert_eq!(counters.dropped(DropReason::PortDown), 1);
    assert!(bench.receive(0, port, &counters).is_empty());
    bench.settled();
}

#[test]
fn a_received_frame_for_whose_head_no_mbuf_is_left_is_a_named_drop() {
    let mut bench = Bench::new(1, 64);
    let (port, far) = bench.ring_port(0, 63);
    let counters = PortCounters::default();
    let mut frame = segmented(bench.pool, &[1500]);
    // Its buffer is shared, so the switch needs a head of its own for it.
    let copy = frame.share().unwrap();
    far.to_switch.push(frame).unwrap();
    let held: Vec<_> = std::iter::from_fn(|| bench.pool.alloc()).collect();
    assert!(bench.workers[0].alloc().is_none());
    let mut ready = Ready::default();
    bench.workers[0].poll(Wait::No, &mut ready);
    assert_eq!(ready.rx, [port], "what was dropped has to be counted");
    assert!(bench.receive(0, port, &counters).is_empty());
    assert_eq!((counters.rx_frames.get(), counters.rx_bytes.get()), (1, 1500));
    assert_eq!(counters.dropped(DropReason::CopyFailed), 1);
    assert_eq!(content(&copy), bytes(1500));
    drop((held, copy));
    bench.close(port);
    bench.settled();
}

#[test]
fn metadata_stays_on_this_side_of_the_device() {
    let mut bench = Bench::new(1, 64);
    let (port, far) = bench.ring_port(0, 63);
    let counters = PortCounters::default();
    let mut frame = bench.pool.frame(&bytes(1000)).unwrap();
    frame.set_offload(Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: None });
    far.to_switch.push(frame).unwrap();
    let frame = bench.receive(0, port, &counters).pop().unwrap();
    assert_eq!(frame.offload(), Offload::NONE, "the last owner's note was taken for ours");
    drop(frame);
    bench.close(port);
    bench.settled();
}

#[test]
fn a_worker_thread_is_an_lcore_and_leaves_nothing_in_its_cache() {
    let mut bench = Bench::new(1, 1024);
    let (port, far) = bench.ring_port(0, 63);
    let pool = bench.pool;
    assert!(!lcore::is_lcore());
    for round in 0..3 {
        let mut worker = bench.workers.remove(0);
        let worker = std::thread::spawn(move || {
            worker.poll(Wait::No, &mut Ready::default());
            assert!(lcore::is_lcore());
            drop(worker.alloc());
            worker
        });
        bench.workers.push(worker.join().unwrap());
        // All of it can be had by a thread that sees no cache.
        let all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(all.len(), bench.before as usize, "round {round}");
    }
    drop(far);
    bench.close(port);
    bench.settled();
}

#[test]
fn a_wait_ends_with_a_frame_a_wake_or_the_time() {
    let mut bench = Bench::new(1, 256);
    let mut ready = Ready::default();
    // Without a port there is nothing to look at: it sleeps until it is woken.
    let waker = bench.workers[0].waker();
    waker.wake();
    bench.workers[0].poll(Wait::AtMost(Duration::from_secs(3600)), &mut ready);
    bench.workers[0].poll(Wait::AtMost(Duration::from_millis(1)), &mut ready);
    assert!(ready.is_empty());
    let (port, far) = bench.ring_port(0, 63);
    let pool = bench.pool;
    let to_switch = Arc::new(far.to_switch.clone());
    let sender = std::thread::spawn(move || to_switch.push(pool.frame(&bytes(60)).unwrap()));
    bench.workers[0].poll(Wait::AtMost(Duration::from_secs(3600)), &mut ready);
    assert_eq!(ready.rx, [port]);
    sender.join().unwrap().unwrap();
    bench.close(port);
    bench.settled();
}

#[test]
fn devices_open_by_their_devargs_and_errors_name_them() {
    let mut bench = Bench::new(1, 8192);
    let port = PortId::new(0).unwrap();
    let spec = |devargs: &str| {
        let kind = PortKind::Dpdk { devargs: devargs.into() };
        PortSpec::new("p", kind, None)
    };
    let null = format!("net_null{},size=64", std::process::id());
    for _ in 0..2 {
        let open = bench.backend.open_port(port, &spec(&null)).unwrap();
        assert_eq!(open.info.driver, "net_null");
        bench.attach(port, open);
        let counters = PortCounters::default();
        let mut batch = bench.receive(0, port, &counters);
        assert_eq!(batch.len(), 32);
        bench.workers[0].tx_burst(port, &mut batch, &counters);
        assert_eq!(counters.tx_frames.get(), 32);
        bench.close(port);
        bench.settled();
    }
    for devargs in ["net_nosuchdriver0", "", "0000:ff:1f.7", "net_null0,nosuchkey=1", "a\0b"] {
        let error = bench.backend.open_port(port, &spec(devargs)).unwrap_err();
        let text = error.to_string();
        eprintln!("{text}");
        assert!(text.contains(&devargs.escape_debug().to_string()), "{devargs}: {text}");
        assert!(!text.contains("Success"), "{text}");
    }
    // A device that was refused for its arguments opens when they are right.
    let open = bench.backend.open_port(port, &spec("net_null0,size=60")).unwrap();
    bench.attach(port, open);
    bench.close(port);
    bench.settled();
}

#[test]
fn a_second_device_of_the_same_name_is_refused_and_the_first_goes_on() {
    let mut bench = Bench::new(1, 256);
    let (far, attach) = FarEnd::new(63);
    let (one, two) = (PortId::new(0).unwrap(), PortId::new(1).unwrap());
    let open = bench.backend.open_device(one, &attach, None).unwrap();
    bench.attach(one, open);
    let error = bench.backend.open_device(two, &attach, None).unwrap_err();
    let Attach::Rings { name, .. } = &attach else { unreachable!() };
    assert!(error.to_string().contains(name), "{error}");
    far.to_switch.push(bench.pool.frame(&bytes(60)).unwrap()).unwrap();
    assert_eq!(bench.receive(0, one, &PortCounters::default()).len(), 1);
    bench.close(one);
    bench.settled();
}

#[test]
fn the_eal_starts_once_and_leaves_nothing_in_the_file_system() {
    let eal = common::eal();
    assert!(!eal.has_hugepages());
    let error = Eal::init(&EalConfig::default()).unwrap_err();
    assert_eq!(error, DpdkError::AlreadyStarted);
    let prefix = format!("vsw-test-{}", std::process::id());
    for base in ["/var/run/dpdk", "/tmp/dpdk", "/dev/hugepages"] {
        assert!(!std::path::Path::new(base).join(&prefix).exists(), "{prefix} is in {base}");
    }
}
