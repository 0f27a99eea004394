//! Changes to single objects.

use serde_json::Value as Json;
use switch_core::config::{BridgeSpec, MirrorSpec, PortSpec, TunnelSpec, VlanSpec, VtepSpec};
use switch_core::wire::vlan::VlanId;

use super::problem::{Problem, Problems};
use super::value::vlan_ranges;
use super::{
    bridge_from_json, bridge_to_json, mirror_from_json, mirror_to_json, port_from_json,
    port_to_json, tunnel_from_json, tunnel_to_json, vtep_from_json, vtep_to_json,
};
use crate::types::VlanMode;

/// Changes some keys of a port by a JSON merge patch (RFC 7396): null resets a key to its default.
/// A patch that sets `access` takes `trunk` and `native` away, and the other way round.
///
/// # Errors
/// Everything that is wrong with the result, and a change of the name.
pub fn patch_port(port: &PortSpec, patch: &Json) -> Result<PortSpec, Problems> {
    let mut object = port_to_json(port);
    if let (Some(map), Some(patch)) = (object.as_object_mut(), patch.as_object()) {
        let sets = |key: &str| patch.get(key).is_some_and(|value| !value.is_null());
        if sets("access") && !sets("trunk") {
            map.remove("trunk");
            map.remove("native");
        } else if sets("trunk") && !sets("access") {
            map.remove("access");
        }
    }
    let key = format!("port.{}", port.name);
    fixed(&object, patch, &key, &["name"])?;
    port_from_json(&merge(object, patch))
}

/// Changes some keys of a bridge, as [`patch_port`] does.
///
/// # Errors
/// Everything that is wrong with the result, and a change of the name.
pub fn patch_bridge(bridge: &BridgeSpec, patch: &Json) -> Result<BridgeSpec, Problems> {
    let object = bridge_to_json(bridge);
    fixed(&object, patch, &format!("bridge.{}", bridge.name), &["name"])?;
    bridge_from_json(&merge(object, patch))
}

/// Changes some keys of a VTEP, as [`patch_port`] does.
///
/// # Errors
/// Everything that is wrong with the result, and a change of the name.
pub fn patch_vtep(vtep: &VtepSpec, patch: &Json) -> Result<VtepSpec, Problems> {
    let object = vtep_to_json(vtep);
    fixed(&object, patch, &format!("vtep.{}", vtep.name), &["name"])?;
    vtep_from_json(&merge(object, patch))
}

/// Changes some keys of a tunnel, as [`patch_port`] does.
///
/// # Errors
/// Everything that is wrong with the result, and a change of the name.
pub fn patch_tunnel(tunnel: &TunnelSpec, patch: &Json) -> Result<TunnelSpec, Problems> {
    let object = tunnel_to_json(tunnel);
    fixed(&object, patch, &format!("tunnel.{}", tunnel.name), &["name"])?;
    tunnel_from_json(&merge(object, patch))
}

/// Changes some keys of a mirror, as [`patch_port`] does.
///
/// # Errors
/// Everything that is wrong with the result, and a change of the name.
pub fn patch_mirror(mirror: &MirrorSpec, patch: &Json) -> Result<MirrorSpec, Problems> {
    let object = mirror_to_json(mirror);
    fixed(&object, patch, &format!("mirror.{}", mirror.name), &["name"])?;
    mirror_from_json(&merge(object, patch))
}

/// What names an object is not changed: it would be another object.
fn fixed(object: &Json, patch: &Json, path: &str, keys: &[&str]) -> Result<(), Problems> {
    if !patch.is_object() {
        return Err(Problems(vec![Problem::new(
            path,
            "expected an object with the keys to change",
        )]));
    }
    let changed = |key: &&&str| patch.get(**key).is_some_and(|new| Some(new) != object.get(**key));
    let problem = |key: &&str| {
        let problem = Problem::new(format!("{path}.{key}"), format!("{key} cannot be changed"));
        problem.with_hint("delete it and add another")
    };
    let problems: Vec<_> = keys.iter().filter(changed).map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

fn merge(mut object: Json, patch: &Json) -> Json {
    if let (Some(map), Some(patch)) = (object.as_object_mut(), patch.as_object()) {
        for (key, value) in patch {
            if value.is_null() {
                map.remove(key);
            } else {
                map.insert(key.clone(), value.clone());
            }
        }
    }
    object
}

/// Puts a port into a VLAN. An access VLAN becomes the native one of the trunk that `Trunk` and
/// `Native` make of the port.
#[must_use]
pub fn vlan_add(vlan: &VlanSpec, id: VlanId, mode: VlanMode) -> VlanSpec {
    let (mut vlans, native) = members(vlan);
    vlans.retain(|other| *other != id);
    let native = match mode {
        VlanMode::Access => return VlanSpec::Access(id),
        VlanMode::Native => Some(id),
        VlanMode::Trunk => {
            vlans.push(id);
            vlans.sort_unstable();
            // What is to be tagged from now on is not the untagged one any more.
            native.filter(|native| *native != id)
        }
    };
    trunk(vlans, native)
}

/// Why a port cannot be taken out of a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VlanDelError {
    /// It is not in it.
    #[error("it is not in VLAN {0}")]
    NoMember(VlanId),
    /// It is in no other. A port that names no VLAN passes all of them, which is the contrary of
    /// what was asked for.
    #[error("VLAN {0} is the only one it is in")]
    OnlyOne(VlanId),
}

