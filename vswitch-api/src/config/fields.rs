//! Between the keys of a table and the fields of a spec, both ways.

use std::collections::BTreeMap;

use switch_core::config::{BridgeSpec, Netns, PortKind, PortSpec, PortType, VhostMode, VlanSpec};

use super::desired::{DaemonSpec, Datapath, DpdkSpec, Idle};
use super::value::Value;

mod export;
mod mirror;
mod overlay;
pub(crate) use export::{ipfix, of_ipfix, of_sflow, sflow};
pub(crate) use mirror::{mirror, of_mirror};
pub(crate) use overlay::{of_tunnel, of_vtep, tunnel, vtep};

/// The values of one table, each already of its key's type.
#[derive(Debug, Default)]
pub(crate) struct Fields(pub(crate) BTreeMap<&'static str, Value>);

macro_rules! take {
    ($($method:ident: $variant:ident -> $type:ty;)*) => {
        $(pub(crate) fn $method(&mut self, key: &str) -> Option<$type> {
            match self.0.remove(key) {
                Some(Value::$variant(value)) => Some(value),
                _ => None,
            }
        })*
    };
}

impl Fields {
    take! {
        flag: Bool -> bool;
        int: Int -> u32;
        limit: Limit -> Option<u32>;
        rate: Rate -> Option<switch_core::config::Rate>;
        duration: Duration -> std::time::Duration;
        text: Text -> String;
        texts: Texts -> Vec<String>;
        vlan: Vlan -> switch_core::wire::vlan::VlanId;
        vlans: Vlans -> Vec<switch_core::wire::vlan::VlanId>;
        cpus: Cpus -> super::cpus::CpuList;
        mac: Mac -> switch_core::wire::MacAddr;
        address: Address -> std::net::SocketAddr;
        hugepages: Hugepages -> super::value::Hugepages;
        ip: Ip -> std::net::IpAddr;
        ips: Ips -> Vec<std::net::IpAddr>;
        or_copy: OrCopy -> Option<u8>;
        options: GeneveOptions -> Vec<switch_core::wire::geneve::OwnedOption>;
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

/// Key and value, in the order of the key table.
pub(crate) type Pairs = Vec<(&'static str, Value)>;

pub(crate) fn daemon(mut fields: Fields) -> DaemonSpec {
    let default = DaemonSpec::default();
    DaemonSpec {
        datapath: match fields.text("datapath").as_deref() {
            Some("dpdk") => Datapath::Dpdk,
            _ => Datapath::Tap,
        },
        cpus: fields.cpus("cpus"),
        idle: match fields.text("idle").as_deref() {
            Some("poll") => Idle::Poll,
            _ => Idle::Adaptive,
        },
        metrics: fields.address("metrics"),
        max_fdb_total: fields.int("max-fdb-total").unwrap_or(default.max_fdb_total),
        log: fields.text("log").unwrap_or(default.log),
    }
}

pub(crate) fn of_daemon(spec: &DaemonSpec) -> Pairs {
    let mut out = vec![("datapath", Value::Text(spec.datapath.name().into()))];
    out.extend(spec.cpus.clone().map(|cpus| ("cpus", Value::Cpus(cpus))));
    out.push(("idle", Value::Text(spec.idle.name().into())));
    out.extend(spec.metrics.map(|address| ("metrics", Value::Address(address))));
    out.push(("max-fdb-total", Value::Int(spec.max_fdb_total)));
    out.push(("log", Value::Text(spec.log.clone())));
    out
}

pub(crate) fn dpdk(mut fields: Fields) -> DpdkSpec {
    DpdkSpec {
        hugepages: fields.hugepages("hugepages").unwrap_or_default(),
        eal: fields.texts("eal").unwrap_or_default(),
    }
}

pub(crate) fn of_dpdk(spec: &DpdkSpec) -> Pairs {
    let mut out = vec![("hugepages", Value::Hugepages(spec.hugepages))];
    if !spec.eal.is_empty() {
        out.push(("eal", Value::Texts(spec.eal.clone())));
    }
    out
}

/// `None` without a name.
pub(crate) fn bridge(mut fields: Fields) -> Option<BridgeSpec> {
    let default = BridgeSpec::new(fields.text("name")?);
    Some(BridgeSpec {
        ageing: fields.duration("ageing").unwrap_or(default.ageing),
        max_fdb: fields.int("max-fdb").unwrap_or(default.max_fdb),
        learning: fields.flag("learning").unwrap_or(default.learning),
        name: default.name,
    })
}

pub(crate) fn of_bridge(spec: &BridgeSpec) -> Pairs {
    vec![
        ("name", Value::Text(spec.name.clone())),
        ("ageing", Value::Duration(spec.ageing)),
        ("max-fdb", Value::Int(spec.max_fdb)),
        ("learning", Value::Bool(spec.learning)),
    ]
}

fn queues(fields: &mut Fields) -> Option<u16> {
    fields.int("queues").and_then(|n| u16::try_from(n).ok())
}

/// `None` if something that this type of port needs is not there.
pub(crate) fn port(mut fields: Fields) -> Option<PortSpec> {
    let name = fields.text("name")?;
    let kind = match PortType::from_name(&fields.text("type")?)? {
        PortType::Tap => PortKind::Tap {
            device: fields.text("device").unwrap_or_else(|| name.clone()),
            netns: fields.text("netns").map(Netns),
            persist: fields.flag("persist").unwrap_or(true),
            queues: queues(&mut fields),
        },
        PortType::Netdev => PortKind::Netdev {
            device: fields.text("device")?,
            take_over: fields.flag("take-over").unwrap_or(false),
        },
        PortType::Dpdk => PortKind::Dpdk { devargs: fields.text("devargs")? },
        PortType::VhostUser => PortKind::VhostUser {
            socket: fields.text("socket")?,
            mode: fields.text("mode").and_then(|m| VhostMode::from_name(&m)).unwrap_or_default(),
            queues: queues(&mut fields).unwrap_or(1),
        },
    };
    let default = PortSpec::new(name, kind, fields.text("bridge").as_deref());
    let vlan = match (fields.vlan("access"), fields.vlans("trunk")) {
        (Some(access), _) => VlanSpec::Access(access),
        (None, Some(vlans)) => VlanSpec::Trunk { vlans, native: fields.vlan("native") },
        (None, None) => VlanSpec::Transparent,
    };
    Some(PortSpec {
        vlan,
        mtu: fields.int("mtu").and_then(|mtu| u16::try_from(mtu).ok()),
        mac: fields.mac("mac"),
        exception: fields.text("exception"),
        gro: fields.flag("gro").unwrap_or(default.gro),
        max_fdb: fields.limit("max-fdb").unwrap_or(default.max_fdb),
        storm_limit: fields.rate("storm-limit").unwrap_or(default.storm_limit),
        isolated: fields.flag("isolated").unwrap_or(default.isolated),
        loop_guard: fields.flag("loop-guard").unwrap_or(default.loop_guard),
        ..default
    })
}

pub(crate) fn of_port(spec: &PortSpec) -> Pairs {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut out = vec![("name", text(&spec.name)), ("type", text(spec.kind.port_type().name()))];
    out.extend(spec.bridge.as_deref().map(|bridge| ("bridge", text(bridge))));
    match &spec.vlan {
        VlanSpec::Transparent => {}
        VlanSpec::Access(vlan) => out.push(("access", Value::Vlan(*vlan))),
        VlanSpec::Trunk { vlans, native } => {
            out.push(("trunk", Value::Vlans(vlans.clone())));
            out.extend(native.map(|vlan| ("native", Value::Vlan(vlan))));
        }
    }
    match &spec.kind {
        PortKind::Tap { device, netns, queues, .. } => {
            out.push(("device", text(device)));
            out.extend(netns.as_ref().map(|netns| ("netns", text(&netns.0))));
            out.extend(queues.map(|queues| ("queues", Value::Int(queues.into()))));
        }
        PortKind::Netdev { device, .. } => out.push(("device", text(device))),
        PortKind::Dpdk { devargs } => out.push(("devargs", text(devargs))),
        PortKind::VhostUser { socket, mode, queues } => {
            out.push(("socket", text(socket)));
            out.push(("mode", text(mode.name())));
            out.push(("queues", Value::Int((*queues).into())));
        }
    }
    out.extend(spec.mtu.map(|mtu| ("mtu", Value::Int(mtu.into()))));
    out.extend(spec.mac.map(|mac| ("mac", Value::Mac(mac))));
    out.extend(spec.exception.as_deref().map(|tap| ("exception", text(tap))));
    match &spec.kind {
        PortKind::Tap { persist, .. } => out.push(("persist", Value::Bool(*persist))),
        PortKind::Netdev { take_over, .. } => out.push(("take-over", Value::Bool(*take_over))),
        PortKind::Dpdk { .. } | PortKind::VhostUser { .. } => {}
    }
    if let PortKind::Tap { .. } | PortKind::Netdev { .. } = &spec.kind {
        out.push(("gro", Value::Bool(spec.gro)));
    }
    out.push(("max-fdb", Value::Limit(spec.max_fdb)));
    out.push(("storm-limit", Value::Rate(spec.storm_limit)));
    out.push(("isolated", Value::Bool(spec.isolated)));
    out.push(("loop-guard", Value::Bool(spec.loop_guard)));
    out
}
