//! What a sandbox actor leaves in the ledger about how to find its QEMU again.

use std::path::PathBuf;

use dormouse_ledger::{Snapshot, SnapshotState};
use dormouse_metering::{BillingState, BootId, Shape, Stamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Environment;
use crate::metering::Beginning;
use crate::process::ProcessIdentity;
use crate::sandbox::command::{Command, Outcome, Request};
use crate::sandbox::facts::{QemuVersion, Survey};
use crate::sandbox::machine::{Core, Sandbox};
use crate::sandbox::refusal::Refusal;
use crate::sandbox::snapshot::Manifest;
use crate::sandbox::terms::Terms;

/// How a sandbox's QEMU is found again after the agent was restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) qmp_path: PathBuf,
    pid: i32,
    start_time_ticks: u64,
    boot: String,
    qemu_version: QemuVersion,
    #[serde(default, skip_serializing_if = "Terms::is_empty")]
    pub(crate) terms: Terms,
}

impl Attachment {
    pub(super) fn of(core: &Core, survey: &Survey, process: ProcessIdentity) -> Self {
        Self {
            qmp_path: core.qmp_path.clone(),
            terms: core.terms().clone(),
            pid: process.pid,
            start_time_ticks: process.start_time_ticks,
            boot: process.boot.to_string(),
            qemu_version: survey.version,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        // Strings and numbers only: it has a JSON form.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads what `to_json` wrote.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        serde_json::from_value(value.clone()).ok()
    }

    /// The process that the sandbox had.
    pub(crate) fn process(&self) -> Option<ProcessIdentity> {
        let boot = BootId::parse(&self.boot)?;
        Some(ProcessIdentity { boot, pid: self.pid, start_time_ticks: self.start_time_ticks })
    }
}

/// What the metering actor is told when a sandbox's life begins.
pub(super) fn beginning(
    environment: &Environment,
    core: &Core,
    command: Command,
    (survey, process): (&Survey, ProcessIdentity),
    (at, shape, state): (Stamp, Shape, BillingState),
) -> Beginning {
    let (plan, tags) = match &command.request {
        Request::Attach { plan, tags, .. } | Request::Create { plan, tags, .. } => {
            (plan.clone(), tags.clone())
        }
        _ => Default::default(),
    };
    let prepaid = environment.prepaid_plans.contains(&plan);
    let attachment = Attachment::of(core, survey, process).to_json();
    let plugged_by_device = survey.plugged_by_device(at);
    Beginning { command, plan, prepaid, tags, attachment, at, shape, state, plugged_by_device }
}

/// The row of a snapshot that is complete on disk.
pub(super) fn snapshot_complete(key: &dormouse_ledger::SandboxKey, manifest: &Manifest) -> Snapshot {
    snapshot(key, manifest, SnapshotState::Complete)
}

/// The row that changes with the outcome of a command: a snapshot whose guest has gone on is consumed.
pub(super) fn snapshot_after(
    key: &dormouse_ledger::SandboxKey,
    machine: &Sandbox,
    command: &Command,
    result: &Result<Outcome, Refusal>,
) -> Option<Snapshot> {
    let consumes =
        matches!(command.request, Request::Wake { .. } | Request::Destroy { .. }) && result.is_ok();
    let undone = matches!(command.request, Request::Hibernate { .. }) && result.is_err();
    let manifest = machine.core().snapshot.as_ref().filter(|_| consumes || undone)?;
    Some(snapshot(key, manifest, SnapshotState::Consumed))
}

fn snapshot(key: &dormouse_ledger::SandboxKey, manifest: &Manifest, state: SnapshotState) -> Snapshot {
    Snapshot {
        key: key.clone(),
        ordinal: manifest.ordinal,
        method: manifest.method.as_str().to_owned(),
        path: manifest.path().display().to_string(),
        // A manifest is written to disk as JSON: it has that form.
        manifest: serde_json::to_value(manifest).unwrap_or_default(),
        state,
        created_unix_ns: manifest.created_unix_ns,
    }
}
