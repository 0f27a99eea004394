//! `/v1/tunnels` and `/v1/mtu`.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use vswitch_api::config::tunnel_from_json;
use vswitch_api::types::{List, MtuReply, PeersReply, PeersRequest, TunnelPeer, TunnelStatus};

use super::object::Object;
use super::reply::{Answer, Asked, Input, Path, list};
use super::{App, Caller};
use crate::control::{Action, Author, Mutation, TunnelFilter, no_such_tunnel};

const TUNNEL: Object = Object {
    add: |body| Ok(Mutation::AddTunnel(tunnel_from_json(body)?)),
    set: Mutation::SetTunnel,
    remove: Mutation::RemoveTunnel,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/tunnels", TUNNEL.added().get(all))
        .route("/v1/tunnels/{name}", TUNNEL.changed().get(one))
        .route("/v1/tunnels/{name}/peers", get(peers).post(add_peers))
        .route("/v1/tunnels/{name}/peers/delete", post(delete_peers))
        .route("/v1/mtu", get(mtu))
}

async fn all(
    State(app): State<App>,
    Asked(filter): Asked<TunnelFilter>,
) -> Answer<List<TunnelStatus>> {
    Ok(list(app.control.ask(|reply| Action::Tunnels(filter, reply)).await?))
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Answer<TunnelStatus> {
    let filter = TunnelFilter { name: Some(name.clone()), ..TunnelFilter::default() };
    let found = app.control.ask(|reply| Action::Tunnels(filter, reply)).await?;
    Ok(Json(found.into_iter().next().ok_or_else(|| no_such_tunnel(&name))?))
}

async fn peers(State(app): State<App>, Path(name): Path<String>) -> Answer<List<TunnelPeer>> {
    Ok(list(app.control.ask(|reply| Action::TunnelPeers(name, reply)).await?))
}

async fn add_peers(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Input(request): Input<PeersRequest>,
) -> Answer<PeersReply> {
    note(caller, "add", &name, &request);
    Ok(Json(app.control.ask(|reply| Action::PeersAdd(name, request, reply)).await?))
}

async fn delete_peers(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Input(request): Input<PeersRequest>,
) -> Answer<PeersReply> {
    note(caller, "delete", &name, &request);
    Ok(Json(app.control.ask(|reply| Action::PeersRemove(name, request, reply)).await?))
}

/// Volatile state has no revisions, so who changes it is at least logged.
fn note(caller: Caller, what: &str, tunnel: &str, request: &PeersRequest) {
    let Author(by) = caller.into();
    tracing::info!(by, tunnel, remotes = request.remotes.len(), "tunnel peers {what}");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MtuFilter {
    tunnel: Option<String>,
}

async fn mtu(State(app): State<App>, Asked(filter): Asked<MtuFilter>) -> Answer<MtuReply> {
    Ok(Json(app.control.ask(|reply| Action::Mtu(filter.tunnel, reply)).await?))
}
