//! A connection whose other end is known, whichever listener it came through.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::access::Caller;

/// How long a caller who showed nothing is listened to: long enough to be told so.
const STRANGER: Duration = Duration::from_secs(5);

/// What the bytes go through.
pub(super) enum Io {
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection, and its place among those of its listener.
pub(super) struct Connection {
    io: Io,
    caller: Arc<Caller>,
    ends: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(io: Io, caller: Caller, place: OwnedSemaphorePermit) -> Self {
        let ends = caller.role.is_none().then(|| Box::pin(tokio::time::sleep(STRANGER)));
        Self { io, caller: Arc::new(caller), ends, _place: place }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Caller>;

    fn connect_info(&self) -> Arc<Caller> {
        Arc::clone(&self.caller)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_read(context, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_write(context, bytes),
            Io::Tls(io) => Pin::new(io).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_flush(context),
            Io::Tls(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_shutdown(context),
            Io::Tls(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::config::Role;

    async fn read_from(role: Option<Role>) -> io::Result<usize> {
        let (ours, mut theirs) = UnixStream::pair()?;
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("never closed");
        let mut connection =
            Connection::new(Io::Unix(ours), Caller { who: "x".to_owned(), role, org: None }, place);
        let speaks_late = async {
            tokio::time::sleep(STRANGER * 2).await;
            tokio::io::AsyncWriteExt::write_all(&mut theirs, b"late").await
        };
        let mut bytes = [0; 8];
        tokio::join!(connection.read(&mut bytes), speaks_late).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_showed_nothing_is_not_listened_to_for_long() {
        assert_eq!(read_from(None).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(read_from(Some(Role::None)).await.unwrap(), 4);
    }
}
