//! A switch on a virtual clock: loopback ports, real workers and housekeeping, driven by hand.
//!
//! When a lab ends without a panic, both ledgers of every port are exact and no buffer is missing.
//! All buffers are poisoned, so a byte that nobody wrote shows.

#![allow(dead_code, reason = "each of the tests that share it uses its part")]

pub(crate) mod overlay;
pub(crate) mod underlay;
pub(crate) mod watched;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded, unbounded};
use switch_core::bridge::{Block, LoopGuardConfig};
use switch_core::config::{PortConf, PortKind, PortSpec, PortVlans};
use switch_core::datapath::{Backend, Datapath, Wait};
use switch_core::event::WorkerEvent;
use switch_core::fdb::{Dest, Entry, FdbConfig, Flags, Flush, Key, Tick};
use switch_core::frame::{FramePool, HeapFrame, PoolConfig};
use switch_core::mirror::{MirrorConf, MirrorTo};
use switch_core::stats::{PortCounters, PortTotals, WorkerCounters};
use switch_core::switch::{Housekeeper, Switch};
use switch_core::testing::loopback::LoopbackQueue;
use switch_core::testing::{Loopback, LoopbackBackend, LoopbackPort, Packet, Wire};
use switch_core::wire::MacAddr;
use switch_core::worker::{Command, Worker};
use switch_core::{BridgeId, Domain, DropReason, Nanos, PortId, WorkerId};
use watched::Onlooker;

/// Byte that buffers are filled with.
pub(crate) const POISON: u8 = 0xa5;
/// Rounds after which a lab that is not quiet is left alone, looped cables most of all.
const ROUNDS_MAX: usize = 400;

thread_local! {
    /// Reasons that labs of this thread have seen.
    static CAUSED: RefCell<BTreeSet<DropReason>> = const { RefCell::new(BTreeSet::new()) };
}

/// The drop reasons that labs on this thread have caused since the last call.
pub(crate) fn take_caused() -> BTreeSet<DropReason> {
    CAUSED.with(|caused| std::mem::take(&mut *caused.borrow_mut()))
}

/// A port of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port(pub(crate) usize);

/// How a lab is built.
pub(crate) struct LabConfig {
    pub(crate) workers: usize,
    pub(crate) fdb: FdbConfig,
    pub(crate) pool: PoolConfig,
    pub(crate) guard: LoopGuardConfig,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            fdb: FdbConfig { max_total: 4096, max_per_bridge: 2048 },
            pool: PoolConfig { heads: 512, tails: 16, max_heads: 4096 },
            guard: LoopGuardConfig::default(),
        }
    }
}

/// What is set about a port before it is opened.
pub(crate) struct PortSetup {
    pub(crate) conf: PortConf,
    pub(crate) device: LoopbackPort,
}

struct LabPort {
    conf: PortConf,
    wire: Wire,
    /// One a worker.
    counters: Vec<Arc<PortCounters>>,
    open: bool,
}

struct LabWorker<D: Datapath> {
    worker: Worker<D>,
    commands: Sender<Command<D::Queue>>,
    counters: Arc<WorkerCounters>,
}

/// The datapaths that a lab can have.
pub(crate) trait LabDatapath: Datapath<Frame = HeapFrame, Queue = LoopbackQueue> {}
impl<D: Datapath<Frame = HeapFrame, Queue = LoopbackQueue>> LabDatapath for D {}

pub(crate) struct Lab<D: LabDatapath = Loopback> {
    pub(crate) switch: Arc<Switch>,
    pub(crate) now: Nanos,
    pub(crate) events: Vec<WorkerEvent>,
    pub(crate) blocked: Vec<Block>,
    backend: LoopbackBackend,
    pool: FramePool,
    workers: Vec<LabWorker<D>>,
    keeper: Housekeeper,
    ports: Vec<LabPort>,
    ageing: BTreeMap<usize, u32>,
    cables: Vec<(Port, Port)>,
    overlay: overlay::LabOverlay,
    onlooker: Option<Onlooker>,
    /// Ports that had copies of mirrors, which nobody watches.
    mirror_ends: BTreeSet<usize>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(LabConfig::default())
    }

    pub(crate) fn with(config: LabConfig) -> Self {
        Self::wrapped(config, |datapath| datapath)
    }
}

