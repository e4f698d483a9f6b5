//! What can be made durable.

use std::collections::BTreeMap;

use dormouse_metering::{BootId, CommandId, Observation, OpenSlice, Slice, Stamp};
use serde_json::Value;

use crate::{PluggedByDevice, SandboxKey};

/// One thing to make durable. A unit of several is applied whole or not at all.
#[derive(Clone, Debug)]
pub enum Record {
    /// A generation of a sandbox begins. Repeating one that is already known changes nothing.
    SandboxSeen(SandboxSeen),
    /// How the agent finds a sandbox's QEMU again, and where its life stands.
    Attachment(AttachmentUpdate),
    /// A sandbox's QEMU is not heard since this stamp, until an attachment says how it was found again.
    Unheard(SandboxKey, Stamp),
    /// No QEMU is heard since this stamp: the agent was not there.
    NobodyHeard(Stamp),
    /// What each of a sandbox's memory devices has plugged, with the observation that says what all have.
    PluggedByDevice(SandboxKey, PluggedByDevice),
    /// Slices became final, and what stays open behind them.
    Slices(SliceBatch),
    /// A command was asked for. A unit whose intent is already known is answered with
    /// [`Committed::Repeat`](crate::Committed::Repeat) and not applied.
    Intent(CommandIntent),
    /// A command's outcome.
    Outcome(CommandOutcome),
    /// All the tags of a sandbox from now on.
    Tags(TagSet),
    /// A snapshot was completed, or its state changed.
    Snapshot(Snapshot),
    /// Where `CLOCK_BOOTTIME` stands in wall time from now on.
    Anchor(Anchor),
    /// Everything open was verified through this stamp. A stamp older than the stored one of its boot changes nothing.
    ProofOfLife(Stamp),
    /// Something to tell the sinks that is not a slice.
    Lifecycle(LifecycleEvent),
    /// Somebody was refused something, once or several times.
    Denial(Denial),
    /// An hour of this host is complete. One that is not later than the last changes nothing.
    Watermark(Watermark),
    /// The sinks that events go to from now on.
    Sinks(SinkNames),
    /// How far a sink has come.
    SinkProgress(SinkProgress),
    /// By which terms a sink is told the events that come. The same again changes nothing.
    SinkTerms(SinkTerms),
    /// Events that took place before this, in nanoseconds since the Unix epoch, and that every configured sink has,
    /// need not be kept: the oldest of them go, 2,048 at the most. Without sinks everything is kept.
    Retain {
        /// Nothing from this moment on may go.
        before_unix_ns: i64,
        /// When they go, in nanoseconds since the Unix epoch.
        at_unix_ns: i64,
    },
    /// Somebody asked for events that are no longer kept: the sinks are told through which number that is. Where all are
    /// kept, or that word is in the outbox, it changes nothing.
    TellRetention {
        /// When, in nanoseconds since the Unix epoch.
        at_unix_ns: i64,
    },
}

/// A generation of a sandbox begins.
#[derive(Clone, Debug)]
pub struct SandboxSeen {
    /// The sandbox, with the generation that begins.
    pub key: SandboxKey,
    /// The org's plan; `free` is prepaid.
    pub plan: String,
    /// How the agent finds its QEMU again. Opaque to the ledger.
    pub attachment: Value,
    /// Where its life stands (`running`, `hibernated` ...): at most 64 characters, opaque to the ledger.
    pub lifecycle: String,
    /// When, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i64,
}

/// What changed of a live sandbox beside its slices. `None` stays as it was.
#[derive(Clone, Debug)]
pub struct AttachmentUpdate {
    /// The sandbox.
    pub key: SandboxKey,
    /// How the agent finds its QEMU again.
    pub attachment: Option<Value>,
    /// Where its life stands.
    pub lifecycle: Option<String>,
    /// The org's plan.
    pub plan: Option<String>,
}

/// The whole of what the meter of one sandbox asks to be kept.
#[derive(Clone, Debug)]
pub struct SliceBatch {
    /// The sandbox.
    pub key: SandboxKey,
    /// Slices that became final, in order. One that is already stored, and equal, changes nothing.
    pub slices: Vec<Slice>,
    /// What is open behind them.
    pub open: Option<OpenSlice>,
    /// What is observed and not final yet, in order. Replaces what was pending.
    pub pending: Vec<Observation>,
    /// Whether the life has ended: nothing is open or pending then, and the end is that of the last slice.
    pub ended: bool,
}

/// A command was asked for.
#[derive(Clone, Debug)]
pub struct CommandIntent {
    /// The org that asks.
    pub org: String,
    /// The idempotency key, unique within the org.
    pub request_id: String,
    /// The sandbox that it is about. It need not exist yet.
    pub sandbox: String,
    /// The generation, where one lives.
    pub generation: Option<i64>,
    /// `scale`, `pause` ...
    pub kind: String,
    /// What was asked. Together with kind and sandbox it must be the same when the request id is the same.
    pub payload: Value,
    /// Who asked, as the control plane knows them.
    pub asked_by: String,
    /// When the caller stops waiting, in nanoseconds since the Unix epoch.
    pub deadline_unix_ns: Option<i64>,
    /// When it was asked.
    pub at: Stamp,
}

