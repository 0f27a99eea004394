//! VTEPs and tunnels: what each must hold, and what only all of them show.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use switch_core::config::{
    InnerTags, PeerPolicy, PortSpec, PortType, TunnelKind, TunnelSpec, TunnelType, VtepSpec,
};
use switch_core::ids::{PeerId, PortId};
use switch_core::tunnel::Proto;
use switch_core::wire::gre::is_reserved_vsid;
use switch_core::wire::vlan::VlanId;

use super::{CANDIDATES, Datapath, Declared, Desired, GUESSES, Problem, bridge_exists, nearest};

/// What is wrong with a tunnel by itself: the key, and the problem without its path.
pub(crate) fn tunnel(spec: &TunnelSpec) -> Vec<(&'static str, Problem)> {
    let mut out = Vec::new();
    let mut add = |key, message: String, hint: &str| {
        out.push((key, Problem::new("", message).with_hint(hint)));
    };
    match spec.kind {
        TunnelKind::Nvgre { vsid } => {
            if is_reserved_vsid(vsid) {
                let message = format!("VSID {vsid} is reserved (RFC 7637 section 3.4)");
                add("vni", message, "use 4096 to 16777214");
            }
            if spec.tags == InnerTags::Keep {
                let message = "NVGRE carries frames without VLAN tags only (RFC 7637 section 3.3)";
                add("tags", message.into(), "use a tunnel for each VLAN, or another type");
            }
        }
        TunnelKind::Gre { sequence: true, .. } if spec.peers == PeerPolicy::Any => {
            let message = "sequence numbers are kept for each remote, which peers = \"any\" does \
                           not name";
            add("sequence", message.into(), "set peers = \"listed\" and name the remotes");
        }
        _ => {}
    }
    if let Some(group) = spec.group.filter(|group| !group.is_multicast()) {
        let message = format!("{group} is no multicast group");
        add("group", message, "groups are 224.0.0.0/4 and ff00::/8; a host is named in `remotes`");
    }
    out
}

/// Adds what is wrong with VTEPs and tunnels together.
pub(super) fn all(desired: &Desired, declared: &Declared, out: &mut Vec<Problem>) {
    vteps(desired, out);
    let sole = sole(desired, declared);
    let mut known = Known::default();
    for (name, spec) in &desired.tunnels {
        let guess = out.len() < GUESSES;
        out.extend(bridge_exists(desired, declared, ("tunnel", name), &spec.bridge, guess));
        if desired.ports.contains_key(name) {
            let message = "there is a port of that name, and FDB entries name both";
            out.push(Problem::new(format!("tunnel.{name}.name"), message));
        }
        match vtep_of(desired, declared, &sole, spec, guess) {
            Ok(Some(vtep)) => {
                addresses(name, spec, vtep, out);
                known.take(name, spec, vtep, out);
            }
            Ok(None) => {}
            Err(problem) => out.push(problem),
        }
    }
    if known.peers.len() > PeerId::MAX_PEERS {
        let message =
            format!("{} different remotes are more than {}", known.peers.len(), PeerId::MAX_PEERS);
        out.push(Problem::new("tunnel", message));
    }
}

fn vteps(desired: &Desired, out: &mut Vec<Problem>) {
    let (ports, vteps) = (desired.ports.len(), desired.vteps.len());
    if ports + vteps > PortId::MAX_PORTS {
        let most = PortId::MAX_PORTS;
        let message = format!("{ports} ports and {vteps} VTEPs are together more than {most}");
        out.push(Problem::new("vtep", message));
    }
    let mut locals: HashMap<(IpAddr, Option<&str>), &str> = HashMap::new();
    for (name, vtep) in &desired.vteps {
        let key = |key: &str| format!("vtep.{name}.{key}");
        if desired.ports.contains_key(name) {
            let message = "there is a port of that name, and drops and counters name both";
            out.push(Problem::new(key("name"), message));
        }
        match (desired.daemon.datapath, &vtep.uplink) {
            (Datapath::Tap, Some(_)) => {
                let message = "uplink is for the DPDK datapath: here the kernel's routes say where \
                               packets leave";
                let hint = "leave it out, or set datapath = \"dpdk\" in [daemon]";
                out.push(Problem::new(key("uplink"), message).with_hint(hint));
            }
            (Datapath::Tap, None) => {}
            (Datapath::Dpdk, None) => {
                let message = "a VTEP of the DPDK datapath needs an uplink: the port whose device \
                               carries its packets";
                let hint = "set it to the name of a [[port]] that is in no bridge";
                out.push(Problem::new(key("uplink"), message).with_hint(hint));
            }
            (Datapath::Dpdk, Some(uplink)) => match desired.ports.get(uplink) {
                None => {
                    let hint = format!("add a [[port]] with name = {uplink:?}");
                    let message = format!("there is no port {uplink:?}");
                    out.push(Problem::new(key("uplink"), message).with_hint(hint));
                }
                Some(port) => out.extend(cannot_carry(port).map(|(why, hint)| {
                    let message = format!("port {uplink:?} cannot be an uplink: {why}");
                    Problem::new(key("uplink"), message).with_hint(hint)
                })),
            },
        }
        if let Some(other) = locals.insert((vtep.local, vtep.uplink.as_deref()), name) {
            let message = format!("{} is the address of VTEP {other:?} already", vtep.local);
            let hint = "tunnels of any type can share one VTEP";
            out.push(Problem::new(key("local"), message).with_hint(hint));
        }
        remotes(&key("remotes"), &vtep.remotes, vtep, out);
    }
}

