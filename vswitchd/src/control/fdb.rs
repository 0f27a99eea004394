//! The forwarding database, as the API reads and changes it.
//!
//! Batches of thousands are checked as a whole before any entry is touched: names, VLANs and
//! addresses. What the table itself refuses then (it is full) is told by entry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use switch_core::config::{Snapshot, TunnelSpec};
use switch_core::datapath::Backend;
use switch_core::fdb::{Dest, Entry, FdbError, Flags, Flush, Key, Tick};
use switch_core::wire::MacAddr;
use switch_core::{BridgeId, Domain, PeerId, PortId, TunnelId};
use vswitch_api::config::Problem;
use vswitch_api::types::{
    FdbBatch, FdbBatchReply, FdbEntry, FdbEventKind, FdbFilter, FdbFlush, FdbKey, FdbKind,
    FdbRefused, FdbSelector,
};
use vswitch_api::{ApiError, Code};

use super::mutate::{no_such_bridge, no_such_port};
use super::overlay::{remote_names, tunnel_to};
use super::ports::vlans;
use super::{Controller, Queue, owner_key};

/// Who entries belong to whose adder gave no name.
const OWNER: &str = "api";
/// Longest name of an owner, bytes.
const OWNER_MOST: usize = 64;
/// Highest VLAN.
const VLAN_MOST: u16 = switch_core::config::VID_MAX;

/// Entries as the table has them. Putting a million of them into words takes its time, which is not
/// the control thread's.
#[derive(Debug)]
pub struct FdbTable {
    entries: Vec<Entry>,
    owners: Vec<Option<String>>,
    snapshot: Arc<Snapshot>,
    /// Names of ports that no snapshot has.
    closed: BTreeMap<u16, String>,
    now: Tick,
}

impl FdbTable {
    /// The entries in words, by bridge, VLAN and address.
    pub fn into_entries(self) -> Vec<FdbEntry> {
        let port = |id: PortId| match self.snapshot.port(id) {
            Some(port) => port.name.to_string(),
            None => self.closed.get(&id.get()).cloned().unwrap_or_else(|| format!("{id:?}")),
        };
        let bridge = |id: BridgeId| match self.snapshot.bridge(id) {
            Some(bridge) => bridge.name.to_string(),
            None => format!("{id:?}"),
        };
        let shown = |(entry, owner): (&Entry, Option<String>)| {
            let domain = entry.key.domain();
            let (port, remote) = match entry.dest {
                Dest::Port(id) => (port(id), None),
                Dest::Remote(index) => remote_names(&self.snapshot, domain, index),
            };
            FdbEntry {
                bridge: bridge(domain.bridge()),
                vlan: domain.vid(),
                mac: entry.key.mac().to_string(),
                port,
                remote,
                kind: kind(entry.flags),
                sticky: entry.flags.contains(Flags::STICKY),
                age: entry.flags.is_learned().then(|| entry.age_secs(self.now).into()),
                owner,
            }
        };
        let mut out: Vec<_> = self.entries.iter().zip(self.owners).map(shown).collect();
        out.sort_by(|a, b| (&a.bridge, a.vlan, &a.mac).cmp(&(&b.bridge, b.vlan, &b.mac)));
        out
    }
}

/// Where entries may be.
#[derive(Clone, Copy, Debug)]
enum Place {
    Port(PortId),
    Tunnel(TunnelId),
}

impl Place {
    fn has(self, snapshot: &Snapshot, entry: &Entry) -> bool {
        match (self, entry.dest) {
            (Self::Port(port), dest) => dest == Dest::Port(port),
            (Self::Tunnel(id), Dest::Remote(peer)) => PeerId::new(peer).is_some_and(|peer| {
                tunnel_to(snapshot, entry.key.domain(), peer).is_some_and(|tunnel| tunnel.id == id)
            }),
            (Self::Tunnel(_), Dest::Port(_)) => false,
        }
    }
}

