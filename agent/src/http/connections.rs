//! Connections: HTTP/1.1, with bounded heads and bounded patience.

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;

/// Whoever comes when so many are connected waits.
const CONNECTIONS_MAX: usize = 1024;
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// How long a client may take for the head of a request, and be silent between two.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// How long answers are waited for once serving ends.
const DRAIN: Duration = Duration::from_secs(10);

/// How long to wait when no connection can be accepted: file descriptors have run out, and some will come back.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn serve(listener: TcpListener, routes: Router, shutdown: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let (graceful, seats) = (GracefulShutdown::new(), std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let connected = async {
            let seat = std::sync::Arc::clone(&seats).acquire_owned().await;
            (seat, listener.accept().await)
        };
        let (seat, stream) = tokio::select! {
            () = &mut shutdown => break,
            (seat, accepted) = connected => match accepted {
                Ok((stream, _)) => (seat, stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
        };
        let service =
            routes.clone().map_request(|request: Request<Incoming>| request.map(axum::body::Body::new));
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _seat = seat;
            // A client that breaks off or speaks no HTTP is told by hyper, where it can be.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("answers over HTTP are not waited for any longer");
    }
}