/// Why a port cannot be an uplink, and what mends it.
fn cannot_carry(port: &PortSpec) -> Option<(String, &'static str)> {
    let port_type = port.kind.port_type();
    if port_type != PortType::Dpdk {
        let why = format!("it is of type {port_type}");
        let hint = "use one of type dpdk; a kernel device is one with devargs = \
                    \"net_af_xdp0,iface=NAME\"";
        return Some((why, hint));
    }
    let bridge = port.bridge.as_ref()?;
    let why = format!("it is in bridge {bridge:?}");
    Some((why, "leave bridge out of it: its addresses are those of its exception TAP"))
}

/// Which VTEP is meant by a tunnel that names none.
enum Sole<'d> {
    /// The only one.
    Is(&'d VtepSpec),
    /// It cannot be said, as one has problems of its own.
    Unclear,
    /// There is none.
    None,
    /// There are several.
    OneOf(&'d str, &'d str),
}

fn sole<'d>(desired: &'d Desired, declared: &Declared) -> Sole<'d> {
    let mut vteps = desired.vteps.iter();
    if declared.vteps.iter().any(|name| !desired.vteps.contains_key(name)) {
        return Sole::Unclear;
    }
    match (vteps.next(), vteps.next()) {
        (None, _) => Sole::None,
        (Some((_, only)), None) => Sole::Is(only),
        (Some((first, _)), Some((second, _))) => Sole::OneOf(first, second),
    }
}

/// The VTEP of a tunnel; `None` if that has problems of its own.
fn vtep_of<'d>(
    desired: &'d Desired,
    declared: &Declared,
    sole: &Sole<'d>,
    spec: &TunnelSpec,
    guess: bool,
) -> Result<Option<&'d VtepSpec>, Problem> {
    let problem = |message: String| Problem::new(format!("tunnel.{}.vtep", spec.name), message);
    if let Some(vtep) = &spec.vtep {
        return match desired.vteps.get(vtep) {
            Some(spec) => Ok(Some(spec)),
            None if declared.vteps.contains(vtep) => Ok(None),
            None => {
                let problem = problem(format!("there is no VTEP {vtep:?}"));
                let most = if guess { CANDIDATES } else { 0 };
                let known = desired.vteps.keys().take(most).map(String::as_str);
                Err(match nearest(vtep, known) {
                    Some(near) => problem.with_hint(format!("did you mean {near:?}?")),
                    None => problem.with_hint(format!("add a [[vtep]] with name = {vtep:?}")),
                })
            }
        };
    }
    match sole {
        Sole::Is(vtep) => Ok(Some(vtep)),
        Sole::Unclear => Ok(None),
        Sole::None => Err(problem("there is no VTEP that it could end at".into())
            .with_hint("add a [[vtep]] with the address of this host")),
        Sole::OneOf(first, second) => {
            let many = desired.vteps.len();
            let message = format!("this key is required, as there are {many} VTEPs");
            Err(problem(message).with_hint(format!("vtep = {first:?} or {second:?}")))
        }
    }
}

