//! What the workers read: an immutable picture of bridges and ports, swapped as a whole.
//!
//! A tree of `Arc`s: a change makes a new [`Snapshot`] that shares every object it did not touch.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::flood::FloodLists;
use crate::clock::Nanos;
use crate::datapath::Caps;
use crate::ids::{BridgeId, PortId, TunnelId};
use crate::mirror::MirrorConf;
use crate::tunnel::{Overlay, PeerConf, TunnelConf};
use crate::watch::{Sampler, Watch, Watches};

/// Highest VID a frame can carry (IEEE 802.1Q table 9-2; 4095 is reserved).
pub const VID_MAX: u16 = 4094;

/// Everything the workers need to know, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: u64,
    ports: Vec<Option<Arc<PortConf>>>,
    /// Which port is in which bridge, ascending.
    members: Vec<(BridgeId, PortId)>,
    bridges: Vec<Option<Arc<BridgeConf>>>,
    overlay: Arc<Overlay>,
    watches: Watches,
    mirrors: Arc<[Arc<MirrorConf>]>,
    samplers: Arc<[Arc<Sampler>]>,
}

impl Snapshot {
    /// Counts up with every published change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The port, if it is open.
    pub fn port(&self, id: PortId) -> Option<&Arc<PortConf>> {
        self.ports.get(id.index())?.as_ref()
    }

    /// The bridge, if it exists.
    pub fn bridge(&self, id: BridgeId) -> Option<&Arc<BridgeConf>> {
        self.bridges.get(id.index())?.as_ref()
    }

