//! Tunnels: from what is asked for to what the next snapshot has. Pure: nothing here touches a
//! device, a worker or the FDB.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use switch_core::config::{InnerTags, PeerPolicy, Snapshot, TunnelSpec, TunnelType, VtepSpec};
use switch_core::datapath::{UdpListen, UdpSend, UnderlaySpec};
use switch_core::tunnel::{Accepts, PeerConf, Proto, TunnelConf, TunnelParts, VtepConf};
use switch_core::{BridgeId, PeerId, PortId, TunnelId};
use vswitch_api::config::Desired;

use super::Ids;
use super::peers::{ListId, Peer, Peers};

/// A tunnel, as the control thread knows it.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) id: TunnelId,
    pub(super) vtep: PortId,
    pub(super) local: IpAddr,
    pub(super) bridge: BridgeId,
    pub(super) proto: Proto,
    /// Its own remotes, or its VTEP's.
    pub(super) remotes: ListId,
    /// Where BUM frames go instead.
    pub(super) group: Option<ListId>,
    /// Peers that were added at run time.
    pub(super) added: BTreeMap<IpAddr, Added>,
    /// Bytes that packets carry beside an inner layer-3 packet: outer headers, inner Ethernet
    /// header and tag.
    pub(super) overhead: u32,
    /// GENEVE options that were received, by class and type: the last data, and who sent it.
    pub(super) options: BTreeMap<(u16, u8), Received>,
}

/// A peer that was added at run time.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) peer: PeerId,
    /// Who added it: at least one.
    pub(super) owners: BTreeSet<String>,
}

/// An option that was received.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) data: Vec<u8>,
    pub(super) from: Option<IpAddr>,
}

/// All tunnels, and what the next snapshot is to have of them.
#[derive(Debug)]
pub(super) struct Tunnels {
    pub(super) by_name: BTreeMap<String, Tunnel>,
    pub(super) peers: Peers,
    workers: usize,
    ids: Ids,
    vteps: BTreeMap<PortId, VtepConf>,
    /// How many tunnels of a VTEP and protocol accept anybody's packets.
    open: HashMap<(PortId, Proto), usize>,
    change: Change,
}

/// What a snapshot is to have otherwise than the one before.
#[derive(Debug, Default)]
pub(super) struct Change {
    vteps: Vec<VtepConf>,
    gone_vteps: Vec<PortId>,
    peers: Vec<PeerConf>,
    gone_peers: Vec<PeerId>,
    tunnels: Vec<TunnelConf>,
    gone_tunnels: Vec<TunnelId>,
}

/// What is left to do once no worker uses an older snapshot.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Some entries may name peers that their tunnel no longer has.
    pub(super) stale: bool,
    /// Tunnels that carry another network, or carry it elsewhere.
    pub(super) moved: BTreeSet<TunnelId>,
    peers: Vec<PeerId>,
    tunnels: Vec<TunnelId>,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.vteps.is_empty()
            && self.gone_vteps.is_empty()
            && self.peers.is_empty()
            && self.gone_peers.is_empty()
            && self.tunnels.is_empty()
            && self.gone_tunnels.is_empty()
    }

    /// The bridges whose lists of tunnels it changes.
    pub(super) fn bridges(&self, present: &Snapshot) -> BTreeSet<BridgeId> {
        let overlay = present.overlay();
        let gone = self.gone_tunnels.iter().filter_map(|id| Some(overlay.tunnel(*id)?.bridge));
        let changed = self.tunnels.iter().flat_map(|new| match overlay.tunnel(new.id) {
            Some(old) if old.bridge == new.bridge && old.vlans == new.vlans => [None, None],
            old => [old.map(|old| old.bridge), Some(new.bridge)],
        });
        gone.chain(changed.flatten()).collect()
    }

    pub(super) fn apply(self, next: &mut Snapshot) {
        if self.is_empty() {
            return;
        }
        for id in self.gone_tunnels {
            next.remove_tunnel(id);
        }
        let overlay = next.overlay_mut();
        for id in self.gone_peers {
            overlay.remove_peer(id);
        }
        for port in self.gone_vteps {
            overlay.remove_vtep(port);
        }
        for vtep in self.vteps {
            overlay.set_vtep(vtep);
        }
        for peer in self.peers {
            overlay.set_peer(peer);
        }
        for tunnel in self.tunnels {
            next.set_tunnel(tunnel);
        }
    }
}

/// The VTEP of a tunnel: the one it names, or the only one.
pub(super) fn vtep_of<'a>(desired: &'a Desired, spec: &TunnelSpec) -> Option<&'a VtepSpec> {
    match &spec.vtep {
        Some(name) => desired.vteps.get(name),
        None if desired.vteps.len() == 1 => desired.vteps.values().next(),
        None => None,
    }
}