impl<D: LabDatapath> Lab<D> {
    /// A lab whose datapaths are what `wrap` makes of loopback ones.
    pub(crate) fn wrapped(config: LabConfig, mut wrap: impl FnMut(Loopback) -> D) -> Self {
        let switch = Switch::new(config.fdb);
        let mut backend = LoopbackBackend::new(config.pool);
        backend.poison(POISON);
        let workers = (0..config.workers as u16).map(|n| {
            let datapath = wrap(backend.worker(WorkerId(n)).unwrap());
            let (commands, inbox) = unbounded();
            let counters = Arc::<WorkerCounters>::default();
            let (switch, ours) = (Arc::clone(&switch), Arc::clone(&counters));
            let worker = Worker::new(WorkerId(n), datapath, switch, inbox, ours);
            LabWorker { worker, commands, counters }
        });
        let workers = workers.collect();
        let onlooker = Onlooker::begin(&switch);
        Self {
            onlooker,
            mirror_ends: BTreeSet::new(),
            keeper: Housekeeper::new(Arc::clone(&switch), config.guard),
            switch,
            // Not zero, so that "never" and "at the start" differ.
            now: Nanos::from_secs(1000),
            events: Vec::new(),
            blocked: Vec::new(),
            pool: backend.pool().clone(),
            backend,
            workers,
            ports: Vec::new(),
            ageing: BTreeMap::new(),
            cables: Vec::new(),
            overlay: overlay::LabOverlay::default(),
        }
    }

    // What is there.

    pub(crate) fn bridge(&mut self, n: u16) -> BridgeId {
        let id = BridgeId::new(n);
        self.set_bridge(id, true);
        id
    }

    pub(crate) fn set_bridge(&mut self, id: BridgeId, learning: bool) {
        let mut next = self.switch.snapshot().next();
        next.set_bridge(id, &format!("br{}", id.index()), learning);
        self.switch.publish(next);
    }

    pub(crate) fn set_ageing(&mut self, bridge: BridgeId, secs: u32) {
        self.ageing.insert(bridge.index(), secs);
    }

    /// A transparent port.
    pub(crate) fn port(&mut self, bridge: BridgeId) -> Port {
        self.port_with(|setup| setup.conf.bridge = Some(bridge))
    }

    pub(crate) fn vlan_port(&mut self, bridge: BridgeId, vlans: PortVlans) -> Port {
        self.port_with(|setup| {
            setup.conf.bridge = Some(bridge);
            setup.conf.vlans = vlans;
        })
    }

    pub(crate) fn port_with(&mut self, set: impl FnOnce(&mut PortSetup)) -> Port {
        let index = self.ports.len();
        let id = PortId::new(index as u16).unwrap();
        let name = format!("p{index}");
        let mut setup = PortSetup {
            conf: PortConf {
                id,
                name: name.as_str().into(),
                bridge: None,
                vlans: PortVlans::transparent(),
                isolated: false,
                loop_guard: true,
                storm: None,
                mtu: 1500,
                caps: Default::default(),
                gro: true,
                up: true,
                opened: index as u64,
                state: Arc::default(),
            },
            device: LoopbackPort::default(),
        };
        set(&mut setup);
        setup.device.mtu = setup.conf.mtu;
        setup.device.caps = setup.conf.caps;
        self.backend.configure(&name, setup.device);
        let kind =
            PortKind::Tap { device: name.clone(), netns: None, persist: false, queues: None };
        let open = self.backend.open_port(id, &PortSpec::new(&name, kind, None)).unwrap();
        let wire = self.backend.wires().get(&name).unwrap();
        let mut all_counters = Vec::new();
        for (worker, queue) in self.workers.iter_mut().zip(open.queues) {
            let counters = Arc::<PortCounters>::default();
            all_counters.push(Arc::clone(&counters));
            let (done, told) = bounded(1);
            worker.commands.send(Command::Attach { port: id, queue, counters, done }).unwrap();
            worker.worker.turn(Wait::No, || self.now);
            told.try_recv().expect("the worker attached the port");
        }
        let mut next = self.switch.snapshot().next();
        next.set_port(setup.conf.clone());
        self.switch.publish(next);
        self.ports.push(LabPort { conf: setup.conf, wire, counters: all_counters, open: true });
        Port(index)
    }

