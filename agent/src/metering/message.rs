//! What the metering actor is told, and what it answers.

use std::collections::BTreeMap;

use dormouse_ledger::{Anchor, CommandIntent, CommandOutcome, PluggedByDevice, SandboxKey, Snapshot};
use dormouse_metering::{BillingState, Observation, Shape, Stamp};
use serde_json::Value;
use tokio::sync::oneshot;

use super::accounts::Sight;
use crate::sandbox::command::{Command, Outcome};
use crate::sandbox::refusal::Refusal;

/// Called once when what was announced is durable or has failed. It must not block.
pub type Reply = Box<dyn FnOnce(Acknowledgement) + Send>;

/// What became of an announcement.
#[derive(Clone, Debug)]
pub enum Acknowledgement {
    /// It is durable.
    Durable,
    /// The life that it begins is durable, under this generation.
    Began(i64),
    /// The request id has a stored outcome: nothing is to be done again.
    Replayed(Result<Outcome, Refusal>),
    /// Nothing of it is durable.
    Failed(Refusal),
}

/// A sandbox whose life begins.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The command that asked for it.
    pub command: Command,
    /// The plan that it is billed by.
    pub plan: String,
    /// Whether the plan is prepaid.
    pub prepaid: bool,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// How its QEMU is found again.
    pub attachment: Value,
    /// When its life begins.
    pub at: Stamp,
    /// What it holds.
    pub shape: Shape,
    /// What it is billed as.
    pub state: BillingState,
    /// What each of its memory devices has plugged, where there are several.
    pub plugged_by_device: Option<PluggedByDevice>,
}

/// A command that has come to its end.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The sandbox.
    pub key: SandboxKey,
    /// The command.
    pub command: Command,
    /// When it ended.
    pub at: Stamp,
    /// What came of it.
    pub result: Result<Outcome, Refusal>,
    /// A snapshot whose state changes with it.
    pub snapshot: Option<Snapshot>,
    /// The state that the sandbox is in now.
    pub state: BillingState,
}

/// Something that was seen of a sandbox.
#[derive(Debug)]
pub struct Seen {
    /// What was seen.
    pub observation: Observation,
    /// What each of its memory devices has plugged by it, where it is of the memory and there are several.
    pub plugged_by_device: Option<PluggedByDevice>,
    /// Whoever waits until it is in the ledger's file, which is not to say on the disk.
    pub written: Option<oneshot::Sender<()>>,
}

/// What the metering actor is told.
pub enum Message {
    /// A sandbox's life begins. Answered with its generation.
    Begin(Box<Beginning>, Reply),
    /// A sandbox, in this state now, is about to be changed by a command taken at this stamp. Answered when
    /// the intent is durable.
    Before(SandboxKey, Box<Command>, Stamp, BillingState, Reply),
    /// A command has come to its end. Answered when the outcome is durable.
    After(Box<Ending>, Reply),
    /// Something is about to be done that is of no life, or has its outcome already. Answered when that is durable.
    IntendApart(Box<CommandIntent>, Option<Box<CommandOutcome>>, Reply),
    /// It is done. Answered when the outcome is durable.
    ConcludeApart(Box<CommandOutcome>, Reply),
    /// Answered when all that was told before is in the ledger.
    Settle(Reply),
    /// The life that has begun is durable.
    Born(SandboxKey),
    /// A life could not begin: nothing of it became durable.
    Forget(SandboxKey),
    /// Something was seen.
    Observe(SandboxKey, Box<Seen>),
    /// Whether the sandbox's QEMU is heard, and through when it was: while it is not, nothing of the sandbox becomes
    /// final.
    Sight(SandboxKey, Sight, Stamp),
    /// A snapshot is complete on disk.
    Saved(Snapshot, Reply),
    /// The sandbox's QEMU is found again in this way.
    Attachment(SandboxKey, Value),
    /// Every open sandbox's process existed at this stamp.
    Proof(Stamp),
    /// The wall clock was stepped, as was noticed at this stamp by the new anchor.
    ClockStepped(Stamp, Anchor),
    /// Time has passed.
    Seal,
    /// A tick of the prepaid plans.
    Tick,
    /// The proof of life was written, or failed to be.
    ProofWritten,
    /// Writes all that is due, and a last proof of life where there is one, and answers when it is durable.
    Flush(Option<Stamp>, Reply),
}
