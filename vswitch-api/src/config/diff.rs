//! What changes between two configurations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::desired::Desired;
use super::fields::{self, Pairs};

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// One of its keys has another value.
    Changed,
}

/// One difference: an object that comes or goes, or one key of an object that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// What happens.
    pub change: ChangeKind,
    /// To what kind of object: `daemon`, `dpdk`, `sflow`, `ipfix`, `bridge`, `port`, `vtep`, `tunnel` or
    /// `mirror`.
    pub object: String,
    /// Its name; empty for `daemon`, `dpdk`, `sflow` and `ipfix`.
    pub name: String,
    /// The key that changed; absent if the whole object comes or goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What it was, as in the file; absent if it was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What it becomes, as in the file; absent if it is not set any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Changed => '~',
        };
        write!(f, "{sign} {}", self.object)?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        if let Some(key) = &self.key {
            let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "(unset)".into());
            write!(f, " {key}: {} -> {}", show(&self.old), show(&self.new))?;
        }
        Ok(())
    }
}

/// What has to change to get from `old` to `new`: removals, then changes and additions, each by
/// object and name.
#[must_use]
pub fn diff(old: &Desired, new: &Desired) -> Vec<Change> {
    let objects = |desired: &Desired| -> BTreeMap<(u8, &'static str, String), Pairs> {
        let daemon = fields::of_daemon(&desired.daemon);
        let dpdk = fields::of_dpdk(&desired.dpdk);
        let mut out = BTreeMap::new();
        out.insert((0, "daemon", String::new()), daemon);
        out.insert((1, "dpdk", String::new()), dpdk);
        out.insert((2, "sflow", String::new()), fields::of_sflow(&desired.sflow));
        out.insert((3, "ipfix", String::new()), fields::of_ipfix(&desired.ipfix));
        for (name, bridge) in &desired.bridges {
            out.insert((4, "bridge", name.clone()), fields::of_bridge(bridge));
        }
        for (name, port) in &desired.ports {
            out.insert((5, "port", name.clone()), fields::of_port(port));
        }
        for (name, vtep) in &desired.vteps {
            out.insert((6, "vtep", name.clone()), fields::of_vtep(vtep));
        }
        for (name, tunnel) in &desired.tunnels {
            out.insert((7, "tunnel", name.clone()), fields::of_tunnel(tunnel));
        }
        for (name, mirror) in &desired.mirrors {
            out.insert((8, "mirror", name.clone()), fields::of_mirror(mirror));
        }
        out
    };
    let (old, new) = (objects(old), objects(new));
    let whole = |change, id: &(u8, &'static str, String)| Change {
        change,
        object: id.1.to_owned(),
        name: id.2.clone(),
        key: None,
        old: None,
        new: None,
    };
    let mut out: Vec<_> = old
        .keys()
        .filter(|id| !new.contains_key(*id))
        .map(|id| whole(ChangeKind::Removed, id))
        .collect();
    for (id, pairs) in &new {
        let Some(before) = old.get(id) else {
            out.push(whole(ChangeKind::Added, id));
            continue;
        };
        let value = |pairs: &Pairs, key: &str| {
            pairs.iter().find(|pair| pair.0 == key).map(|pair| pair.1.to_toml())
        };
        let keys: BTreeSet<_> = before.iter().chain(pairs).map(|pair| pair.0).collect();
        for key in keys {
            let (was, is) = (value(before, key), value(pairs, key));
            if was != is {
                let change = whole(ChangeKind::Changed, id);
                out.push(Change { key: Some(key.to_owned()), old: was, new: is, ..change });
            }
        }
    }
    out
}
