//! What the machine wants done. The shell carries it out and answers with the token.

use dormouse_metering::{BillingState, Observation, Shape, Stamp};
use serde_json::Value;

use crate::process::{Advice, CommandLine, ProcessIdentity};
use crate::sandbox::command::{Command, Method, Outcome, Request};
use crate::sandbox::facts::Survey;
use crate::sandbox::refusal::Refusal;
use crate::sandbox::snapshot::Manifest;
use crate::sandbox::spec::SandboxSpec;

/// Matches an answer to the action it is for. An answer with a token nobody waits for is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Something to be done outside.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a few at a time, moved once from the machine to its shell")]
pub enum Action {
    /// Tell the metering actor, and answer once it is durable.
    Announce(Token, Announcement),
    /// Tell the metering actor; it never loses it.
    Observe(Observation),
    /// The same, and QEMU is told nothing more before it is in the ledger's file: an agent that is killed then finds it
    /// there. It waits for no disk.
    ObserveFirst(Observation),
    /// Connect to QMP after so many milliseconds, take a pidfd, and survey.
    Connect(Token, u64),
    /// Ask again all that a survey asks.
    Survey(Token),
    /// Send QEMU one command.
    Qmp(Token, QmpCommand),
    /// Answer after so many milliseconds.
    Wait(Token, u64),
    /// Make a place for a snapshot to be saved by this method.
    PrepareSnapshot(Token, Method),
    /// Begin to write out what a snapshot by this method has to sync: RAM that lies in files, or so much of the state as QEMU
    /// has written. Nobody waits for it.
    WriteOut(Method),
    /// Make the draft of the snapshot complete: digest, syncs, manifest, rename.
    WriteSnapshot(Token, Method),
    /// Check a snapshot against its manifest, as far as that goes before QEMU is started.
    VerifySnapshot(Token, Box<Manifest>, Check),
    /// Answer once the digest of the snapshot that was checked last is known.
    AwaitDigest(Token),
    /// Make a snapshot of which the RAM is about to be overwritten one that nothing can load, durably.
    GiveUpSnapshot(Token, Box<Manifest>),
    /// Remove a draft, or a snapshot that nobody needs any more.
    RemoveSnapshot(SnapshotRemoval),
    /// Start QEMU for a wake.
    Launch(Token, Box<Launch>),
    /// Promise the sandbox so many bytes of the host's memory, until its command has its reply.
    PromiseMemory(Token, u64),
    /// Keep so many bytes of the host's memory for the sandbox, which gives them back meanwhile, until its command has its
    /// reply.
    KeepMemory(u64),
    /// Limit QEMU's CPU time to so many thousandths of a vCPU, or not at all.
    LimitVcpus(Token, Option<u32>),
    /// Advise the kernel about the guest's memory.
    Advise(Token, Advice),
    /// Start QEMU anew, its guest standing at the beginning.
    Start(Token, Box<Start>),
    /// End this very process at once.
    Kill(ProcessIdentity),
    /// Close the connection.
    Disconnect,
    /// Answer everybody who waits for this request.
    Reply(String, Result<Outcome, Refusal>),
    /// The same, with what an earlier request of this id has come to: it was done then.
    Replay(String, Result<Outcome, Refusal>),
    /// Refuse the command that has just come under this request id: nobody else who waits for it.
    Refuse(String, Refusal),
    /// Tell those who watch.
    Publish(Notice),
    /// The sandbox's life is over: the actor can go.
    Retire,
}

/// A lifecycle message for the metering actor.
#[derive(Clone, Debug, PartialEq)]
pub enum Announcement {
    /// The sandbox is taken into care: its life begins. Answered with its generation.
    Attached {
        /// The command that asked for it.
        command: Command,
        /// What was found.
        survey: Box<Survey>,
        /// Whose process it is.
        process: ProcessIdentity,
        /// When its life under the agent's care begins.
        at: Stamp,
        /// What it holds.
        shape: Shape,
        /// What it is billed as.
        state: BillingState,
    },
    /// The sandbox was found again at another process or with other facts.
    Reattached(Box<Survey>, ProcessIdentity),
    /// A command is about to change the sandbox, which is in this state: the intent becomes durable, or
    /// nothing is done.
    Before(Command, Stamp, BillingState),
    /// A command has come to its end: the outcome becomes durable before anybody is told.
    After(Command, Stamp, Result<Outcome, Refusal>),
    /// A snapshot is complete on disk and becomes the sandbox's own.
    Saved(Box<Manifest>),
}

/// One QMP command, by name and arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct QmpCommand {
    /// The command's name.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: Value,
}

/// How much of a snapshot is checked before QEMU is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// All of it.
    Whole,
    /// All that is quick. What is in the state file is read from then on, while QEMU starts.
    ButDigest,
}

/// How to start QEMU for a wake.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// What was saved, with the argv of the QEMU that saved it.
    pub manifest: Box<Manifest>,
    /// Arguments that the way of loading adds.
    pub arguments: Vec<String>,
}

/// What QEMU to start anew.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// The first one of a sandbox.
    New(SandboxSpec),
    /// The like of the one that it had.
    Again(CommandLine),
}

/// What to remove of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotRemoval {
    /// The draft of a save that failed.
    Draft,
    /// A snapshot whose guest has gone on, or was destroyed.
    Consumed(Box<Manifest>),
}

/// Something for those who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A command is about to change the sandbox.
    Before(Request),
    /// It has, or has failed to.
    After(Request, String),
    /// The sandbox changed by itself.
    Changed(&'static str),
    /// An operation goes on.
    Progress,
    /// Its life ended.
    Ended,
}
