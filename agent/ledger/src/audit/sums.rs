//! L2: sums agree. On the way: every slice is of a sandbox.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::lives::Sums;
use super::{AuditReport, Contents, Found, file};
use crate::LedgerError;
use crate::encode::uint;

/// In halves of 32 bits, because the sum of many durations does not fit SQLite's integers.
const BY_SANDBOX: &str = "SELECT sandbox_pk, sum(duration_ns >> 32), sum(duration_ns & 4294967295), count(*) \
     FROM slices GROUP BY sandbox_pk";

const SANDBOX: &str = "SELECT 1 FROM sandboxes WHERE pk = ?1";

/// What SQLite sums over each org. A slice of no sandbox is of no org.
pub(super) fn by_org(conn: &Connection, contents: &Contents, found: &mut Found) -> Result<(), LedgerError> {
    let lives = contents.lives.iter();
    let orgs: BTreeMap<i64, &str> = lives.map(|(pk, sandbox)| (*pk, sandbox.key.org.as_str())).collect();
    let mut statement = conn.prepare(BY_SANDBOX)?;
    let mut find = conn.prepare(SANDBOX)?;
    let mut rows = statement.query([])?;
    let mut dangling: i64 = 0;
    while let Some(row) = rows.next()? {
        let pk: i64 = row.get(0)?;
        let Some(org) = orgs.get(&pk) else {
            // It may be there and unreadable, which is told elsewhere.
            if find.query_row([pk], |_| Ok(())).optional()?.is_none() {
                dangling += row.get::<_, i64>(3)?;
            }
            continue;
        };
        let total_ns = (u128::from(uint(row, 1)?) << 32) + u128::from(uint(row, 2)?);
        *found.by_org.entry((*org).to_owned()).or_default() += total_ns;
    }
    if dangling > 0 {
        file::tell_dangling(&mut found.report, dangling, "slices", "sandboxes");
    }
    Ok(())
}

/// Compares what SQLite sums over each org with what was added up sandbox by sandbox.
pub(super) fn compare(by_org: &Sums, by_sandbox: &Sums, report: &mut AuditReport) {
    for (org, total_ns) in by_org {
        let by_sandbox_ns = by_sandbox.get(org).copied().unwrap_or_default();
        if *total_ns != by_sandbox_ns {
            let message =
                format!("org {org} has {total_ns} ns of slices, its sandboxes together {by_sandbox_ns}");
            report.of_ledger("AUDIT_SUM", None, message);
        }
    }
}
