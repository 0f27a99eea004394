//! Ports of type `vhost-user`, with a guest of ours at the other end of the socket: the conformance
//! suite, guests that come and go, and guests that lie.

mod common;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::guest::{Guest, INDIRECT, NEXT, RING, WRITE, feature, request};
use common::kernel::PATIENCE;
use common::{FarEnd, MBUFS, bytes, content};
use datapath_dpdk::datapath::PortQueue;
use datapath_dpdk::{DpdkBackend, DpdkDatapath, Mbuf, Mempool};
use switch_core::batch::Batch;
use switch_core::config::{PortKind, PortSpec, VhostMode};
use switch_core::datapath::{
    Backend, BackendError, Caps, Datapath, OpenPort, OutsideLoss, PortEvent, PortEventKind,
    PortInfo,
};
use switch_core::drop::DropReason;
use switch_core::frame::{Frame, Offload};
use switch_core::ids::{PortId, WorkerId};
use switch_core::segment::{VnetHeader, validate, vnet};
use switch_core::stats::PortCounters;
use switch_core::testing::Packet;
use switch_core::testing::conformance::{Harness, PORTS, run_all};
use switch_core::testing::frames::{mac, pattern, tcp4};
use tempfile::TempDir;

/// Devices are named after the numbers of ports, which are those of one backend: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const ALL: u64 = feature::BASE | feature::OFFLOADS;

fn vhost_spec(socket: &Path, mode: VhostMode, queues: u16) -> PortSpec {
    let socket = socket.to_str().unwrap().to_owned();
    PortSpec::new("vm", PortKind::VhostUser { socket, mode, queues }, Some("br0"))
}

