//! What the ledger answers with.

use dormouse_metering::{BillingState, Boundary, Observation, OpenSlice, Shape, Slice, Stamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{OutcomeStatus, SandboxKey};

/// A slice as people and programs read it: the JSON of the command line, of the API and of slice events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceRow {
    /// The org id.
    pub org: String,
    /// The sandbox id.
    pub sandbox: String,
    /// The generation of the sandbox.
    pub generation: i64,
    /// Contiguous from 1 within the generation.
    pub seq: u64,
    /// The billing state: `running`, `paused` ...
    pub state: String,
    /// Why QEMU stopped the guest, where the state is `faulted`; why its time is free, where it is `suppressed`.
    pub reason: Option<String>,
    /// Where it begins, in nanoseconds since the Unix epoch.
    pub start_unix_ns: i64,
    /// Where it ends, exclusive; `None` while it is open.
    pub end_unix_ns: Option<i64>,
    /// How long it lasted by `CLOCK_BOOTTIME`; of an open slice, until the moment of the question.
    pub duration_ns: u64,
    /// Memory that is always there.
    pub memory_base_bytes: u64,
    /// Memory plugged by virtio-mem.
    pub memory_plugged_bytes: u64,
    /// Memory asked of virtio-mem.
    pub memory_requested_bytes: u64,
    /// vCPUs in thousandths.
    pub vcpus_milli: u32,
    /// Virtual size of the writable disks.
    pub disk_bytes: u64,
    /// The cause that opened it.
    pub opened_by: String,
    /// The cause that closed it; `None` while it is open.
    pub closed_by: Option<String>,
    /// The command that closed it, if one did.
    pub command_id: Option<String>,
    /// The command that opened it, if one did.
    pub opened_by_command_id: Option<String>,
    /// The uncertainty of both boundaries together: the bound on the duration's error.
    pub uncertainty_ns: u64,
    /// Whether nothing can change it any more.
    #[serde(rename = "final")]
    pub is_final: bool,
}

impl SliceRow {
    /// The row of a closed slice.
    pub fn closed(key: &SandboxKey, slice: &Slice, is_final: bool) -> Self {
        Self {
            end_unix_ns: Some(slice.end.unix_ns),
            duration_ns: slice.duration_ns,
            closed_by: Some(slice.end.cause.as_str().to_owned()),
            command_id: request_id(&slice.end),
            uncertainty_ns: slice.start.uncertainty_ns.saturating_add(slice.end.uncertainty_ns),
            is_final,
            ..Self::begun(key, slice.seq, slice.state, slice.shape, &slice.start)
        }
    }

    /// Makes this the row of another closed slice of the sandbox, as final as the one before, in the memory that it has.
    pub(crate) fn retell(&mut self, slice: &Slice) {
        let Slice { seq, state, shape, start, duration_ns, end } = slice;
        (self.seq, self.start_unix_ns, self.end_unix_ns) = (*seq, start.unix_ns, Some(end.unix_ns));
        self.duration_ns = *duration_ns;
        self.memory_base_bytes = shape.memory_base_bytes;
        self.memory_plugged_bytes = shape.memory_plugged_bytes;
        self.memory_requested_bytes = shape.memory_requested_bytes;
        (self.vcpus_milli, self.disk_bytes) = (shape.vcpus_milli, shape.disk_bytes);
        self.uncertainty_ns = start.uncertainty_ns.saturating_add(end.uncertainty_ns);
        rewrite(&mut self.state, state.name());
        rewrite(&mut self.opened_by, start.cause.as_str());
        rewrite(self.closed_by.get_or_insert_default(), end.cause.as_str());
        self.reason = state.fault().map(|fault| fault.as_str().to_owned());
        (self.command_id, self.opened_by_command_id) = (request_id(end), request_id(start));
    }

    /// The same row with the reason of a suppression, where it is suppressed.
    pub(crate) fn suppressed_for(mut self, reason: Option<String>) -> Self {
        self.reason = reason.or(self.reason);
        self
    }

    /// What is held all through it.
    pub fn shape(&self) -> Shape {
        Shape {
            vcpus_milli: self.vcpus_milli,
            memory_base_bytes: self.memory_base_bytes,
            memory_plugged_bytes: self.memory_plugged_bytes,
            memory_requested_bytes: self.memory_requested_bytes,
            disk_bytes: self.disk_bytes,
        }
    }

    /// The row of a slice that is still open, with the duration that it had at a moment.
    pub fn open_until(key: &SandboxKey, until: &Slice) -> Self {
        let duration_ns = until.duration_ns;
        Self { duration_ns, ..Self::begun(key, until.seq, until.state, until.shape, &until.start) }
    }

