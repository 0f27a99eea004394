//! From desired to actual state.
//!
//! What goes, goes in this order: a snapshot without it is published, every worker is seen to use
//! that snapshot, the port is detached from every worker, and only then is its device closed. What
//! comes, is opened and attached first and published last. Ports that a change does not name are
//! the same object in the snapshot before and after, so nothing happens to their frames.

use std::collections::BTreeSet;
use std::sync::Arc;

use switch_core::BridgeId;
use switch_core::PortId;
use switch_core::config::{BridgeConf, PortConf, PortSpec, Snapshot};
use switch_core::datapath::Backend;
use switch_core::fdb::{Dest, Entry, Flush, Key};
use switch_core::mirror::MirrorConf;
use switch_core::switch::Switch;
use vswitch_api::config::Desired;

use super::mirrors;
use super::ports::Port;
use super::tunnels::Change;
use super::{Controller, Queue, owner_key};
use crate::workers::WorkerError;

/// How many ports are opened between two snapshots: few enough that the first of thousands do not
/// wait for the last.
const OPEN_AT_ONCE: usize = 32;

/// What of a port's desired state its device is concerned with.
fn device_differs(old: &PortSpec, new: &PortSpec) -> bool {
    old.kind != new.kind
        || old.mtu != new.mtu
        || old.mac != new.mac
        || old.exception != new.exception
}

