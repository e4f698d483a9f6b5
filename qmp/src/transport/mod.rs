//! The session on a tokio unix socket: [`Connection::connect`] and the task behind it.
//!
//! One task per connection moves bytes between the socket and the [`Session`], replies to their callers and events
//! to the [`EventStream`]. Every channel is bounded and no consumer can delay the task: a command too many is
//! refused, an event too many becomes a gap. What a caller drops costs nobody else anything.
//!
//! What the queues carry is boxed: each keeps room for some, and most connections are idle.
//!
//! It never reconnects and never stamps an event with its arrival: both are the consumer's to decide.

mod client;
mod driver;
mod events;
mod shared;

use std::io;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;
use tokio::time::{Duration, Instant, sleep, timeout_at};

use crate::config::Config;
use crate::error::QmpError;
use crate::session::CloseReason;
#[cfg(doc)]
use crate::session::Session;
use crate::version::Version;
use driver::Driver;

pub use client::Client;
pub use events::{EventStream, Incoming, Position};

/// A negotiated connection to one QEMU. Take it apart; dropping the client (with its clones) and the events
/// closes the socket.
#[derive(Debug)]
pub struct Connection {
    /// Sends commands.
    pub client: Client,
    /// Receives events, anomalies and the end.
    pub events: EventStream,
    /// The process at the other end.
    pub peer: Peer,
    /// Which QEMU it is.
    pub version: Version,
}

/// The process at the other end of the socket, as the kernel knows it (`SO_PEERCRED`): the one that listens, which
/// is QEMU itself unless it was handed a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The process id, as seen from our pid namespace.
    pub pid: i32,
    /// Its effective user id when it began to listen.
    pub uid: u32,
    /// Its effective group id when it began to listen.
    pub gid: u32,
}

impl Connection {
    /// Connects to QEMU's QMP socket and negotiates. Dropping the future closes the socket.
    pub async fn connect(path: impl AsRef<Path>, config: Config) -> Result<Self, QmpError> {
        let path = path.as_ref();
        let connect_error = |source| QmpError::Connect { path: path.to_owned(), source };
        let stream = open(path, config.connect_deadline).await?;
        let peer = Peer::of(&stream).map_err(connect_error)?;
        let (mut driver, client, events) = Driver::new(stream, &config);
        let version = driver.negotiate().await?;
        tokio::spawn(Box::new(driver).run());
        Ok(Self { client, events, peer, version })
    }
}

impl Peer {
    fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
        Ok(Self { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
    }
}

/// How long to wait before asking again for a place among those who wait to be accepted.
const BACKLOG_RETRY: Duration = Duration::from_millis(20);

/// QEMU accepts nobody while it has a client, and only two or so can wait behind it: a full backlog is busy, too.
async fn open(path: &Path, connect_deadline: Duration) -> Result<UnixStream, QmpError> {
    let deadline = Instant::now() + connect_deadline;
    loop {
        match timeout_at(deadline, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                sleep(BACKLOG_RETRY).await;
            }
            Ok(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(QmpError::Connect { path: path.to_owned(), source: error });
            }
            Ok(Err(_)) | Err(_) => {
                return Err(QmpError::Closed { close: CloseReason::Busy, in_flight: false });
            }
        }
    }
}
