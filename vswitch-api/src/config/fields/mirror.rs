//! The keys of `[[mirror]]`.

use switch_core::config::{Direction, MirrorSpec};

use super::{Fields, Pairs};
use crate::config::value::Value;

/// `None` without a name and a port for the copies.
pub(crate) fn mirror(mut fields: Fields) -> Option<MirrorSpec> {
    let default = MirrorSpec::new(fields.text("name")?, fields.text("to")?);
    let direction = fields.text("direction").and_then(|name| Direction::from_name(&name));
    Some(MirrorSpec {
        ports: fields.texts("ports").unwrap_or_default(),
        bridges: fields.texts("bridges").unwrap_or_default(),
        direction: direction.unwrap_or_default(),
        vlans: fields.vlans("vlans"),
        filter: fields.text("filter"),
        snap: fields.int("snap"),
        one_in: fields.int("one-in").unwrap_or(default.one_in),
        ..default
    })
}

pub(crate) fn of_mirror(spec: &MirrorSpec) -> Pairs {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut out = vec![
        ("name", text(&spec.name)),
        ("ports", Value::Texts(spec.ports.clone())),
        ("bridges", Value::Texts(spec.bridges.clone())),
        ("direction", text(spec.direction.name())),
    ];
    out.extend(spec.vlans.clone().map(|vlans| ("vlans", Value::Vlans(vlans))));
    out.extend(spec.filter.as_deref().map(|filter| ("filter", text(filter))));
    out.extend(spec.snap.map(|snap| ("snap", Value::Int(snap))));
    out.push(("one-in", Value::Int(spec.one_in)));
    out.push(("to", text(&spec.to)));
    out
}
