//! A datapath whose frames have headroom: what is sent comes back as the next frame of its source.
//!
//! As [`crate::treadmill`], with frames that can grow and shrink in front. Headers that a frame
//! lost are still in its buffer, so that only what varies from frame to frame is written anew.

use std::sync::Arc;

use switch_core::Batch;
use switch_core::batch::BURST_MAX;
use switch_core::datapath::{Datapath, Ready, Wait, Wake};
use switch_core::frame::{Frame, NoHeadroom, NoTailroom, Offload, TooShort};
use switch_core::ids::PortId;
use switch_core::stats::PortCounters;

use crate::treadmill::NoWait;

/// Where the inner frame begins in a buffer. GENEVE with an option over IPv6 is 64 bytes, and a tag
/// may come before that.
pub const INNER: usize = 128;
const ROOM: usize = INNER + 1408;
/// Bytes that vary around the start of the inner frame: the last four of the tunnel header, both
/// addresses, and a tag.
const FRONT: usize = 20;

/// A frame: a bare pointer, as an mbuf is.
#[derive(Debug)]
pub struct Parcel(Box<Buffer>);

#[derive(Clone, Debug)]
struct Buffer {
    start: u16,
    len: u16,
    offload: Offload,
    bytes: [u8; ROOM],
}

impl Parcel {
    /// A frame with these bytes, which are not more than 1,408.
    pub fn new(frame: &[u8]) -> Self {
        let mut bytes = [0; ROOM];
        bytes[INNER..INNER + frame.len()].copy_from_slice(frame);
        let (start, len) = (INNER as u16, frame.len() as u16);
        Self(Box::new(Buffer { start, len, offload: Offload::NONE, bytes }))
    }

    /// Takes off what was put in front of the inner frame, which has that length.
    #[inline]
    pub fn reset(&mut self, len: usize) {
        (self.0.start, self.0.len, self.0.offload) = (INNER as u16, len as u16, Offload::NONE);
    }

    /// The floor of encapsulation: copies a header in front of the inner frame, and that is all.
    #[inline]
    pub fn stamp(&mut self, header: &[u8]) {
        if let Some(start) = INNER.checked_sub(header.len()) {
            self.0.bytes[start..INNER].copy_from_slice(header);
            self.0.start = start as u16;
            self.0.len += header.len() as u16;
        }
    }
}

impl Frame for Parcel {
    #[inline]
    fn len(&self) -> usize {
        self.0.len.into()
    }

    #[inline]
    fn head(&self) -> &[u8] {
        let start = usize::from(self.0.start);
        &self.0.bytes[start..start + self.len()]
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        let (start, len) = (usize::from(self.0.start), self.len());
        &mut self.0.bytes[start..start + len]
    }

    fn for_each_segment<'a>(&'a self, f: &mut dyn FnMut(&'a [u8])) {
        f(self.head());
    }

    fn segments(&self) -> usize {
        1
    }

    fn headroom(&self) -> usize {
        self.0.start.into()
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> Result<&mut [u8], NoHeadroom> {
        if n > self.headroom() {
            return Err(NoHeadroom);
        }
        self.0.start -= n as u16;
        self.0.len += n as u16;
        self.0.offload = self.0.offload.pushed(n);
        Ok(&mut self.head_mut()[..n])
    }

    #[inline]
    fn trim_front(&mut self, n: usize) -> Result<(), TooShort> {
        if n > self.len() {
            return Err(TooShort);
        }
        self.0.start += n as u16;
        self.0.len -= n as u16;
        self.0.offload = self.0.offload.pulled(n);
        Ok(())
    }

    fn append(&mut self, _bytes: &[u8]) -> Result<(), NoTailroom> {
        Err(NoTailroom)
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.0.len = self.0.len.min(u16::try_from(len).unwrap_or(u16::MAX));
    }

    #[inline]
    fn offload(&self) -> Offload {
        self.0.offload
    }

    #[inline]
    fn set_offload(&mut self, offload: Offload) {
        self.0.offload = offload;
    }

    fn share(&mut self) -> Option<Self> {
        None
    }
}

/// Where that which varies is in a buffer, beside the front of the inner frame.
#[derive(Clone, Copy, Debug)]
pub struct Varies {
    /// The ports of the inner flow.
    pub ports: usize,
    /// The VNI, where it is not at the end of the tunnel header.
    pub vni: Option<usize>,
    /// The outer source address.
    pub source: Option<Source>,
}

/// The outer source address.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// IPv4, the header's checksum in front of it.
    V4(usize),
    /// IPv6.
    V6(usize),
}

/// What is written into a buffer before it is received.
#[derive(Clone, Copy, Debug)]
struct Patch {
    front: [u8; FRONT],
    ports: [u8; 4],
    vni: [u8; 4],
    source: [u8; 16],
}

fn bytes_at<const N: usize>(bytes: &[u8; ROOM], at: usize) -> [u8; N] {
    bytes[at..].first_chunk().copied().unwrap_or([0; N])
}

