//! Questions to the ledger.
//!
//! A reader has a connection of its own, which cannot write. Each question is answered as of one moment, beside
//! a running agent, after one that was killed, or on a copy.

pub(crate) mod commands;
mod denials;
mod outbox;
pub(crate) mod sandboxes;
mod sinks;
pub(crate) mod slices;
mod snapshots;
pub(crate) mod tags;
pub(crate) mod usage;

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::{HostName, LedgerError, schema};

pub use sandboxes::{Recovery, SandboxFilter};
pub use sinks::{OutboxStanding, SinkStanding};
pub use slices::{SliceCursor, SlicePage, SliceQuery};
pub use tags::{TagSpan, TagsNow};
pub use usage::{Usage, UsageItem, UsageQuery};

/// Reads the ledger. Not shared between threads; open one for each.
pub struct Reader {
    path: PathBuf,
    pub(crate) conn: Connection,
}

impl Reader {
    /// Opens the ledger at `path` for reading. It needs no lock, so it works while an agent runs, and after one
    /// was killed.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Ok(Self { path: path.to_owned(), conn: schema::open_for_reading(path)? })
    }

    /// The host that the ledger belongs to.
    pub fn host(&self) -> Result<HostName, LedgerError> {
        self.answer(schema::owner)
    }

    /// Where the ledger is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Asks several questions as of one moment: quicker than a moment for each, where there are many.
    pub fn at_one_moment<T>(
        &self,
        questions: impl FnOnce(&Self) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.answer(|_| questions(self))
    }

    /// Answers a question as of one moment.
    pub(crate) fn answer<T>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let answer = || {
            if !self.conn.is_autocommit() {
                return question(&self.conn);
            }
            let moment = self.conn.unchecked_transaction()?;
            let answer = question(&self.conn)?;
            moment.finish()?;
            Ok(answer)
        };
        answer().map_err(|error| match error {
            LedgerError::Unwritable { why } => LedgerError::Unreadable { path: self.path.clone(), why },
            other => other,
        })
    }
}
