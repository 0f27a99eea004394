//! JSON Schema of the configuration, from the key table.

use serde_json::{Map, Value as Json, json};
use utoipa::openapi::{RefOr, schema::Schema};

use super::keys::{Fallback, Key, Section};
use super::value::KeyType;

/// JSON Schema (draft 2020-12) of a configuration.
#[must_use]
pub fn schema() -> Json {
    let mut properties = Map::new();
    for key in Section::Top.keys() {
        properties.insert(key.name.into(), key_schema(key));
    }
    for section in Section::TABLES {
        properties.insert(section.name().into(), section_schema(section));
    }
    for section in Section::OBJECTS {
        let list = json!({ "type": "array", "items": section_schema(section) });
        properties.insert(section.name().into(), list);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vswitch.toml",
        "type": "object",
        "additionalProperties": false,
        "required": ["version"],
        "properties": properties,
    })
}

/// The schema of one table for the OpenAPI document.
pub(crate) fn open_api(section: Section) -> RefOr<Schema> {
    // The test of the committed document sees an empty schema, should this ever not be one.
    serde_json::from_value(section_schema(section)).unwrap_or_default()
}

fn section_schema(section: Section) -> Json {
    let properties: Map<_, _> =
        section.keys().map(|key| (key.name.to_owned(), key_schema(key))).collect();
    let required: Vec<_> = section
        .keys()
        .filter(|key| key.default == Fallback::Required)
        .map(|key| key.name)
        .collect();
    let mut out = json!({
        "type": "object",
        "description": section.doc(),
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    out
}

fn key_schema(key: &Key) -> Json {
    let mut out = type_schema(key.value);
    let mut doc = key.doc.to_owned();
    if !key.applies.is_empty() {
        doc = format!("{doc} For {}s of type {}.", key.section.name(), key.applies_listed());
    }
    match key.default {
        Fallback::Required => {}
        // Every such default is written as TOML that is JSON as well.
        Fallback::Is(text) => out["default"] = serde_json::from_str(text).unwrap_or_default(),
        Fallback::Otherwise(text) => doc = format!("{doc} Without it: {text}."),
    }
    out["description"] = json!(doc);
    out
}

fn type_schema(value: KeyType) -> Json {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    match value {
        KeyType::Bool => json!({ "type": "boolean" }),
        KeyType::Int { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        KeyType::Limit { min, max } => json!({ "oneOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "enum": ["off"] },
        ] }),
        KeyType::Rate { .. } => text("^([0-9]+ ?(k|M)?pps|off)$"),
        KeyType::Duration { .. } => text("^[0-9]+ ?[a-z]+( ?[0-9]+ ?[a-z]+)*$"),
        KeyType::Choice(words) => json!({ "type": "string", "enum": words }),
        KeyType::Name => text("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}$"),
        KeyType::Device => text("^[^/:%\\s]{1,15}$"),
        KeyType::Netns | KeyType::Text => json!({ "type": "string", "minLength": 1 }),
        KeyType::Path => text("^/"),
        KeyType::Texts => json!({ "type": "array", "items": { "type": "string", "minLength": 1 } }),
        KeyType::Names => json!({ "type": "array", "items": type_schema(KeyType::Name) }),
        KeyType::Vlan => json!({ "type": "integer", "minimum": 1, "maximum": 4094 }),
        KeyType::Vlans => json!({ "oneOf": [
            { "type": "string", "enum": ["all"] },
            { "type": "array", "minItems": 1, "items": { "oneOf": [
                { "type": "integer", "minimum": 1, "maximum": 4094 },
                { "type": "string", "pattern": "^[0-9]+(-[0-9]+)?$" },
            ] } },
        ] }),
        KeyType::Cpus => text("^[0-9]+(-[0-9]+)?( ?, ?[0-9]+(-[0-9]+)?)*$"),
        KeyType::Mac => text("^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"),
        KeyType::Address => text("^.+:[0-9]+$"),
        KeyType::Ip => text("^[0-9A-Fa-f:.]+$"),
        KeyType::Ips => json!({ "type": "array", "items": type_schema(KeyType::Ip) }),
        KeyType::OrCopy { min, max } => json!({ "oneOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "enum": ["copy"] },
        ] }),
        KeyType::GeneveOptions => {
            let option = text("^(0x)?[0-9A-Fa-f]{1,4}:(0x)?[0-9A-Fa-f]{1,2}:(0x)?[0-9A-Fa-f]*$");
            json!({ "type": "array", "items": option })
        }
        KeyType::Hugepages => text("^(auto|off|[0-9]+ ?(MiB|GiB))$"),
    }
}
