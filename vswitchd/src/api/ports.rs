//! `/v1/ports` and `/v1/stats`.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use vswitch_api::config::port_from_json;
use vswitch_api::types::{List, PortStats, PortStatus};

use super::App;
use super::object::Object;
use super::reply::{Answer, Asked, Path, list};
use crate::control::{Action, Mutation, no_such_port};

const PORT: Object = Object {
    add: |body| Ok(Mutation::AddPort(port_from_json(body)?)),
    set: Mutation::SetPort,
    remove: Mutation::RemovePort,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/ports", PORT.added().get(all))
        .route("/v1/ports/{name}", PORT.changed().get(one))
        .route("/v1/ports/{name}/stats", get(stats_of))
        .route("/v1/stats", get(stats))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    bridge: Option<String>,
}

async fn all(State(app): State<App>, Asked(filter): Asked<Filter>) -> Answer<List<PortStatus>> {
    let ports = app.control.ask(Action::Ports).await?;
    let meets = |port: &PortStatus| filter.bridge.is_none() || port.bridge == filter.bridge;
    Ok(list(ports.into_iter().filter(meets)))
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Answer<PortStatus> {
    let ports = app.control.ask(Action::Ports).await?;
    let found = ports.into_iter().find(|port| port.name == name);
    Ok(Json(found.ok_or_else(|| no_such_port(&name))?))
}

async fn stats(State(app): State<App>) -> Answer<List<PortStats>> {
    Ok(list(app.control.ask(Action::PortStats).await?))
}

async fn stats_of(State(app): State<App>, Path(name): Path<String>) -> Answer<PortStats> {
    let stats = app.control.ask(Action::PortStats).await?;
    let found = stats.into_iter().find(|stats| stats.name == name);
    Ok(Json(found.ok_or_else(|| no_such_port(&name))?))
}
