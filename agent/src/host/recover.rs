//! Takes up the sandboxes that the ledger knows, after a restart of the agent or of one actor.

use std::sync::Arc;

use dormouse_ledger::{
    CommandOutcome, CommandRow, LedgerError, Reader, Recovery, SandboxRow, Snapshot, SnapshotState,
};
use dormouse_metering::{BillingState, Meter, Shape, Stamp};

use crate::metering;
use crate::process::{Marker, Process, Started};
use crate::sandbox::actor::Attachment;
use crate::sandbox::command::{Command, CommandResult, Outcome, Request, SandboxKey};
use crate::sandbox::launching::Launching;
use crate::sandbox::machine::{Core, LastSign, Phase, Recovered, Settings};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::snapshot::Manifest;
use crate::sandbox::view::SandboxView;

/// A sandbox of the ledger, ready to be taken up.
pub(super) struct Found {
    pub(super) recovered: Recovered,
    pub(super) view: SandboxView,
    pub(super) process: Option<Process>,
}

/// What a sandbox is taken up with, beside the ledger.
pub(super) struct Means<'a> {
    pub(super) settings: &'a Arc<Settings>,
    pub(super) launching: &'a Launching,
    /// The processes that this agent has started, now or before, and that live.
    pub(super) started: Vec<Started>,
}

impl Means<'_> {
    /// The process that a command has started.
    fn started_by(&self, command: &Command) -> Option<Process> {
        let by = |started: &&Started| {
            let Marker { org, sandbox, request_id, .. } = &started.marker;
            (org, sandbox, request_id) == (&command.key.org, &command.key.sandbox, &command.request_id)
        };
        let started = self.started.iter().find(by)?;
        Process::find_by(started.identity).ok().flatten()
    }
}

/// Everything of the ledger that lives, and what was to be created. What cannot be taken up is logged and left as it is.
pub(super) fn all(
    reader: &Reader,
    recovery: &Recovery,
    means: &Means<'_>,
) -> Result<Vec<Found>, LedgerError> {
    let mut found = Vec::new();
    for row in &recovery.sandboxes {
        let tags = reader.tags(&row.key.org, &row.key.sandbox)?.tags;
        let snapshots = reader.snapshots(&row.key)?;
        let suppressed = reader.suppressed_for(row)?;
        let Some(mut sandbox) = take_up(row, recovery, snapshots, means) else {
            tracing::error!(sandbox = %row.key, "the ledger's attachment cannot be read");
            continue;
        };
        sandbox.view.tags = tags;
        sandbox.recovered.core.suppressed = suppressed;
        found.push(sandbox);
    }
    let known: Vec<SandboxKey> = found.iter().map(|found| found.view.key.clone()).collect();
    let to_create = recovery.unfinished.iter().filter_map(|row| to_create(row, &known, means));
    found.extend(to_create);
    Ok(found)
}

/// One sandbox of the ledger, if it lives or was to be created.
pub(super) fn one(
    reader: &Reader,
    key: &SandboxKey,
    means: &Means<'_>,
) -> Result<Option<Found>, LedgerError> {
    let mut recovery = reader.recovery()?;
    recovery.sandboxes.retain(|row| row.key.org == key.org && row.key.sandbox == key.sandbox);
    recovery.unfinished.retain(|row| row.org == key.org && row.sandbox == key.sandbox);
    Ok(all(reader, &recovery, means)?.pop())
}

