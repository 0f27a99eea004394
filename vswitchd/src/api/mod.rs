//! The API: HTTP/1.1 with JSON on a Unix socket, and metrics over TCP if they are wanted.
//!
//! Who may connect is decided by the socket's permissions alone: it is for root and the group
//! `vswitch`. Every request becomes a typed action for the control thread. Clients cannot hurt it:
//! connections, header time, body time and body size are bounded, and a slow reader of a stream
//! loses events instead of holding anybody up.

mod bridges;
mod config;
mod fdb;
mod mirrors;
mod object;
mod patience;
mod ports;
mod reply;
mod server;
mod socket;
mod streams;
mod system;
mod tunnels;
mod vlans;
mod vteps;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use tokio::sync::Semaphore;
use vswitch_api::{ApiError, Code};

use crate::control::{Author, Control};
use crate::events::Events;
use reply::Failure;

pub use reply::BODY_MOST;
pub use server::{serve_tcp, serve_unix};
pub use socket::{SocketError, bind};

/// What every handler may use.
#[derive(Clone, Debug)]
pub struct App {
    /// The way to the control thread.
    pub control: Control,
    /// What happened, and what happens.
    pub events: Events,
    /// Metrics are asked for one after the other: whoever may only read them must not fill the
    /// control thread's queue.
    scrape: Arc<Semaphore>,
    /// So are tables of the FDB: one of a million entries must not be in memory many times.
    table: Arc<Semaphore>,
}

impl App {
    /// What handlers use, with nobody at work yet.
    pub fn new(control: Control, events: Events) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { control, events, scrape: one(), table: one() }
    }
}

/// Who is at the other end of a connection, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Process id, if it is known.
    pub pid: Option<i32>,
}

impl From<Caller> for Author {
    fn from(caller: Caller) -> Self {
        let pid = caller.pid.map_or_else(String::new, |pid| format!(" pid {pid}"));
        Self(format!("uid {}{pid}", caller.uid))
    }
}

/// All routes of the API.
pub fn router(app: App) -> Router {
    Router::new()
        .merge(system::routes())
        .merge(bridges::routes())
        .merge(ports::routes())
        .merge(vlans::routes())
        .merge(vteps::routes())
        .merge(tunnels::routes())
        .merge(mirrors::routes())
        .merge(fdb::routes())
        .merge(config::routes())
        .merge(streams::routes())
        .merge(watch::routes())
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .with_state(app)
}

/// The one route that is served over TCP, to anyone who can reach it.
pub fn metrics_router(app: App) -> Router {
    Router::new()
        .route("/metrics", axum::routing::get(system::metrics))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .with_state(app)
}

async fn no_such_route(uri: Uri) -> Failure {
    let message = format!("there is no path {}", uri.path());
    ApiError::new(Code::NoSuchRoute, message).with_hint("GET /v1/openapi.json lists them").into()
}

async fn no_such_method(method: Method, uri: Uri) -> Failure {
    ApiError::new(Code::NoSuchMethod, format!("{} has no method {method}", uri.path()))
        .with_hint("GET /v1/openapi.json lists what each path has")
        .into()
}
