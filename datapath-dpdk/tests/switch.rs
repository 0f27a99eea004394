//! The whole switch on DPDK: a worker bridges between `net_ring` devices.

mod common;

use std::sync::Arc;

use common::{FarEnd, content, pieces};
use crossbeam::channel::{Sender, unbounded};
use datapath_dpdk::datapath::PortQueue;
use datapath_dpdk::{DpdkBackend, DpdkDatapath, Mbuf, Mempool};
use switch_core::clock::Nanos;
use switch_core::config::{PortConf, PortState, PortVlans};
use switch_core::datapath::{Backend, Wait};
use switch_core::fdb::FdbConfig;
use switch_core::frame::Frame;
use switch_core::ids::{BridgeId, PortId, WorkerId};
use switch_core::stats::{PortCounters, PortTotals};
use switch_core::switch::Switch;
use switch_core::testing::frames::{ethernet, mac, pattern, tagged};
use switch_core::wire::MacAddr;
use switch_core::worker::{Command, Worker};

/// A bridge with a worker that is turned by hand.
struct Bench {
    backend: DpdkBackend,
    worker: Worker<DpdkDatapath>,
    commands: Sender<Command<PortQueue>>,
    ports: Vec<(PortId, FarEnd, Arc<PortCounters>)>,
    pool: Mempool,
}

impl Bench {
    fn new(pool: Mempool, vlans: &[PortVlans]) -> Self {
        let mut backend = DpdkBackend::new(common::eal(), pool);
        let switch = Switch::new(FdbConfig { max_total: 1024, max_per_bridge: 1024 });
        let (commands, received) = unbounded();
        let datapath = backend.worker(WorkerId(0)).unwrap();
        let worker =
            Worker::new(WorkerId(0), datapath, Arc::clone(&switch), received, Arc::default());
        let bridge = BridgeId::new(1);
        let mut snapshot = switch.snapshot().next();
        snapshot.set_bridge(bridge, "br0", true);
        let mut ports = Vec::new();
        for (n, vlans) in vlans.iter().enumerate() {
            let id = PortId::new(n as u16).unwrap();
            let (far, attach) = FarEnd::new(63);
            let mut open = backend.open_device(id, &attach, None).unwrap();
            let counters = Arc::new(PortCounters::default());
            let (queue, counts) = (open.queues.remove(0), Arc::clone(&counters));
            let (done, _) = unbounded();
            commands.send(Command::Attach { port: id, queue, counters: counts, done }).unwrap();
            snapshot.set_port(PortConf {
                id,
                name: format!("p{n}").into(),
                bridge: Some(bridge),
                vlans: vlans.clone(),
                isolated: false,
                loop_guard: true,
                storm: None,
                mtu: 9000,
                caps: open.info.caps,
                gro: true,
                up: true,
                opened: n as u64,
                state: Arc::new(PortState::default()),
            });
            ports.push((id, far, counters));
        }
        switch.publish(snapshot);
        Self { backend, worker, commands, ports, pool }
    }

    /// Sends a frame, in segments of 600 bytes, from the far end of port `n` through the switch.
    fn send(&mut self, n: usize, bytes: &[u8]) {
        let mut pieces = bytes.chunks(600);
        let mut frame = self.pool.frame(pieces.next().unwrap()).unwrap();
        pieces.for_each(|piece| frame.chain(self.pool.frame(piece).unwrap()));
        self.ports[n].1.to_switch.push(frame).unwrap();
        while self.worker.turn(Wait::No, || Nanos::from_secs(1)).frames > 0 {}
    }

    fn collect(&self) -> Vec<Vec<Mbuf>> {
        self.ports.iter().map(|(_, far, _)| far.collect()).collect()
    }

    fn close(mut self) {
        let mut sum = PortTotals::default();
        for (port, _, counters) in std::mem::take(&mut self.ports) {
            assert_eq!(counters.totals().imbalance_in(), 0);
            assert_eq!(counters.totals().imbalance_out(), 0);
            sum.add(&counters.totals());
            let (done, queue) = unbounded();
            self.commands.send(Command::Detach { port, done }).unwrap();
            self.worker.turn(Wait::No, || Nanos::from_secs(1));
            let queue = queue.recv().unwrap().unwrap();
            self.backend.close_port(port, vec![queue], true).unwrap();
        }
        assert_eq!(sum.rx_frames + sum.copied, sum.tx_frames + sum.dropped());
    }
}

#[test]
fn a_flood_shares_the_payload_and_an_answer_goes_one_way() {
    let pool = common::pool(1024);
    let before = pool.available();
    let trunk = PortVlans::trunk([10], None);
    let access = PortVlans::access(10);
    let mut bench = Bench::new(pool, &[access.clone(), access.clone(), trunk, access]);

    let broadcast = ethernet(MacAddr::BROADCAST, mac(1), 0x88b5, &pattern(1, 2000));
    bench.send(0, &broadcast);
    let out = bench.collect();
    assert_eq!(out.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 1, 1]);
    assert_eq!(content(&out[1][0]), broadcast);
    assert_eq!(content(&out[2][0]), tagged(&broadcast, 0x8100, 10), "the trunk wants a tag");
    assert_eq!(content(&out[3][0]), broadcast);
    // Heads differ, by address and for the trunk by content; the rest is there once.
    let last = |frame: &Mbuf| *pieces(frame).last().unwrap();
    assert_eq!(last(&out[1][0]), last(&out[2][0]));
    assert_eq!(last(&out[1][0]), last(&out[3][0]));
    assert_ne!(out[1][0].head().as_ptr(), out[3][0].head().as_ptr());
    drop(out);

    let answer = tagged(&ethernet(mac(1), mac(2), 0x88b5, &pattern(2, 3000)), 0x8100, 10);
    bench.send(2, &answer);
    let out = bench.collect();
    assert_eq!(out.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 0, 0]);
    assert_eq!(content(&out[0][0]), ethernet(mac(1), mac(2), 0x88b5, &pattern(2, 3000)));
    drop(out);
    bench.close();
    assert_eq!(pool.available(), before);
}

#[test]
fn a_flood_that_finds_the_pool_dry_is_counted_and_leaks_nothing() {
    let pool = common::pool(64);
    let before = pool.available();
    let port = PortVlans::transparent();
    let mut bench = Bench::new(pool, &[port.clone(), port.clone(), port.clone(), port]);
    let held: Vec<_> = (0..58).map(|_| pool.alloc().unwrap()).collect();
    // Four mbufs for the frame: not enough are left to share it.
    let broadcast = ethernet(MacAddr::BROADCAST, mac(1), 0x88b5, &pattern(1, 2000));
    bench.send(0, &broadcast);
    let counters = bench.ports[0].2.totals();
    assert!(counters.dropped() > 0, "{counters:?}");
    let out = bench.collect();
    assert!(out.iter().flatten().all(|frame| content(frame) == broadcast));
    assert_eq!(out.iter().flatten().count() as u64 + counters.dropped(), 3);
    drop((held, out));
    bench.close();
    assert_eq!(pool.available(), before);
}
