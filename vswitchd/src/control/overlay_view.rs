//! Answers about VTEPs, tunnels and their peers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use switch_core::config::{InnerTags, PeerPolicy, TunnelKind, TunnelSpec};
use switch_core::datapath::Backend;
use switch_core::fdb::Dest;
use switch_core::tunnel::{OverlayCounters, OverlayTotals, PeerState, Proto};
use switch_core::{PeerId, TunnelId};
use vswitch_api::ApiError;
use vswitch_api::types::{
    DropCount, MtuReply, ObjectKind, Overhead, PortMtu, ReceivedOption, TunnelConfig,
    TunnelCounters, TunnelMtu, TunnelPeer, TunnelStatus, VtepConfig, VtepStatus,
};

use super::mtu::share;
use super::mutate::no_such_tunnel;
use super::overlay::tunnel_to;
use super::peers::ListId;
use super::ports::vlans;
use super::tunnels::{Tunnel, vtep_of};
use super::view::port_state;
use super::{Controller, Queue};

/// Which tunnels are asked for.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelFilter {
    /// The one of this name.
    #[serde(skip)]
    pub name: Option<String>,
    /// Those in this bridge.
    pub bridge: Option<String>,
    /// Those that end at this VTEP.
    pub vtep: Option<String>,
}

/// How many FDB entries are behind each tunnel and each peer.
#[derive(Debug, Default)]
pub(super) struct Behind {
    pub(super) tunnels: HashMap<TunnelId, u64>,
    pub(super) peers: HashMap<PeerId, u64>,
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    pub(super) fn vteps_status(&mut self) -> Vec<VtepStatus> {
        let mut tunnels: BTreeMap<&str, u64> = BTreeMap::new();
        for spec in self.desired.tunnels.values() {
            if let Some(vtep) = vtep_of(&self.desired, spec) {
                *tunnels.entry(&vtep.name).or_default() += 1;
            }
        }
        let tunnels: BTreeMap<String, u64> =
            tunnels.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let names: Vec<String> = self.vteps.keys().cloned().collect();
        let count = |name: &String| tunnels.get(name).copied().unwrap_or(0);
        names.iter().filter_map(|name| self.vtep_status(name, count(name))).collect()
    }

    fn vtep_status(&mut self, name: &str, tunnels: u64) -> Option<VtepStatus> {
        let (origin, revision) = self.asked_by(ObjectKind::Vtep, name);
        let stats = self.vtep_stats(name)?;
        let (vtep, spec) = (self.vteps.get(name)?, self.desired.vteps.get(name)?);
        let info = vtep.info.as_ref();
        let trouble = vtep.trouble.as_ref();
        let peers = self.tunnels.peers.iter().filter(|(_, peer)| peer.vtep == vtep.id).count();
        Some(VtepStatus {
            name: name.to_owned(),
            local: spec.local,
            state: port_state(vtep),
            reason: trouble.map(|trouble| trouble.reason.clone()),
            hint: trouble.and_then(|trouble| trouble.hint.clone()),
            udp_ports: vtep.spec.udp.iter().map(|listen| listen.port).collect(),
            gre: vtep.spec.gre,
            entropy_ports: info.filter(|_| vtep.open.is_some()).map_or(0, |i| i.queues.into()),
            tunnels,
            peers: peers as u64,
            counters: stats.counters,
            drops: stats.drops,
            lost: info.map(|info| info.lost.clone()).unwrap_or_default(),
            origin,
            revision,
            config: VtepConfig(spec.clone()),
        })
    }

