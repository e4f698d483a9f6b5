//! What sandboxes amount to in a window of time, to the last byte-nanosecond.

use std::ops::Range;

use dormouse_metering::{Basis, Policy, Quantities, Slice, Stamp, clip};
use rusqlite::Connection;

use super::slices::NotFinal;
use super::{Reader, SandboxFilter, sandboxes};
use crate::LedgerError;
use crate::encode::{self, slice_columns};

/// Whose usage, when, and by which rules.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// Of these sandboxes.
    pub sandboxes: SandboxFilter,
    /// In this half-open window of wall time, in nanoseconds since the Unix epoch.
    pub window: Range<i64>,
    /// The moment of the question, until which open slices count. Without it only final slices count.
    pub now: Option<Stamp>,
    /// What is billed in which state.
    pub policy: Policy,
    /// Which memory is billed.
    pub basis: Basis,
    /// The disk of each sandbox that is not overage.
    pub free_disk_bytes: u64,
}

/// What sandboxes amount to. The total is the exact sum of the items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By org and sandbox: each that had a slice in the window, its generations together.
    pub items: Vec<UsageItem>,
    /// All of it.
    pub total: Quantities,
    /// By how much the durations in it may be wrong, in nanoseconds: the sum over its slices.
    pub total_uncertainty_ns: u64,
}

/// What one sandbox amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageItem {
    /// The org.
    pub org: String,
    /// The sandbox.
    pub sandbox: String,
    /// What its slices amount to in the window.
    pub quantities: Quantities,
    /// By how much the durations in it may be wrong, in nanoseconds: the sum over its slices.
    pub uncertainty_ns: u64,
}

/// Slices of a sandbox lie in order of time as they do in order of their numbers: the first that a window can
/// touch is found by halving, whatever came before it.
const END_OF: &str = "SELECT end_unix_ns FROM slices WHERE sandbox_pk = ?1 AND seq = ?2";
const LAST_SEQ: &str = "SELECT coalesce(max(seq), 0) FROM slices WHERE sandbox_pk = ?1";

const FROM_SEQ: &str = concat!(
    "SELECT ",
    slice_columns!(),
    " FROM slices x WHERE x.sandbox_pk = ?1 AND x.seq >= ?2 ORDER BY x.seq"
);

/// The number of the first closed slice that ends at `unix_ns` or later; one more than the last if none does.
pub(crate) fn first_ending_from(conn: &Connection, pk: i64, unix_ns: i64) -> Result<i64, LedgerError> {
    let last: i64 = conn.prepare_cached(LAST_SEQ)?.query_row([pk], |row| row.get(0))?;
    let mut end_of = conn.prepare_cached(END_OF)?;
    let (mut low, mut high) = (1, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let end_unix_ns: i64 = end_of.query_row((pk, middle), |row| row.get(0))?;
        if end_unix_ns < unix_ns {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Calls `each` with every closed slice of a sandbox that the window may touch, in order.
pub(crate) fn each_in_window(
    conn: &Connection,
    pk: i64,
    window: &Range<i64>,
    mut each: impl FnMut(&Slice) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let first = first_ending_from(conn, pk, window.start)?;
    let mut statement = conn.prepare_cached(FROM_SEQ)?;
    let mut rows = statement.query((pk, first))?;
    while let Some(row) = rows.next()? {
        let slice = encode::slice(row, 0)?;
        if slice.start.unix_ns >= window.end {
            break;
        }
        each(&slice)?;
    }
    Ok(())
}

impl UsageQuery {
    /// What a slice amounts to in the window; `None` if it has no part in it.
    fn amount(&self, slice: &Slice) -> Result<Option<Quantities>, LedgerError> {
        let duration_ns = clip(slice, &self.window);
        if duration_ns == 0 {
            return Ok(None);
        }
        let (policy, basis) = (&self.policy, self.basis);
        Quantities::of(slice.state, &slice.shape, duration_ns, policy, basis, self.free_disk_bytes)
            .map(Some)
            .ok_or_else(|| LedgerError::Overflow { what: format!("slice {}", slice.seq) })
    }
}

fn sum(a: Quantities, b: Quantities) -> Result<Quantities, LedgerError> {
    a.checked_add(b).ok_or_else(|| LedgerError::Overflow { what: "usage".to_owned() })
}

impl Reader {
    /// What sandboxes amount to in a window. Everything is clipped to the window, and nothing is rounded.
    pub fn usage(&self, query: &UsageQuery) -> Result<Usage, LedgerError> {
        self.answer(|conn| {
            let mut usage = Usage::default();
            for (pk, sandbox) in sandboxes::matching(conn, &query.sandboxes)? {
                let mut amount: Option<Quantities> = None;
                let mut uncertainty_ns: u64 = 0;
                let mut add = |slice: &Slice| {
                    if let Some(quantities) = query.amount(slice)? {
                        amount = Some(sum(amount.unwrap_or_default(), quantities)?);
                        let edges_ns = slice.start.uncertainty_ns.saturating_add(slice.end.uncertainty_ns);
                        uncertainty_ns = uncertainty_ns.saturating_add(edges_ns);
                    }
                    Ok(())
                };
                each_in_window(conn, pk, &query.window, &mut add)?;
                if let Some(now) = query.now {
                    let not_final = NotFinal::of(&sandbox.key, sandbox.open.clone(), &sandbox.pending, now)?;
                    not_final.closed.iter().chain(&not_final.until_now).try_for_each(add)?;
                }
                let Some(quantities) = amount else { continue };
                usage.total = sum(usage.total, quantities)?;
                usage.total_uncertainty_ns = usage.total_uncertainty_ns.saturating_add(uncertainty_ns);
                match usage.items.last_mut() {
                    // Generations of a sandbox follow each other.
                    Some(item) if item.org == sandbox.key.org && item.sandbox == sandbox.key.sandbox => {
                        item.quantities = sum(item.quantities, quantities)?;
                        item.uncertainty_ns = item.uncertainty_ns.saturating_add(uncertainty_ns);
                    }
                    _ => usage.items.push(UsageItem {
                        org: sandbox.key.org,
                        sandbox: sandbox.key.sandbox,
                        quantities,
                        uncertainty_ns,
                    }),
                }
            }
            Ok(usage)
        })
    }
}
