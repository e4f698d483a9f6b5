//! Tags as they are and as they were.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::Reader;
use crate::LedgerError;

/// The tags of a sandbox as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagsNow {
    /// Key to value.
    pub tags: BTreeMap<String, String>,
    /// When they last changed, in nanoseconds since the Unix epoch; `None` if there never were any.
    pub updated_unix_ns: Option<i64>,
}

/// A value that a tag had in `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagSpan {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// Since when, in nanoseconds since the Unix epoch.
    pub from_unix_ns: i64,
    /// Until when, exclusive; `None` while it lasts.
    pub to_unix_ns: Option<i64>,
}

const SPANS: &str = "SELECT key, value, from_unix_ns, to_unix_ns FROM tags WHERE org = ?1 AND sandbox = ?2 \
     ORDER BY key, from_unix_ns, id";

fn spans(conn: &Connection, org: &str, sandbox: &str) -> Result<Vec<TagSpan>, LedgerError> {
    let mut statement = conn.prepare_cached(SPANS)?;
    let rows = statement.query_map((org, sandbox), |row| {
        Ok(TagSpan {
            key: row.get(0)?,
            value: row.get(1)?,
            from_unix_ns: row.get(2)?,
            to_unix_ns: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The tags of a sandbox as they are.
pub(crate) fn tags_now(conn: &Connection, org: &str, sandbox: &str) -> Result<TagsNow, LedgerError> {
    Ok(tags_of(spans(conn, org, sandbox)?))
}

/// The tags that a sandbox has, by all that it ever had.
pub(crate) fn tags_of(spans: Vec<TagSpan>) -> TagsNow {
    let updated_unix_ns = spans.iter().map(|span| span.to_unix_ns.unwrap_or(span.from_unix_ns)).max();
    let now = spans.into_iter().filter(|span| span.to_unix_ns.is_none());
    TagsNow { tags: now.map(|span| (span.key, span.value)).collect(), updated_unix_ns }
}

impl Reader {
    /// The tags of a sandbox as they are.
    pub fn tags(&self, org: &str, sandbox: &str) -> Result<TagsNow, LedgerError> {
        self.answer(|conn| tags_now(conn, org, sandbox))
    }

    /// Every value that a tag of the sandbox ever had, by key and time.
    pub fn tag_history(&self, org: &str, sandbox: &str) -> Result<Vec<TagSpan>, LedgerError> {
        self.answer(|conn| spans(conn, org, sandbox))
    }
}