    pub(super) fn tunnels_status(
        &self,
        filter: &TunnelFilter,
    ) -> Result<Vec<TunnelStatus>, ApiError> {
        let behind = self.behind();
        if let Some(name) = &filter.name {
            let found = self.desired.tunnels.get(name).map(|spec| (spec, self.inner_mtu(spec)));
            let status = found.and_then(|(spec, mtu)| self.tunnel_status(spec, mtu, &behind));
            return Ok(vec![status.ok_or_else(|| no_such_tunnel(name))?]);
        }
        let asked = |spec: &TunnelSpec| {
            let vtep = || vtep_of(&self.desired, spec).map(|vtep| &vtep.name);
            filter.bridge.as_ref().is_none_or(|bridge| *bridge == spec.bridge)
                && filter.vtep.as_ref().is_none_or(|name| Some(name) == vtep())
        };
        let found = self.tunnel_mtus().filter(|(spec, _)| asked(spec));
        Ok(found.filter_map(|(spec, mtu)| self.tunnel_status(spec, mtu, &behind)).collect())
    }

    fn tunnel_status(
        &self,
        spec: &TunnelSpec,
        inner_mtu: u32,
        behind: &Behind,
    ) -> Option<TunnelStatus> {
        let (origin, revision) = self.asked_by(ObjectKind::Tunnel, &spec.name);
        let tunnel = self.tunnels.by_name.get(&spec.name)?;
        let vtep = self.vteps.values().find(|vtep| vtep.id == tunnel.vtep)?;
        let totals = self.tunnel_totals(tunnel);
        let trouble = vtep.trouble.as_ref();
        let (network, udp_port) = match &spec.kind {
            TunnelKind::Vxlan { vni, udp_port } | TunnelKind::Geneve { vni, udp_port, .. } => {
                (Some(vni.get()), Some(*udp_port))
            }
            TunnelKind::Gre { key, .. } => (*key, None),
            TunnelKind::Nvgre { vsid } => (Some(vsid.get()), None),
            TunnelKind::Erspan { session, .. } => (Some((*session).into()), None),
        };
        let received =
            |(&(class, option_type), option): (&(u16, u8), &super::tunnels::Received)| {
                Some(ReceivedOption {
                    remote: option.from?,
                    class,
                    option_type,
                    data: option.data.iter().map(|byte| format!("{byte:02x}")).collect(),
                })
            };
        Some(TunnelStatus {
            name: spec.name.clone(),
            tunnel_type: spec.kind.tunnel_type().name().to_owned(),
            vtep: vtep.spec.name.clone(),
            network,
            udp_port,
            bridge: spec.bridge.clone(),
            vlan: spec.vlan.map(|vlan| vlan.get()),
            state: port_state(vtep),
            reason: trouble.map(|trouble| format!("VTEP {}: {}", vtep.spec.name, trouble.reason)),
            hint: trouble.and_then(|trouble| trouble.hint.clone()),
            remotes: self.remotes(tunnel),
            inner_mtu,
            overhead: tunnel.overhead,
            counters: counters(&totals, behind.tunnels.get(&tunnel.id)),
            drops: drops(&totals),
            received_options: tunnel.options.iter().filter_map(received).collect(),
            origin,
            revision,
            config: TunnelConfig(spec.clone()),
        })
    }

    pub(super) fn tunnel_totals(&self, tunnel: &Tunnel) -> OverlayTotals {
        let snapshot = self.switch.snapshot();
        let conf = snapshot.overlay().tunnel(tunnel.id);
        conf.map(|conf| totals(&conf.counters)).unwrap_or_default()
    }

    /// How many configured and added remotes a tunnel has.
    fn remotes(&self, tunnel: &Tunnel) -> u64 {
        let listed = self.tunnels.peers.members(tunnel.remotes);
        let new = |added: &&super::tunnels::Added| listed.binary_search(&added.peer).is_err();
        (listed.len() + tunnel.added.values().filter(new).count()) as u64
    }

    /// Configured and added remotes of a tunnel.
    fn remotes_of(&self, tunnel: &Tunnel) -> BTreeSet<PeerId> {
        let listed = self.tunnels.peers.members(tunnel.remotes);
        let added = tunnel.added.values().map(|added| added.peer);
        listed.iter().copied().chain(added).collect()
    }

