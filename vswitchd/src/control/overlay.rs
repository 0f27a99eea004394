//! VTEPs, tunnels and peers: from desired to actual state, and what workers tell of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use switch_core::bridge::Hold;
use switch_core::config::{PeerPolicy, Snapshot};
use switch_core::datapath::{Backend, PortEvent, PortEventKind, UnderlaySpec};
use switch_core::event::{OPTIONS_MAX, WorkerEvent};
use switch_core::fdb::Dest;
use switch_core::tunnel::{Proto, TunnelConf};
use switch_core::wire::GeneveOptions;
use switch_core::{Domain, PeerId, PortId};
use vswitch_api::config::Desired;
use vswitch_api::counted;
use vswitch_api::types::EventLevel;

use super::ports::Port;
use super::tunnels::{Leftovers, Received, Surroundings, underlays};
use super::{Controller, Queue};
use crate::workers::WorkerError;

/// Most received options that are kept of a tunnel.
const OPTIONS_KEPT: usize = 64;
/// How often the peers that only traffic told of are looked through, in seconds.
const SEEN_EVERY: u64 = 60;

/// VTEPs that are to be closed.
#[derive(Debug, Default)]
pub(super) struct ClosingVteps {
    gone: Vec<String>,
    reopened: Vec<String>,
}

impl ClosingVteps {
    /// Their ports.
    pub(super) fn away(&self, vteps: &BTreeMap<String, Port<UnderlaySpec>>) -> Vec<PortId> {
        let names = self.gone.iter().chain(&self.reopened);
        names.filter_map(|name| Some(vteps.get(name)?.id)).collect()
    }

    /// Adds those that are open on one of these ports.
    pub(super) fn reopen_on<'a>(
        &mut self,
        ports: impl Iterator<Item = &'a String>,
        vteps: &BTreeMap<String, Port<UnderlaySpec>>,
    ) {
        let ports: BTreeSet<&str> = ports.map(String::as_str).collect();
        for (name, vtep) in vteps {
            let uplink = vtep.applied.uplink.as_deref();
            if vtep.open.is_some()
                && uplink.is_some_and(|uplink| ports.contains(uplink))
                && !self.gone.contains(name)
                && !self.reopened.contains(name)
            {
                self.reopened.push(name.clone());
            }
        }
    }
}

/// Enough for either of two states of a VTEP, with the rest as in the new one.
fn either(old: &UnderlaySpec, new: &UnderlaySpec) -> UnderlaySpec {
    let mut both = new.clone();
    for listen in &old.udp {
        match both.udp.binary_search_by_key(&listen.port, |listen| listen.port) {
            Ok(at) => {
                let both = &mut both.udp[at];
                both.groups.extend(&listen.groups);
                both.groups.sort_unstable();
                both.groups.dedup();
                both.accept_no_checksum |= listen.accept_no_checksum;
            }
            Err(at) => both.udp.insert(at, listen.clone()),
        }
    }
    both.gre |= old.gre;
    both.send.extend(&old.send);
    both.send.sort_unstable();
    both.send.dedup();
    both
}

