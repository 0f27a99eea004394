//! `/v1/fdb`, but for its monitor (see `streams.rs`).

use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use vswitch_api::types::{FdbBatch, FdbBatchReply, FdbFilter, FdbFlush, FdbSelector, List};
use vswitch_api::{ApiError, Code};

use super::reply::{Answer, Asked, Failure, Input, text};
use super::{App, Caller};
use crate::control::{Action, Author};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/fdb", get(all).post(add))
        .route("/v1/fdb/delete", post(delete))
        .route("/v1/fdb/flush", post(flush))
}

pub(super) async fn all(
    State(app): State<App>,
    Asked(filter): Asked<FdbFilter>,
) -> Result<Response, Failure> {
    let _turn = app.table.acquire().await;
    let table = app.control.ask(|reply| Action::Fdb(filter, reply)).await?;
    // A million entries are seconds of work: not for a thread that serves others, too.
    let body = tokio::task::spawn_blocking(move || {
        let items = table.into_entries();
        serde_json::to_vec(&List { items })
    });
    match body.await {
        Ok(Ok(body)) => Ok(text("application/json", body)),
        Ok(Err(error)) => Err(internal(&error)),
        Err(error) => Err(internal(&error)),
    }
}

fn internal(error: &dyn std::error::Error) -> Failure {
    ApiError::new(Code::Internal, format!("the FDB could not be put into words: {error}")).into()
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
