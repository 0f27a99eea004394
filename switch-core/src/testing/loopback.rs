//! A backend whose devices are pairs of in-memory rings. The test holds the far end of each, a
//! [`Wire`], and sees what a device on the other side of a cable would see.
//!
//! Each port has one queue, owned by worker `port % workers`; the other workers reach it through
//! the hand-over ring, as with a kernel device that has a single queue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam::queue::{ArrayQueue, SegQueue};

use super::signal::Signal;
use crate::batch::{BURST, Batch};
use crate::config::PortSpec;
use crate::datapath::{
    Backend, BackendError, Caps, Datapath, DeviceDetails, OpenPort, OutsideLoss, PortEvent,
    PortEventKind, PortInfo, Ready, UnderlaySpec, Wait, Wake,
};
use crate::drop::DropReason;
use crate::frame::{
    Csum, Frame, FramePool, GsoKind, HEAD_CAPACITY, HEADROOM, HeapFrame, MAX_FRAME, Offload,
    PoolConfig,
};
use crate::handover::{HandoverRing, RING_FRAMES};
use crate::ids::{PortId, WorkerId};
use crate::segment::{VnetHeader, validate, vnet};
use crate::stats::PortCounters;

/// Shortest frame a port receives: an Ethernet header.
const ETH_HEADER: usize = 14;
/// Bursts that one [`Datapath::tx_handed_over`] sends at most.
const HANDOVER_BURSTS: usize = 4;

/// A frame on the far side of a port: bytes, and what is left undone about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// From the destination address to the payload, without FCS.
    pub bytes: Vec<u8>,
    /// Metadata as the device carries it.
    pub offload: Offload,
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::NONE }
    }
}

/// How a loopback device behaves.
#[derive(Clone, Debug)]
pub struct LoopbackPort {
    /// Largest layer-3 packet it says it takes, in bytes.
    pub mtu: u32,
    /// What it can send unfinished.
    pub caps: Caps,
    /// Longest frame that the device takes, in bytes; it refuses longer ones, which are then
    /// dropped as `tx-error` (as a kernel device does with EMSGSIZE).
    pub refuses_over: usize,
    /// Frames that wait for the switch; more are lost outside and show as `missed_rx`.
    pub rx_capacity: usize,
    /// Frames that wait for the far end; more are dropped as `tx-full`.
    pub tx_capacity: usize,
    /// Free bytes in front of a received frame, at most [`HEADROOM`]. Less than that breaks the
    /// promise of a datapath on purpose.
    pub headroom: usize,
    /// Frames that the hand-over ring of its queue holds.
    pub ring: usize,
    /// Whether it is a VTEP's: its packets may stand for several, as [`Offload::gso`] says.
    pub underlay: bool,
}

impl Default for LoopbackPort {
    fn default() -> Self {
        Self {
            mtu: 1500,
            caps: Caps::default(),
            refuses_over: MAX_FRAME,
            rx_capacity: 4096,
            tx_capacity: 4096,
            headroom: HEADROOM,
            ring: RING_FRAMES,
            underlay: false,
        }
    }
}

/// The two rings of a port, seen from both sides.
#[derive(Debug)]
struct Device {
    port: PortId,
    name: String,
    config: LoopbackPort,
    to_switch: ArrayQueue<Packet>,
    from_switch: ArrayQueue<Packet>,
    /// Frames that ever arrived for the switch; an edge-triggered (broken) datapath looks at it.
    arrivals: AtomicU64,
    missed_rx: AtomicU64,
    owner: Arc<Signal>,
    /// The way of the other workers' frames.
    ring: HandoverRing<HeapFrame>,
    events: Arc<SegQueue<PortEvent>>,
}

/// The far end of a loopback port; clones are the same end.
#[derive(Clone, Debug)]
pub struct Wire {
    device: Arc<Device>,
}

