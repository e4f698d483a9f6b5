//! The agent, from its start to its end.
//!
//! ```text
//!   configuration -> log -> ledger -> socket -> host -> publisher -> control service, HTTP -> READY
//!   SIGTERM or SIGINT -> STOPPING -> no more commands -> answers to those under way -> host lets go
//!     -> publisher saves -> ledger closes
//! ```
//!
//! SIGHUP reads certificates again (`reload`). Guests outlive the agent: nothing here starts or ends a QEMU.

mod reload;

use std::fs;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dormouse_ledger::{HostName, Ledger, LedgerError, Writer};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::address::LedgerAddress;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Log, LogFormat};
use crate::control::{self, Entrance, EntranceError, Serving};
use crate::host::{self, HostHandle, StartError};
use crate::http::{self, OpenUntil, Site};
use crate::metrics::{Holding, Metrics, MetricsError, MetricsListener};
use crate::publish;
use crate::traces::{Collector, Traces};
use reload::Reload;

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
    /// Nobody could reach the agent.
    #[error(transparent)]
    Entrance(#[from] EntranceError),
    /// Metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The ledger cannot be opened.
    #[error("{0} [{reason}]", reason = .0.reason())]
    Ledger(#[from] LedgerError),
    /// The host cannot be started.
    #[error("the host cannot be started: {0}")]
    Host(#[from] StartError),
    /// HTTP cannot be listened for.
    #[error("{address} cannot be listened on: {source}; set http.listen to another address")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Traces cannot be sent to the collector.
    #[error("traces cannot be sent: {0}; correct telemetry.otlp_endpoint")]
    Traces(String),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signal(io::Error),
    /// The control service ended by itself.
    #[error("the control service ended: {0}")]
    Control(String),
}

/// Runs the agent until SIGTERM or SIGINT. Must be called within a tokio runtime.
pub async fn agent(config: Config) -> Result<(), RunError> {
    let host_name = config.host_name()?;
    let traces = traces(&config, &host_name)?;
    start_log(&config.log, traces.as_ref());
    let name = HostName { cell: config.cell.clone(), host: host_name };
    for folder in [Some(config.state_dir.as_path()), config.socket.parent()].into_iter().flatten() {
        fs::create_dir_all(folder).map_err(|source| RunError::Folder { path: folder.to_owned(), source })?;
    }
    // The ledger first: whoever holds it may put its socket in place, and takes it away before letting go.
    let ledger = Ledger::open(&config.ledger_path(), &name)?;
    // From here on it does not end the agent.
    let hangups = signal(SignalKind::hangup()).map_err(RunError::Signal)?;
    let entrance = Entrance::open(&config).await?;
    let (address, certificates) = (entrance.address(), entrance.certificates());
    let metrics = Arc::new(Metrics::default());
    let figures = match &config.metrics.listen {
        Some(address) => Some(MetricsListener::open(address, config.socket_mode).await?),
        None => None,
    };
    let _socket = SocketFile(&config.socket);
    let http = bind_http(&config).await?;
    let host = host::start(&config, &ledger).await?;
    let publisher = publish::start(&config, &ledger, &name, &host.clock)?;
    let serving = Serving {
        host: host.handle.clone(),
        config: Arc::new(config.clone()),
        clock: host.clock.clone(),
        ledger: ledger.writer(),
        metrics: Arc::clone(&metrics),
    };
    let reload = Reload { hangups, certificates, clock: host.clock.clone(), metrics: Arc::clone(&metrics) };
    let figures =
        figures.map(|listener| serve_metrics(listener, metrics, host.handle.clone(), ledger.writer()));
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        // A sender that is dropped means the end as well.
        let _ = stopped.await;
    };
    let mut service = tokio::spawn(control::serve(entrance, serving, shutdown));
    let http = http.map(|listener| serve_http(listener, &config, &host.clock));
    let watchdog = tokio::spawn(feed_watchdog(host.handle.clone()));
    let reload = tokio::spawn(reload.at_every_signal());
    tracing::info!(source = name.source(), socket = %config.socket.display(), ?address, "the agent serves");
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
    reload.abort();
    figures.inspect(JoinHandle::abort);
    // Questions change nothing, and a change of tags ends by itself.
    http.inspect(JoinHandle::abort);
    host.stop().await;
    publisher.stop().await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    ended
}

fn traces(config: &Config, host: &str) -> Result<Option<Traces>, RunError> {
    let Some(endpoint) = config.telemetry.otlp_endpoint.as_deref() else { return Ok(None) };
    let timeout = Duration::from_millis(config.telemetry.otlp_timeout_ms);
    let opened = Traces::to(&Collector { endpoint, timeout, cell: &config.cell, host });
    opened.map(Some).map_err(|error| RunError::Traces(error.to_string()))
}

async fn bind_http(config: &Config) -> Result<Option<TcpListener>, RunError> {
    let Some(address) = config.http.listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|source| RunError::Http { address, source })?;
    let listens_on = listener.local_addr().unwrap_or(address);
    tracing::info!(%listens_on, "HTTP is served");
    Ok(Some(listener))
}

