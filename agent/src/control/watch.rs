//! The stream of changes: the sandboxes as they are first, then every change. A watcher that is too slow is told
//! that it missed some, and gets the sandboxes as they are again.

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tonic::Status;

use super::convert;
use super::host::Host;
use super::status::status_of;
use crate::clock::Clock;
use crate::proto;
use crate::sandbox::command::SandboxKey;
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::view::{WatchEvent, WatchKind};
use crate::words::counted;

/// Which sandboxes are watched. What is `None` matches all.
pub(super) struct Watched {
    pub(super) org: Option<String>,
    pub(super) sandbox: Option<String>,
}

impl Watched {
    fn matches(&self, key: &SandboxKey) -> bool {
        self.org.as_ref().is_none_or(|org| *org == key.org)
            && self.sandbox.as_ref().is_none_or(|sandbox| *sandbox == key.sandbox)
    }
}

/// Where the events of one watcher go.
pub(super) type Watcher = mpsc::Sender<Result<proto::WatchEvent, Status>>;

/// One watch, from its subscription to its end.
pub(super) struct Watch<H> {
    pub(super) host: H,
    pub(super) clock: Clock,
    pub(super) watched: Watched,
    pub(super) changes: broadcast::Receiver<WatchEvent>,
    pub(super) watcher: Watcher,
    pub(super) stopped: watch::Receiver<bool>,
}

impl<H: Host> Watch<H> {
    /// Tells the watcher everything until it goes away or the agent stops.
    pub(super) async fn run(mut self) {
        let (mut stopped, watcher) = (self.stopped.clone(), self.watcher.clone());
        let end = tokio::select! {
            told = self.tell() => told.err(),
            _ = stopped.wait_for(|stopped| *stopped) => {
                Some(Refusal::new(Reason::AgentStopping, "the agent is going down: watch again once it is back"))
            }
            () = watcher.closed() => None,
        };
        if let Some(refusal) = end {
            // A watcher that is gone needs no reason, and one that does not read sees the end of the stream.
            let _ = watcher.try_send(Err(status_of(refusal)));
        }
    }

    async fn tell(&mut self) -> Result<(), Refusal> {
        self.tell_all().await?;
        loop {
            match self.changes.recv().await {
                Ok(event) if !self.watched.matches(&event.sandbox.key) => {}
                Ok(event) => self.send(convert::watch_event(event)).await,
                Err(RecvError::Lagged(missed)) => {
                    self.send(self.event(
                        WatchKind::Gap,
                        None,
                        format!("{} missed", counted(missed, "event")),
                    ))
                    .await;
                    self.tell_all().await?;
                }
                Err(RecvError::Closed) => {
                    return Err(Refusal::new(Reason::AgentStopping, "the agent is going down"));
                }
            }
        }
    }

    /// Sends the sandboxes as they are.
    async fn tell_all(&self) -> Result<(), Refusal> {
        for view in self.host.list(self.watched.org.as_deref()).await? {
            if self.watched.matches(&view.key) {
                let sandbox = convert::sandbox(view);
                self.send(self.event(WatchKind::Snapshot, Some(sandbox), String::new())).await;
            }
        }
        Ok(())
    }

    fn event(&self, kind: WatchKind, sandbox: Option<proto::Sandbox>, message: String) -> proto::WatchEvent {
        proto::WatchEvent {
            kind: kind.as_str().to_owned(),
            unix_ns: self.clock.now().wall_ns,
            sandbox,
            cause: String::new(),
            message,
        }
    }

    async fn send(&self, event: proto::WatchEvent) {
        // A watcher that is gone ends the watch in `run`.
        let _ = self.watcher.send(Ok(event)).await;
    }
}