/// Waits until a port has an event of some kind.
#[track_caller]
fn wait_for(backend: &mut DpdkBackend, port: PortId, wanted: &PortEventKind) {
    let end = Instant::now() + PATIENCE;
    loop {
        let events = backend.events();
        if events.iter().any(|event| event.port == port && event.kind == *wanted) {
            // The next call knows that this one was heard.
            backend.events();
            return;
        }
        assert!(Instant::now() < end, "no {wanted:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// [`DpdkBackend`] that is asked for a port and connects a guest to it.
struct OnVhost {
    dpdk: DpdkBackend,
    guests: Vec<Option<Guest>>,
    dir: TempDir,
}

impl Backend for OnVhost {
    type Datapath = DpdkDatapath;

    fn name(&self) -> &'static str {
        self.dpdk.name()
    }

    fn worker(&mut self, id: WorkerId) -> Result<DpdkDatapath, BackendError> {
        self.dpdk.worker(id)
    }

    fn open_port(
        &mut self,
        port: PortId,
        spec: &PortSpec,
    ) -> Result<OpenPort<PortQueue>, BackendError> {
        let listener = UnixListener::bind(self.dir.path().join(&spec.name)).unwrap();
        let open = self.dpdk.open_port(port, spec)?;
        self.guests[port.index()] = Some(Guest::accept(&listener, ALL, 1));
        wait_for(&mut self.dpdk, port, &PortEventKind::LinkUp);
        Ok(OpenPort { info: self.dpdk.port_info(port).unwrap(), ..open })
    }

    fn close_port(
        &mut self,
        port: PortId,
        queues: Vec<PortQueue>,
        remove: bool,
    ) -> Result<(), BackendError> {
        let closed = self.dpdk.close_port(port, queues, remove);
        self.guests[port.index()] = None;
        closed
    }

    fn adjust_port(
        &mut self,
        port: PortId,
        old: &PortSpec,
        new: &PortSpec,
    ) -> Result<bool, BackendError> {
        self.dpdk.adjust_port(port, old, new)
    }

    fn port_info(&mut self, port: PortId) -> Option<PortInfo> {
        self.dpdk.port_info(port)
    }

    fn outside_loss(&mut self, port: PortId) -> OutsideLoss {
        self.dpdk.outside_loss(port)
    }

    fn events(&mut self) -> Vec<PortEvent> {
        self.dpdk.events()
    }
}

struct Guests {
    backend: OnVhost,
}

impl Harness for Guests {
    type Backend = OnVhost;

    fn backend(&mut self) -> &mut OnVhost {
        &mut self.backend
    }

    fn spec(&self, n: usize) -> PortSpec {
        let name = format!("vm{n}");
        let socket = self.backend.dir.path().join(&name);
        PortSpec { name, ..vhost_spec(&socket, VhostMode::Client, 1) }
    }

    fn inject(&mut self, n: usize, packet: &Packet) -> bool {
        // The driver takes nothing for no frame at all.
        if packet.bytes.is_empty() {
            return false;
        }
        let pool = switch_core::frame::FramePool::new(Default::default());
        let Some(mut frame) = pool.frame(&packet.bytes) else { return false };
        frame.set_offload(packet.offload);
        let Ok(header) = VnetHeader::of(&frame) else { return false };
        self.backend.guests[n].as_mut().is_some_and(|guest| guest.send(0, &header, &packet.bytes))
    }

    fn collect(&mut self, n: usize) -> Vec<Packet> {
        let Some(guest) = self.backend.guests[n].as_mut() else { return Vec::new() };
        let received = guest.receive(0).into_iter();
        received
            .map(|(header, bytes)| {
                let offload = validate(&bytes, bytes.len(), &header).unwrap();
                Packet { bytes, offload }
            })
            .collect()
    }

    fn in_use(&self) -> Option<usize> {
        Some((MBUFS - self.backend.dpdk.pool().available()) as usize)
    }

    fn headroom(&self) -> usize {
        datapath_dpdk::mempool::HEADROOM.into()
    }

    fn tx_capacity(&self) -> Option<usize> {
        Some(RING.into())
    }
}

#[test]
fn vhost_user_ports_pass() {
    let _alone = alone();
    let pool = common::pool(MBUFS);
    let full = pool.available();
    let report = run_all(|check| {
        assert_eq!(pool.available(), full, "what ran before {check} leaked mbufs");
        let dpdk = DpdkBackend::new(common::eal(), pool);
        let guests = (0..PORTS).map(|_| None).collect();
        Guests { backend: OnVhost { dpdk, guests, dir: tempfile::tempdir().unwrap() } }
    });
    println!("{report}");
    report.assert_passed(&[]);
    assert_eq!(pool.available(), full, "the last check leaked mbufs");
}

/// A backend with a vhost-user port, number 0, and a port on rings, number 1.
struct Bench {
    backend: DpdkBackend,
    workers: Vec<DpdkDatapath>,
    counters: PortCounters,
    pool: Mempool,
    before: u32,
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn new(workers: u16) -> Self {
        let alone = alone();
        let mut backend = DpdkBackend::new(common::eal(), common::pool(MBUFS));
        let workers = (0..workers).map(|n| backend.worker(WorkerId(n)).unwrap()).collect();
        let pool = backend.pool();
        let (before, dir) = (pool.available(), tempfile::tempdir().unwrap());
        let counters = PortCounters::default();
        Self { backend, workers, counters, pool, before, dir, _alone: alone }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("vm")
    }

    fn open(&mut self, mode: VhostMode, queues: u16) {
        let spec = vhost_spec(&self.socket(), mode, queues);
        let open = self.backend.open_port(VM, &spec).unwrap();
        assert!(!open.info.link_up, "there is no guest yet");
        assert_eq!(open.info.caps, Caps::default());
        for (worker, queue) in self.workers.iter_mut().zip(open.queues) {
            worker.attach(VM, queue);
        }
    }

    fn close(mut self) {
        let queues = self.workers.iter_mut().filter_map(|w| w.detach(VM)).collect();
        self.backend.close_port(VM, queues, true).unwrap();
        assert_eq!(self.pool.available(), self.before, "mbufs were leaked");
    }

    fn frame(&self, data: &[u8], offload: Offload) -> Mbuf {
        let mut frame = self.pool.frame(data).unwrap();
        frame.set_offload(offload);
        frame
    }

    fn send(&mut self, worker: usize, data: &[u8]) {
        let mut batch = Batch::new();
        batch.push(self.frame(data, Offload::NONE)).unwrap();
        self.workers[worker].tx_burst(VM, &mut batch, &self.counters);
        // What was handed over is sent by whoever has the queue.
        for worker in &mut self.workers {
            worker.tx_handed_over(VM, &self.counters);
        }
    }

    /// What a worker receives within a while, until it is `want` frames.
    fn receive(&mut self, worker: usize, want: usize) -> Vec<Mbuf> {
        let (mut frames, end) = (Vec::new(), Instant::now() + PATIENCE);
        while frames.len() < want && Instant::now() < end {
            let mut batch = Batch::new();
            self.workers[worker].rx_burst(VM, &mut batch, &self.counters);
            frames.extend(batch.drain());
        }
        frames
    }
}

const VM: PortId = PortId::new(0).unwrap();

#[test]
fn guests_come_and_go_in_both_modes_and_are_sent_what_they_take() {
    for mode in [VhostMode::Client, VhostMode::Server] {
        let mut bench = Bench::new(1);
        let path = bench.socket();
        bench.open(mode, 1);
        // Another port goes on all the while.
        let (far, attach) = FarEnd::new(63);
        let other = PortId::new(1).unwrap();
        let open = bench.backend.open_device(other, &attach, None).unwrap();
        for (worker, queue) in bench.workers.iter_mut().zip(open.queues) {
            worker.attach(other, queue);
        }
        // Each one offers something else.
        let offers = [ALL, feature::BASE, ALL & !feature::GUEST_TSO6];
        let caps = [Caps { uso: false, ..Caps::ALL }, Caps::default()];
        let caps = [caps[0], caps[1], Caps { tso6: false, ..caps[0] }];
        for (n, (features, caps)) in offers.into_iter().zip(caps).enumerate() {
            bench.send(0, &bytes(60));
            assert_eq!(bench.counters.dropped(DropReason::PortDown), n as u64 + 1);
            let mut guest = match mode {
                VhostMode::Client => {
                    let listener = UnixListener::bind(&path).unwrap();
                    Guest::accept(&listener, features, 1)
                }
                VhostMode::Server => Guest::connect(path.to_str().unwrap(), features, 1),
            };
            wait_for(&mut bench.backend, VM, &PortEventKind::LinkUp);
            assert_eq!(bench.backend.port_info(VM).unwrap().caps, caps, "{mode:?}, guest {n}");
            bench.send(0, &bytes(1000));
            let received = guest.receive(0);
            assert_eq!(received.iter().map(|r| r.1.clone()).collect::<Vec<_>>(), [bytes(1000)]);
            assert!(guest.send(0, &VnetHeader::NONE, &bytes(700)));
            assert_eq!(bench.receive(0, 1).iter().map(content).collect::<Vec<_>>(), [bytes(700)]);
            // It goes while frames are on their way in both directions.
            (0..50).for_each(|_| assert!(guest.send(0, &VnetHeader::NONE, &bytes(700))));
            (0..50).for_each(|_| bench.send(0, &bytes(1000)));
            drop(guest);
            if mode == VhostMode::Client {
                // The guest's end made it.
                std::fs::remove_file(&path).unwrap();
            }
            wait_for(&mut bench.backend, VM, &PortEventKind::LinkDown);
            assert!(!bench.backend.port_info(VM).unwrap().link_up);
            far.to_switch.push(bench.pool.frame(&bytes(60)).unwrap()).unwrap();
            let mut batch = Batch::new();
            assert_eq!(bench.workers[0].rx_burst(other, &mut batch, &PortCounters::default()), 1);
        }
        let queues = bench.workers.iter_mut().filter_map(|w| w.detach(other)).collect();
        bench.backend.close_port(other, queues, true).unwrap();
        drop(far);
        bench.close();
        assert!(!path.exists(), "{mode:?} left its socket");
    }
}

#[test]
fn a_guest_that_uses_fewer_queues_than_there_are_loses_nothing() {
    let mut bench = Bench::new(2);
    bench.open(VhostMode::Server, 2);
    let stream = std::os::unix::net::UnixStream::connect(bench.socket()).unwrap();
    let mut guest = Guest::new(stream, ALL | feature::MQ, 2, 1);
    wait_for(&mut bench.backend, VM, &PortEventKind::LinkUp);
    for n in 0..20 {
        bench.send(n % 2, &bytes(100 + n));
    }
    let mut lengths: Vec<_> = guest.receive(0).iter().map(|r| r.1.len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, (100..120).collect::<Vec<_>>(), "both workers' frames came");
    // It enables the other one.
    guest.enable(2, true);
    guest.enable(3, true);
    let end = Instant::now() + PATIENCE;
    while guest.receive(1).is_empty() {
        assert!(Instant::now() < end, "the second queue is never used");
        (0..2).for_each(|worker| bench.send(worker, &bytes(60)));
    }
    for pair in 0..2 {
        assert!(guest.send(pair, &VnetHeader::NONE, &bytes(500)));
        assert_eq!(bench.receive(pair.into(), 1).len(), 1, "queue {pair}");
    }
    drop(guest);
    bench.close();
}

#[test]
fn one_worker_serves_all_queues_of_a_guest() {
    let mut bench = Bench::new(1);
    bench.open(VhostMode::Server, 4);
    let stream = std::os::unix::net::UnixStream::connect(bench.socket()).unwrap();
    let mut guest = Guest::new(stream, ALL | feature::MQ, 4, 4);
    wait_for(&mut bench.backend, VM, &PortEventKind::LinkUp);
    for round in 0..20 {
        for pair in 0..4 {
            assert!(guest.send(pair, &VnetHeader::NONE, &bytes(100 + usize::from(pair))));
        }
        let mut lengths: Vec<_> = bench.receive(0, 4).iter().map(Mbuf::len).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [100, 101, 102, 103], "round {round}");
    }
    drop(guest);
    bench.close();
}

#[test]
fn what_a_guest_claims_of_a_frame_is_worked_out_or_refused() {
    let mut bench = Bench::new(1);
    bench.open(VhostMode::Server, 1);
    let mut guest = Guest::connect(bench.socket().to_str().unwrap(), ALL, 1);
    wait_for(&mut bench.backend, VM, &PortEventKind::LinkUp);
    let packet = tcp4(mac(1), mac(2), &pattern(1, 3000));
    let honest = VnetHeader {
        flags: vnet::F_NEEDS_CSUM,
        gso_type: vnet::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 16,
    };
    // What is not needed is not looked at: the lie is without effect.
    for header in [honest, VnetHeader { hdr_len: 9999, ..honest }] {
        assert!(guest.send(0, &header, &packet.bytes));
        let frames = bench.receive(0, 1);
        let expected = validate(&packet.bytes, packet.bytes.len(), &honest).unwrap();
        assert_eq!(frames[0].offload(), expected, "{header:?}");
    }
    let udp = switch_core::testing::frames::udp4(mac(1), mac(2), &pattern(1, 3000));
    let lies = [
        (VnetHeader { gso_size: 1, ..honest }, &packet.bytes),
        (VnetHeader { gso_type: vnet::GSO_UDP, csum_offset: 6, ..honest }, &udp.bytes),
    ];
    for (n, (header, frame)) in lies.iter().enumerate() {
        assert!(guest.send(0, header, frame));
        let end = Instant::now() + PATIENCE;
        while bench.counters.dropped(DropReason::VnetHeader) == n as u64 {
            assert!(bench.receive(0, 0).is_empty());
            let mut batch = Batch::new();
            bench.workers[0].rx_burst(VM, &mut batch, &bench.counters);
            assert!(batch.is_empty(), "{header:?} came in as {:?}", batch.as_slice()[0].offload());
            assert!(Instant::now() < end, "{header:?} is no counted drop");
        }
    }
    // Headers of any content, on frames of any: whatever comes in is valid, and nothing dies.
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u16
    };
    for round in 0..5000 {
        let header = VnetHeader {
            flags: (random() & 3) as u8,
            gso_type: if random() & 1 == 0 { random() as u8 } else { [0, 1, 3, 4][round % 4] },
            hdr_len: random(),
            gso_size: random() >> (random() % 16),
            csum_start: random() >> (random() % 16),
            csum_offset: random() >> (random() % 16),
        };
        let whole = [&packet.bytes, &udp.bytes][round % 2];
        let frame = &whole[..usize::from(random()) % whole.len()];
        guest.send(0, &header, frame);
        let mut batch = Batch::new();
        bench.workers[0].rx_burst(VM, &mut batch, &bench.counters);
        for frame in batch.as_slice() {
            let offload = frame.offload();
            let mut copy = switch_core::frame::FramePool::new(Default::default())
                .frame(&content(frame))
                .unwrap();
            copy.set_offload(offload);
            let claim = VnetHeader::of(&copy).unwrap();
            validate(copy.head(), copy.len(), &claim).unwrap();
        }
    }
    drop(guest);
    bench.close();
}