/// What became of a command.
#[derive(Clone, Debug)]
pub struct CommandOutcome {
    /// The org that asked.
    pub org: String,
    /// The idempotency key.
    pub request_id: String,
    /// In a word. [`OutcomeStatus::Unknown`] may be replaced later, anything else stays.
    pub status: OutcomeStatus,
    /// The stable reason code, where there is one.
    pub reason: Option<String>,
    /// Whatever else the reply carries.
    pub detail: Value,
    /// When it was known.
    pub at: Stamp,
}

/// All the tags of a sandbox, replacing those it had.
#[derive(Clone, Debug)]
pub struct TagSet {
    /// The org.
    pub org: String,
    /// The sandbox: tags outlive its generations.
    pub sandbox: String,
    /// The tags from now on; empty clears them.
    pub tags: BTreeMap<String, String>,
    /// When, in nanoseconds since the Unix epoch.
    pub at_unix_ns: i64,
}

/// A saved state of a sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The sandbox.
    pub key: SandboxKey,
    /// Which of its snapshots, from 1.
    pub ordinal: u64,
    /// `shared`, `mapped-ram` or `internal`.
    pub method: String,
    /// Where it is.
    pub path: String,
    /// What it was made of, and what waking from it needs. Opaque to the ledger.
    pub manifest: Value,
    /// Whether it can be woken from.
    pub state: SnapshotState,
    /// When it was completed, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i64,
}

/// Where `CLOCK_BOOTTIME` stands in wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The boot.
    pub boot: BootId,
    /// `CLOCK_BOOTTIME`, in nanoseconds.
    pub boottime_ns: u64,
    /// The wall clock at the same instant, in nanoseconds since the Unix epoch.
    pub wall_ns: i64,
    /// By how much the wall clock was stepped, in nanoseconds; 0 for the first anchor of a boot.
    pub stepped_ns: i64,
}

/// Something that happened to a sandbox, for the sinks.
#[derive(Clone, Debug)]
pub struct LifecycleEvent {
    /// The sandbox.
    pub key: SandboxKey,
    /// What happened: `attached`, `scaled`, `hibernated` ...
    pub kind: String,
    /// The command behind it.
    pub command: Option<CommandId>,
    /// Whatever else there is to tell.
    pub detail: Value,
    /// When.
    pub at: Stamp,
}

/// Somebody was refused something before any work was done, as often as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Who asked, as far as that is known: 1 to 256 characters.
    pub who: String,
    /// What for: 1 to 256 characters.
    pub method: String,
    /// The stable reason code: 1 to 64 characters.
    pub reason: String,
    /// How often, at least once.
    pub count: u64,
    /// When first, in nanoseconds since the Unix epoch.
    pub first_unix_ns: i64,
    /// When last, in nanoseconds since the Unix epoch.
    pub last_unix_ns: i64,
}

/// Everything of this host up to an hour is cut, and was recorded before this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The end of the hour, in nanoseconds since the Unix epoch.
    pub hour_unix_ns: i64,
    /// When it was known, in nanoseconds since the Unix epoch.
    pub at_unix_ns: i64,
}

/// The sinks that events go to. One that is new gets every event that is still kept; for one that is not named any more
/// nothing is kept.
#[derive(Clone, Debug)]
pub struct SinkNames {
    /// Their names.
    pub names: Vec<String>,
    /// When, in nanoseconds since the Unix epoch.
    pub at_unix_ns: i64,
}

/// By which terms a sink is told events: the first that it has hold for all that there are, others for those that come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkTerms {
    /// The sink.
    pub sink: String,
    /// The terms, whatever they are to who tells.
    pub terms: Value,
}

/// How far a sink has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkProgress {
    /// The sink.
    pub sink: String,
    /// Every event through this number is stored by the sink. It never goes down.
    pub acknowledged_seq: u64,
    /// When, in nanoseconds since the Unix epoch.
    pub at_unix_ns: i64,
    /// Why the last attempt failed; `None` when it succeeded.
    pub error: Option<String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Its stable name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Reads what `as_str` wrote.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What became of a command, in a word.
    OutcomeStatus {
        /// All of it.
        Done = "done",
        /// Some of it: the detail says what.
        Partial = "partial",
        /// Nothing, because something failed.
        Failed = "failed",
        /// Nothing, because it was not allowed.
        Refused = "refused",
        /// Not known yet.
        Unknown = "unknown",
    }
}

words! {
    /// Whether a snapshot can be woken from.
    SnapshotState {
        /// It can.
        Complete = "complete",
        /// It was woken from, and is no longer what it was.
        Consumed = "consumed",
        /// It does not match its manifest.
        Failed = "failed",
    }
}
