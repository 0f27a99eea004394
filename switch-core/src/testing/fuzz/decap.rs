//! Packets from the underlay, whole: outer headers, tunnel header and frame.
//!
//! The input is two bytes of choices and a packet. A packet may be repaired first, as no fuzzer
//! guesses checksums and addresses; what the protocol under test reads stays as it is.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel::{bounded, unbounded};

use crate::Nanos;
use crate::bridge::admit_inner;
use crate::config::{InnerTags, PortConf, PortKind, PortSpec, PortVlans, Snapshot};
use crate::config::{TunnelKind, TunnelSpec, TunnelType};
use crate::datapath::{Backend, Wait};
use crate::drop::DropReason;
use crate::fdb::{FdbConfig, Flush};
use crate::frame::{
    Csum, Frame, FramePool, Gso, GsoKind, HEAD_CAPACITY, HeapFrame, Offload, PoolConfig,
};
use crate::ids::{BridgeId, PeerId, PortId, TunnelId, WorkerId};
use crate::segment::header_len;
use crate::stats::{PortCounters, PortTotals, WorkerCounters};
use crate::switch::Switch;
use crate::testing::frames::sum;
use crate::testing::{Loopback, LoopbackBackend, LoopbackPort, Packet, Wire};
use crate::tunnel::{
    self, Accepts, OuterHeader, OverlayCounters, PeerConf, Proto, TunnelConf, TunnelParts, VtepConf,
};
use crate::wire::Vni;
use crate::wire::geneve::OwnedOption;
use crate::worker::{Command, Worker};

/// The packet gets addresses, lengths and checksums with which it is looked at further.
const REPAIR: u8 = 1;
/// The kernel has verified the checksum.
const VERIFIED: u8 = 2;
/// A GRE checksum is made right.
const GRE_CHECKSUM: u8 = 4;
/// The packet stands for several, as a backend says that joined them.
const JOINED: u8 = 8;

const VXLAN_PORT: u16 = TunnelKind::VXLAN_PORT;
const GENEVE_PORT: u16 = TunnelKind::GENEVE_PORT;

/// VXLAN packets.
pub fn decap_vxlan(data: &[u8]) {
    decap(data, Proto::Udp(VXLAN_PORT));
}

/// GENEVE packets.
pub fn decap_geneve(data: &[u8]) {
    decap(data, Proto::Udp(GENEVE_PORT));
}

/// GRE and NVGRE packets.
pub fn decap_gre(data: &[u8]) {
    decap(data, Proto::Gre);
}

thread_local! {
    static RIG: RefCell<Rig> = RefCell::new(Rig::new());
}

fn decap(data: &[u8], proto: Proto) {
    let Some(([choice, cut], packet)) = data.split_first_chunk() else { return };
    let mut packet = packet.to_vec();
    if choice & REPAIR != 0 {
        repair(&mut packet, proto, choice & GRE_CHECKSUM != 0);
    }
    let csum = if choice & VERIFIED != 0 { Csum::Verified } else { Csum::Unknown };
    let size = u16::from(*cut) + 1;
    let gso = (choice & JOINED != 0).then_some(Gso { kind: GsoKind::TcpV4, size, ecn: false });
    let packet = Packet { bytes: packet, offload: Offload { csum, gso } };
    let vtep = usize::from(packet.bytes.first().is_some_and(|first| first >> 4 == 6));
    RIG.with_borrow_mut(|rig| {
        rig.opens_alike(vtep, &packet, 4 * usize::from(*cut));
        rig.runs(vtep, &packet);
    });
}

