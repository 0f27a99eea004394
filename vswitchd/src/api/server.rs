//! Connections: accepted, bounded in number and in time, and served.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::Caller;
use super::patience::Patient;

/// Connections at once. More wait in the listener's queue.
const CONNECTIONS: usize = 2048;
/// How long a request's head may take to arrive, also on a connection that was used before.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may leave what is sent to it unread.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait after an accept that failed: out of files, most likely, and others are closing.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves a Unix socket for ever.
pub async fn serve_unix(listener: UnixListener, router: Router) {
    serve(router, || async {
        let (stream, _) = listener.accept().await?;
        // Who it is does not decide what it may do: the socket's permissions have done that.
        let peer = stream.peer_cred();
        let caller = peer.map_or(Caller { uid: u32::MAX, pid: None }, |peer| Caller {
            uid: peer.uid(),
            pid: peer.pid(),
        });
        Ok((stream, caller))
    })
    .await;
}

/// Serves a TCP socket for ever.
pub async fn serve_tcp(listener: TcpListener, router: Router) {
    serve(router, || async {
        let (stream, _) = listener.accept().await?;
        Ok((stream, Caller { uid: u32::MAX, pid: None }))
    })
    .await;
}

async fn serve<S, F>(router: Router, accept: impl Fn() -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<(S, Caller)>>,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so there always is a permit some day.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match accept().await {
            Ok((stream, caller)) => {
                let router = router.clone().layer(Extension(caller));
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let stream = TokioIo::new(Patient::new(stream, READ_WITHIN));
    let served = http.serve_connection(stream, TowerToHyperService::new(router));
    // Garbage, broken connections and late heads: nothing an operator has to know of.
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection ended early");
    }
}
