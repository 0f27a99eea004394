//! `/v1/vteps`.

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::Value;
use vswitch_api::config::vtep_from_json;
use vswitch_api::types::{List, VtepStatus};

use super::reply::{Answer, Failure, Input, Path, changed, list};
use super::{App, Caller};
use crate::control::{Action, Mutation, no_such_vtep};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/vteps", get(all).post(add))
        .route("/v1/vteps/{name}", get(one).patch(set).delete(delete))
}

async fn all(State(app): State<App>) -> Answer<List<VtepStatus>> {
    Ok(list(app.control.ask(Action::Vteps).await?))
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Answer<VtepStatus> {
    let vteps = app.control.ask(Action::Vteps).await?;
    let found = vteps.into_iter().find(|vtep| vtep.name == name);
    Ok(Json(found.ok_or_else(|| no_such_vtep(&name))?))
}

async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(body): Input<Value>,
) -> Result<Response, Failure> {
    let mutation = Mutation::AddVtep(vtep_from_json(&body)?);
    changed(app.mutate(caller, mutation).await)
}

async fn set(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Input(patch): Input<Value>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::SetVtep(name, patch)).await)
}

async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::RemoveVtep(name)).await)
}
