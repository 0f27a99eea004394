//! Peers and lists of them, each kept once however many tunnels name it.
//!
//! A peer is a remote VTEP in one protocol. Its number is what FDB entries name, so it is given to
//! another one only after nothing can name it any more: taken out of the snapshot, seen to be gone
//! by every worker, and flushed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use switch_core::tunnel::{OuterHeader, OverlayCounters, PeerConf, PeerState, Proto};
use switch_core::{Nanos, PeerId, PortId};

use super::Ids;

/// How many peers a VTEP may have that only traffic told of.
pub(super) const SEEN_MAX: usize = 4096;
/// How long such a peer is kept that no entry names.
pub(super) const SEEN_FOR: Duration = Duration::from_secs(600);

/// A list of peers that tunnels share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListId(usize);

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) vtep: PortId,
    pub(super) proto: Proto,
    pub(super) addr: IpAddr,
    /// How many lists and tunnels name it.
    uses: usize,
    /// For one that traffic told of: when an entry named it last.
    seen: Option<Nanos>,
    /// Whether the underlay has told its path MTU.
    pub(super) asked: bool,
    pub(super) state: Arc<PeerState>,
    pub(super) counters: Arc<[OverlayCounters]>,
}

impl Peer {
    /// Whether the peer is known from traffic alone, or also from it.
    pub(super) fn is_seen(&self) -> bool {
        self.seen.is_some()
    }
}

#[derive(Debug)]
struct List {
    key: (PortId, Proto, Arc<[IpAddr]>),
    peers: Arc<[PeerId]>,
    uses: usize,
}

/// All peers.
#[derive(Debug)]
pub(super) struct Peers {
    workers: usize,
    ids: Ids,
    known: BTreeMap<PeerId, Peer>,
    by_address: HashMap<(PortId, Proto, IpAddr), PeerId>,
    lists: HashMap<ListId, List>,
    by_members: HashMap<(PortId, Proto, Arc<[IpAddr]>), ListId>,
    next_list: usize,
    /// Local addresses of the VTEPs.
    locals: BTreeMap<PortId, IpAddr>,
    /// Peers that a snapshot does not have yet, or not as they are now.
    fresh: Vec<PeerId>,
    /// Peers that may be used by nobody any more.
    idle: Vec<PeerId>,
    /// Peers of each VTEP that traffic told of.
    seen: BTreeMap<PortId, usize>,
    /// Peers whose path is to be asked for in this round.
    to_ask: VecDeque<PeerId>,
    /// How many could not be kept.
    pub(super) refused: u64,
}

