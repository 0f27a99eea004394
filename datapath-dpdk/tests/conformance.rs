//! The suite that every datapath passes, on `net_ring` devices whose far ends send in pieces.

mod common;

use common::{FarEnd, MBUFS};
use datapath_dpdk::datapath::PortQueue;
use datapath_dpdk::{DpdkBackend, DpdkDatapath, Mbuf, Mempool};
use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::{Backend, BackendError, OpenPort, OutsideLoss, PortEvent, PortInfo};
use switch_core::frame::{Frame, MAX_FRAME};
use switch_core::ids::{PortId, WorkerId};
use switch_core::testing::Packet;
use switch_core::testing::conformance::{Harness, PORTS, run_all};

/// Frames that a far end's ring holds.
const RING: u32 = 1023;

/// [`DpdkBackend`] whose ports are made of rings.
struct OnRings {
    dpdk: DpdkBackend,
    far: Vec<Option<FarEnd>>,
}

impl Backend for OnRings {
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
        let (far, attach) = FarEnd::new(RING);
        self.far[port.index()] = Some(far);
        self.dpdk.open_device(port, &attach, spec.mtu).map_err(|error| BackendError::Failed {
            attempted: "opening a ring".into(),
            cause: error.to_string(),
            hint: None,
        })
    }

    fn close_port(
        &mut self,
        port: PortId,
        queues: Vec<PortQueue>,
        remove: bool,
    ) -> Result<(), BackendError> {
        self.far[port.index()] = None;
        self.dpdk.close_port(port, queues, remove)
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

struct Rings {
    backend: OnRings,
    /// What far ends send from, so that what waits in a receive ring is not the switch's.
    far_pool: Mempool,
    /// Longest segment that a far end sends.
    segment: usize,
    frame_max: usize,
}

impl Rings {
    fn new(pools: [Mempool; 2], segment: usize, frame_max: usize) -> Self {
        let dpdk = DpdkBackend::new(common::eal(), pools[0]);
        let backend = OnRings { dpdk, far: vec![None; PORTS] };
        Self { backend, far_pool: pools[1], segment, frame_max }
    }

    /// The frame in segments, as a driver with small buffers receives it.
    fn in_segments(&self, bytes: &[u8]) -> Mbuf {
        let pool = self.far_pool;
        let mut pieces = bytes.chunks(self.segment);
        let mut frame = pool.frame(pieces.next().unwrap_or_default()).unwrap();
        pieces.for_each(|piece| frame.chain(pool.frame(piece).unwrap()));
        frame
    }
}

impl Harness for Rings {
    type Backend = OnRings;

    fn backend(&mut self) -> &mut OnRings {
        &mut self.backend
    }

    fn spec(&self, n: usize) -> PortSpec {
        let kind = PortKind::Dpdk { devargs: format!("rings{n}") };
        PortSpec::new(format!("p{n}"), kind, None)
    }

    fn inject(&mut self, n: usize, packet: &Packet) -> bool {
        // A ring has no place for metadata.
        if !packet.offload.is_finished() {
            return false;
        }
        let frame = self.in_segments(&packet.bytes);
        self.backend.far[n].as_ref().is_some_and(|far| far.to_switch.push(frame).is_ok())
    }

    fn collect(&mut self, n: usize) -> Vec<Packet> {
        let far = self.backend.far[n].as_ref();
        let frames = far.map(FarEnd::collect).unwrap_or_default();
        frames
            .into_iter()
            .map(|frame| {
                let mut bytes = Vec::new();
                frame.copy_to(&mut bytes);
                Packet { bytes, offload: frame.offload() }
            })
            .collect()
    }

    fn in_use(&self) -> Option<usize> {
        Some((MBUFS - self.backend.dpdk.pool().available()) as usize)
    }

    fn frame_max(&self) -> usize {
        self.frame_max
    }

    fn headroom(&self) -> usize {
        datapath_dpdk::mempool::HEADROOM.into()
    }

    fn tx_capacity(&self) -> Option<usize> {
        Some(RING as usize)
    }
}

/// Rings have no offloads.
const MAY_SKIP: &[&str] = &["offload_round_trip", "gso_round_trip"];

fn conforms(segment: usize, frame_max: usize) {
    // Pools are for ever, so all checks of a run have the same.
    let pools = [common::pool(MBUFS), common::pool(MBUFS)];
    let full = pools.map(Mempool::available);
    let report = run_all(|check| {
        // The last check's rings, queues and devices are gone by now.
        assert_eq!(pools.map(Mempool::available), full, "what ran before {check} leaked mbufs");
        Rings::new(pools, segment, frame_max)
    });
    report.assert_passed(MAY_SKIP);
    assert_eq!(pools.map(Mempool::available), full, "the last check leaked mbufs");
    println!("{report}");
}

#[test]
fn frames_in_one_mbuf() {
    conforms(2048, 1514);
}

/// A maximal Ethernet frame is three mbufs here.
#[test]
fn frames_in_three_mbufs() {
    conforms(600, 1514);
}

/// The head is never in the first mbuf alone.
#[test]
fn frames_in_tiny_mbufs() {
    conforms(40, 1514);
}

#[test]
fn the_longest_frames() {
    conforms(2048, MAX_FRAME);
}