    /// Changes the configuration of a port while it runs.
    pub(crate) fn change(&mut self, port: Port, change: impl FnOnce(&mut PortConf)) {
        let conf = &mut self.ports[port.0].conf;
        change(conf);
        let mut next = self.switch.snapshot().next();
        next.set_port(conf.clone());
        self.switch.publish(next);
    }

    /// Replaces the mirrors.
    pub(crate) fn set_mirrors(&mut self, mirrors: Vec<Arc<MirrorConf>>) {
        let mut next = self.switch.snapshot().next();
        self.mirror_ends.extend(mirrors.iter().filter_map(|mirror| match mirror.to {
            MirrorTo::Port(port) => Some(port.index()),
            MirrorTo::Tunnel(tunnel) => Some(next.overlay().tunnel(tunnel)?.vtep.index()),
        }));
        next.set_mirrors(mirrors);
        self.switch.publish(next);
    }

    /// Takes a port out of the snapshot, as it is while it is attached and not yet published.
    pub(crate) fn unpublish(&mut self, port: Port) {
        let mut next = self.switch.snapshot().next();
        next.remove_port(self.id(port));
        self.switch.publish(next);
    }

    /// Closes a port as the control side does: out of the snapshot, detached, flushed, closed.
    pub(crate) fn close(&mut self, port: Port) {
        let id = self.id(port);
        let mut next = self.switch.snapshot().next();
        next.remove_port(id);
        self.switch.publish(next);
        let mut queues = Vec::new();
        for worker in &mut self.workers {
            let (done, told) = bounded(1);
            worker.commands.send(Command::Detach { port: id, done }).unwrap();
            worker.worker.turn(Wait::No, || self.now);
            queues.extend(told.try_recv().expect("the worker detached the port"));
        }
        assert_eq!(queues.len(), self.workers.len());
        self.switch.fdb().flush(&Flush::all().port(id).with_fixed());
        self.keeper.forget(id);
        self.backend.close_port(id, queues, true).unwrap();
        self.ports[port.0].open = false;
    }

    /// Connects the far ends of two ports.
    pub(crate) fn cable(&mut self, a: Port, b: Port) {
        self.cables.push((a, b));
    }

    pub(crate) fn id(&self, port: Port) -> PortId {
        self.ports[port.0].conf.id
    }

    pub(crate) fn conf(&self, port: Port) -> PortConf {
        self.ports[port.0].conf.clone()
    }

    pub(crate) fn wire(&self, port: Port) -> Wire {
        self.ports[port.0].wire.clone()
    }

    pub(crate) fn datapath(&mut self, worker: usize) -> &mut D {
        self.workers[worker].worker.datapath_mut()
    }

    pub(crate) fn set_burst(&mut self, burst: usize) {
        for worker in &mut self.workers {
            worker.worker.set_burst(burst);
        }
    }

    // What happens.

    /// Sends a frame into the switch and lets it settle.
    pub(crate) fn send(&mut self, port: Port, packet: impl Into<Packet>) {
        self.inject(port, packet);
        self.run();
    }

    /// Leaves a frame at a port; nothing runs yet.
    pub(crate) fn inject(&mut self, port: Port, packet: impl Into<Packet>) {
        assert!(self.ports[port.0].wire.inject(packet), "the ring of {port:?} is full");
    }