/// The tunnel of a domain that leads to that peer.
pub(super) fn tunnel_to(snapshot: &Snapshot, domain: Domain, peer: PeerId) -> Option<&TunnelConf> {
    let overlay = snapshot.overlay();
    let peer = overlay.peer(peer)?;
    let tunnels = snapshot.bridge(domain.bridge())?.tunnels(domain.vid());
    let tunnels = tunnels.filter_map(|id| overlay.tunnel(id));
    tunnels.map(|tunnel| &**tunnel).find(|t| t.vtep == peer.vtep && t.proto == peer.proto)
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Takes over what is asked of each VTEP: its own keys, and what its tunnels need of it. Another
    /// tunnel on a UDP port that is open already needs nothing more. What is new is open before
    /// workers hear of the tunnels that use it; what is not needed any more stays until
    /// [`Self::trim_vteps`].
    pub(super) fn adopt_vteps(&mut self) -> Result<ClosingVteps, WorkerError> {
        let mut closing = ClosingVteps::default();
        let mut wider = Vec::new();
        let mut needs = underlays(&self.desired);
        for (name, vtep) in &mut self.vteps {
            let Some(spec) = needs.remove(&**name) else {
                closing.gone.push(name.clone());
                continue;
            };
            if vtep.spec == spec {
                continue;
            }
            vtep.spec = spec;
            // Whatever the trouble was, this is asked for anew: it is tried at once.
            vtep.trouble = None;
            let both = either(&vtep.applied, &vtep.spec);
            if vtep.open.is_some() && vtep.applied != both {
                wider.push((name.clone(), both));
            }
        }
        for (name, spec) in needs {
            // The check of the whole configuration bounds their number.
            let Some(id) = self.port_ids.take_short().and_then(PortId::new) else { continue };
            let vtep = Port::new(id, spec, self.workers.count());
            self.vteps.insert(name.to_owned(), vtep);
        }
        for (name, both) in wider {
            if !self.adjust_vtep(&name, both)? {
                closing.reopened.push(name);
            }
        }
        Ok(closing)
    }

    /// Changes what an open VTEP sends and receives, under way. False if it has to be closed and
    /// opened again for that.
    fn adjust_vtep(&mut self, name: &str, to: UnderlaySpec) -> Result<bool, WorkerError> {
        let Some(vtep) = self.vteps.get_mut(name).filter(|vtep| vtep.open.is_some()) else {
            return Ok(true);
        };
        match self.backend.adjust_vtep(vtep.id, &to) {
            Ok(Some(queues)) => {
                // With the earlier queues goes what only they had.
                drop(self.workers.attach(vtep.id, queues, &vtep.counters)?);
                vtep.applied = to;
                vtep.trouble = None;
                vtep.info = self.backend.port_info(vtep.id).or_else(|| vtep.info.take());
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                if vtep.is_not_adjusted(&error, self.clock.now()) {
                    let subject = format!("vtep {name}");
                    self.events.add(EventLevel::Warn, "vtep-failed", &subject, &error.to_string());
                }
                Ok(true)
            }
        }
    }

    /// Brings an open VTEP to what is asked for. If that takes closing it, it is closed afterwards.
    pub(super) fn readjust_vtep(&mut self, name: &str) -> Result<(), WorkerError> {
        let Some(vtep) = self.vteps.get(name).filter(|vtep| vtep.applied != vtep.spec) else {
            return Ok(());
        };
        let (id, spec) = (vtep.id, vtep.spec.clone());
        if self.adjust_vtep(name, spec)? {
            return Ok(());
        }
        let revision = self.publish_without(&[id]);
        self.workers.wait_observed(&self.switch, revision)?;
        self.close_vtep(name)
    }

    /// Takes from VTEPs what no tunnel of the published snapshot needs.
    pub(super) fn trim_vteps(&mut self) -> Result<(), WorkerError> {
        // One that has failed to grow is tried again as a whole, in its time.
        let well = self.vteps.iter().filter(|(_, vtep)| vtep.trouble.is_none());
        let names: Vec<String> = well.map(|(name, _)| name.clone()).collect();
        names.iter().try_for_each(|name| self.readjust_vtep(name))
    }

    /// Takes over what is asked of tunnels, for the next snapshot.
    pub(super) fn adopt_tunnels(&mut self, before: &Desired) {
        let desired = &self.desired;
        let vteps = self.vteps.iter().filter(|(name, _)| desired.vteps.contains_key(*name));
        let ports: BTreeMap<&str, PortId> =
            vteps.clone().map(|(name, vtep)| (&**name, vtep.id)).collect();
        let underlays: Vec<&UnderlaySpec> = vteps.map(|(_, vtep)| &vtep.spec).collect();
        let present = self.switch.snapshot();
        let around = Surroundings {
            before,
            desired,
            bridges: &self.bridges,
            ports: &ports,
            present: &present,
        };
        let refused = self.tunnels.peers.refused;
        self.tunnels.adopt(&around, &underlays);
        let refused = self.tunnels.peers.refused - refused;
        if refused > 0 {
            let message = format!(
                "{} left out: there are {} peers at most",
                counted(refused, "remote"),
                PeerId::MAX_PEERS
            );
            self.events.add(EventLevel::Warn, "peer-limit", "", &message);
        }
    }

    /// Closes what no snapshot has any more.
    pub(super) fn close_vteps(&mut self, closing: &ClosingVteps) -> Result<(), WorkerError> {
        for name in &closing.gone {
            self.close_vtep(name)?;
            if let Some(vtep) = self.vteps.remove(name) {
                self.retire(&vtep);
            }
        }
        closing.reopened.iter().try_for_each(|name| self.close_vtep(name))
    }

    /// Opens what is not open and has not just failed, and publishes it.
    pub(super) fn open_vteps(&mut self) -> Result<(), WorkerError> {
        let closed: Vec<String> = self
            .vteps
            .iter()
            .filter(|(_, vtep)| vtep.open.is_none() && vtep.trouble.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        if closed.is_empty() {
            return Ok(());
        }
        let uplinks: BTreeSet<String> =
            closed.iter().filter_map(|name| self.vteps.get(name)?.spec.uplink.clone()).collect();
        for name in &uplinks {
            if self.ports.get(name).is_some_and(|port| port.trouble.is_none()) {
                self.open(name)?;
            }
        }
        for name in &closed {
            self.open_vtep(name)?;
        }
        self.publish();
        self.ask_all_paths();
        Ok(())
    }

    /// Forgets what names a tunnel or peer that is gone, and frees their numbers. Only once no
    /// worker uses an older snapshot, or it would learn the entries again.
    pub(super) fn settle(&mut self, left: &Leftovers) {
        let fdb = self.switch.fdb();
        if left.stale && (fdb.remote_count() > 0 || fdb.fixed_count() > 0) {
            let now = self.switch.snapshot();
            self.forget(|entry| {
                let Dest::Remote(peer) = entry.dest else { return false };
                let stays = PeerId::new(peer).is_some_and(|peer| {
                    tunnel_to(&now, entry.key.domain(), peer).is_some_and(|tunnel| {
                        !left.moved.contains(&tunnel.id) && tunnel.accepts.peer(Some(peer))
                    })
                });
                !stays
            });
        }
        self.tunnels.free(left);
    }

    /// Publishes what changed of tunnels and peers at run time.
    pub(super) fn publish_overlay(&mut self) -> Result<(), WorkerError> {
        let before = self.switch.snapshot();
        let (change, left) = self.tunnels.take_change(&before);
        let revision = self.publish_change(change);
        if left.stale {
            self.workers.wait_observed(&self.switch, revision)?;
        }
        self.settle(&left);
        self.ask_paths()
    }

    /// Something happened to the device of a VTEP.
    pub(super) fn underlay_event(&mut self, event: PortEvent) -> Result<(), WorkerError> {
        let named = self.vteps.iter().find(|(_, vtep)| vtep.id == event.port);
        let Some(name) = named.map(|(name, _)| name.clone()) else { return Ok(()) };
        let subject = format!("vtep {name}");
        match event.kind {
            PortEventKind::LinkUp | PortEventKind::LinkDown => {
                let up = event.kind == PortEventKind::LinkUp;
                let info = self.vteps.get_mut(&name).and_then(|vtep| vtep.info.as_mut());
                let Some(info) = info.filter(|info| info.link_up != up) else { return Ok(()) };
                info.link_up = up;
                let (event, words) = if up { ("vtep-up", "up") } else { ("vtep-down", "down") };
                self.events.add(EventLevel::Info, event, &subject, words);
                self.publish();
            }
            // Each peer has a path of its own.
            PortEventKind::Mtu(_) => self.ask_all_paths(),
            PortEventKind::TxError(error) => {
                self.events.add(EventLevel::Warn, "vtep-tx-error", &subject, &error);
            }
            PortEventKind::Gone(reason) => self.vtep_gone(&name, reason)?,
            PortEventKind::Appeared => {
                if self.open_vtep(&name)? {
                    self.publish();
                    self.ask_all_paths();
                }
            }
        }
        Ok(())
    }

    /// Takes note of what workers told of tunnels.
    pub(super) fn hear(&mut self, events: &[WorkerEvent]) -> Result<(), WorkerError> {
        let now = self.clock.now();
        let mut new: BTreeSet<(PortId, Proto)> = BTreeSet::new();
        let refused = self.tunnels.peers.refused;
        for event in events {
            if let WorkerEvent::PeerSeen { vtep, proto, addr } = *event
                && self.tunnels.accepts_any(vtep, proto)
                && self.tunnels.peers.see(vtep, proto, addr, now)
            {
                new.insert((vtep, proto));
            }
        }
        if refused == 0 && self.tunnels.peers.refused > 0 {
            let message = format!(
                "more than {} remotes that nobody configured have sent to a VTEP: frames of the \
                 others are taken, and their addresses not learned",
                super::peers::SEEN_MAX
            );
            self.events.add(EventLevel::Warn, "peer-limit", "", &message);
        }
        if !new.is_empty() {
            self.number_again(&new);
            self.publish_overlay()?;
        }
        for _ in 0..OPTIONS_MAX {
            let Some(seen) = self.switch.next_options() else { break };
            let snapshot = self.switch.snapshot();
            let Some(conf) = snapshot.overlay().tunnel(seen.tunnel) else { continue };
            let tunnel = self.tunnels.by_name.get_mut(&*conf.name);
            let (Some(tunnel), Ok(options)) = (tunnel, GeneveOptions::parse(&seen.options)) else {
                continue;
            };
            let from = seen.peer.and_then(|peer| Some(self.tunnels.peers.get(peer)?.addr));
            for option in options.iter() {
                let key = (option.class, option.typ);
                if tunnel.options.len() < OPTIONS_KEPT || tunnel.options.contains_key(&key) {
                    let received = Received { data: option.data.to_vec(), from };
                    tunnel.options.insert(key, received);
                }
            }
        }
        Ok(())
    }

    /// Tunnels that number their packets for each peer, and accept anybody's, have to know new ones.
    fn number_again(&mut self, new: &BTreeSet<(PortId, Proto)>) {
        let meant = |name: &str| {
            let tunnel = self.tunnels.by_name.get(name);
            tunnel.is_some_and(|tunnel| new.contains(&(tunnel.vtep, tunnel.proto)))
        };
        let numbered = self.desired.tunnels.values().filter(|spec| {
            spec.kind.is_numbered() && spec.peers == PeerPolicy::Any && meant(&spec.name)
        });
        let numbered: Vec<String> = numbered.map(|spec| spec.name.clone()).collect();
        let present = self.switch.snapshot();
        for name in numbered {
            if let Some(spec) = self.desired.tunnels.get(&name) {
                self.tunnels.rebuild(&name, spec, &present);
            }
        }
    }

    /// Asks for path MTUs in turn, and forgets peers that only traffic told of.
    pub(super) fn look_after_peers(&mut self) -> Result<(), WorkerError> {
        let now = self.clock.now();
        if now.secs() != self.asked_at.secs() {
            self.asked_at = now;
            self.ask_all_paths();
        }
        self.ask_paths()?;
        if now.secs() < self.seen_at.secs() + SEEN_EVERY {
            return Ok(());
        }
        self.seen_at = now;
        if !self.tunnels.peers.any_seen() {
            return Ok(());
        }
        let mut named = BTreeSet::new();
        self.switch.fdb().for_each(|entry| {
            if let Dest::Remote(peer) = entry.dest {
                named.extend(PeerId::new(peer));
            }
        });
        self.tunnels.peers.expire_seen(now, &named);
        self.publish_overlay()
    }

    /// Tells of addresses that are held where they are, and of those that may move again: of one by
    /// name, as a storm has thousands.
    pub(super) fn damped(&mut self, held: &[Hold], released: &[Hold]) {
        let subject = |hold: &Hold| {
            let bridge = self.bridge_name(hold.key.domain().bridge());
            format!("bridge {bridge}")
        };
        let others = |holds: &[Hold]| match holds.len() {
            0 | 1 => String::new(),
            more => format!("; so with {} more", more - 1),
        };
        if let Some(hold) = held.first() {
            let domain = hold.key.domain();
            let seconds = (hold.until - self.clock.now()).as_secs() + 1;
            let (at, other) =
                (self.dest_words(domain, hold.at), self.dest_words(domain, hold.other));
            let message = format!(
                "{} keeps moving between {other} and {at}: held at {at} for {seconds} s{}",
                hold.key.mac(),
                others(held)
            );
            self.events.add(EventLevel::Warn, "fdb-held", &subject(hold), &message);
        }
        if let Some(hold) = released.first() {
            let message = format!("{} may move again{}", hold.key.mac(), others(released));
            self.events.add(EventLevel::Info, "fdb-released", &subject(hold), &message);
        }
        self.damped += held.len() as u64;
    }

    /// A destination in words.
    fn dest_words(&self, domain: Domain, dest: Dest) -> String {
        match self.dest_names(domain, dest) {
            (tunnel, Some(remote)) => format!("remote {remote} (tunnel {tunnel})"),
            (port, None) => format!("port {port}"),
        }
    }

    /// Port or tunnel of a destination, and the remote's address.
    pub(super) fn dest_names(&self, domain: Domain, dest: Dest) -> (String, Option<IpAddr>) {
        match dest {
            Dest::Port(port) => (self.port_name(port), None),
            Dest::Remote(index) => remote_names(&self.switch.snapshot(), domain, index),
        }
    }
}

/// Tunnel and address of a remote, for what is shown.
pub(super) fn remote_names(
    snapshot: &Snapshot,
    domain: Domain,
    index: u32,
) -> (String, Option<IpAddr>) {
    let peer = PeerId::new(index).and_then(|peer| snapshot.overlay().peer(peer));
    let Some(peer) = peer else { return (format!("remote#{index}"), None) };
    let tunnel = tunnel_to(snapshot, domain, peer.id).map(|tunnel| tunnel.name.to_string());
    (tunnel.unwrap_or_default(), Some(peer.addr))
}
