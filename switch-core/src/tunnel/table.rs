//! VTEPs, peers and tunnels as workers see them: part of the snapshot.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use hashbrown::HashMap;

use super::{LaneHeader, OuterHeader, OverlayCounters};
use crate::config::{Dscp, PortVlans, Ttl, TunnelType};
use crate::ids::{BridgeId, PeerId, PortId, TunnelId};
use crate::wire::Vni;

/// Below as many tunnels, what workers need of them stays in the caches.
const CROWDED: usize = 256;

/// How outer packets of a tunnel are told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// VXLAN or GENEVE, by UDP destination port: on one VTEP a port is of one protocol.
    Udp(u16),
    /// GRE, NVGRE and ERSPAN included.
    Gre,
}

/// What names a network to one VTEP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkKey(u64);

impl NetworkKey {
    const fn new(vtep: PortId, tag: u64, port: u16, key: u32) -> Self {
        Self((vtep.get() as u64) << 50 | tag << 48 | (port as u64) << 32 | key as u64)
    }

    /// A VXLAN or GENEVE network.
    pub const fn udp(vtep: PortId, port: u16, vni: Vni) -> Self {
        Self::new(vtep, 0, port, vni.get())
    }

    /// A GRE tunnel with that key, or without one.
    pub const fn gre(vtep: PortId, key: Option<u32>) -> Self {
        match key {
            Some(key) => Self::new(vtep, 1, 0, key),
            None => Self::new(vtep, 2, 0, 0),
        }
    }

    /// An NVGRE network.
    pub const fn nvgre(vtep: PortId, vsid: Vni) -> Self {
        Self::new(vtep, 3, 0, vsid.get())
    }

    /// An ERSPAN session. Nothing that arrives has such a name.
    pub const fn erspan(vtep: PortId, session: u16) -> Self {
        Self::new(vtep, 2, 1, session as u32)
    }
}

/// What names a peer: two numbers, as they are hashed for every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PeerKey {
    place: u64,
    addr: u128,
}

impl PeerKey {
    #[inline]
    fn new(vtep: PortId, proto: Proto, addr: IpAddr) -> Self {
        let proto = match proto {
            Proto::Udp(port) => u64::from(port),
            Proto::Gre => 1 << 16,
        };
        let (family, addr) = match addr {
            IpAddr::V4(addr) => (0, addr.to_bits().into()),
            IpAddr::V6(addr) => (1 << 17, addr.to_bits()),
        };
        Self { place: u64::from(vtep.get()) << 32 | family | proto, addr }
    }
}

/// A VTEP as workers see it.
#[derive(Clone, Debug)]
pub struct VtepConf {
    /// Its port.
    pub port: PortId,
    /// Its name.
    pub name: Arc<str>,
    /// The address that outer packets are sent from and accepted at.
    pub local: IpAddr,
    /// Multicast groups that are accepted as destinations, too.
    pub groups: Arc<[IpAddr]>,
    /// The protocol of each UDP port it listens at: VXLAN or GENEVE.
    pub udp: Arc<[(u16, TunnelType)]>,
}

/// A remote VTEP, or a multicast group that stands for several.
#[derive(Clone, Debug)]
pub struct PeerConf {
    /// Its number, which FDB entries name.
    pub id: PeerId,
    /// The VTEP it is a peer of.
    pub vtep: PortId,
    /// What is spoken with it.
    pub proto: Proto,
    /// Its address, of the family of the VTEP's.
    pub addr: IpAddr,
    /// The outer headers of packets to it: [`OuterHeader::new`] with the protocol and the addresses
    /// of VTEP and peer.
    pub outer: OuterHeader,
    /// What changes faster than the configuration.
    pub state: Arc<PeerState>,
    /// One a worker.
    pub counters: Arc<[OverlayCounters]>,
}

/// What changes faster than the configuration about a peer: written by the control side.
#[derive(Debug)]
pub struct PeerState {
    path_mtu: AtomicU32,
    /// Identification of the next packet that may be fragmented on its way.
    next_id: AtomicU16,
}

impl PeerState {
    /// The path is taken to carry this until the underlay has been asked.
    pub const DEFAULT_PATH_MTU: u32 = 1500;

    /// Largest outer IP packet that reaches the peer, in bytes.
    pub fn path_mtu(&self) -> u32 {
        self.path_mtu.load(Ordering::Relaxed)
    }

