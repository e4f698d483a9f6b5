//! How commands and their outcomes are written to the ledger, and read back.

use dormouse_ledger::{
    AttachmentUpdate, CommandIntent, CommandOutcome, CommandRow, LedgerError, LifecycleEvent, OutcomeStatus,
    Record, SandboxKey,
};
use dormouse_metering::{BillingState, CommandId, Stamp};
use serde_json::{Value, json};

use crate::sandbox::command::{Command, CommandResult, Outcome};
use crate::sandbox::refusal::{Reason, Refusal};

/// A command as the ledger keeps its intent.
pub(crate) fn intent(command: &Command, generation: Option<i64>, at: Stamp) -> CommandIntent {
    let deadline_ns = |ms: u64| at.wall_ns.saturating_add_unsigned(ms.saturating_mul(1_000_000));
    CommandIntent {
        org: command.key.org.clone(),
        request_id: command.request_id.clone(),
        sandbox: command.key.sandbox.clone(),
        generation,
        kind: command.request.kind().to_owned(),
        payload: payload(command),
        asked_by: command.asked_by.clone(),
        deadline_unix_ns: command.deadline_ms.map(deadline_ns),
        at,
    }
}

/// A command's payload: what must be the same when the request id is the same.
pub fn payload(command: &Command) -> Value {
    // A request is a plain enum of strings and numbers: it has a JSON form.
    serde_json::to_value(&command.request).unwrap_or_default()
}

/// A command's outcome as the ledger keeps it.
pub(crate) fn outcome_of(command: &Command, at: Stamp, result: &Result<Outcome, Refusal>) -> CommandOutcome {
    let status = match result {
        Ok(Outcome { result: CommandResult::Partial { .. }, .. }) => OutcomeStatus::Partial,
        Ok(_) => OutcomeStatus::Done,
        Err(refusal) if refusal.reason == Reason::OutcomeUnknown => OutcomeStatus::Unknown,
        Err(_) => OutcomeStatus::Failed,
    };
    let detail = match result {
        Ok(outcome) => json!({"outcome": outcome}),
        Err(refusal) => json!({"refusal": refusal}),
    };
    CommandOutcome {
        org: command.key.org.clone(),
        request_id: command.request_id.clone(),
        status,
        reason: result.as_ref().err().map(|refusal| refusal.reason.as_str().to_owned()),
        detail,
        at,
    }
}

/// The outcome that is stored for a command: `None` while there is none, or where it cannot be read.
pub fn stored_outcome(row: &CommandRow) -> Option<Result<Outcome, Refusal>> {
    let detail = &row.outcome.as_ref()?.detail;
    let outcome = |name: &str| detail.get(name).cloned();
    match (outcome("outcome"), outcome("refusal")) {
        (Some(outcome), _) => serde_json::from_value(outcome).ok().map(Ok),
        (None, Some(refusal)) => serde_json::from_value(refusal).ok().map(Err),
        (None, None) => None,
    }
}

/// What a failure of the ledger means to whoever asked for a command.
pub(super) fn refusal(error: &LedgerError) -> Refusal {
    let reason = match error {
        LedgerError::RequestIdReused { .. } => Reason::RequestIdReused,
        LedgerError::InvalidTag { .. } => Reason::InvalidTag,
        LedgerError::Unwritable { .. } | LedgerError::QueueFull { .. } => Reason::LedgerUnwritable,
        LedgerError::Closed => Reason::AgentStopping,
        _ => Reason::Bug,
    };
    Refusal::new(reason, error.to_string()).with("ledger_reason", error.reason())
}

/// The sandbox is in this state from now on.
pub(super) fn lifecycle_is(key: &SandboxKey, state: BillingState) -> Record {
    Record::Attachment(AttachmentUpdate {
        key: key.clone(),
        attachment: None,
        lifecycle: Some(state.name().to_owned()),
        plan: None,
    })
}

/// What became of a command, for the sinks.
pub(super) fn after_event(
    key: &SandboxKey,
    command: &Command,
    at: Stamp,
    result: &Result<Outcome, Refusal>,
) -> LifecycleEvent {
    let detail = match result {
        Ok(outcome) => json!({"outcome": outcome}),
        Err(refusal) => json!({"refusal": refusal}),
    };
    LifecycleEvent {
        key: key.clone(),
        kind: command.request.kind().to_owned(),
        command: Some(CommandId::new(&command.request_id)),
        detail,
        at,
    }
}
