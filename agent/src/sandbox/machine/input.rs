//! What the machine is told.

use dormouse_metering::Stamp;
use serde_json::Value;

use super::action::Token;
use crate::process::{Paging, ProcessIdentity};
use crate::sandbox::command::{Command, Outcome};
use crate::sandbox::facts::Survey;
use crate::sandbox::refusal::Refusal;
use crate::sandbox::snapshot::{Draft, Manifest};

/// Something that happened outside, told to the machine.
#[derive(Debug)]
pub enum Input {
    /// Somebody asks for something.
    Command(Command),
    /// An action that carried this token has come to its end.
    Answer(Token, Answer),
    /// QEMU sent an event.
    Event(QemuEvent),
    /// Events were missed: what QEMU says now is all that is known.
    Gap,
    /// The host has slept for so many nanoseconds since the last input. It comes before the input by which that is noticed.
    Slept(u64),
    /// The connection to QMP is gone, though its process may live.
    Disconnected,
    /// The last that a QEMU which has exited had written; it comes before the exit.
    LastWords(String),
    /// The process has exited.
    Exited,
}

/// How an action came out.
#[derive(Debug)]
pub enum Answer {
    /// What was announced is durable.
    Durable,
    /// The sandbox's life has begun, and is durable, under this generation.
    Recorded(i64),
    /// The request id has a stored outcome: nothing is to be done again.
    Replayed(Result<Outcome, Refusal>),
    /// QEMU returned this.
    Returned(Value),
    /// QEMU's memory devices, disks and so on, after connecting or when asked again.
    Surveyed(Box<Survey>, ProcessIdentity),
    /// The time asked for has passed.
    Elapsed,
    /// QEMU was started; this is its process.
    Launched(ProcessIdentity),
    /// There is a place for the snapshot.
    SnapshotPrepared(Draft),
    /// The snapshot is complete on disk.
    SnapshotWritten(Box<Manifest>),
    /// The snapshot is what was written, as far as that was checked, and to wake it takes so many bytes of the host's memory.
    SnapshotVerified(Box<Manifest>, u64),
    /// The state file has the digest that it was written with.
    DigestRight,
    /// The snapshot can be loaded no more.
    SnapshotGivenUp(Box<Manifest>),
    /// The host has the memory.
    Promised,
    /// The limit on QEMU's CPU time as the kernel has it, in thousandths of a vCPU; `None` without one.
    VcpusLimited(Option<u32>),
    /// What came of advice about the guest's memory.
    Advised(Box<Paging>),
    /// It did not work.
    Failed(Refusal),
}

/// An event of QEMU, its time already converted.
#[derive(Clone, Debug, PartialEq)]
pub struct QemuEvent {
    /// The event's name, as `STOP`.
    pub name: String,
    /// When it happened, by QEMU's own timestamp where it can be believed.
    pub at: Stamp,
    /// Its data.
    pub detail: Value,
}
