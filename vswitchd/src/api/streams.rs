//! Streams of lines, each a JSON object: events, and what happens in the FDB.
//!
//! A stream ends with its reader or the daemon. Between the two is a bounded queue: a reader that
//! is too slow loses the oldest. In the FDB's stream a line says how many; events are numbered.

use std::convert::Infallible;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use vswitch_api::types::{FdbEvent, FdbEventKind};

use super::App;
use super::bridges::no_such_bridge;
use super::reply::{Asked, Failure, text};
use crate::control::Action;
use crate::store::timestamp;

/// Media type of lines of JSON.
const LINES: &str = "application/jsonl";
/// Lines that wait for a reader beside what its queue of events holds.
const AHEAD: usize = 64;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/events", get(events)).route("/v1/fdb/monitor", get(monitor))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Follow {
    #[serde(default)]
    follow: bool,
}

async fn events(
    State(app): State<App>,
    Asked(Follow { follow }): Asked<Follow>,
) -> Result<Response, Failure> {
    let (kept, mut stream) = app.events.follow();
    if !follow {
        let lines: Vec<u8> = kept.iter().flat_map(line).collect();
        return Ok(text(LINES, lines));
    }
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(AHEAD);
    tokio::spawn(async move {
        for event in kept {
            if !send(&mut sender, &event).await {
                return;
            }
        }
        loop {
            match stream.recv().await {
                Ok(event) => {
                    if !send(&mut sender, &event).await {
                        return;
                    }
                }
                // The gap in the numbers tells.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(text(LINES, Body::new(body)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    bridge: Option<String>,
    port: Option<String>,
}

async fn monitor(State(app): State<App>, Asked(of): Asked<Of>) -> Result<Response, Failure> {
    app.port_exists(of.port.as_deref()).await?;
    if let Some(bridge) = &of.bridge {
        let bridges = app.control.ask(Action::Bridges).await?;
        if !bridges.iter().any(|known| known.name == *bridge) {
            return Err(no_such_bridge(bridge).into());
        }
    }
    let mut stream = app.events.monitor();
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(AHEAD);
    tokio::spawn(async move {
        loop {
            let event = match stream.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(lost)) => lost_events(lost),
                Err(RecvError::Closed) => return,
            };
            let meets = of.bridge.as_ref().is_none_or(|bridge| event.bridge == *bridge)
                && of
                    .port
                    .as_ref()
                    .is_none_or(|port| event.port == *port || event.from.as_ref() == Some(port));
            if (meets || event.lost.is_some()) && !send(&mut sender, &event).await {
                return;
            }
        }
    });
    Ok(text(LINES, Body::new(body)))
}

fn lost_events(lost: u64) -> FdbEvent {
    FdbEvent {
        time: timestamp(SystemTime::now()),
        event: FdbEventKind::Lost,
        bridge: String::new(),
        vlan: 0,
        mac: String::new(),
        port: String::new(),
        from: None,
        lost: Some(lost),
    }
}

fn line(item: &impl Serialize) -> Vec<u8> {
    // Our own types, with string keys: this cannot fail.
    let mut line = serde_json::to_vec(item).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Sends a line; false if the reader is gone.
async fn send(sender: &mut Sender<Bytes, Infallible>, item: &impl Serialize) -> bool {
    sender.send_data(line(item).into()).await.is_ok()
}