    pub(super) fn tunnel_peers(&self, name: &str) -> Result<Vec<TunnelPeer>, ApiError> {
        let (Some(spec), Some(tunnel)) =
            (self.desired.tunnels.get(name), self.tunnels.by_name.get(name))
        else {
            return Err(no_such_tunnel(name));
        };
        let all = &self.tunnels.peers;
        let (listed, behind) = (all.members(tunnel.remotes), self.behind());
        let mut ids = self.remotes_of(tunnel);
        let group = tunnel.group.map(|group| all.members(group)).unwrap_or_default();
        ids.extend(group.iter());
        if spec.peers == PeerPolicy::Any {
            ids.extend(all.seen(tunnel.vtep, tunnel.proto));
        }
        let row = |id: PeerId| {
            let peer = all.get(id)?;
            let totals = totals(&peer.counters);
            let owners = tunnel.added.get(&peer.addr).map(|added| &added.owners);
            Some(TunnelPeer {
                address: peer.addr,
                configured: listed.contains(&id) || group.contains(&id),
                owners: owners.into_iter().flatten().cloned().collect(),
                seen: totals.rx_frames > 0,
                path_mtu: peer.asked.then(|| peer.state.path_mtu()),
                inner_mtu: peer.state.path_mtu().saturating_sub(tunnel.overhead),
                counters: counters(&totals, behind.peers.get(&id)),
                drops: drops(&totals),
            })
        };
        let mut rows: Vec<_> = ids.into_iter().filter_map(row).collect();
        rows.sort_by_key(|row| row.address);
        Ok(rows)
    }

    /// How many entries are behind tunnels and peers now.
    pub(super) fn behind(&self) -> Behind {
        let mut behind = Behind::default();
        let fdb = self.switch.fdb();
        if fdb.remote_count() == 0 && fdb.fixed_count() == 0 {
            return behind;
        }
        let snapshot = self.switch.snapshot();
        fdb.for_each(|entry| {
            let Dest::Remote(peer) = entry.dest else { return };
            let Some(peer) = PeerId::new(peer) else { return };
            *behind.peers.entry(peer).or_default() += 1;
            if let Some(tunnel) = tunnel_to(&snapshot, entry.key.domain(), peer) {
                *behind.tunnels.entry(tunnel.id).or_default() += 1;
            }
        });
        behind
    }

    pub(super) fn mtu(&self, name: Option<&str>) -> Result<MtuReply, ApiError> {
        if let Some(name) = name
            && !self.desired.tunnels.contains_key(name)
        {
            return Err(no_such_tunnel(name));
        }
        let mut of_lists: HashMap<ListId, Vec<Path>> = HashMap::new();
        let mut items = Vec::new();
        for spec in self.desired.tunnels.values() {
            let Some(tunnel) = self.tunnels.by_name.get(&spec.name) else { continue };
            if name.is_some_and(|name| spec.name != name) {
                continue;
            }
            // Many tunnels have the list of their VTEP and nothing else.
            if tunnel.group.is_none() && tunnel.added.is_empty() {
                let paths = of_lists.entry(tunnel.remotes).or_insert_with(|| self.paths(tunnel));
                rows(spec, tunnel, paths, &mut items);
            } else {
                rows(spec, tunnel, &self.paths(tunnel), &mut items);
            }
        }
        Ok(MtuReply { items, ports: self.port_mtus(name) })
    }

    /// The path MTUs that a tunnel's remotes have.
    fn paths(&self, tunnel: &Tunnel) -> Vec<Path> {
        let mut ids = self.remotes_of(tunnel);
        let group = tunnel.group.map(|group| self.tunnels.peers.members(group));
        ids.extend(group.unwrap_or_default().iter());
        let mut by_mtu: BTreeMap<u32, Path> = BTreeMap::new();
        for peer in ids.into_iter().filter_map(|id| self.tunnels.peers.get(id)) {
            let mtu = peer.state.path_mtu();
            let path = by_mtu.entry(mtu).or_insert(Path { mtu, remotes: 0, first: None });
            path.remotes += 1;
            path.first = path.first.into_iter().chain([peer.addr]).min();
        }
        if by_mtu.is_empty() {
            return vec![Path { mtu: PeerState::DEFAULT_PATH_MTU, remotes: 0, first: None }];
        }
        by_mtu.into_values().collect()
    }

