//! Slices, page by page.

use dormouse_metering::{Slice, Stamp};
use rusqlite::Connection;

use super::{Reader, SandboxFilter, sandboxes};
use crate::encode::{self, int, slice_columns};
use crate::{LedgerError, SandboxKey, SandboxRow, SliceRow};

/// Which slices.
#[derive(Clone, Debug, Default)]
pub struct SliceQuery {
    /// Of these sandboxes.
    pub sandboxes: SandboxFilter,
    /// Only what follows this place.
    pub after: Option<SliceCursor>,
    /// At most this many.
    pub limit: usize,
    /// The moment of the question, until which open slices last. Without it only final slices are told.
    pub now: Option<Stamp>,
}

/// A place in the order of slices: by org, sandbox, generation and number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceCursor {
    /// The sandbox.
    pub key: SandboxKey,
    /// The number of the slice.
    pub seq: u64,
}

/// Some slices, in order.
#[derive(Clone, Debug)]
pub struct SlicePage {
    /// The slices.
    pub rows: Vec<SliceRow>,
    /// Where to go on, if there may be more.
    pub next: Option<SliceCursor>,
}

const SLICES: &str = concat!(
    "SELECT ",
    slice_columns!(),
    " FROM slices x WHERE x.sandbox_pk = ?1 AND x.seq > ?2 ORDER BY x.seq LIMIT ?3"
);

/// Calls `each` with the closed slices of a sandbox after number `after`, in order.
pub(crate) fn each_closed(
    conn: &Connection,
    pk: i64,
    after: u64,
    limit: usize,
    mut each: impl FnMut(Slice) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(SLICES)?;
    let mut rows = statement.query((pk, int("after", after)?, limit))?;
    while let Some(row) = rows.next()? {
        each(encode::slice(row, 0)?)?;
    }
    Ok(())
}

/// The slices of a sandbox that are not final: what is pending, played through the meter, and what is open.
fn provisional(sandbox: &SandboxRow, now: Stamp) -> Vec<SliceRow> {
    let Some(open) = &sandbox.open else { return Vec::new() };
    let duration_ns =
        if now.boot == open.boot { now.boottime_ns.saturating_sub(open.start_boottime_ns) } else { 0 };
    vec![SliceRow::open(&sandbox.key, open, duration_ns)]
}

impl Reader {
    /// A page of slices, by org, sandbox, generation and number.
    pub fn slices(&self, query: &SliceQuery) -> Result<SlicePage, LedgerError> {
        self.answer(|conn| {
            let mut rows = Vec::new();
            for (pk, sandbox) in sandboxes::matching(conn, &query.sandboxes)? {
                let after = match &query.after {
                    Some(cursor) if sandbox.key < cursor.key => continue,
                    Some(cursor) if sandbox.key == cursor.key => cursor.seq,
                    _ => 0,
                };
                if rows.len() >= query.limit {
                    break;
                }
                each_closed(conn, pk, after, query.limit - rows.len(), |slice| {
                    rows.push(SliceRow::closed(&sandbox.key, &slice, true));
                    Ok(())
                })?;
                let open = query.now.map(|now| provisional(&sandbox, now)).unwrap_or_default();
                rows.extend(open.into_iter().filter(|row| row.seq > after));
                rows.truncate(query.limit);
            }
            let next = (rows.len() >= query.limit).then(|| rows.last().map(cursor)).flatten();
            Ok(SlicePage { rows, next })
        })
    }
}

fn cursor(row: &SliceRow) -> SliceCursor {
    let key = SandboxKey { org: row.org.clone(), sandbox: row.sandbox.clone(), generation: row.generation };
    SliceCursor { key, seq: row.seq }
}