/// The socket's file, which goes when the agent does.
struct SocketFile<'a>(&'a Path);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        // What is left behind by a failure is replaced at the next start.
        let _ = fs::remove_file(self.0);
    }
}

fn serve_http(listener: TcpListener, config: &Config, clock: &Clock) -> JoinHandle<()> {
    let ledger = LedgerAddress::Sqlite(config.ledger_path());
    let site = Site::new(ledger, config, clock.clone(), OpenUntil::Now);
    tokio::spawn(async move {
        if let Err(error) = http::serve(listener, site, std::future::pending()).await {
            tracing::error!(%error, reason = error.reason(), "HTTP is not served");
        }
    })
}

fn serve_metrics(
    listener: MetricsListener,
    metrics: Arc<Metrics>,
    host: HostHandle,
    ledger: Writer,
) -> JoinHandle<()> {
    let holding = move || Holding {
        sandboxes: host.list(None),
        ledger: ledger.health(),
        rejected: host.rejected().count(),
    };
    tokio::spawn(listener.serve(move || metrics.render(&holding())))
}

/// Starts the log, and beside it the traces: each hears what it wants, whatever the other wants.
pub(crate) fn start_log(log: &Log, traces: Option<&Traces>) {
    // The level was checked with the configuration. Of each actor ractor would keep a span for as long as the actor lives.
    let filter =
        EnvFilter::try_new(format!("ractor=warn,{}", log.level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let spans = tracing_subscriber::registry().with(traces.map(Traces::layer));
    if log.format == LogFormat::Text
        && is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), io::stderr())
        && let Ok(journal) = tracing_journald::layer()
    {
        // Fields and spans become fields of the entry: DORMOUSE_SANDBOX, DORMOUSE_REQUEST_ID.
        let journal = journal.with_field_prefix(Some("DORMOUSE".to_owned()));
        // Whoever embeds the agent may have a log of their own.
        let _ = spans.with(journal.with_filter(filter)).try_init();
        return;
    }
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Text => spans.with(lines.with_filter(filter)).try_init(),
        LogFormat::Json => spans.with(lines.json().with_filter(filter)).try_init(),
    };
    // Whoever embeds the agent may have a log of their own.
    let _ = started;
}

/// Whether what is written there goes to the journal: systemd says which device and inode that is.
fn is_journal(journal_stream: Option<&str>, stream: impl AsFd) -> bool {
    let Some((device, inode)) = journal_stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    let Ok(stat) = nix::sys::stat::fstat(stream) else { return false };
    device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let file = tempfile::tempfile().expect("a file");
        let metadata = file.metadata().expect("of the file");
        let (device, inode) = (metadata.dev(), metadata.ino());
        assert!(is_journal(Some(&format!("{device}:{inode}")), &file));
        for other in [None, Some(""), Some("1"), Some("a:b"), Some(&*format!("{device}:{}", inode + 1))] {
            assert!(!is_journal(other, &file), "{other:?}");
        }
    }
}