/// Whether the old device is not the new one, so that it would be left behind.
fn other_device(old: &PortSpec, new: &PortSpec) -> bool {
    old.kind.port_type() != new.kind.port_type()
        || old.kind.device() != new.kind.device()
        || old.kind.netns() != new.kind.netns()
        || old.exception != new.exception
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Makes the switch what `desired` says, as far as the system lets it. What it does not is noted
    /// at the port.
    ///
    /// # Errors
    /// A worker hangs.
    pub(super) fn reconcile(&mut self, desired: Desired) -> Result<(), WorkerError> {
        let asked_before = std::mem::replace(&mut self.desired, desired);
        self.take_bridges();
        let mut vteps = self.adopt_vteps()?;
        self.adopt_tunnels(&asked_before);
        let (gone, reopened) = self.adopt_specs();
        let gone_bridges: Vec<String> = self
            .bridges
            .keys()
            .filter(|b| !self.desired.bridges.contains_key(*b))
            .cloned()
            .collect();

        let away = gone.iter().chain(reopened.iter().map(|(name, _)| name));
        vteps.reopen_on(away.clone(), &self.vteps);
        let mut away: Vec<PortId> =
            away.filter_map(|name| Some(self.ports.get(name)?.id)).collect();
        away.extend(vteps.away(&self.vteps));
        let before = self.switch.snapshot();
        let (change, left) = self.tunnels.take_change(&before);
        let revision = self.publish_desired(&away, change);
        if revision != before.revision() {
            self.workers.wait_observed(&self.switch, revision)?;
        }
        // Before the ports: some may be their uplinks.
        self.close_vteps(&vteps)?;
        for name in &gone {
            self.close(name, true)?;
            if let Some(port) = self.ports.remove(name) {
                self.retire(&port);
            }
        }
        for (name, remove) in &reopened {
            self.close(name, *remove)?;
        }
        self.flush_leftovers(&before);
        self.trim_vteps()?;
        self.settle(&left);
        let ids: BTreeSet<BridgeId> =
            gone_bridges.iter().filter_map(|name| self.bridges.remove(name)).collect();
        if !ids.is_empty() {
            self.forget(|entry| ids.contains(&entry.key.domain().bridge()));
        }
        for id in ids {
            self.bridge_ids.give_back(id.index());
        }
        self.open_vteps()?;
        // Before the ports, so that they are opened with the MTU that fits.
        self.ask_paths()?;
        self.open_ports()?;
        self.adopt_exports();
        Ok(())
    }

    /// Gives every desired bridge a number, its limit and its ageing time.
    fn take_bridges(&mut self) {
        for (name, spec) in &self.desired.bridges {
            let id = match self.bridges.get(name) {
                Some(id) => *id,
                None => {
                    // The check of the whole configuration bounds their number.
                    let Some(id) = self.bridge_ids.take_short().map(BridgeId::new) else {
                        continue;
                    };
                    self.bridges.insert(name.clone(), id);
                    id
                }
            };
            self.switch.fdb().set_bridge_limit(id, spec.max_fdb);
            if self.ageing.len() <= id.index() {
                self.ageing.resize(id.index() + 1, 0);
            }
            self.ageing[id.index()] = spec.ageing.as_secs().try_into().unwrap_or(u32::MAX);
        }
    }

    /// Takes over what is asked of each port. Answers with those that go, and those that have to be
    /// closed and opened again (with whether their old device goes).
    fn adopt_specs(&mut self) -> (Vec<String>, Vec<(String, bool)>) {
        let gone =
            self.ports.keys().filter(|p| !self.desired.ports.contains_key(*p)).cloned().collect();
        let mut to_adjust = Vec::new();
        let mtus = self.inner_mtus();
        let ends_mirror: BTreeSet<&str> = self.desired.mirrors.values().map(|m| &*m.to).collect();
        for (name, spec) in &self.desired.ports {
            if !self.ports.contains_key(name) {
                // The check of the whole configuration bounds their number.
                let Some(id) = self.port_ids.take_short().and_then(PortId::new) else { continue };
                let port = Port::new(id, spec.clone(), self.workers.count());
                self.ports.insert(name.clone(), port);
            }
            let Some(port) = self.ports.get_mut(name) else { continue };
            self.switch.fdb().set_port_limit(port.id, spec.max_fdb);
            let told = port.mtu_to_tell(mtus.get(&**name).copied());
            let ends_mirror = ends_mirror.contains(&**name);
            if port.spec == *spec && port.told_mtu == told && port.ends_mirror == ends_mirror {
                continue;
            }
            port.ends_mirror = ends_mirror;
            port.spec = spec.clone();
            port.told_mtu = told;
            // Whatever the trouble was, this is asked for anew: it is tried at once.
            port.trouble = None;
            if port.open.is_some() {
                to_adjust.push(name.clone());
            }
        }
        let reopened = to_adjust
            .into_iter()
            .filter_map(|name| self.adjust(&name).map(|remove| (name, remove)))
            .collect();
        (gone, reopened)
    }

    /// Brings the device of an open port to what is asked for. `Some` if it has to be closed and
    /// opened again for that: whether the old device goes then.
    pub(super) fn adjust(&mut self, name: &str) -> Option<bool> {
        let port = self.ports.get_mut(name).filter(|port| port.open.is_some())?;
        let wanted = port.device_spec();
        if !device_differs(&port.applied, &wanted) {
            port.applied = wanted;
            port.trouble = None;
            return None;
        }
        match self.backend.adjust_port(port.id, &port.applied, &wanted) {
            Ok(true) => {
                port.applied = wanted;
                port.trouble = None;
                port.info = self.backend.port_info(port.id).or_else(|| port.info.take());
                None
            }
            Ok(false) => Some(other_device(&port.applied, &wanted)),
            Err(error) => {
                self.not_adjusted(name, &error);
                None
            }
        }
    }

    /// Opens what is not open and has not just failed, and publishes it.
    fn open_ports(&mut self) -> Result<(), WorkerError> {
        let closed: Vec<String> = self
            .ports
            .iter()
            .filter(|(_, port)| port.open.is_none() && port.trouble.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for some in closed.chunks(OPEN_AT_ONCE) {
            for name in some {
                self.open(name)?;
            }
            self.publish();
        }
        self.workers.wake();
        Ok(())
    }

    /// Publishes what is open now. The revision that has it.
    pub(super) fn publish(&mut self) -> u64 {
        self.publish_without(&[])
    }

    /// The same without some ports, which are about to be closed. Bridges stay as they are, so
    /// that what becomes of one port costs the same whatever their number.
    pub(super) fn publish_without(&mut self, away: &[PortId]) -> u64 {
        publish(&self.switch, self.open_ports_without(away), None, None, Change::default())
    }

    /// The same with another picture of overlays.
    pub(super) fn publish_change(&mut self, change: Change) -> u64 {
        publish(&self.switch, self.open_ports_without(&[]), None, None, change)
    }

    /// The same with the bridges and mirrors that are desired now.
    fn publish_desired(&mut self, away: &[PortId], change: Change) -> u64 {
        let mirrors = self.mirror_confs();
        let bridges = self
            .desired
            .bridges
            .iter()
            .filter_map(|(name, spec)| Some((*self.bridges.get(name)?, &**name, spec.learning)))
            .collect();
        let ports = self.open_ports_without(away);
        publish(&self.switch, ports, Some(bridges), Some(mirrors), change)
    }

    fn open_ports_without(&self, away: &[PortId]) -> Vec<PortConf> {
        let away: BTreeSet<PortId> = away.iter().copied().collect();
        let ports = self
            .ports
            .iter()
            .filter(|(name, port)| {
                !away.contains(&port.id) && self.desired.ports.contains_key(*name)
            })
            .filter_map(|(_, port)| {
                let bridge = port.spec.bridge.as_ref().and_then(|b| self.bridges.get(b));
                port.conf(bridge.copied())
            });
        let vteps = self.vteps.values().filter(|vtep| !away.contains(&vtep.id));
        ports.chain(vteps.filter_map(|vtep| vtep.underlay_conf())).collect()
    }

    /// Forgets entries of ports that are no longer in the bridge or VLAN the entries are in. Only
    /// once no worker uses the snapshot `before`, or it would learn them again.
    fn flush_leftovers(&mut self, before: &Snapshot) {
        let now = self.switch.snapshot();
        let moved: BTreeSet<PortId> = before
            .ports()
            .filter(|old| {
                now.port(old.id)
                    .is_some_and(|new| new.bridge != old.bridge || new.vlans != old.vlans)
            })
            .map(|port| port.id)
            .collect();
        if moved.is_empty() {
            return;
        }
        self.forget(|entry| {
            let Dest::Port(id) = entry.dest else { return false };
            let domain = entry.key.domain();
            let stays = now.port(id).is_some_and(|port| {
                port.bridge == Some(domain.bridge()) && port.vlans.egress(domain.vid()).is_some()
            });
            moved.contains(&id) && !stays
        });
    }

    /// Removes entries of any kind, in one pass over the table.
    pub(super) fn forget(&mut self, stale: impl Fn(&Entry) -> bool) {
        let mut keys: Vec<Key> = Vec::new();
        self.switch.fdb().for_each(|entry| {
            if stale(&entry) {
                keys.push(entry.key);
            }
        });
        for key in keys {
            self.switch.fdb().remove(key);
            self.owners.remove(&owner_key(key));
        }
    }

    /// Keeps what a deleted port counted, and frees its number.
    pub(super) fn retire<S: Clone>(&mut self, port: &Port<S>) {
        self.retired.add(&port.totals());
        // What was learned is gone since it was closed.
        if self.switch.fdb().fixed_count() > 0 {
            let mut owned = Vec::new();
            self.switch.fdb().flush_each(&Flush::all().port(port.id).with_fixed(), |entry| {
                owned.push(owner_key(entry.key));
            });
            for key in owned {
                self.owners.remove(&key);
            }
        }
        self.switch.fdb().set_port_limit(port.id, None);
        self.port_ids.give_back(port.id.index());
    }

    /// Closes every port, for the end. Devices that persist stay.
    pub(super) fn close_all(&mut self) -> Result<(), WorkerError> {
        let names: Vec<String> = self.ports.keys().cloned().collect();
        let vteps: Vec<String> = self.vteps.keys().cloned().collect();
        let ids = self.ports.values().map(|port| port.id);
        let away: Vec<PortId> = ids.chain(self.vteps.values().map(|vtep| vtep.id)).collect();
        let revision = self.publish_without(&away);
        self.workers.wait_observed(&self.switch, revision)?;
        // All at once: a flush for each port would look at the whole table as often.
        self.switch.fdb().flush(&Flush::all());
        for name in &vteps {
            self.close_vtep(name)?;
        }
        for name in &names {
            self.close(name, false)?;
        }
        Ok(())
    }
}

/// Publishes a snapshot with exactly these ports, bridges and mirrors (`None`: the present ones) and
/// this change of overlays, if it differs from the present one. What did not change is shared with it.
fn publish(
    switch: &Arc<Switch>,
    ports: Vec<PortConf>,
    bridges: Option<Vec<(BridgeId, &str, bool)>>,
    mirrors: Option<Vec<Arc<MirrorConf>>>,
    change: Change,
) -> u64 {
    let present = switch.snapshot();
    let mut next = present.next();
    let mut touched: BTreeSet<BridgeId> = BTreeSet::new();
    let mut changed: Vec<PortConf> = Vec::new();
    let kept: BTreeSet<PortId> = ports.iter().map(|port| port.id).collect();
    for port in ports {
        let old = present.port(port.id);
        if !old.is_some_and(|old| same(old, &port)) {
            touched.extend(old.and_then(|old| old.bridge).into_iter().chain(port.bridge));
            changed.push(port);
        }
    }
    let gone: Vec<PortId> =
        present.ports().map(|port| port.id).filter(|id| !kept.contains(id)).collect();
    touched.extend(gone.iter().filter_map(|id| present.port(*id)?.bridge));
    if let Some(bridges) = &bridges {
        for (id, name, learning) in bridges {
            let same = |old: &Arc<_>| is(old, name, *learning);
            if !present.bridge(*id).is_some_and(same) {
                touched.insert(*id);
            }
        }
        let wanted: BTreeSet<BridgeId> = bridges.iter().map(|(id, ..)| *id).collect();
        let known = present.bridges().map(|bridge| bridge.id);
        touched.extend(known.filter(|id| !wanted.contains(id)));
    }
    touched.extend(change.bridges(&present));
    let mirrors = mirrors.filter(|mirrors| mirrors::differ(&present, mirrors));
    let stays = touched.is_empty() && changed.is_empty() && gone.is_empty() && change.is_empty();
    if stays && mirrors.is_none() {
        return present.revision();
    }
    // Flood lists are made when a bridge is set, and again with each of its ports. So the touched
    // bridges are taken out while their ports change, and put back once.
    for id in &touched {
        next.remove_bridge(*id);
    }
    for id in gone {
        next.remove_port(id);
    }
    for port in changed {
        next.set_port(port);
    }
    change.apply(&mut next);
    if let Some(mirrors) = mirrors {
        next.set_mirrors(mirrors);
    }
    let bridges = bridges.unwrap_or_else(|| {
        let known = touched.iter().filter_map(|id| present.bridge(*id));
        known.map(|bridge| (bridge.id, &*bridge.name, bridge.learning)).collect()
    });
    for (id, name, learning) in bridges.into_iter().filter(|(id, ..)| touched.contains(id)) {
        next.set_bridge(id, name, learning);
    }
    let revision = next.revision();
    switch.publish(next);
    revision
}

fn is(bridge: &BridgeConf, name: &str, learning: bool) -> bool {
    &*bridge.name == name && bridge.learning == learning
}

fn same(a: &PortConf, b: &PortConf) -> bool {
    // By field, so that a new one cannot be forgotten.
    let PortConf {
        id,
        name,
        bridge,
        vlans,
        isolated,
        loop_guard,
        storm,
        mtu,
        caps,
        gro,
        up,
        opened,
        state,
    } = a;
    *id == b.id
        && *name == b.name
        && *bridge == b.bridge
        && *vlans == b.vlans
        && *isolated == b.isolated
        && *loop_guard == b.loop_guard
        && *storm == b.storm
        && *mtu == b.mtu
        && *caps == b.caps
        && *gro == b.gro
        && *up == b.up
        && *opened == b.opened
        && Arc::ptr_eq(state, &b.state)
}
