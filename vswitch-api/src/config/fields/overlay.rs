//! The keys of `[[vtep]]` and `[[tunnel]]`.

use switch_core::config::{
    Dscp, InnerTags, PeerPolicy, Ttl, TunnelKind, TunnelSpec, TunnelType, VtepSpec,
};
use switch_core::wire::Vni;

use super::{Fields, Pairs};
use crate::config::value::Value;

/// `None` without a name and an address.
pub(crate) fn vtep(mut fields: Fields) -> Option<VtepSpec> {
    let default = VtepSpec::new(fields.text("name")?, fields.ip("local")?);
    let entropy_ports = fields.int("entropy-ports").and_then(|ports| u16::try_from(ports).ok());
    Some(VtepSpec {
        uplink: fields.text("uplink"),
        entropy_ports: entropy_ports.unwrap_or(default.entropy_ports),
        remotes: fields.ips("remotes").unwrap_or_default(),
        ..default
    })
}

pub(crate) fn of_vtep(spec: &VtepSpec) -> Pairs {
    let mut out = vec![("name", Value::Text(spec.name.clone())), ("local", Value::Ip(spec.local))];
    out.extend(spec.uplink.clone().map(|uplink| ("uplink", Value::Text(uplink))));
    out.push(("entropy-ports", Value::Int(spec.entropy_ports.into())));
    out.push(("remotes", Value::Ips(spec.remotes.clone())));
    out
}

/// `None` if something that this type of tunnel needs is not there.
pub(crate) fn tunnel(mut fields: Fields) -> Option<TunnelSpec> {
    let name = fields.text("name")?;
    let tunnel_type = TunnelType::from_name(&fields.text("type")?)?;
    let vni = fields.int("vni").and_then(Vni::new);
    let port = fields.int("udp-port").and_then(|port| u16::try_from(port).ok());
    let kind = match tunnel_type {
        TunnelType::Vxlan => {
            TunnelKind::Vxlan { vni: vni?, udp_port: port.unwrap_or(TunnelKind::VXLAN_PORT) }
        }
        TunnelType::Geneve => TunnelKind::Geneve {
            vni: vni?,
            udp_port: port.unwrap_or(TunnelKind::GENEVE_PORT),
            options: fields.options("options").unwrap_or_default(),
        },
        TunnelType::Gre => TunnelKind::Gre {
            key: fields.int("key"),
            checksum: fields.flag("checksum").unwrap_or(false),
            sequence: fields.flag("sequence").unwrap_or(false),
        },
        TunnelType::Nvgre => TunnelKind::Nvgre { vsid: vni? },
        TunnelType::Erspan => TunnelKind::Erspan {
            session: fields.int("session").and_then(|session| u16::try_from(session).ok())?,
            index: fields.int("index").unwrap_or(0),
        },
    };
    let default = TunnelSpec::new(name, kind, fields.text("bridge")?);
    Some(TunnelSpec {
        vtep: fields.text("vtep"),
        vlan: fields.vlan("vlan"),
        remotes: fields.ips("remotes"),
        group: fields.ip("group"),
        peers: match fields.text("peers").as_deref() {
            Some("any") => PeerPolicy::Any,
            _ => PeerPolicy::Listed,
        },
        learning: fields.flag("learning").unwrap_or(default.learning),
        tags: match fields.text("tags").as_deref() {
            Some("keep") => InnerTags::Keep,
            _ => InnerTags::Strip,
        },
        ttl: fields.or_copy("ttl").map_or(default.ttl, |ttl| ttl.map_or(Ttl::Copy, Ttl::Set)),
        dscp: fields
            .or_copy("dscp")
            .map_or(default.dscp, |dscp| dscp.map_or(Dscp::Copy, Dscp::Set)),
        udp_checksum: fields.flag("udp-checksum"),
        df: fields.flag("df").unwrap_or(default.df),
        strict_reserved: fields.flag("strict-reserved").unwrap_or(default.strict_reserved),
        mss_clamp: fields.flag("mss-clamp").unwrap_or(default.mss_clamp),
        ..default
    })
}

pub(crate) fn of_tunnel(spec: &TunnelSpec) -> Pairs {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut out = vec![("name", text(&spec.name)), ("type", text(spec.kind.tunnel_type().name()))];
    out.extend(spec.vtep.as_deref().map(|vtep| ("vtep", text(vtep))));
    match &spec.kind {
        TunnelKind::Vxlan { vni, udp_port } | TunnelKind::Geneve { vni, udp_port, .. } => {
            out.push(("vni", Value::Int(vni.get())));
            out.push(("udp-port", Value::Int((*udp_port).into())));
        }
        TunnelKind::Gre { key, .. } => out.extend(key.map(|key| ("key", Value::Int(key)))),
        TunnelKind::Nvgre { vsid } => out.push(("vni", Value::Int(vsid.get()))),
        TunnelKind::Erspan { session, index } => {
            out.push(("session", Value::Int((*session).into())));
            out.push(("index", Value::Int(*index)));
        }
    }
    out.push(("bridge", text(&spec.bridge)));
    out.extend(spec.vlan.map(|vlan| ("vlan", Value::Vlan(vlan))));
    out.extend(spec.remotes.clone().map(|remotes| ("remotes", Value::Ips(remotes))));
    out.extend(spec.group.map(|group| ("group", Value::Ip(group))));
    let receives = !matches!(spec.kind, TunnelKind::Erspan { .. });
    if receives {
        out.push(("peers", text(if spec.peers == PeerPolicy::Any { "any" } else { "listed" })));
        out.push(("learning", Value::Bool(spec.learning)));
        out.push(("tags", text(if spec.tags == InnerTags::Keep { "keep" } else { "strip" })));
    }
    if let TunnelKind::Geneve { options, .. } = &spec.kind {
        out.push(("options", Value::GeneveOptions(options.clone())));
    }
    let ttl = if let Ttl::Set(ttl) = spec.ttl { Some(ttl) } else { None };
    out.push(("ttl", Value::OrCopy(ttl)));
    let dscp = if let Dscp::Set(dscp) = spec.dscp { Some(dscp) } else { None };
    out.push(("dscp", Value::OrCopy(dscp)));
    out.extend(spec.udp_checksum.map(|checksum| ("udp-checksum", Value::Bool(checksum))));
    out.push(("df", Value::Bool(spec.df)));
    if let TunnelKind::Gre { checksum, sequence, .. } = &spec.kind {
        out.push(("checksum", Value::Bool(*checksum)));
        out.push(("sequence", Value::Bool(*sequence)));
    }
    if let TunnelKind::Vxlan { .. } = spec.kind {
        out.push(("strict-reserved", Value::Bool(spec.strict_reserved)));
    }
    if receives {
        out.push(("mss-clamp", Value::Bool(spec.mss_clamp)));
    }
    out
}