/// What is wrong with the addresses of a tunnel for its VTEP.
fn addresses(name: &str, spec: &TunnelSpec, vtep: &VtepSpec, out: &mut Vec<Problem>) {
    let key = |key: &str| format!("tunnel.{name}.{key}");
    if let Some(list) = &spec.remotes {
        remotes(&key("remotes"), list, vtep, out);
    }
    let Some(group) = spec.group else { return };
    if group.is_ipv4() != vtep.local.is_ipv4() {
        out.push(other_family(&key("group"), group, vtep));
    }
    let listed = spec.remotes.as_ref().unwrap_or(&vtep.remotes);
    if listed.is_empty() && spec.peers == PeerPolicy::Listed {
        let message = "with a group and no remotes, nobody's packets would be accepted";
        let hint = "name the remotes whose packets are, or set peers = \"any\"";
        out.push(Problem::new(key("group"), message).with_hint(hint));
    }
}

fn other_family(key: &str, address: IpAddr, vtep: &VtepSpec) -> Problem {
    let family = |address: IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let (theirs, ours) = (family(address), family(vtep.local));
    let message = format!("{address} is {theirs}, and VTEP {:?} is {ours}", vtep.name);
    Problem::new(key, message).with_hint(format!("use a VTEP with an {theirs} address"))
}

/// What is wrong with a list of remotes for its VTEP.
fn remotes(key: &str, list: &[IpAddr], vtep: &VtepSpec, out: &mut Vec<Problem>) {
    for remote in list.iter().copied() {
        let problem = |message: String| Problem::new(key, message);
        if remote.is_ipv4() != vtep.local.is_ipv4() {
            out.push(other_family(key, remote, vtep));
        } else if remote.is_multicast() {
            let message = format!("{remote} is a multicast group, not a remote");
            out.push(problem(message).with_hint("a vxlan tunnel has `group` for it"));
        } else if remote == vtep.local {
            let message = format!("{remote} is the address of VTEP {:?} itself", vtep.name);
            out.push(problem(message).with_hint("name the VTEPs of other hosts"));
        } else if remote.is_loopback() && !vtep.local.is_loopback() {
            let message = format!("{remote} is a loopback address, which no other host has");
            out.push(problem(message).with_hint("name the VTEPs of other hosts"));
        } else if is_link_local(remote) && !is_link_local(vtep.local) {
            // Packets to it have to be told the link, which only such an address of ours names.
            let message = format!("{remote} is of one link, and VTEP {:?} is of none", vtep.name);
            let hint = "use a global address, or a VTEP with a link-local one";
            out.push(problem(message).with_hint(hint));
        }
    }
}

const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// What tunnels of one bridge and protocol cover.
#[derive(Debug, Default)]
struct Covered<'d> {
    /// The one that covers every VLAN.
    whole: Option<&'d str>,
    /// The ones that cover one VLAN each, or the untagged traffic.
    single: HashMap<Option<VlanId>, &'d str>,
}