fn take_up(
    row: &SandboxRow,
    recovery: &Recovery,
    snapshots: Vec<Snapshot>,
    means: &Means<'_>,
) -> Option<Found> {
    let attachment = Attachment::from_json(&row.attachment)?;
    let (shape, state) = holding(row)?;
    let key = SandboxKey { org: row.key.org.clone(), sandbox: row.key.sandbox.clone() };
    let mut core = Core::new(key.clone(), attachment.qmp_path.clone(), Arc::clone(means.settings));
    core.generation = row.key.generation;
    core.go_by(attachment.terms.clone());
    (core.shape, core.state) = (shape, state);
    let manifest = complete(snapshots);
    let unfinished: Vec<Command> = recovery
        .unfinished
        .iter()
        .filter(|command| command.org == key.org && command.sandbox == key.sandbox)
        // A create was asked for before there was a generation.
        .filter(|command| command.generation.is_none_or(|generation| generation == row.key.generation))
        .filter_map(|command| as_command(command, &key))
        .collect();
    let hibernated = matches!(state, BillingState::Hibernated | BillingState::Waking);
    core.phase = if hibernated { Phase::Hibernated } else { Phase::Attached };
    let started = unfinished.iter().find_map(|command| means.started_by(command));
    core.started = started.is_some();
    let process = if let Some(started) = started {
        // The ledger may know the one before it, or none.
        core.process = Some(started.identity());
        Some(started)
    } else {
        let process = attachment.process().and_then(|identity| Process::find_by(identity).ok().flatten());
        // An unfinished wake has started it, or one that a destroy has overtaken.
        let may_wake =
            |command: &Command| matches!(command.request, Request::Wake { .. } | Request::Destroy { .. });
        let process = process.filter(|_| !hibernated || unfinished.iter().any(may_wake));
        core.process =
            if hibernated { process.as_ref().map(Process::identity) } else { attachment.process() };
        process
    };
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
    let plugged_by_device = row.plugged_by_device.clone();
    let recovered = Recovered { core, unfinished, saved, ran, last_sign, plugged_by_device };
    Some(Found { recovered, view, process })
}

/// What came of the commands that the agent before was told and did not live to answer, of lives that ended before it did. To
/// end one was done then; of anything else it is too late.
pub(super) fn too_late(recovery: &Recovery, at: Stamp) -> Vec<CommandOutcome> {
    let outcome = |row: &CommandRow| {
        let generation = row.generation?;
        let of_it = |living: &SandboxRow| {
            (&living.key.org, &living.key.sandbox, living.key.generation)
                == (&row.org, &row.sandbox, generation)
        };
        if recovery.sandboxes.iter().any(of_it) {
            return None;
        }
        let key = SandboxKey { org: row.org.clone(), sandbox: row.sandbox.clone() };
        let command = as_command(row, &key)?;
        let result = match command.request {
            Request::Destroy { .. } | Request::Detach => Ok(Outcome {
                result: CommandResult::Done,
                message: format!("{key} had ended when the agent was started again"),
            }),
            _ => Err(Refusal::new(
                Reason::QemuDied,
                format!("the QEMU of {key} had ended when the agent was started again"),
            )),
        };
        Some(metering::outcome_of(&command, at, &result))
    };
    recovery.unfinished.iter().filter_map(outcome).collect()
}

/// A sandbox that was being created when the agent was killed, and of which the ledger has the intent alone.
fn to_create(row: &CommandRow, known: &[SandboxKey], means: &Means<'_>) -> Option<Found> {
    let key = SandboxKey { org: row.org.clone(), sandbox: row.sandbox.clone() };
    if known.contains(&key) {
        return None;
    }
    let command = as_command(row, &key)?;
    let Request::Create { plan, tags, .. } = &command.request else { return None };
    let mut view = SandboxView::gone(key.clone());
    (view.plan, view.tags) = (plan.clone(), tags.clone());
    let mut core = Core::new(key.clone(), means.launching.qmp_path(&key).ok()?, Arc::clone(means.settings));
    let process = means.started_by(&command);
    core.process = process.as_ref().map(Process::identity);
    let (saved, last_sign, plugged_by_device) = (None, None, None);
    let unfinished = vec![command];
    let recovered = Recovered { core, unfinished, saved, ran: false, last_sign, plugged_by_device };
    Some(Found { recovered, view, process })
}

/// What the sandbox held when the ledger last heard of it.
fn holding(row: &SandboxRow) -> Option<(Shape, BillingState)> {
    Meter::resume(row.open.clone(), row.pending.iter().cloned()).ok()?.holding()
}

fn complete(mut snapshots: Vec<Snapshot>) -> Option<Box<Manifest>> {
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