/// What each VTEP has to send and to receive for its tunnels.
pub(super) fn underlays(desired: &Desired) -> BTreeMap<&str, UnderlaySpec> {
    #[derive(Default)]
    struct Needs {
        udp: BTreeMap<u16, (BTreeSet<IpAddr>, bool)>,
        gre: bool,
        send: BTreeSet<UdpSend>,
    }
    let mut needs: BTreeMap<&str, Needs> = BTreeMap::new();
    for spec in desired.tunnels.values() {
        let Some(vtep) = vtep_of(desired, spec) else { continue };
        let needs = needs.entry(&vtep.name).or_default();
        let Proto::Udp(port) = Proto::of(&spec.kind) else {
            needs.gre = true;
            continue;
        };
        let v6 = vtep.local.is_ipv6();
        let (groups, without) = needs.udp.entry(port).or_default();
        groups.extend(spec.group);
        *without |= v6 && spec.udp_checksum == Some(false);
        let checksum = spec.sends_checksum(vtep.local);
        needs.send.insert(UdpSend { checksum, df: spec.df || v6 });
    }
    let underlay = |vtep: &VtepSpec| {
        let Needs { udp, gre, send } = needs.remove(&*vtep.name).unwrap_or_default();
        let listen = |(port, (groups, accept_no_checksum)): (u16, (BTreeSet<IpAddr>, bool))| {
            UdpListen { port, groups: groups.into_iter().collect(), accept_no_checksum }
        };
        UnderlaySpec {
            name: vtep.name.clone(),
            local: vtep.local,
            uplink: vtep.uplink.clone(),
            entropy_ports: vtep.entropy_ports,
            udp: udp.into_iter().map(listen).collect(),
            gre,
            send: send.into_iter().collect(),
        }
    };
    let mut underlay = underlay;
    desired.vteps.values().map(|vtep| (&*vtep.name, underlay(vtep))).collect()
}

/// What tunnels are made of, beside themselves.
pub(super) struct Surroundings<'a> {
    /// What was desired before.
    pub(super) before: &'a Desired,
    /// What is desired now.
    pub(super) desired: &'a Desired,
    pub(super) bridges: &'a BTreeMap<String, BridgeId>,
    /// The ports of the VTEPs.
    pub(super) ports: &'a BTreeMap<&'a str, PortId>,
    /// What workers have now.
    pub(super) present: &'a Snapshot,
}