    /// All open ports.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<PortConf>> {
        self.ports.iter().flatten()
    }

    /// All bridges.
    pub fn bridges(&self) -> impl Iterator<Item = &Arc<BridgeConf>> {
        self.bridges.iter().flatten()
    }

    /// Whether there is anything that looks at frames and does not forward them.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        !self.watches.is_empty() | !self.mirrors.is_empty() | !self.samplers.is_empty()
    }

    /// Who gets one frame in so many.
    #[inline]
    pub fn samplers(&self) -> &[Arc<Sampler>] {
        &self.samplers
    }

    /// Replaces the samplers, of which there are at most [`SAMPLERS_MAX`](crate::watch::SAMPLERS_MAX).
    pub fn set_samplers(&mut self, samplers: Vec<Arc<Sampler>>) {
        self.samplers = samplers.into();
    }

    /// Whose frames are copied, and where the copies go.
    #[inline]
    pub fn mirrors(&self) -> &[Arc<MirrorConf>] {
        &self.mirrors
    }

    /// Replaces the mirrors.
    pub fn set_mirrors(&mut self, mirrors: Vec<Arc<MirrorConf>>) {
        self.mirrors = mirrors.into();
    }

    /// Who wants to see frames that pass.
    #[inline]
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Who wants to see frames that pass, to be changed.
    pub fn watches_mut(&mut self) -> &mut Watches {
        &mut self.watches
    }

    /// The same for frames that nobody sent, which one watch sees.
    pub(crate) fn rehearsed(&self, watch: Arc<Watch>) -> Self {
        let mut watches = Watches::default();
        watches.add(watch);
        let (overlay, mirrors) = (Arc::new(self.overlay.rehearsed()), Arc::default());
        Self { overlay, watches, mirrors, samplers: Arc::default(), ..self.clone() }
    }

    /// VTEPs, peers and tunnels.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// VTEPs, peers and tunnels, to be changed. Tunnels go by [`Self::set_tunnel`].
    pub fn overlay_mut(&mut self) -> &mut Overlay {
        Arc::make_mut(&mut self.overlay)
    }

    /// Adds or replaces a tunnel and rebuilds the lists of the bridges it is and was in, unless it
    /// carries what it did.
    pub fn set_tunnel(&mut self, tunnel: TunnelConf) {
        let new = tunnel.bridge;
        let earlier = self.overlay().tunnel(tunnel.id);
        let old = earlier.map(|old| old.bridge);
        let stays = earlier.is_some_and(|old| old.bridge == new && old.vlans == tunnel.vlans);
        self.overlay_mut().set_tunnel(tunnel);
        if stays {
            return;
        }
        for bridge in [old.filter(|b| *b != new), Some(new)].into_iter().flatten() {
            self.rebuild(bridge);
        }
    }

    /// Removes a tunnel.
    pub fn remove_tunnel(&mut self, id: TunnelId) {
        if let Some(bridge) = self.overlay_mut().remove_tunnel(id) {
            self.rebuild(bridge);
        }
    }

    /// The next revision, to be changed and then published.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { revision: self.revision + 1, ..self.clone() }
    }

    /// Adds or replaces a port and rebuilds the flood lists of the bridges it is and was in.
    pub fn set_port(&mut self, port: PortConf) {
        let (id, new) = (port.id, port.bridge);
        if self.ports.len() <= id.index() {
            self.ports.resize(id.index() + 1, None);
        }
        let old = self.ports[id.index()].replace(Arc::new(port)).and_then(|p| p.bridge);
        self.leave(old, id);
        if let Some(bridge) = new
            && let Err(at) = self.members.binary_search(&(bridge, id))
        {
            self.members.insert(at, (bridge, id));
        }
        for bridge in [old, new.filter(|b| Some(*b) != old)].into_iter().flatten() {
            self.rebuild(bridge);
        }
    }

    /// Removes a port.
    pub fn remove_port(&mut self, id: PortId) {
        let old = self.ports.get_mut(id.index()).and_then(Option::take);
        if let Some(bridge) = old.and_then(|p| p.bridge) {
            self.leave(Some(bridge), id);
            self.rebuild(bridge);
        }
    }

    fn leave(&mut self, bridge: Option<BridgeId>, port: PortId) {
        let at = bridge.and_then(|bridge| self.members.binary_search(&(bridge, port)).ok());
        at.map(|at| self.members.remove(at));
    }

    /// Adds or replaces a bridge; its flood lists follow from the ports.
    pub fn set_bridge(&mut self, id: BridgeId, name: &str, learning: bool) {
        if self.bridges.len() <= id.index() {
            self.bridges.resize(id.index() + 1, None);
        }
        self.bridges[id.index()] = Some(Arc::new(self.bridge_conf(id, name.into(), learning)));
    }

    /// Removes a bridge. Ports that name it are then in no bridge that exists.
    pub fn remove_bridge(&mut self, id: BridgeId) {
        if let Some(slot) = self.bridges.get_mut(id.index()) {
            *slot = None;
        }
    }

    fn rebuild(&mut self, id: BridgeId) {
        // Not while the bridge is taken out: who changes many ports makes the lists once, after.
        let Some(bridge) = self.bridge(id) else { return };
        let (name, learning) = (Arc::clone(&bridge.name), bridge.learning);
        self.bridges[id.index()] = Some(Arc::new(self.bridge_conf(id, name, learning)));
    }

    fn bridge_conf(&self, id: BridgeId, name: Arc<str>, learning: bool) -> BridgeConf {
        let from = self.members.partition_point(|(bridge, _)| *bridge < id);
        let ports = self.members[from..].iter().take_while(|(bridge, _)| *bridge == id);
        let ports: Vec<_> = ports.filter_map(|(_, port)| self.port(*port)).collect();
        let (flood, tunnels) = (FloodLists::new(&ports), TunnelLists::new(&self.overlay, id));
        BridgeConf { id, name, learning, flood, tunnels }
    }
}

/// A bridge domain as workers see it.
#[derive(Debug)]
pub struct BridgeConf {
    /// Its number.
    pub id: BridgeId,
    /// Its name.
    pub name: Arc<str>,
    /// Whether source addresses are learned.
    pub learning: bool,
    flood: FloodLists,
    tunnels: TunnelLists,
}