impl Wire {
    /// Sends a frame to the switch. False if the ring is full: the frame is then lost outside.
    pub fn inject(&self, packet: impl Into<Packet>) -> bool {
        let fits = self.device.to_switch.push(packet.into()).is_ok();
        if fits {
            self.device.arrivals.fetch_add(1, Ordering::Release);
            self.device.owner.wake();
        } else {
            self.device.missed_rx.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    /// The oldest frame that the switch sent and nobody took.
    pub fn take(&self) -> Option<Packet> {
        self.device.from_switch.pop()
    }

    /// Everything the switch sent that nobody took, oldest first. Bounded by the ring's size.
    pub fn collect(&self) -> Vec<Packet> {
        (0..self.device.config.tx_capacity.max(1)).map_while(|_| self.take()).collect()
    }

    /// Frames that wait for the switch.
    pub fn pending(&self) -> usize {
        self.device.to_switch.len()
    }

    /// Lets the backend report something about the device.
    pub fn report(&self, kind: PortEventKind) {
        self.device.events.push(PortEvent { port: self.device.port, kind });
    }

    /// Name of the port.
    pub fn name(&self) -> &str {
        &self.device.name
    }
}

/// The far ends of all open ports, by the name of the port. For tests that gave the backend away.
#[derive(Clone, Debug, Default)]
pub struct Wires(Arc<Mutex<HashMap<String, Wire>>>);

impl Wires {
    /// The far end of that port, if it is open.
    pub fn get(&self, port: &str) -> Option<Wire> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(port).cloned()
    }

    fn put(&self, wire: Wire) {
        let mut wires = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wires.insert(wire.device.name.clone(), wire);
    }

    fn remove(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Opens loopback devices.
#[derive(Debug)]
pub struct LoopbackBackend {
    pool: FramePool,
    poison: Option<u8>,
    signals: Vec<Arc<Signal>>,
    configs: HashMap<String, LoopbackPort>,
    open: HashMap<PortId, Arc<Device>>,
    wires: Wires,
    events: Arc<SegQueue<PortEvent>>,
}

impl Default for LoopbackBackend {
    fn default() -> Self {
        Self::new(PoolConfig { heads: 1024, tails: 16, max_heads: 16_384 })
    }
}

impl LoopbackBackend {
    /// A backend whose workers share one pool of that size.
    pub fn new(pool: PoolConfig) -> Self {
        Self {
            pool: FramePool::new(pool),
            poison: None,
            signals: Vec::new(),
            configs: HashMap::new(),
            open: HashMap::new(),
            wires: Wires::default(),
            events: Arc::default(),
        }
    }

    /// Fills each buffer with `byte` before a frame is written into it, so that stale bytes show.
    /// For the workers that are made afterwards.
    pub fn poison(&mut self, byte: u8) {
        self.poison = Some(byte);
    }

    /// Says how the device of the port named `port` behaves. For ports opened afterwards.
    pub fn configure(&mut self, port: &str, config: LoopbackPort) {
        self.configs.insert(port.to_owned(), config);
    }

    /// The far ends of the open ports; stays valid when the backend is given away.
    pub fn wires(&self) -> Wires {
        self.wires.clone()
    }

    /// The pool that all frames come from.
    pub fn pool(&self) -> &FramePool {
        &self.pool
    }

    fn open_device(
        &mut self,
        port: PortId,
        name: &str,
        config: LoopbackPort,
    ) -> Result<OpenPort<LoopbackQueue>, BackendError> {
        let fail = |cause: &str| BackendError::Failed {
            attempted: format!("opening port {name}"),
            cause: cause.into(),
            hint: None,
        };
        if self.open.contains_key(&port) {
            return Err(fail("it is open already"));
        }
        if self.signals.is_empty() {
            return Err(fail("there are no workers"));
        }
        let owner = port.index() % self.signals.len();
        let signal = Arc::clone(&self.signals[owner]);
        let ring = HandoverRing::new(config.ring, Arc::clone(&signal) as Arc<dyn Wake>);
        let device = Arc::new(Device {
            port,
            name: name.to_owned(),
            to_switch: ArrayQueue::new(config.rx_capacity.max(1)),
            from_switch: ArrayQueue::new(config.tx_capacity.max(1)),
            config,
            arrivals: AtomicU64::new(0),
            missed_rx: AtomicU64::new(0),
            owner: signal,
            ring,
            events: Arc::clone(&self.events),
        });
        self.wires.put(Wire { device: Arc::clone(&device) });
        self.open.insert(port, Arc::clone(&device));
        Ok(OpenPort {
            info: info(&device),
            queues: self.queues(&device),
            owner: WorkerId(owner as u16),
        })
    }

    /// A queue of the device for each worker.
    fn queues(&self, device: &Arc<Device>) -> Vec<LoopbackQueue> {
        let own = |signal| Arc::ptr_eq(signal, &device.owner);
        let queue = |signal| LoopbackQueue { device: Arc::clone(device), own: own(signal) };
        self.signals.iter().map(queue).collect()
    }
}

impl Backend for LoopbackBackend {
    type Datapath = Loopback;

    fn name(&self) -> &'static str {
        "loopback"
    }

    fn worker(&mut self, id: WorkerId) -> Result<Loopback, BackendError> {
        if id.index() != self.signals.len() {
            return Err(BackendError::Failed {
                attempted: format!("making the datapath of worker {}", id.0),
                cause: "workers are numbered from 0 without gaps".into(),
                hint: None,
            });
        }
        let signal = Arc::<Signal>::default();
        self.signals.push(Arc::clone(&signal));
        Ok(Loopback { pool: self.pool.clone(), poison: self.poison, signal, ports: Vec::new() })
    }

    fn open_port(
        &mut self,
        port: PortId,
        spec: &PortSpec,
    ) -> Result<OpenPort<LoopbackQueue>, BackendError> {
        let mut config = self.configs.get(&spec.name).cloned().unwrap_or_default();
        config.mtu = spec.mtu.map_or(config.mtu, u32::from);
        self.open_device(port, &spec.name, config)
    }

    fn open_vtep(
        &mut self,
        port: PortId,
        spec: &UnderlaySpec,
    ) -> Result<OpenPort<LoopbackQueue>, BackendError> {
        let mut config = self.configs.get(&spec.name).cloned().unwrap_or_default();
        (config.mtu, config.underlay) = (u32::from(u16::MAX), true);
        self.open_device(port, &spec.name, config)
    }

    /// A wire carries anything.
    fn adjust_vtep(
        &mut self,
        port: PortId,
        _new: &UnderlaySpec,
    ) -> Result<Option<Vec<LoopbackQueue>>, BackendError> {
        Ok(self.open.get(&port).map(|device| self.queues(device)))
    }

    fn close_port(
        &mut self,
        port: PortId,
        queues: Vec<LoopbackQueue>,
        _remove: bool,
    ) -> Result<(), BackendError> {
        drop(queues);
        if let Some(device) = self.open.remove(&port) {
            self.wires.remove(&device.name);
        }
        Ok(())
    }

    fn adjust_port(
        &mut self,
        _port: PortId,
        old: &PortSpec,
        new: &PortSpec,
    ) -> Result<bool, BackendError> {
        Ok(old.mtu == new.mtu && old.mac == new.mac && old.kind == new.kind)
    }

    fn port_info(&mut self, port: PortId) -> Option<PortInfo> {
        self.open.get(&port).map(|device| info(device))
    }

    fn outside_loss(&mut self, port: PortId) -> OutsideLoss {
        let missed = |d: &Arc<Device>| d.missed_rx.load(Ordering::Relaxed);
        OutsideLoss { missed_rx: self.open.get(&port).map_or(0, missed), lost_after_tx: 0 }
    }

    fn events(&mut self) -> Vec<PortEvent> {
        // As many as there are now: a test may be adding more.
        (0..self.events.len()).map_while(|_| self.events.pop()).collect()
    }
}

fn info(device: &Device) -> PortInfo {
    PortInfo {
        device: device.name.clone(),
        driver: "loopback".into(),
        mtu: device.config.mtu,
        mac: [0; 6],
        caps: device.config.caps,
        queues: 1,
        link_up: true,
        lost: Vec::new(),
        details: DeviceDetails::default(),
    }
}

/// A worker's way to one loopback port.
#[derive(Clone, Debug)]
pub struct LoopbackQueue {
    device: Arc<Device>,
    own: bool,
}

/// One worker's view of the loopback ports.
#[derive(Debug)]
pub struct Loopback {
    pool: FramePool,
    poison: Option<u8>,
    signal: Arc<Signal>,
    ports: Vec<Option<LoopbackQueue>>,
}

impl Loopback {
    fn queue(&self, port: PortId) -> Option<&LoopbackQueue> {
        self.ports.get(port.index())?.as_ref()
    }

    /// A second handle of an attached queue, for a datapath that does not let go.
    pub(crate) fn cloned_queue(&self, port: PortId) -> Option<LoopbackQueue> {
        self.queue(port).cloned()
    }

    /// Frames that ever arrived for `port`.
    pub(crate) fn arrivals(&self, port: PortId) -> u64 {
        self.queue(port).map_or(0, |q| q.device.arrivals.load(Ordering::Acquire))
    }

    /// Whether the far end of `port` has to take something before more can be sent.
    pub(crate) fn is_full(&self, port: PortId) -> bool {
        self.queue(port).is_some_and(|q| q.device.from_switch.is_full())
    }

    fn look(&self, ready: &mut Ready) {
        for queue in self.ports.iter().flatten().filter(|q| q.own) {
            if !queue.device.to_switch.is_empty() {
                ready.rx.push(queue.device.port);
            }
            if queue.device.ring.announced() {
                ready.handed_over.push(queue.device.port);
            }
        }
    }

    /// Makes a frame of what arrived, as a driver would: the bytes and then the metadata.
    fn receive(
        &self,
        packet: &Packet,
        config: &LoopbackPort,
    ) -> Result<Option<HeapFrame>, DropReason> {
        if packet.bytes.len() < ETH_HEADER {
            return Err(DropReason::Runt);
        }
        if packet.bytes.len() > MAX_FRAME {
            return Err(DropReason::Giant);
        }
        // As much as a frame's head would show.
        let head = &packet.bytes[..packet.bytes.len().min(HEAD_CAPACITY)];
        let joined = packet.offload.csum == Csum::Verified && packet.offload.gso.is_some();
        let offload = if config.underlay && joined {
            packet.offload
        } else {
            validate(head, packet.bytes.len(), &claim(packet.offload))
                .map_err(|_| DropReason::VnetHeader)?
        };
        let Some(mut frame) = self.empty_frame() else { return Ok(None) };
        let cut = HEADROOM.saturating_sub(config.headroom);
        frame.fill(&packet.bytes[cut.min(packet.bytes.len())..]);
        if let Ok(front) = frame.prepend(cut) {
            let n = cut.min(packet.bytes.len());
            front[..n].copy_from_slice(&packet.bytes[..n]);
        }
        frame.truncate(packet.bytes.len());
        frame.set_offload(offload);
        Ok(Some(frame))
    }

    /// A frame from the pool, poisoned if that was asked for.
    fn empty_frame(&self) -> Option<HeapFrame> {
        let mut frame = self.pool.alloc()?;
        if let Some(byte) = self.poison {
            let window = frame.rx_window();
            window.head.fill(byte);
            window.tail.fill(byte);
            frame.set_received(0);
            if let Ok(front) = frame.prepend(HEADROOM) {
                front.fill(byte);
            }
            let _ = frame.trim_front(HEADROOM);
        }
        Some(frame)
    }
}

/// The virtio header by which a device would hand this metadata over: a claim, to be checked.
fn claim(offload: Offload) -> VnetHeader {
    let mut header = VnetHeader::default();
    match offload.csum {
        Csum::Unknown => {}
        Csum::Verified => header.flags = vnet::F_DATA_VALID,
        Csum::Partial { start, offset } => {
            header.flags = vnet::F_NEEDS_CSUM;
            (header.csum_start, header.csum_offset) = (start, offset);
        }
    }
    if let Some(gso) = offload.gso {
        header.gso_size = gso.size;
        header.gso_type = match gso.kind {
            GsoKind::TcpV4 => vnet::GSO_TCPV4,
            GsoKind::TcpV6 => vnet::GSO_TCPV6,
            GsoKind::Udp => vnet::GSO_UDP_L4,
        };
        header.gso_type |= if gso.ecn { vnet::GSO_ECN } else { 0 };
    }
    header
}

impl Datapath for Loopback {
    type Frame = HeapFrame;
    type Queue = LoopbackQueue;

    fn attach(&mut self, port: PortId, queue: LoopbackQueue) -> Option<LoopbackQueue> {
        if self.ports.len() <= port.index() {
            self.ports.resize_with(port.index() + 1, || None);
        }
        self.ports[port.index()].replace(queue)
    }

    fn detach(&mut self, port: PortId) -> Option<LoopbackQueue> {
        self.ports.get_mut(port.index())?.take()
    }

    fn poll(&mut self, wait: Wait, ready: &mut Ready) {
        self.look(ready);
        let Wait::AtMost(time) = wait else { return };
        if ready.is_empty() {
            self.signal.wait_until(Instant::now() + time);
            self.look(ready);
        }
    }

    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<HeapFrame>,
        counters: &PortCounters,
    ) -> usize {
        let Some(queue) = self.queue(port).filter(|q| q.own) else { return 0 };
        let before = batch.len();
        // What becomes no frame must not hold up the worker: looked at twice the room at most.
        for _ in 0..2 * batch.room() {
            if batch.is_full() {
                break;
            }
            let Some(packet) = queue.device.to_switch.pop() else { break };
            match self.receive(&packet, &queue.device.config) {
                Ok(Some(frame)) => {
                    counters.rx_frames.add(1);
                    counters.rx_bytes.add(packet.bytes.len() as u64);
                    let _ = batch.push(frame);
                }
                // No buffer: lost outside of the switch, as in a NIC's empty ring.
                Ok(None) => {
                    queue.device.missed_rx.fetch_add(1, Ordering::Relaxed);
                }
                Err(reason) => {
                    counters.rx_frames.add(1);
                    counters.rx_bytes.add(packet.bytes.len() as u64);
                    counters.count_drop(reason, 1);
                }
            }
        }
        batch.len() - before
    }

    fn tx_burst(&mut self, port: PortId, batch: &mut Batch<HeapFrame>, counters: &PortCounters) {
        let Some(queue) = self.queue(port) else {
            counters.count_drop(DropReason::PortDown, batch.len() as u64);
            batch.clear();
            return;
        };
        if !queue.own {
            queue.device.ring.push(batch, counters);
            return;
        }
        for frame in batch.drain() {
            let mut packet = Packet { bytes: Vec::new(), offload: frame.offload() };
            frame.copy_to(&mut packet.bytes);
            let len = packet.bytes.len() as u64;
            if packet.bytes.len() > queue.device.config.refuses_over {
                counters.count_drop(DropReason::TxError, 1);
            } else if queue.device.from_switch.push(packet).is_ok() {
                counters.tx_frames.add(1);
                counters.tx_bytes.add(len);
            } else {
                counters.count_drop(DropReason::TxFull, 1);
            }
        }
    }

    fn tx_handed_over(&mut self, port: PortId, counters: &PortCounters) {
        let mut batch = Batch::with_limit(BURST);
        for _ in 0..HANDOVER_BURSTS {
            let Some(queue) = self.queue(port).filter(|q| q.own) else { return };
            queue.device.ring.pop(&mut batch);
            let all = !batch.is_full();
            self.tx_burst(port, &mut batch, counters);
            if all {
                return;
            }
        }
    }

    fn alloc(&mut self) -> Option<HeapFrame> {
        self.empty_frame()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.signal) as Arc<dyn Wake>
    }
}
