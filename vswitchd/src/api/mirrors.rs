//! `/v1/mirrors`.

use axum::extract::State;
use axum::{Json, Router};
use vswitch_api::config::mirror_from_json;
use vswitch_api::types::{List, MirrorStatus};

use super::App;
use super::object::Object;
use super::reply::{Answer, Path, list};
use crate::control::{Action, Mutation, no_such_mirror};

const MIRROR: Object = Object {
    add: |body| Ok(Mutation::AddMirror(mirror_from_json(body)?)),
    set: Mutation::SetMirror,
    remove: Mutation::RemoveMirror,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/mirrors", MIRROR.added().get(all))
        .route("/v1/mirrors/{name}", MIRROR.changed().get(one))
}

async fn all(State(app): State<App>) -> Answer<List<MirrorStatus>> {
    Ok(list(app.control.ask(Action::Mirrors).await?))
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Answer<MirrorStatus> {
    let mirrors = app.control.ask(Action::Mirrors).await?;
    let found = mirrors.into_iter().find(|mirror| mirror.name == name);
    Ok(Json(found.ok_or_else(|| no_such_mirror(&name))?))
}
