//! Slices, page by page.

use std::ops::Range;

use dormouse_metering::{Cause, Change, Meter, Observation, OpenSlice, Slice, Stamp};
use rusqlite::Connection;

use super::{Reader, SandboxFilter, sandboxes};
use crate::encode::{self, int, slice_columns};
use crate::suppression::Suppression;
use crate::usage::rollups;
use crate::{LedgerError, SandboxKey, SliceRow};

/// Which slices.
#[derive(Clone, Debug, Default)]
pub struct SliceQuery {
    /// Of these sandboxes.
    pub sandboxes: SandboxFilter,
    /// Only those with time in this half-open window of wall time, in nanoseconds since the Unix epoch.
    pub window: Option<Range<i64>>,
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
    " FROM slices x WHERE x.sandbox_pk = ?1 AND x.seq > ?2 AND (x.end_unix_ns > ?4 OR x.start_unix_ns >= ?4) \
     ORDER BY x.seq LIMIT ?3"
);

const ALWAYS: Range<i64> = i64::MIN..i64::MAX;

/// Whether something has time in a window: an instant counts where it lies.
fn meets(start_unix_ns: i64, end_unix_ns: Option<i64>, window: &Range<i64>) -> bool {
    let is_over = end_unix_ns.is_some_and(|end| end <= window.start && start_unix_ns < window.start);
    start_unix_ns < window.end && !is_over
}

/// Calls `each` with the closed slices of a sandbox that have time in `window` after number `after`, in order.
fn each_closed(
    conn: &Connection,
    pk: i64,
    window: &Range<i64>,
    after: u64,
    limit: usize,
    mut each: impl FnMut(Slice) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    // Long lives are entered where a rollup says that the window begins.
    let after = int("after", after)?.max(rollups::first_seq_after(conn, pk, window.start)?.saturating_sub(1));
    let mut statement = conn.prepare_cached(SLICES)?;
    let mut rows = statement.query((pk, after, encode::row_limit(limit), window.start))?;
    while let Some(row) = rows.next()? {
        let slice = encode::slice(row, 0)?;
        if slice.start.unix_ns >= window.end {
            break;
        }
        each(slice)?;
    }
    Ok(())
}

/// What of a sandbox's life is not final, at the moment of a question.
pub(crate) struct NotFinal {
    /// What would be closed if everything pending were final.
    pub(crate) closed: Vec<Slice>,
    /// What would be open then.
    pub(crate) open: Option<OpenSlice>,
    /// The open slice until now: one slice, or more where hours have passed or the clock was stepped.
    pub(crate) until_now: Vec<Slice>,
}

impl NotFinal {
    /// Plays what is pending through the meter, and then a mark at `now`. What is stamped later is left out.
    pub(crate) fn of(
        key: &SandboxKey,
        open: Option<OpenSlice>,
        pending: &[Observation],
        now: Stamp,
    ) -> Result<Self, LedgerError> {
        let refused = |why| LedgerError::corrupt(format!("what is pending of sandbox {key}: {why}"));
        let known = |observation: &&Observation| {
            let at = observation.at;
            if at.boot == now.boot { at.boottime_ns <= now.boottime_ns } else { at.wall_ns <= now.wall_ns }
        };
        let mut closed = Vec::new();
        let mut meter = Meter::resume(open, pending.iter().filter(known).cloned()).map_err(refused)?;
        let open = meter.provisional(&mut |slice| closed.push(slice));
        let mut until_now = Vec::new();
        if open.is_some() {
            let mark = Observation { at: now, change: Change::Mark, cause: Cause::Tick, command: None };
            meter.observe(mark, &mut |slice| until_now.push(slice)).map_err(refused)?;
            meter.provisional(&mut |slice| until_now.push(slice));
            until_now.drain(..closed.len().min(until_now.len()));
        }
        Ok(Self { closed, open, until_now })
    }

    /// The rows of these slices. The last is the one that is open, if one is.
    fn rows(
        &self,
        key: &SandboxKey,
        suppression: &mut Suppression<'_>,
    ) -> Result<Vec<SliceRow>, LedgerError> {
        let hours = self.until_now.split_last().map_or(&[][..], |(_, before)| before);
        let mut rows = Vec::new();
        for slice in self.closed.iter().chain(hours) {
            let reason = suppression.reason(slice)?;
            rows.push(SliceRow::closed(key, slice, false).suppressed_for(reason));
        }
        match (self.until_now.last(), &self.open) {
            (Some(last), _) => {
                rows.push(SliceRow::open_until(key, last).suppressed_for(suppression.reason(last)?));
            }
            (None, Some(open)) => {
                let reason = suppression.reason_at(open.seq, open.state, &open.start)?;
                rows.push(SliceRow::open(key, open).suppressed_for(reason));
            }
            (None, None) => {}
        }
        Ok(rows)
    }
}

impl Reader {
    /// A page of slices, by org, sandbox, generation and number.
    pub fn slices(&self, query: &SliceQuery) -> Result<SlicePage, LedgerError> {
        let window = query.window.as_ref().unwrap_or(&ALWAYS);
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
                let mut suppression = Suppression::new(conn, pk, &sandbox.key.org);
                each_closed(conn, pk, window, after, query.limit - rows.len(), |slice| {
                    let reason = suppression.reason(&slice)?;
                    rows.push(SliceRow::closed(&sandbox.key, &slice, true).suppressed_for(reason));
                    Ok(())
                })?;
                if let Some(now) = query.now.filter(|_| rows.len() < query.limit) {
                    let not_final = NotFinal::of(&sandbox.key, sandbox.open.clone(), &sandbox.pending, now)?;
                    let not_final = not_final.rows(&sandbox.key, &mut suppression)?;
                    let is_asked =
                        |row: &SliceRow| row.seq > after && meets(row.start_unix_ns, row.end_unix_ns, window);
                    rows.extend(not_final.into_iter().filter(is_asked));
                }
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
