//! A switch with bridges, tenants' ports and tunnels, and a worker that carries frames one way.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::unbounded;
use switch_core::config::{PortConf, PortVlans, Snapshot, TunnelKind, TunnelSpec};
use switch_core::datapath::{Caps, Wait};
use switch_core::fdb::{Dest, FdbConfig, Key, Learn, Tick};
use switch_core::frame::{Csum, Frame, Offload};
use switch_core::ids::{BridgeId, Domain, PeerId, PortId, TunnelId, WorkerId};
use switch_core::stats::PortCounters;
use switch_core::switch::Switch;
use switch_core::testing::lossy::Rng;
use switch_core::tunnel::{
    self, Accepts, EncapFields, OuterHeader, OverlayCounters, PeerConf, Proto, TunnelConf,
    TunnelParts, VtepConf,
};
use switch_core::wire::geneve::OwnedOption;
use switch_core::wire::vlan::VlanId;
use switch_core::wire::{MacAddr, Vni};
use switch_core::worker::{Command, Worker};
use switch_core::{DropReason, Nanos};

use super::belt::{Belt, INNER, Parcel, Source, Varies};

/// Frames after which a workload repeats, at least.
const ORDER: usize = 1 << 14;
/// Networks in one bridge, a VLAN each, where there are more than one.
const VLANS: u32 = 4_000;
/// Remotes that the stations of a thousand flows are behind.
const REMOTES: u32 = 64;
/// Frames in a burst.
const BURST: usize = 32;

/// An encapsulation that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// VXLAN over IPv4.
    Vxlan,
    /// VXLAN over IPv6, with UDP checksums, which are left to the device.
    VxlanV6,
    /// GENEVE over IPv4.
    Geneve,
    /// GENEVE over IPv4 with an option of 8 bytes in all.
    GeneveOption,
    /// GRE with a key, over IPv4.
    Gre,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Vxlan, Self::VxlanV6, Self::Geneve, Self::GeneveOption, Self::Gre];

    /// Its name in tables and arguments.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::VxlanV6 => "vxlan-v6",
            Self::Geneve => "geneve",
            Self::GeneveOption => "geneve-opt",
            Self::Gre => "gre-key",
        }
    }

    fn tunnel(self, network: u32) -> TunnelKind {
        let vni = Vni::new(network + 1).expect("a VNI");
        let options = match self {
            Self::GeneveOption => vec![OwnedOption { class: 0x0102, typ: 1, data: vec![7; 4] }],
            _ => Vec::new(),
        };
        match self {
            Self::Vxlan | Self::VxlanV6 => {
                TunnelKind::Vxlan { vni, udp_port: TunnelKind::VXLAN_PORT }
            }
            Self::Geneve | Self::GeneveOption => {
                TunnelKind::Geneve { vni, udp_port: TunnelKind::GENEVE_PORT, options }
            }
            Self::Gre => {
                TunnelKind::Gre { key: Some(network + 1), checksum: false, sequence: false }
            }
        }
    }

    /// Address `n` of the underlay; the VTEP's own is 0.
    fn address(self, n: u32) -> IpAddr {
        if self == Self::VxlanV6 {
            IpAddr::from(((0x2001_0db8_u128 << 96) | u128::from(n + 1)).to_be_bytes())
        } else {
            IpAddr::from((0xc612_0001 + n).to_be_bytes())
        }
    }

    fn varies(self, tagged: bool, direction: Direction) -> Varies {
        let ports = INNER + 34 + if tagged { 4 } else { 0 };
        if direction != Direction::Decap {
            return Varies { ports, vni: None, source: None };
        }
        // Outer IP, then UDP or not, then the tunnel header.
        let (vni, source) = match self {
            Self::Vxlan | Self::Geneve => (None, Source::V4(INNER - 36 + 12)),
            Self::GeneveOption => (Some(INNER - 12), Source::V4(INNER - 44 + 12)),
            Self::Gre => (None, Source::V4(INNER - 28 + 12)),
            Self::VxlanV6 => (None, Source::V6(INNER - 56 + 8)),
        };
        Varies { ports, vni, source: Some(source) }
    }
}

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a tenant's port to another: no tunnel.
    Plain,
    /// From a tenant's port into a tunnel.
    Encap,
    /// Out of a tunnel to a tenant's port.
    Decap,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Encap, Self::Decap];

    /// Its name in arguments.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Encap => "encap",
            Self::Decap => "decap",
        }
    }
}

