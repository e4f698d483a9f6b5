//! The ledger: the durable record of one Dormouse host, in one SQLite file.
//!
//! It keeps, for each generation of a sandbox, the closed slices (append-only), the open slice, and the
//! observations that are still pending; and beside them commands with their outcomes, tags with their
//! history, snapshots, clock anchors, the proof of life, and the outbox of events whose bytes are frozen in
//! the transaction that commits what they tell.
//!
//! - [`Ledger`] opens the file, for one agent at a time.
//! - [`Writer`] makes [`Record`]s durable: whole units, committed in groups, each acknowledged after the commit.
//! - [`Editor`] changes tags and tokens, beside a running agent or without one.
//! - [`Reader`] answers questions, beside a running agent or without one.
//! - [`Verification`] holds a host's record against itself, without a ledger.
//! - [`Reader::audit`] walks everything and names what does not hold.
//!
//! # Architecture invariants
//!
//! No actor, no runtime and no wire protocol is known here: completion is a callback. No clock is read: every
//! time is an argument. No slice, event, intent or outcome is ever changed or deleted; the schema's triggers
//! refuse it, as they refuse a slice that does not begin where its predecessor ended
//! (`migrations/0001_ledger.sql`). No SQL is made from input.

#![allow(clippy::doc_markdown, reason = "SQLite and CloudEvents are names, not code")]

mod apply;
mod audit;
mod editor;
mod encode;
mod error;
pub mod fleet;
mod hashes;
mod host_key;
mod ledger;
mod lock;
mod names;
mod outbox;
mod reader;
mod records;
mod rows;
mod schema;
mod standing;
mod statement;
mod suppression;
mod tags;
mod time;
mod tokens;
pub mod usage;
mod verify;
mod writer;

pub use audit::{AuditReport, AuditViolation};
pub use editor::Editor;
pub use error::LedgerError;
pub use ledger::Ledger;
pub use names::{HostName, SandboxKey};
pub use outbox::{LIFECYCLE_EVENT, RETENTION_EVENT, SLICE_EVENT, WATERMARK_EVENT};
pub use reader::{
    OutboxStanding, Reader, Recovery, SandboxFilter, SinkStanding, SliceCursor, SlicePage, SliceQuery,
    TagSpan, TagsNow, Usage, UsageItem, UsageQuery,
};
pub use records::{
    Anchor, AttachmentUpdate, CommandIntent, CommandOutcome, Denial, LifecycleEvent, OutcomeStatus, Record,
    SandboxSeen, SinkNames, SinkProgress, SinkTerms, SliceBatch, Snapshot, SnapshotState, TagSet, Watermark,
};
pub use rows::{CommandRow, OutboxRow, OutcomeRow, PluggedByDevice, SandboxRow, SliceRow};
pub use tags::{validate_tag_key, validate_tags};
pub use time::rfc3339;
pub use tokens::{Role, Token};
pub use verify::{Verification, VerifyAnomaly, VerifyReport};
pub use writer::{Class, Committed, Done, Health, OnEvents, Refused, Writer};
