//! The file itself.
//!
//! SQLite looks at every page of it. What it would look at in each row of the two long tables at great cost is looked at by
//! those who read these rows anyway: the types and CHECK constraints of slices and events by [`super::lives`] and
//! [`super::events`], the index of event ids by [`super::events::check_index`], the sandboxes that slices refer to by
//! [`super::sums::by_org`].

use std::path::Path;

use rusqlite::Connection;

use super::AuditReport;
use crate::{LedgerError, schema};

/// How many faults of its structures SQLite is asked for.
const STRUCTURE: &str = "PRAGMA quick_check(100)";

/// More than these faults and the indexes of the schema can take.
const STEPS_OF_FAULTS: i64 = 10_000;

/// Every table but `slices` and `outbox`: their constraints and indexes, too.
const SHORT_TABLES: &str = "SELECT i.integrity_check FROM sqlite_schema s, pragma_integrity_check(s.name) i \
     WHERE s.type = 'table' AND s.name NOT IN ('slices', 'outbox') AND s.name NOT GLOB 'sqlite_*'";

/// Of every table but `slices`.
const FOREIGN_KEYS: &str = "SELECT f.\"table\", f.\"parent\", count(*) FROM sqlite_schema s, pragma_foreign_key_check(s.name) f \
     WHERE s.type = 'table' AND s.name <> 'slices' AND s.name NOT GLOB 'sqlite_*' GROUP BY 1, 2";

pub(super) fn check(conn: &Connection, path: &Path, report: &mut AuditReport) -> Result<(), LedgerError> {
    check_structure(schema::open_for_reading(path)?, report)?;
    tell_faults(conn, SHORT_TABLES, report)?;
    let mut statement = conn.prepare(FOREIGN_KEYS)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (table, parent, count): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        tell_dangling(report, count, &table, &parent);
    }
    Ok(())
}

pub(super) fn tell_dangling(report: &mut AuditReport, rows: i64, table: &str, parent: &str) {
    let message = format!("rows of {table} refer to rows of {parent} that are not there: {rows}");
    report.of_ledger("AUDIT_INTEGRITY", None, message);
}

/// Looks at every page, and how many entries each index has.
///
/// SQLite would go on with every row, by programs of its own: twice as much to read. It is stopped there. It counts what it
/// does, and asks whether to go on after so many steps: pages are counted once each, faults at most once more, rows by
/// the instruction. After more than twice as many steps as there are pages it is past them. Were it not, all pages of a table
/// or an index would still be read by who looks at that.
fn check_structure(mut conn: Connection, report: &mut AuditReport) -> Result<(), LedgerError> {
    conn.pragma_update(None, "ignore_check_constraints", true)?;
    conn.execute_batch("BEGIN")?;
    let pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let past_pages = pages.saturating_mul(2).saturating_add(STEPS_OF_FAULTS);
    conn.progress_handler(i32::try_from(past_pages).unwrap_or(i32::MAX), Some(|| true))?;
    match tell_faults(&conn, STRUCTURE, report) {
        Err(LedgerError::Cancelled) => Ok(()),
        told => told,
    }
}

/// Asks for faults, one in each row; `ok` is none.
fn tell_faults(
    conn: &Connection,
    question: &'static str,
    report: &mut AuditReport,
) -> Result<(), LedgerError> {
    let mut statement = conn.prepare(question)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let verdict: String = row.get(0)?;
        if verdict != "ok" {
            report.of_ledger("AUDIT_INTEGRITY", None, verdict);
        }
    }
    Ok(())
}
