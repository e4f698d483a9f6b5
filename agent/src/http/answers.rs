//! What is answered, as its JSON is. Integers that may pass 53 bits are strings; beside each quantity that people
//! read as a number stands its exact integer.

use std::collections::BTreeMap;
use std::ops::Range;

use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::response::Response;
use dormouse_ledger::usage::{Amount, Point, SandboxEntry, TagKey};
use dormouse_ledger::{SliceRow, TagsNow, rfc3339};
use dormouse_metering::{GbSeconds, VcpuSeconds};
use serde::Serialize;
use utoipa::ToSchema;

/// What was used. 1 GB-second is 2^30 bytes for one second.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Amounts {
    pub(super) memory_gb_seconds: f64,
    /// Disk above the free allowance.
    pub(super) disk_overage_gb_seconds: f64,
    pub(super) vcpu_seconds: f64,
    /// The exact integer.
    #[schema(example = "1073741824000000000", pattern = "^[0-9]+$")]
    pub(super) memory_byte_nanoseconds: String,
    /// The exact integer.
    #[schema(pattern = "^[0-9]+$")]
    pub(super) disk_overage_byte_nanoseconds: String,
    /// The exact integer, in thousandths of a vCPU.
    #[schema(pattern = "^[0-9]+$")]
    pub(super) vcpu_milli_nanoseconds: String,
    /// The exact integer, of all of the disk.
    #[schema(pattern = "^[0-9]+$")]
    pub(super) disk_byte_nanoseconds: String,
}

/// The number that is nearest to a decimal that was written in full.
fn number(decimal: &impl ToString) -> f64 {
    decimal.to_string().parse().unwrap_or(f64::MAX)
}

impl From<Amount> for Amounts {
    fn from(amount: Amount) -> Self {
        let quantities = amount.quantities;
        Self {
            memory_gb_seconds: number(&GbSeconds(quantities.memory_byte_ns)),
            disk_overage_gb_seconds: number(&GbSeconds(quantities.disk_overage_byte_ns)),
            vcpu_seconds: number(&VcpuSeconds(quantities.vcpu_milli_ns)),
            memory_byte_nanoseconds: quantities.memory_byte_ns.to_string(),
            disk_overage_byte_nanoseconds: quantities.disk_overage_byte_ns.to_string(),
            vcpu_milli_nanoseconds: quantities.vcpu_milli_ns.to_string(),
            disk_byte_nanoseconds: quantities.disk_byte_ns.to_string(),
        }
    }
}

/// The half-open window that was summed: cut at the moment of the question.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Window {
    #[schema(format = DateTime)]
    pub(super) from: String,
    #[schema(format = DateTime)]
    pub(super) to: String,
}

impl From<&Range<i64>> for Window {
    fn from(window: &Range<i64>) -> Self {
        Self { from: rfc3339(window.start), to: rfc3339(window.end) }
    }
}

/// The tags of a sandbox.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tags {
    pub(super) tags: BTreeMap<String, String>,
    /// Null if there never were any.
    #[schema(format = DateTime)]
    pub(super) tags_last_updated_at: Option<String>,
}

impl From<TagsNow> for Tags {
    fn from(now: TagsNow) -> Self {
        Self { tags: now.tags, tags_last_updated_at: now.updated_unix_ns.map(rfc3339) }
    }
}

/// An hour or a day, cut at the ends of the window.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct PointOfTime {
    #[serde(flatten)]
    pub(super) window: Window,
    #[serde(flatten)]
    pub(super) amounts: Amounts,
}

/// The points of an answer.
pub(super) fn points(points: Option<Vec<Point>>) -> Option<Vec<PointOfTime>> {
    let point = |point: Point| PointOfTime { window: (&point.window).into(), amounts: point.amount.into() };
    points.map(|points| points.into_iter().map(point).collect())
}

/// What a sandbox, or all time with one value of the tag, amounts to.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageItem {
    /// By sandbox: its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sandbox_id: Option<String>,
    /// By tag: the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
    #[serde(flatten)]
    pub(super) amounts: Amounts,
    #[serde(flatten)]
    pub(super) tags: Option<Tags>,
}

/// An org's usage.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Usage {
    pub(super) window: Window,
    pub(super) group_by: String,
    pub(super) basis: &'static str,
    /// A page of items, the greatest first.
    pub(super) items: Vec<UsageItem>,
    /// By tag: what belongs to no value of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) untagged: Option<Amounts>,
    /// Everything that matches, whichever page.
    pub(super) total: Amounts,
    /// What adds up to the total, with zeros in the gaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) points: Option<Vec<PointOfTime>>,
    /// Where to go on; null on the last page.
    pub(super) next_cursor: Option<String>,
}

