//! The conformance suite on the loopback datapath, which must pass all of it, and on the broken
//! ones, each of which must fail in the check about its defect.

use std::time::Duration;

use switch_core::config::{PortKind, PortSpec};
use switch_core::datapath::{Backend, Caps};
use switch_core::frame::{FramePool, MAX_FRAME, PoolConfig};
use switch_core::testing::broken::{BrokenBackend, Defect};
use switch_core::testing::conformance::{CHECKS, Fault, Harness, PORTS, run_all, run_one};
use switch_core::testing::loopback::Wires;
use switch_core::testing::{LoopbackBackend, LoopbackPort, Packet};

const TX_CAPACITY: usize = 1500;
const RING: usize = 256;
const POOL: PoolConfig = PoolConfig { heads: 4096, tails: 64, max_heads: 8192 };

struct OnLoopback<B> {
    backend: B,
    wires: Wires,
    pool: FramePool,
    patience: Duration,
}

fn name(n: usize) -> String {
    format!("p{n}")
}

fn port() -> LoopbackPort {
    LoopbackPort {
        mtu: 65_535,
        caps: Caps::ALL,
        tx_capacity: TX_CAPACITY,
        ring: RING,
        ..LoopbackPort::default()
    }
}

impl<B: Backend> Harness for OnLoopback<B> {
    type Backend = B;

    fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    fn spec(&self, n: usize) -> PortSpec {
        let kind = PortKind::Tap { device: name(n), netns: None, persist: false, queues: None };
        PortSpec::new(name(n), kind, None)
    }

    fn inject(&mut self, n: usize, packet: &Packet) -> bool {
        self.wires.get(&name(n)).is_some_and(|wire| wire.inject(packet.clone()))
    }

    fn collect(&mut self, n: usize) -> Vec<Packet> {
        self.wires.get(&name(n)).map(|wire| wire.collect()).unwrap_or_default()
    }

    fn in_use(&self) -> Option<usize> {
        Some(self.pool.in_use())
    }

    fn frame_max(&self) -> usize {
        MAX_FRAME
    }

    fn tx_capacity(&self) -> Option<usize> {
        Some(TX_CAPACITY)
    }

    fn handover_capacity(&self) -> usize {
        RING
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

fn loopback() -> OnLoopback<LoopbackBackend> {
    let mut backend = LoopbackBackend::new(POOL);
    (0..PORTS).for_each(|n| backend.configure(&name(n), port()));
    let (wires, pool) = (backend.wires(), backend.pool().clone());
    OnLoopback { backend, wires, pool, patience: Duration::from_secs(20) }
}

fn broken(defect: Defect) -> OnLoopback<BrokenBackend> {
    let mut backend = BrokenBackend::new(defect, POOL);
    (0..PORTS).for_each(|n| backend.configure(&name(n), port()));
    let (wires, pool) = (backend.wires(), backend.pool().clone());
    // What is broken is waited for in vain.
    OnLoopback { backend, wires, pool, patience: Duration::from_millis(150) }
}

#[test]
fn loopback_passes() {
    let report = run_all(|_| loopback());
    report.assert_passed(&[]);
    assert_eq!(report.passed, CHECKS);
}

#[test]
fn every_defect_is_found_by_its_check() {
    let mut missed = Vec::new();
    for defect in Defect::ALL {
        match run_one(defect.check(), broken(*defect)) {
            Err(Fault::Broken(why)) => println!("{defect:?}: {}: {why}", defect.check()),
            other => missed.push(format!("{defect:?} passes {}: {other:?}", defect.check())),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_check_finds_a_defect() {
    for check in CHECKS {
        assert!(Defect::ALL.iter().any(|d| d.check() == *check), "nothing broken fails {check}");
    }
}

#[test]
fn an_unknown_check_is_an_error() {
    assert!(matches!(run_one("no_such_check", loopback()), Err(Fault::Broken(_))));
}
