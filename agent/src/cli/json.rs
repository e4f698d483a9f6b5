//! What the agent answers, as the JSON that `--json` prints. Absent things are null; sizes are bytes.

use serde_json::{Value, json};

use dormouse_metering::{GbSeconds, VcpuSeconds};

use super::failure::Failure;
use super::when::rfc3339;
use crate::proto;

/// A sandbox.
pub(super) fn sandbox(sandbox: &proto::Sandbox) -> Value {
    let key = sandbox.key.clone().unwrap_or_default();
    let shape = sandbox.shape.unwrap_or_default();
    json!({
        "org": key.org,
        "sandbox": key.sandbox,
        "generation": sandbox.generation,
        "plan": sandbox.plan,
        "state": sandbox.state,
        "state_reason": some(&sandbox.state_reason),
        "suppressed_reason": some(&sandbox.suppressed_reason),
        "connection": sandbox.connection,
        "vcpus_milli": shape.vcpus_milli,
        "memory_bytes": shape.memory_base_bytes + shape.memory_plugged_bytes,
        "memory_base_bytes": shape.memory_base_bytes,
        "memory_plugged_bytes": shape.memory_plugged_bytes,
        "memory_requested_bytes": shape.memory_requested_bytes,
        "memory_max_bytes": sandbox.memory_max_bytes,
        "memory_block_bytes": sandbox.memory_block_bytes,
        "disk_bytes": shape.disk_bytes,
        "qmp_path": some(&sandbox.qmp_path),
        "pid": (sandbox.pid != 0).then_some(sandbox.pid),
        "qemu_version": some(&sandbox.qemu_version),
        "tags": sandbox.tags,
        "operation": sandbox.operation.as_ref().map(operation),
        "hibernation_method": some(&sandbox.hibernation_method),
        "disks": sandbox.disks.iter().map(disk).collect::<Vec<_>>(),
    })
}

fn disk(disk: &proto::Disk) -> Value {
    json!({
        "node": disk.node,
        "format": disk.format,
        "read_only": disk.read_only,
        "size_bytes": disk.size_bytes,
    })
}

/// A process that no sandbox claims.
pub(super) fn orphan(orphan: &proto::Orphan) -> Value {
    let key = orphan.key.clone().unwrap_or_default();
    json!({
        "pid": orphan.pid,
        "start_time_ticks": orphan.start_time_ticks,
        "org": key.org,
        "sandbox": key.sandbox,
        "request_id": orphan.request_id,
    })
}

pub(super) fn rejected(file: &proto::RejectedFile) -> Value {
    let proto::RejectedFile { path, reason, message, next } = file;
    json!({ "path": path, "reason": reason, "message": message, "next": next })
}

fn operation(operation: &proto::Operation) -> Value {
    json!({
        "kind": operation.kind,
        "request_id": operation.request_id,
        "step": operation.step,
        "done_bytes": operation.done_bytes,
        "total_bytes": (operation.total_bytes != 0).then_some(operation.total_bytes),
    })
}

/// A command's reply.
pub(super) fn reply(reply: &proto::CommandReply) -> Value {
    json!({
        "request_id": reply.request_id,
        "result": result_name(reply.result()),
        "message": reply.message,
        "replayed": reply.replayed,
        "duration_ns": reply.duration_ns,
        "sandbox": reply.sandbox.as_ref().map(sandbox),
    })
}

/// A command's result in a word.
pub(super) const fn result_name(result: proto::command_reply::Result) -> &'static str {
    match result {
        proto::command_reply::Result::Unspecified => "unspecified",
        proto::command_reply::Result::Done => "done",
        proto::command_reply::Result::Partial => "partial",
        proto::command_reply::Result::Unchanged => "unchanged",
    }
}

/// A change.
pub(super) fn watch_event(event: &proto::WatchEvent) -> Value {
    json!({
        "kind": event.kind,
        "unix_ns": event.unix_ns,
        "cause": some(&event.cause),
        "message": some(&event.message),
        "sandbox": event.sandbox.as_ref().map(sandbox),
    })
}

/// What was used: integers as decimal strings, which pass 64 bits, and the exact decimals made of them.
pub(super) fn usage(reply: &proto::UsageReply) -> Result<Value, Failure> {
    let line = |line: &proto::UsageLine| -> Result<Value, Failure> {
        let mut quantities = quantities(line)?;
        quantities["org"] = line.org.clone().into();
        quantities["sandbox"] = line.sandbox.clone().into();
        Ok(quantities)
    };
    Ok(json!({
        "from_unix_ns": reply.from_unix_ns,
        "to_unix_ns": reply.to_unix_ns,
        "lines": reply.lines.iter().map(line).collect::<Result<Vec<_>, _>>()?,
        "total": reply.total.as_ref().map(quantities).transpose()?,
    }))
}

fn quantities(line: &proto::UsageLine) -> Result<Value, Failure> {
    Ok(json!({
        "memory_byte_nanoseconds": line.memory_byte_nanoseconds,
        "memory_gb_seconds": GbSeconds(integer(&line.memory_byte_nanoseconds)?).to_string(),
        "vcpu_milli_nanoseconds": line.vcpu_milli_nanoseconds,
        "vcpu_seconds": VcpuSeconds(integer(&line.vcpu_milli_nanoseconds)?).to_string(),
        "disk_byte_nanoseconds": line.disk_byte_nanoseconds,
        "disk_gb_seconds": GbSeconds(integer(&line.disk_byte_nanoseconds)?).to_string(),
        "disk_overage_byte_nanoseconds": line.disk_overage_byte_nanoseconds,
        "disk_overage_gb_seconds": GbSeconds(integer(&line.disk_overage_byte_nanoseconds)?).to_string(),
        "uncertainty_ns": line.uncertainty_ns,
    }))
}

/// An integer as the wire writes it.
pub(super) fn integer(text: &str) -> Result<i128, Failure> {
    text.parse().map_err(|_| Failure::new(format!("the agent sent {text:?} where a whole number should be")))
}

/// What an audit found.
pub(super) fn audit(reply: &proto::AuditReply) -> Value {
    let violations: Vec<_> = reply
        .violations
        .iter()
        .map(|violation| {
            json!({
                "code": violation.code,
                "org": some(&violation.org),
                "sandbox": some(&violation.sandbox),
                "generation": (violation.generation != 0).then_some(violation.generation),
                "seq": (violation.seq != 0).then_some(violation.seq),
                "message": violation.message,
            })
        })
        .collect();
    json!({
        "clean": reply.violations.is_empty(),
        "sandboxes_checked": reply.sandboxes_checked,
        "slices_checked": reply.slices_checked,
        "events_checked": reply.events_checked,
        "violations": violations,
        "violations_total": reply.violations_total,
    })
}

/// The tags of a sandbox, and when they last changed.
pub(super) fn tags(tags: &proto::Tags) -> Value {
    json!({ "tags": tags.tags, "tags_last_updated_at": tags.updated_unix_ns.map(rfc3339) })
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