impl Peers {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            ids: Ids::new(PeerId::MAX_PEERS),
            known: BTreeMap::new(),
            by_address: HashMap::new(),
            lists: HashMap::new(),
            by_members: HashMap::new(),
            next_list: 0,
            locals: BTreeMap::new(),
            fresh: Vec::new(),
            idle: Vec::new(),
            seen: BTreeMap::new(),
            to_ask: VecDeque::new(),
            refused: 0,
        }
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.known.get(&id)
    }

    pub(super) fn at(&self, vtep: PortId, proto: Proto, addr: IpAddr) -> Option<PeerId> {
        self.by_address.get(&(vtep, proto, addr)).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.known.iter().map(|(id, peer)| (*id, peer))
    }

    /// Peers of a VTEP in a protocol that traffic told of, ascending.
    pub(super) fn seen(&self, vtep: PortId, proto: Proto) -> Vec<PeerId> {
        let meant = |peer: &Peer| peer.is_seen() && peer.vtep == vtep && peer.proto == proto;
        self.iter().filter(|(_, peer)| meant(peer)).map(|(id, _)| id).collect()
    }

    /// Says which address a VTEP has. The outer headers of its peers follow.
    pub(super) fn set_local(&mut self, vtep: PortId, local: IpAddr) {
        if self.locals.insert(vtep, local) != Some(local) {
            let its = self.known.iter().filter(|(_, peer)| peer.vtep == vtep).map(|(id, _)| *id);
            self.fresh.extend(its);
        }
    }

    /// A VTEP is no more. Nobody uses its peers by now.
    pub(super) fn forget_vtep(&mut self, vtep: PortId) {
        self.locals.remove(&vtep);
    }

    /// The peer, used once more. `None` if there are too many.
    pub(super) fn take(&mut self, vtep: PortId, proto: Proto, addr: IpAddr) -> Option<PeerId> {
        let id = match self.at(vtep, proto, addr) {
            Some(id) => id,
            None => {
                let Some(id) = self.ids.take().and_then(PeerId::new) else {
                    self.refused += 1;
                    return None;
                };
                let peer = Peer {
                    vtep,
                    proto,
                    addr,
                    uses: 0,
                    seen: None,
                    asked: false,
                    state: Arc::default(),
                    counters: OverlayCounters::each(self.workers),
                };
                self.known.insert(id, peer);
                self.by_address.insert((vtep, proto, addr), id);
                self.fresh.push(id);
                self.to_ask.push_front(id);
                id
            }
        };
        if let Some(peer) = self.known.get_mut(&id) {
            peer.uses += 1;
        }
        Some(id)
    }

    /// The peer is used once less.
    pub(super) fn give_back(&mut self, id: PeerId) {
        if let Some(peer) = self.known.get_mut(&id) {
            peer.uses -= 1;
            if peer.uses == 0 {
                self.idle.push(id);
            }
        }
    }

    /// The list of these peers, used once more.
    pub(super) fn list(&mut self, vtep: PortId, proto: Proto, remotes: &[IpAddr]) -> ListId {
        let mut members = remotes.to_vec();
        members.sort_unstable();
        members.dedup();
        let key = (vtep, proto, Arc::from(members));
        if let Some(id) = self.by_members.get(&key).copied() {
            self.hold(id);
            return id;
        }
        let mut peers: Vec<PeerId> =
            key.2.iter().filter_map(|addr| self.take(vtep, proto, *addr)).collect();
        peers.sort_unstable();
        let id = ListId(self.next_list);
        self.next_list += 1;
        self.by_members.insert(key.clone(), id);
        self.lists.insert(id, List { key, peers: peers.into(), uses: 1 });
        id
    }

    /// The list is used once more.
    pub(super) fn hold(&mut self, id: ListId) {
        if let Some(list) = self.lists.get_mut(&id) {
            list.uses += 1;
        }
    }

    /// The list is used once less.
    pub(super) fn release(&mut self, id: ListId) {
        let Some(list) = self.lists.get_mut(&id) else { return };
        list.uses -= 1;
        if list.uses > 0 {
            return;
        }
        if let Some(list) = self.lists.remove(&id) {
            self.by_members.remove(&list.key);
            for peer in list.peers.iter() {
                self.give_back(*peer);
            }
        }
    }

    /// Who is on a list, ascending.
    pub(super) fn members(&self, id: ListId) -> Arc<[PeerId]> {
        self.lists.get(&id).map(|list| Arc::clone(&list.peers)).unwrap_or_default()
    }

    /// Smallest path MTU to anybody on a list; `None` for an empty one.
    pub(super) fn path_mtu(&self, id: ListId) -> Option<u32> {
        let peers = self.lists.get(&id)?.peers.iter();
        peers.filter_map(|id| Some(self.get(*id)?.state.path_mtu())).min()
    }

    /// The same for each list that has somebody on it.
    pub(super) fn path_mtus(&self) -> HashMap<ListId, u32> {
        self.lists.keys().filter_map(|id| Some((*id, self.path_mtu(*id)?))).collect()
    }

    /// Traffic told of a VTEP that nobody configured: whether it is a new peer now.
    pub(super) fn see(&mut self, vtep: PortId, proto: Proto, addr: IpAddr, now: Nanos) -> bool {
        if self.at(vtep, proto, addr).is_some() {
            return false;
        }
        if self.seen.get(&vtep).is_some_and(|count| *count >= SEEN_MAX) {
            self.refused += 1;
            return false;
        }
        let Some(id) = self.take(vtep, proto, addr) else { return false };
        if let Some(peer) = self.known.get_mut(&id) {
            peer.seen = Some(now);
        }
        *self.seen.entry(vtep).or_default() += 1;
        true
    }

    /// Whether there are peers that only traffic told of.
    pub(super) fn any_seen(&self) -> bool {
        self.seen.values().any(|count| *count > 0)
    }

    /// Forgets peers that traffic told of, and that `keep` does not want. It may set the time at
    /// which an entry named one last.
    pub(super) fn retain_seen(&mut self, keep: impl Fn(PeerId, &Peer, &mut Nanos) -> bool) {
        let mut gone = Vec::new();
        for (id, peer) in &mut self.known {
            let Some(mut last) = peer.seen else { continue };
            let stays = keep(*id, peer, &mut last);
            peer.seen = stays.then_some(last);
            if !stays {
                gone.push((*id, peer.vtep));
            }
        }
        for (id, vtep) in gone {
            if let Some(count) = self.seen.get_mut(&vtep) {
                *count -= 1;
            }
            self.give_back(id);
        }
    }

    /// Forgets those that no entry has named for a while; `named` are those that one names now.
    pub(super) fn expire_seen(&mut self, now: Nanos, named: &BTreeSet<PeerId>) {
        self.retain_seen(|id, _, last| {
            if named.contains(&id) {
                *last = now;
            }
            now - *last <= SEEN_FOR
        });
    }

    /// Peers that the next snapshot is to have, and those that it is not to have any more. Their
    /// numbers stay taken until [`Self::free`].
    pub(super) fn take_change(&mut self) -> (Vec<PeerConf>, Vec<PeerId>) {
        let mut gone = Vec::new();
        for id in std::mem::take(&mut self.idle) {
            if self.known.get(&id).is_some_and(|peer| peer.uses == 0)
                && let Some(peer) = self.known.remove(&id)
            {
                self.by_address.remove(&(peer.vtep, peer.proto, peer.addr));
                gone.push(id);
            }
        }
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.sort_unstable();
        fresh.dedup();
        let conf = |id: PeerId| {
            let peer = self.known.get(&id)?;
            Some(PeerConf {
                id,
                vtep: peer.vtep,
                proto: peer.proto,
                addr: peer.addr,
                outer: OuterHeader::new(peer.proto, *self.locals.get(&peer.vtep)?, peer.addr),
                state: Arc::clone(&peer.state),
                counters: Arc::clone(&peer.counters),
            })
        };
        (fresh.into_iter().filter_map(conf).collect(), gone)
    }

    /// Nothing can name these any more.
    pub(super) fn free(&mut self, ids: &[PeerId]) {
        for id in ids {
            self.ids.give_back(id.index());
        }
    }

    /// Begins another round of asking for path MTUs, if the last one is over.
    pub(super) fn begin_round(&mut self) {
        if self.to_ask.is_empty() {
            self.to_ask.extend(self.known.keys());
        }
    }

    /// The next peer to ask for.
    pub(super) fn next_to_ask(&mut self) -> Option<(PeerId, PortId, IpAddr)> {
        loop {
            let id = self.to_ask.pop_front()?;
            if let Some(peer) = self.known.get(&id) {
                return Some((id, peer.vtep, peer.addr));
            }
        }
    }

    /// Notes a path MTU. If it is another one than before: what it was, and whether that was what
    /// the underlay had told.
    pub(super) fn set_path_mtu(&mut self, id: PeerId, mtu: u32) -> Option<(u32, bool)> {
        let peer = self.known.get_mut(&id)?;
        let before = (peer.state.path_mtu(), peer.asked);
        peer.asked = true;
        peer.state.set_path_mtu(mtu);
        (before.0 != mtu).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VXLAN: Proto = Proto::Udp(4789);

    fn vtep() -> PortId {
        PortId::new(9).unwrap()
    }

    fn addr(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    fn peers() -> Peers {
        let mut peers = Peers::new(1);
        peers.set_local(vtep(), addr(254));
        peers
    }

    #[test]
    fn equal_lists_are_one_and_their_peers_too() {
        let mut peers = peers();
        let first = peers.list(vtep(), VXLAN, &[addr(2), addr(1), addr(2)]);
        let same = peers.list(vtep(), VXLAN, &[addr(1), addr(2)]);
        let other = peers.list(vtep(), VXLAN, &[addr(2), addr(3)]);
        assert_eq!(first, same);
        assert!(Arc::ptr_eq(&peers.members(first), &peers.members(same)));
        let (new, gone) = peers.take_change();
        assert_eq!((new.len(), gone.len()), (3, 0));
        // In another protocol it is another peer.
        let gre = peers.list(vtep(), Proto::Gre, &[addr(1)]);
        assert_ne!(peers.members(gre)[0], peers.members(first)[0]);
        peers.release(first);
        assert!(peers.take_change().1.is_empty());
        peers.release(same);
        // One of them is on the other list as well.
        let (_, gone) = peers.take_change();
        assert_eq!(gone.len(), 1);
        assert_eq!(peers.members(other).len(), 2);
    }

    #[test]
    fn a_number_is_taken_until_nothing_can_name_it() {
        let mut peers = peers();
        let first = peers.take(vtep(), VXLAN, addr(1)).unwrap();
        peers.give_back(first);
        let (_, gone) = peers.take_change();
        assert_eq!(gone, [first]);
        let second = peers.take(vtep(), VXLAN, addr(1)).unwrap();
        assert_ne!(first, second);
        peers.free(&gone);
        assert_eq!(peers.take(vtep(), VXLAN, addr(2)), Some(first));
    }

    #[test]
    fn who_is_taken_again_in_the_same_change_stays() {
        let mut peers = peers();
        let id = peers.take(vtep(), VXLAN, addr(1)).unwrap();
        peers.take_change();
        peers.give_back(id);
        assert_eq!(peers.take(vtep(), VXLAN, addr(1)), Some(id));
        let (new, gone) = peers.take_change();
        assert!(new.is_empty() && gone.is_empty());
    }

    #[test]
    fn a_new_local_address_changes_the_headers_of_all_peers() {
        let mut peers = peers();
        peers.list(vtep(), VXLAN, &[addr(1), addr(2)]);
        peers.take_change();
        peers.set_local(vtep(), addr(254));
        assert!(peers.take_change().0.is_empty());
        peers.set_local(vtep(), addr(253));
        assert_eq!(peers.take_change().0.len(), 2);
    }

    #[test]
    fn peers_that_traffic_told_of_are_bounded_and_forgotten() {
        let mut peers = peers();
        let v6 = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
        let seen = (0..5000).filter(|n| peers.see(vtep(), VXLAN, v6(*n), Nanos::default()));
        assert_eq!(seen.count(), SEEN_MAX);
        assert_eq!(peers.refused, 5000 - SEEN_MAX as u64);
        let kept = peers.at(vtep(), VXLAN, v6(7)).unwrap();
        let later = Nanos::from_secs(601);
        peers.expire_seen(later, &[kept].into());
        assert_eq!(peers.take_change().1.len(), SEEN_MAX - 1);
        peers.retain_seen(|_, _, _| false);
        assert_eq!(peers.take_change().1, [kept]);
        assert!(!peers.any_seen());
    }

    #[test]
    fn all_peers_are_asked_for_in_turn_and_new_ones_first() {
        let mut peers = peers();
        let [a, b] = [1, 2].map(|n| peers.take(vtep(), VXLAN, addr(n)).unwrap());
        while peers.next_to_ask().is_some() {}
        peers.begin_round();
        let c = peers.take(vtep(), VXLAN, addr(3)).unwrap();
        let mut next = || peers.next_to_ask().map(|(id, ..)| id);
        assert_eq!([next(), next(), next(), next()], [Some(c), Some(a), Some(b), None]);
        assert_eq!(peers.set_path_mtu(a, 1400), Some((1500, false)));
        assert_eq!(peers.set_path_mtu(a, 1400), None);
        assert_eq!(peers.set_path_mtu(a, 1500), Some((1400, true)));
    }
}
