//! What SIGHUP, and so `systemctl reload`, has the agent do: read the certificates of its TCP listener again. Nothing else of
//! the configuration is read again: that takes a restart, which no guest notices.

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;

use super::notify;
use crate::clock::Clock;
use crate::control::Certificates;
use crate::metrics::Metrics;

/// The reason in the log for which certificates stay as they were.
const UNUSABLE: &str = "TLS_FILES_UNUSABLE";

/// What is read again, and when.
pub(super) struct Reload {
    pub(super) hangups: Signal,
    /// `None` without a TCP listener.
    pub(super) certificates: Option<Certificates>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
}

impl Reload {
    /// Reads again at every signal.
    pub(super) async fn at_every_signal(mut self) {
        while self.hangups.recv().await.is_some() {
            notify(NotifyState::Reloading);
            self.read_again().await;
            notify(NotifyState::Ready);
        }
    }

    async fn read_again(&self) {
        let Some(certificates) = self.certificates.clone() else {
            tracing::info!("there is no TCP listener, and so nothing to read again");
            return;
        };
        let now = self.clock.now();
        let path = certificates.path().display().to_string();
        // The files' disk may hang.
        let read = tokio::task::spawn_blocking(move || certificates.read_again(now)).await;
        let read =
            read.map_err(|lost| lost.to_string()).and_then(|read| read.map_err(|error| error.to_string()));
        self.metrics.certificates_read(read.is_ok());
        match read {
            Ok(valid_until) => tracing::info!(path, valid_until, "the certificates were read again"),
            Err(error) => tracing::error!(
                reason = UNUSABLE,
                error,
                "the certificates could not be read again, and those of before stay in force; \
                 correct the files of [control.tls] and reload"
            ),
        }
    }
}
