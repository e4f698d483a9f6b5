//! The HTTP server of figures: one answer to `GET /metrics`, for a handful of askers at once.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::config::{FileMode, MetricsAddress};

/// How many are answered at once; the next one waits.
const ASKERS_MAX: usize = 16;

/// How long somebody may take to ask and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait where the system gives no connection.
const NO_CONNECTION: Duration = Duration::from_millis(100);

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why figures cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: {source}; correct `metrics.listen`, or leave it out")]
pub struct MetricsError {
    address: MetricsAddress,
    source: io::Error,
}

/// The listener of figures, open.
#[derive(Debug)]
pub enum MetricsListener {
    /// On a TCP address.
    Tcp(TcpListener),
    /// On a unix socket.
    Unix(UnixListener),
}

impl MetricsListener {
    /// Listens on an address. A socket that is left over is replaced, and has the mode `mode`.
    pub async fn open(address: &MetricsAddress, mode: FileMode) -> Result<Self, MetricsError> {
        let opened = match address {
            MetricsAddress::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            MetricsAddress::Unix(path) => listen_at(path, mode).map(Self::Unix),
        };
        opened.map_err(|source| MetricsError { address: address.clone(), source })
    }

    /// The TCP address that it listens on.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Answers for as long as it is polled, each time with what `render` gives.
    pub async fn serve(self, render: impl Fn() -> String + Send + Sync + 'static) {
        let render: Arc<Render> = Arc::new(render);
        let places = Arc::new(Semaphore::new(ASKERS_MAX));
        // The places are never closed.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let accepted = match &self {
                Self::Tcp(listener) => {
                    listener.accept().await.map(|(stream, _)| Box::new(stream) as Box<dyn Stream>)
                }
                Self::Unix(listener) => {
                    listener.accept().await.map(|(stream, _)| Box::new(stream) as Box<dyn Stream>)
                }
            };
            match accepted {
                Ok(stream) => {
                    let render = Arc::clone(&render);
                    tokio::spawn(async move {
                        // Whoever takes too long, or goes away, has no answer.
                        let _ = tokio::time::timeout(PATIENCE, answer(stream, render)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "somebody who asks for metrics could not be accepted");
                    tokio::time::sleep(NO_CONNECTION).await;
                }
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

type Render = dyn Fn() -> String + Send + Sync;

fn listen_at(path: &Path, mode: FileMode) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        // Whoever holds the ledger is the only agent here: what is left is a dead one's.
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode.0))?;
    Ok(listener)
}

async fn answer(stream: Box<dyn Stream>, render: Arc<Render>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let render = Arc::clone(&render);
        async move { Ok::<_, Infallible>(respond(&request, &*render)) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn respond(request: &Request<Incoming>, render: &Render) -> Response<String> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, render()),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET is all there is\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "/metrics is all there is\n".to_owned()),
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let kind = if status == StatusCode::OK { TEXT } else { "text/plain" };
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