/// What the tunnels before have taken.
#[derive(Debug, Default)]
struct Known<'d> {
    /// Networks: (VTEP, type, UDP port, VNI or key).
    networks: HashMap<(&'d str, TunnelType, u16, Option<u32>), &'d str>,
    /// What is spoken at each UDP port.
    udp: HashMap<(&'d str, u16), (TunnelType, &'d str)>,
    /// The VSIDs that GRE keys have in their upper 24 bits, and NVGRE's own.
    vsids: HashMap<(&'d str, u32), [Option<&'d str>; 2]>,
    /// Who carries what of each bridge.
    covered: HashMap<(&'d str, &'d str, Proto), Covered<'d>>,
    /// Remotes and groups that FDB entries can name.
    peers: HashSet<(&'d str, Proto, IpAddr)>,
    /// VTEPs and protocols whose common remotes are among them already.
    shared: HashSet<(&'d str, Proto)>,
}

impl<'d> Known<'d> {
    fn take(
        &mut self,
        name: &'d str,
        spec: &'d TunnelSpec,
        vtep: &'d VtepSpec,
        out: &mut Vec<Problem>,
    ) {
        self.network(name, spec, vtep, out);
        self.gre_key(name, spec, vtep, out);
        self.cover(name, spec, vtep, out);
        let proto = Proto::of(&spec.kind);
        let vtep_name = vtep.name.as_str();
        let list = match &spec.remotes {
            Some(list) => list.as_slice(),
            None if self.shared.insert((vtep_name, proto)) => &vtep.remotes,
            None => &[],
        };
        let all = list.iter().copied().chain(spec.group);
        self.peers.extend(all.map(|address| (vtep_name, proto, address)));
    }

    /// A network belongs to one tunnel, and a UDP port to one protocol.
    fn network(
        &mut self,
        name: &'d str,
        spec: &'d TunnelSpec,
        vtep: &'d VtepSpec,
        out: &mut Vec<Problem>,
    ) {
        let tunnel_type = spec.kind.tunnel_type();
        let (key, port, number) = match spec.kind {
            TunnelKind::Vxlan { vni, udp_port } | TunnelKind::Geneve { vni, udp_port, .. } => {
                ("vni", udp_port, Some(vni.get()))
            }
            TunnelKind::Gre { key, .. } => ("key", 0, key),
            TunnelKind::Nvgre { vsid } => ("vni", 0, Some(vsid.get())),
            TunnelKind::Erspan { session, .. } => ("session", 0, Some(session.into())),
        };
        let (other_type, other) =
            *self.udp.entry((&vtep.name, port)).or_insert((tunnel_type, name));
        if port != 0 && other_type != tunnel_type {
            let message = format!(
                "tunnel {other:?} speaks {other_type} at UDP port {port} of VTEP {:?}",
                vtep.name
            );
            let problem = Problem::new(format!("tunnel.{name}.udp-port"), message);
            out.push(problem.with_hint("a UDP port of a VTEP is of one type: use another"));
        }
        if let Some(other) = self.networks.insert((&vtep.name, tunnel_type, port, number), name) {
            let network = match number {
                Some(number) => format!("{key} {number}"),
                None => "GRE without a key".into(),
            };
            let message =
                format!("{network} on VTEP {:?} is that of tunnel {other:?} already", vtep.name);
            out.push(Problem::new(format!("tunnel.{name}.{key}"), message));
        }
    }

    /// NVGRE packets are GRE packets whose key is the VSID and eight bits of flow.
    fn gre_key(
        &mut self,
        name: &'d str,
        spec: &'d TunnelSpec,
        vtep: &'d VtepSpec,
        out: &mut Vec<Problem>,
    ) {
        let (key, vsid, own) = match spec.kind {
            TunnelKind::Gre { key: Some(key), .. } => ("key", key >> 8, 0),
            TunnelKind::Nvgre { vsid } => ("vni", vsid.get(), 1),
            _ => return,
        };
        let users = self.vsids.entry((&vtep.name, vsid)).or_default();
        if let Some(other) = users[1 - own] {
            let message = format!(
                "its packets could not be told from those of tunnel {other:?} on VTEP {:?}: NVGRE \
                 has VSID {vsid} in the upper 24 bits of the GRE key",
                vtep.name
            );
            let problem = Problem::new(format!("tunnel.{name}.{key}"), message);
            out.push(problem.with_hint("use another key, VSID or VTEP"));
        }
        users[own] = Some(name);
    }

    /// Bridge, VLAN and peer name the tunnel that a frame leaves by.
    fn cover(
        &mut self,
        name: &'d str,
        spec: &'d TunnelSpec,
        vtep: &'d VtepSpec,
        out: &mut Vec<Problem>,
    ) {
        // Only a mirror names one of these.
        if spec.kind.tunnel_type() == TunnelType::Erspan {
            return;
        }
        let key = (spec.bridge.as_str(), vtep.name.as_str(), Proto::of(&spec.kind));
        let covered = self.covered.entry(key).or_default();
        let whole = spec.vlan.is_none() && spec.tags == InnerTags::Keep;
        let other = covered.whole.or_else(|| match whole {
            true => covered.single.values().min().copied(),
            false => covered.single.get(&spec.vlan).copied(),
        });
        if let Some(other) = other {
            let place = match spec.vlan {
                _ if whole => "every VLAN".to_owned(),
                Some(vlan) => format!("VLAN {vlan}"),
                None => "the untagged traffic".to_owned(),
            };
            let message = format!(
                "tunnel {other:?} carries {place} of bridge {:?} over VTEP {:?} already, or a part \
                 of it: an FDB entry could not say which of the two a frame leaves by",
                spec.bridge, vtep.name
            );
            let hint = "use one tunnel with the remotes of both, another bridge or VLAN, or for \
                        vxlan and geneve another udp-port";
            let key =
                format!("tunnel.{name}.{}", if spec.vlan.is_some() { "vlan" } else { "bridge" });
            out.push(Problem::new(key, message).with_hint(hint));
        }
        if whole {
            covered.whole.get_or_insert(name);
        } else {
            covered.single.entry(spec.vlan).or_insert(name);
        }
    }
}
