//! L2: sums agree.

use rusqlite::Connection;

use super::AuditReport;
use super::lives::Sums;
use crate::LedgerError;
use crate::encode::uint;

/// In halves of 32 bits, because the sum of many durations does not fit SQLite's integers.
const BY_ORG: &str = "SELECT s.org, sum(x.duration_ns >> 32), sum(x.duration_ns & 4294967295) \
     FROM slices x JOIN sandboxes s ON s.pk = x.sandbox_pk GROUP BY s.org";

/// Compares what SQLite sums over each org with what was added up sandbox by sandbox.
pub(super) fn check(conn: &Connection, sums: &Sums, report: &mut AuditReport) -> Result<(), LedgerError> {
    let mut statement = conn.prepare(BY_ORG)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let org: String = row.get(0)?;
        let total_ns = (u128::from(uint(row, 1)?) << 32) + u128::from(uint(row, 2)?);
        let by_sandbox_ns = sums.get(&org).copied().unwrap_or_default();
        if total_ns != by_sandbox_ns {
            let message =
                format!("org {org} has {total_ns} ns of slices, its sandboxes together {by_sandbox_ns}");
            report.of_ledger("AUDIT_SUM", None, message);
        }
    }
    Ok(())
}
