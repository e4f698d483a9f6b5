//! Tags: all of a sandbox's at once, with what they were before.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::Apply;
use crate::{LedgerError, TagSet, validate_tags};

const KNOWN: &str = "SELECT 1 FROM sandboxes WHERE org = ?1 AND sandbox = ?2 LIMIT 1";

const NOW: &str = "SELECT key, value FROM tags WHERE org = ?1 AND sandbox = ?2 AND to_unix_ns IS NULL";

const LAST_CHANGE: &str = "SELECT max(max(from_unix_ns, coalesce(to_unix_ns, from_unix_ns))) FROM tags WHERE org = ?1 AND sandbox = ?2";

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
    let had: BTreeMap<String, String> = conn
        .prepare_cached(NOW)?
        .query_map(who, |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    if had == set.tags {
        return Ok(());
    }
    // A wall clock that was set back must not end a tag before it began.
    let last: Option<i64> = conn.prepare_cached(LAST_CHANGE)?.query_row(who, |row| row.get(0))?;
    let at_unix_ns = last.map_or(set.at_unix_ns, |last| last.max(set.at_unix_ns));
    for key in had.iter().filter(|(key, value)| set.tags.get(*key) != Some(*value)).map(|(key, _)| key) {
        conn.prepare_cached(END)?.execute((&set.org, &set.sandbox, key, at_unix_ns))?;
    }
    for (key, value) in set.tags.iter().filter(|(key, value)| had.get(*key) != Some(*value)) {
        conn.prepare_cached(BEGIN)?.execute((&set.org, &set.sandbox, key, value, at_unix_ns))?;
    }
    Ok(())
}
