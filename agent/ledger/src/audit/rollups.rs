//! L2: every hourly rollup is what the slices amount to.

use rusqlite::Connection;

use super::AuditReport;
use crate::usage::hours::{Rollup, each_piece};
use crate::usage::totals::Totals;
use crate::{LedgerError, SandboxKey, SandboxRow};

const ROLLUPS: &str = "SELECT hour_unix_ns, seq, since_unix_ns, totals FROM usage_hours \
     WHERE sandbox_pk = ?1 ORDER BY hour_unix_ns";

/// Adds every sandbox's slices up again, and compares each stored total on the way.
pub(super) fn check(
    conn: &Connection,
    lives: &[(i64, SandboxRow)],
    report: &mut AuditReport,
) -> Result<(), LedgerError> {
    for (pk, sandbox) in lives {
        match check_sandbox(conn, *pk, &sandbox.key, report) {
            Err(LedgerError::Corrupt { what, .. }) => {
                report.of_sandbox("AUDIT_UNREADABLE", &sandbox.key, None, what);
            }
            result => result?,
        }
    }
    Ok(())
}

fn check_sandbox(
    conn: &Connection,
    pk: i64,
    key: &SandboxKey,
    report: &mut AuditReport,
) -> Result<(), LedgerError> {
    let mut statement = conn.prepare_cached(ROLLUPS)?;
    let mut rows = statement.query([pk])?;
    // What the slices amount to up to the last rollup, and the first slice that may have a part after it.
    let (mut totals, mut from_unix_ns, mut from_seq, mut since) = (Totals::default(), i64::MIN, 1, None);
    while let Some(row) = rows.next()? {
        let stored = Rollup::read(row, 0)?;
        if stored.since_unix_ns == Some(from_unix_ns) && stored.since_unix_ns != since {
            (totals, since) = (Totals::default(), stored.since_unix_ns);
        }
        let (window, mut last) = (from_unix_ns..stored.hour_unix_ns, None);
        let mut fits = true;
        each_piece(conn, pk, from_seq..i64::MAX, stored.hour_unix_ns, |piece| {
            fits &= totals.add(piece, &window).is_some();
            last = Some(piece.place.end);
            Ok(())
        })?;
        let is_reached = last.is_some_and(|end| end >= stored.hour_unix_ns);
        if !fits || !is_reached || stored.since_unix_ns != since || stored.totals != totals {
            let message = format!("the rollup at {} is not what its slices amount to", stored.hour_unix_ns);
            report.of_sandbox("AUDIT_ROLLUP", key, u64::try_from(stored.seq).ok(), message);
        }
        (from_unix_ns, from_seq) = (stored.hour_unix_ns, stored.seq);
    }
    Ok(())
}
