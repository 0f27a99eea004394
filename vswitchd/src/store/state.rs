//! Desired state as objects with an origin: the form in which it is kept, compared and merged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use vswitch_api::config::{self, Desired, Problem, Problems};
use vswitch_api::types::{Action, ObjectKind, Origin};

/// What names an object: its kind, and its name within the kind (empty where there is
/// one).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectId {
    /// What kind of object.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
}

impl ObjectId {
    /// The object of that kind and name.
    pub fn new(kind: ObjectKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// The key it is stored under. A kind holds no slash, so this is unique.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.kind.name(), self.name)
    }
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "[{}]", self.kind.name()),
            name => write!(f, "{} {name}", self.kind.name()),
        }
    }
}

/// An object of desired state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Who asked for it.
    pub origin: Origin,
    /// The revision that changed it last.
    pub revision: u64,
    /// What was asked for, with the keys of the file, defaults left out.
    pub spec: Json,
}

/// All objects.
pub type Objects = BTreeMap<ObjectId, Object>;

/// What is asked for, object by object, without origins.
pub type Specs = BTreeMap<ObjectId, Json>;

/// The objects that a configuration consists of. Tables of which there is one are among them
/// only where they differ from the defaults.
pub fn specs(desired: &Desired) -> Specs {
    let (daemon, dpdk) = (desired.daemon.clone(), desired.dpdk.clone());
    let (sflow, ipfix) = (desired.sflow.clone(), desired.ipfix.clone());
    let whole = config::to_json(&Desired { daemon, dpdk, sflow, ipfix, ..Desired::default() });
    let mut out = Specs::new();
    for kind in [ObjectKind::Daemon, ObjectKind::Dpdk, ObjectKind::Sflow, ObjectKind::Ipfix] {
        if let Some(spec) = whole.get(kind.name()) {
            out.insert(ObjectId::new(kind, ""), spec.clone());
        }
    }
    for (name, bridge) in &desired.bridges {
        let id = ObjectId::new(ObjectKind::Bridge, name.clone());
        out.insert(id, config::bridge_to_json(bridge));
    }
    for (name, port) in &desired.ports {
        out.insert(ObjectId::new(ObjectKind::Port, name.clone()), config::port_to_json(port));
    }
    for (name, vtep) in &desired.vteps {
        out.insert(ObjectId::new(ObjectKind::Vtep, name.clone()), config::vtep_to_json(vtep));
    }
    for (name, tunnel) in &desired.tunnels {
        out.insert(ObjectId::new(ObjectKind::Tunnel, name.clone()), config::tunnel_to_json(tunnel));
    }
    for (name, mirror) in &desired.mirrors {
        out.insert(ObjectId::new(ObjectKind::Mirror, name.clone()), config::mirror_to_json(mirror));
    }
    out
}

/// The configuration that objects make up, checked as a whole.
///
/// # Errors
/// What does not fit together.
pub fn desired<'a>(
    objects: impl IntoIterator<Item = (&'a ObjectId, &'a Json)>,
) -> Result<Desired, Problems> {
    let mut whole = json!({"version": config::VERSION});
    let (mut bridges, mut ports) = (Vec::new(), Vec::new());
    let (mut vteps, mut tunnels, mut mirrors) = (Vec::new(), Vec::new(), Vec::new());
    for (id, spec) in objects {
        match id.kind {
            ObjectKind::Daemon | ObjectKind::Dpdk | ObjectKind::Sflow | ObjectKind::Ipfix => {
                whole[id.kind.name()] = spec.clone()
            }
            ObjectKind::Bridge => bridges.push(spec.clone()),
            ObjectKind::Port => ports.push(spec.clone()),
            ObjectKind::Vtep => vteps.push(spec.clone()),
            ObjectKind::Tunnel => tunnels.push(spec.clone()),
            ObjectKind::Mirror => mirrors.push(spec.clone()),
        }
    }
    whole["bridge"] = bridges.into();
    whole["port"] = ports.into();
    whole["vtep"] = vteps.into();
    whole["tunnel"] = tunnels.into();
    whole["mirror"] = mirrors.into();
    config::from_json(&whole)
}

/// One object of a change: what it was and what it becomes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The object.
    pub id: ObjectId,
    /// What it was; absent if it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Object>,
    /// What it becomes; absent if it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Object>,
}