/// One way in which a guest's rings lie.
type Lie = (&'static str, fn(&mut Guest));

/// The rings of vring 1 are what the guest sends on.
const LIES: &[Lie] = &[
    ("a descriptor that leads to itself", |guest| {
        let at = guest.buffer(1, 0);
        guest.describe(1, 0, at, 100, NEXT, 0);
        guest.offer(1, 0);
    }),
    ("a chain that goes in a circle", |guest| {
        for n in 0..4 {
            let at = guest.buffer(1, n);
            guest.describe(1, n, at, 100, NEXT, (n + 1) % 4);
        }
        guest.offer(1, 0);
    }),
    ("a descriptor behind the table", |guest| {
        let at = guest.buffer(1, 0);
        guest.describe(1, 0, at, 100, NEXT, 60_000);
        guest.offer(1, 0);
        guest.offer(1, 65_535);
    }),
    ("an address outside of all memory", |guest| {
        guest.describe(1, 0, 0xdead_0000_0000, 1500, 0, 0);
        guest.offer(1, 0);
    }),
    ("a length beyond the memory's end", |guest| {
        let at = guest.buffer(1, RING - 1);
        guest.describe(1, 0, at, u32::MAX, 0, 0);
        guest.offer(1, 0);
    }),
    ("an address and length that wrap around", |guest| {
        guest.describe(1, 0, u64::MAX - 10, 100, 0, 0);
        guest.offer(1, 0);
    }),
    ("less than a header", |guest| {
        for (n, len) in [0, 1, 11, 12].into_iter().enumerate() {
            let at = guest.buffer(1, n as u16);
            guest.describe(1, n as u16, at, len, 0, 0);
            guest.offer(1, n as u16);
        }
    }),
    ("more chains than the ring has", |guest| guest.set_avail(1, 30_000)),
    ("fewer chains than before", |guest| {
        let at = guest.buffer(1, 0);
        guest.describe(1, 0, at, 100, 0, 0);
        guest.offer(1, 0);
        guest.set_avail(1, 65_000);
    }),
    ("an indirect table that leads to itself", |guest| {
        let at = guest.buffer(1, 0);
        let mut entry = at.to_ne_bytes().to_vec();
        entry.extend(16u32.to_ne_bytes());
        entry.extend((INDIRECT | NEXT).to_ne_bytes());
        entry.extend(0u16.to_ne_bytes());
        guest.write(at, &entry);
        guest.describe(1, 0, at, 16, INDIRECT, 0);
        guest.offer(1, 0);
    }),
    ("an indirect table of an odd length", |guest| {
        let at = guest.buffer(1, 0);
        guest.describe(1, 0, at, 7, INDIRECT, 0);
        guest.offer(1, 0);
    }),
    ("receive buffers of no length, outside of memory, and in a circle", |guest| {
        for n in 0..RING {
            let (at, len) = match n % 3 {
                0 => (guest.buffer(0, n), 0),
                1 => (0xdead_0000_0000, 2000),
                _ => (guest.buffer(0, n), 20),
            };
            guest.describe(0, n, at, len, WRITE | NEXT, n);
        }
    }),
    ("rings outside of all memory", |guest| {
        let mut addresses = [1u32, 0].map(u32::to_ne_bytes).concat();
        (0..4).for_each(|_| addresses.extend(0xdead_0000_0000u64.to_ne_bytes()));
        guest.tell(request::SET_VRING_ADDR, &addresses, &[]);
    }),
    ("a ring of no and of an odd size", |guest| {
        for size in [0u32, 3, 65_535, 1 << 20] {
            guest.tell(request::SET_VRING_NUM, &[1, size].map(u32::to_ne_bytes).concat(), &[]);
        }
    }),
    ("a ring that does not exist", |guest| {
        for request in [request::SET_VRING_NUM, request::SET_VRING_BASE, request::SET_VRING_ENABLE]
        {
            guest.tell(request, &[60_000u32, 1].map(u32::to_ne_bytes).concat(), &[]);
        }
    }),
    ("more memory than its file has", |guest| {
        let mut table = [1u32, 0].map(u32::to_ne_bytes).concat();
        for word in [0x4000_0000u64, u64::MAX, 0x4000_0000, u64::MAX - 5] {
            table.extend(word.to_ne_bytes());
        }
        guest.tell(request::SET_MEM_TABLE, &table, &[]);
    }),
    ("a thousand regions", |guest| {
        guest.tell(request::SET_MEM_TABLE, &[1000u32, 0].map(u32::to_ne_bytes).concat(), &[]);
    }),
    ("a message of no kind", |guest| guest.tell(4711, &[0xff; 200], &[])),
    ("a message that ends early", |guest| guest.tell(request::SET_FEATURES, &[1], &[])),
    ("features that were not offered", |guest| {
        guest.tell(request::SET_FEATURES, &u64::MAX.to_ne_bytes(), &[]);
    }),
];

#[test]
fn a_guest_that_lies_harms_itself_alone() {
    let mut bench = Bench::new(1);
    bench.open(VhostMode::Server, 1);
    let path = bench.socket();
    let (far, attach) = FarEnd::new(63);
    let other = PortId::new(1).unwrap();
    let open = bench.backend.open_device(other, &attach, None).unwrap();
    for (worker, queue) in bench.workers.iter_mut().zip(open.queues) {
        worker.attach(other, queue);
    }
    for (what, lie) in LIES {
        let mut guest = Guest::connect(path.to_str().unwrap(), ALL, 1);
        wait_for(&mut bench.backend, VM, &PortEventKind::LinkUp);
        lie(&mut guest);
        for n in 0..200 {
            let mut batch = Batch::new();
            bench.workers[0].rx_burst(VM, &mut batch, &bench.counters);
            bench.send(0, &bytes(60 + n * 7));
            // The other port goes on.
            far.to_switch.push(bench.pool.frame(&bytes(60)).unwrap()).unwrap();
            let mut batch = Batch::new();
            let got = bench.workers[0].rx_burst(other, &mut batch, &PortCounters::default());
            assert_eq!(got, 1, "{what}");
        }
        println!("{what}: {}", if guest.is_dropped() { "hung up" } else { "goes on" });
        drop(guest);
        wait_for(&mut bench.backend, VM, &PortEventKind::LinkDown);
        // An honest one after it finds everything as it should be.
        let mut guest = Guest::connect(path.to_str().unwrap(), ALL, 1);
        wait_for(&mut bench.backend, VM, &PortEventKind::LinkUp);
        bench.send(0, &bytes(900));
        assert!(guest.receive(0).iter().any(|r| r.1 == bytes(900)), "after {what}");
        assert!(guest.send(0, &VnetHeader::NONE, &bytes(800)));
        assert_eq!(bench.receive(0, 1).iter().map(content).collect::<Vec<_>>(), [bytes(800)]);
        drop(guest);
        wait_for(&mut bench.backend, VM, &PortEventKind::LinkDown);
    }
    let queues = bench.workers.iter_mut().filter_map(|w| w.detach(other)).collect();
    bench.backend.close_port(other, queues, true).unwrap();
    drop(far);
    bench.close();
}
