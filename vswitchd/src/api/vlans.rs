//! `/v1/vlans`.

use axum::extract::State;
use axum::response::Response;
use axum::routing::{delete, get};
use axum::{Extension, Router};
use serde::Deserialize;
use vswitch_api::types::{List, VlanRequest, VlanRow};

use super::reply::{Answer, Asked, Failure, Input, Path, changed, list, number};
use super::{App, Caller};
use crate::control::{Action, Mutation};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/vlans", get(all).post(add))
        .route("/v1/vlans/{port}/{vlan}", delete(leave))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    bridge: Option<String>,
    port: Option<String>,
}

async fn all(State(app): State<App>, Asked(filter): Asked<Filter>) -> Answer<List<VlanRow>> {
    let rows = app.control.ask(Action::Vlans).await?;
    let meets = |row: &VlanRow| {
        filter.bridge.as_ref().is_none_or(|bridge| row.bridge == *bridge)
            && filter.port.as_ref().is_none_or(|port| row.port == *port)
    };
    Ok(list(rows.into_iter().filter(meets)))
}

async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Input(request): Input<VlanRequest>,
) -> Result<Response, Failure> {
    changed(app.mutate(caller, Mutation::AddVlan(request)).await)
}

async fn leave(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((port, vlan)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let vlan = number("a VLAN", &vlan)?;
    changed(app.mutate(caller, Mutation::RemoveVlan { port, vlan }).await)
}
