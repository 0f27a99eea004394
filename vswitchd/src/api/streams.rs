//! Streams of lines, each a JSON object: events, and what happens in the FDB.
//!
//! A stream ends with its reader or the daemon. Between the two is a bounded queue: a reader that
//! is too slow loses the oldest. In the FDB's stream a line says how many; events are numbered.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use hyper::body::{Bytes, Frame};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use vswitch_api::types::{FdbEvent, FdbEventKind};

use super::App;
use super::reply::{Asked, Failure, text};
use crate::store::timestamp;

/// Media type of lines of JSON.
pub(super) const LINES: &str = "application/jsonl";
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
    let (sender, body) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        for event in kept {
            if !send(&sender, &event).await {
                return;
            }
        }
        loop {
            match next(&mut stream, &sender).await {
                Ok(event) => {
                    if !send(&sender, &event).await {
                        return;
                    }
                }
                // The gap in the numbers tells.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(text(LINES, Body::new(Lines(body))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    bridge: Option<String>,
    port: Option<String>,
}

async fn monitor(State(app): State<App>, Asked(of): Asked<Of>) -> Result<Response, Failure> {
    app.port_exists(of.port.as_deref()).await?;
    app.bridge_exists(of.bridge.as_deref()).await?;
    let mut stream = app.events.monitor();
    let (sender, body) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        loop {
            let event = match next(&mut stream, &sender).await {
                Ok(event) => event,
                Err(RecvError::Lagged(lost)) => lost_events(lost),
                Err(RecvError::Closed) => return,
            };
            let meets = of.bridge.as_ref().is_none_or(|bridge| event.bridge == *bridge)
                && of
                    .port
                    .as_ref()
                    .is_none_or(|port| event.port == *port || event.from.as_ref() == Some(port));
            if (meets || event.lost.is_some()) && !send(&sender, &event).await {
                return;
            }
        }
    });
    Ok(text(LINES, Body::new(Lines(body))))
}

fn lost_events(lost: u64) -> FdbEvent {
    FdbEvent {
        time: timestamp(SystemTime::now()),
        event: FdbEventKind::Lost,
        bridge: String::new(),
        vlan: 0,
        mac: String::new(),
        port: String::new(),
        remote: None,
        from: None,
        from_remote: None,
        lost: Some(lost),
    }
}

pub(super) fn line(item: &impl Serialize) -> Vec<u8> {
    // Our own types, with string keys: this cannot fail.
    let mut line = serde_json::to_vec(item).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Lines on their way to a reader.
pub(super) struct Lines(pub(super) mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// What happens next; the end of the stream also if the reader goes before. A reader of something
/// that never happens would otherwise never be missed.
async fn next<T: Clone>(
    stream: &mut broadcast::Receiver<T>,
    sender: &mpsc::Sender<Bytes>,
) -> Result<T, RecvError> {
    tokio::select! {
        () = sender.closed() => Err(RecvError::Closed),
        item = stream.recv() => item,
    }
}

/// Sends a line; false if the reader is gone.
async fn send(sender: &mpsc::Sender<Bytes>, item: &impl Serialize) -> bool {
    sender.send(line(item).into()).await.is_ok()
}
