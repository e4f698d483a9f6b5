//! How the rest of the agent speaks to the host actor.

use tokio::sync::broadcast;

use crate::sandbox::command::{Command, Outcome, SandboxKey};
use crate::sandbox::refusal::Refusal;
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

/// The host actor, for those who send it commands and questions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HostHandle {
    changes: broadcast::Sender<WatchEvent>,
}

impl HostHandle {
    /// Carries out a command; answers when its outcome is durable, or when the caller's deadline passes.
    pub async fn execute(&self, command: Command) -> Result<Executed, Refusal> {
        let _ = command;
        unimplemented!()
    }

    /// The sandboxes of an org, or of every org, by name.
    pub async fn list(&self, org: Option<&str>) -> Result<Vec<SandboxView>, Refusal> {
        let _ = org;
        unimplemented!()
    }

    /// One sandbox.
    pub async fn get(&self, key: &SandboxKey) -> Result<SandboxView, Refusal> {
        let _ = key;
        unimplemented!()
    }

    /// Every change from now on. A receiver that lags is told how many it missed.
    pub fn watch(&self) -> broadcast::Receiver<WatchEvent> {
        self.changes.subscribe()
    }
}
