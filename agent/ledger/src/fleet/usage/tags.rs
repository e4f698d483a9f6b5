//! The fleet's tags: all of a sandbox's at once, with what they were before.

use super::session::Session;
use crate::reader::tags::{TagSpan, tags_of};
use crate::tags::TagChanges;
use crate::{LedgerError, SandboxKey, TagSet, TagsNow};

const SPANS: &str = "SELECT key, value, from_unix_ns, to_unix_ns FROM tags WHERE org = $1 AND sandbox = $2 \
     ORDER BY key, from_unix_ns, id";

/// Whoever changes tags of a sandbox holds its rows, in order. They are the same wherever it lives.
const HOLD: &str = "SELECT b.id FROM sandboxes b WHERE b.org = $1 AND b.sandbox = $2 \
     AND EXISTS (SELECT FROM usage_kinds k WHERE k.sandbox_id = b.id) ORDER BY b.id FOR NO KEY UPDATE OF b";

const END: &str =
    "UPDATE tags SET to_unix_ns = $4 WHERE org = $1 AND sandbox = $2 AND key = $3 AND to_unix_ns IS NULL";

const BEGIN: &str = "INSERT INTO tags (org, sandbox, key, value, from_unix_ns) VALUES ($1, $2, $3, $4, $5)";

fn spans(session: &Session<'_>, org: &str, sandbox: &str) -> Result<Vec<TagSpan>, LedgerError> {
    let rows = session.query(SPANS, &[&org, &sandbox])?;
    let span = |row: &tokio_postgres::Row| TagSpan {
        key: row.get(0),
        value: row.get(1),
        from_unix_ns: row.get(2),
        to_unix_ns: row.get(3),
    };
    Ok(rows.iter().map(span).collect())
}

/// The tags of a sandbox as they are.
pub(super) fn now(session: &Session<'_>, org: &str, sandbox: &str) -> Result<TagsNow, LedgerError> {
    Ok(tags_of(spans(session, org, sandbox)?))
}

/// Replaces all the tags of a sandbox. The same tags again change nothing.
pub(super) fn replace(session: &Session<'_>, set: &TagSet) -> Result<TagsNow, LedgerError> {
    let TagSet { org, sandbox, tags, at_unix_ns } = set;
    crate::validate_tags(tags)?;
    // PostgreSQL has no text with NUL in it.
    if sandbox.contains('\0') || session.query(HOLD, &[org, sandbox])?.is_empty() {
        let key = SandboxKey { org: org.clone(), sandbox: sandbox.clone(), generation: 0 };
        return Err(LedgerError::UnknownSandbox(key));
    }
    let was = now(session, org, sandbox)?;
    let Some(changes) = TagChanges::between(&was, tags, *at_unix_ns) else { return Ok(was) };
    for key in &changes.ended {
        session.execute(END, &[org, sandbox, key, &changes.at_unix_ns])?;
    }
    for (key, value) in &changes.begun {
        session.execute(BEGIN, &[org, sandbox, key, value, &changes.at_unix_ns])?;
    }
    now(session, org, sandbox)
}
