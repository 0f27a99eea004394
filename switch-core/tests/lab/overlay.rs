//! VTEPs and tunnels of a lab, and their part of the audit.
//!
//! The far end of a VTEP's port is the underlay: packets there begin with the outer IP header.

use std::net::IpAddr;
use std::sync::Arc;

use switch_core::config::{PeerPolicy, TunnelKind, TunnelSpec, TunnelType};
use switch_core::drop::Side;
use switch_core::ids::{PeerId, TunnelId};
use switch_core::stats::PortTotals;
use switch_core::tunnel::{
    Accepts, OuterHeader, OverlayCounters, OverlayTotals, PeerConf, Proto, TunnelConf, TunnelParts,
    VtepConf,
};
use switch_core::{BridgeId, DropReason};

use super::{Lab, LabDatapath, Port, PortSetup};

/// A tunnel of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel(usize);

#[derive(Default)]
pub(super) struct LabOverlay {
    tunnels: Vec<(TunnelId, Port, Arc<[OverlayCounters]>)>,
    peers: Vec<(PeerId, Port, Arc<[OverlayCounters]>)>,
}

impl<D: LabDatapath> Lab<D> {
    /// A VTEP at that address.
    pub(crate) fn vtep(&mut self, local: &str) -> Port {
        self.vtep_with(local, |_| {})
    }

    pub(crate) fn vtep_with(&mut self, local: &str, set: impl FnOnce(&mut PortSetup)) -> Port {
        let port = self.port_with(|setup| {
            (setup.conf.mtu, setup.conf.loop_guard) = (u16::MAX.into(), false);
            setup.device.underlay = true;
            set(setup);
        });
        let mut next = self.switch.snapshot().next();
        next.overlay_mut().set_vtep(VtepConf {
            port: self.id(port),
            name: format!("v{}", port.0).into(),
            local: local.parse().unwrap(),
            groups: Arc::default(),
            udp: Arc::default(),
        });
        self.switch.publish(next);
        port
    }

    /// A tunnel of `bridge` to the remotes that the specification names.
    pub(crate) fn tunnel(&mut self, vtep: Port, bridge: BridgeId, spec: &TunnelSpec) -> Tunnel {
        let id = TunnelId::new(self.overlay.tunnels.len() as u32).unwrap();
        let proto = Proto::of(&spec.kind);
        let remotes: Vec<_> = spec.remotes.iter().flatten().copied().collect();
        let peers: Vec<_> = remotes.iter().map(|addr| self.add_peer(vtep, proto, *addr)).collect();
        let flood = match spec.group {
            Some(group) => vec![self.add_peer(vtep, proto, group)],
            None => peers.clone(),
        };
        let mut listed = peers;
        listed.sort_unstable();
        let mut next = self.switch.snapshot().next();
        let mut conf = VtepConf::clone(next.overlay().vtep(self.id(vtep)).unwrap());
        if let Proto::Udp(port) = proto
            && !conf.udp.iter().any(|(listens, _)| *listens == port)
        {
            let kind = spec.kind.tunnel_type();
            conf.udp = conf.udp.iter().copied().chain([(port, kind)]).collect();
        }
        conf.groups = conf.groups.iter().copied().chain(spec.group).collect();
        let parts = TunnelParts {
            id,
            vtep: conf.port,
            local: conf.local,
            bridge,
            flood: flood.into(),
            accepts: match spec.peers {
                PeerPolicy::Listed => Accepts::Listed(listed.into()),
                PeerPolicy::Any => Accepts::Any,
            },
            seen: &[],
            workers: self.workers.len(),
            earlier: None,
        };
        let tunnel = TunnelConf::new(spec, parts).unwrap();
        self.overlay.tunnels.push((id, vtep, Arc::clone(&tunnel.counters)));
        next.overlay_mut().set_vtep(conf);
        next.set_tunnel(tunnel);
        self.switch.publish(next);
        Tunnel(id.index())
    }

    /// Takes a tunnel out of the snapshot; its entries stay, as they do for a moment.
    pub(crate) fn remove_tunnel(&mut self, tunnel: Tunnel) {
        let mut next = self.switch.snapshot().next();
        next.remove_tunnel(self.overlay.tunnels[tunnel.0].0);
        self.switch.publish(next);
    }

    fn add_peer(&mut self, vtep: Port, proto: Proto, addr: IpAddr) -> PeerId {
        let snapshot = self.switch.snapshot();
        let port = self.id(vtep);
        if let Some(peer) = snapshot.overlay().peer_at(port, proto, addr) {
            return peer.id;
        }
        let local = snapshot.overlay().vtep(port).unwrap().local;
        let id = PeerId::new(self.overlay.peers.len() as u32).unwrap();
        let counters = OverlayCounters::each(self.workers.len());
        self.overlay.peers.push((id, vtep, Arc::clone(&counters)));
        let mut next = snapshot.next();
        next.overlay_mut().set_peer(PeerConf {
            id,
            vtep: port,
            proto,
            addr,
            outer: OuterHeader::new(proto, local, addr),
            state: Arc::default(),
            counters,
        });
        self.switch.publish(next);
        id
    }