    /// Sets the largest outer IP packet that reaches the peer, in bytes.
    pub fn set_path_mtu(&self, mtu: u32) {
        self.path_mtu.store(mtu, Ordering::Relaxed);
    }

    /// The identification of a packet that may be fragmented on its way (RFC 6864).
    pub(super) fn take_id(&self) -> u16 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

impl PeerState {
    fn copied(&self) -> Self {
        let next_id = AtomicU16::new(self.next_id.load(Ordering::Relaxed));
        Self { path_mtu: AtomicU32::new(self.path_mtu()), next_id }
    }
}

impl Default for PeerState {
    fn default() -> Self {
        Self { path_mtu: AtomicU32::new(Self::DEFAULT_PATH_MTU), next_id: AtomicU16::new(0) }
    }
}

/// Whose packets a tunnel accepts.
#[derive(Clone, Debug)]
pub enum Accepts {
    /// Anybody's.
    Any,
    /// These peers', ascending.
    Listed(Arc<[PeerId]>),
}

impl Accepts {
    /// Whether packets of that peer are accepted.
    pub fn peer(&self, peer: Option<PeerId>) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(peers) => peer.is_some_and(|peer| listed(peers, peer)),
        }
    }
}

/// Whether a list, which ascends, has that peer.
#[inline]
fn listed(peers: &[PeerId], peer: PeerId) -> bool {
    // Remotes that were configured together have numbers in a row: no need to search.
    let first = peers.first().map_or(0, |first| first.get());
    let guess = peer.get().wrapping_sub(first) as usize;
    peers.get(guess) == Some(&peer) || peers.binary_search(&peer).is_ok()
}

/// Sequence numbers of a GRE tunnel with one peer (RFC 2890 §2.2).
#[derive(Debug, Default)]
pub struct Sequence {
    /// The next one to be sent.
    pub tx: AtomicU32,
    /// The last one accepted, and in bit 32 whether there was one.
    pub rx: AtomicU64,
}

impl Sequence {
    fn copied(&self) -> Self {
        let (tx, rx) = (self.tx.load(Ordering::Relaxed), self.rx.load(Ordering::Relaxed));
        Self { tx: AtomicU32::new(tx), rx: AtomicU64::new(rx) }
    }
}

/// A tunnel as workers see it.
///
/// Laid out as it is written: what each frame needs comes first, in three cache lines.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct TunnelConf {
    /// Its number.
    pub id: TunnelId,
    /// The VTEP it ends at.
    pub vtep: PortId,
    /// The bridge it is in.
    pub bridge: BridgeId,
    /// What is spoken.
    pub proto: Proto,
    /// Whether inner source addresses are learned (if the bridge learns, too).
    pub learning: bool,
    /// The don't-fragment flag of outer IPv4 packets.
    pub df: bool,
    /// Whether outer UDP carries a checksum, and over IPv6 must.
    pub udp_checksum: bool,
    /// Whether reserved bits make a packet a drop.
    pub strict_reserved: bool,
    /// Whether the MSS of TCP connections is lowered to what fits.
    pub mss_clamp: bool,
    /// TTL of outer packets.
    pub ttl: Ttl,
    /// DSCP of outer packets.
    pub dscp: Dscp,
    /// What all of this comes to for plain frames.
    pub lane: Option<LaneHeader>,
    /// Its VLANs there, as a port's.
    pub vlans: PortVlans,
    /// Whose packets are accepted.
    pub accepts: Accepts,
    /// One a worker.
    pub counters: Arc<[OverlayCounters]>,
    /// What follows the outer IP and UDP headers: VXLAN, GENEVE with options, or GRE.
    pub header: TunnelHeader,
    /// Its name.
    pub name: Arc<str>,
    /// What names it on the VTEP.
    pub network: NetworkKey,
    /// Where BUM frames go, one copy each: remotes or a group.
    pub flood: Arc<[PeerId]>,
    /// GENEVE options (class, type) that are understood, so that critical ones pass.
    pub known_options: Arc<[(u16, u8)]>,
    /// For GRE with sequence numbers, ERSPAN included: one for each peer, ascending by peer.
    pub sequences: Arc<[(PeerId, Sequence)]>,
    /// What changes faster than the configuration.
    pub state: Arc<TunnelState>,
}

/// What follows the outer IP and UDP headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelHeader {
    /// Its bytes, with what changes from packet to packet zero.
    pub bytes: Arc<[u8]>,
    /// What does change.
    pub kind: HeaderKind,
}