/// One sandbox's usage.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SandboxUsage {
    pub(super) sandbox_id: String,
    pub(super) window: Window,
    pub(super) basis: &'static str,
    #[serde(flatten)]
    pub(super) amounts: Amounts,
    /// When its first slice in the window started, not before the window; null if it has none.
    #[schema(format = DateTime)]
    pub(super) first_started_at: Option<String>,
    /// When its last slice in the window ended, not after the window.
    #[schema(format = DateTime)]
    pub(super) last_ended_at: Option<String>,
    #[serde(flatten)]
    pub(super) tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) points: Option<Vec<PointOfTime>>,
}

/// A sandbox, as its latest generation stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the interface calls it so everywhere")]
pub(super) struct Sandbox {
    pub(super) sandbox_id: String,
    /// When it was first seen, or seen again after its end, in nanoseconds since the Unix epoch.
    #[schema(pattern = "^[0-9]+$")]
    pub(super) generation: String,
    /// Null where it is not known: a fleet's ledger has no plans.
    pub(super) plan: Option<String>,
    /// Where its life stands: running, paused, hibernated ..., and ended once it is over.
    pub(super) lifecycle: String,
    #[schema(format = DateTime)]
    pub(super) created_at: String,
    /// Null while it lives.
    #[schema(format = DateTime)]
    pub(super) ended_at: Option<String>,
    #[serde(flatten)]
    pub(super) tags: Tags,
}

impl Sandbox {
    pub(super) fn new(entry: SandboxEntry, tags: TagsNow) -> Self {
        Self {
            sandbox_id: entry.sandbox,
            generation: entry.generation.to_string(),
            plan: entry.plan,
            lifecycle: entry.lifecycle,
            created_at: rfc3339(entry.created_unix_ns),
            ended_at: entry.ended_unix_ns.map(rfc3339),
            tags: tags.into(),
        }
    }
}

/// A page of sandboxes, by id.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sandboxes {
    pub(super) items: Vec<Sandbox>,
    /// Where to go on; null on the last page.
    pub(super) next_cursor: Option<String>,
}

/// A key that sandboxes are tagged with.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyInUse {
    pub(super) key: String,
    pub(super) sandbox_count: u64,
    pub(super) value_count: u64,
}

impl From<TagKey> for KeyInUse {
    fn from(key: TagKey) -> Self {
        Self { key: key.key, sandbox_count: key.sandbox_count, value_count: key.value_count }
    }
}

/// A page of tag keys, in order.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Keys {
    pub(super) items: Vec<KeyInUse>,
    /// Where to go on; null on the last page.
    pub(super) next_cursor: Option<String>,
}

/// A half-open interval of a sandbox's life at one shape and in one billing state.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slice {
    #[schema(pattern = "^[0-9]+$")]
    pub(super) generation: String,
    /// Contiguous from 1 within the generation.
    pub(super) seq: u64,
    /// The billing state: running, paused ...
    pub(super) state: String,
    /// The fault, where the state is faulted; why, where it is suppressed.
    pub(super) reason: Option<String>,
    #[schema(format = DateTime)]
    pub(super) started_at: String,
    /// Null while it is open.
    #[schema(format = DateTime)]
    pub(super) ended_at: Option<String>,
    /// By the host's boottime clock, so unlike its ends where the wall clock was stepped.
    #[schema(pattern = "^[0-9]+$")]
    pub(super) duration_nanoseconds: String,
    pub(super) vcpus_milli: u32,
    pub(super) memory_base_bytes: u64,
    pub(super) memory_plugged_bytes: u64,
    pub(super) memory_requested_bytes: u64,
    pub(super) disk_bytes: u64,
    pub(super) opened_by: String,
    pub(super) closed_by: Option<String>,
    /// The command that closed it, if one did.
    pub(super) command_id: Option<String>,
    /// The bound on the error of the duration.
    #[schema(pattern = "^[0-9]+$")]
    pub(super) uncertainty_nanoseconds: String,
    /// Whether nothing can change it any more.
    #[serde(rename = "final")]
    pub(super) is_final: bool,
}

impl From<SliceRow> for Slice {
    fn from(row: SliceRow) -> Self {
        Self {
            generation: row.generation.to_string(),
            seq: row.seq,
            state: row.state,
            reason: row.reason,
            started_at: rfc3339(row.start_unix_ns),
            ended_at: row.end_unix_ns.map(rfc3339),
            duration_nanoseconds: row.duration_ns.to_string(),
            vcpus_milli: row.vcpus_milli,
            memory_base_bytes: row.memory_base_bytes,
            memory_plugged_bytes: row.memory_plugged_bytes,
            memory_requested_bytes: row.memory_requested_bytes,
            disk_bytes: row.disk_bytes,
            opened_by: row.opened_by,
            closed_by: row.closed_by,
            command_id: row.command_id,
            uncertainty_nanoseconds: row.uncertainty_ns.to_string(),
            is_final: row.is_final,
        }
    }
}

/// A page of slices, oldest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slices {
    pub(super) items: Vec<Slice>,
    /// Where to go on; null on the last page.
    pub(super) next_cursor: Option<String>,
}

/// Nothing here is for anyone but who asked.
pub(super) async fn mark_as_private(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
