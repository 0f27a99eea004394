//! The OpenAPI document, from the table of routes.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{Code, ErrorBody};
use crate::routes::{ROUTES, Route, Shape};

/// The OpenAPI 3.1 document of the API.
#[must_use]
pub fn openapi() -> Json {
    let mut paths: BTreeMap<&str, Map<String, Json>> = BTreeMap::new();
    let mut schemas: BTreeMap<String, Json> = BTreeMap::new();
    for route in ROUTES {
        let operation = operation(route, &mut schemas);
        paths.entry(route.path).or_default().insert(route.method.to_lowercase(), operation);
    }
    let mut collected = vec![(ErrorBody::name().into_owned(), ErrorBody::schema())];
    ErrorBody::schemas(&mut collected);
    schemas.extend(collected.into_iter().map(|(name, schema)| (name, json!(schema))));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vswitchd",
            "description": "The API of vswitchd: HTTP/1.1 on the Unix socket RUN_DIR/api.sock \
                            (/run/vswitch by default).",
            "version": "1",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost", "description": "over the Unix socket" }],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn operation(route: &Route, schemas: &mut BTreeMap<String, Json>) -> Json {
    let mut parameters: Vec<Json> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let schema = json!({ "type": "string" });
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    parameters.extend(route.query.iter().map(|query| {
        json!({
            "name": query.name,
            "in": "query",
            "required": false,
            "description": query.doc,
            "schema": { "type": query.value },
        })
    }));
    let reply = content(&route.reply, schemas);
    let mut responses = Map::new();
    responses.insert("200".into(), json!({ "description": "Done", "content": reply }));
    if matches!(&route.reply, Shape::Json(reply) if (reply.name)() == "MutationReply") {
        let accepted = json!({ "description": Code::NotRealised.doc(), "content": reply });
        responses.insert("202".into(), accepted);
    }
    let mut by_status: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for code in route.errors {
        by_status.entry(code.status()).or_default().push(format!("{code}: {}", code.doc()));
    }
    let error = json!({ "application/json": {
        "schema": { "$ref": "#/components/schemas/ErrorBody" },
    } });
    for (status, docs) in by_status {
        let reply = json!({ "description": docs.join(" "), "content": error });
        responses.insert(status.to_string(), reply);
    }
    responses.insert("default".into(), json!({ "description": "An error", "content": error }));
    let mut out = json!({
        "operationId": route.operation,
        "summary": route.summary,
        "responses": responses,
    });
    if !parameters.is_empty() {
        out["parameters"] = json!(parameters);
    }
    if let Some(body) = &route.body {
        out["requestBody"] = json!({ "required": true, "content": content(body, schemas) });
    }
    out
}

fn content(shape: &Shape, schemas: &mut BTreeMap<String, Json>) -> Json {
    let (media, schema) = match shape {
        Shape::Json(_) => ("application/json", reference(shape, schemas)),
        Shape::Lines(_) => ("application/jsonl", reference(shape, schemas)),
        Shape::List(_) => {
            let items = reference(shape, schemas);
            let properties = json!({ "items": { "type": "array", "items": items } });
            let list = json!({ "type": "object", "required": ["items"], "properties": properties });
            ("application/json", list)
        }
        Shape::Object => ("application/json", json!({ "type": "object" })),
        Shape::Text(media) => (*media, json!({ "type": "string" })),
    };
    json!({ media: { "schema": schema } })
}

/// A reference to the type's schema, which is put among the components with all it refers to.
fn reference(shape: &Shape, schemas: &mut BTreeMap<String, Json>) -> Json {
    let (Shape::Json(kind) | Shape::List(kind) | Shape::Lines(kind)) = shape else {
        return json!({});
    };
    let name = (kind.name)();
    let mut collected = vec![(name.clone(), (kind.schema)())];
    (kind.collect)(&mut collected);
    schemas.extend(collected.into_iter().map(|(name, schema)| (name, json!(schema))));
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