/// What is carried.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The encapsulation.
    pub kind: Kind,
    /// Bytes of an inner frame, its tag included: 64 to 1,400.
    pub inner: usize,
    /// Flows, each between stations of its own.
    pub flows: u32,
    /// Networks. One is a bridge without VLANs; more are VLANs, 4,000 to a bridge, whose frames
    /// are tagged at the tenants' ports and not in tunnels.
    pub networks: u32,
}

impl Load {
    /// Sizes, flows and networks that are measured of each kind.
    pub fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().flat_map(|kind| {
            [(64, 1, 1), (64, 1_000, 1), (64, 1, 10_000), (64, 1_000, 10_000)]
                .into_iter()
                .chain([(1_400, 1, 1), (1_400, 1_000, 1), (1_400, 1, 10_000)])
                .chain([(1_400, 1_000, 10_000)])
                .map(move |(inner, flows, networks)| Self { kind, inner, flows, networks })
        })
    }

    fn tagged(&self) -> bool {
        self.networks > 1
    }

    fn bridges(&self) -> u32 {
        self.networks.div_ceil(VLANS)
    }

    /// The bridge and VLAN of a network.
    fn domain(&self, network: u32) -> Domain {
        let vid = if self.tagged() { 1 + network % VLANS } else { 0 };
        Domain::new(BridgeId::new((network / VLANS) as u16), vid as u16)
    }

    /// The remote that a flow's far station is behind.
    pub(super) fn remote(&self, flow: u32) -> u32 {
        flow % self.flows.min(REMOTES)
    }

    pub(super) fn remotes(&self) -> u32 {
        self.flows.min(REMOTES)
    }

    /// Network and flow of each frame, in order.
    pub(super) fn order(&self) -> Vec<(u32, u32)> {
        let mut rng = Rng(0x0bad_5eed);
        let mut below = |n: u32| rng.below(n as usize) as u32;
        let len = ORDER.max(2 * self.networks as usize);
        (0..len).map(|_| (below(self.networks), below(self.flows))).collect()
    }

    /// The inner frame of a flow, from its near station to its far one or back.
    pub(super) fn frame(&self, flow: u32, vid: Option<u16>, back: bool) -> Vec<u8> {
        let (near, far) = (station(false, flow), station(true, flow));
        let (src, dst) = if back { (far, near) } else { (near, far) };
        let mut frame = [dst.octets(), src.octets()].concat();
        if let Some(vid) = vid {
            frame.extend([0x81, 0x00]);
            frame.extend(vid.to_be_bytes());
        }
        frame.extend([0x08, 0x00]);
        let len = (self.inner - frame.len()) as u16;
        frame.extend([0x45, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend((1_024 + flow as u16).to_be_bytes());
        frame.extend([0x13, 0x88]);
        frame.extend((len - 20).to_be_bytes());
        frame.resize(self.inner, 0);
        frame
    }
}

/// A station of a flow, near or far: locally administered, otherwise random.
fn station(far: bool, flow: u32) -> MacAddr {
    let mut rng = Rng(u64::from(flow) << 21 | u64::from(far) << 20);
    MacAddr::from_u64(rng.next_u64() & 0xfcff_ffff_ffff | 0x0200_0000_0000)
}

fn port(n: u32) -> PortId {
    PortId::new(n as u16).expect("a port number")
}

/// The port of the VTEP; tenants' come before.
const VTEP: u32 = 4_000;

fn port_conf(n: u32, bridge: Option<u32>) -> PortConf {
    PortConf {
        id: port(n),
        name: format!("p{n}").into(),
        bridge: bridge.map(|bridge| BridgeId::new(bridge as u16)),
        vlans: PortVlans::transparent(),
        isolated: false,
        loop_guard: true,
        storm: None,
        mtu: if n == VTEP { u16::MAX.into() } else { 1500 },
        // The kernel sums outer datagrams.
        caps: Caps { csum: n == VTEP, ..Caps::default() },
        gro: true,
        up: true,
        opened: n.into(),
        state: Arc::default(),
    }
}

/// Everything that workers know of a load.
pub(super) fn snapshot(load: &Load, earlier: &Snapshot) -> Snapshot {
    let (kind, local) = (load.kind, load.kind.address(0));
    let mut snapshot = earlier.next();
    snapshot.set_port(port_conf(VTEP, None));
    for n in 0..2 * load.bridges() {
        snapshot.set_port(port_conf(n, Some(n / 2)));
    }
    let proto = Proto::of(&kind.tunnel(0));
    let udp = match proto {
        Proto::Udp(port) => vec![(port, kind.tunnel(0).tunnel_type())],
        Proto::Gre => Vec::new(),
    };
    let overlay = snapshot.overlay_mut();
    overlay.set_vtep(VtepConf {
        port: port(VTEP),
        name: "vtep".into(),
        local,
        groups: Arc::default(),
        udp: udp.into(),
    });
    for n in 0..load.remotes() {
        let addr = kind.address(n + 1);
        overlay.set_peer(peer(n, proto, addr, OuterHeader::new(proto, local, addr)));
    }
    let peers: Arc<[PeerId]> = (0..load.remotes()).filter_map(PeerId::new).collect();
    for network in 0..load.networks {
        let domain = load.domain(network);
        let mut spec = TunnelSpec::new(format!("t{network}"), kind.tunnel(network), "");
        spec.vlan = VlanId::new(domain.vid()).ok();
        let parts = TunnelParts {
            id: TunnelId::new(network).expect("a tunnel number"),
            vtep: port(VTEP),
            local,
            bridge: domain.bridge(),
            flood: Arc::clone(&peers),
            accepts: Accepts::Listed(Arc::clone(&peers)),
            seen: &[],
            workers: 1,
            earlier: None,
        };
        snapshot.set_tunnel(TunnelConf::new(&spec, parts).expect("a tunnel"));
    }
    // Last, so that their lists are made once.
    for n in 0..load.bridges() {
        snapshot.set_bridge(BridgeId::new(n as u16), "br", true);
    }
    snapshot
}

fn peer(n: u32, proto: Proto, addr: IpAddr, outer: OuterHeader) -> PeerConf {
    PeerConf {
        id: PeerId::new(n).expect("a peer number"),
        vtep: port(VTEP),
        proto,
        addr,
        outer,
        state: Arc::default(),
        counters: OverlayCounters::each(1),
    }
}

/// A worker that carries a load one way.
#[derive(Debug)]
pub struct Rig {
    worker: Worker<Belt>,
    counters: Vec<Arc<PortCounters>>,
    epoch: Instant,
}

impl Rig {
    /// Sets it up, and carries a few bursts.
    ///
    /// # Panics
    /// If the switch does not do what it is told.
    pub fn new(load: &Load, direction: Direction) -> Self {
        let total = 1 << 20;
        let switch = Switch::new(FdbConfig { max_total: total, max_per_bridge: total });
        let published = snapshot(load, &switch.snapshot());
        let belt = belt(load, direction, &published);
        let (commands, inbox) = unbounded();
        let mut worker = Worker::new(WorkerId(0), belt, Arc::clone(&switch), inbox, Arc::default());
        worker.set_burst(BURST);
        let (done, attached) = unbounded();
        let mut counters = Vec::new();
        for conf in published.ports() {
            let ours: Arc<PortCounters> = Arc::default();
            counters.push(Arc::clone(&ours));
            let attach =
                Command::Attach { port: conf.id, queue: (), counters: ours, done: done.clone() };
            commands.send(attach).expect("the worker is there");
        }
        let ports = counters.len();
        switch.publish(published);
        let fdb = switch.fdb();
        let learn = |mac, domain, dest| {
            let key = Key::new(mac, domain);
            let learned = fdb.learn(key, fdb.hash(key), dest, Tick(0));
            assert!(matches!(learned, Learn::New | Learn::Refreshed), "{learned:?}");
        };
        for (network, flow) in load.order() {
            let domain = load.domain(network);
            let bridge = network / VLANS;
            let far = match direction {
                Direction::Plain => Dest::Port(port(2 * bridge + 1)),
                _ => Dest::Remote(load.remote(flow)),
            };
            learn(station(false, flow), domain, Dest::Port(port(2 * bridge)));
            learn(station(true, flow), domain, far);
        }
        let mut rig = Self { worker, counters, epoch: Instant::now() };
        rig.run(10 * BURST);
        assert_eq!(attached.try_iter().count(), ports, "the ports were not attached");
        rig
    }

    /// Carries at least that many frames; says how many.
    pub fn run(&mut self, frames: usize) -> usize {
        let mut done = 0;
        while done < frames {
            let epoch = self.epoch;
            let clock = || Nanos(epoch.elapsed().as_nanos() as u64);
            done += self.worker.turn(Wait::No, clock).frames;
        }
        done
    }

    /// Every frame came out where it was to.
    ///
    /// # Panics
    /// If one did not: then the figures mean nothing.
    pub fn check(&mut self) {
        let sum = |of: fn(&PortCounters) -> u64| self.counters.iter().map(|c| of(c)).sum::<u64>();
        let (rx, tx) = (sum(|c| c.rx_frames.get()), sum(|c| c.tx_frames.get()));
        let dropped = sum(|c| DropReason::ALL.into_iter().map(|r| c.dropped(r)).sum());
        assert_eq!((rx, dropped), (tx, 0), "the load was not carried");
        assert_eq!(self.worker.datapath_mut().sent, tx);
    }
}

/// The datapath with everything that comes in on it.
fn belt(load: &Load, direction: Direction, snapshot: &Snapshot) -> Belt {
    let tagged = load.tagged() && direction != Direction::Decap;
    // A backend takes outer checksums for as good as the kernel does.
    let csum = if direction == Direction::Decap { Csum::Verified } else { Csum::Unknown };
    let make = |(network, flow): (u32, u32)| {
        if direction == Direction::Decap {
            return packet(load, network, flow, snapshot);
        }
        let vid = tagged.then(|| load.domain(network).vid());
        Parcel::new(&load.frame(flow, vid, false))
    };
    let varies = load.kind.varies(tagged, direction);
    let mut belt = Belt::new(&make((0, 0)), Offload { csum, gso: None }, varies);
    for (network, flow) in load.order() {
        let from = if direction == Direction::Decap { VTEP } else { 2 * (network / VLANS) };
        belt.feed(port(from), &make((network, flow)));
    }
    belt
}

/// What a remote sends for a station here.
fn packet(load: &Load, network: u32, flow: u32, snapshot: &Snapshot) -> Parcel {
    let overlay = snapshot.overlay();
    let tunnel = TunnelId::new(network).and_then(|id| overlay.tunnel(id)).expect("the tunnel");
    let (here, there) = (load.kind.address(0), load.kind.address(load.remote(flow) + 1));
    let sends = peer(0, tunnel.proto, here, OuterHeader::new(tunnel.proto, there, here));
    let mut parcel = Parcel::new(&load.frame(flow, None, true));
    let fields = EncapFields { ttl: 64, ..EncapFields::default() };
    tunnel::encap(&mut parcel, tunnel, &sends, &fields).expect("a packet");
    assert_eq!(parcel.headroom() + tunnel.outer_len(here), INNER);
    parcel
}
