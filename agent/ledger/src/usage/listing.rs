//! What an org has: sandboxes and tag keys, page by page.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::encode::row_limit;
use crate::{LedgerError, Reader};

/// A sandbox, as its latest generation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxEntry {
    /// Its id.
    pub sandbox: String,
    /// The latest generation.
    pub generation: i64,
    /// The org's plan; `None` where it is not known: no event tells a fleet.
    pub plan: Option<String>,
    /// Where its life stands: the billing state it is in, or `ended`.
    pub lifecycle: String,
    /// When the ledger first saw this generation, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i64,
    /// When its life ended.
    pub ended_unix_ns: Option<i64>,
}

/// A key that sandboxes are tagged with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagKey {
    /// The key.
    pub key: String,
    /// How many sandboxes have a tag of this key.
    pub sandbox_count: u64,
    /// How many values it has.
    pub value_count: u64,
}

/// Beside `max` SQLite takes the other columns from the row that has it.
const SANDBOXES: &str = "SELECT sandbox, max(generation), plan, lifecycle, created_unix_ns, ended_unix_ns \
     FROM sandboxes WHERE org = ?1 AND sandbox > ?2 GROUP BY sandbox ORDER BY sandbox LIMIT ?3";

const SANDBOX: &str = "SELECT sandbox, generation, plan, lifecycle, created_unix_ns, ended_unix_ns \
     FROM sandboxes WHERE org = ?1 AND sandbox = ?2 ORDER BY generation DESC LIMIT 1";

const TAG_KEYS: &str = "SELECT key, count(*), count(DISTINCT value) FROM tags \
     WHERE org = ?1 AND key > ?2 AND to_unix_ns IS NULL GROUP BY key ORDER BY key LIMIT ?3";

/// Where a life stands that was in this state last, and may have ended in it: a guest is stopped before QEMU quits.
pub(crate) fn standing(state: String, ended_unix_ns: Option<i64>) -> String {
    if ended_unix_ns.is_some() { "ended".to_owned() } else { state }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<SandboxEntry> {
    let ended_unix_ns = row.get(5)?;
    Ok(SandboxEntry {
        sandbox: row.get(0)?,
        generation: row.get(1)?,
        plan: row.get(2)?,
        lifecycle: standing(row.get(3)?, ended_unix_ns),
        created_unix_ns: row.get(4)?,
        ended_unix_ns,
    })
}

/// At most `limit` sandboxes of an org with ids after `after`, in order.
pub(super) fn sandbox_entries(
    conn: &Connection,
    org: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<SandboxEntry>, LedgerError> {
    let mut statement = conn.prepare_cached(SANDBOXES)?;
    let rows = statement.query_map((org, after, row_limit(limit)), entry)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// At most `limit` keys of an org's tags after `after`, in order.
pub(super) fn tag_keys(
    conn: &Connection,
    org: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<TagKey>, LedgerError> {
    let mut statement = conn.prepare_cached(TAG_KEYS)?;
    let rows = statement.query_map((org, after, row_limit(limit)), |row| {
        Ok(TagKey {
            key: row.get(0)?,
            sandbox_count: crate::encode::uint(row, 1)?,
            value_count: crate::encode::uint(row, 2)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Reader {
    /// One sandbox; `None` if the org has none of this id.
    pub fn sandbox_entry(&self, org: &str, sandbox: &str) -> Result<Option<SandboxEntry>, LedgerError> {
        self.answer(|conn| Ok(conn.prepare_cached(SANDBOX)?.query_row((org, sandbox), entry).optional()?))
    }
}