impl Tunnels {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            by_name: BTreeMap::new(),
            peers: Peers::new(workers),
            workers,
            ids: Ids::new(TunnelId::MAX_TUNNELS),
            vteps: BTreeMap::new(),
            open: HashMap::new(),
            change: Change::default(),
        }
    }

    /// Takes over what is desired. Only what changed is made anew.
    pub(super) fn adopt(&mut self, around: &Surroundings<'_>, underlays: &[&UnderlaySpec]) {
        let Surroundings { before, desired, bridges, ports, present } = around;
        self.adopt_vteps(around, underlays);
        // Lists are released last: who is on the old and on the new one keeps its number.
        let mut released = Vec::new();
        let gone: Vec<String> = self
            .by_name
            .keys()
            .filter(|name| !desired.tunnels.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(tunnel) = self.by_name.remove(&name) {
                self.change.gone_tunnels.push(tunnel.id);
                self.count_open(&tunnel, before.tunnels.get(&name), -1);
                released.push(tunnel);
            }
        }
        // The list of a VTEP is looked up once for all of its tunnels.
        let mut of_vteps: HashMap<(PortId, Proto), ListId> = HashMap::new();
        let other_remotes: BTreeSet<&str> = desired
            .vteps
            .values()
            .filter(|vtep| before.vteps.get(&vtep.name).is_none_or(|b| b.remotes != vtep.remotes))
            .map(|vtep| &*vtep.name)
            .collect();
        for (name, spec) in &desired.tunnels {
            // The check of the whole configuration sees to it that they are there.
            let (Some(vtep), Some(bridge)) = (vtep_of(desired, spec), bridges.get(&spec.bridge))
            else {
                continue;
            };
            let Some(port) = ports.get(&*vtep.name).copied() else { continue };
            let same = self.by_name.get(name).is_some_and(|known| {
                known.vtep == port
                    && known.local == vtep.local
                    && known.bridge == *bridge
                    && (spec.remotes.is_some() || !other_remotes.contains(&*vtep.name))
                    && before.tunnels.get(name) == Some(spec)
            });
            if same {
                continue;
            }
            let known = self.by_name.remove(name);
            // The check bounds their number.
            let id = known.as_ref().map(|known| known.id);
            let Some(id) = id.or_else(|| self.ids.take().and_then(TunnelId::new)) else { continue };
            let proto = Proto::of(&spec.kind);
            let remotes = match &spec.remotes {
                Some(remotes) => self.peers.list(port, proto, remotes),
                None => match of_vteps.get(&(port, proto)) {
                    Some(list) => {
                        self.peers.hold(*list);
                        *list
                    }
                    None => {
                        let list = self.peers.list(port, proto, &vtep.remotes);
                        of_vteps.insert((port, proto), list);
                        list
                    }
                },
            };
            let mut tunnel = Tunnel {
                id,
                vtep: port,
                local: vtep.local,
                bridge: *bridge,
                proto,
                remotes,
                group: spec.group.map(|group| self.peers.list(port, proto, &[group])),
                added: BTreeMap::new(),
                overhead: 0,
                options: BTreeMap::new(),
            };
            if let Some(mut known) = known {
                self.count_open(&known, before.tunnels.get(name), -1);
                tunnel.options = std::mem::take(&mut known.options);
                // What was added at run time belongs to VTEP and protocol.
                if (known.vtep, known.proto) == (port, proto) {
                    tunnel.added = std::mem::take(&mut known.added);
                }
                released.push(known);
            }
            self.count_open(&tunnel, Some(spec), 1);
            self.build(&mut tunnel, spec, present);
            self.by_name.insert(name.clone(), tunnel);
        }
        for tunnel in released {
            self.peers.release(tunnel.remotes);
            if let Some(group) = tunnel.group {
                self.peers.release(group);
            }
            for added in tunnel.added.values() {
                self.peers.give_back(added.peer);
            }
        }
        let open = &self.open;
        let accepts = |peer: &Peer| open.get(&(peer.vtep, peer.proto)).is_some_and(|n| *n > 0);
        self.peers.retain_seen(|_, peer, _| accepts(peer));
    }

    fn adopt_vteps(&mut self, around: &Surroundings<'_>, underlays: &[&UnderlaySpec]) {
        let Surroundings { desired, ports, .. } = around;
        let mut types: BTreeMap<&str, BTreeMap<u16, TunnelType>> = BTreeMap::new();
        for spec in desired.tunnels.values() {
            if let (Some(vtep), Proto::Udp(port)) = (vtep_of(desired, spec), Proto::of(&spec.kind))
            {
                let of_vtep = types.entry(&vtep.name).or_default();
                of_vtep.insert(port, spec.kind.tunnel_type());
            }
        }
        let mut gone: BTreeSet<PortId> = self.vteps.keys().copied().collect();
        for underlay in underlays {
            let Some(port) = ports.get(&*underlay.name).copied() else { continue };
            gone.remove(&port);
            let groups: BTreeSet<IpAddr> =
                underlay.udp.iter().flat_map(|listen| &listen.groups).copied().collect();
            let udp = types.remove(&*underlay.name).unwrap_or_default();
            let same = |known: &VtepConf| {
                known.udp.iter().copied().eq(udp.clone())
                    && *known.name == *underlay.name
                    && known.local == underlay.local
                    && known.groups.iter().eq(&groups)
            };
            if self.vteps.get(&port).is_some_and(same) {
                continue;
            }
            let conf = VtepConf {
                port,
                name: underlay.name.as_str().into(),
                local: underlay.local,
                groups: groups.into_iter().collect(),
                udp: udp.into_iter().collect(),
            };
            self.peers.set_local(port, underlay.local);
            self.vteps.insert(port, conf.clone());
            self.change.vteps.push(conf);
        }
        for port in gone {
            self.vteps.remove(&port);
            self.peers.forget_vtep(port);
            self.change.gone_vteps.push(port);
        }
    }

    fn count_open(&mut self, tunnel: &Tunnel, spec: Option<&TunnelSpec>, by: isize) {
        if spec.is_some_and(|spec| spec.peers == PeerPolicy::Any) {
            let count = self.open.entry((tunnel.vtep, tunnel.proto)).or_default();
            *count = count.saturating_add_signed(by);
        }
    }

    /// Whether some tunnel of that VTEP and protocol accepts anybody's packets.
    pub(super) fn accepts_any(&self, vtep: PortId, proto: Proto) -> bool {
        self.open.get(&(vtep, proto)).is_some_and(|count| *count > 0)
    }

    /// Makes a tunnel anew for the next snapshot.
    pub(super) fn build(&mut self, tunnel: &mut Tunnel, spec: &TunnelSpec, present: &Snapshot) {
        let remotes = self.peers.members(tunnel.remotes);
        let listed = || {
            if tunnel.added.is_empty() {
                return Arc::clone(&remotes);
            }
            let added = tunnel.added.values().map(|added| added.peer);
            remotes.iter().copied().chain(added).collect::<BTreeSet<_>>().into_iter().collect()
        };
        let accepts = match spec.peers {
            PeerPolicy::Any => Accepts::Any,
            PeerPolicy::Listed => Accepts::Listed(listed()),
        };
        let seen = match accepts {
            Accepts::Any if spec.kind.is_numbered() => {
                let added = tunnel.added.values().map(|added| added.peer);
                self.peers.seen(tunnel.vtep, tunnel.proto).into_iter().chain(added).collect()
            }
            _ => Vec::new(),
        };
        let flood = tunnel.group.map_or_else(listed, |group| self.peers.members(group));
        let parts = TunnelParts {
            id: tunnel.id,
            vtep: tunnel.vtep,
            local: tunnel.local,
            bridge: tunnel.bridge,
            flood,
            accepts,
            seen: &seen,
            workers: self.workers,
            earlier: present.overlay().tunnel(tunnel.id).map(|earlier| &**earlier),
        };
        // Options that do not fit were refused when they were configured.
        let Ok(conf) = TunnelConf::new(spec, parts) else { return };
        let tag = if spec.tags == InnerTags::Keep { 4 } else { 0 };
        // An Ethernet header is 14 bytes.
        tunnel.overhead = u32::try_from(conf.outer_len(tunnel.local) + 14 + tag).unwrap_or(0);
        self.change.tunnels.push(conf);
    }

    /// Smallest path MTU to the peers that were added to a tunnel at run time.
    pub(super) fn added_path_mtu(&self, tunnel: &Tunnel) -> Option<u32> {
        let added = tunnel.added.values();
        added.filter_map(|added| Some(self.peers.get(added.peer)?.state.path_mtu())).min()
    }

    /// Makes a tunnel of that name anew.
    pub(super) fn rebuild(&mut self, name: &str, spec: &TunnelSpec, present: &Snapshot) {
        if let Some((name, mut tunnel)) = self.by_name.remove_entry(name) {
            self.build(&mut tunnel, spec, present);
            self.by_name.insert(name, tunnel);
        }
    }

    /// What the next snapshot is to have otherwise than `present`, and what is left to do then.
    pub(super) fn take_change(&mut self, present: &Snapshot) -> (Change, Leftovers) {
        let mut change = std::mem::take(&mut self.change);
        (change.peers, change.gone_peers) = self.peers.take_change();
        let overlay = present.overlay();
        let known = |new: &&TunnelConf| overlay.tunnel(new.id).is_some();
        let moved = |new: &&TunnelConf| {
            overlay.tunnel(new.id).is_some_and(|old| {
                old.network != new.network || old.bridge != new.bridge || old.vlans != new.vlans
            })
        };
        let left = Leftovers {
            stale: !change.gone_peers.is_empty()
                || !change.gone_tunnels.is_empty()
                || change.tunnels.iter().any(|new| known(&new)),
            moved: change.tunnels.iter().filter(moved).map(|new| new.id).collect(),
            peers: change.gone_peers.clone(),
            tunnels: change.gone_tunnels.clone(),
        };
        (change, left)
    }

    /// Nothing can name what is gone any more.
    pub(super) fn free(&mut self, left: &Leftovers) {
        self.peers.free(&left.peers);
        for id in &left.tunnels {
            self.ids.give_back(id.index());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use vswitch_api::config::from_toml;

    const TUNNELS: usize = 2_000;

    /// As many bridges as tunnels, all with the VTEP's remotes but for what is said of the first.
    fn desired(remotes: &[u8], first: &str) -> Desired {
        let remotes: Vec<_> = remotes.iter().map(|n| format!("\"192.0.2.{n}\"")).collect();
        let mut toml = format!(
            "version = 1\n[[vtep]]\nname = \"v\"\nlocal = \"192.0.2.1\"\nremotes = [{}]\n",
            remotes.join(", ")
        );
        for n in 0..TUNNELS {
            let more = if n == 0 { first } else { "" };
            writeln!(toml, "[[bridge]]\nname = \"b{n}\"\n[[tunnel]]\nname = \"t{n}\"").unwrap();
            writeln!(toml, "type = \"vxlan\"\nvni = {n}\nbridge = \"b{n}\"\n{more}").unwrap();
        }
        from_toml(&toml).unwrap()
    }

    struct World {
        tunnels: Tunnels,
        bridges: BTreeMap<String, BridgeId>,
        before: Desired,
        present: Snapshot,
    }

    impl World {
        fn new() -> Self {
            let names = (0..TUNNELS as u16).map(|n| (format!("b{n}"), BridgeId::new(n)));
            let before = Desired::default();
            let bridges = names.collect();
            Self { tunnels: Tunnels::new(1), bridges, before, present: Snapshot::default() }
        }

        /// How many tunnels, peers and bridges a change touches.
        fn adopt(&mut self, desired: Desired) -> (usize, usize, usize) {
            let needs = underlays(&desired);
            let ports = [("v", PortId::new(7).unwrap())].into();
            let around = Surroundings {
                before: &self.before,
                desired: &desired,
                bridges: &self.bridges,
                ports: &ports,
                present: &self.present,
            };
            self.tunnels.adopt(&around, &needs.values().collect::<Vec<_>>());
            let (change, left) = self.tunnels.take_change(&self.present);
            let bridges = change.bridges(&self.present).len();
            let touched = (change.tunnels.len(), change.peers.len(), bridges);
            let mut next = self.present.next();
            change.apply(&mut next);
            self.present = next;
            self.tunnels.free(&left);
            self.before = desired;
            touched
        }

        fn conf(&self, name: &str) -> Arc<TunnelConf> {
            let id = self.tunnels.by_name[name].id;
            Arc::clone(self.present.overlay().tunnel(id).unwrap())
        }
    }

    #[test]
    fn only_what_changed_is_made_anew_and_lists_are_kept_once() {
        let mut world = World::new();
        assert_eq!(world.adopt(desired(&[2, 3], "")), (TUNNELS, 2, TUNNELS));
        let (first, last) = (world.conf("t0"), world.conf("t1999"));
        assert!(Arc::ptr_eq(&first.flood, &last.flood));
        assert_eq!(world.adopt(desired(&[2, 3], "")), (0, 0, 0));
        // A TTL concerns no bridge, and a VLAN its own.
        assert_eq!(world.adopt(desired(&[2, 3], "ttl = 9")), (1, 0, 0));
        assert_eq!(world.adopt(desired(&[2, 3], "vlan = 9")), (1, 0, 1));
        assert!(Arc::ptr_eq(&last, &world.conf("t1999")));
        assert!(Arc::ptr_eq(&first.counters, &world.conf("t0").counters));
        // A list of its own that says the same is the same.
        world.adopt(desired(&[2, 3], "remotes = [\"192.0.2.3\", \"192.0.2.2\"]"));
        assert!(Arc::ptr_eq(&world.conf("t0").flood, &world.conf("t1").flood));
        // The list of the VTEP is that of all its tunnels.
        assert_eq!(world.adopt(desired(&[3, 4], "")), (TUNNELS, 1, 0));
        assert_eq!(world.present.overlay().peers().count(), 2);
        world.adopt(from_toml("version = 1\n").unwrap());
        assert_eq!(world.present.overlay().peers().count(), 0);
        assert_eq!(world.present.overlay().tunnels().count(), 0);
    }

    #[test]
    fn a_vtep_is_opened_for_what_its_tunnels_need() {
        let toml = "version = 1\n[[bridge]]\nname = \"b\"\n[[vtep]]\nname = \"v\"\n\
                    local = \"2001:db8::1\"\nremotes = [\"2001:db8::2\"]\n";
        let needs = |tunnels: &str| {
            underlays(&from_toml(&format!("{toml}{tunnels}")).unwrap())["v"].clone()
        };
        let tunnel = |name: &str, keys: &str| {
            format!("[[tunnel]]\nname = \"{name}\"\nbridge = \"b\"\n{keys}\n")
        };
        let none = needs("");
        assert_eq!((none.udp.len(), none.gre, none.send.len()), (0, false, 0));
        let vxlan = |more: &str| tunnel("x", &format!("type = \"vxlan\"\nvni = 1\n{more}"));
        let all = tunnel("g", "type = \"geneve\"\nvni = 1\nudp-checksum = false")
            + &tunnel("n", "type = \"gre\"")
            + &vxlan("group = \"ff05::1\"");
        let all = needs(&all);
        let listen = |port, groups: &[&str], accept_no_checksum| UdpListen {
            port,
            groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
            accept_no_checksum,
        };
        assert_eq!(all.udp, [listen(4789, &["ff05::1"], false), listen(6081, &[], true)]);
        let ways = [false, true].map(|checksum| UdpSend { checksum, df: true });
        assert_eq!((all.gre, all.send), (true, ways.to_vec()));
    }
}
