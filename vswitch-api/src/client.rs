//! The client: HTTP over the daemon's Unix socket, for callers that block.
//!
//! The command line has no private calls: whatever it does, it does through this, and curl can.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{ApiError, Code, ErrorBody};

/// Where the daemon keeps its socket, unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/vswitch";
/// The socket's name there.
pub const SOCKET_NAME: &str = "api.sock";

/// Most bytes of a reply; an FDB of a million entries has about 150 MB.
const MAX_REPLY: usize = 1 << 30;
/// Most bytes of one line of a stream.
const MAX_LINE: usize = 1 << 20;

/// A connection to be made: each request opens its own, so a daemon that was restarted in between
/// is no error.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    runtime: Runtime,
}

/// A reply: its status (200, or 202 for what could not be realised) and what it says.
#[derive(Clone, Debug)]
pub struct Reply<T> {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: T,
}

impl Client {
    /// A client of the daemon whose run directory is this.
    ///
    /// # Errors
    /// If the system has no room for an event loop.
    pub fn new(run_dir: &Path) -> Result<Self, ApiError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            ApiError::new(Code::Local, format!("cannot start the client: {error}"))
        })?;
        let timeout = Duration::from_secs(60);
        Ok(Self { socket: run_dir.join(SOCKET_NAME), timeout, runtime })
    }

    /// The same with another time limit for each request; it is 60 s otherwise.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Gets JSON.
    ///
    /// # Errors
    /// What the daemon says, or that it does not answer.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.send::<(), T>("GET", path, None).map(|reply| reply.body)
    }

    /// Gets text.
    ///
    /// # Errors
    /// What the daemon says, or that it does not answer.
    pub fn get_text(&self, path: &str) -> Result<String, ApiError> {
        let (_, bytes) = self.exchange("GET", path, Bytes::new())?;
        String::from_utf8(bytes.into()).map_err(|_| self.bad_reply("it is not text"))
    }

    /// Sends a request with a JSON body, if any, and reads JSON.
    ///
    /// # Errors
    /// What the daemon says, or that it does not answer.
    pub fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&B>,
    ) -> Result<Reply<T>, ApiError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| {
            ApiError::new(Code::Local, format!("cannot write the request: {error}"))
        })?;
        let (status, bytes) = self.exchange(method, path, body.unwrap_or_default().into())?;
        let body = serde_json::from_slice(&bytes).map_err(|error| self.bad_reply(error))?;
        Ok(Reply { status, body })
    }

    /// Reads a stream of bytes until it ends, `each` breaks off or the process is interrupted (SIGINT,
    /// SIGTERM). There is no time limit once the stream has begun.
    ///
    /// # Errors
    /// What the daemon says, or that it does not answer.
    pub fn bytes(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), ApiError> {
        self.runtime.block_on(async {
            let mut ended = signal(SignalKind::terminate()).map_err(|error| {
                ApiError::new(Code::Local, format!("cannot wait for signals: {error}"))
            })?;
            let begun = self.begin("GET", path, Bytes::new());
            let response = self.in_time(begun).await?;
            let mut body = self.checked(response).await?.into_body();
            loop {
                let frame = tokio::select! {
                    frame = body.frame() => frame,
                    _ = tokio::signal::ctrl_c() => None,
                    _ = ended.recv() => None,
                };
                let Some(frame) = frame else { return Ok(()) };
                let frame = frame.map_err(|_| self.broken_off())?;
                if let Ok(data) = frame.into_data()
                    && each(&data).is_break()
                {
                    return Ok(());
                }
            }
        })
    }

    fn broken_off(&self) -> ApiError {
        let socket = self.socket.display();
        ApiError::new(Code::Unreachable, format!("vswitchd on {socket} broke off the stream"))
    }

    /// Reads a stream of JSON lines until it ends or `each` breaks off. There is no time limit once
    /// the stream has begun.
    ///
    /// # Errors
    /// What the daemon says, or that it does not answer.
    pub fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
        mut each: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), ApiError> {
        self.runtime.block_on(async {
            let begun = self.begin("GET", path, Bytes::new());
            let response = self.in_time(begun).await?;
            let mut body = self.checked(response).await?.into_body();
            let mut rest: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| self.broken_off())?;
                let Ok(data) = frame.into_data() else { continue };
                rest.extend_from_slice(&data);
                let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
                    if rest.len() > MAX_LINE {
                        return Err(self.bad_reply("a line does not end"));
                    }
                    continue;
                };
                let after = rest.split_off(end + 1);
                let lines = std::mem::replace(&mut rest, after);
                for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let item = serde_json::from_slice(line).map_err(|err| self.bad_reply(err))?;
                    if each(item).is_break() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    fn exchange(&self, method: &str, path: &str, body: Bytes) -> Result<(u16, Bytes), ApiError> {
        self.runtime.block_on(self.in_time(async {
            let response = self.begin(method, path, body).await?;
            let response = self.checked(response).await?;
            let status = response.status().as_u16();
            Ok((status, self.collect(response.into_body()).await?))
        }))
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| {
            let seconds = self.timeout.as_secs();
            let message = format!("{} did not answer within {seconds} s", self.socket.display());
            let hint = "look at the daemon: systemctl status vswitchd; journalctl -u vswitchd";
            Err(ApiError::new(Code::Timeout, message).with_hint(hint))
        })
    }

    async fn begin(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ApiError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.bad_reply(error))?;
        // It ends with the body, or when the runtime goes.
        tokio::spawn(connection);
        let bad = |error: &dyn std::fmt::Display| {
            ApiError::new(Code::Local, format!("cannot make a request of {path:?}: {error}"))
        };
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| bad(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| bad(&error))?;
        sender.send_request(request).await.map_err(|error| self.bad_reply(error))
    }

    /// The response, or the error that it carries.
    async fn checked(&self, response: Response<Incoming>) -> Result<Response<Incoming>, ApiError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.collect(response.into_body()).await?;
        Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => body.error,
            Err(_) => self.bad_reply(format!("status {status} without a reason")),
        })
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, ApiError> {
        let whole = Limited::new(body, MAX_REPLY).collect().await;
        whole.map(|body| body.to_bytes()).map_err(|error| self.bad_reply(error))
    }

    fn unreachable(&self, error: &std::io::Error) -> ApiError {
        let socket = self.socket.display();
        let message = format!("cannot reach vswitchd on {socket}: {error}");
        if error.kind() == ErrorKind::PermissionDenied {
            let hint = "only root and the group `vswitch` may: sudo usermod -aG vswitch $USER, \
                        then log in again";
            return ApiError::new(Code::NoPermission, message).with_hint(hint);
        }
        let hint = "start it: sudo systemctl start vswitchd; or name its run directory with \
                    --run-dir";
        ApiError::new(Code::Unreachable, message).with_hint(hint)
    }

    fn bad_reply(&self, error: impl std::fmt::Display) -> ApiError {
        let socket = self.socket.display();
        let message = format!("what answers on {socket} cannot be understood: {error}");
        let hint = "are vswitchd and vswitch-ctl of one version? vswitch-ctl version tells";
        ApiError::new(Code::BadReply, message).with_hint(hint)
    }
}

/// A path with its segments encoded: `path(&["v1", "ports", "web"])` is `/v1/ports/web`.
#[must_use]
pub fn path(segments: &[&str]) -> String {
    let mut out = String::new();
    for segment in segments {
        out.push('/');
        encode(&mut out, segment);
    }
    out
}

/// Appends the parameters that have a value: `query("/v1/fdb", &[("port", Some("web"))])`.
#[must_use]
pub fn query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut out = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            out.push(separator);
            encode(&mut out, name);
            out.push('=');
            encode(&mut out, value);
            separator = '&';
        }
    }
    out
}

/// Percent-encodes everything but what RFC 3986 section 2.3 calls unreserved.
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_encoded() {
        assert_eq!(path(&["v1", "ports", "a/b c"]), "/v1/ports/a%2Fb%20c");
        let parameters = [("mac", Some("52:54:00:00:00:01")), ("port", None), ("vlan", Some("1"))];
        assert_eq!(query("/v1/fdb", &parameters), "/v1/fdb?mac=52%3A54%3A00%3A00%3A00%3A01&vlan=1");
    }
}
