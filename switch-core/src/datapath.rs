//! What the switch asks of a backend: [`Datapath`], a worker's own view of the ports (hot), and
//! [`Backend`], which opens and closes them (cold).
//!
//! Both backends and all test datapaths pass the same conformance suite
//! (`testing::conformance`); every "must" below is one of its tests.

use std::fmt;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{BURST, Batch};
use crate::config::PortSpec;
use crate::fdb::Bucket;
use crate::frame::Frame;
use crate::ids::{PortId, WorkerId};
use crate::stats::PortCounters;

/// How long [`Datapath::poll`] may wait for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most this long; a frame, a hand-over or a [`Wake`] ends it.
    AtMost(Duration),
}

/// Which ports want attention. Kept by the worker and refilled by each poll.
#[derive(Debug, Default)]
pub struct Ready {
    /// Ports that may have frames to receive.
    pub rx: Vec<PortId>,
    /// Ports for which other workers left frames in the hand-over ring.
    pub handed_over: Vec<PortId>,
}

impl Ready {
    /// Empties both lists.
    pub fn clear(&mut self) {
        self.rx.clear();
        self.handed_over.clear();
    }

    /// Whether both are empty.
    pub fn is_empty(&self) -> bool {
        self.rx.is_empty() && self.handed_over.is_empty()
    }
}

/// Ends a worker's wait from another thread.
pub trait Wake: Send + Sync + fmt::Debug {
    /// Makes the present or the next [`Datapath::poll`] return at once.
    fn wake(&self);
}

/// A worker's own view of the ports. `Send`, used by exactly one thread.
///
/// Nothing in here fails: what goes wrong with a frame is a named drop on `counters`, what goes
/// wrong with a device is told by [`Backend::events`].
pub trait Datapath: Send {
    /// The frame of all its ports.
    type Frame: Frame;
    /// What connects this worker to one port: an own queue, or the way to the worker that has it.
    type Queue: Send;

    /// How many frames a worker takes from a port at once: more of them share what a burst costs, and
    /// take more of the caches. At most [`BURST_MAX`](crate::batch::BURST_MAX).
    const BURST: usize = BURST;

    /// How long an adaptive worker goes on polling after the last frame before it waits. What comes
    /// meanwhile is spared the wait's end; the longer, the more of the CPU is taken from others that
    /// have something to do on it, such as the switch at the other end of a cable.
    const LINGER: Duration = Duration::from_micros(15);

    /// Takes a port in. The port's earlier queue, if there is one, comes back.
    fn attach(&mut self, port: PortId, queue: Self::Queue) -> Option<Self::Queue>;

    /// Lets a port go. Afterwards nothing of this worker touches its device; the queue (and with it
    /// the file or the device) comes back so that the control side closes it.
    fn detach(&mut self, port: PortId) -> Option<Self::Queue>;

    /// Fills `ready` (which comes in empty) with the ports that want attention.
    ///
    /// A port that was reported stays reported until a receive has drained it.
    fn poll(&mut self, wait: Wait, ready: &mut Ready);

    /// Appends received frames, at most the batch's free room. Never blocks.
    ///
    /// Counts `rx_frames` and `rx_bytes`, and drops what no frame can be made of (runt, giant,
    /// invalid virtio header). A received frame is at least 14 bytes long, its offload metadata is
    /// validated, and its head is as [`Frame::head`] promises.
    fn rx_burst(
        &mut self,
        port: PortId,
        batch: &mut Batch<Self::Frame>,
        counters: &PortCounters,
    ) -> usize;

    /// Sends the frames in order. Takes every one and leaves the batch empty, whatever happens:
    /// each is counted as sent (`tx_frames`, `tx_bytes`), dropped by name, or handed over to the
    /// worker that owns the queue, which counts it then. Never blocks, never spins.
    ///
    /// Frames come with no more offload metadata left than [`PortInfo::caps`] allows.
    fn tx_burst(&mut self, port: PortId, batch: &mut Batch<Self::Frame>, counters: &PortCounters);

    /// Sends what other workers handed over for this port, at most a few bursts of it.
    fn tx_handed_over(&mut self, port: PortId, counters: &PortCounters);