impl BridgeConf {
    /// The tunnels that carry VLAN `vid`.
    #[inline]
    pub fn tunnels(&self, vid: u16) -> impl Iterator<Item = TunnelId> + '_ {
        self.tunnels.get(vid)
    }

    /// The tunnel that carries frames of VLAN `vid` to `peer`.
    #[inline]
    pub fn tunnel_to<'a>(
        &self,
        overlay: &'a Overlay,
        vid: u16,
        peer: &PeerConf,
    ) -> Option<&'a Arc<TunnelConf>> {
        let mut tunnels = self.tunnels(vid).filter_map(|id| overlay.tunnel(id));
        tunnels.find(|tunnel| tunnel.vtep == peer.vtep && tunnel.proto == peer.proto)
    }

    /// The ports that take flooded frames of VLAN `vid`, in order of their numbers.
    pub fn flood(&self, vid: u16) -> &[PortId] {
        self.flood.get(vid)
    }
}

/// The tunnels of each VLAN.
#[derive(Debug, Default)]
struct TunnelLists {
    /// Those of one VLAN, ascending by it.
    by_vid: Box<[(u16, TunnelId)]>,
    /// Those of all.
    everywhere: Box<[TunnelId]>,
}

impl TunnelLists {
    fn new(overlay: &Overlay, bridge: BridgeId) -> Self {
        let spans = |tunnel: &&Arc<TunnelConf>| matches!(tunnel.vlans.tagged, VlanSet::All);
        let vid = |tunnel: &Arc<TunnelConf>| {
            let vlans = &tunnel.vlans;
            vlans.pvid.or_else(|| vlans.named().next()).map(|vid| (vid, tunnel.id))
        };
        let of_one = overlay.of_bridge(bridge).filter(|tunnel| !spans(tunnel));
        let mut by_vid: Vec<_> = of_one.filter_map(vid).collect();
        by_vid.sort_unstable();
        let everywhere = overlay.of_bridge(bridge).filter(spans).map(|tunnel| tunnel.id);
        Self { by_vid: by_vid.into(), everywhere: everywhere.collect() }
    }

    #[inline]
    fn get(&self, vid: u16) -> impl Iterator<Item = TunnelId> + '_ {
        let from = self.first(vid);
        let of_vid = self.by_vid.get(from..).unwrap_or_default().iter();
        let of_vid = of_vid.take_while(move |(v, _)| *v == vid).map(|(_, id)| *id);
        of_vid.chain(self.everywhere.iter().copied())
    }

    /// Where those of a VLAN begin.
    #[inline]
    fn first(&self, vid: u16) -> usize {
        // Thousands of VLANs have one tunnel each, and numbers in a row: no need to search.
        let at = |index: usize| self.by_vid.get(index).map(|(v, _)| *v);
        let guess = usize::from(vid.wrapping_sub(at(0).unwrap_or_default()));
        let is_first = guess == 0 || at(guess.wrapping_sub(1)) != Some(vid);
        if at(guess) == Some(vid) && is_first {
            return guess;
        }
        self.by_vid.partition_point(|(v, _)| *v < vid)
    }
}

/// A port as workers see it.
#[derive(Clone, Debug)]
pub struct PortConf {
    /// Its number.
    pub id: PortId,
    /// Its name.
    pub name: Arc<str>,
    /// The bridge it is in.
    pub bridge: Option<BridgeId>,
    /// Its VLANs.
    pub vlans: PortVlans,
    /// Isolated ports do not talk to each other.
    pub isolated: bool,
    /// Whether the loop guard may block it.
    pub loop_guard: bool,
    /// Most BUM frames a second that it may send, if that is limited.
    pub storm: Option<u32>,
    /// Largest layer-3 packet it can send, in bytes.
    pub mtu: u32,
    /// What it can send unfinished.
    pub caps: Caps,
    /// Whether it takes super-frames that came out of a tunnel, whose end may have joined them, or that a
    /// mirror copies.
    pub gro: bool,
    /// Whether it can send at all.
    pub up: bool,
    /// Which port is newer: counts up with each port that is opened.
    pub opened: u64,
    /// What changes faster than the configuration.
    pub state: Arc<PortState>,
}

