//! The usage of one sandbox, its generations together, whether it still lives or not.

use std::ops::Range;

use rusqlite::Connection;

use super::lives::{Life, lives};
use super::totals::{Piece, piece_columns};
use super::{Amount, Cancel, Interval, Moment, Point, Rules};
use crate::reader::usage::first_ending_from;
use crate::{LedgerError, Reader};

/// Which sandbox's usage.
#[derive(Clone, Debug)]
pub struct DrilldownQuery {
    /// Its org.
    pub org: String,
    /// Its id.
    pub sandbox: String,
    /// In this half-open window of wall time, in nanoseconds since the Unix epoch.
    pub window: Range<i64>,
    /// The moment of the question.
    pub moment: Moment,
    /// What is billed, and how.
    pub rules: Rules,
    /// The length of the points, if there are to be any.
    pub interval: Option<Interval>,
}

/// What one sandbox used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drilldown {
    /// All of it.
    pub amount: Amount,
    /// When its first slice in the window started, in nanoseconds since the Unix epoch, but not before the window.
    pub first_started_unix_ns: Option<i64>,
    /// When its last slice in the window ended, but not after the window.
    pub last_ended_unix_ns: Option<i64>,
    /// What adds up to the amount, in order of time.
    pub points: Option<Vec<Point>>,
}

const FORWARD: &str = concat!(
    "SELECT ",
    piece_columns!(),
    " FROM slices x WHERE x.sandbox_pk = ?1 AND x.seq >= ?2 ORDER BY x.seq"
);
const BACKWARD: &str = concat!(
    "SELECT ",
    piece_columns!(),
    " FROM slices x WHERE x.sandbox_pk = ?1 AND x.seq <= ?2 ORDER BY x.seq DESC"
);

/// The first closed slice with time in the window, in the order of `sql`.
fn first_with_time(
    conn: &Connection,
    (sql, pk, seq): (&str, i64, i64),
    window: &Range<i64>,
) -> Result<Option<Piece>, LedgerError> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query((pk, seq))?;
    while let Some(row) = rows.next()? {
        let piece = Piece::read(row)?;
        if piece.clip_ns(window) > 0 {
            return Ok(Some(piece));
        }
        // Beyond the window there is only more of what lies beyond it.
        let is_beyond =
            if sql == FORWARD { piece.place.start >= window.end } else { piece.place.end < window.start };
        if is_beyond {
            break;
        }
    }
    Ok(None)
}

/// From the first to the last time of a life in the window.
fn span(conn: &Connection, life: &Life, query: &DrilldownQuery) -> Result<Option<(i64, i64)>, LedgerError> {
    let window = &query.window;
    let from_seq = first_ending_from(conn, life.pk, window.start)?;
    let first = first_with_time(conn, (FORWARD, life.pk, from_seq), window)?;
    let to_seq = first_ending_from(conn, life.pk, window.end)?;
    let last = first_with_time(conn, (BACKWARD, life.pk, to_seq), window)?;
    let not_final = life.not_final(conn, query.moment.open_until)?;
    let pieces = first.iter().chain(&last).chain(&not_final).filter(|piece| piece.clip_ns(window) > 0);
    let places = pieces.map(|piece| (piece.place.start.max(window.start), piece.place.end.min(window.end)));
    Ok(places.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))))
}

impl Reader {
    /// What one sandbox used in a window; `None` if the org has no such sandbox.
    pub fn drilldown(
        &mut self,
        query: &DrilldownQuery,
        cancel: &Cancel,
    ) -> Result<Option<Drilldown>, LedgerError> {
        self.until(cancel, |reader| {
            reader.answer(|conn| {
                let lives = lives(conn, &query.org, Some(&query.sandbox), i64::MIN)?;
                if lives.is_empty() {
                    return Ok(None);
                }
                let mut points = super::points(&query.window, query.interval);
                let (mut sum, mut spans) = (Amount::default(), Vec::new());
                if !query.window.is_empty() {
                    let starts = points.iter().map(|point| point.window.start).skip(1);
                    let mut cuts = vec![query.window.start];
                    cuts.extend(starts.chain([query.window.end]));
                    for life in &lives {
                        cancel.check()?;
                        let amounts = life.amounts(conn, &cuts, query.moment.open_until, &query.rules)?;
                        amounts.iter().try_for_each(|amount| sum.add(*amount))?;
                        for (point, amount) in points.iter_mut().zip(amounts) {
                            point.amount.add(amount)?;
                        }
                        spans.extend(span(conn, life, query)?);
                    }
                }
                Ok(Some(Drilldown {
                    amount: sum,
                    first_started_unix_ns: spans.iter().map(|span| span.0).min(),
                    last_ended_unix_ns: spans.iter().map(|span| span.1).max(),
                    points: query.interval.is_some().then_some(points),
                }))
            })
        })
    }
}
