//! A datapath whose frames go round: what is sent is received again with the next addresses.
//!
//! It does what any datapath must (hand frames over by value, count them) and nothing more: no
//! memory is allocated, nothing is copied but the twelve bytes of addresses. Its frame is a bare
//! pointer, as an mbuf is. What is left to measure is the switch.

use std::sync::Arc;

use switch_core::Batch;
use switch_core::datapath::{Datapath, Ready, Wait, Wake};
use switch_core::frame::{Frame, NoHeadroom, NoTailroom, Offload, TooShort};
use switch_core::ids::PortId;
use switch_core::stats::PortCounters;

/// Bytes of each frame: the shortest Ethernet frame, without FCS.
const LEN: usize = 60;

/// A frame of 60 bytes.
#[derive(Debug)]
pub struct Recycled(Box<[u8; LEN]>);

impl Frame for Recycled {
    fn len(&self) -> usize {
        LEN
    }

    fn head(&self) -> &[u8] {
        &self.0[..]
    }

    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.0[..]
    }

    fn for_each_segment<'a>(&'a self, f: &mut dyn FnMut(&'a [u8])) {
        f(&self.0[..]);
    }

    fn segments(&self) -> usize {
        1
    }

    fn headroom(&self) -> usize {
        0
    }

    fn prepend(&mut self, _n: usize) -> Result<&mut [u8], NoHeadroom> {
        Err(NoHeadroom)
    }

    fn trim_front(&mut self, _n: usize) -> Result<(), TooShort> {
        Err(TooShort)
    }

    fn append(&mut self, _bytes: &[u8]) -> Result<(), NoTailroom> {
        Err(NoTailroom)
    }

    fn truncate(&mut self, _len: usize) {}

    fn offload(&self) -> Offload {
        Offload::NONE
    }

    fn set_offload(&mut self, _offload: Offload) {}

    fn share(&mut self) -> Option<Self> {
        None
    }
}

/// A wait that nothing ends: the treadmill is never told to wait.
#[derive(Debug)]
pub(crate) struct NoWait;

impl Wake for NoWait {
    fn wake(&self) {}
}

/// The datapath: receives on one port, sends on any.
#[derive(Debug)]
pub struct Treadmill {
    from: PortId,
    idle: Vec<Recycled>,
    /// Destination and source of the frames, one after the other, over and over.
    addresses: Arc<[[u8; 12]]>,
    next: usize,
    /// Frames that were sent.
    pub sent: u64,
}

impl Treadmill {
    /// A treadmill that receives on `from`. `addresses` must not be empty.
    pub fn new(from: PortId, addresses: Arc<[[u8; 12]]>) -> Self {
        let mut bytes = [0; LEN];
        // An IPv4 packet by its type, which is all that bridging looks at.
        bytes[12..14].copy_from_slice(&[0x08, 0x00]);
        let idle = (0..2 * switch_core::batch::BURST_MAX).map(|_| Recycled(Box::new(bytes)));
        Self { from, idle: idle.collect(), addresses, next: 0, sent: 0 }
    }
}

impl Datapath for Treadmill {
    type Frame = Recycled;
    type Queue = ();

    fn attach(&mut self, _port: PortId, _queue: ()) -> Option<()> {
        None
    }

    fn detach(&mut self, _port: PortId) -> Option<()> {
        Some(())
    }

    fn poll(&mut self, _wait: Wait, ready: &mut Ready) {
        ready.rx.push(self.from);
    }

    fn rx_burst(
        &mut self,
        _port: PortId,
        batch: &mut Batch<Recycled>,
        counters: &PortCounters,
    ) -> usize {
        let before = batch.len();
        while !batch.is_full() {
            let Some(mut frame) = self.idle.pop() else { break };
            if let Some(addresses) = self.addresses.get(self.next) {
                frame.0[..12].copy_from_slice(addresses);
            }
            self.next += 1;
            if self.next >= self.addresses.len() {
                self.next = 0;
            }
            let _ = batch.push(frame);
        }
        let got = batch.len() - before;
        counters.rx_frames.add(got as u64);
        counters.rx_bytes.add((got * LEN) as u64);
        got
    }

    fn tx_burst(&mut self, _port: PortId, batch: &mut Batch<Recycled>, counters: &PortCounters) {
        let n = batch.len() as u64;
        counters.tx_frames.add(n);
        counters.tx_bytes.add(n * LEN as u64);
        self.sent += n;
        // There is room: all frames come from here.
        while let Some(frame) = batch.pop() {
            self.idle.push(frame);
        }
    }

    fn tx_handed_over(&mut self, _port: PortId, _counters: &PortCounters) {}

    fn alloc(&mut self) -> Option<Recycled> {
        None
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWait)
    }
}
