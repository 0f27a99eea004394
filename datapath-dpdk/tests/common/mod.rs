//! One EAL a test process, on ordinary pages: needs no hugepages and no devices.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod far;
pub(crate) mod guest;
#[path = "../../../datapath-tap/tests/common/mod.rs"]
pub(crate) mod kernel;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use datapath_dpdk::ethdev::Attach;
use datapath_dpdk::ring::Ring;
use datapath_dpdk::{Eal, EalConfig, Mbuf, Memory, Mempool, MempoolConfig};
use switch_core::frame::Frame;

/// Mbufs of a pool for the conformance suite: more than all rings hold, with frames of several mbufs
/// among them.
pub(crate) const MBUFS: u32 = 8191;

pub(crate) fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    *EAL.get_or_init(|| {
        let config = EalConfig {
            memory: Memory::Pages { mib: 512 },
            file_prefix: format!("vsw-test-{}", std::process::id()),
            pci: false,
            avoid_cpus: Vec::new(),
            extra: Vec::new(),
        };
        Eal::init(&config).expect("the EAL starts without hugepages")
    })
}

/// A name that no other test of this process has.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn pool(mbufs: u32) -> Mempool {
    let config = MempoolConfig { name: unique("pool"), mbufs, ..MempoolConfig::default() };
    Mempool::new(eal(), &config).unwrap()
}

pub(crate) fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 % 251) as u8).collect()
}

pub(crate) fn content(frame: &Mbuf) -> Vec<u8> {
    let mut out = Vec::new();
    frame.copy_to(&mut out);
    assert_eq!(out.len(), frame.len());
    out
}

/// Address and length of every piece.
pub(crate) fn pieces(frame: &Mbuf) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    frame.for_each_segment(&mut |piece| pieces.push((piece.as_ptr().addr(), piece.len())));
    assert_eq!(pieces.len(), frame.segments());
    pieces
}

/// A frame of as many segments as there are lengths, filled with [`bytes`].
pub(crate) fn segmented(pool: Mempool, lengths: &[usize]) -> Mbuf {
    let all = bytes(lengths.iter().sum());
    let mut rest = &all[..];
    let mut parts = lengths.iter().map(|n| {
        let (now, later) = rest.split_at(*n);
        rest = later;
        pool.frame(now).unwrap()
    });
    let mut frame = parts.next().unwrap();
    parts.for_each(|part| frame.chain(part));
    frame
}

/// The far end of a `net_ring` device.
#[derive(Clone, Debug)]
pub(crate) struct FarEnd {
    pub(crate) to_switch: Ring,
    pub(crate) from_switch: Ring,
}

impl FarEnd {
    /// Rings for that many frames each way, and what a device is made of them with.
    pub(crate) fn new(frames: u32) -> (Self, Attach) {
        let to_switch = Ring::new(eal(), &unique("rx"), frames).unwrap();
        let from_switch = Ring::new(eal(), &unique("tx"), frames).unwrap();
        let attach = Attach::Rings {
            name: unique("far"),
            rx: vec![to_switch.clone()],
            tx: vec![from_switch.clone()],
        };
        (Self { to_switch, from_switch }, attach)
    }

    pub(crate) fn collect(&self) -> Vec<Mbuf> {
        std::iter::from_fn(|| self.from_switch.pop()).collect()
    }
}