    /// Drops by name whatever the port keeps back to send it later: it is about to be detached, and
    /// nobody could count it then.
    fn abandon(&mut self, port: PortId, counters: &PortCounters) {
        let _ = (port, counters);
    }

    /// An empty frame with headroom, or `None` when the pool is dry.
    fn alloc(&mut self) -> Option<Self::Frame>;

    /// Has a line of the FDB brought into the caches, without waiting for it. A backend that may
    /// use the processor's own instruction for it does.
    #[inline]
    fn fetch(line: &Bucket) {
        black_box(line.touch());
    }

    /// What ends this worker's wait.
    fn waker(&self) -> Arc<dyn Wake>;
}

/// Which unfinished work a port can send as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Unfinished TCP and UDP checksums.
    pub csum: bool,
    /// TCP super-frames over IPv4.
    pub tso4: bool,
    /// TCP super-frames over IPv6.
    pub tso6: bool,
    /// UDP super-frames.
    pub uso: bool,
}

impl Caps {
    /// Everything.
    pub const ALL: Self = Self { csum: true, tso4: true, tso6: true, uso: true };

    /// The same, but for super-frames.
    #[must_use]
    pub const fn without_super_frames(self) -> Self {
        Self { csum: self.csum, tso4: false, tso6: false, uso: false }
    }
}

/// What the control side learns about an open port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortInfo {
    /// The kernel's name of the device, or the DPDK device's.
    pub device: String,
    /// What drives it, for example `tun`, `af_packet` or a PMD's name.
    pub driver: String,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u32,
    /// Its address, as six bytes; zeroes if it has none.
    pub mac: [u8; 6],
    /// What it can send unfinished.
    pub caps: Caps,
    /// How many queues it has; for a VTEP, over how many UDP source ports it sends.
    pub queues: u16,
    /// Whether the link is up.
    pub link_up: bool,
    /// What the kernel or device refused and the port works without, in words.
    pub lost: Vec<String>,
    /// What else is known of the device.
    pub details: DeviceDetails,
}

/// What an operator may want to know of a device and the switch itself does not. What a backend
/// cannot tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceDetails {
    /// Receive queues.
    pub rx_queues: Option<u16>,
    /// Send queues.
    pub tx_queues: Option<u16>,
    /// The NUMA node it is attached to.
    pub numa_node: Option<u16>,
    /// Whether it takes frames for all addresses.
    pub promiscuous: Option<bool>,
    /// Its speed in Mbit/s.
    pub link_mbps: Option<u32>,
    /// Offloads in use on the way in, as the driver calls them.
    pub rx_offloads: Vec<String>,
    /// Offloads in use on the way out, as the driver calls them.
    pub tx_offloads: Vec<String>,
}

/// Something by which the backend as a whole is less than it could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendWarning {
    /// What it is about, for example `memory`.
    pub subject: String,
    /// What is wrong.
    pub message: String,
    /// The command or setting that mends it, if there is one.
    pub hint: Option<String>,
}

/// A pool that frames are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// Its name.
    pub name: String,
    /// How many buffers it has.
    pub buffers: u32,
    /// How many of them are free, exact while no frame is under way. Devices hold some for what
    /// they are about to receive.
    pub free: u32,
    /// Bytes of memory it takes.
    pub bytes: u64,
    /// Whether these are hugepages.
    pub hugepages: bool,
    /// The NUMA node it is on.
    pub numa_node: Option<u16>,
}

/// What the underlay port of a VTEP has to send and to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlaySpec {
    /// The VTEP's name.
    pub name: String,
    /// The address that packets are sent from and accepted at.
    pub local: IpAddr,
    /// The port whose device carries the packets; `None` leaves it to the kernel's routes.
    pub uplink: Option<String>,
    /// How many UDP source ports packets are spread over.
    pub entropy_ports: u16,
    /// UDP destination ports that tunnels listen at, ascending.
    pub udp: Vec<UdpListen>,
    /// Whether GRE is received.
    pub gre: bool,
    /// The ways in which UDP is sent, each once.
    pub send: Vec<UdpSend>,
}

/// A UDP destination port of a VTEP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpListen {
    /// The port.
    pub port: u16,
    /// Multicast groups to be a member of.
    pub groups: Vec<IpAddr>,
    /// Whether datagrams without a checksum are accepted over IPv6 (RFC 6935). Over IPv4 they are.
    pub accept_no_checksum: bool,
}

