//! `/v1/bridges`.

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::Value;
use vswitch_api::config::bridge_from_json;
use vswitch_api::types::{BridgeStatus, List};

use super::reply::{Answer, Failure, Input, Path, changed, list};
use super::{App, Caller};
use crate::control::{Action, Mutation, no_such_bridge};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/bridges", get(all).post(add))
        .route("/v1/bridges/{name}", get(one).patch(set).delete(delete))
}

async fn all(State(app): State<App>) -> Answer<List<BridgeStatus>> {
    Ok(list(app.control.ask(Action::Bridges).await?))
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Answer<BridgeStatus> {
    let bridges = app.control.ask(Action::Bridges).await?;
    let found = bridges.into_iter().find(|bridge| bridge.name == name);
    Ok(Json(found.ok_or_else(|| no_such_bridge(&name))?))
}

async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(body): Input<Value>,
) -> Result<Response, Failure> {
    let mutation = Mutation::AddBridge(bridge_from_json(&body)?);
    changed(app.mutate(caller, mutation).await)
}

async fn set(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Input(patch): Input<Value>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::SetBridge(name, patch)).await)
}

async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::RemoveBridge(name)).await)
}
