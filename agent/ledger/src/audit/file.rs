//! The file itself.

use rusqlite::Connection;

use super::AuditReport;
use crate::LedgerError;

/// How many faults of its structures SQLite is asked for.
const INTEGRITY: &str = "PRAGMA integrity_check(100)";
const FOREIGN_KEYS: &str =
    "SELECT \"table\", \"parent\", count(*) FROM pragma_foreign_key_check GROUP BY 1, 2";

pub(super) fn check(conn: &Connection, report: &mut AuditReport) -> Result<(), LedgerError> {
    let mut statement = conn.prepare(INTEGRITY)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let verdict: String = row.get(0)?;
        if verdict != "ok" {
            report.of_ledger("AUDIT_INTEGRITY", None, verdict);
        }
    }
    let mut statement = conn.prepare(FOREIGN_KEYS)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (table, parent, count): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let message = format!("{count} rows of {table} refer to rows of {parent} that are not there");
        report.of_ledger("AUDIT_INTEGRITY", None, message);
    }
    Ok(())
}
