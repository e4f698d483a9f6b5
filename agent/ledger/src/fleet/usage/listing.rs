//! What an org has in a fleet: sandboxes, their slices, and tag keys, page by page.

use tokio_postgres::Row;

use super::figures::{FleetFigures, hour_at};
use super::rows::{self, slice_columns};
use super::session::Session;
use crate::encode::row_limit;
use crate::usage::figures::Figures;
use crate::usage::listing::standing;
use crate::usage::{SandboxEntry, SlicesOf, TagKey};
use crate::{LedgerError, SliceRow};

/// Of each sandbox its last slice, wherever it lived then. One without a slice is not told.
macro_rules! sandboxes {
    ($which:literal) => {
        concat!(
            "SELECT n.sandbox, x.generation, x.state, x.closed_by, x.end_unix_ns \
             FROM (SELECT DISTINCT b.sandbox FROM sandboxes b WHERE b.org = $1 AND ",
            $which,
            " AND EXISTS (SELECT FROM usage_kinds k WHERE k.sandbox_id = b.id) \
                 ORDER BY b.sandbox LIMIT $3) n \
             CROSS JOIN LATERAL (SELECT x.* FROM sandboxes b \
                 CROSS JOIN LATERAL (SELECT * FROM slices x WHERE x.sandbox_id = b.id \
                     ORDER BY x.start_unix_ns DESC, x.generation DESC, x.seq DESC LIMIT 1) x \
                 WHERE b.org = $1 AND b.sandbox = n.sandbox \
                 ORDER BY x.generation DESC, x.start_unix_ns DESC, x.seq DESC LIMIT 1) x \
             ORDER BY n.sandbox"
        )
    };
}

const SANDBOXES: &str = sandboxes!("b.sandbox > $2");
const SANDBOX: &str = sandboxes!("b.sandbox = $2");

const ORGS: &str = "SELECT DISTINCT org FROM sandboxes ORDER BY org";

/// From each host as many as are wanted at most, and of those the first.
const SLICES: &str = concat!(
    "SELECT ",
    slice_columns!(),
    " FROM unnest($1::bigint[]) AS b (id) CROSS JOIN LATERAL (SELECT * FROM slices x WHERE x.sandbox_id = b.id \
         AND (x.start_unix_ns, x.generation, x.seq) > ($2, $3, $4) \
         AND x.start_unix_ns >= $6 AND (x.end_unix_ns > $7 OR x.start_unix_ns >= $7) AND x.start_unix_ns < $8 \
         ORDER BY x.start_unix_ns, x.generation, x.seq LIMIT $5) x \
     ORDER BY x.start_unix_ns, x.generation, x.seq LIMIT $5"
);

const TAG_KEYS: &str = "SELECT key, count(*), count(DISTINCT value) FROM tags \
     WHERE org = $1 AND key > $2 AND to_unix_ns IS NULL GROUP BY key ORDER BY key LIMIT $3";

/// The causes by which a life ends: no slice of the generation follows.
const ENDS: [&str; 4] = ["destroy", "detach", "death", "shutdown"];

fn entry(row: &Row) -> SandboxEntry {
    let closed_by: &str = row.get(3);
    let generation = row.get(1);
    let ended_unix_ns = ENDS.contains(&closed_by).then(|| row.get(4));
    SandboxEntry {
        sandbox: row.get(0),
        generation,
        plan: None,
        lifecycle: standing(row.get(2), ended_unix_ns),
        created_unix_ns: generation,
        ended_unix_ns,
    }
}

pub(super) fn sandbox_entries(
    session: &Session<'_>,
    org: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<SandboxEntry>, LedgerError> {
    Ok(session.query(SANDBOXES, &[&org, &after, &row_limit(limit)])?.iter().map(entry).collect())
}

pub(super) fn sandbox_entry(
    session: &Session<'_>,
    org: &str,
    sandbox: &str,
) -> Result<Option<SandboxEntry>, LedgerError> {
    // PostgreSQL has no text with NUL in it.
    if sandbox.contains('\0') {
        return Ok(None);
    }
    Ok(session.query(SANDBOX, &[&org, &sandbox, &1_i64])?.first().map(entry))
}

pub(super) fn orgs(session: &Session<'_>) -> Result<Vec<String>, LedgerError> {
    Ok(session.query(ORGS, &[])?.iter().map(|row| row.get(0)).collect())
}

/// `None` if the org has no such sandbox.
pub(super) fn slices_of(
    figures: &FleetFigures<'_>,
    query: &SlicesOf,
) -> Result<Option<Vec<SliceRow>>, LedgerError> {
    let lives = figures.lives(&query.org, Some(&query.sandbox), i64::MIN)?;
    if lives.is_empty() {
        return Ok(None);
    }
    let ids: Vec<i64> = lives.iter().map(|life| life.pk).collect();
    let (start, generation, seq) = query.after.map_or((i64::MIN, i64::MIN, 0), |after| {
        (after.start_unix_ns, after.generation, i64::try_from(after.seq).unwrap_or(i64::MAX))
    });
    let (from, to) = query.window.as_ref().map_or((0, i64::MAX), |window| (window.start, window.end));
    // No slice crosses an hour.
    let from_hour = hour_at(from);
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
        [&ids, &start, &generation, &seq, &row_limit(query.limit), &from_hour, &from, &to];
    let found = figures.session.query(SLICES, &values)?;
    found.iter().map(|row| rows::slice_row(row, &query.sandbox)).collect::<Result<_, _>>().map(Some)
}

pub(super) fn tag_keys(
    session: &Session<'_>,
    org: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<TagKey>, LedgerError> {
    let rows = session.query(TAG_KEYS, &[&org, &after, &row_limit(limit)])?;
    // Counts are never negative.
    let key = |row: &Row| TagKey {
        key: row.get(0),
        sandbox_count: row.get::<_, i64>(1).unsigned_abs(),
        value_count: row.get::<_, i64>(2).unsigned_abs(),
    };
    Ok(rows.iter().map(key).collect())
}
