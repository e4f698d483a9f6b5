//! Tags: all of a sandbox's at once, with what they were before.

use rusqlite::{Connection, OptionalExtension};

use super::Apply;
use crate::reader::tags::tags_now;
use crate::tags::TagChanges;
use crate::{LedgerError, TagSet, validate_tags};

const KNOWN: &str = "SELECT 1 FROM sandboxes WHERE org = ?1 AND sandbox = ?2 LIMIT 1";

const END: &str =
    "UPDATE tags SET to_unix_ns = ?4 WHERE org = ?1 AND sandbox = ?2 AND key = ?3 AND to_unix_ns IS NULL";

const BEGIN: &str = "INSERT INTO tags (org, sandbox, key, value, from_unix_ns) VALUES (?1, ?2, ?3, ?4, ?5)";

impl Apply<'_> {
    pub(super) fn tags(&self, set: &TagSet) -> Result<(), LedgerError> {
        replace(self.conn, set)
    }
}

/// Replaces all the tags of a sandbox. The same tags again change nothing.
pub(crate) fn replace(conn: &Connection, set: &TagSet) -> Result<(), LedgerError> {
    validate_tags(&set.tags)?;
    let who = (&set.org, &set.sandbox);
    if conn.prepare_cached(KNOWN)?.query_row(who, |_| Ok(())).optional()?.is_none() {
        let key = crate::SandboxKey { org: set.org.clone(), sandbox: set.sandbox.clone(), generation: 0 };
        return Err(LedgerError::UnknownSandbox(key));
    }
    let was = tags_now(conn, &set.org, &set.sandbox)?;
    let Some(changes) = TagChanges::between(&was, &set.tags, set.at_unix_ns) else { return Ok(()) };
    for key in changes.ended {
        conn.prepare_cached(END)?.execute((&set.org, &set.sandbox, key, changes.at_unix_ns))?;
    }
    for (key, value) in changes.begun {
        conn.prepare_cached(BEGIN)?.execute((&set.org, &set.sandbox, key, value, changes.at_unix_ns))?;
    }
    Ok(())
}
