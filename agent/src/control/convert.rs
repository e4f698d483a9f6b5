//! The agent's own words as those of the wire.

use dormouse_ledger::{AuditReport, AuditViolation, SliceRow, TagsNow, Usage, UsageItem};
use dormouse_metering::BillingState;

use crate::host::{Executed, Orphan, RejectedFile};
use crate::proto;
use crate::sandbox::command::{CommandResult, SandboxKey};
use crate::sandbox::facts::Disk;
use crate::sandbox::view::{OperationView, SandboxView, WatchEvent};

/// How a sandbox's state is called once its life has ended.
const ENDED: &str = "ended";

/// A command's reply.
pub(super) fn reply(request_id: String, executed: Executed, duration_ns: u64) -> proto::CommandReply {
    let result = match executed.outcome.result {
        CommandResult::Done => proto::command_reply::Result::Done,
        CommandResult::Partial { .. } => proto::command_reply::Result::Partial,
        CommandResult::Unchanged => proto::command_reply::Result::Unchanged,
    };
    proto::CommandReply {
        request_id,
        result: result.into(),
        message: executed.outcome.message,
        sandbox: Some(sandbox(executed.sandbox)),
        replayed: executed.replayed,
        duration_ns,
    }
}

/// A sandbox as it is shown.
pub(super) fn sandbox(view: SandboxView) -> proto::Sandbox {
    let shape = proto::Shape {
        vcpus_milli: view.shape.vcpus_milli,
        memory_base_bytes: view.shape.memory_base_bytes,
        memory_plugged_bytes: view.shape.memory_plugged_bytes,
        memory_requested_bytes: view.shape.memory_requested_bytes,
        disk_bytes: view.shape.disk_bytes,
    };
    let fault = view.state.and_then(BillingState::fault);
    proto::Sandbox {
        key: Some(key(view.key)),
        generation: view.generation,
        plan: view.plan,
        state: view.state.map_or(ENDED, |state| state.name()).to_owned(),
        state_reason: fault.map(|fault| fault.as_str().to_owned()).unwrap_or_default(),
        connection: view.connection.as_str().to_owned(),
        shape: Some(shape),
        memory_max_bytes: view.memory_max_bytes,
        memory_block_bytes: view.memory_block_bytes,
        qmp_path: view.qmp_path,
        pid: view.pid.unwrap_or_default(),
        qemu_version: view.qemu_version,
        tags: view.tags.into_iter().collect(),
        operation: view.operation.map(operation),
        suppressed_reason: view.suppressed.unwrap_or_default(),
        hibernation_method: view.hibernation_method.unwrap_or_default().to_owned(),
        disks: view.disks.into_iter().map(disk).collect(),
    }
}

/// A slice.
pub(super) fn slice(row: SliceRow) -> proto::Slice {
    proto::Slice {
        org: row.org,
        sandbox: row.sandbox,
        generation: row.generation,
        seq: row.seq,
        state: row.state,
        reason: row.reason.unwrap_or_default(),
        start_unix_ns: row.start_unix_ns,
        end_unix_ns: row.end_unix_ns,
        duration_ns: row.duration_ns,
        memory_base_bytes: row.memory_base_bytes,
        memory_plugged_bytes: row.memory_plugged_bytes,
        memory_requested_bytes: row.memory_requested_bytes,
        vcpus_milli: row.vcpus_milli,
        disk_bytes: row.disk_bytes,
        opened_by: row.opened_by,
        closed_by: row.closed_by.unwrap_or_default(),
        command_id: row.command_id.unwrap_or_default(),
        opened_by_command_id: row.opened_by_command_id.unwrap_or_default(),
        uncertainty_ns: row.uncertainty_ns,
        r#final: row.is_final,
    }
}

