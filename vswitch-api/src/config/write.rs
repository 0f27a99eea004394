//! From [`Desired`] back to TOML and JSON: canonical, defaults left out.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};
use switch_core::config::{
    BridgeSpec, MirrorSpec, PortKind, PortSpec, TunnelKind, TunnelSpec, VhostMode, VtepSpec,
};

use super::desired::{DaemonSpec, Desired, DpdkSpec, IpfixSpec, SflowSpec};
use super::fields::{self, Pairs};
use super::keys::Section;
use super::value::{Value, option_text, vlan_ranges};

/// The canonical file: keys in the order of the key table, objects by name, defaults left out.
#[must_use]
pub fn to_toml(desired: &Desired) -> String {
    let mut out = format!("version = {}\n", desired.version);
    for (section, pairs) in tables(desired) {
        if !pairs.is_empty() {
            table(&mut out, section.heading(), &pairs);
        }
    }
    for bridge in desired.bridges.values() {
        table(&mut out, "[[bridge]]", &bridge_pairs(bridge));
    }
    for port in desired.ports.values() {
        table(&mut out, "[[port]]", &port_pairs(port));
    }
    for vtep in desired.vteps.values() {
        table(&mut out, "[[vtep]]", &vtep_pairs(vtep));
    }
    for tunnel in desired.tunnels.values() {
        table(&mut out, "[[tunnel]]", &tunnel_pairs(tunnel));
    }
    for mirror in desired.mirrors.values() {
        table(&mut out, "[[mirror]]", &mirror_pairs(mirror));
    }
    out
}

/// The same as JSON, with the same keys as the file.
#[must_use]
pub fn to_json(desired: &Desired) -> Json {
    let mut out = Map::new();
    out.insert("version".into(), json!(desired.version));
    for (section, pairs) in tables(desired) {
        if !pairs.is_empty() {
            out.insert(section.name().into(), object(&pairs));
        }
    }
    let bridges: Vec<_> = desired.bridges.values().map(bridge_to_json).collect();
    let ports: Vec<_> = desired.ports.values().map(port_to_json).collect();
    let vteps: Vec<_> = desired.vteps.values().map(vtep_to_json).collect();
    let tunnels: Vec<_> = desired.tunnels.values().map(tunnel_to_json).collect();
    let mirrors: Vec<_> = desired.mirrors.values().map(mirror_to_json).collect();
    let lists = [
        ("bridge", bridges),
        ("port", ports),
        ("vtep", vteps),
        ("tunnel", tunnels),
        ("mirror", mirrors),
    ];
    for (name, list) in lists {
        if !list.is_empty() {
            out.insert(name.into(), list.into());
        }
    }
    Json::Object(out)
}

/// One bridge with the keys of `[[bridge]]`, defaults left out.
#[must_use]
pub fn bridge_to_json(bridge: &BridgeSpec) -> Json {
    object(&bridge_pairs(bridge))
}

/// One port with the keys of `[[port]]`, defaults left out.
#[must_use]
pub fn port_to_json(port: &PortSpec) -> Json {
    object(&port_pairs(port))
}

/// One VTEP with the keys of `[[vtep]]`, defaults left out.
#[must_use]
pub fn vtep_to_json(vtep: &VtepSpec) -> Json {
    object(&vtep_pairs(vtep))
}

/// One tunnel with the keys of `[[tunnel]]`, defaults left out.
#[must_use]
pub fn tunnel_to_json(tunnel: &TunnelSpec) -> Json {
    object(&tunnel_pairs(tunnel))
}

/// One mirror with the keys of `[[mirror]]`, defaults left out.
#[must_use]
pub fn mirror_to_json(mirror: &MirrorSpec) -> Json {
    object(&mirror_pairs(mirror))
}

/// What differs from the defaults, and always what has none.
fn bridge_pairs(bridge: &BridgeSpec) -> Pairs {
    changed(fields::of_bridge(bridge), fields::of_bridge(&BridgeSpec::new("")))
}

fn port_pairs(port: &PortSpec) -> Pairs {
    let kind = match &port.kind {
        PortKind::Tap { .. } => {
            PortKind::Tap { device: port.name.clone(), netns: None, persist: true, queues: None }
        }
        PortKind::Netdev { .. } => PortKind::Netdev { device: String::new(), take_over: false },
        PortKind::Dpdk { .. } => PortKind::Dpdk { devargs: String::new() },
        PortKind::VhostUser { .. } => {
            PortKind::VhostUser { socket: String::new(), mode: VhostMode::default(), queues: 1 }
        }
    };
    let default = PortSpec::new(port.name.clone(), kind, None);
    changed(fields::of_port(port), fields::of_port(&default))
}

fn vtep_pairs(vtep: &VtepSpec) -> Pairs {
    changed(fields::of_vtep(vtep), fields::of_vtep(&VtepSpec::new("", vtep.local)))
}

