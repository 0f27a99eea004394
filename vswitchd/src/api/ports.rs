//! `/v1/ports` and `/v1/stats`.

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::Value;
use vswitch_api::config::port_from_json;
use vswitch_api::types::{List, PortStats, PortStatus};

use super::reply::{Answer, Asked, Failure, Input, Path, changed, list};
use super::{App, Caller};
use crate::control::{Action, Mutation, no_such_port};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/ports", get(all).post(add))
        .route("/v1/ports/{name}", get(one).patch(set).delete(delete))
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

async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(body): Input<Value>,
) -> Result<Response, Failure> {
    let mutation = Mutation::AddPort(port_from_json(&body)?);
    changed(app.mutate(caller, mutation).await)
}

async fn set(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Input(patch): Input<Value>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::SetPort(name, patch)).await)
}

async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::RemovePort(name)).await)
}

async fn stats(State(app): State<App>) -> Answer<List<PortStats>> {
    Ok(list(app.control.ask(Action::PortStats).await?))
}

async fn stats_of(State(app): State<App>, Path(name): Path<String>) -> Answer<PortStats> {
    let stats = app.control.ask(Action::PortStats).await?;
    let found = stats.into_iter().find(|stats| stats.name == name);
    Ok(Json(found.ok_or_else(|| no_such_port(&name))?))
}