/// A way in which UDP is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UdpSend {
    /// With a checksum.
    pub checksum: bool,
    /// With the don't-fragment flag (IPv6 always is).
    pub df: bool,
}

/// A port that was opened: what is known of it, and a queue for each worker.
#[derive(Debug)]
pub struct OpenPort<Q> {
    /// What is known of it.
    pub info: PortInfo,
    /// One a worker, in the order of [`WorkerId`]: its own queue or the way to the owner's.
    pub queues: Vec<Q>,
    /// The worker that receives from it (the first, where there are several queues).
    pub owner: WorkerId,
}

/// Frames lost outside the switch, from the start of the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutsideLoss {
    /// Dropped before the switch saw them (a full socket buffer, `imissed`).
    pub missed_rx: u64,
    /// Accepted by the kernel from the switch and dropped later (the netdev's `tx_dropped`).
    pub lost_after_tx: u64,
}

/// Something that happened to a port's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEvent {
    /// The port.
    pub port: PortId,
    /// What happened.
    pub kind: PortEventKind,
}

/// What happened to a port's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortEventKind {
    /// The link came up.
    LinkUp,
    /// The link went down.
    LinkDown,
    /// The device is gone: the port must be closed, and can be opened again when it is back.
    Gone(String),
    /// The device of a port that waits for it may have appeared: try to open it again.
    Appeared,
    /// The MTU changed to this.
    Mtu(u32),
    /// The device refused frames, counted as `tx-error`; the last error, in words. Told rarely.
    TxError(String),
}

/// Why a backend could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The device is not there yet: the port waits for it.
    #[error("{what}: no such device")]
    NotThere {
        /// The device, in words.
        what: String,
    },
    /// It failed.
    #[error("{attempted}: {cause}")]
    Failed {
        /// What was attempted, on what.
        attempted: String,
        /// Why it failed.
        cause: String,
        /// The command or setting that mends it, if there is one.
        hint: Option<String>,
    },
    /// This backend has no such kind of port.
    #[error("{backend} has no ports of type {kind}")]
    Unsupported {
        /// Name of the backend.
        backend: &'static str,
        /// The kind asked for.
        kind: &'static str,
    },
}

impl BackendError {
    /// What mends it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Failed { hint, .. } => hint.as_deref(),
            Self::NotThere { .. } => Some("the port comes up by itself when the device appears"),
            Self::Unsupported { .. } => None,
        }
    }
}

/// The control side of a backend: opens and closes ports and makes one [`Datapath`] a worker.
///
/// All calls come from one thread. A queue is closed only after every worker has detached it.
pub trait Backend: Send {
    /// What its workers get.
    type Datapath: Datapath;

    /// Its name: `tap`, `dpdk`, `loopback`.
    fn name(&self) -> &'static str;

    /// Makes the datapath of worker `id`. Called once for each, before any port is opened.
    ///
    /// # Errors
    /// Whatever the system refuses.
    fn worker(&mut self, id: WorkerId) -> Result<Self::Datapath, BackendError>;

    /// Opens a port and makes its queues.
    ///
    /// # Errors
    /// [`BackendError::NotThere`] if the device may appear later; after any error nothing is left.
    fn open_port(
        &mut self,
        port: PortId,
        spec: &PortSpec,
    ) -> Result<OpenPort<<Self::Datapath as Datapath>::Queue>, BackendError>;

    /// Opens the underlay port of a VTEP. Its frames are IP packets: each begins with the outer IPv4
    /// or IPv6 header, in both directions, and nothing is in front of it.
    ///
    /// What is received was addressed to one of the ports, protocols or groups of `spec`. What is
    /// sent has a whole and right outer header, whose don't-fragment flag, TTL and traffic class
    /// hold; an unfinished checksum, if there is one, is that of outer UDP. Its UDP source port
    /// may be replaced by another one, the same for all packets that had the same.
    ///
    /// # Errors
    /// As [`Self::open_port`].
    fn open_vtep(
        &mut self,
        port: PortId,
        spec: &UnderlaySpec,
    ) -> Result<OpenPort<<Self::Datapath as Datapath>::Queue>, BackendError> {
        let _ = (port, spec);
        Err(BackendError::Unsupported { backend: self.name(), kind: "vtep" })
    }

