//! The listeners: the unix socket, and TCP where it is configured. What comes out of here has a caller.

use std::future::poll_fn;
use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::access::{self, Access, AccessError, Credentials};
use super::certificates::Certificates;
use super::connection::{Connection, Io};
use super::denials::Denials;
use super::socket::{SocketError, bind};
use super::tls::{self, Files, TlsError};
use crate::config::Config;
use crate::sandbox::refusal::Reason;

/// How long a caller may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long to wait where the system gives no connection: most often it is out of descriptors.
const NO_CONNECTION: Duration = Duration::from_millis(100);

/// What the ledger calls a handshake.
const HANDSHAKE_METHOD: &str = "tls-handshake";

/// Why the agent cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum EntranceError {
    /// The unix socket cannot be listened on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The grants cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TCP address cannot be listened on.
    #[error("cannot listen on {address}, which is control.tls.listen: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The listeners of an agent, open.
pub struct Entrance {
    unix: UnixListener,
    tls: Option<(TcpListener, Certificates)>,
    access: Arc<Access>,
    connections_max: usize,
}

impl Entrance {
    /// Opens the listeners that the configuration names. The folder of the socket must exist.
    pub async fn open(config: &Config) -> Result<Self, EntranceError> {
        let access = Arc::new(Access::new(&config.control)?);
        let group = config.socket_group.as_deref().map(access::gid_of).transpose()?;
        let tls = &config.control.tls;
        let tls = match (tls.listen, &tls.certificate, &tls.key, &tls.client_ca) {
            (Some(address), Some(certificate), Some(key), Some(client_ca)) => {
                let (certificate, key, client_ca) = (certificate.clone(), key.clone(), client_ca.clone());
                let certificates = Certificates::read(Files { certificate, key, client_ca })?;
                let listener = TcpListener::bind(address).await;
                Some((listener.map_err(|source| EntranceError::Listen { address, source })?, certificates))
            }
            _ => None,
        };
        let unix = bind(Path::new(&config.socket), config.socket_mode, group).await?;
        let connections_max = usize::try_from(config.control.connections_max).unwrap_or(usize::MAX);
        Ok(Self { unix, tls, access, connections_max })
    }

    /// Where TCP is listened on.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.tls.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The certificates of TCP, which can be read again at any time.
    pub fn certificates(&self) -> Option<Certificates> {
        self.tls.as_ref().map(|(_, certificates)| certificates.clone())
    }

    /// Lets callers in until nobody takes them any more.
    pub(super) fn connections(self, denials: &Denials) -> mpsc::Receiver<io::Result<Connection>> {
        let (enter, entered) = mpsc::channel(1);
        let places = || Arc::new(Semaphore::new(self.connections_max));
        tokio::spawn(accept_unix(self.unix, Arc::clone(&self.access), places(), enter.clone()));
        if let Some((listener, certificates)) = self.tls {
            let hall = Hall { certificates, access: self.access, denials: denials.clone(), enter };
            tokio::spawn(accept_tls(listener, hall, Arc::new(Semaphore::new(self.connections_max))));
        }
        entered
    }
}

type Enter = mpsc::Sender<io::Result<Connection>>;

async fn accept_unix(listener: UnixListener, access: Arc<Access>, places: Arc<Semaphore>, enter: Enter) {
    let accept = |context: &mut Context<'_>| listener.poll_accept(context).map_ok(|(stream, _)| stream);
    while let Some((stream, place)) = next(&places, &enter, accept).await {
        match process(&stream) {
            Ok(credentials) => {
                let caller = access.caller(&credentials);
                // Whoever took them may have stopped.
                let _ = enter.send(Ok(Connection::new(Io::Unix(stream), caller, place))).await;
            }
            Err(error) => tracing::warn!(%error, "a caller whom the kernel does not know is not let in"),
        }
    }
}

/// What a TCP connection goes through on its way in.
#[derive(Clone)]
struct Hall {
    certificates: Certificates,
    access: Arc<Access>,
    denials: Denials,
    enter: Enter,
}

async fn accept_tls(listener: TcpListener, hall: Hall, places: Arc<Semaphore>) {
    let accept = |context: &mut Context<'_>| listener.poll_accept(context).map_ok(|(stream, _)| stream);
    while let Some((stream, place)) = next(&places, &hall.enter, accept).await {
        // A slow handshake holds up nobody else.
        tokio::spawn(hall.clone().let_in(stream, place));
    }
}

impl Hall {
    async fn let_in(self, stream: TcpStream, place: OwnedSemaphorePermit) {
        // A peer that is gone already needs no answer.
        let Ok(address) = stream.peer_addr().map(|address| address.ip().to_canonical()) else { return };
        match self.shake_hands(stream, Credentials::Nothing { address }).await {
            // Whoever took them may have stopped.
            Ok((io, credentials)) => {
                let connection = Connection::new(io, self.access.caller(&credentials), place);
                let _ = self.enter.send(Ok(connection)).await;
            }
            Err(error) => {
                let refused = tls::is_of_certificate(&error);
                let reason = if refused { Reason::CertificateRefused } else { Reason::CallerUnknown };
                tracing::debug!(%address, %error, "no TLS");
                self.denials.tell(&format!("ip:{address}"), HANDSHAKE_METHOD, reason);
            }
        }
    }

    async fn shake_hands(&self, stream: TcpStream, nothing: Credentials) -> io::Result<(Io, Credentials)> {
        stream.set_nodelay(true)?;
        let shaken = tokio::time::timeout(HANDSHAKE, self.certificates.in_force().accept(stream)).await;
        let stream = shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let credentials = shown.map_or(Ok(nothing), tls::credentials)?;
        Ok((Io::Tls(Box::new(stream)), credentials))
    }
}

/// The next connection, once there is a place for it. `None` once nobody takes connections any more.
async fn next<T>(
    places: &Arc<Semaphore>,
    enter: &Enter,
    accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<T>>,
) -> Option<(T, OwnedSemaphorePermit)> {
    // The places are never closed.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        let accepted = tokio::select! {
            () = enter.closed() => return None,
            accepted = poll_fn(&accept) => accepted,
        };
        match accepted {
            Ok(stream) => return Some((stream, place)),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(NO_CONNECTION).await;
            }
        }
    }
}

/// The process at the other end, as it was when it connected.
fn process(stream: &UnixStream) -> io::Result<Credentials> {
    let peer = stream.peer_cred()?;
    let mut gids = further_groups(stream)?;
    gids.insert(0, peer.gid());
    Ok(Credentials::Process { uid: peer.uid(), gids })
}

/// The groups beside the first: what `SO_PEERGROUPS` says.
fn further_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut gids: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length_bytes =
            libc::socklen_t::try_from(size_of_val(gids.as_slice())).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the kernel writes at most `length_bytes` into `gids`, which has that many, and the length it
        // wrote into `length_bytes`; both outlive the call.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                gids.as_mut_ptr().cast(),
                &raw mut length_bytes,
            )
        };
        let groups = length_bytes as usize / size_of::<libc::gid_t>();
        match Errno::result(answer) {
            // It says how much room it needs.
            Err(Errno::ERANGE) if groups > gids.len() => gids.resize(groups, 0),
            Err(errno) => return Err(errno.into()),
            Ok(_) => {
                gids.truncate(groups);
                return Ok(gids);
            }
        }
    }
}