impl Delta {
    /// What is done with the object.
    pub fn action(&self) -> Action {
        match (&self.before, &self.after) {
            (None, _) => Action::Added,
            (Some(_), None) => Action::Removed,
            (Some(before), Some(after)) if before.spec == after.spec => Action::Unchanged,
            (Some(_), Some(_)) => Action::Changed,
        }
    }
}

/// What changes between `old` and `new`, in the order of the objects. Revisions do not count.
pub fn deltas(old: &Objects, new: &Objects) -> Vec<Delta> {
    let gone = old.iter().filter(|(id, _)| !new.contains_key(id)).map(|(id, object)| Delta {
        id: id.clone(),
        before: Some(object.clone()),
        after: None,
    });
    let changed = new.iter().filter_map(|(id, after)| {
        let before = old.get(id);
        let same = before.is_some_and(|b| b.origin == after.origin && b.spec == after.spec);
        (!same).then(|| Delta {
            id: id.clone(),
            before: before.cloned(),
            after: Some(after.clone()),
        })
    });
    gone.chain(changed).collect()
}

/// Objects as they become when a request makes them `specs`: what it touches has the origin `api`
/// from then on, the rest keeps its own.
pub fn edited(old: &Objects, specs: &Specs, revision: u64) -> Objects {
    let object = |(id, spec): (&ObjectId, &Json)| {
        let kept = old.get(id).filter(|object| object.spec == *spec).cloned();
        let new = || Object { origin: Origin::Api, revision, spec: spec.clone() };
        (id.clone(), kept.unwrap_or_else(new))
    };
    specs.iter().map(object).collect()
}

/// Why a file does not fit what other origins have made.
#[derive(Debug, thiserror::Error)]
pub enum Misfit {
    /// Both have an object of the same name, in different words.
    #[error("{0}")]
    Collision(Problems),
    /// The whole does not fit together.
    #[error("{0}")]
    Whole(Problems),
}

impl Misfit {
    /// What is wrong.
    pub fn into_problems(self) -> Problems {
        match self {
            Self::Collision(problems) | Self::Whole(problems) => problems,
        }
    }
}

/// Objects as they become when a file is loaded: it replaces all of origin `file` and leaves the
/// others. An object that both have in the same words belongs to the file from then on. Answers also
/// with the configuration that they make up.
///
/// # Errors
/// A name that the file and another origin have in different words, unless `config_wins`; and what
/// does not fit together as a whole. With `config_wins`, objects of other origins that do not fit
/// the file are left out.
pub fn with_file(
    old: &Objects,
    file: Desired,
    config_wins: bool,
    revision: u64,
) -> Result<(Objects, Desired), Misfit> {
    let specs = specs(&file);
    let mut problems = Vec::new();
    let mut new: Objects = old
        .iter()
        .filter(|(_, object)| object.origin != Origin::File)
        .map(|(id, object)| (id.clone(), object.clone()))
        .collect();
    let alone = new.is_empty();
    for (id, spec) in specs {
        let other = new.get(&id).filter(|other| other.spec != spec);
        if let Some(other) = other
            && !config_wins
        {
            problems.push(collision(&id, other));
            continue;
        }
        let unchanged = old.get(&id).filter(|o| o.origin == Origin::File && o.spec == spec);
        let revision = unchanged.map_or(revision, |object| object.revision);
        new.insert(id, Object { origin: Origin::File, revision, spec });
    }
    if !problems.is_empty() {
        return Err(Misfit::Collision(Problems(problems)));
    }
    // A file that was read by itself fits together; nothing is put together again for that.
    let whole = if alone { file } else { fit(&mut new, config_wins).map_err(Misfit::Whole)? };
    Ok((new, whole))
}

/// Checks the whole; with `config_wins` leaves out objects of other origins until it fits.
fn fit(objects: &mut Objects, config_wins: bool) -> Result<Desired, Problems> {
    loop {
        let whole = desired(objects.iter().map(|(id, object)| (id, &object.spec)));
        let problems = match whole {
            Ok(whole) => return Ok(whole),
            Err(problems) => problems,
        };
        let named = |id: &ObjectId| {
            let prefix = format!("{}.{}.", id.kind.name(), id.name);
            problems.0.iter().any(|problem| problem.key.starts_with(&prefix))
        };
        let before = objects.len();
        if config_wins {
            objects.retain(|id, object| object.origin == Origin::File || !named(id));
        }
        // Each round leaves out at least one object or is the last.
        if objects.len() == before {
            return Err(problems);
        }
    }
}

