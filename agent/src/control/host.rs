//! What the service needs of the host: the host actor in the agent, a stand-in in tests.

use std::future::Future;

use tokio::sync::broadcast;

use crate::host::{EndOrphan, Executed, HostHandle, Orphan, RejectedFiles};
use crate::sandbox::command::{Command, SandboxKey};
use crate::sandbox::refusal::Refusal;
use crate::sandbox::view::{SandboxView, WatchEvent};

/// The sandboxes of a host. See [`HostHandle`].
pub trait Host: Clone + Send + Sync + 'static {
    /// Carries out a command; answers when its outcome is durable, or when the caller's deadline passes.
    fn execute(&self, command: Command) -> impl Future<Output = Result<Executed, Refusal>> + Send;

    /// The sandboxes of an org, or of every org, by name.
    fn list(&self, org: Option<&str>) -> impl Future<Output = Result<Vec<SandboxView>, Refusal>> + Send;

    /// One sandbox. Of one that has ended the refusal says so.
    fn get(&self, key: &SandboxKey) -> impl Future<Output = Result<SandboxView, Refusal>> + Send;

    /// Every change from now on.
    fn watch(&self) -> broadcast::Receiver<WatchEvent>;

    /// The processes that the agent has started and that no sandbox claims.
    fn orphans(&self) -> impl Future<Output = Result<Vec<Orphan>, Refusal>> + Send;

    /// What lies in the watched folder and is not taken.
    fn rejected(&self) -> RejectedFiles;

    /// Ends one of the orphans; answers when it is gone.
    fn end_orphan(&self, order: EndOrphan) -> impl Future<Output = Result<Orphan, Refusal>> + Send;
}

impl Host for HostHandle {
    fn execute(&self, command: Command) -> impl Future<Output = Result<Executed, Refusal>> + Send {
        Self::execute(self, command)
    }

    async fn list(&self, org: Option<&str>) -> Result<Vec<SandboxView>, Refusal> {
        Ok(Self::list(self, org))
    }

    fn get(&self, key: &SandboxKey) -> impl Future<Output = Result<SandboxView, Refusal>> + Send {
        self.find(key)
    }

    fn watch(&self) -> broadcast::Receiver<WatchEvent> {
        Self::watch(self)
    }

    fn orphans(&self) -> impl Future<Output = Result<Vec<Orphan>, Refusal>> + Send {
        Self::orphans(self)
    }

    fn rejected(&self) -> RejectedFiles {
        Self::rejected(self)
    }

    fn end_orphan(&self, order: EndOrphan) -> impl Future<Output = Result<Orphan, Refusal>> + Send {
        Self::end_orphan(self, order)
    }
}
