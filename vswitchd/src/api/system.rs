//! The switch as a whole: version, status, workers, drops, metrics, and this API's own description.

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use switch_core::DropReason;
use vswitch_api::openapi;
use vswitch_api::types::{
    CpuStatus, DropCount, DropRow, ExportStatus, List, MutationReply, StatusReply, VersionReply,
};
use vswitch_api::{ApiError, Code};

use super::App;
use super::reply::{Answer, Asked, Failure, list, text};
use crate::control::{
    Action, Author, Mutation, TunnelFilter, drop_row, no_such_bridge, no_such_port, no_such_tunnel,
};
use crate::metrics::{MEDIA_TYPE, render};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/exports", get(exports))
        .route("/v1/cpu", get(cpu))
        .route("/v1/drops", get(drops))
        .route("/v1/metrics", get(metrics))
        .route("/v1/openapi.json", get(document))
}

impl App {
    /// Makes a change of desired state. What is refused is logged with who asked for it; what is
    /// done is an event.
    pub(super) async fn mutate(
        &self,
        author: impl Into<Author>,
        mutation: Mutation,
    ) -> Result<MutationReply, ApiError> {
        let author = author.into();
        let by = author.0.clone();
        let result = self.control.ask(|reply| Action::Mutate { author, mutation, reply }).await;
        if let Err(error) = &result {
            tracing::info!(by, code = error.code.as_str(), "refused a change: {error}");
        }
        result
    }

    /// Refuses a port that does not exist.
    pub(super) async fn port_exists(&self, name: Option<&str>) -> Result<(), ApiError> {
        let Some(name) = name else { return Ok(()) };
        let ports = self.control.ask(Action::Ports).await?;
        let found = ports.iter().any(|port| port.name == name);
        if found { Ok(()) } else { Err(no_such_port(name)) }
    }

    /// Refuses a bridge that does not exist.
    pub(super) async fn bridge_exists(&self, name: Option<&str>) -> Result<(), ApiError> {
        let Some(name) = name else { return Ok(()) };
        let bridges = self.control.ask(Action::Bridges).await?;
        let found = bridges.iter().any(|bridge| bridge.name == name);
        if found { Ok(()) } else { Err(no_such_bridge(name)) }
    }

    /// What was dropped in a tunnel, on the port of its VTEP.
    async fn drops_of_tunnel(&self, name: &str) -> Result<Vec<DropRow>, ApiError> {
        let all = |reply| Action::Tunnels(TunnelFilter::default(), reply);
        let tunnels = self.control.ask(all).await?;
        let tunnel = tunnels.into_iter().find(|tunnel| tunnel.name == name);
        let tunnel = tunnel.ok_or_else(|| no_such_tunnel(name))?;
        let row = |dropped: &DropCount| {
            let reason = DropReason::from_name(&dropped.reason)?;
            let row = drop_row(&tunnel.vtep, reason, dropped.frames);
            let (bridge, tunnel) = (Some(tunnel.bridge.clone()), Some(tunnel.name.clone()));
            Some(DropRow { bridge, tunnel, ..row })
        };
        Ok(tunnel.drops.iter().filter_map(row).collect())
    }
}

async fn version() -> Json<VersionReply> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(VersionReply { version, api: "v1".to_owned() })
}

async fn status(State(app): State<App>) -> Answer<StatusReply> {
    Ok(Json(app.control.ask(Action::Status).await?))
}

async fn exports(State(app): State<App>) -> Answer<List<ExportStatus>> {
    Ok(list(app.control.ask(Action::Exports).await?))
}

async fn cpu(State(app): State<App>) -> Answer<List<CpuStatus>> {
    Ok(list(app.control.ask(Action::Cpus).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropFilter {
    port: Option<String>,
    bridge: Option<String>,
    tunnel: Option<String>,
    reason: Option<String>,
}

/// The drop reason of that name.
pub(super) fn drop_reason(name: &str) -> Result<DropReason, ApiError> {
    DropReason::from_name(name).ok_or_else(|| {
        let names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        ApiError::new(Code::InvalidRequest, format!("no drop reason is {name:?}"))
            .with_hint(format!("they are {}", names.join(", ")))
    })
}

async fn drops(State(app): State<App>, Asked(filter): Asked<DropFilter>) -> Answer<List<DropRow>> {
    app.port_exists(filter.port.as_deref()).await?;
    filter.reason.as_deref().map(drop_reason).transpose()?;
    app.bridge_exists(filter.bridge.as_deref()).await?;
    let rows = match &filter.tunnel {
        Some(tunnel) => app.drops_of_tunnel(tunnel).await?,
        None => app.control.ask(Action::Drops).await?,
    };
    let meets = |row: &DropRow| {
        filter.port.as_ref().is_none_or(|port| row.port == *port)
            && (filter.bridge.is_none() || row.bridge == filter.bridge)
            && filter.reason.as_ref().is_none_or(|reason| row.reason == *reason)
    };
    Ok(list(rows.into_iter().filter(meets)))
}

pub(super) async fn metrics(State(app): State<App>) -> Result<Response, Failure> {
    let _turn = app.scrape.acquire().await;
    let sample = app.control.ask(Action::Metrics).await?;
    Ok(text(MEDIA_TYPE, render(&sample)))
}

async fn document() -> Json<Value> {
    Json(openapi())
}
