//! The committed OpenAPI document is that of the code, and holds together.

use std::collections::BTreeSet;

use serde_json::Value;

#[test]
fn the_committed_document_is_that_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let now = format!("{:#}\n", vswitch_api::openapi());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    // As values: in which order keys are written depends on what else is built with.
    let committed: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let same = committed == vswitch_api::openapi();
    assert!(same, "run the test with BLESS=1 and commit docs/openapi.json");
}

#[test]
fn every_reference_resolves_and_every_operation_is_named_once() {
    let document = vswitch_api::openapi();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut references = BTreeSet::new();
    collect(&document, &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        assert!(schemas.contains_key(name), "{reference}");
        assert_ne!(schemas[name], Value::Object(Default::default()), "{name} is empty");
    }
    let routes = vswitch_api::routes::ROUTES;
    let operations: BTreeSet<_> = routes.iter().map(|route| route.operation).collect();
    let places: BTreeSet<_> = routes.iter().map(|route| (route.method, route.path)).collect();
    assert_eq!((operations.len(), places.len()), (routes.len(), routes.len()));
    let port = &schemas["PortConfig"]["properties"];
    assert_eq!(port["storm-limit"]["type"], "string");
    assert_eq!(port["mtu"]["maximum"], 65_521);
}

fn collect(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect(value, out));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, out)),
        _ => {}
    }
}
