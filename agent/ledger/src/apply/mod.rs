//! Applying records to the open transaction.
//!
//! Nothing here begins, commits or undoes: [`crate::writer`] does.

mod commands;
mod denials;
mod host;
mod retention;
mod sandboxes;
mod sinks;
mod slices;
mod snapshots;
pub(crate) mod tags;
mod watermarks;

use rusqlite::Connection;

use crate::host_key::HostKey;
use crate::outbox::Head;
use crate::{Committed, HostName, LedgerError, Record};
pub(crate) use slices::Lives;

/// The open transaction.
pub(crate) struct Apply<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) host: &'a HostName,
    pub(crate) key: &'a HostKey,
    /// The last event of the outbox, this transaction's included.
    pub(crate) head: &'a mut Head,
    /// What is known of lives, this transaction's changes included.
    pub(crate) lives: &'a mut Lives,
}

impl Apply<'_> {
    /// Applies a unit. Anything but `Committed::Applied` means that the caller must roll it back.
    pub(crate) fn unit(&mut self, records: &[Record]) -> Result<Committed, LedgerError> {
        for record in records {
            if let Record::Intent(intent) = record
                && let Some(known) = self.intent(intent)?
            {
                return Ok(Committed::Repeat(Box::new(known)));
            }
            self.record(record)?;
        }
        Ok(Committed::Applied { host_seq: self.head.host_seq })
    }

    fn record(&mut self, record: &Record) -> Result<(), LedgerError> {
        match record {
            // Stored by `unit`, which needs the answer.
            Record::Intent(_) => Ok(()),
            Record::SandboxSeen(seen) => self.sandbox_seen(seen),
            Record::Attachment(update) => self.attachment(update),
            Record::Unheard(key, since) => self.unheard(key, *since),
            Record::NobodyHeard(since) => self.nobody_heard(*since),
            Record::PluggedByDevice(key, plugged) => self.plugged_by_device(key, plugged),
            Record::Slices(batch) => self.slices(batch),
            Record::Outcome(outcome) => self.outcome(outcome),
            Record::Tags(tags) => self.tags(tags),
            Record::Snapshot(snapshot) => self.snapshot(snapshot),
            Record::Anchor(anchor) => self.anchor(anchor),
            Record::ProofOfLife(stamp) => self.proof_of_life(*stamp),
            Record::Lifecycle(event) => self.lifecycle(event),
            Record::Denial(denial) => self.denial(denial),
            Record::Sinks(sinks) => self.sinks(sinks),
            Record::SinkProgress(progress) => self.sink_progress(progress),
            Record::SinkTerms(terms) => self.sink_terms(terms),
            Record::Watermark(watermark) => self.watermark(watermark),
            Record::Retain { before_unix_ns, at_unix_ns } => self.retain(*before_unix_ns, *at_unix_ns),
            Record::TellRetention { at_unix_ns } => self.tell_retention(*at_unix_ns),
        }
    }
}
