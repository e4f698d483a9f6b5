//! Rollups: running totals of a life until each full UTC hour and until the end of every sixteenth slice, written with the
//! slice that reaches it; and what lies before an instant.

use std::ops::Range;

use dormouse_metering::{Slice, hour};
use rusqlite::{Connection, OptionalExtension, Row};

use super::totals::{Piece, Totals, piece_columns};
use super::{Amount, Rules};
use crate::LedgerError;
use crate::encode::bad;

/// With more states and sizes of disk than this the totals begin anew, so that no row grows without bound.
const KEPT_APART_MAX: usize = 64;

/// So many slices, or a few more, are read at an end of a window at the most, however many an hour has.
const SLICES_BETWEEN: i64 = 16;

const LATEST: &str = "SELECT until_unix_ns, seq, since_unix_ns, totals FROM usage_rollups \
     WHERE sandbox_pk = ?1 AND until_unix_ns <= ?2 ORDER BY until_unix_ns DESC LIMIT 1";

const ROLL_UP: &str = "INSERT INTO usage_rollups (sandbox_pk, until_unix_ns, seq, since_unix_ns, totals) \
     VALUES (?1, ?2, ?3, ?4, ?5)";

const PIECES: &str = concat!(
    "SELECT ",
    piece_columns!(),
    " FROM slices x WHERE x.sandbox_pk = ?1 AND x.seq >= ?2 AND x.seq < ?3 ORDER BY x.seq"
);

/// A row of `usage_rollups`.
#[derive(Clone, Debug)]
pub(crate) struct Rollup {
    pub(crate) until_unix_ns: i64,
    /// The first slice that may have a part after that.
    pub(crate) seq: i64,
    /// From where the totals count; `None` from the beginning.
    pub(crate) since_unix_ns: Option<i64>,
    pub(crate) totals: Totals,
}

impl Rollup {
    /// Reads until, seq, since and totals from the columns that begin at `first`.
    pub(crate) fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let totals = row.get_ref(first + 3)?.as_blob().map_err(|_| bad(first + 3, "no totals"))?;
        Ok(Self {
            until_unix_ns: row.get(first)?,
            seq: row.get(first + 1)?,
            since_unix_ns: row.get(first + 2)?,
            totals: Totals::decode(totals).ok_or_else(|| bad(first + 3, "no totals"))?,
        })
    }

    pub(crate) fn latest(conn: &Connection, pk: i64, unix_ns: i64) -> Result<Option<Self>, LedgerError> {
        let mut find = conn.prepare_cached(LATEST)?;
        Ok(find.query_row((pk, unix_ns), |row| Self::read(row, 0)).optional()?)
    }
}

/// Calls `each` with the slices of a sandbox of some numbers that begin before an instant.
pub(crate) fn each_piece(
    conn: &Connection,
    pk: i64,
    seqs: Range<i64>,
    before_unix_ns: i64,
    mut each: impl FnMut(&Piece) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut statement = conn.prepare_cached(PIECES)?;
    let mut rows = statement.query((pk, seqs.start, seqs.end))?;
    while let Some(row) = rows.next()? {
        let piece = Piece::read(row)?;
        if piece.place.start >= before_unix_ns {
            break;
        }
        each(&piece)?;
    }
    Ok(())
}

/// The number of the first closed slice of a sandbox that may have a part after an instant, or one before it.
pub(crate) fn first_seq_after(conn: &Connection, pk: i64, unix_ns: i64) -> Result<i64, LedgerError> {
    Ok(Rollup::latest(conn, pk, unix_ns)?.map_or(1, |rollup| rollup.seq))
}

/// Until when a slice brings a rollup: the last full hour in `(start, end]`, or else its end if its number says so. It is
/// later than that of every slice before, none of which ends after this one's start.
fn due(seq: i64, place: &Range<i64>) -> Option<i64> {
    let hour_unix_ns = place.end.checked_sub(place.end.rem_euclid(hour::HOUR_NS))?;
    if hour_unix_ns > place.start {
        return Some(hour_unix_ns);
    }
    (seq % SLICES_BETWEEN == 0 && place.end > place.start).then_some(place.end)
}

/// Writes the rollup that a slice brings, if it brings one. The slice is stored already.
///
/// Where a sum passes 128 bits there is no row: the slices are read then, and the question fails as it must.
pub(crate) fn roll_up(conn: &Connection, pk: i64, slice: &Slice) -> Result<(), LedgerError> {
    let seq = crate::encode::int("seq", slice.seq)?;
    let Some(until_unix_ns) = due(seq, &(slice.start.unix_ns..slice.end.unix_ns)) else { return Ok(()) };
    let last = Rollup::latest(conn, pk, until_unix_ns)?;
    let (from_unix_ns, from_seq) = last.as_ref().map_or((i64::MIN, 1), |last| (last.until_unix_ns, last.seq));
    let (since_unix_ns, mut totals) = match last {
        None => (None, Totals::default()),
        Some(last) if last.totals.len() > KEPT_APART_MAX => (Some(last.until_unix_ns), Totals::default()),
        Some(last) => (last.since_unix_ns, last.totals),
    };
    let mut fits = true;
    let mut add = |piece: &Piece| {
        fits &= totals.add(piece, &(from_unix_ns..until_unix_ns)).is_some();
        Ok(())
    };
    // The slices of a sandbox that is let alone go from hour to hour: what is to be added is this one.
    if slice.start.unix_ns == from_unix_ns && seq == from_seq + 1 {
        add(&Piece::of(slice))?;
    } else {
        each_piece(conn, pk, from_seq..i64::MAX, until_unix_ns, add)?;
    }
    if fits {
        let mut insert = conn.prepare_cached(ROLL_UP)?;
        insert.execute((pk, until_unix_ns, seq, since_unix_ns, totals.encode()))?;
    }
    Ok(())
}

/// Calls `each` with the totals of the last rollup at or before an instant, and returns until when that is and the number of
/// the first slice that may have a part after it.
pub(crate) fn rolled_up(
    conn: &Connection,
    pk: i64,
    unix_ns: i64,
    mut each: impl FnMut(&Totals) -> Result<(), LedgerError>,
) -> Result<(i64, i64), LedgerError> {
    let mut rollup = Rollup::latest(conn, pk, unix_ns)?;
    let reached = rollup.as_ref().map_or((i64::MIN, 1), |last| (last.until_unix_ns, last.seq));
    while let Some(Rollup { since_unix_ns, totals, .. }) = rollup {
        each(&totals)?;
        rollup = match since_unix_ns {
            Some(until_unix_ns) => Rollup::latest(conn, pk, until_unix_ns)?,
            None => None,
        };
    }
    Ok(reached)
}

/// What the closed slices of a sandbox amount to before an instant.
pub(crate) fn amount_before(
    conn: &Connection,
    pk: i64,
    unix_ns: i64,
    rules: &Rules,
) -> Result<Amount, LedgerError> {
    let mut sum = Amount::default();
    let mut add = |amount: Amount| {
        sum = sum.checked_add(amount).ok_or_else(Amount::overflow)?;
        Ok(())
    };
    let (from_unix_ns, seq) = rolled_up(conn, pk, unix_ns, |totals| add(totals.amount(rules)?))?;
    if from_unix_ns < unix_ns {
        let window = from_unix_ns..unix_ns;
        each_piece(conn, pk, seq..i64::MAX, unix_ns, |piece| add(piece.amount(&window, rules)?))?;
    }
    Ok(sum)
}
