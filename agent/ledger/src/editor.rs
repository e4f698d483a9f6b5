//! What people change beside the agent: tags, and who may ask over HTTP.
//!
//! An editor has a connection of its own and works whether an agent runs or not. It never touches what the agent's
//! writer keeps in memory: slices, commands and the outbox.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::reader::tags::tags_now;
use crate::{LedgerError, TagSet, TagsNow, apply, schema};

/// Changes tags and tokens. Not shared between threads; open one for each.
pub struct Editor {
    conn: Connection,
}

impl Editor {
    /// Opens the ledger at `path`, which must exist and be of this version.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Ok(Self { conn: schema::open_for_editing(path)? })
    }

    /// Replaces all the tags of a sandbox, and returns them as they are then. The same tags again change nothing,
    /// not even the time of the last change. Fails with [`LedgerError::InvalidTag`] and
    /// [`LedgerError::UnknownSandbox`].
    pub fn set_tags(&mut self, set: &TagSet) -> Result<TagsNow, LedgerError> {
        self.change(|conn| {
            apply::tags::replace(conn, set)?;
            tags_now(conn, &set.org, &set.sandbox)
        })
    }

    /// Makes a change durable, whole or not at all.
    pub(crate) fn change<T>(
        &mut self,
        change: impl FnOnce(&Connection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        // At once, so that nothing it has read is overtaken before it writes.
        let changing = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let changed = change(&changing)?;
        changing.commit()?;
        Ok(changed)
    }
}
