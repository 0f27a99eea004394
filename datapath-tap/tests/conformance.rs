//! The conformance suite of all datapaths, on the real kernel.

mod common;

use std::time::Duration;

use common::*;
use datapath_tap::testing::RawSocket;
use datapath_tap::{TapBackend, TapDatapath, TapOptions};
use switch_core::batch::BURST_MAX;
use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::{Backend, Datapath, Ready, Wait};
use switch_core::frame::Frame;
use switch_core::stats::PortCounters;
use switch_core::testing::Packet;
use switch_core::testing::conformance::{Harness, PORTS, run_all};
use switch_core::{Batch, WorkerId};

/// TAP ports, with packet sockets in place of the stack behind each.
struct OnTap {
    backend: TapBackend,
    far: Vec<RawSocket>,
    space: Space,
}

impl OnTap {
    fn new(plain_tap: bool) -> Self {
        let space = Space::new();
        let open = |n| {
            // Made before the port is, so that the socket misses nothing.
            space.run(&format!("ip tuntap add dev t{n} mode tap"));
            RawSocket::open_with_offloads(Some(&space.name), &format!("t{n}")).unwrap()
        };
        let far = (0..PORTS).map(open).collect();
        let options = TapOptions { plain_tap, ..TapOptions::default() };
        Self { backend: TapBackend::new(options), far, space }
    }
}

/// Everything a socket holds.
fn drain(far: &RawSocket) -> Vec<Packet> {
    let mut packets = Vec::new();
    loop {
        match far.try_recv() {
            Ok((bytes, offload)) => packets.push(Packet { bytes, offload }),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return packets,
            // The device was down once.
            Err(e) if e.raw_os_error() == Some(nix::errno::Errno::ENETDOWN as i32) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

impl Harness for OnTap {
    type Backend = TapBackend;

    fn backend(&mut self) -> &mut TapBackend {
        &mut self.backend
    }

    fn spec(&self, n: usize) -> PortSpec {
        one_queue(tap_spec(&format!("t{n}"), Some(&self.space)))
    }

    fn inject(&mut self, n: usize, packet: &Packet) -> bool {
        let far = &self.far[n];
        let mut sent = far.send_unfinished(&packet.bytes, packet.offload);
        if sent.is_err() {
            // What the socket still had to tell of the time before the device was up.
            sent = far.send_unfinished(&packet.bytes, packet.offload);
        }
        sent.is_ok()
    }

    fn collect(&mut self, n: usize) -> Vec<Packet> {
        drain(&self.far[n])
    }

    fn in_use(&self) -> Option<usize> {
        Some(self.backend.frames_in_use())
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// Netdev ports on TAPs whose files somebody else holds, as QEMU does.
struct OnNetdev {
    backend: TapBackend,
    owner: Rig,
    devices: Vec<Device>,
}

impl OnNetdev {
    fn new() -> Self {
        let mut owner = Rig::new(TapOptions::default());
        let devices: Vec<Device> = (0..PORTS).map(|_| Device::named()).collect();
        for (n, device) in devices.iter().enumerate() {
            let mut spec = tap_spec(&device.0, None);
            spec.kind = PortKind::Tap {
                device: device.0.clone(),
                netns: None,
                persist: false,
                queues: None,
            };
            owner.open(n as u16, &spec).unwrap();
        }
        Self { backend: TapBackend::new(TapOptions::default()), owner, devices }
    }
}

impl Harness for OnNetdev {
    type Backend = TapBackend;

    fn backend(&mut self) -> &mut TapBackend {
        &mut self.backend
    }

    fn spec(&self, n: usize) -> PortSpec {
        netdev_spec(&self.devices[n].0)
    }

    fn inject(&mut self, n: usize, packet: &Packet) -> bool {
        let owner: &mut TapDatapath = &mut self.owner.worker;
        let mut frame = owner.alloc().unwrap();
        if !frame.fill(&packet.bytes) {
            return false;
        }
        frame.set_offload(packet.offload);
        let (mut batch, counters) = (Batch::new(), PortCounters::default());
        batch.push(frame).unwrap();
        owner.tx_burst(port(n as u16), &mut batch, &counters);
        counters.tx_frames.get() == 1
    }

    fn collect(&mut self, n: usize) -> Vec<Packet> {
        let owner: &mut TapDatapath = &mut self.owner.worker;
        let counters = PortCounters::default();
        let mut packets = Vec::new();
        loop {
            owner.poll(Wait::No, &mut Ready::default());
            let mut batch = Batch::with_limit(BURST_MAX);
            if owner.rx_burst(port(n as u16), &mut batch, &counters) == 0 {
                return packets;
            }
            packets
                .extend(batch.drain().map(|f| Packet { bytes: bytes(&f), offload: f.offload() }));
        }
    }

    fn in_use(&self) -> Option<usize> {
        Some(self.backend.frames_in_use())
    }

    fn tx_capacity(&self) -> Option<usize> {
        // `TUN_READQ_SIZE` is 500; the kernel's default queue of a TAP 1,000 (`txqueuelen`).
        Some(1000)
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[test]
fn tap_ports_pass() {
    if !can_run() {
        return;
    }
    let report = run_all(|_| OnTap::new(false));
    println!("{report}");
    // What is written into a TAP goes to the host's stack, which takes or loses all.
    report.assert_passed(&["tx_full"]);
}

#[test]
fn plain_tap_ports_pass() {
    if !can_run() {
        return;
    }
    let report = run_all(|_| OnTap::new(true));
    println!("{report}");
    report.assert_passed(&["tx_full", "gso_round_trip"]);
}

#[test]
fn netdev_ports_pass() {
    if !can_run() {
        return;
    }
    let report = run_all(|_| OnNetdev::new());
    println!("{report}");
    report.assert_passed(&[]);
}

#[test]
fn ports_are_spread_over_the_workers() {
    if !can_run() {
        return;
    }
    let space = Space::new();
    let mut backend = TapBackend::new(TapOptions::default());
    let mut workers: Vec<TapDatapath> =
        (0..2).map(|n| backend.worker(WorkerId(n)).unwrap()).collect();
    let mut owners = Vec::new();
    for n in 0..4u16 {
        let open = backend
            .open_port(port(n), &one_queue(tap_spec(&format!("t{n}"), Some(&space))))
            .unwrap();
        owners.push(open.owner.0);
        for (worker, queue) in workers.iter_mut().zip(open.queues) {
            assert!(worker.attach(port(n), queue).is_none());
        }
    }
    assert_eq!(owners, [0, 1, 0, 1]);
    // A port that is closed frees its place.
    let queues = workers.iter_mut().filter_map(|w| w.detach(port(1))).collect();
    backend.close_port(port(1), queues, true).unwrap();
    let open = backend.open_port(port(5), &one_queue(tap_spec("t5", Some(&space)))).unwrap();
    assert_eq!(open.owner, WorkerId(1));
}