fn tunnel_pairs(tunnel: &TunnelSpec) -> Pairs {
    let kind = match tunnel.kind {
        TunnelKind::Vxlan { vni, .. } => {
            TunnelKind::Vxlan { vni, udp_port: TunnelKind::VXLAN_PORT }
        }
        TunnelKind::Geneve { vni, .. } => {
            TunnelKind::Geneve { vni, udp_port: TunnelKind::GENEVE_PORT, options: Vec::new() }
        }
        TunnelKind::Gre { .. } => TunnelKind::Gre { key: None, checksum: false, sequence: false },
        TunnelKind::Nvgre { vsid } => TunnelKind::Nvgre { vsid },
        TunnelKind::Erspan { session, .. } => TunnelKind::Erspan { session, index: 0 },
    };
    let default = TunnelSpec::new("", kind, "");
    changed(fields::of_tunnel(tunnel), fields::of_tunnel(&default))
}

fn mirror_pairs(mirror: &MirrorSpec) -> Pairs {
    changed(fields::of_mirror(mirror), fields::of_mirror(&MirrorSpec::new("", "")))
}

/// What differs from the defaults in each of the tables of which there is one.
fn tables(desired: &Desired) -> [(Section, Pairs); 4] {
    let (daemon, dpdk) = (DaemonSpec::default(), DpdkSpec::default());
    let (of_daemon, of_dpdk) = (fields::of_daemon, fields::of_dpdk);
    let (of_sflow, of_ipfix) = (fields::of_sflow, fields::of_ipfix);
    [
        (Section::Daemon, changed(of_daemon(&desired.daemon), of_daemon(&daemon))),
        (Section::Dpdk, changed(of_dpdk(&desired.dpdk), of_dpdk(&dpdk))),
        (Section::Sflow, changed(of_sflow(&desired.sflow), of_sflow(&SflowSpec::default()))),
        (Section::Ipfix, changed(of_ipfix(&desired.ipfix), of_ipfix(&IpfixSpec::default()))),
    ]
}

fn changed(pairs: Pairs, defaults: Pairs) -> Pairs {
    let always = |key: &str| matches!(key, "name" | "type" | "local" | "vni" | "session");
    pairs.into_iter().filter(|pair| always(pair.0) || !defaults.contains(pair)).collect()
}

fn table(out: &mut String, head: &str, pairs: &Pairs) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "\n{head}");
    for (key, value) in pairs {
        let _ = writeln!(out, "{key} = {}", value.to_toml());
    }
}

fn object(pairs: &Pairs) -> Json {
    Json::Object(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.to_json())).collect())
}

impl Value {
    /// As it stands in a file.
    pub(crate) fn to_toml(&self) -> String {
        self.to_json_or(|text| toml_edit::Value::from(text).to_string())
    }

    fn to_json_or(&self, quote: impl Fn(&str) -> String) -> String {
        fn text(value: &Json, quote: &impl Fn(&str) -> String) -> String {
            match value {
                Json::String(value) => quote(value),
                Json::Array(items) => {
                    let items: Vec<_> = items.iter().map(|item| text(item, quote)).collect();
                    format!("[{}]", items.join(", "))
                }
                other => other.to_string(),
            }
        }
        text(&self.to_json(), &quote)
    }

    /// As it stands in a request.
    pub(crate) fn to_json(&self) -> Json {
        let off = || json!("off");
        match self {
            Self::Bool(flag) => json!(flag),
            Self::Int(number) => json!(number),
            Self::Limit(limit) => limit.map_or_else(off, |limit| json!(limit)),
            Self::Rate(rate) => rate.map_or_else(off, |rate| json!(rate.to_string())),
            Self::Duration(duration) => json!(format!("{}s", duration.as_secs())),
            Self::Text(text) => json!(text),
            Self::Texts(texts) => json!(texts),
            Self::Vlan(vlan) => json!(vlan.get()),
            Self::Vlans(vlans) => match vlan_ranges(vlans).as_slice() {
                [(1, 4094)] => json!("all"),
                ranges => ranges
                    .iter()
                    .map(|range| match range {
                        (first, last) if first == last => json!(first),
                        (first, last) => json!(format!("{first}-{last}")),
                    })
                    .collect(),
            },
            Self::Cpus(cpus) => json!(cpus.to_string()),
            Self::Mac(mac) => json!(mac.to_string()),
            Self::Address(address) => json!(address.to_string()),
            Self::Hugepages(hugepages) => json!(hugepages.to_string()),
            Self::Ip(address) => json!(address),
            Self::Ips(addresses) => json!(addresses),
            Self::OrCopy(number) => number.map_or_else(|| json!("copy"), |number| json!(number)),
            Self::GeneveOptions(options) => options.iter().map(option_text).collect(),
        }
    }
}

/// As [`to_json`].
impl serde::Serialize for Desired {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        to_json(self).serialize(serializer)
    }
}

/// As [`super::from_json`]; the error lists every problem.
impl<'de> serde::Deserialize<'de> for Desired {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Json::deserialize(deserializer)?;
        super::from_json(&value).map_err(serde::de::Error::custom)
    }
}