    /// One turn of every worker; cables carry what came out.
    pub(crate) fn round(&mut self) {
        for n in 0..self.workers.len() {
            self.turn(n);
        }
        for (a, b) in self.cables.clone() {
            let (a, b) = (self.wire(a), self.wire(b));
            for (from, to) in [(&a, &b), (&b, &a)] {
                for packet in from.collect() {
                    to.inject(packet);
                }
            }
        }
    }

    /// One turn of one worker.
    pub(crate) fn turn(&mut self, worker: usize) {
        let now = self.now;
        self.workers[worker].worker.turn(Wait::No, || now);
        if let Some(onlooker) = &mut self.onlooker {
            onlooker.look();
        }
    }

    /// Rounds until nothing moves any more (or [`ROUNDS_MAX`]).
    pub(crate) fn run(&mut self) {
        let mut quiet = 0;
        let mut before = self.all();
        for _ in 0..ROUNDS_MAX {
            self.round();
            let now = self.all();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
            if quiet > 2 {
                return;
            }
        }
    }

    /// Moves the clock on by whole seconds, with housekeeping in each.
    pub(crate) fn advance(&mut self, secs: u64) {
        for _ in 0..secs {
            self.advance_millis(1000);
        }
    }

    /// Moves the clock on, with one round of housekeeping.
    pub(crate) fn advance_millis(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        self.housekeep();
    }

    pub(crate) fn housekeep(&mut self) {
        let ageing = &self.ageing;
        let done = self
            .keeper
            .run(self.now, |bridge: BridgeId| ageing.get(&bridge.index()).copied().unwrap_or(300));
        self.events.extend(done.events);
        self.blocked.extend(done.blocked);
    }

    /// How many addresses are held because they moved too often.
    pub(crate) fn held(&self) -> usize {
        self.keeper.held()
    }

    // What is seen.

    /// Takes what came out of a port.
    pub(crate) fn received(&mut self, port: Port) -> Vec<Packet> {
        self.ports[port.0].wire.collect()
    }

    /// Requires that exactly these frames came out since the last look, each at its port and in
    /// this order at each port, and nothing anywhere else.
    #[track_caller]
    pub(crate) fn expect(&mut self, frames: &[(Port, &[u8])]) {
        for n in 0..self.ports.len() {
            let got: Vec<_> = self.received(Port(n)).into_iter().map(|p| p.bytes).collect();
            let want: Vec<_> =
                frames.iter().filter(|(p, _)| p.0 == n).map(|(_, f)| f.to_vec()).collect();
            assert_eq!(got, want, "at port {n}");
        }
    }

    /// Sends a frame and requires that it comes out unchanged at exactly these ports.
    #[track_caller]
    pub(crate) fn passes(&mut self, from: Port, frame: &[u8], to: &[Port]) {
        self.send(from, frame.to_vec());
        let frames: Vec<_> = to.iter().map(|port| (*port, frame)).collect();
        self.expect(&frames);
    }

    /// Sends a frame and requires that it is dropped on that port for that reason.
    #[track_caller]
    pub(crate) fn dropped(
        &mut self,
        from: Port,
        frame: impl Into<Packet>,
        on: Port,
        reason: DropReason,
    ) {
        let before = self.drops(on, reason);
        let others = self.all_drops();
        self.send(from, frame);
        self.expect(&[]);
        assert_eq!(self.drops(on, reason), before + 1, "{reason} on {on:?}: {:?}", self.all());
        assert_eq!(self.all_drops(), others + 1, "it is the only drop");
    }

    pub(crate) fn totals(&self, port: Port) -> PortTotals {
        let mut totals = PortTotals::default();
        for counters in &self.ports[port.0].counters {
            totals.add(&counters.totals());
        }
        totals
    }

    pub(crate) fn drops(&self, port: Port, reason: DropReason) -> u64 {
        self.totals(port).dropped_for(reason)
    }

