//! The figures of a fleet's ledger.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use dormouse_metering::{Stamp, hour};

use super::rows::{self, piece_columns, slice_columns, unsigned};
use super::session::Session;
use crate::usage::figures::{Asked, Figures, Life};
use crate::usage::tagged::{Span, Spans};
use crate::usage::totals::{Held, Piece, number_of};
use crate::usage::{Amount, Rules};
use crate::{LedgerError, SliceRow};

/// How many slices are fetched at once where there is no end of them.
const SLICES_AT_ONCE: i32 = 1_000;

/// Those with a rollup after `$3`: without one there is no slice of them. Each is all of a sandbox's life on one host.
const LIVES: &str = "SELECT b.id, b.sandbox FROM sandboxes b \
     WHERE b.org = $1 AND ($2::text IS NULL OR b.sandbox = $2) AND EXISTS ( \
         SELECT FROM usage_kinds k JOIN LATERAL (SELECT FROM usage_hours h \
             WHERE h.kind_id = k.id AND h.hour_unix_ns > $3 LIMIT 1) h ON true WHERE k.sandbox_id = b.id) \
     ORDER BY b.sandbox, b.id";

/// The last row of each kind at an instant or before it.
const ROLLUPS: &str = "SELECT a.ordinal, k.state, k.disk_bytes, h.duration_ns, h.vcpu_milli_ns, h.base_byte_ns, \
     h.plugged_byte_ns, h.requested_byte_ns, h.greater_byte_ns \
     FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS a (sandbox_id, unix_ns, ordinal) \
     JOIN usage_kinds k ON k.sandbox_id = a.sandbox_id \
     CROSS JOIN LATERAL (SELECT * FROM usage_hours h WHERE h.kind_id = k.id AND h.hour_unix_ns <= a.unix_ns \
         ORDER BY h.hour_unix_ns DESC LIMIT 1) h";

/// The slices that begin in an instant's hour, before it: none crosses an hour. All that is asked at one instant is one
/// scan: a part of `$1` are its sandboxes.
const EDGES: &str = concat!(
    "SELECT a.ordinal, x.sandbox_id, ",
    piece_columns!(),
    " FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) WITH ORDINALITY \
         AS a (hour_unix_ns, unix_ns, first, last, ordinal) \
     CROSS JOIN LATERAL (SELECT * FROM slices x WHERE x.sandbox_id = ANY (($1::bigint[])[a.first::integer:a.last::integer]) \
         AND x.start_unix_ns >= a.hour_unix_ns AND x.start_unix_ns < a.unix_ns OFFSET 0) x"
);

/// What `$1` has in the hours from `$2` on and before `$4`, with time in `[$3, $4)`: as `clip_interval` has it.
macro_rules! with_time {
    ($order:literal) => {
        concat!(
            "SELECT ",
            piece_columns!(),
            " FROM slices x WHERE x.sandbox_id = $1 AND x.start_unix_ns >= $2 AND x.start_unix_ns < $4 \
             AND x.duration_ns > 0 AND (x.end_unix_ns > $3 OR x.start_unix_ns = x.end_unix_ns \
                 AND x.start_unix_ns >= $3) ORDER BY ",
            $order,
            " LIMIT 1"
        )
    };
}

const FIRST: &str = with_time!("x.start_unix_ns, x.end_unix_ns");
const LAST: &str = with_time!("x.start_unix_ns DESC, x.end_unix_ns DESC");

const SLICES: &str = concat!(
    "SELECT ",
    slice_columns!(),
    " FROM slices x WHERE x.sandbox_id = $1 AND x.start_unix_ns >= $2 AND x.start_unix_ns < $4 \
     AND (x.end_unix_ns > $3 OR x.start_unix_ns >= $3) ORDER BY x.start_unix_ns, x.generation, x.seq"
);

const SPANS: &str = "SELECT sandbox, value, from_unix_ns, to_unix_ns FROM tags WHERE org = $1 AND key = $2 \
     ORDER BY sandbox, from_unix_ns, id";

/// A fleet's figures, within a transaction.
pub(super) struct FleetFigures<'a> {
    pub(super) session: &'a Session<'a>,
}

/// The full hour at an instant or before it.
pub(super) fn hour_at(unix_ns: i64) -> i64 {
    unix_ns.saturating_sub(unix_ns.rem_euclid(hour::HOUR_NS))
}

/// Which of so many things a row is about: what WITH ORDINALITY counts.
fn ordinal(row: &tokio_postgres::Row) -> Result<usize, LedgerError> {
    let ordinal = usize::try_from(row.get::<_, i64>(0)).ok().and_then(|ordinal| ordinal.checked_sub(1));
    ordinal.ok_or_else(|| LedgerError::corrupt("an ordinal is no number from 1"))
}