/// What changes from packet to packet in a tunnel header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    /// Nothing: VXLAN.
    Vxlan,
    /// Nothing: GENEVE.
    Geneve,
    /// GRE.
    Gre {
        /// The checksum, in the four bytes behind the first four.
        checksum: bool,
        /// The sequence number, in the last four bytes.
        sequence: bool,
    },
    /// The FlowID, the last byte: NVGRE.
    Nvgre,
    /// The sequence number, in the last four bytes of a GRE header of eight, and what the
    /// [`ErspanHeader`](crate::wire::ErspanHeader) behind it says of the frame.
    Erspan,
}

/// What changes faster than the configuration about a tunnel.
#[derive(Debug, Default)]
pub struct TunnelState {
    /// A hash of the GENEVE options that were reported last, so that only others are.
    options_seen: AtomicU64,
}

impl TunnelState {
    fn copied(&self) -> Self {
        Self { options_seen: AtomicU64::new(self.options_seen.load(Ordering::Relaxed)) }
    }

    /// Whether these options differ from the last ones that this said so of.
    pub fn is_news(&self, options: &[u8]) -> bool {
        // A fixed key: options that collide on purpose are the sender's own, and only hide them.
        let hash = foldhash::fast::FixedState::default().hash_one(options);
        self.options_seen.load(Ordering::Relaxed) != hash && {
            self.options_seen.store(hash, Ordering::Relaxed);
            true
        }
    }
}

impl TunnelConf {
    /// Loads a word of each of the cache lines that decapsulation needs. The result means nothing.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        self.bridge.index() as u64 ^ self.counters.len() as u64 ^ self.header.bytes.len() as u64
    }

    /// Its sequence numbers with a peer, if it numbers its packets.
    pub fn sequence(&self, peer: PeerId) -> Option<&Sequence> {
        let at = self.sequences.binary_search_by_key(&peer, |(id, _)| *id).ok()?;
        self.sequences.get(at).map(|(_, sequence)| sequence)
    }

    /// Bytes that an outer packet to `remote` has in front of the inner frame.
    pub fn outer_len(&self, remote: IpAddr) -> usize {
        let ip = if remote.is_ipv4() { 20 } else { 40 };
        let udp = if matches!(self.proto, Proto::Udp(_)) { 8 } else { 0 };
        self.header.bytes.len().saturating_add(ip + udp)
    }
}

/// All VTEPs, peers and tunnels.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    vteps: Vec<Arc<VtepConf>>,
    peers: Vec<Option<Arc<PeerConf>>>,
    tunnels: Vec<Option<Arc<TunnelConf>>>,
    networks: HashMap<NetworkKey, TunnelId>,
    addresses: HashMap<PeerKey, PeerId>,
    members: HashMap<BridgeId, Vec<TunnelId>>,
}

impl Overlay {
    /// The VTEP whose port that is.
    pub fn vtep(&self, port: PortId) -> Option<&Arc<VtepConf>> {
        self.vteps.iter().find(|vtep| vtep.port == port)
    }

    /// All VTEPs.
    pub fn vteps(&self) -> impl Iterator<Item = &Arc<VtepConf>> {
        self.vteps.iter()
    }

