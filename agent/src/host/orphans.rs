//! Processes that the agent has started and that no sandbox claims: listed, and never ended without being told.
//!
//! They come about where the agent is killed between a start and its record and the sandbox cannot be found again, and
//! where a sandbox that was started here was detached. What was started is known by the marker in its environment.

use std::path::Path;
use std::time::Duration;

use dormouse_ledger::{CommandIntent, CommandOutcome, OutcomeStatus};
use serde_json::json;

use super::HostHandle;
use crate::metering;
use crate::process::{Process, Started, started_by};
use crate::sandbox::refusal::{Reason, Refusal};

/// How long a process may take to be gone after SIGKILL.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A process that the agent has started and that no sandbox claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its process id.
    pub pid: i32,
    /// When it was started, in clock ticks since the boot: with the pid, which process it is.
    pub start_time_ticks: u64,
    /// The org of the sandbox that it was started for.
    pub org: String,
    /// The sandbox that it was started for.
    pub sandbox: String,
    /// The command that it was started for.
    pub request_id: String,
}

/// An order to end an orphan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndOrphan {
    /// Its process id.
    pub pid: i32,
    /// When it was started, in clock ticks since the boot.
    pub start_time_ticks: u64,
    /// The idempotency key.
    pub request_id: String,
    /// Who asks.
    pub asked_by: String,
}

/// What the agent of that state folder has started and that lives. Where `/proc` cannot be read, nothing is known.
pub(super) fn started(agent: &Path) -> Vec<Started> {
    started_by(agent).unwrap_or_else(|error| {
        tracing::error!(%error, "what was started before cannot be looked for");
        Vec::new()
    })
}

impl HostHandle {
    /// The orphans, by sandbox.
    pub async fn orphans(&self) -> Result<Vec<Orphan>, Refusal> {
        let agent = self.environment.launching.agent.clone();
        let started = tokio::task::spawn_blocking(move || started_by(&agent))
            .await
            .map_err(|error| Refusal::new(Reason::Bug, error.to_string()))?
            .map_err(|error| Refusal::new(Reason::Bug, format!("/proc cannot be read: {error}")))?;
        // After: what was started meanwhile is claimed by then, or is about to be.
        let views = self.directory.views();
        let claimed = |started: &Started| {
            views.iter().any(|view| {
                let under_way = view.operation.as_ref().map(|operation| operation.request_id.as_str());
                let marker = &started.marker;
                let being_started = view.key.org == marker.org
                    && view.key.sandbox == marker.sandbox
                    && under_way == Some(&marker.request_id);
                being_started || view.pid == Some(started.identity.pid)
            })
        };
        let mut orphans: Vec<Orphan> =
            started.into_iter().filter(|started| !claimed(started)).map(Orphan::from).collect();
        orphans.sort_by(|a, b| (&a.org, &a.sandbox, a.pid).cmp(&(&b.org, &b.sandbox, b.pid)));
        Ok(orphans)
    }

    /// Ends an orphan by SIGKILL, and never another process that came to have its pid. Intent and outcome are in the
    /// ledger. Answers when it is gone.
    pub async fn end_orphan(&self, order: EndOrphan) -> Result<Orphan, Refusal> {
        let orphans = self.orphans().await?;
        let named =
            |orphan: &Orphan| (orphan.pid, orphan.start_time_ticks) == (order.pid, order.start_time_ticks);
        let Some(orphan) = orphans.into_iter().find(named) else {
            let message = format!(
                "no process {} that was started then is an orphan of this agent; `dormouse ls --orphans` lists them",
                order.pid
            );
            return Err(Refusal::new(Reason::OrphanNotFound, message).with("pid", order.pid));
        };
        self.record(|reply| {
            metering::Message::IntendApart(Box::new(self.intent(&orphan, &order)), None, reply)
        })
        .await?;
        let ended = end(&orphan).await;
        let outcome = self.outcome(&orphan, &order, &ended);
        self.record(|reply| metering::Message::ConcludeApart(Box::new(outcome), reply)).await?;
        ended.map(|()| orphan)
    }

    fn intent(&self, orphan: &Orphan, order: &EndOrphan) -> CommandIntent {
        CommandIntent {
            org: orphan.org.clone(),
            request_id: order.request_id.clone(),
            sandbox: orphan.sandbox.clone(),
            generation: None,
            kind: "destroy_orphan".to_owned(),
            payload: json!({"pid": orphan.pid, "start_time_ticks": orphan.start_time_ticks}),
            asked_by: order.asked_by.clone(),
            deadline_unix_ns: None,
            at: self.environment.clock.now(),
        }
    }

    fn outcome(&self, orphan: &Orphan, order: &EndOrphan, ended: &Result<(), Refusal>) -> CommandOutcome {
        let refusal = ended.as_ref().err();
        CommandOutcome {
            org: orphan.org.clone(),
            request_id: order.request_id.clone(),
            status: if refusal.is_none() { OutcomeStatus::Done } else { OutcomeStatus::Failed },
            reason: refusal.map(|refusal| refusal.reason.as_str().to_owned()),
            detail: json!({"refusal": refusal}),
            at: self.environment.clock.now(),
        }
    }
}

impl From<Started> for Orphan {
    fn from(started: Started) -> Self {
        let Started { identity, marker } = started;
        Self {
            pid: identity.pid,
            start_time_ticks: identity.start_time_ticks,
            org: marker.org,
            sandbox: marker.sandbox,
            request_id: marker.request_id,
        }
    }
}

async fn end(orphan: &Orphan) -> Result<(), Refusal> {
    let failed = |error: &dyn std::error::Error| Refusal::new(Reason::Bug, error.to_string());
    let process = match Process::open(orphan.pid) {
        Ok(process) if process.identity().start_time_ticks == orphan.start_time_ticks => process,
        // It has ended meanwhile.
        Ok(_) | Err(crate::process::ProcessError::Gone { .. }) => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    process.kill().map_err(|error| failed(&error))?;
    tokio::time::timeout(GONE_WITHIN, process.exited()).await.map_err(|_| {
        let message = format!("process {} was sent SIGKILL and is not gone yet", orphan.pid);
        Refusal::new(Reason::OutcomeUnknown, message)
    })
}
