//! The figures of a fleet's ledger.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use dormouse_metering::{Stamp, hour};
use tokio_postgres::Row;

use super::rows::{self, piece_columns, slice_columns, unsigned};
use super::session::{Question, Session, Values};
use crate::usage::figures::{Asked, Figures, Life};
use crate::usage::tagged::{Span, Spans};
use crate::usage::totals::{Held, Piece, number_of};
use crate::usage::{Amount, Rules};
use crate::{LedgerError, SliceRow};

/// How many slices are fetched at once where there is no end of them.
const SLICES_AT_ONCE: i32 = 1_000;

/// Those with a rollup after `$2`: without one there is no slice of them. Each is all of a sandbox's life on one host. One
/// that is running has a rollup at `$3`, the hour after, which is found at once; of those after `$2` PostgreSQL looks at
/// all that are on a page.
macro_rules! lives {
    ($which:literal) => {
        concat!(
            "SELECT b.id, b.sandbox FROM sandboxes b WHERE b.org = $1 ",
            $which,
            " AND EXISTS (SELECT FROM usage_kinds k CROSS JOIN LATERAL ( \
                 SELECT FROM usage_hours h WHERE h.kind_id = k.id AND h.hour_unix_ns = $3 \
                 UNION ALL (SELECT FROM usage_hours h WHERE h.kind_id = k.id AND h.hour_unix_ns > $2 LIMIT 1) \
                 LIMIT 1) h WHERE k.sandbox_id = b.id) \
             ORDER BY b.sandbox, b.id"
        )
    };
}

const OF_ORG: &str = lives!("");
const OF_SANDBOX: &str = lives!("AND b.sandbox = $4");

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
fn ordinal(row: &Row) -> Result<usize, LedgerError> {
    let ordinal = usize::try_from(row.get::<_, i64>(0)).ok().and_then(|ordinal| ordinal.checked_sub(1));
    ordinal.ok_or_else(|| LedgerError::corrupt("an ordinal is no number from 1"))
}

/// What a row of [`ROLLUPS`] amounts to.
fn rolled_up(row: &Row, rules: &Rules) -> Result<Amount, LedgerError> {
    let held = Held {
        state: number_of(row.get(1)).ok_or_else(|| LedgerError::corrupt("no billing state"))?,
        disk_bytes: row.get::<_, i64>(2).unsigned_abs(),
        duration_ns: unsigned(row, 3)?,
        vcpu_milli_ns: unsigned(row, 4)?,
        base_byte_ns: unsigned(row, 5)?,
        plugged_byte_ns: unsigned(row, 6)?,
        requested_byte_ns: unsigned(row, 7)?,
        greater_byte_ns: unsigned(row, 8)?,
    };
    held.amount(rules).ok_or_else(Amount::overflow)
}

/// What lies between the full hours and the instants, as [`EDGES`] asks for it.
#[derive(Default)]
struct Edges {
    sandboxes: Vec<i64>,
    hours: Vec<i64>,
    ends: Vec<i64>,
    first: Vec<i64>,
    last: Vec<i64>,
    /// Of each end whose amount each sandbox's is.
    indexes: Vec<BTreeMap<i64, usize>>,
}

impl Edges {
    /// Those of sandboxes' instants, of which none is asked for twice.
    fn of(instants: &[(i64, i64)]) -> Self {
        let mut by_end = BTreeMap::<i64, BTreeMap<i64, usize>>::new();
        for (index, (id, at)) in instants.iter().enumerate().filter(|(_, (_, at))| hour_at(*at) < *at) {
            by_end.entry(*at).or_default().insert(*id, index);
        }
        let mut edges = Self::default();
        let place = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (end, indexes) in by_end {
            edges.first.push(place(edges.sandboxes.len() + 1));
            edges.sandboxes.extend(indexes.keys().copied());
            edges.last.push(place(edges.sandboxes.len()));
            edges.hours.push(hour_at(end));
            edges.ends.push(end);
            edges.indexes.push(indexes);
        }
        edges
    }

    /// Whose amount a row of [`EDGES`] belongs to, and what it is.
    fn amount(&self, row: &Row, rules: &Rules) -> Result<(usize, Amount), LedgerError> {
        let end = ordinal(row)?;
        let index = self.indexes.get(end).and_then(|indexes| indexes.get(&row.get(1)));
        let index = index.ok_or_else(|| LedgerError::corrupt("a slice that was not asked for"))?;
        Ok((*index, rows::piece(row, 2)?.amount(&(self.hours[end]..self.ends[end]), rules)?))
    }
}

impl FleetFigures<'_> {
    /// What sandboxes have before their instants.
    fn amounts(&self, instants: &[(i64, i64)], rules: &Rules) -> Result<Vec<Amount>, LedgerError> {
        let (ids, at): (Vec<i64>, Vec<i64>) = instants.iter().copied().unzip();
        let edges = Edges::of(instants);
        let mut amounts = vec![Amount::default(); instants.len()];
        let mut at_edges = Vec::new();
        let of_instants: Values<'_> = &[&ids, &at];
        let mut each_rollup = |row: &Row| amounts[ordinal(row)?].add(rolled_up(row, rules)?);
        let Edges { sandboxes, hours, ends, first, last, .. } = &edges;
        let of_edges: Values<'_> = &[sandboxes, hours, ends, first, last];
        let mut each_at_edge = |row: &Row| {
            at_edges.push(edges.amount(row, rules)?);
            Ok(())
        };
        let mut questions = vec![Question { sql: ROLLUPS, values: of_instants, each: &mut each_rollup }];
        if !ends.is_empty() {
            questions.push(Question { sql: EDGES, values: of_edges, each: &mut each_at_edge });
        }
        self.session.ask(questions)?;
        for (index, amount) in at_edges {
            amounts[index].add(amount)?;
        }
        Ok(amounts)
    }
}

impl Figures for FleetFigures<'_> {
    fn lives(&self, org: &str, sandbox: Option<&str>, from_unix_ns: i64) -> Result<Vec<Life>, LedgerError> {
        // PostgreSQL has no text with NUL in it.
        if sandbox.is_some_and(|sandbox| sandbox.contains('\0')) {
            return Ok(Vec::new());
        }
        let next_hour = hour_at(from_unix_ns).saturating_add(hour::HOUR_NS);
        let rows = match sandbox {
            None => self.session.query(OF_ORG, &[&org, &from_unix_ns, &next_hour])?,
            Some(sandbox) => self.session.query(OF_SANDBOX, &[&org, &from_unix_ns, &next_hour, &sandbox])?,
        };
        let life = |row: &Row| Life {
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
        let mut amounts = self.amounts(&instants, rules)?.into_iter();
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
