//! How the rest of the agent speaks to the host.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dormouse_ledger::{CommandRow, Reader};
use ractor::ActorRef;
use tokio::sync::{broadcast, oneshot};
use tracing::{Instrument, Span};

use super::actor::Message;
use super::directory::{Directory, Entry};
use super::discovery::RejectedFiles;
use crate::metering::{self, Acknowledgement, stored_outcome};
use crate::sandbox::actor::{Answered, Environment};
use crate::sandbox::command::{Command, Outcome, Request, SandboxKey};
use crate::sandbox::machine::admission;
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::view::{SandboxView, WatchEvent};

/// A command that is done and durable.
#[derive(Clone, Debug)]
pub struct Executed {
    /// How it came out.
    pub outcome: Outcome,
    /// The sandbox after it.
    pub sandbox: SandboxView,
    /// True when an earlier request with the same id had stored this outcome.
    pub replayed: bool,
}

/// The host, for those who send it commands and questions. Cheap to clone.
#[derive(Clone)]
pub struct HostHandle {
    pub(super) directory: Directory,
    pub(super) actor: ActorRef<Message>,
    pub(super) changes: broadcast::Sender<WatchEvent>,
    pub(super) reader: Arc<Mutex<Reader>>,
    pub(super) environment: Arc<Environment>,
    pub(super) rejected: RejectedFiles,
}

impl HostHandle {
    /// Carries out a command; answers when its outcome is durable, or when the caller's deadline passes. The
    /// operation itself goes on to its end.
    pub async fn execute(&self, command: Command) -> Result<Executed, Refusal> {
        let wait = command.deadline_ms.map_or(Duration::MAX, Duration::from_millis);
        let (host, key) = (self.clone(), command.key.clone());
        // A task of its own: the ledger's disk may hang also for those who only read, and what is not known to the
        // caller must not depend on how far it had come by the deadline.
        let executed = tokio::spawn(async move { host.executed(command).await }.in_current_span());
        match tokio::time::timeout(wait, executed).await {
            Ok(Ok(executed)) => executed,
            Ok(Err(lost)) => Err(Refusal::new(Reason::Bug, format!("the command was lost: {lost}"))),
            Err(_) => {
                let operation =
                    self.directory.get(&key).and_then(|entry| entry.view.look().operation.clone());
                let step = operation.map_or_else(String::new, |operation| format!(" ({})", operation.step));
                let message = format!(
                    "the outcome is not known yet{step}; what was begun goes on; ask again with the same request id"
                );
                Err(Refusal::new(Reason::OutcomeUnknown, message))
            }
        }
    }

    async fn executed(&self, command: Command) -> Result<Executed, Refusal> {
        let looks_first = !is_known_by_its_intent(&command.request);
        if looks_first && let Some(executed) = self.executed_before(&command).await? {
            return Ok(executed);
        }
        let refusal = match self.done(command.clone()).await {
            Err(refusal) => refusal,
            done => return done,
        };
        // What stands in its way now may have come after it was done.
        if !looks_first && let Some(executed) = self.executed_before(&command).await? {
            return Ok(executed);
        }
        match (refusal.reason, &command.request) {
            (Reason::SandboxNotFound, Request::Destroy { .. }) => {
                self.destroyed_before(command, refusal).await
            }
            (Reason::SandboxNotFound, _) => Err(self.with_past(&command.key, refusal).await),
            _ => Err(refusal),
        }
    }

    /// Has the sandbox's actor carry it out.
    async fn done(&self, command: Command) -> Result<Executed, Refusal> {
        let key = command.key.clone();
        // The view is taken before: a sandbox that is destroyed leaves the directory.
        let before = self.directory.get(&key);
        let answer = self.send(command)?;
        let Answered { result, replayed } = match answer.await {
            Ok(answered) => answered,
            // The command came when the sandbox was about to leave the directory.
            Err(_) if before.as_ref().is_some_and(Entry::has_ended) => return Err(not_found(&key)),
            Err(_) => {
                let message = "the sandbox's actor was restarted; ask again with the same request id";
                return Err(Refusal::new(Reason::Interrupted, message));
            }
        };
        let outcome = result?;
        let entry = self.directory.get(&key).or(before);
        let Some(entry) = entry else { return Err(not_found(&key)) };
        let sandbox = entry.view.get();
        Ok(Executed { outcome, sandbox, replayed })
    }

    /// The sandboxes of an org, or of every org, by name.
    pub fn list(&self, org: Option<&str>) -> Vec<SandboxView> {
        let mut views = self.directory.views();
        views.retain(|view| org.is_none_or(|org| view.key.org == org) && view.lives());
        views
    }

