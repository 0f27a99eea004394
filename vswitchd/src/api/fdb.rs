//! `/v1/fdb`, but for its monitor (see `streams.rs`).

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use vswitch_api::types::{
    FdbBatch, FdbBatchReply, FdbEntry, FdbFilter, FdbFlush, FdbSelector, List,
};

use super::reply::{Answer, Asked, Input, list};
use super::{App, Caller};
use crate::control::{Action, Author};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/fdb", get(all).post(add))
        .route("/v1/fdb/delete", post(delete))
        .route("/v1/fdb/flush", post(flush))
}

async fn all(State(app): State<App>, Asked(filter): Asked<FdbFilter>) -> Answer<List<FdbEntry>> {
    Ok(list(app.control.ask(|reply| Action::Fdb(filter, reply)).await?))
}

async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(batch): Input<FdbBatch>,
) -> Answer<FdbBatchReply> {
    note(caller, "add", batch.entries.len());
    Ok(Json(app.control.ask(|reply| Action::FdbAdd(batch, reply)).await?))
}

async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(entries): Input<FdbSelector>,
) -> Answer<FdbBatchReply> {
    note(caller, "delete", entries.entries.len());
    Ok(Json(app.control.ask(|reply| Action::FdbRemove(entries, reply)).await?))
}

async fn flush(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(request): Input<FdbFlush>,
) -> Answer<FdbBatchReply> {
    note(caller, "flush", 0);
    Ok(Json(app.control.ask(|reply| Action::FdbFlush(request, reply)).await?))
}

/// Volatile state has no revisions, so who changes it is at least logged.
fn note(caller: Caller, what: &str, entries: usize) {
    let Author(by) = caller.into();
    tracing::info!(by, entries, "fdb {what}");
}
