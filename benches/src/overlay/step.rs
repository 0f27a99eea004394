//! The step of encapsulation alone, and its floor.

use std::sync::Arc;

use switch_core::config::Snapshot;
use switch_core::frame::Frame;
use switch_core::ids::{PeerId, TunnelId};
use switch_core::tunnel::{EncapFields, Inner, PeerConf, TunnelConf, encap};

use super::belt::{INNER, Parcel};
use super::rig::{Load, snapshot};

/// Frames that go in front of one another, as many as a burst.
const FRAMES: usize = 32;

/// Frames, the tunnels they go into in turn, and the headers they get.
#[derive(Debug)]
pub struct Step {
    frames: Vec<Parcel>,
    inner: usize,
    order: Vec<(Arc<TunnelConf>, Arc<PeerConf>)>,
    /// The template of each frame of the order: outer headers and tunnel header in one piece.
    headers: Vec<Box<[u8]>>,
    templates: Vec<u32>,
    fields: EncapFields,
    next: usize,
}

impl Step {
    /// Frames of that load.
    ///
    /// # Panics
    /// If there is no tunnel to carry it.
    pub fn new(load: &Load) -> Self {
        let known = snapshot(load, &Snapshot::default());
        let tunnel = |n| TunnelId::new(n).and_then(|id| known.overlay().tunnel(id));
        let peer = |n| PeerId::new(n).and_then(|id| known.overlay().peer(id));
        let order = load.order();
        let frame = load.frame(0, None, false);
        let fields = EncapFields { ttl: 64, hash: 0x1234_5678, ..EncapFields::default() };
        let header = |n| {
            let (tunnel, peer) = (tunnel(n).expect("a tunnel"), peer(0).expect("a peer"));
            let mut parcel = Parcel::new(&frame);
            encap(&mut parcel, tunnel, peer, &fields).expect("a packet");
            parcel.head()[..INNER - parcel.headroom()].into()
        };
        let both = |(network, flow): &(u32, u32)| {
            let peer = peer(load.remote(*flow)).expect("a peer");
            (Arc::clone(tunnel(*network).expect("a tunnel")), Arc::clone(peer))
        };
        Self {
            frames: (0..FRAMES).map(|_| Parcel::new(&frame)).collect(),
            inner: frame.len(),
            headers: (0..load.networks).map(header).collect(),
            templates: order.iter().map(|(network, _)| *network).collect(),
            order: order.iter().map(both).collect(),
            fields,
            next: 0,
        }
    }

    fn advance(&mut self) -> usize {
        let at = self.next;
        self.next = if at + FRAMES < self.order.len() { at + FRAMES } else { 0 };
        at
    }

    /// Copies each frame's template in front of it.
    pub fn copy(&mut self, frames: usize) -> usize {
        let bursts = frames.div_ceil(FRAMES);
        for _ in 0..bursts {
            let at = self.advance();
            for (frame, template) in self.frames.iter_mut().zip(self.templates.iter().skip(at)) {
                frame.reset(self.inner);
                if let Some(header) = self.headers.get(*template as usize) {
                    frame.stamp(header);
                }
            }
            std::hint::black_box(&mut self.frames);
        }
        bursts * FRAMES
    }

    /// Encapsulates each frame; what the outer header takes over from it is given.
    pub fn encap(&mut self, frames: usize) -> usize {
        let fields = self.fields;
        self.each(frames, |_, _| fields)
    }

    /// Encapsulates each frame, with what its outer header takes over read from it.
    pub fn encap_flow(&mut self, frames: usize) -> usize {
        self.each(frames, |frame, tunnel| EncapFields::new(tunnel, &Inner::of(frame.head())))
    }

    #[inline(always)]
    fn each(
        &mut self,
        frames: usize,
        fields: impl Fn(&Parcel, &TunnelConf) -> EncapFields,
    ) -> usize {
        let bursts = frames.div_ceil(FRAMES);
        for _ in 0..bursts {
            let at = self.advance();
            for (frame, (tunnel, peer)) in self.frames.iter_mut().zip(self.order.iter().skip(at)) {
                frame.reset(self.inner);
                let fields = std::hint::black_box(fields(frame, tunnel));
                let _ = std::hint::black_box(encap(frame, tunnel, peer, &fields));
            }
            std::hint::black_box(&mut self.frames);
        }
        bursts * FRAMES
    }

    /// What the floor writes is what encapsulation writes, but for what varies.
    ///
    /// # Panics
    /// If not.
    pub fn check(&mut self) {
        self.next = 0;
        self.encap(FRAMES);
        for frame in &self.frames {
            assert!(frame.len() > self.inner, "a frame was not encapsulated");
        }
        self.next = 0;
        self.copy(FRAMES);
        for (frame, template) in self.frames.iter().zip(&self.templates) {
            let header = self.headers.get(*template as usize).expect("a template");
            assert_eq!(frame.headroom() + header.len(), INNER);
            assert!(frame.head().starts_with(header));
        }
    }
}
