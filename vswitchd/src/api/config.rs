//! `/v1/config`.

use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::Value;
use vswitch_api::config::{self, Change};
use vswitch_api::types::{
    ApplyRequest, ConfigReply, ConfigText, DiffReply, HistoryEntry, List, RollbackRequest,
    ValidateReply,
};

use super::reply::{Answer, CONFIG_MOST, Failure, Input, Path, changed, list, number};
use super::{App, Caller};
use crate::control::{Action, Mutation};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/config", get(present))
        .route("/v1/config/validate", post(validate))
        .route("/v1/config/diff", post(diff))
        .route("/v1/config/apply", post(apply))
        .route("/v1/config/confirm", post(confirm))
        .route("/v1/config/rollback", post(rollback))
        .route("/v1/config/history", get(history))
        .route("/v1/config/history/{revision}", get(revision))
        .route("/v1/config/history/{revision}/changes", get(changes))
        .route("/v1/config/schema", get(schema))
}

async fn present(State(app): State<App>) -> Answer<ConfigReply> {
    Ok(Json(app.control.ask(Action::Config).await?))
}

async fn validate(Input(text): Input<ConfigText, CONFIG_MOST>) -> Answer<ValidateReply> {
    let problems = config::from_toml(&text.toml).map_or_else(|problems| problems.0, |_| Vec::new());
    Ok(Json(ValidateReply { valid: problems.is_empty(), problems }))
}

async fn diff(
    State(app): State<App>,
    Input(text): Input<ConfigText, CONFIG_MOST>,
) -> Answer<DiffReply> {
    Ok(Json(app.control.ask(|reply| Action::Diff(text.toml, reply)).await?))
}

async fn apply(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(ApplyRequest { toml, confirm }): Input<ApplyRequest, CONFIG_MOST>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::Apply { toml, confirm }).await)
}

async fn confirm(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::Confirm).await)
}

async fn rollback(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(RollbackRequest { revision }): Input<RollbackRequest>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::Rollback(revision)).await)
}

async fn history(State(app): State<App>) -> Answer<List<HistoryEntry>> {
    Ok(list(app.control.ask(Action::History).await?))
}

async fn revision(State(app): State<App>, Path(segment): Path<String>) -> Answer<ConfigReply> {
    let revision = number("a revision", &segment)?;
    Ok(Json(app.control.ask(|reply| Action::Revision(revision, reply)).await?))
}

async fn changes(State(app): State<App>, Path(segment): Path<String>) -> Answer<List<Change>> {
    let revision = number("a revision", &segment)?;
    Ok(list(app.control.ask(|reply| Action::Changes(revision, reply)).await?))
}

async fn schema() -> Json<Value> {
    Json(config::schema())
}