    /// Changes what an open VTEP sends and receives, and costs what stays nothing: no packet of it
    /// is lost, sent twice or out of order, and flows keep their source ports. Answers with new
    /// queues, one a worker as from [`Self::open_vtep`], for the caller to attach in place of the
    /// earlier ones; those are dropped when every worker has let go of them. `None` means that the
    /// VTEP has to be closed and opened again.
    ///
    /// # Errors
    /// Whatever the system refuses; the VTEP stays as it was.
    fn adjust_vtep(
        &mut self,
        port: PortId,
        new: &UnderlaySpec,
    ) -> Result<Option<Vec<<Self::Datapath as Datapath>::Queue>>, BackendError> {
        let _ = (port, new);
        Ok(None)
    }

    /// The largest outer IP packet, in bytes, that reaches `remote` from a VTEP, by the underlay's
    /// routes and what it learned of paths; `None` if there is no route or nobody knows.
    fn path_mtu(&mut self, vtep: PortId, remote: IpAddr) -> Option<u32> {
        let _ = (vtep, remote);
        None
    }

    /// Begins to have another worker receive from a port: a queue for each worker, by which it hands
    /// frames over to `to`. When all of them have theirs, what they had before goes to
    /// [`Self::finish_move`]. Meanwhile frames wait, in the device and to be handed over.
    ///
    /// `None` if it receives already, or where a port's queues stay with their workers.
    fn begin_move(
        &mut self,
        port: PortId,
        to: WorkerId,
    ) -> Option<Vec<<Self::Datapath as Datapath>::Queue>> {
        let _ = (port, to);
        None
    }

    /// The queue with which the other worker receives; what was handed over to the earlier one is
    /// sent first.
    fn finish_move(
        &mut self,
        port: PortId,
        earlier: Vec<<Self::Datapath as Datapath>::Queue>,
    ) -> Option<<Self::Datapath as Datapath>::Queue> {
        let _ = (port, earlier);
        None
    }

    /// Closes a port. `queues` are all that were given out for it last. `remove` says that the
    /// port is deleted for good, so that what would persist (a TAP device) goes too.
    ///
    /// # Errors
    /// What could not be undone; the port is closed all the same.
    fn close_port(
        &mut self,
        port: PortId,
        queues: Vec<<Self::Datapath as Datapath>::Queue>,
        remove: bool,
    ) -> Result<(), BackendError>;

    /// Applies what can be changed while the port is open (MTU, address, link state) and says
    /// whether that was all: `false` means that the port has to be closed and opened again.
    ///
    /// # Errors
    /// Whatever the system refuses; the port stays as it was.
    fn adjust_port(
        &mut self,
        port: PortId,
        old: &PortSpec,
        new: &PortSpec,
    ) -> Result<bool, BackendError>;

    /// The state of an open port as the system tells it now.
    fn port_info(&mut self, port: PortId) -> Option<PortInfo>;

    /// Loss outside the switch.
    fn outside_loss(&mut self, port: PortId) -> OutsideLoss;

    /// What happened since the last call. Called a few times a second.
    fn events(&mut self) -> Vec<PortEvent>;

    /// Which worker polls each receive queue of an open port, in the order of the queues. Empty
    /// where there is one queue, which the owner polls.
    fn rx_workers(&self, port: PortId) -> Vec<WorkerId> {
        let _ = port;
        Vec::new()
    }

    /// What the device of an open port counts by itself, with its own names.
    fn device_counters(&mut self, port: PortId) -> Vec<(String, u64)> {
        let _ = port;
        Vec::new()
    }

    /// Shows it the memory of the FDB, which nobody uses yet: it may ask the system for larger
    /// pages. Called once, before any port is opened.
    fn take_fdb(&mut self, memory: &[Bucket]) {
        let _ = memory;
    }

    /// By what the backend itself is less than it could be.
    fn warnings(&self) -> Vec<BackendWarning> {
        Vec::new()
    }

    /// The pools that frames are made from, where they are not the heap.
    fn pools(&self) -> Vec<PoolUse> {
        Vec::new()
    }

    /// How often a second the processor's time stamp counter counts, if the backend knows.
    fn tsc_hz(&self) -> Option<u64> {
        None
    }
}
