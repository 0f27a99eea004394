//! Ports whose far end is a kernel device with a packet socket on it, and the conformance suite on
//! them.

use std::time::Duration;

use super::kernel::{PATIENCE, Veth, eventually, run};
use datapath_dpdk::{DpdkBackend, Mempool};
use datapath_tap::testing::RawSocket;
use switch_core::config::PortSpec;
use switch_core::testing::Packet;
use switch_core::testing::conformance::{Harness, run_all};

/// What stands behind a port.
pub(crate) struct Far {
    pub(crate) spec: PortSpec,
    pub(crate) socket: RawSocket,
    /// The socket sends and receives offload metadata.
    pub(crate) offloads: bool,
    /// Devices and namespaces, which go when the check is over.
    pub(crate) keep: Vec<Box<dyn std::any::Any>>,
}

/// A pair of devices with both ends up. The kernel tells the ends of each other's carrier with some
/// delay (`linkwatch`), up to which nothing passes.
pub(crate) fn linked_veth() -> Veth {
    let veth = Veth::new();
    run(&format!("ip link set {} up", veth.near.0));
    let state = "cat /sys/class/net/v0/operstate";
    eventually("both ends to be up", || veth.space.run(state).trim() == "up");
    veth
}

/// The backend with such ports.
pub(crate) struct OnKernel {
    backend: DpdkBackend,
    far: Vec<Far>,
    frame_max: usize,
    tx_capacity: Option<usize>,
}

impl Harness for OnKernel {
    type Backend = DpdkBackend;

    fn backend(&mut self) -> &mut DpdkBackend {
        &mut self.backend
    }

    fn spec(&self, n: usize) -> PortSpec {
        self.far[n].spec.clone()
    }

    fn inject(&mut self, n: usize, packet: &Packet) -> bool {
        let far = &self.far[n];
        // What the socket still had to tell of the time before the device was up comes first.
        (0..2).any(|_| {
            if far.offloads {
                far.socket.send_unfinished(&packet.bytes, packet.offload).is_ok()
            } else {
                packet.offload.is_finished() && far.socket.send(&packet.bytes).is_ok()
            }
        })
    }

    fn collect(&mut self, n: usize) -> Vec<Packet> {
        let far = &self.far[n];
        let mut packets = Vec::new();
        if !far.offloads {
            let frames = std::iter::from_fn(|| far.socket.recv(Duration::ZERO));
            packets.extend(frames.map(|bytes| Packet { bytes, offload: Default::default() }));
            return packets;
        }
        loop {
            match far.socket.try_recv() {
                Ok((bytes, offload)) => packets.push(Packet { bytes, offload }),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return packets,
                // The device was down once.
                Err(e) if e.raw_os_error() == Some(nix::errno::Errno::ENETDOWN as i32) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn in_use(&self) -> Option<usize> {
        Some((super::MBUFS - self.backend.pool().available()) as usize)
    }

    fn frame_max(&self) -> usize {
        self.frame_max
    }

    fn headroom(&self) -> usize {
        datapath_dpdk::mempool::HEADROOM.into()
    }

    fn tx_capacity(&self) -> Option<usize> {
        self.tx_capacity
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// Runs the suite on ports that `far` makes, and sees that every mbuf comes back.
pub(crate) fn conforms(
    (frame_max, tx_capacity): (usize, Option<usize>),
    may_skip: &[&str],
    far: impl Fn(usize) -> Far,
) {
    let pool = super::pool(super::MBUFS);
    let full = pool.available();
    let report = run_all(|check| {
        assert_eq!(pool.available(), full, "what ran before {check} leaked mbufs");
        let backend = DpdkBackend::new(super::eal(), pool).with_most_queues(1);
        let far = (0..switch_core::testing::conformance::PORTS).map(&far).collect();
        OnKernel { backend, far, frame_max, tx_capacity }
    });
    println!("{report}");
    report.assert_passed(may_skip);
    assert_eq!(Mempool::available(pool), full, "the last check leaked mbufs");
}