/// Whether an entry is behind the remote of that address.
fn is_behind(snapshot: &Snapshot, entry: &Entry, remote: IpAddr) -> bool {
    let Dest::Remote(peer) = entry.dest else { return false };
    let peer = PeerId::new(peer).and_then(|peer| snapshot.overlay().peer(peer));
    peer.is_some_and(|peer| peer.addr == remote)
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    fn bridge_id(&self, name: &str) -> Result<BridgeId, ApiError> {
        self.bridges.get(name).copied().ok_or_else(|| no_such_bridge(name))
    }

    /// The port or tunnel of that name: no two have the same.
    fn place(&self, name: &str) -> Result<Place, ApiError> {
        let port = self.ports.get(name).map(|port| Place::Port(port.id));
        let tunnel = || Some(Place::Tunnel(self.tunnels.by_name.get(name)?.id));
        port.or_else(tunnel).ok_or_else(|| no_such_port(name))
    }

    pub(super) fn fdb_entries(&self, filter: &FdbFilter) -> Result<FdbTable, ApiError> {
        let bridge = filter.bridge.as_deref().map(|name| self.bridge_id(name)).transpose()?;
        let place = filter.port.as_deref().map(|name| self.place(name)).transpose()?;
        let snapshot = self.switch.snapshot();
        let mac = filter.mac.as_deref().map(|text| mac(text, "mac")).transpose()?;
        let mut found: Vec<Entry> = Vec::new();
        self.switch.fdb().for_each(|entry| {
            let key = entry.key;
            let meets = bridge.is_none_or(|bridge| key.domain().bridge() == bridge)
                && place.is_none_or(|place| place.has(&snapshot, &entry))
                && filter.remote.is_none_or(|remote| is_behind(&snapshot, &entry, remote))
                && mac.is_none_or(|mac| key.mac() == mac)
                && filter.vlan.is_none_or(|vlan| key.domain().vid() == vlan)
                && filter.kind.is_none_or(|want| kind(entry.flags) == want);
            if meets {
                found.push(entry);
            }
        });
        let closed = self.ports.iter().filter(|(_, port)| port.open.is_none());
        Ok(FdbTable {
            owners: found.iter().map(|e| self.owners.get(&owner_key(e.key)).cloned()).collect(),
            entries: found,
            snapshot,
            closed: closed.map(|(name, port)| (port.id.get(), name.clone())).collect(),
            now: Tick::from(self.clock.now()),
        })
    }

    pub(super) fn fdb_add(&mut self, batch: FdbBatch) -> Result<FdbBatchReply, ApiError> {
        let mut problems = Vec::new();
        let owner = owner_of(batch.owner, &mut problems);
        let mut entries = Vec::new();
        for (index, entry) in batch.entries.iter().enumerate() {
            match self.checked(entry, index) {
                Ok(entry) => entries.push(entry),
                Err(problem) => problems.push(problem),
            }
        }
        refuse(problems)?;
        let now = Tick::from(self.clock.now());
        let mut reply = FdbBatchReply::default();
        for (index, (key, dest, flags)) in entries.into_iter().enumerate() {
            match self.switch.fdb().set(key, dest, flags, now) {
                Ok(()) => {
                    reply.done += 1;
                    self.keeper.settled(key);
                    // A learned one is nobody's: it ages, and nobody would take the note away.
                    if flags.is_learned() {
                        self.owners.remove(&owner_key(key));
                    } else {
                        self.owners.insert(owner_key(key), owner.clone());
                    }
                    if self.events.is_monitored() {
                        self.tell(FdbEventKind::Added, key, dest, None);
                    }
                }
                Err(error) => {
                    reply.refused.push(FdbRefused { index: index as u64, reason: said(error) });
                }
            }
        }
        match reply.refused.first() {
            Some(refused) if reply.done == 0 => {
                let message = format!("no entry was added: {}", refused.reason);
                Err(ApiError::new(Code::FdbFull, message).with_hint("vswitch-ctl status"))
            }
            _ => Ok(reply),
        }
    }

    /// What an entry of a batch means, or what is wrong with it.
    fn checked(&mut self, entry: &FdbEntry, index: usize) -> Result<(Key, Dest, Flags), Problem> {
        let at = |key: &str| format!("entries[{index}].{key}");
        let named = |key: &str, error: ApiError| Problem::new(at(key), error.message);
        let bridge = self.bridge_id(&entry.bridge).map_err(|error| named("bridge", error))?;
        let place = self.place(&entry.port).map_err(|error| named("port", error))?;
        let (what, inside, vlans) = match place {
            Place::Port(_) => {
                let port = self.ports.get(&entry.port);
                let spec = port.map(|port| &port.spec);
                ("port", spec.and_then(|s| s.bridge.as_deref()), spec.map(|s| vlans(&s.vlan)))
            }
            Place::Tunnel(_) => {
                let spec = self.desired.tunnels.get(&entry.port);
                ("tunnel", spec.map(|spec| &*spec.bridge), spec.map(TunnelSpec::vlans))
            }
        };
        if inside != Some(&*entry.bridge) {
            let message = format!("{what} {} is not in bridge {}", entry.port, entry.bridge);
            return Err(Problem::new(at("port"), message));
        }
        let member = vlans.is_some_and(|vlans| vlans.egress(entry.vlan).is_some());
        if entry.vlan > VLAN_MOST || !member {
            let message = format!("{what} {} is not in VLAN {}", entry.port, entry.vlan);
            return Err(Problem::new(at("vlan"), message));
        }
        let mac = mac(&entry.mac, &at("mac")).map_err(|error| {
            error
                .problems
                .into_iter()
                .next()
                .unwrap_or_else(|| Problem::new(at("mac"), error.message))
        })?;
        let kind = match entry.kind {
            FdbKind::Static => Flags::STATIC,
            FdbKind::Learned => Flags::NONE,
            FdbKind::Local => {
                return Err(Problem::new(at("type"), "only the switch itself adds local entries"));
            }
        };
        let flags = if entry.sticky { kind | Flags::STICKY } else { kind };
        let dest = match (place, entry.remote) {
            (Place::Port(port), None) => Dest::Port(port),
            (Place::Port(_), Some(_)) => {
                let message = format!("{} is a port: only tunnels lead to remotes", entry.port);
                return Err(Problem::new(at("remote"), message));
            }
            (Place::Tunnel(_), None) => {
                let message = format!("{} is a tunnel: say which remote it is", entry.port);
                return Err(Problem::new(at("remote"), message));
            }
            (Place::Tunnel(_), Some(remote)) => self
                .remote_of(&entry.port, remote)
                .map_err(|message| Problem::new(at("remote"), message))?,
        };
        Ok((Key::new(mac, Domain::new(bridge, entry.vlan)), dest, flags))
    }

    /// A remote of a tunnel as a destination, or why it is none.
    fn remote_of(&mut self, tunnel: &str, remote: IpAddr) -> Result<Dest, String> {
        let known = self.tunnels.by_name.get(tunnel).and_then(|tunnel| {
            let id = self.tunnels.peers.at(tunnel.vtep, tunnel.proto, remote)?;
            let snapshot = self.switch.snapshot();
            let conf = snapshot.overlay().tunnel(tunnel.id)?;
            conf.accepts.peer(Some(id)).then_some(Dest::Remote(id.get()))
        });
        known.ok_or_else(|| {
            format!(
                "{remote} is no remote of tunnel {tunnel}: add it with `vswitch-ctl tunnel peers \
                 {tunnel} add {remote}`"
            )
        })
    }

    pub(super) fn fdb_remove(&mut self, batch: &FdbSelector) -> Result<FdbBatchReply, ApiError> {
        let mut problems = Vec::new();
        let mut keys = Vec::new();
        for (index, FdbKey { bridge, vlan, mac: text }) in batch.entries.iter().enumerate() {
            let at = |key: &str| format!("entries[{index}].{key}");
            let bridge = self.bridge_id(bridge);
            match (bridge, mac(text, &at("mac"))) {
                (Ok(bridge), Ok(mac)) => keys.push(Key::new(mac, Domain::new(bridge, *vlan))),
                (Err(error), _) => problems.push(Problem::new(at("bridge"), error.message)),
                (_, Err(error)) => problems.extend(error.problems),
            }
        }
        refuse(problems)?;
        let mut reply = FdbBatchReply::default();
        for (index, key) in keys.into_iter().enumerate() {
            let entry = self.switch.fdb().peek(key);
            if self.switch.fdb().remove(key) {
                reply.done += 1;
                self.owners.remove(&owner_key(key));
                if let Some(entry) = entry
                    && self.events.is_monitored()
                {
                    self.tell(FdbEventKind::Deleted, key, entry.dest, None);
                }
            } else {
                let reason = "there is no such entry".to_owned();
                reply.refused.push(FdbRefused { index: index as u64, reason });
            }
        }
        if reply.done == 0 && !reply.refused.is_empty() {
            return Err(ApiError::new(Code::NoSuchEntry, "the FDB has no such entry")
                .with_hint("vswitch-ctl fdb show"));
        }
        Ok(reply)
    }

    pub(super) fn fdb_flush(&mut self, flush: &FdbFlush) -> Result<FdbBatchReply, ApiError> {
        let bridge = flush.bridge.as_deref().map(|name| self.bridge_id(name)).transpose()?;
        let place = flush.port.as_deref().map(|name| self.place(name)).transpose()?;
        let mut filter = Flush::all();
        if let Some(bridge) = bridge {
            filter = filter.bridge(bridge);
        }
        if let Some(Place::Port(port)) = place {
            filter = filter.port(port);
        }
        if flush.also_static {
            filter = filter.with_fixed();
        }
        if let Some(vlan) = flush.vlan {
            filter = filter.vlan(vlan);
        }
        let mut gone: Vec<Entry> = Vec::new();
        if flush.remote.is_none() && !matches!(place, Some(Place::Tunnel(_))) {
            self.switch.fdb().flush_each(&filter, |entry| gone.push(entry));
        } else {
            let snapshot = self.switch.snapshot();
            self.switch.fdb().for_each(|entry| {
                if filter.catches(&entry)
                    && place.is_none_or(|place| place.has(&snapshot, &entry))
                    && flush.remote.is_none_or(|remote| is_behind(&snapshot, &entry, remote))
                {
                    gone.push(entry);
                }
            });
            gone.retain(|entry| self.switch.fdb().remove(entry.key));
        }
        for entry in &gone {
            self.owners.remove(&owner_key(entry.key));
            if self.events.is_monitored() {
                self.tell(FdbEventKind::Deleted, entry.key, entry.dest, None);
            }
        }
        Ok(FdbBatchReply { done: gone.len() as u64, refused: Vec::new() })
    }
}