    /// The row of a slice that opens at this moment.
    pub fn open(key: &SandboxKey, open: &OpenSlice) -> Self {
        Self::begun(key, open.seq, open.state, open.shape, &open.start)
    }

    fn begun(key: &SandboxKey, seq: u64, state: BillingState, shape: Shape, start: &Boundary) -> Self {
        Self {
            org: key.org.clone(),
            sandbox: key.sandbox.clone(),
            generation: key.generation,
            seq,
            state: state.name().to_owned(),
            reason: state.fault().map(|fault| fault.as_str().to_owned()),
            start_unix_ns: start.unix_ns,
            end_unix_ns: None,
            duration_ns: 0,
            memory_base_bytes: shape.memory_base_bytes,
            memory_plugged_bytes: shape.memory_plugged_bytes,
            memory_requested_bytes: shape.memory_requested_bytes,
            vcpus_milli: shape.vcpus_milli,
            disk_bytes: shape.disk_bytes,
            opened_by: start.cause.as_str().to_owned(),
            closed_by: None,
            command_id: None,
            opened_by_command_id: request_id(start),
            uncertainty_ns: start.uncertainty_ns,
            is_final: false,
        }
    }
}

fn rewrite(text: &mut String, to: &str) {
    text.clear();
    text.push_str(to);
}

fn request_id(boundary: &Boundary) -> Option<String> {
    boundary.command.as_ref().map(|command| command.as_str().to_owned())
}

/// A generation of a sandbox as the ledger knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxRow {
    /// The sandbox.
    pub key: SandboxKey,
    /// The org's plan.
    pub plan: String,
    /// How the agent finds its QEMU again.
    pub attachment: Value,
    /// Where its life stands.
    pub lifecycle: String,
    /// Since when its QEMU is not heard; `None` while it is.
    pub unheard: Option<Stamp>,
    /// What each of its memory devices had plugged when its memory was observed last; `None` where that was not told: of one
    /// device the shape says it.
    pub plugged_by_device: Option<PluggedByDevice>,
    /// When the ledger first saw it, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i64,
    /// When its life ended.
    pub ended_unix_ns: Option<i64>,
    /// What is open.
    pub open: Option<OpenSlice>,
    /// What is observed and not final yet, in order.
    pub pending: Vec<Observation>,
}

/// What each of several memory devices has plugged, with an observation that says what all have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluggedByDevice {
    /// At the observation's stamp, in bytes.
    pub bytes: Vec<u64>,
    /// At the least since that may have been so, which is as long before the stamp as it is uncertain, in bytes.
    pub least_bytes: Vec<u64>,
    /// The boot of the stamp.
    pub boot: [u8; 16],
    /// The stamp, in nanoseconds of `CLOCK_BOOTTIME`.
    pub at_boottime_ns: u64,
}

/// A command as the ledger knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandRow {
    /// The org that asked.
    pub org: String,
    /// The idempotency key.
    pub request_id: String,
    /// The sandbox that it is about.
    pub sandbox: String,
    /// The generation, where one lived.
    pub generation: Option<i64>,
    /// `scale`, `pause` ...
    pub kind: String,
    /// What was asked.
    pub payload: Value,
    /// BLAKE3 of kind, sandbox and payload in canonical JSON.
    pub payload_hash: [u8; 32],
    /// Who asked.
    pub asked_by: String,
    /// When the caller stops waiting, in nanoseconds since the Unix epoch.
    pub deadline_unix_ns: Option<i64>,
    /// When it was asked.
    pub asked_at: Stamp,
    /// What became of it; `None` while nobody knows.
    pub outcome: Option<OutcomeRow>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct OutcomeRow {
    /// In a word.
    pub status: OutcomeStatus,
    /// The stable reason code, where there is one.
    pub reason: Option<String>,
    /// Whatever else the reply carried.
    pub detail: Value,
    /// When it was known.
    pub at: Stamp,
}

/// An event of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// The event's number, contiguous from 1 on a host.
    pub host_seq: u64,
    /// The event's id, unique on a host.
    pub event_id: String,
    /// The CloudEvents type.
    pub event_type: String,
    /// The org that it is about.
    pub org: Option<String>,
    /// The sandbox that it is about.
    pub sandbox: Option<String>,
    /// The wall time that the event tells of.
    pub event_unix_ns: i64,
    /// The CloudEvents JSON, byte for byte as it is sent.
    pub payload: Vec<u8>,
    /// BLAKE3 of `payload`.
    pub payload_hash: [u8; 32],
    /// `payload_hash` of the event before it; zeros for the first.
    pub prev_hash: [u8; 32],
}