    /// One sandbox.
    pub fn get(&self, key: &SandboxKey) -> Result<SandboxView, Refusal> {
        let entry = self.directory.get(key).ok_or_else(|| not_found(key))?;
        let view = entry.view.get();
        if view.lives() { Ok(view) } else { Err(not_found(key)) }
    }

    /// Every change from now on. A receiver that lags is told how many it missed.
    pub fn watch(&self) -> broadcast::Receiver<WatchEvent> {
        self.changes.subscribe()
    }

    /// What lies in the watched folder and is not taken.
    pub fn rejected(&self) -> RejectedFiles {
        self.rejected.clone()
    }

    fn send(&self, command: Command) -> Result<oneshot::Receiver<Answered>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let stopping = || Refusal::new(Reason::AgentStopping, "the agent is stopping");
        if let Request::Attach { .. } | Request::Create { .. } = command.request {
            self.actor
                .cast(Message::Attach(Box::new(command), reply, Span::current()))
                .map_err(|_| stopping())?;
            return Ok(answer);
        }
        let entry = self.directory.get(&command.key).ok_or_else(|| not_found(&command.key))?;
        let message = crate::sandbox::actor::Message::Execute(command.clone(), reply, Span::current());
        entry.actor.cast(message).map_err(|_| not_found(&command.key))?;
        Ok(answer)
    }

    /// What an earlier request with the same id has come to, and the sandbox as it is now.
    async fn executed_before(&self, command: &Command) -> Result<Option<Executed>, Refusal> {
        let Some(stored) = self.stored(command).await? else { return Ok(None) };
        let outcome = stored?;
        let sandbox = self.shown(&command.key)?;
        Ok(Some(Executed { outcome, sandbox, replayed: true }))
    }

    /// The outcome that an earlier request with the same id has stored.
    async fn stored(&self, command: &Command) -> Result<Option<Result<Outcome, Refusal>>, Refusal> {
        let reader = self.reader.clone();
        let (org, request_id) = (command.key.org.clone(), command.request_id.clone());
        let unreadable = |why: String| Refusal::new(Reason::LedgerUnwritable, why);
        let look_up = move || {
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.command(&org, &request_id)
        };
        let row = tokio::task::spawn_blocking(look_up)
            .await
            .map_err(|error| unreadable(error.to_string()))?
            .map_err(|error| unreadable(error.to_string()))?;
        match row {
            Some(row) if !is_same(&row, command) => Err(admission::reused(command)),
            Some(row) => Ok(stored_outcome(&row).filter(|stored| {
                // An outcome that is not known yet is waited for again.
                !matches!(stored, Err(refusal) if refusal.reason == Reason::OutcomeUnknown)
            })),
            None => Ok(None),
        }
    }

    /// Has the metering actor record something, and waits until it is durable.
    pub(super) async fn record(
        &self,
        message: impl FnOnce(metering::Reply) -> metering::Message,
    ) -> Result<Acknowledgement, Refusal> {
        let (tell, told) = oneshot::channel();
        let reply: metering::Reply = Box::new(move |acknowledgement| {
            // Whoever asked may have gone.
            let _ = tell.send(acknowledgement);
        });
        let stopping = || Refusal::new(Reason::AgentStopping, "the agent is stopping");
        self.environment.metering.cast(message(reply)).map_err(|_| stopping())?;
        match told.await.map_err(|_| stopping())? {
            Acknowledgement::Failed(refusal) => Err(refusal),
            acknowledgement => Ok(acknowledgement),
        }
    }

    /// The sandbox after a command that was done earlier: as it is now, or, where it is gone, as gone.
    fn shown(&self, key: &SandboxKey) -> Result<SandboxView, Refusal> {
        self.get(key).or_else(|_| Ok(SandboxView::gone(key.clone())))
    }
}

/// Whether nothing at all is done about a request before its intent is recorded, when the ledger says whether there was one
/// under its id before: so that nobody has to look for that first. An attach connects and a create makes an actor first, and
/// a destroy is there to overtake what is under way.
const fn is_known_by_its_intent(request: &Request) -> bool {
    !matches!(request, Request::Attach { .. } | Request::Create { .. } | Request::Destroy { .. })
}

fn is_same(row: &CommandRow, command: &Command) -> bool {
    row.sandbox == command.key.sandbox && row.payload == metering::payload(command)
}

/// What is answered of a sandbox that is not there.
pub(crate) fn not_found(key: &SandboxKey) -> Refusal {
    let message = format!("no sandbox {key} is attached; `dormouse ls` shows those that are");
    Refusal::new(Reason::SandboxNotFound, message).with("org", &key.org).with("sandbox", &key.sandbox)
}