    /// Ports that share VLANs with tunnels.
    fn port_mtus(&self, name: Option<&str>) -> Vec<PortMtu> {
        let mut through: BTreeMap<&str, Vec<(&TunnelSpec, u32)>> = BTreeMap::new();
        for (spec, mtu) in self.tunnel_mtus() {
            if name.is_none_or(|name| spec.name == name) {
                through.entry(&spec.bridge).or_default().push((spec, mtu));
            }
        }
        let row = |port: &super::ports::Port| {
            let bridge = port.spec.bridge.as_ref()?;
            let vlans = vlans(&port.spec.vlan);
            let shared = through.get(&**bridge)?.iter().filter(|(spec, _)| share(&vlans, spec));
            let (spec, allowed) = shared.min_by_key(|(_, mtu)| *mtu)?;
            let mtu = port.info.as_ref().map(|info| info.mtu);
            Some(PortMtu {
                port: port.spec.name.clone(),
                bridge: bridge.clone(),
                mtu,
                allowed: *allowed,
                tunnel: spec.name.clone(),
                fits: mtu.is_none_or(|mtu| mtu <= *allowed),
            })
        };
        self.ports.values().filter_map(row).collect()
    }
}

/// A path MTU, and who has it.
#[derive(Clone, Copy, Debug)]
struct Path {
    mtu: u32,
    remotes: u64,
    first: Option<IpAddr>,
}

fn rows(spec: &TunnelSpec, tunnel: &Tunnel, paths: &[Path], out: &mut Vec<TunnelMtu>) {
    let overhead = overhead(spec, tunnel);
    out.extend(paths.iter().map(|path| TunnelMtu {
        tunnel: spec.name.clone(),
        tunnel_type: spec.kind.tunnel_type().name().to_owned(),
        remote: path.first,
        remotes: path.remotes,
        underlay_mtu: path.mtu,
        overhead,
        inner_mtu: path.mtu.saturating_sub(overhead.total()),
    }));
}

/// What a packet of a tunnel has around the inner layer-3 packet.
fn overhead(spec: &TunnelSpec, tunnel: &Tunnel) -> Overhead {
    let options = match &spec.kind {
        TunnelKind::Geneve { options, .. } => options.iter().map(|o| 4 + o.data.len()).sum(),
        _ => 0,
    };
    let fixed = Overhead {
        outer_ip: if tunnel.local.is_ipv4() { 20 } else { 40 },
        udp: if matches!(tunnel.proto, Proto::Udp(_)) { 8 } else { 0 },
        tunnel: 0,
        options: u32::try_from(options).unwrap_or(u32::MAX),
        inner_ethernet: 14,
        kept_tag: if spec.tags == InnerTags::Keep { 4 } else { 0 },
    };
    Overhead { tunnel: tunnel.overhead.saturating_sub(fixed.total()), ..fixed }
}

pub(super) fn totals(counters: &[OverlayCounters]) -> OverlayTotals {
    let mut sum = OverlayTotals::default();
    for of_worker in counters {
        sum.add(&of_worker.totals());
    }
    sum
}

fn counters(totals: &OverlayTotals, fdb: Option<&u64>) -> TunnelCounters {
    TunnelCounters {
        rx_frames: totals.rx_frames,
        rx_bytes: totals.rx_bytes,
        tx_frames: totals.tx_frames,
        tx_bytes: totals.tx_bytes,
        drops: totals.drops().map(|(_, frames)| frames).sum(),
        fdb: fdb.copied().unwrap_or(0),
    }
}

fn drops(totals: &OverlayTotals) -> Vec<DropCount> {
    let count = |(reason, frames): (switch_core::DropReason, u64)| DropCount {
        reason: reason.name().to_owned(),
        frames,
    };
    totals.drops().map(count).collect()
}