fn collision(id: &ObjectId, other: &Object) -> Problem {
    let key = match id.name.as_str() {
        "" => id.kind.name().to_owned(),
        name => format!("{}.{name}", id.kind.name()),
    };
    let message = format!(
        "{id} is in the configuration file, and another one of that name was made by the {} in \
         revision {}",
        other.origin.name(),
        other.revision
    );
    Problem::new(key, message).with_hint(
        "rename one of the two, delete the other with vswitch-ctl, or start vswitchd with \
         --config-wins to let the file replace it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Desired {
        config::from_toml(text).unwrap()
    }

    fn loaded(old: &Objects, text: &str, wins: bool, revision: u64) -> Result<Objects, Misfit> {
        let (objects, whole) = with_file(old, file(text), wins, revision)?;
        let pairs = objects.iter().map(|(id, object)| (id, &object.spec));
        assert_eq!(desired(pairs).unwrap(), whole, "what they make up");
        Ok(objects)
    }

    const BR0: &str = "version = 1\n[[bridge]]\nname = \"br0\"\n";
    const WEB: &str = "[[port]]\nname = \"web\"\ntype = \"tap\"\nbridge = \"br0\"\n";

    fn api(old: &Objects, text: &str, revision: u64) -> Objects {
        edited(old, &specs(&file(text)), revision)
    }

    #[test]
    fn a_configuration_survives_the_way_through_objects() {
        let text = format!("{BR0}ageing = \"60s\"\n{WEB}[daemon]\nidle = \"poll\"\n");
        let want = file(&text);
        let specs = specs(&want);
        assert_eq!(specs.len(), 3);
        assert_eq!(desired(&specs).unwrap(), want);
    }

    #[test]
    fn a_file_replaces_its_own_objects_and_leaves_the_others() {
        let first = loaded(&Objects::new(), &format!("{BR0}{WEB}"), false, 1).unwrap();
        let both = api(&first, &format!("{BR0}{WEB}[[bridge]]\nname = \"br1\"\n"), 2);
        let second = loaded(&both, BR0, false, 3).unwrap();
        let origins: Vec<_> =
            second.iter().map(|(id, o)| (id.to_string(), o.origin, o.revision)).collect();
        assert_eq!(
            origins,
            [("bridge br0".to_owned(), Origin::File, 1), ("bridge br1".to_owned(), Origin::Api, 2)]
        );
    }

    #[test]
    fn a_collision_is_an_error_unless_the_file_wins() {
        let mine = api(&Objects::new(), &format!("{BR0}ageing = \"60s\"\n"), 1);
        let problems = loaded(&mine, BR0, false, 2).unwrap_err().into_problems();
        assert_eq!(problems.0.len(), 1);
        let message = problems.0[0].to_string();
        assert!(message.contains("bridge br0 is in the configuration file"), "{message}");
        assert!(message.contains("made by the api in revision 1"), "{message}");
        let settled = loaded(&mine, BR0, true, 2).unwrap();
        assert_eq!(settled.values().next().unwrap().origin, Origin::File);
        // The same in the same words is no collision.
        let adopted = loaded(&mine, &format!("{BR0}ageing = \"60s\"\n"), false, 2);
        assert_eq!(adopted.unwrap().values().next().unwrap().origin, Origin::File);
    }

    #[test]
    fn what_no_longer_fits_the_file_is_an_error_unless_the_file_wins() {
        let first = loaded(&Objects::new(), BR0, false, 1).unwrap();
        let both = api(&first, &format!("{BR0}{WEB}"), 2);
        let empty = "version = 1\n";
        let problems = loaded(&both, empty, false, 3).unwrap_err().into_problems();
        assert_eq!(problems.0[0].key, "port.web.bridge");
        assert!(loaded(&both, empty, true, 3).unwrap().is_empty());
    }

    #[test]
    fn deltas_tell_what_is_done() {
        let old = api(&Objects::new(), &format!("{BR0}{WEB}"), 1);
        let new = api(&old, &format!("{BR0}ageing = \"60s\"\n[[bridge]]\nname = \"br1\"\n"), 2);
        let found: Vec<_> =
            deltas(&old, &new).iter().map(|d| (d.id.to_string(), d.action())).collect();
        assert_eq!(
            found,
            [
                ("port web".to_owned(), Action::Removed),
                ("bridge br0".to_owned(), Action::Changed),
                ("bridge br1".to_owned(), Action::Added)
            ]
        );
        assert!(deltas(&new, &new).is_empty());
    }
}
