//! The figures of a host's ledger, in SQLite.

use std::collections::HashMap;
use std::ops::Range;

use dormouse_metering::{Slice, Stamp};
use rusqlite::Connection;

use super::figures::{Asked, Figures, Life};
use super::rollups::amount_before;
use super::tagged::{Span, Spans};
use super::totals::{Piece, piece_columns};
use super::{Amount, Cancel, Rules};
use crate::encode::{self, open_columns};
use crate::reader::sandboxes::pending;
use crate::reader::slices::NotFinal;
use crate::reader::usage::{each_in_window, first_ending_from};
use crate::{LedgerError, SliceRow};

macro_rules! lives {
    ($which:literal) => {
        concat!(
            "SELECT s.pk, s.sandbox, s.generation, s.ended_unix_ns, ",
            open_columns!(),
            " FROM sandboxes s WHERE s.org = ?1 AND (s.ended_unix_ns IS NULL OR s.ended_unix_ns >= ?2) ",
            $which,
            " ORDER BY s.sandbox, s.generation"
        )
    };
}

const OF_ORG: &str = lives!("");
const OF_SANDBOX: &str = lives!("AND s.sandbox = ?3");

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

const SPANS: &str = "SELECT sandbox, value, from_unix_ns, to_unix_ns FROM tags WHERE org = ?1 AND key = ?2 \
     ORDER BY sandbox, from_unix_ns, id";

/// A host's figures, within a transaction.
pub(crate) struct HostFigures<'a> {
    pub(crate) conn: &'a Connection,
    /// Looked at between short statements, which SQLite itself does not.
    pub(crate) cancel: &'a Cancel,
}

impl HostFigures<'_> {
    /// The first closed slice with time in the window, in the order of `sql`.
    fn first_with_time(
        &self,
        (sql, pk, seq): (&str, i64, i64),
        window: &Range<i64>,
    ) -> Result<Option<Piece>, LedgerError> {
        let mut statement = self.conn.prepare_cached(sql)?;
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

    fn not_final_slices(
        &self,
        org: &str,
        life: &Life,
        until: Option<Stamp>,
    ) -> Result<Vec<Slice>, LedgerError> {
        let (Some(until), false) = (until, life.has_ended) else { return Ok(Vec::new()) };
        let pending = pending(self.conn, life.pk)?;
        let not_final = NotFinal::of(&life.key(org), life.open.clone(), &pending, until)?;
        Ok(not_final.closed.into_iter().chain(not_final.until_now).collect())
    }
}

impl Figures for HostFigures<'_> {
    fn lives(&self, org: &str, sandbox: Option<&str>, from_unix_ns: i64) -> Result<Vec<Life>, LedgerError> {
        let life = |row: &rusqlite::Row<'_>| {
            Ok(Life {
                pk: row.get(0)?,
                sandbox: row.get(1)?,
                generation: row.get(2)?,
                has_ended: row.get::<_, Option<i64>>(3)?.is_some(),
                open: encode::open_slice(row, 4)?,
            })
        };
        let lives: rusqlite::Result<Vec<Life>> = match sandbox {
            None => self.conn.prepare_cached(OF_ORG)?.query_map((org, from_unix_ns), life)?.collect(),
            Some(sandbox) => {
                let mut statement = self.conn.prepare_cached(OF_SANDBOX)?;
                statement.query_map((org, from_unix_ns, sandbox), life)?.collect()
            }
        };
        Ok(lives?)
    }

    fn before(&self, asked: &[Asked<'_>], rules: &Rules) -> Result<Vec<Vec<Amount>>, LedgerError> {
        asked
            .iter()
            .map(|(life, at)| {
                self.cancel.check()?;
                at.iter().map(|at| amount_before(self.conn, life.pk, *at, rules)).collect()
            })
            .collect()
    }

    fn not_final(&self, org: &str, life: &Life, until: Option<Stamp>) -> Result<Vec<Piece>, LedgerError> {
        Ok(self.not_final_slices(org, life, until)?.iter().map(Piece::of).collect())
    }

    fn ends(&self, life: &Life, window: &Range<i64>) -> Result<Vec<Piece>, LedgerError> {
        let from_seq = first_ending_from(self.conn, life.pk, window.start)?;
        let first = self.first_with_time((FORWARD, life.pk, from_seq), window)?;
        let to_seq = first_ending_from(self.conn, life.pk, window.end)?;
        let last = self.first_with_time((BACKWARD, life.pk, to_seq), window)?;
        Ok(first.into_iter().chain(last).collect())
    }

    fn each_slice(
        &self,
        org: &str,
        life: &Life,
        (window, until): (&Range<i64>, Option<Stamp>),
        each: &mut dyn FnMut(&SliceRow) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let key = life.key(org);
        each_in_window(self.conn, life.pk, window, |slice| {
            self.cancel.check()?;
            each(&SliceRow::closed(&key, slice, true))
        })?;
        let not_final = self.not_final_slices(org, life, until)?;
        not_final.iter().try_for_each(|slice| each(&SliceRow::closed(&key, slice, false)))
    }

    fn tag_spans(&self, org: &str, key: &str) -> Result<HashMap<String, Spans>, LedgerError> {
        let mut statement = self.conn.prepare_cached(SPANS)?;
        let mut rows = statement.query((org, key))?;
        let mut spans = HashMap::<String, Spans>::new();
        while let Some(row) = rows.next()? {
            let span = Span { value: row.get(1)?, from_unix_ns: row.get(2)?, to_unix_ns: row.get(3)? };
            spans.entry(row.get(0)?).or_default().push(span);
        }
        Ok(spans)
    }
}
