//! Traces and captures: streams of what workers see, and frames that nobody sent.
//!
//! A stream ends with its reader or the daemon, and its watch with it. Nothing waits for a reader: what
//! does not fit between it and the workers is counted.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::body::Bytes;
use serde::Deserialize;
use switch_core::watch::{Filter, FilterError, SNAP_MAX, WatchSpec};
use tokio::sync::mpsc;
use vswitch_api::types::{Trace, TraceRequest};
use vswitch_api::{ApiError, Code, hex};

use super::App;
use super::reply::{Answer, Asked, Failure, Input, text};
use super::streams::{LINES, Lines, line};
use super::system::drop_reason;
use crate::control::Action;
use crate::store::timestamp;
use crate::watch::{Capture, Wanted, Watching, trace};

/// How often records are fetched from the workers.
const EVERY: Duration = Duration::from_millis(20);
/// Pieces of a stream that wait for its reader.
const AHEAD: usize = 8;
/// Traces a second, unless told otherwise.
const TRACES_PER_SEC: u32 = 100;
/// Bytes of each frame that a trace keeps: all headers, and what rewriting concerns.
const TRACE_SNAP: usize = 512;
/// Frames a second that are looked at for a trace.
const TRACE_LOOKS: u32 = 50_000;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/trace", get(live))
        .route("/v1/trace/frame", post(frame))
        .route("/v1/capture", get(capture))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Traced {
    filter: Option<String>,
    r#in: Option<String>,
    one_in: Option<u32>,
    rate: Option<u32>,
}

async fn live(State(app): State<App>, Asked(of): Asked<Traced>) -> Result<Response, Failure> {
    let spec = WatchSpec {
        filter: filter(of.filter.as_deref())?,
        snap: TRACE_SNAP,
        one_in: of.one_in.unwrap_or(1),
        records_per_sec: of.rate.unwrap_or(TRACES_PER_SEC),
        looks_per_sec: TRACE_LOOKS,
        ..WatchSpec::default()
    };
    let wanted = Wanted { in_port: of.r#in, port: None, spec };
    let mut told = 0;
    let traces = move |watching: &Watching| {
        let mut out = Vec::new();
        while let Some(record) = watching.watch.take() {
            let missed = watching.watch.missed();
            let time = timestamp(watching.time(record.at()));
            out.extend(line(&trace(&record, &watching.origins, time, missed - told)));
            told = missed;
            watching.watch.give_back(record);
        }
        out
    };
    stream(app, wanted, LINES, |watching| (watching, traces)).await
}

async fn frame(State(app): State<App>, Input(asked): Input<TraceRequest>) -> Answer<Trace> {
    let bytes = bytes_of(&asked.hex)?;
    let ask = |reply| Action::TraceFrame(asked.in_port, bytes, reply);
    Ok(Json(app.control.ask(ask).await?))
}

/// Bytes from hex digits; white space, and colons between bytes, count for nothing.
fn bytes_of(text: &str) -> Result<Vec<u8>, ApiError> {
    let digits = hex::digits(text);
    hex::bytes(&digits).ok_or_else(|| {
        let message = match digits.chars().find(|c| !c.is_ascii_hexdigit()) {
            Some(odd) => format!("the frame's bytes have {odd:?} in them, which is no hex digit"),
            None => format!("the frame has {} hex digits, half a byte too many", digits.len()),
        };
        ApiError::new(Code::InvalidRequest, message)
            .with_hint("two hex digits a byte, from the destination address on")
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Captured {
    port: Option<String>,
    filter: Option<String>,
    snap: Option<usize>,
    #[serde(default)]
    dropped: bool,
    reason: Option<String>,
}

async fn capture(State(app): State<App>, Asked(of): Asked<Captured>) -> Result<Response, Failure> {
    if let Some(snap) = of.snap.filter(|snap| !(64..=SNAP_MAX).contains(snap)) {
        let message = format!("snap is {snap}, and 64 to {SNAP_MAX} bytes of a frame can be kept");
        return Err(ApiError::new(Code::InvalidRequest, message).into());
    }
    let usual = WatchSpec::default();
    let spec = WatchSpec {
        filter: filter(of.filter.as_deref())?,
        snap: of.snap.unwrap_or(usual.snap),
        only_dropped: of.dropped || of.reason.is_some(),
        reason: of.reason.as_deref().map(drop_reason).transpose()?,
        ..usual
    };
    let wanted = Wanted { in_port: None, port: of.port, spec };
    let start = |watching: Watching| {
        let mut capture = Capture::new(watching.clone());
        (watching, move |_: &Watching| capture.take())
    };
    stream(app, wanted, "application/x-pcapng", start).await
}

fn filter(text: Option<&str>) -> Result<Filter, ApiError> {
    text.unwrap_or_default().parse().map_err(|error: FilterError| {
        ApiError::new(Code::InvalidRequest, error.to_string()).with_hint(FilterError::HINT)
    })
}

/// Watches until the reader goes, and sends it what `take` makes of what was seen.
async fn stream<T>(
    app: App,
    wanted: Wanted,
    media: &'static str,
    start: impl FnOnce(Watching) -> (Watching, T),
) -> Result<Response, Failure>
where
    T: FnMut(&Watching) -> Vec<u8> + Send + 'static,
{
    let watching = app.control.ask(|reply| Action::WatchAdd(Box::new(wanted), reply)).await?;
    let (watching, mut take) = start(watching);
    let (sender, body) = mpsc::channel::<Bytes>(AHEAD);
    tokio::spawn(async move {
        let mut pause = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                () = sender.closed() => break,
                _ = pause.tick() => {}
            }
            let bytes = take(&watching);
            if !bytes.is_empty() && sender.send(bytes.into()).await.is_err() {
                break;
            }
        }
        // The daemon may be stopping, and the watch with it.
        let _ = app.control.ask(|reply| Action::WatchRemove(watching.watch, reply)).await;
    });
    Ok(text(media, Body::new(Lines(body))))
}