fn put_at<const N: usize>(bytes: &mut [u8; ROOM], at: usize, value: [u8; N]) {
    if let Some(room) = bytes[at..].first_chunk_mut() {
        *room = value;
    }
}

impl Patch {
    fn of(bytes: &[u8; ROOM], varies: &Varies) -> Self {
        let source = match varies.source {
            // The two bytes in front of an address in IPv4 are the checksum.
            Some(Source::V4(at)) => bytes_at(bytes, at - 2),
            Some(Source::V6(at)) => bytes_at(bytes, at),
            None => [0; 16],
        };
        Self {
            front: bytes_at(bytes, INNER - 4),
            ports: bytes_at(bytes, varies.ports),
            vni: varies.vni.map_or([0; 4], |at| bytes_at(bytes, at)),
            source,
        }
    }

    #[inline]
    fn apply(&self, bytes: &mut [u8; ROOM], varies: &Varies) {
        put_at(bytes, INNER - 4, self.front);
        put_at(bytes, varies.ports, self.ports);
        if let Some(at) = varies.vni {
            put_at(bytes, at, self.vni);
        }
        match varies.source {
            Some(Source::V4(at)) => {
                let [c0, c1, a0, a1, a2, a3, ..] = self.source;
                put_at(bytes, at - 2, [c0, c1, a0, a1, a2, a3]);
            }
            Some(Source::V6(at)) => put_at(bytes, at, self.source),
            None => {}
        }
    }
}

/// A port of the belt, and what comes in on it, over and over.
#[derive(Debug)]
struct Feed {
    port: PortId,
    patches: Vec<Patch>,
    next: usize,
}

/// The datapath: receives on its sources in turn, sends on any port.
#[derive(Debug)]
pub struct Belt {
    start: u16,
    len: u16,
    offload: Offload,
    varies: Varies,
    feeds: Vec<Feed>,
    turn: usize,
    idle: Vec<Parcel>,
    /// Frames that were sent.
    pub sent: u64,
}

impl Belt {
    /// A belt of copies of `model`, which are received with that offload metadata.
    pub fn new(model: &Parcel, offload: Offload, varies: Varies) -> Self {
        let Buffer { start, len, .. } = *model.0;
        let idle = (0..2 * BURST_MAX).map(|_| Parcel(model.0.clone())).collect();
        Self { start, len, offload, varies, feeds: Vec::new(), turn: 0, idle, sent: 0 }
    }

    /// One more frame that comes in on `port`. It differs from the model in nothing but what
    /// varies.
    pub fn feed(&mut self, port: PortId, frame: &Parcel) {
        let patch = Patch::of(&frame.0.bytes, &self.varies);
        match self.feeds.iter_mut().find(|feed| feed.port == port) {
            Some(feed) => feed.patches.push(patch),
            None => self.feeds.push(Feed { port, patches: vec![patch], next: 0 }),
        }
    }
}

impl Datapath for Belt {
    type Frame = Parcel;
    type Queue = ();

    fn attach(&mut self, _port: PortId, _queue: ()) -> Option<()> {
        None
    }

    fn detach(&mut self, _port: PortId) -> Option<()> {
        Some(())
    }

    fn poll(&mut self, _wait: Wait, ready: &mut Ready) {
        if let Some(feed) = self.feeds.get(self.turn) {
            ready.rx.push(feed.port);
        }
        self.turn += 1;
        if self.turn >= self.feeds.len() {
            self.turn = 0;
        }
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<Parcel>,
        counters: &PortCounters,
    ) -> usize {
        let before = batch.len();
        let Some(feed) = self.feeds.iter_mut().find(|feed| feed.port == port) else { return 0 };
        while !batch.is_full() {
            let Some(mut frame) = self.idle.pop() else { break };
            let buffer = &mut *frame.0;
            (buffer.start, buffer.len, buffer.offload) = (self.start, self.len, self.offload);
            if let Some(patch) = feed.patches.get(feed.next) {
                patch.apply(&mut buffer.bytes, &self.varies);
            }
            feed.next += 1;
            if feed.next >= feed.patches.len() {
                feed.next = 0;
            }
            let _ = batch.push(frame);
        }
        let got = (batch.len() - before) as u64;
        counters.rx_frames.add(got);
        counters.rx_bytes.add(got * u64::from(self.len));
        got as usize
    }

    fn tx_burst(&mut self, _port: PortId, batch: &mut Batch<Parcel>, counters: &PortCounters) {
        let n = batch.len() as u64;
        counters.tx_frames.add(n);
        counters.tx_bytes.add(n * u64::from(self.len));
        self.sent += n;
        // There is room: all frames come from here.
        while let Some(frame) = batch.pop() {
            self.idle.push(frame);
        }
    }

    fn tx_handed_over(&mut self, _port: PortId, _counters: &PortCounters) {}

    fn alloc(&mut self) -> Option<Parcel> {
        None
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWait)
    }
}