    pub(crate) fn all_drops(&self) -> u64 {
        (0..self.ports.len()).map(|n| self.totals(Port(n)).dropped()).sum()
    }

    fn all(&self) -> Vec<PortTotals> {
        (0..self.ports.len()).map(|n| self.totals(Port(n))).collect()
    }

    pub(crate) fn worker_counters(&self, worker: usize) -> &WorkerCounters {
        &self.workers[worker].counters
    }

    pub(crate) fn in_use(&self) -> usize {
        self.pool.in_use()
    }

    /// The port an address is learned on.
    pub(crate) fn learned(&self, bridge: BridgeId, vid: u16, mac: MacAddr) -> Option<Port> {
        match self.entry(bridge, vid, mac)?.dest {
            Dest::Port(id) => Some(Port(id.index())),
            Dest::Remote(_) => None,
        }
    }

    pub(crate) fn entry(&self, bridge: BridgeId, vid: u16, mac: MacAddr) -> Option<Entry> {
        self.switch.fdb().peek(Key::new(mac, Domain::new(bridge, vid)))
    }

    pub(crate) fn set_entry(
        &self,
        bridge: BridgeId,
        vid: u16,
        mac: MacAddr,
        port: Port,
        flags: Flags,
    ) {
        let key = Key::new(mac, Domain::new(bridge, vid));
        let tick = Tick::from(self.now);
        self.switch.fdb().set(key, Dest::Port(self.id(port)), flags, tick).unwrap();
    }

    /// What every scenario ends with.
    fn audit(&mut self) {
        // A loop of cables would never end; and what runs after the scenario is no part of it.
        self.cables.clear();
        for port in &self.ports {
            if port.open {
                // Frames on their way in are taken first, or they would not be in the ledger yet.
                while port.wire.pending() > 0 {
                    let now = self.now;
                    for worker in &mut self.workers {
                        worker.worker.turn(Wait::No, || now);
                        if let Some(onlooker) = &mut self.onlooker {
                            onlooker.look();
                        }
                    }
                }
            }
        }
        self.run();
        let (mut forwarded, mut offered) = (0, 0);
        let (mut came, mut went) = (0, 0);
        for (n, totals) in self.all().into_iter().enumerate() {
            assert_eq!(totals.imbalance_in(), 0, "ingress ledger of port {n}: {totals:?}");
            assert_eq!(totals.imbalance_out(), 0, "egress ledger of port {n}: {totals:?}");
            forwarded += totals.forwarded;
            offered += totals.offered;
            came += totals.rx_frames + totals.copied + totals.originated;
            went += totals.tx_frames + totals.dropped() + totals.consumed;
            CAUSED.with(|caused| {
                let seen = DropReason::ALL.into_iter().filter(|r| totals.dropped_for(*r) > 0);
                caused.borrow_mut().extend(seen);
            });
        }
        assert_eq!(forwarded, offered, "what ports forwarded is what ports were offered");
        assert_eq!(came, went, "received + copied + originated = sent + dropped + consumed");
        if let Some(onlooker) = &self.onlooker {
            onlooker.compare(&self.all(), &self.mirror_ends);
        }
        self.audit_overlay();
        assert_eq!(self.in_use(), 0, "frames that nobody freed");
    }
}

impl<D: LabDatapath> Drop for Lab<D> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.audit();
        }
    }
}

/// A frame of `len` bytes with payload of its own.
pub(crate) fn frame(dst: MacAddr, src: MacAddr, len: usize) -> Vec<u8> {
    use switch_core::testing::frames::{ETHERTYPE_TEST, ethernet, pattern};
    let seed = (dst.to_u64() ^ src.to_u64().rotate_left(13)) as u32;
    ethernet(dst, src, ETHERTYPE_TEST, &pattern(seed, len - 14))
}

/// A short frame.
pub(crate) fn small(dst: MacAddr, src: MacAddr) -> Vec<u8> {
    frame(dst, src, 64)
}