/// What changes faster than the configuration: written by the control side, read by workers.
#[derive(Debug, Default)]
pub struct PortState {
    blocked_until: AtomicU64,
}

impl PortState {
    /// Whether the loop guard blocks the port.
    pub fn blocked(&self, now: Nanos) -> bool {
        now.0 < self.blocked_until.load(Ordering::Relaxed)
    }

    /// Until when the loop guard blocks the port; zero if it never did.
    pub fn blocked_until(&self) -> Nanos {
        Nanos(self.blocked_until.load(Ordering::Relaxed))
    }

    /// Blocks the port until then; [`Nanos`] zero ends a block.
    pub fn block(&self, until: Nanos) {
        self.blocked_until.store(until.0, Ordering::Relaxed);
    }
}

/// The VLANs of a port.
///
/// VID 0 stands for untagged traffic that belongs to no VLAN: the default of a port that names
/// none, which then passes tagged frames of every VLAN as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct PortVlans {
    /// Where untagged and priority-tagged frames go, and whose frames leave untagged.
    pub pvid: Option<u16>,
    /// Whose frames come and go tagged.
    pub tagged: VlanSet,
}

impl PortVlans {
    /// Untagged traffic in no VLAN, tagged traffic of every VLAN.
    pub const fn transparent() -> Self {
        Self { pvid: Some(0), tagged: VlanSet::All }
    }

    /// Only untagged traffic, in VLAN `vid`.
    pub const fn access(vid: u16) -> Self {
        Self { pvid: Some(vid), tagged: VlanSet::none() }
    }

    /// Tagged traffic of `vids`; untagged traffic belongs to `native`, if there is one.
    pub fn trunk(vids: impl IntoIterator<Item = u16>, native: Option<u16>) -> Self {
        Self { pvid: native, tagged: VlanSet::some(vids) }
    }

    /// Whether the port has untagged traffic of one VLAN and no other.
    pub fn is_access(&self) -> bool {
        self.tagged == VlanSet::none()
    }

    /// How frames of VLAN `vid` leave, or `None` if the port is no member.
    #[inline]
    pub fn egress(&self, vid: u16) -> Option<Egress> {
        if self.pvid == Some(vid) {
            Some(Egress::Untagged)
        } else if vid != 0 && self.tagged.contains(vid) {
            Some(Egress::Tagged)
        } else {
            None
        }
    }

    /// The VLANs that the port treats in a way of its own.
    pub(super) fn named(&self) -> impl Iterator<Item = u16> + '_ {
        let last = if matches!(self.tagged, VlanSet::Some(Some(_))) { VID_MAX } else { 0 };
        let listed = (1..=last).filter(|v| self.tagged.contains(*v));
        self.pvid.into_iter().chain(listed)
    }
}

impl fmt::Debug for PortVlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pvid {:?} tagged {:?}", self.pvid, self.tagged)
    }
}

/// How a frame leaves a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// With a tag.
    Tagged,
    /// Without.
    Untagged,
}

/// A set of VIDs.
#[derive(Clone, PartialEq, Eq)]
pub enum VlanSet {
    /// 1 to 4094.
    All,
    /// These; one bit a VID. `None` is the empty set.
    Some(Option<Box<[u64; 64]>>),
}

impl VlanSet {
    /// The empty set.
    pub const fn none() -> Self {
        Self::Some(None)
    }