fn kind(flags: Flags) -> FdbKind {
    if flags.contains(Flags::LOCAL) {
        FdbKind::Local
    } else if flags.is_learned() {
        FdbKind::Learned
    } else {
        FdbKind::Static
    }
}

fn mac(text: &str, key: &str) -> Result<MacAddr, ApiError> {
    let problem = |message: String| invalid(vec![Problem::new(key, message)]);
    let mac: MacAddr = text.parse().map_err(|error| problem(format!("{error}")))?;
    if mac.is_station() {
        Ok(mac)
    } else {
        Err(problem(format!("{mac} is not the address of one station")))
    }
}

/// What the table says, without its own numbers for bridges and ports.
fn said(error: FdbError) -> String {
    match error {
        FdbError::PortLimit(_) => "the port holds as many entries as its limit allows".to_owned(),
        FdbError::BridgeLimit(_) => {
            "the bridge holds as many entries as its limit allows".to_owned()
        }
        FdbError::NoSlot(_) => "static entries fill every place it could take".to_owned(),
        FdbError::Contended(_) => "the entry keeps changing; try again".to_owned(),
        other => other.to_string(),
    }
}

/// The owner that a request names, or the one that is nobody in particular.
pub(super) fn owner_of(name: Option<String>, problems: &mut Vec<Problem>) -> String {
    let owner = name.unwrap_or_else(|| OWNER.to_owned());
    if owner.is_empty() || owner.len() > OWNER_MOST || owner.chars().any(char::is_control) {
        let message = format!("an owner's name has 1 to {OWNER_MOST} bytes");
        problems.push(Problem::new("owner", message));
    }
    owner
}

pub(super) fn refuse(problems: Vec<Problem>) -> Result<(), ApiError> {
    if problems.is_empty() { Ok(()) } else { Err(invalid(problems)) }
}

fn invalid(problems: Vec<Problem>) -> ApiError {
    let message = match problems.as_slice() {
        [one] => one.to_string(),
        several => format!("the request has {} problems", several.len()),
    };
    ApiError { problems, ..ApiError::new(Code::InvalidRequest, message) }
}
