//! `/v1/bridges`.

use axum::extract::State;
use axum::{Json, Router};
use vswitch_api::config::bridge_from_json;
use vswitch_api::types::{BridgeStatus, List};

use super::App;
use super::object::Object;
use super::reply::{Answer, Path, list};
use crate::control::{Action, Mutation, no_such_bridge};

const BRIDGE: Object = Object {
    add: |body| Ok(Mutation::AddBridge(bridge_from_json(body)?)),
    set: Mutation::SetBridge,
    remove: Mutation::RemoveBridge,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/bridges", BRIDGE.added().get(all))
        .route("/v1/bridges/{name}", BRIDGE.changed().get(one))
}

async fn all(State(app): State<App>) -> Answer<List<BridgeStatus>> {
    Ok(list(app.control.ask(Action::Bridges).await?))
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Answer<BridgeStatus> {
    let bridges = app.control.ask(Action::Bridges).await?;
    let found = bridges.into_iter().find(|bridge| bridge.name == name);
    Ok(Json(found.ok_or_else(|| no_such_bridge(&name))?))
}