/// A slice as the ledger writes it, for those who read the wire.
pub(crate) fn slice_row(slice: proto::Slice) -> SliceRow {
    let some = |text: String| (!text.is_empty()).then_some(text);
    SliceRow {
        org: slice.org,
        sandbox: slice.sandbox,
        generation: slice.generation,
        seq: slice.seq,
        state: slice.state,
        reason: some(slice.reason),
        start_unix_ns: slice.start_unix_ns,
        end_unix_ns: slice.end_unix_ns,
        duration_ns: slice.duration_ns,
        memory_base_bytes: slice.memory_base_bytes,
        memory_plugged_bytes: slice.memory_plugged_bytes,
        memory_requested_bytes: slice.memory_requested_bytes,
        vcpus_milli: slice.vcpus_milli,
        disk_bytes: slice.disk_bytes,
        opened_by: slice.opened_by,
        closed_by: some(slice.closed_by),
        command_id: some(slice.command_id),
        opened_by_command_id: some(slice.opened_by_command_id),
        uncertainty_ns: slice.uncertainty_ns,
        is_final: slice.r#final,
    }
}

/// What sandboxes amount to.
pub(crate) fn usage(usage: Usage, from_unix_ns: i64, to_unix_ns: i64) -> proto::UsageReply {
    let lines = usage.items.into_iter().map(line).collect();
    let total = Some(line(UsageItem {
        org: String::new(),
        sandbox: String::new(),
        quantities: usage.total,
        uncertainty_ns: usage.total_uncertainty_ns,
    }));
    proto::UsageReply { lines, total, from_unix_ns, to_unix_ns }
}

fn line(item: UsageItem) -> proto::UsageLine {
    let UsageItem { org, sandbox, quantities, uncertainty_ns } = item;
    proto::UsageLine {
        org,
        sandbox,
        memory_byte_nanoseconds: quantities.memory_byte_ns.to_string(),
        vcpu_milli_nanoseconds: quantities.vcpu_milli_ns.to_string(),
        disk_byte_nanoseconds: quantities.disk_byte_ns.to_string(),
        disk_overage_byte_nanoseconds: quantities.disk_overage_byte_ns.to_string(),
        uncertainty_ns,
    }
}

/// Tags.
pub(crate) fn tags(now: TagsNow) -> proto::Tags {
    proto::Tags { tags: now.tags.into_iter().collect(), updated_unix_ns: now.updated_unix_ns }
}

/// What an audit found.
pub(crate) fn audit(report: AuditReport) -> proto::AuditReply {
    proto::AuditReply {
        slices_checked: report.slices,
        sandboxes_checked: report.sandboxes,
        events_checked: report.events,
        violations_total: report.violations_total,
        violations: report.violations.into_iter().map(violation).collect(),
    }
}

fn violation(violation: AuditViolation) -> proto::Violation {
    proto::Violation {
        code: violation.code.to_owned(),
        org: violation.org.unwrap_or_default(),
        sandbox: violation.sandbox.unwrap_or_default(),
        generation: violation.generation.unwrap_or_default(),
        seq: violation.seq.unwrap_or_default(),
        message: violation.message,
    }
}

/// What those who watch are told.
pub(super) fn watch_event(event: WatchEvent) -> proto::WatchEvent {
    proto::WatchEvent {
        kind: event.kind.as_str().to_owned(),
        unix_ns: event.unix_ns,
        sandbox: Some(sandbox(event.sandbox)),
        cause: event.cause.to_owned(),
        message: event.message,
    }
}

/// A process that no sandbox claims.
pub(super) fn orphan(orphan: Orphan) -> proto::Orphan {
    let Orphan { pid, start_time_ticks, org, sandbox, request_id } = orphan;
    proto::Orphan { pid, start_time_ticks, key: Some(proto::SandboxKey { org, sandbox }), request_id }
}

/// A file that is not taken.
pub(super) fn rejected(file: RejectedFile) -> proto::RejectedFile {
    let RejectedFile { path, reason, message, next } = file;
    let (path, reason, next) = (path.display().to_string(), reason.to_owned(), next.to_owned());
    proto::RejectedFile { path, reason, message, next }
}

fn key(key: SandboxKey) -> proto::SandboxKey {
    proto::SandboxKey { org: key.org, sandbox: key.sandbox }
}

fn disk(disk: Disk) -> proto::Disk {
    let Disk { node, format, read_only, size_bytes } = disk;
    proto::Disk { node, format, read_only, size_bytes }
}

fn operation(operation: OperationView) -> proto::Operation {
    proto::Operation {
        kind: operation.kind.to_owned(),
        request_id: operation.request_id,
        step: operation.step.to_owned(),
        done_bytes: operation.done_bytes,
        total_bytes: operation.total_bytes,
    }
}
