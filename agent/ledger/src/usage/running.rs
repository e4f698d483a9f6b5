//! Running totals of one life, slice by slice: what lies before a slice, exactly, whenever it is asked for. For whoever
//! tells a difference of two of them, and must tell the same the next time.

use std::ops::Range;

use dormouse_metering::Dimensions;
use rusqlite::{Connection, OptionalExtension, params};

use super::rollups::{each_piece, rolled_up};
use super::totals::{Piece, Totals};
use super::{Amount, Rules};
use crate::encode::int;
use crate::{LedgerError, Reader, SandboxKey, SliceRow};

const START: &str = "SELECT s.pk, x.start_unix_ns FROM sandboxes s JOIN slices x ON x.sandbox_pk = s.pk \
     WHERE s.org = ?1 AND s.sandbox = ?2 AND s.generation = ?3 AND x.seq = ?4";

/// The command that a life began by: it is pending at first, then that of the open slice, then that of a closed one.
const BEGAN_BY: &str = "SELECT coalesce( \
     (SELECT opened_command FROM slices WHERE sandbox_pk = s.pk AND seq = 1), \
     CASE s.open_seq WHEN 1 THEN s.open_opened_command END, \
     CASE WHEN s.open_seq IS NULL THEN (SELECT observation ->> '$.command' FROM pending \
         WHERE sandbox_pk = s.pk AND observation -> '$.change.began' IS NOT NULL ORDER BY ord LIMIT 1) END) \
     FROM sandboxes s WHERE s.org = ?1 AND s.sandbox = ?2 AND s.generation = ?3";

const LAST: &str = "SELECT max(x.seq) FROM sandboxes s JOIN slices x ON x.sandbox_pk = s.pk \
     WHERE s.org = ?1 AND s.sandbox = ?2 AND s.generation = ?3 AND s.ended_unix_ns IS NOT NULL";

/// What the slices of a life amount to so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LifeTotals(Totals);

impl LifeTotals {
    /// Adds a closed slice.
    pub fn add(&mut self, slice: &SliceRow) -> Result<(), LedgerError> {
        let place = slice.start_unix_ns..slice.end_unix_ns.unwrap_or(slice.start_unix_ns);
        let piece = Piece::new(&slice.state, slice.shape(), slice.duration_ns, place)
            .ok_or_else(|| LedgerError::rejected(format!("there is no billing state {:?}", slice.state)))?;
        self.0.add(&piece, &ALWAYS).ok_or_else(Amount::overflow)
    }

    /// What it amounts to by some rules.
    pub fn amount(&self, rules: &Rules) -> Result<Amount, LedgerError> {
        self.0.amount(rules)
    }

    /// How long it was in states of which a policy bills just these dimensions, in nanoseconds.
    pub fn billed_as_ns(&self, rules: &Rules, billed: Dimensions) -> Result<u128, LedgerError> {
        self.0.duration_ns(|state| rules.policy.billed(state) == billed).ok_or_else(Amount::overflow)
    }
}

const ALWAYS: Range<i64> = i64::MIN..i64::MAX;

impl Reader {
    /// What the closed slices of a life amount to before one of them, which is stored. It is read from the last
    /// rollup and the slices since, none of which ever changes.
    pub fn totals_before(&self, key: &SandboxKey, seq: u64) -> Result<LifeTotals, LedgerError> {
        let seq = int("seq", seq)?;
        self.answer(|conn| {
            let mut find = conn.prepare_cached(START)?;
            let found: Option<(i64, i64)> = find
                .query_row(params![key.org, key.sandbox, key.generation, seq], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            let (pk, start_unix_ns) =
                found.ok_or_else(|| LedgerError::corrupt(format!("{key} has no slice {seq}")))?;
            before(conn, pk, seq, start_unix_ns)
        })
    }

    /// The request id of the command that a life began by, if one did.
    pub fn began_by(&self, key: &SandboxKey) -> Result<Option<String>, LedgerError> {
        self.answer(|conn| {
            let mut find = conn.prepare_cached(BEGAN_BY)?;
            let command = find.query_row((&key.org, &key.sandbox, key.generation), |row| row.get(0));
            Ok(command.optional()?.flatten())
        })
    }

    /// The number of the last slice of a life that has ended; `None` while it has not.
    pub fn last_slice(&self, key: &SandboxKey) -> Result<Option<u64>, LedgerError> {
        self.answer(|conn| {
            let mut look = conn.prepare_cached(LAST)?;
            let last: Option<i64> =
                look.query_row((&key.org, &key.sandbox, key.generation), |row| row.get(0))?;
            Ok(last.and_then(|seq| u64::try_from(seq).ok()))
        })
    }
}

fn before(conn: &Connection, pk: i64, seq: i64, start_unix_ns: i64) -> Result<LifeTotals, LedgerError> {
    let mut totals = Totals::default();
    // A rollup up to the slice's start is of slices before it: each reached its end.
    let (from_unix_ns, from_seq) =
        rolled_up(conn, pk, start_unix_ns, |more| totals.merge(more).ok_or_else(Amount::overflow))?;
    each_piece(conn, pk, from_seq..seq, i64::MAX, |piece| {
        totals.add(piece, &(from_unix_ns..i64::MAX)).ok_or_else(Amount::overflow)
    })?;
    Ok(LifeTotals(totals))
}