    /// The peer of that number.
    #[inline]
    pub fn peer(&self, id: PeerId) -> Option<&Arc<PeerConf>> {
        self.peers.get(id.index())?.as_ref()
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<PeerConf>> {
        self.peers.iter().flatten()
    }

    /// The peer that has that address.
    #[inline]
    pub fn peer_at(&self, vtep: PortId, proto: Proto, addr: IpAddr) -> Option<&Arc<PeerConf>> {
        self.peer(*self.addresses.get(&PeerKey::new(vtep, proto, addr))?)
    }

    /// The tunnel of that number.
    #[inline]
    pub fn tunnel(&self, id: TunnelId) -> Option<&Arc<TunnelConf>> {
        self.tunnels.get(id.index())?.as_ref()
    }

    /// All tunnels.
    pub fn tunnels(&self) -> impl Iterator<Item = &Arc<TunnelConf>> {
        self.tunnels.iter().flatten()
    }

    /// The tunnel that the network belongs to.
    #[inline]
    pub fn network(&self, key: NetworkKey) -> Option<&Arc<TunnelConf>> {
        self.tunnel(*self.networks.get(&key)?)
    }

    /// Whether there is no tunnel at all.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Whether there are more tunnels than the caches hold beside all else. To be asked once a burst.
    #[inline]
    pub(crate) fn is_crowded(&self) -> bool {
        self.networks.len() > CROWDED
    }

    /// The same for frames that nobody sent: what packets are numbered by is a copy.
    pub(crate) fn rehearsed(&self) -> Self {
        let peer = |peer: &Arc<PeerConf>| {
            let state = Arc::new(peer.state.copied());
            Arc::new(PeerConf { state, ..PeerConf::clone(peer) })
        };
        let tunnel = |tunnel: &Arc<TunnelConf>| {
            let sequences = tunnel.sequences.iter().map(|(id, seq)| (*id, seq.copied())).collect();
            let state = Arc::new(tunnel.state.copied());
            Arc::new(TunnelConf { sequences, state, ..TunnelConf::clone(tunnel) })
        };
        Self {
            peers: self.peers.iter().map(|slot| slot.as_ref().map(peer)).collect(),
            tunnels: self.tunnels.iter().map(|slot| slot.as_ref().map(tunnel)).collect(),
            ..self.clone()
        }
    }

    /// The tunnels of a bridge.
    pub fn of_bridge(&self, bridge: BridgeId) -> impl Iterator<Item = &Arc<TunnelConf>> {
        let members = self.members.get(&bridge).map(Vec::as_slice).unwrap_or_default();
        members.iter().filter_map(|id| self.tunnel(*id))
    }

    /// Adds or replaces a VTEP.
    pub fn set_vtep(&mut self, vtep: VtepConf) {
        self.remove_vtep(vtep.port);
        self.vteps.push(Arc::new(vtep));
    }

    /// Removes a VTEP. Its tunnels and peers are to be removed as well.
    pub fn remove_vtep(&mut self, port: PortId) {
        self.vteps.retain(|vtep| vtep.port != port);
    }

    /// Adds or replaces a peer.
    pub fn set_peer(&mut self, peer: PeerConf) {
        self.remove_peer(peer.id);
        self.addresses.insert(PeerKey::new(peer.vtep, peer.proto, peer.addr), peer.id);
        put(&mut self.peers, peer.id.index(), peer);
    }

    /// Removes a peer. FDB entries that name it are to be flushed before its number is used again.
    pub fn remove_peer(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(id.index()).and_then(Option::take) {
            self.addresses.remove(&PeerKey::new(peer.vtep, peer.proto, peer.addr));
        }
    }

    /// Adds or replaces a tunnel; the bridges it is and was in are then to be rebuilt.
    pub(crate) fn set_tunnel(&mut self, tunnel: TunnelConf) {
        let (id, bridge) = (tunnel.id, tunnel.bridge);
        let old = self.tunnels.get(id.index()).and_then(Option::as_ref).map(|old| old.bridge);
        // One that stays in its bridge is not looked for among the members, which are thousands.
        if old == Some(bridge) {
            self.forget_network(id);
        } else {
            self.remove_tunnel(id);
            self.members.entry(bridge).or_default().push(id);
        }
        self.networks.insert(tunnel.network, id);
        put(&mut self.tunnels, id.index(), tunnel);
    }

    fn forget_network(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get(id.index()).and_then(Option::as_ref) else { return };
        // Another tunnel may have taken the network over in the same change.
        if self.networks.get(&tunnel.network) == Some(&id) {
            self.networks.remove(&tunnel.network);
        }
    }

    /// Removes a tunnel. The bridge it was in is then to be rebuilt.
    pub(crate) fn remove_tunnel(&mut self, id: TunnelId) -> Option<BridgeId> {
        self.forget_network(id);
        let tunnel = self.tunnels.get_mut(id.index()).and_then(Option::take)?;
        if let Some(members) = self.members.get_mut(&tunnel.bridge) {
            members.retain(|member| *member != id);
            if members.is_empty() {
                self.members.remove(&tunnel.bridge);
            }
        }
        Some(tunnel.bridge)
    }
}

/// Puts an object into its place in a table that grows.
fn put<T>(table: &mut Vec<Option<Arc<T>>>, index: usize, object: T) {
    if table.len() <= index {
        table.resize(index.saturating_add(1), None);
    }
    if let Some(slot) = table.get_mut(index) {
        *slot = Some(Arc::new(object));
    }
}
