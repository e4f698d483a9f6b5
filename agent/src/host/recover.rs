//! Takes up the sandboxes that the ledger knows, after a restart of the agent or of one actor.

use dormouse_ledger::{CommandRow, LedgerError, Reader, Recovery, SandboxRow, Snapshot, SnapshotState};
use dormouse_metering::{BillingState, Meter, Shape};

use crate::process::Process;
use crate::sandbox::actor::Attachment;
use crate::sandbox::command::{Command, Request, SandboxKey};
use crate::sandbox::machine::{Core, LastSign, Phase, Recovered, Settings};
use crate::sandbox::snapshot::Manifest;
use crate::sandbox::view::SandboxView;

/// A sandbox of the ledger, ready to be taken up.
pub(super) struct Found {
    pub(super) recovered: Recovered,
    pub(super) view: SandboxView,
    pub(super) process: Option<Process>,
}

/// Everything of the ledger that lives. What cannot be taken up is logged and left as it is.
pub(super) fn all(
    reader: &Reader,
    recovery: &Recovery,
    settings: &Settings,
) -> Result<Vec<Found>, LedgerError> {
    let mut found = Vec::new();
    for row in &recovery.sandboxes {
        let tags = reader.tags(&row.key.org, &row.key.sandbox)?.tags;
        let snapshots = reader.snapshots(&row.key)?;
        let suppressed = reader.suppressed_for(row)?;
        let Some(mut sandbox) = take_up(row, recovery, snapshots, settings) else {
            tracing::error!(sandbox = %row.key, "the ledger's attachment cannot be read");
            continue;
        };
        sandbox.view.tags = tags;
        sandbox.recovered.core.suppressed = suppressed;
        found.push(sandbox);
    }
    Ok(found)
}

/// One sandbox of the ledger, if it lives.
pub(super) fn one(
    reader: &Reader,
    key: &SandboxKey,
    settings: &Settings,
) -> Result<Option<Found>, LedgerError> {
    let mut recovery = reader.recovery()?;
    recovery.sandboxes.retain(|row| row.key.org == key.org && row.key.sandbox == key.sandbox);
    Ok(all(reader, &recovery, settings)?.pop())
}

fn take_up(
    row: &SandboxRow,
    recovery: &Recovery,
    snapshots: Vec<Snapshot>,
    settings: &Settings,
) -> Option<Found> {
    let attachment = Attachment::from_json(&row.attachment)?;
    let (shape, state) = holding(row)?;
    let key = SandboxKey { org: row.key.org.clone(), sandbox: row.key.sandbox.clone() };
    let mut core = Core::new(key.clone(), attachment.qmp_path.clone(), settings.clone());
    core.generation = row.key.generation;
    (core.shape, core.state) = (shape, state);
    let manifest = complete(snapshots);
    let unfinished = recovery
        .unfinished
        .iter()
        .filter(|command| command.org == key.org && command.sandbox == key.sandbox)
        .filter(|command| command.generation == Some(row.key.generation))
        .find_map(|command| as_command(command, &key));
    let hibernated = matches!(state, BillingState::Hibernated | BillingState::Waking);
    core.phase = if hibernated { Phase::Hibernated } else { Phase::Attached };
    let process = attachment.process().and_then(|identity| Process::find_by(identity).ok().flatten());
    // An unfinished wake has started it.
    let wakes = unfinished.as_ref().is_some_and(|command| command.request == Request::Wake);
    let process = process.filter(|_| !hibernated || wakes);
    core.process = if hibernated { process.as_ref().map(Process::identity) } else { attachment.process() };
    let saved = if hibernated {
        core.snapshot = manifest;
        None
    } else {
        manifest
    };
    let ran = row.lifecycle == BillingState::Running.name();
    let mut view = SandboxView::gone(key);
    (view.plan, view.generation) = (row.plan.clone(), row.key.generation);
    let last_sign = LastSign::of(recovery.proof, row.unheard, row.open.as_ref(), &row.pending);
    Some(Found { recovered: Recovered { core, unfinished, saved, ran, last_sign }, view, process })
}

/// What the sandbox held when the ledger last heard of it.
fn holding(row: &SandboxRow) -> Option<(Shape, BillingState)> {
    Meter::resume(row.open.clone(), row.pending.iter().cloned()).ok()?.holding()
}

fn complete(mut snapshots: Vec<Snapshot>) -> Option<Manifest> {
    snapshots.retain(|snapshot| snapshot.state == SnapshotState::Complete);
    serde_json::from_value(snapshots.pop()?.manifest).ok()
}

fn as_command(row: &CommandRow, key: &SandboxKey) -> Option<Command> {
    let request: Request = serde_json::from_value(row.payload.clone()).ok()?;
    Some(Command {
        key: key.clone(),
        request_id: row.request_id.clone(),
        deadline_ms: None,
        asked_by: row.asked_by.clone(),
        request,
    })
}