    /// These VIDs; others than 1 to 4094 are left out.
    pub fn some(vids: impl IntoIterator<Item = u16>) -> Self {
        let mut bits = Box::new([0u64; 64]);
        for vid in vids.into_iter().filter(|v| (1..=VID_MAX).contains(v)) {
            bits[usize::from(vid / 64)] |= 1 << (vid % 64);
        }
        Self::Some(Some(bits))
    }

    /// Whether it has `vid`.
    pub fn contains(&self, vid: u16) -> bool {
        match self {
            Self::All => (1..=VID_MAX).contains(&vid),
            Self::Some(None) => false,
            Self::Some(Some(bits)) => {
                bits.get(usize::from(vid / 64)).is_some_and(|word| word >> (vid % 64) & 1 == 1)
            }
        }
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            some => f.debug_set().entries((1..=VID_MAX).filter(|v| some.contains(*v))).finish(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A port as it comes into a snapshot.
    pub(in crate::config) fn port(id: u16, bridge: u16, vlans: PortVlans) -> PortConf {
        PortConf {
            id: PortId::new(id).unwrap(),
            name: format!("p{id}").into(),
            bridge: Some(BridgeId::new(bridge)),
            vlans,
            isolated: false,
            loop_guard: true,
            storm: None,
            mtu: 1500,
            caps: Caps::default(),
            gro: true,
            up: true,
            opened: u64::from(id),
            state: Arc::default(),
        }
    }

    fn ids(list: &[PortId]) -> Vec<u16> {
        list.iter().map(|p| p.get()).collect()
    }

    #[test]
    fn flood_lists_follow_the_ports() {
        let (b0, b1) = (BridgeId::new(0), BridgeId::new(1));
        let mut snap = Snapshot::default();
        snap.set_bridge(b0, "br0", true);
        snap.set_bridge(b1, "br1", true);
        snap.set_port(port(0, 0, PortVlans::transparent()));
        snap.set_port(port(1, 0, PortVlans::access(10)));
        snap.set_port(port(2, 0, PortVlans::trunk([10, 20], Some(1))));
        let br0 = Arc::clone(snap.bridge(b0).unwrap());
        assert_eq!(ids(br0.flood(0)), [0]);
        assert_eq!(ids(br0.flood(1)), [0, 2]);
        assert_eq!(ids(br0.flood(10)), [0, 1, 2]);
        assert_eq!(ids(br0.flood(20)), [0, 2]);
        assert_eq!(ids(br0.flood(99)), [0]);
        let mut next = snap.next();
        next.set_port(port(1, 1, PortVlans::access(10)));
        assert_eq!(ids(next.bridge(b0).unwrap().flood(10)), [0, 2]);
        assert_eq!(ids(next.bridge(b1).unwrap().flood(10)), [1]);
        next.remove_port(PortId::new(0).unwrap());
        assert_eq!(ids(next.bridge(b0).unwrap().flood(10)), [2]);
        // The published one is untouched, and what did not change is shared.
        assert_eq!(ids(snap.bridge(b0).unwrap().flood(10)), [0, 1, 2]);
        let p2 = PortId::new(2).unwrap();
        assert!(Arc::ptr_eq(snap.port(p2).unwrap(), next.port(p2).unwrap()));
    }

    #[test]
    fn vlan_membership() {
        let trunk = PortVlans::trunk([10, 4094, 4095, 0], Some(1));
        assert_eq!(trunk.egress(10), Some(Egress::Tagged));
        assert_eq!(trunk.egress(4094), Some(Egress::Tagged));
        assert_eq!(trunk.egress(1), Some(Egress::Untagged));
        assert_eq!((trunk.egress(0), trunk.egress(11), trunk.egress(4095)), (None, None, None));
        let all = PortVlans::transparent();
        assert_eq!(all.egress(0), Some(Egress::Untagged));
        assert_eq!(all.egress(7), Some(Egress::Tagged));
        assert_eq!(PortVlans::access(5).egress(7), None);
    }
}