/// Local address and a peer's, as in the golden frames.
const VTEPS: [(&str, &str); 2] = [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn octets(text: &str) -> Vec<u8> {
    match address(text) {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Makes a packet of `proto` of what begins like IPv4 or IPv6; by hand, as this is to reach the code
/// under test and not to be it.
fn repair(packet: &mut [u8], proto: Proto, gre_checksum: bool) {
    let len = packet.len().min(65_535);
    let protocol = if proto == Proto::Gre { 47 } else { 17 };
    let v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let (local, remote) = VTEPS[usize::from(!v4)];
    let l4 = if v4 {
        let ihl = usize::from(packet[0] & 0xf) * 4;
        if ihl < 20 || len < ihl {
            return;
        }
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[6..8].fill(0);
        packet[8] |= 1;
        packet[9] = protocol;
        packet[10..12].fill(0);
        packet[12..16].copy_from_slice(&octets(remote));
        packet[16..20].copy_from_slice(&octets(local));
        let right = !sum(&packet[..ihl]);
        packet[10..12].copy_from_slice(&right.to_be_bytes());
        ihl
    } else {
        if len < 40 {
            return;
        }
        packet[0] = 0x60 | packet[0] & 0xf;
        packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        packet[6] = protocol;
        packet[7] |= 1;
        packet[8..24].copy_from_slice(&octets(remote));
        packet[24..40].copy_from_slice(&octets(local));
        40
    };
    let body = &mut packet[l4..len];
    match proto {
        Proto::Udp(port) if body.len() >= 8 => {
            body[2..4].copy_from_slice(&port.to_be_bytes());
            let len = body.len() as u16;
            body[4..6].copy_from_slice(&len.to_be_bytes());
            body[6..8].fill(0);
        }
        Proto::Gre if gre_checksum && body.len() >= 8 && body[0] & 0x80 != 0 => {
            body[4..6].fill(0);
            let right = !sum(body);
            body[4..6].copy_from_slice(&right.to_be_bytes());
        }
        _ => {}
    }
}

/// A switch with a VTEP of each family, tunnels of every kind and a tenant for each.
struct Rig {
    switch: Arc<Switch>,
    pool: FramePool,
    worker: Worker<Loopback>,
    vteps: Vec<(VtepConf, Wire)>,
    tenants: Vec<Wire>,
    counters: Vec<Arc<PortCounters>>,
}

impl Rig {
    fn new() -> Self {
        let switch = Switch::new(FdbConfig { max_total: 1024, max_per_bridge: 512 });
        let mut backend = LoopbackBackend::new(PoolConfig { heads: 8, tails: 4, max_heads: 64 });
        let (commands, inbox) = unbounded();
        let datapath = backend.worker(WorkerId(0)).unwrap();
        let pool = backend.pool().clone();
        let counters = Arc::<WorkerCounters>::default();
        let mut worker = Worker::new(WorkerId(0), datapath, Arc::clone(&switch), inbox, counters);
        let mut rig_counters = Vec::new();
        let mut snapshot = switch.snapshot().next();
        let mut open = |snapshot: &mut Snapshot, bridge: Option<BridgeId>| {
            let id = PortId::new(rig_counters.len() as u16).unwrap();
            let name = format!("p{}", id.index());
            let kind =
                PortKind::Tap { device: name.clone(), netns: None, persist: false, queues: None };
            let underlay = bridge.is_none();
            backend.configure(&name, LoopbackPort { underlay, ..LoopbackPort::default() });
            let opened = backend.open_port(id, &PortSpec::new(&name, kind, None)).unwrap();
            let counters = Arc::<PortCounters>::default();
            rig_counters.push(Arc::clone(&counters));
            let (done, told) = bounded(1);
            let queue = opened.queues.into_iter().next().unwrap();
            commands.send(Command::Attach { port: id, queue, counters, done }).unwrap();
            worker.turn(Wait::No, || Nanos::from_secs(1));
            told.try_recv().unwrap();
            snapshot.set_port(port_conf(id, &name, bridge));
            (id, backend.wires().get(&name).unwrap())
        };
        let vteps: Vec<_> = VTEPS
            .iter()
            .map(|(local, _)| {
                let (port, wire) = open(&mut snapshot, None);
                let udp = [(VXLAN_PORT, TunnelType::Vxlan), (GENEVE_PORT, TunnelType::Geneve)];
                let conf = VtepConf {
                    port,
                    name: "v".into(),
                    local: address(local),
                    groups: Arc::default(),
                    udp: udp.into(),
                };
                snapshot.overlay_mut().set_vtep(conf.clone());
                (conf, wire)
            })
            .collect();
        let mut tenants = Vec::new();
        for (n, _) in specs().iter().enumerate() {
            let bridge = BridgeId::new(n as u16);
            snapshot.set_bridge(bridge, "br", true);
            tenants.push(open(&mut snapshot, Some(bridge)).1);
        }
        add_tunnels(&mut snapshot, &vteps);
        switch.publish(snapshot);
        Self { switch, pool, worker, vteps, tenants, counters: rig_counters }
    }

    /// What one packet leaves behind that the next would meet.
    fn reset(&mut self) {
        if !self.switch.fdb().is_empty() {
            self.switch.fdb().flush(&Flush::all());
        }
        while self.switch.next_event().is_some() {}
        while self.switch.next_options().is_some() {}
        for tunnel in self.switch.snapshot().overlay().tunnels() {
            tunnel.sequences.iter().for_each(|(_, s)| s.rx.store(0, Ordering::Relaxed));
        }
    }

    /// Opened and taken out, a packet in one piece and in several is the same frame or the same
    /// drop; the frame is a part of the packet, but for a congestion mark.
    fn opens_alike(&mut self, vtep: usize, packet: &Packet, cut: usize) {
        let bytes = &packet.bytes;
        let Some(whole) = pieces(&self.pool, packet, 0) else { return };
        let Some(in_pieces) = pieces(&self.pool, packet, cut) else { return };
        self.reset();
        let first = self.take(vtep, whole, bytes);
        self.reset();
        assert_eq!(first, self.take(vtep, in_pieces, bytes));
        assert_eq!(self.pool.in_use(), 0);
    }

    fn take(
        &self,
        vtep: usize,
        mut frame: HeapFrame,
        packet: &[u8],
    ) -> Result<(TunnelId, Vec<u8>), DropReason> {
        let joined_of = frame.offload().gso.map(|gso| gso.size);
        let snapshot = self.switch.snapshot();
        let opened = tunnel::open(snapshot.overlay(), &self.vteps[vtep].0, &frame);
        let opened = opened.map_err(|refused| refused.reason)?;
        let (from, at) = opened.options;
        assert!(from <= at && at <= packet.len());
        opened.take_out(&mut frame).map_err(|refused| refused.reason)?;
        let mut inner = Vec::new();
        frame.copy_to(&mut inner);
        match frame.offload() {
            // A checksum that arrived unfinished is to be finished within the frame.
            Offload { csum: Csum::Partial { start, offset }, gso: None } => {
                assert!(usize::from(start) + usize::from(offset) + 2 <= inner.len());
            }
            Offload { csum: Csum::Partial { .. }, gso: Some(Gso { size, .. }) } => {
                assert_eq!(Some(size), joined_of);
                assert!(header_len(frame.head(), &frame.offload()).is_some());
            }
            offload => assert_eq!(offload, Offload::NONE),
        }
        assert!(inner.len() >= 14 && at + inner.len() <= packet.len());
        // The traffic class, and the checksum that covers it.
        let changed = inner.iter().zip(&packet[at..]).filter(|(a, b)| a != b).count();
        assert!(changed <= 3, "{changed} bytes of the frame are other than in the packet");
        admit_inner(opened.tunnel, frame.head())?;
        Ok((opened.tunnel.id, inner))
    }

    /// A worker gets the packet: it comes out at one tenant or is one drop, of which nothing is
    /// learned.
    fn runs(&mut self, vtep: usize, packet: &Packet) {
        self.reset();
        let before = self.totals();
        assert!(self.vteps[vtep].1.inject(packet.clone()));
        for _ in 0..3 {
            self.worker.turn(Wait::No, || Nanos::from_secs(2));
        }
        let after = self.totals();
        let dropped = after.dropped() - before.dropped();
        let came_out: Vec<_> = self.tenants.iter().flat_map(Wire::collect).collect();
        // What carries a super-frame comes out as its segments.
        let all = came_out.len() as u64 + dropped;
        assert!(all == 1 || packet.offload.gso.is_some() && all > 1 && dropped == 0);
        assert!(came_out.iter().all(|frame| frame.bytes.len() <= packet.bytes.len() + 4));
        let learned = self.switch.fdb().len();
        assert!(learned <= came_out.len() + usize::from(late_drop(&before, &after)));
        assert!(self.vteps.iter().all(|(_, wire)| wire.take().is_none()), "nothing goes back");
        assert_eq!((after.imbalance_in(), after.imbalance_out()), (0, 0));
        assert_eq!(self.pool.in_use(), 0);
    }

    fn totals(&self) -> PortTotals {
        let mut totals = PortTotals::default();
        self.counters.iter().for_each(|counters| totals.add(&counters.totals()));
        totals
    }
}

/// Whether a frame was dropped that had come in: its source is learned, and a second one never
/// because a frame has one source.
fn late_drop(before: &PortTotals, after: &PortTotals) -> bool {
    [DropReason::MtuExceeded, DropReason::SplitHorizon, DropReason::NoDestination]
        .into_iter()
        .any(|reason| after.dropped_for(reason) > before.dropped_for(reason))
}

/// The packet as a frame. With a `cut` of more than 0 its first bytes lie so far back in the head
/// that the others are in the tail.
fn pieces(pool: &FramePool, packet: &Packet, cut: usize) -> Option<HeapFrame> {
    let gap = cut.min(HEAD_CAPACITY);
    let mut frame = pool.alloc()?;
    frame.append(&vec![0; gap]).ok()?;
    frame.append(&packet.bytes).ok()?;
    frame.trim_front(gap).ok()?;
    frame.set_offload(packet.offload);
    Some(frame)
}

fn port_conf(id: PortId, name: &str, bridge: Option<BridgeId>) -> PortConf {
    PortConf {
        id,
        name: name.into(),
        bridge,
        vlans: PortVlans::transparent(),
        isolated: false,
        loop_guard: false,
        storm: None,
        mtu: u16::MAX.into(),
        caps: Default::default(),
        gro: true,
        up: true,
        opened: 0,
        state: Arc::default(),
    }
}

/// The networks of the golden frames, and some that differ in what they accept.
fn specs() -> Vec<TunnelSpec> {
    let vni = |number| Vni::new(number).unwrap();
    let option = OwnedOption { class: 0x0102, typ: 0x80, data: vec![0; 4] };
    let gre = |key, numbered| TunnelKind::Gre { key, checksum: numbered, sequence: numbered };
    let kinds = [
        TunnelKind::Vxlan { vni: vni(10_010), udp_port: VXLAN_PORT },
        TunnelKind::Vxlan { vni: vni(1), udp_port: VXLAN_PORT },
        TunnelKind::Geneve { vni: vni(10_010), udp_port: GENEVE_PORT, options: vec![option] },
        TunnelKind::Geneve { vni: vni(0), udp_port: GENEVE_PORT, options: vec![] },
        gre(None, false),
        gre(Some(10_010), true),
        TunnelKind::Nvgre { vsid: vni(0x271a) },
    ];
    let mut specs: Vec<_> =
        kinds.into_iter().map(|kind| TunnelSpec::new("t", kind, "br")).collect();
    // So that zero checksums get through over IPv6; what has none is dropped elsewhere.
    specs.iter_mut().for_each(|spec| spec.udp_checksum = Some(false));
    for strict in [1, 3, 4] {
        (specs[strict].tags, specs[strict].strict_reserved) = (InnerTags::Keep, true);
    }
    specs
}

fn add_tunnels(snapshot: &mut Snapshot, vteps: &[(VtepConf, Wire)]) {
    let (mut peers, mut tunnels) = (0, 0);
    for ((conf, _), (_, remote)) in vteps.iter().zip(VTEPS) {
        let mut ids = std::collections::HashMap::new();
        for proto in [Proto::Udp(VXLAN_PORT), Proto::Udp(GENEVE_PORT), Proto::Gre] {
            let id = PeerId::new(peers).unwrap();
            peers += 1;
            ids.insert(proto, id);
            snapshot.overlay_mut().set_peer(PeerConf {
                id,
                vtep: conf.port,
                proto,
                addr: address(remote),
                outer: OuterHeader::new(proto, conf.local, address(remote)),
                state: Arc::default(),
                counters: OverlayCounters::each(1),
            });
        }
        for (n, spec) in specs().iter().enumerate() {
            let peer: Arc<[PeerId]> = [ids[&Proto::of(&spec.kind)]].into();
            let parts = TunnelParts {
                id: TunnelId::new(tunnels).unwrap(),
                vtep: conf.port,
                local: conf.local,
                bridge: BridgeId::new(n as u16),
                flood: Arc::clone(&peer),
                accepts: Accepts::Listed(peer),
                seen: &[],
                workers: 1,
                earlier: None,
            };
            tunnels += 1;
            snapshot.set_tunnel(TunnelConf::new(spec, parts).unwrap());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds that are whole packets come as far as the frame in them: what is fuzzed is not only
    /// the first header.
    #[test]
    fn seeds_reach_the_frame() {
        let corpora = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let mut rig = Rig::new();
        for (target, proto, names) in [
            ("decap_vxlan", Proto::Udp(VXLAN_PORT), &["vxlan", "vxlan-ipv6"][..]),
            ("decap_geneve", Proto::Udp(GENEVE_PORT), &["geneve-options", "geneve-bad-option"]),
            ("decap_gre", Proto::Gre, &["gre-teb", "gre-all-fields", "nvgre"]),
        ] {
            for name in names {
                let path = corpora.join(target).join(format!("{name}-repaired"));
                let mut packet = std::fs::read(path).unwrap().split_off(2);
                repair(&mut packet, proto, true);
                let vtep = usize::from(packet[0] >> 4 == 6);
                rig.reset();
                let frame = rig.pool.frame(&packet).unwrap();
                let result = rig.take(vtep, frame, &packet).map(|(_, inner)| inner.len());
                let expected = match *name {
                    "geneve-bad-option" => Err(DropReason::GeneveOptions),
                    _ => Ok(14 + 60),
                };
                assert_eq!(result, expected, "{name}");
            }
        }
    }
}