impl FleetFigures<'_> {
    /// What the rollups have at instants of sandboxes.
    fn rollups(&self, instants: &[(i64, i64)], rules: &Rules) -> Result<Vec<Amount>, LedgerError> {
        let (ids, at): (Vec<i64>, Vec<i64>) = instants.iter().copied().unzip();
        let mut amounts = vec![Amount::default(); instants.len()];
        for row in self.session.query(ROLLUPS, &[&ids, &at])? {
            let held = Held {
                state: number_of(row.get(1)).ok_or_else(|| LedgerError::corrupt("no billing state"))?,
                disk_bytes: row.get::<_, i64>(2).unsigned_abs(),
                duration_ns: unsigned(&row, 3)?,
                vcpu_milli_ns: unsigned(&row, 4)?,
                base_byte_ns: unsigned(&row, 5)?,
                plugged_byte_ns: unsigned(&row, 6)?,
                requested_byte_ns: unsigned(&row, 7)?,
                greater_byte_ns: unsigned(&row, 8)?,
            };
            amounts[ordinal(&row)?].add(held.amount(rules).ok_or_else(Amount::overflow)?)?;
        }
        Ok(amounts)
    }

    /// Adds what lies between the full hours and the instants.
    fn add_edges(
        &self,
        instants: &[(i64, i64)],
        rules: &Rules,
        amounts: &mut [Amount],
    ) -> Result<(), LedgerError> {
        // By instant: at which sandboxes it is asked, and whose amount that is.
        let mut edges = BTreeMap::<i64, BTreeMap<i64, usize>>::new();
        for (index, (id, at)) in instants.iter().enumerate().filter(|(_, (_, at))| hour_at(*at) < *at) {
            edges.entry(*at).or_default().insert(*id, index);
        }
        if edges.is_empty() {
            return Ok(());
        }
        let (mut ids, mut first, mut last) = (Vec::new(), Vec::new(), Vec::new());
        let place = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for sandboxes in edges.values() {
            first.push(place(ids.len() + 1));
            ids.extend(sandboxes.keys().copied());
            last.push(place(ids.len()));
        }
        let edges: Vec<_> = edges.into_iter().collect();
        let ends: Vec<i64> = edges.iter().map(|(at, _)| *at).collect();
        let hours: Vec<i64> = ends.iter().map(|at| hour_at(*at)).collect();
        for row in self.session.query(EDGES, &[&ids, &hours, &ends, &first, &last])? {
            let (at, indexes) = &edges[ordinal(&row)?];
            let index = indexes
                .get(&row.get(1))
                .ok_or_else(|| LedgerError::corrupt("a slice that was not asked for"))?;
            amounts[*index].add(rows::piece(&row, 2)?.amount(&(hour_at(*at)..*at), rules)?)?;
        }
        Ok(())
    }
}

impl Figures for FleetFigures<'_> {
    fn lives(&self, org: &str, sandbox: Option<&str>, from_unix_ns: i64) -> Result<Vec<Life>, LedgerError> {
        // PostgreSQL has no text with NUL in it.
        if sandbox.is_some_and(|sandbox| sandbox.contains('\0')) {
            return Ok(Vec::new());
        }
        let rows = self.session.query(LIVES, &[&org, &sandbox, &from_unix_ns])?;
        let life = |row: &tokio_postgres::Row| Life {
            pk: row.get(0),
            sandbox: row.get(1),
            generation: 0,
            has_ended: true,
            open: None,
        };
        Ok(rows.iter().map(life).collect())
    }

    fn before(&self, asked: &[Asked<'_>], rules: &Rules) -> Result<Vec<Vec<Amount>>, LedgerError> {
        let instants: Vec<(i64, i64)> =
            asked.iter().flat_map(|(life, at)| at.iter().map(|at| (life.pk, *at))).collect();
        let mut amounts = self.rollups(&instants, rules)?;
        self.add_edges(&instants, rules, &mut amounts)?;
        let mut amounts = amounts.into_iter();
        Ok(asked.iter().map(|(_, at)| amounts.by_ref().take(at.len()).collect()).collect())
    }

    fn not_final(&self, _: &str, _: &Life, _: Option<Stamp>) -> Result<Vec<Piece>, LedgerError> {
        Ok(Vec::new())
    }

    fn ends(&self, life: &Life, window: &Range<i64>) -> Result<Vec<Piece>, LedgerError> {
        let from = hour_at(window.start);
        let mut ends = Vec::new();
        for sql in [FIRST, LAST] {
            for row in self.session.query(sql, &[&life.pk, &from, &window.start, &window.end])? {
                ends.push(rows::piece(&row, 0)?);
            }
        }
        Ok(ends)
    }

    fn each_slice(
        &self,
        _: &str,
        life: &Life,
        (window, _): (&Range<i64>, Option<Stamp>),
        each: &mut dyn FnMut(&SliceRow) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let from = hour_at(window.start);
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&life.pk, &from, &window.start, &window.end];
        self.session.each(SLICES, &values, SLICES_AT_ONCE, |row| each(&rows::slice_row(row, &life.sandbox)?))
    }

    fn tag_spans(&self, org: &str, key: &str) -> Result<HashMap<String, Spans>, LedgerError> {
        let mut spans = HashMap::<String, Spans>::new();
        for row in self.session.query(SPANS, &[&org, &key])? {
            let span = Span { value: row.get(1), from_unix_ns: row.get(2), to_unix_ns: row.get(3) };
            spans.entry(row.get(0)).or_default().push(span);
        }
        Ok(spans)
    }
}
