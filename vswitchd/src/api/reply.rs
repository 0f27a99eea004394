//! What every resource shares: bodies and queries in, JSON and errors out.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{StatusCode, request::Parts};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vswitch_api::config::MAX_CONFIG_BYTES;
use vswitch_api::types::{List, MutationReply};
use vswitch_api::{ApiError, Code, ErrorBody};

/// Most bytes of a request's body. An FDB batch of 50,000 entries has about 5 MB.
pub const BODY_MOST: usize = 8 << 20;
/// The same where the body is a whole configuration: JSON has two bytes for quotes and line ends.
pub(super) const CONFIG_MOST: usize = MAX_CONFIG_BYTES + (MAX_CONFIG_BYTES >> 2);
/// Bytes of a body that is too large which are still read, so that its sender gets to see the
/// answer instead of a broken connection.
const DRAIN_MOST: usize = 64 << 20;
/// How long a body may take to arrive.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(10);

/// An error on its way out.
#[derive(Debug)]
pub(super) struct Failure(pub ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<vswitch_api::config::Problems> for Failure {
    fn from(problems: vswitch_api::config::Problems) -> Self {
        Self(problems.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

/// What a handler gives.
pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// A list, as one object.
pub(super) fn list<T: Serialize>(items: impl IntoIterator<Item = T>) -> Json<List<T>> {
    Json(items.into_iter().collect())
}

/// The reply to a change: 200, or 202 if it could not be realised.
pub(super) fn changed(reply: Result<MutationReply, ApiError>) -> Result<Response, Failure> {
    let reply = reply?;
    let status = if reply.realised { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(reply)).into_response())
}

/// Text of a media type.
pub(super) fn text(media: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A body of JSON, bounded in size and in time.
#[derive(Debug)]
pub(super) struct Input<T, const MOST: usize = BODY_MOST>(pub T);

impl<S, T, const MOST: usize> FromRequest<S> for Input<T, MOST>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let read = tokio::time::timeout(BODY_WITHIN, collect(request.into_body(), MOST));
        let bytes = read.await.map_err(|_| {
            let message = format!("the body did not arrive within {} s", BODY_WITHIN.as_secs());
            ApiError::new(Code::RequestTimeout, message)
        })??;
        let refused = |words: String| {
            ApiError::new(Code::InvalidRequest, format!("the body cannot be read: {words}"))
                .with_hint("GET /v1/openapi.json describes what each path takes")
        };
        let value = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
        // A list would do for a type whose fields may all be left out: serde counts them off.
        let Value::Object(_) = value else {
            return Err(refused("it is not an object".to_owned()).into());
        };
        let value = serde_json::from_value(value).map_err(|error| refused(error.to_string()))?;
        Ok(Self(value))
    }
}

/// The whole body. One that is too large is read to its end or to a second limit, and thrown away.
async fn collect(mut body: Body, most: usize) -> Result<Vec<u8>, ApiError> {
    let (mut bytes, mut read) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::new(Code::InvalidRequest, format!("the body broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        read += data.len();
        if read > DRAIN_MOST {
            break;
        }
        if read <= most {
            bytes.extend_from_slice(&data);
        } else {
            bytes = Vec::new();
        }
    }
    if read > most {
        let message = format!("the body has more than {most} bytes");
        return Err(ApiError::new(Code::TooLarge, message));
    }
    Ok(bytes)
}

/// The parameters of a query.
#[derive(Debug)]
pub(super) struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let query = Query::try_from_uri(&parts.uri).map_err(|error| {
            ApiError::new(Code::InvalidRequest, format!("the query cannot be read: {error}"))
        })?;
        Ok(Self(query.0))
    }
}

/// The variable segments of a path.
#[derive(Debug)]
pub(super) struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let segments = axum::extract::Path::from_request_parts(parts, state).await;
        let segments = segments.map_err(|error| {
            ApiError::new(Code::InvalidRequest, format!("the path cannot be read: {error}"))
        })?;
        Ok(Self(segments.0))
    }
}

/// One segment of a path that is a number.
pub(super) fn number<T: std::str::FromStr>(what: &str, segment: &str) -> Result<T, Failure> {
    segment.parse().map_err(|_| {
        let message = format!("{what} is a number, not {segment:?}");
        Failure(ApiError::new(Code::InvalidRequest, message))
    })
}
