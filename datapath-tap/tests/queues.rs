//! TAPs with several queues.

mod common;

use std::collections::BTreeSet;

use common::*;
use datapath_tap::testing::RawSocket;
use datapath_tap::{TapBackend, TapDatapath, TapOptions, TapQueue};
use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::{Backend, Datapath, PortInfo, Ready, Wait};
use switch_core::frame::Frame;
use switch_core::stats::PortCounters;
use switch_core::testing::frames::{mac, pattern, udp4};
use switch_core::{Batch, WorkerId};

const FLOWS: u16 = 32;
/// Where the first flow comes from; the others follow.
const FIRST_PORT: u16 = 20_000;

/// A datagram of that flow, as the host sends it, or of the other direction.
fn datagram(flow: u16, back: bool) -> Vec<u8> {
    let mut bytes = udp4(mac(2), mac(1), &pattern(flow.into(), 40)).bytes;
    bytes[34..36].copy_from_slice(&(FIRST_PORT + flow).to_be_bytes());
    if back {
        bytes[26..34].rotate_left(4);
        bytes[34..38].rotate_left(2);
    }
    bytes
}

/// Two workers and a TAP.
struct Two {
    backend: TapBackend,
    workers: [TapDatapath; 2],
    counters: [PortCounters; 2],
}

impl Two {
    fn new() -> Self {
        let mut backend = TapBackend::new(TapOptions::default());
        let workers = [0, 1].map(|n| backend.worker(WorkerId(n)).unwrap());
        Self { backend, workers, counters: Default::default() }
    }

    fn open(&mut self, spec: &PortSpec) -> PortInfo {
        let opened = self.backend.open_port(port(1), spec).unwrap();
        for (worker, queue) in self.workers.iter_mut().zip(opened.queues) {
            assert!(worker.attach(port(1), queue).is_none());
        }
        opened.info
    }

    fn close(&mut self, remove: bool) {
        let queues: Vec<TapQueue> =
            self.workers.iter_mut().filter_map(|worker| worker.detach(port(1))).collect();
        self.backend.close_port(port(1), queues, remove).unwrap();
        assert_eq!(self.backend.frames_in_use(), 0);
    }

    /// The flows of the datagrams that a worker receives now.
    fn receive(&mut self, worker: usize) -> Vec<u16> {
        let mut batch = Batch::new();
        let datapath = &mut self.workers[worker];
        datapath.poll(Wait::No, &mut Ready::default());
        datapath.rx_burst(port(1), &mut batch, &self.counters[worker]);
        let source = |head: &[u8]| Some(u16::from_be_bytes([*head.get(34)?, *head.get(35)?]));
        let flow = |port: u16| port.checked_sub(FIRST_PORT).filter(|flow| *flow < FLOWS);
        batch.drain().filter_map(|frame| flow(source(frame.head())?)).collect()
    }

    /// Has the host send a datagram of each flow, and says which flows came to which worker.
    fn each_flow(&mut self, far: &RawSocket) -> [BTreeSet<u16>; 2] {
        for flow in 0..FLOWS {
            far.send(&datagram(flow, false)).unwrap();
        }
        let (mut seen, mut count) = ([BTreeSet::new(), BTreeSet::new()], 0);
        eventually("all datagrams are received", || {
            for worker in [0, 1] {
                let flows = self.receive(worker);
                count += flows.len();
                seen[worker].extend(flows);
            }
            count >= usize::from(FLOWS)
        });
        assert_eq!(count, usize::from(FLOWS));
        seen
    }
}

fn with_queues(device: &str, space: &Space, queues: Option<u16>) -> PortSpec {
    let netns = Some(space.netns());
    let kind = PortKind::Tap { device: device.to_owned(), netns, persist: true, queues };
    PortSpec::new(device, kind, Some("br0"))
}

#[test]
fn each_worker_has_a_queue_and_a_flow_stays_where_it_is_answered() {
    if !can_run() {
        return;
    }
    let (space, mut two) = (Space::new(), Two::new());
    let info = two.open(&with_queues("t0", &space, None));
    assert_eq!((info.queues, info.details.rx_queues), (2, Some(2)), "{info:?}");
    assert_eq!(info.lost, [""; 0]);
    assert_eq!(two.backend.rx_workers(port(1)), [WorkerId(0), WorkerId(1)]);
    assert!(two.backend.begin_move(port(1), WorkerId(1)).is_none(), "it is at both");
    assert!(space.run("ip link show t0").contains("qdisc noqueue"));

    let far = RawSocket::open(Some(&space.name), "t0").unwrap();
    let first = two.each_flow(&far);
    assert!(first.iter().all(|flows| !flows.is_empty()), "{first:?}");
    assert!(first[0].is_disjoint(&first[1]), "{first:?}");
    assert_eq!(two.each_flow(&far), first);

    // Whichever worker answers has the flow from then on.
    for (worker, flows) in first.iter().enumerate() {
        let other = 1 - worker;
        let mut batch = Batch::new();
        for flow in flows {
            let mut frame = two.workers[other].alloc().unwrap();
            assert!(frame.fill(&datagram(*flow, true)));
            batch.push(frame).unwrap();
        }
        two.workers[other].tx_burst(port(1), &mut batch, &two.counters[other]);
    }
    let [a, b] = first;
    assert_eq!(two.each_flow(&far), [b, a]);
    let sent: u64 = two.counters.iter().map(|counters| counters.tx_frames.get()).sum();
    assert_eq!(sent, FLOWS.into());
    two.close(true);
    assert!(!space.works("ip link show t0"));
}

#[test]
fn there_are_as_many_queues_as_asked_for_and_possible() {
    if !can_run() {
        return;
    }
    let (space, mut two) = (Space::new(), Two::new());
    let info = two.open(&with_queues("t0", &space, Some(5)));
    assert_eq!(info.queues, 2);
    assert_eq!(info.lost, ["5 queues: at most one a worker, 2"]);
    two.close(false);

    // One queue of a device that may have several is a port that can move.
    let info = two.open(&with_queues("t0", &space, Some(1)));
    assert_eq!((info.queues, &info.lost[..]), (1, &[][..]));
    assert_eq!(two.backend.rx_workers(port(1)), []);
    assert!(two.backend.begin_move(port(1), WorkerId(1)).is_some());
    two.close(true);

    // Made by somebody else.
    space.run("ip tuntap add dev one mode tap");
    let info = two.open(&with_queues("one", &space, None));
    assert_eq!(info.queues, 1);
    let [note] = &info.lost[..] else { panic!("{info:?}") };
    assert!(note.starts_with("several queues: ") && note.contains("link del one"), "{note}");
    two.close(true);
    space.run("ip tuntap add dev many mode tap multi_queue");
    let spec = with_queues("many", &space, None);
    assert_eq!(two.open(&spec).queues, 2);
    let taken = TapBackend::new(TapOptions::default()).open_port(port(1), &spec).unwrap_err();
    let (taken, hint) = (taken.to_string(), taken.hint().map(str::to_owned));
    assert!(taken.contains("another program has it open"), "{taken} {hint:?}");
    two.close(true);
}