    /// The peer at that address, whatever it speaks; the first one of several.
    pub(crate) fn peer(&self, vtep: Port, addr: &str) -> Arc<PeerConf> {
        let (port, addr): (_, IpAddr) = (self.id(vtep), addr.parse().unwrap());
        let snapshot = self.switch.snapshot();
        let mut peers = snapshot.overlay().peers();
        Arc::clone(peers.find(|peer| peer.vtep == port && peer.addr == addr).unwrap())
    }

    pub(crate) fn tunnel_totals(&self, tunnel: Tunnel) -> OverlayTotals {
        sum([&self.overlay.tunnels[tunnel.0].2])
    }

    pub(crate) fn peer_totals(&self, vtep: Port, addr: &str) -> OverlayTotals {
        sum([&self.peer(vtep, addr).counters])
    }

    /// Tunnels count what their VTEP's port counts, each its share.
    pub(super) fn audit_overlay(&self) {
        let snapshot = self.switch.snapshot();
        for vtep in snapshot.overlay().vteps() {
            let port = Port(vtep.port.index());
            let totals = self.totals(port);
            let tunnels = sum(self.overlay.tunnels.iter().filter(|t| t.1 == port).map(|t| &t.2));
            let peers = sum(self.overlay.peers.iter().filter(|p| p.1 == port).map(|p| &p.2));
            assert_eq!(tunnels.rx_frames, arrived(&totals), "{port:?}: {tunnels:?} {totals:?}");
            assert_eq!(tunnels.tx_frames, given_to_port(&totals), "{port:?}: {totals:?}");
            for reason in DropReason::OVERLAY {
                let count = dropped(&tunnels, *reason);
                assert_eq!(count, totals.dropped_for(*reason), "{reason} of {port:?}");
                assert!(dropped(&peers, *reason) <= count, "{reason} of the peers of {port:?}");
            }
            // Whatever is sent is sent to a peer; what arrives may be a stranger's.
            assert_eq!(
                (peers.tx_frames, peers.tx_bytes),
                (tunnels.tx_frames, tunnels.tx_bytes),
                "{port:?}"
            );
            assert!(peers.rx_frames <= tunnels.rx_frames, "{port:?}");
        }
    }
}

/// Packets that came out of a tunnel and into its bridge.
fn arrived(vtep: &PortTotals) -> u64 {
    use DropReason as R;
    const BEHIND: [DropReason; 6] = [
        R::SplitHorizon,
        R::NoDestination,
        R::Isolated,
        R::LoopGuard,
        R::VlanEgress,
        R::CopyFailed,
    ];
    let refused = DropReason::ALL
        .into_iter()
        .filter(|reason| reason.side() == Side::In && !BEHIND.contains(reason))
        .map(|reason| vtep.dropped_for(reason));
    vtep.rx_frames - refused.sum::<u64>()
}

/// Packets that were encapsulated and went into the port's batch.
fn given_to_port(vtep: &PortTotals) -> u64 {
    let lost = [DropReason::TxFull, DropReason::TxError, DropReason::HandoverFull];
    vtep.tx_frames + lost.map(|reason| vtep.dropped_for(reason)).iter().sum::<u64>()
}

pub(crate) fn dropped(totals: &OverlayTotals, reason: DropReason) -> u64 {
    totals.drops().find(|(r, _)| *r == reason).map_or(0, |(_, n)| n)
}

fn sum<'a>(counters: impl IntoIterator<Item = &'a Arc<[OverlayCounters]>>) -> OverlayTotals {
    let mut totals = OverlayTotals::default();
    for one in counters.into_iter().flat_map(|all| all.iter()) {
        totals.add(&one.totals());
    }
    totals
}

/// A tunnel with every default, to those remotes.
pub(crate) fn spec(kind: TunnelKind, remotes: &[&str]) -> TunnelSpec {
    let remotes = remotes.iter().map(|addr| addr.parse().unwrap()).collect();
    TunnelSpec { remotes: Some(remotes), ..TunnelSpec::new("t", kind, "br") }
}

/// The number of a network, which is at most 24 bits.
pub(crate) fn vni(number: u32) -> switch_core::wire::Vni {
    switch_core::wire::Vni::new(number).unwrap()
}

pub(crate) fn vxlan(number: u32) -> TunnelKind {
    TunnelKind::Vxlan { vni: vni(number), udp_port: TunnelKind::VXLAN_PORT }
}

pub(crate) fn geneve(number: u32) -> TunnelKind {
    let udp_port = TunnelKind::GENEVE_PORT;
    TunnelKind::Geneve { vni: vni(number), udp_port, options: Vec::new() }
}

pub(crate) fn gre(key: Option<u32>) -> TunnelKind {
    TunnelKind::Gre { key, checksum: false, sequence: false }
}

pub(crate) fn nvgre(number: u32) -> TunnelKind {
    TunnelKind::Nvgre { vsid: vni(number) }
}

pub(crate) fn erspan(session: u16) -> TunnelKind {
    TunnelKind::Erspan { session, index: 0xa_bcde }
}

/// The same network in each of the protocols that frames of a bridge are carried by.
pub(crate) fn every_kind(number: u32) -> [TunnelKind; 4] {
    let kinds = [vxlan(number), geneve(number), gre(Some(number)), nvgre(number)];
    assert_eq!(kinds.each_ref().map(TunnelKind::tunnel_type)[..], TunnelType::ALL[..4]);
    kinds
}