/// Takes a port out of a VLAN.
///
/// # Errors
/// [`VlanDelError`].
pub fn vlan_del(vlan: &VlanSpec, id: VlanId) -> Result<VlanSpec, VlanDelError> {
    let (mut vlans, native) = members(vlan);
    if !vlans.contains(&id) && native != Some(id) {
        return Err(VlanDelError::NoMember(id));
    }
    vlans.retain(|other| *other != id);
    let native = native.filter(|native| *native != id);
    if vlans.is_empty() && native.is_none() {
        return Err(VlanDelError::OnlyOne(id));
    }
    Ok(trunk(vlans, native))
}

/// The tagged VLANs and the untagged one.
fn members(vlan: &VlanSpec) -> (Vec<VlanId>, Option<VlanId>) {
    match vlan {
        VlanSpec::Transparent => (Vec::new(), None),
        VlanSpec::Access(access) => (Vec::new(), Some(*access)),
        VlanSpec::Trunk { vlans, native } => (vlans.clone(), *native),
    }
}

/// A trunk; one with nothing but a native VLAN is an access port.
fn trunk(vlans: Vec<VlanId>, native: Option<VlanId>) -> VlanSpec {
    match native {
        Some(native) if vlans.is_empty() => VlanSpec::Access(native),
        native => VlanSpec::Trunk { vlans, native },
    }
}

/// A port's VLANs in words: `-`, `access 10`, `trunk 10,20-29 native 1`.
#[must_use]
pub fn vlan_words(vlan: &VlanSpec) -> String {
    match vlan {
        VlanSpec::Transparent => "-".into(),
        VlanSpec::Access(id) => format!("access {id}"),
        VlanSpec::Trunk { vlans, native } => {
            let ranges: Vec<_> = vlan_ranges(vlans)
                .into_iter()
                .map(|range| match range {
                    (1, 4094) => "all".to_owned(),
                    (first, last) if first == last => first.to_string(),
                    (first, last) => format!("{first}-{last}"),
                })
                .collect();
            let native = native.map_or_else(String::new, |id| format!(" native {id}"));
            format!("trunk {}{native}", ranges.join(","))
        }
    }
}

/// The VLANs of a port as ranges, each with how the port is in it.
#[must_use]
pub fn vlan_memberships(vlan: &VlanSpec) -> Vec<(u16, u16, VlanMode)> {
    match vlan {
        VlanSpec::Transparent => Vec::new(),
        VlanSpec::Access(id) => vec![(id.get(), id.get(), VlanMode::Access)],
        VlanSpec::Trunk { vlans, native } => {
            let tagged: Vec<_> = vlans.iter().copied().filter(|id| Some(*id) != *native).collect();
            let tagged = vlan_ranges(&tagged);
            let native = native.map(|id| (id.get(), id.get(), VlanMode::Native));
            let tagged = tagged.into_iter().map(|(first, last)| (first, last, VlanMode::Trunk));
            let mut out: Vec<_> = tagged.chain(native).collect();
            out.sort_by_key(|row| row.0);
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(vid: u16) -> VlanId {
        VlanId::new(vid).unwrap()
    }

    #[test]
    fn vlans_come_and_go() {
        let access = vlan_add(&VlanSpec::Transparent, id(10), VlanMode::Access);
        let trunk = vlan_add(&access, id(20), VlanMode::Trunk);
        assert_eq!(vlan_words(&trunk), "trunk 20 native 10");
        let trunk = vlan_add(&trunk, id(21), VlanMode::Trunk);
        let trunk = vlan_add(&trunk, id(30), VlanMode::Native);
        assert_eq!(vlan_words(&trunk), "trunk 20-21 native 30");
        let rows = vlan_memberships(&trunk);
        assert_eq!(rows, [(20, 21, VlanMode::Trunk), (30, 30, VlanMode::Native)]);
        let tagged = vlan_add(&trunk, id(30), VlanMode::Trunk);
        assert_eq!(vlan_words(&tagged), "trunk 20-21,30");
        assert_eq!(vlan_add(&tagged, id(9), VlanMode::Access), VlanSpec::Access(id(9)));
        assert_eq!(vlan_del(&trunk, id(11)), Err(VlanDelError::NoMember(id(11))));
        let mut rest = trunk;
        for (vid, words) in [(20, "trunk 21 native 30"), (21, "access 30")] {
            rest = vlan_del(&rest, id(vid)).unwrap();
            assert_eq!(vlan_words(&rest), words);
        }
        assert_eq!(vlan_del(&rest, id(30)), Err(VlanDelError::OnlyOne(id(30))));
        let none = vlan_del(&VlanSpec::Transparent, id(30));
        assert_eq!(none, Err(VlanDelError::NoMember(id(30))));
    }

    #[test]
    fn patches_merge_and_are_checked() {
        let port =
            json!({ "name": "p", "type": "tap", "bridge": "br0", "access": 10, "mtu": 1400 });
        let port = port_from_json(&port).unwrap();
        let patched = patch_port(&port, &json!({ "trunk": [1, 2], "mtu": null })).unwrap();
        assert_eq!((vlan_words(&patched.vlan).as_str(), patched.mtu), ("trunk 1-2", None));
        let refused = patch_port(&port, &json!({ "name": "q" })).unwrap_err();
        assert!(refused.to_string().contains("name cannot be changed"), "{refused}");
        let refused = patch_port(&port, &json!({ "mtu": 7, "acess": 1 })).unwrap_err();
        assert_eq!(refused.0.len(), 2, "{refused}");
        assert!(patch_port(&port, &json!([])).is_err());
        let bridge = BridgeSpec::new("br0");
        let patched = patch_bridge(&bridge, &json!({ "ageing": "5m" })).unwrap();
        assert_eq!(patched.ageing.as_secs(), 300);
    }
}
