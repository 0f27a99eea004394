//! `/v1/vteps`.

use axum::extract::State;
use axum::{Json, Router};
use vswitch_api::config::vtep_from_json;
use vswitch_api::types::{List, VtepStatus};

use super::App;
use super::object::Object;
use super::reply::{Answer, Path, list};
use crate::control::{Action, Mutation, no_such_vtep};

const VTEP: Object = Object {
    add: |body| Ok(Mutation::AddVtep(vtep_from_json(body)?)),
    set: Mutation::SetVtep,
    remove: Mutation::RemoveVtep,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/vteps", VTEP.added().get(all))
        .route("/v1/vteps/{name}", VTEP.changed().get(one))
}

async fn all(State(app): State<App>) -> Answer<List<VtepStatus>> {
    Ok(list(app.control.ask(Action::Vteps).await?))
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Answer<VtepStatus> {
    let vteps = app.control.ask(Action::Vteps).await?;
    let found = vteps.into_iter().find(|vtep| vtep.name == name);
    Ok(Json(found.ok_or_else(|| no_such_vtep(&name))?))
}
