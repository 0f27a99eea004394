//! A worker without frames sleeps, and a frame ends its sleep. How soon and at what cost is printed:
//! `cargo test -p datapath-dpdk --test idle -- --nocapture`.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::FarEnd;
use crossbeam::channel::bounded;
use datapath_dpdk::DpdkBackend;
use nix::time::{ClockId, clock_gettime};
use switch_core::batch::Batch;
use switch_core::datapath::{Backend, Datapath, Ready, Wait};
use switch_core::ids::{PortId, WorkerId};
use switch_core::stats::PortCounters;

/// Frames sent to a sleeping worker.
const FRAMES: usize = 500;
/// How long the cost of doing nothing is looked at.
const IDLE: Duration = Duration::from_secs(1);

#[test]
fn a_frame_ends_the_sleep_of_an_idle_worker() {
    let pool = common::pool(1024);
    let mut backend = DpdkBackend::new(common::eal(), pool);
    let mut datapath = backend.worker(WorkerId(0)).unwrap();
    let port = PortId::new(0).unwrap();
    let (far, attach) = FarEnd::new(63);
    let mut open = backend.open_device(port, &attach, None).unwrap();
    assert!(datapath.attach(port, open.queues.remove(0)).is_none());

    let (seen, arrivals) = bounded(1);
    let stop = Arc::new(AtomicBool::new(false));
    let (waker, ending) = (datapath.waker(), Arc::clone(&stop));
    let worker = std::thread::spawn(move || {
        let (mut ready, mut batch) = (Ready::default(), Batch::new());
        let counters = PortCounters::default();
        // Once without a wait: what a thread does once is not part of the measure.
        datapath.poll(Wait::No, &mut ready);
        let (start, cpu) = (Instant::now(), thread_cpu());
        ready.clear();
        datapath.poll(Wait::AtMost(IDLE), &mut ready);
        assert!(ready.is_empty(), "nothing was sent");
        let share = (thread_cpu() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
        seen.send(None).unwrap();
        while !ending.load(Ordering::Relaxed) {
            ready.clear();
            datapath.poll(Wait::AtMost(Duration::from_secs(1)), &mut ready);
            let now = Instant::now();
            if ready.rx.contains(&port) {
                datapath.rx_burst(port, &mut batch, &counters);
                assert_eq!(batch.len(), 1, "one frame at a time is sent");
                batch.clear();
                seen.send(Some(now)).unwrap();
            }
        }
        (share, datapath.detach(port).unwrap(), counters.rx_frames.get())
    });
    assert_eq!(arrivals.recv().unwrap(), None);
    let mut waits: Vec<Duration> = (0..FRAMES)
        .map(|n| {
            // Asleep, and at another moment of its nap each time.
            std::thread::sleep(Duration::from_micros(200 + n as u64 * 7 % 61));
            let sent = Instant::now();
            far.to_switch.push(pool.frame(&common::bytes(60)).unwrap()).unwrap();
            arrivals.recv().unwrap().expect("a frame").duration_since(sent)
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    waker.wake();
    let (share, queue, received) = worker.join().unwrap();
    assert_eq!(received, FRAMES as u64);
    backend.close_port(port, vec![queue], true).unwrap();
    waits.sort();
    println!(
        "an idle worker wakes after {:?} (median), {:?} (99 of 100), {:?} (longest), and takes \
         {:.0} % of a CPU meanwhile",
        waits[FRAMES / 2],
        waits[FRAMES * 99 / 100],
        waits[FRAMES - 1],
        share * 100.0
    );
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}
