//! The agent, from its start to its end.
//!
//! ```text
//!   configuration -> log -> ledger -> socket -> host -> control service -> READY
//!   SIGTERM or SIGINT -> STOPPING -> no more commands -> answers to those under way -> host lets go -> ledger closes
//! ```
//!
//! Guests outlive the agent: nothing here starts or ends a QEMU.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dormouse_ledger::{HostName, Ledger, LedgerError};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, Log, LogFormat};
use crate::control::{self, Serving, SocketError};
use crate::host::{self, HostHandle, StartError};

/// How long the answers to commands under way are waited for when the agent ends. A command that takes longer goes
/// on in QEMU, and its outcome is found out at the next start.
const DRAIN_MS: u64 = 10_000;

/// Why the agent did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host has no usable name.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A folder cannot be made.
    #[error("the folder {path} cannot be made: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The control socket cannot be listened on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The ledger cannot be opened.
    #[error("{0} [{reason}]", reason = .0.reason())]
    Ledger(#[from] LedgerError),
    /// The host cannot be started.
    #[error("the host cannot be started: {0}")]
    Host(#[from] StartError),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signal(io::Error),
    /// The control service ended by itself.
    #[error("the control service ended: {0}")]
    Control(String),
}

/// Runs the agent until SIGTERM or SIGINT. Must be called within a tokio runtime.
pub async fn agent(config: Config) -> Result<(), RunError> {
    start_log(&config.log);
    let name = HostName { cell: config.cell.clone(), host: config.host_name()? };
    for folder in [Some(config.state_dir.as_path()), config.socket.parent()].into_iter().flatten() {
        fs::create_dir_all(folder).map_err(|source| RunError::Folder { path: folder.to_owned(), source })?;
    }
    // The ledger first: whoever holds it may put its socket in place, and takes it away before letting go.
    let ledger = Ledger::open(&config.ledger_path(), &name)?;
    let listener = control::bind(&config.socket, config.socket_mode).await?;
    let _socket = SocketFile(&config.socket);
    let host = host::start(&config, &ledger).await?;
    let serving =
        Serving { host: host.handle.clone(), config: Arc::new(config.clone()), clock: host.clock.clone() };
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        // A sender that is dropped means the end as well.
        let _ = stopped.await;
    };
    let mut service = tokio::spawn(control::serve(listener, serving, shutdown));
    let watchdog = tokio::spawn(feed_watchdog(host.handle.clone()));
    tracing::info!(source = name.source(), socket = %config.socket.display(), "the agent serves");
    notify(NotifyState::Ready);
    let ended = tokio::select! {
        signal = stop_signal() => signal.map_err(RunError::Signal),
        ended = &mut service => Err(RunError::Control(format!("{ended:?}"))),
    };
    notify(NotifyState::Stopping);
    tracing::info!("the agent stops; guests run on");
    drop(stop);
    if ended.is_ok() && tokio::time::timeout(Duration::from_millis(DRAIN_MS), &mut service).await.is_err() {
        tracing::warn!(
            "commands under way are not waited for any longer; their outcomes are found out at the next start"
        );
        service.abort();
    }
    watchdog.abort();
    host.stop().await;
    ended
}

/// The socket's file, which goes when the agent does.
struct SocketFile<'a>(&'a Path);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        // What is left behind by a failure is replaced at the next start.
        let _ = fs::remove_file(self.0);
    }
}

pub(crate) fn start_log(log: &Log) {
    // The filter was checked with the configuration.
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Whoever embeds the agent may have a log of their own.
    let _ = started;
}

async fn stop_signal() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Tells systemd that the agent lives, as long as the runtime keeps time and the sandboxes can be listed.
async fn feed_watchdog(host: HostHandle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut beats = tokio::time::interval(limit / 2);
    loop {
        beats.tick().await;
        let sandboxes = host.list(None).len();
        tracing::trace!(sandboxes, "the agent lives");
        notify(NotifyState::Watchdog);
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
