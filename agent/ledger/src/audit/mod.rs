//! The audit: walks the whole ledger and names what does not hold.
//!
//! It trusts nothing that the schema promises: a file may have been damaged, or written by something else. It
//! never changes anything. What it checks, with the code of each violation:
//!
//! | code | what must hold |
//! |---|---|
//! | `AUDIT_INTEGRITY` | SQLite finds its own structures in order, and no reference dangles |
//! | `AUDIT_UNREADABLE` | what is stored can be read |
//! | `AUDIT_SEQ` and the others of [`dormouse_metering::audit::ViolationKind::reason`] | M1, M3: slices tile, causes chain, the open slice follows |
//! | `AUDIT_LIFE` | a life that has begun is open or has ended, with its last slice; nothing is pending after its end |
//! | `AUDIT_COMMAND_UNKNOWN` | M3: a command that a slice names is in the ledger |
//! | `AUDIT_OUTBOX_GAP` | L1: events are numbered from the first that is kept without a hole |
//! | `AUDIT_OUTBOX_HASH` | L1: an event's bytes have its hash, and carry the hash of the one before |
//! | `AUDIT_EVENT_MISSING` | every final slice has its event |
//! | `AUDIT_EVENT_DIFFERS` | the event of a slice says what the slice says |
//! | `AUDIT_EVENT_EXTRA` | every slice event has its slice |
//! | `AUDIT_SUM` | L2: what SQLite sums over an org is what its sandboxes' slices add up to |

mod events;
mod file;
mod lives;
mod sums;

use rusqlite::Connection;
use serde::Serialize;

use crate::{LedgerError, Reader, SandboxKey, schema};

/// At most so many violations are told one by one; all are counted.
const TOLD_MAX: usize = 10_000;

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// How many generations of sandboxes were looked at.
    pub sandboxes: u64,
    /// How many closed slices.
    pub slices: u64,
    /// How many events.
    pub events: u64,
    /// How many things do not hold.
    pub violations_total: u64,
    /// The first 10,000 of them.
    pub violations: Vec<AuditViolation>,
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditViolation {
    /// What, as a stable code.
    pub code: &'static str,
    /// Of which org.
    pub org: Option<String>,
    /// Of which sandbox.
    pub sandbox: Option<String>,
    /// Of which generation.
    pub generation: Option<i64>,
    /// At which slice, or at which event of the outbox where no sandbox is named.
    pub seq: Option<u64>,
    /// In words.
    pub message: String,
}

impl AuditReport {
    /// Whether everything holds.
    pub fn is_clean(&self) -> bool {
        self.violations_total == 0
    }

    fn tell(&mut self, violation: AuditViolation) {
        self.violations_total += 1;
        if self.violations.len() < TOLD_MAX {
            self.violations.push(violation);
        }
    }

    /// Takes damage as a finding.
    fn note_damage(&mut self, result: Result<(), LedgerError>) -> Result<(), LedgerError> {
        match result {
            Err(LedgerError::Corrupt { what, .. }) => {
                self.of_ledger("AUDIT_UNREADABLE", None, what);
                Ok(())
            }
            result => result,
        }
    }

    /// Something is wrong with the ledger, or with the event of this number.
    fn of_ledger(&mut self, code: &'static str, host_seq: Option<u64>, message: impl Into<String>) {
        let message = message.into();
        self.tell(AuditViolation {
            code,
            org: None,
            sandbox: None,
            generation: None,
            seq: host_seq,
            message,
        });
    }

    /// Something is wrong with a sandbox, or with its slice of this number.
    fn of_sandbox(
        &mut self,
        code: &'static str,
        key: &SandboxKey,
        seq: Option<u64>,
        message: impl Into<String>,
    ) {
        self.tell(AuditViolation {
            code,
            org: Some(key.org.clone()),
            sandbox: Some(key.sandbox.clone()),
            generation: Some(key.generation),
            seq,
            message: message.into(),
        });
    }
}

impl Reader {
    /// Checks everything that must hold of a ledger. Damage is a finding; an error means that the file cannot
    /// be read at all.
    pub fn audit(&self) -> Result<AuditReport, LedgerError> {
        self.answer(|conn| {
            let mut report = AuditReport::default();
            let file = file::check(conn, &mut report);
            report.note_damage(file)?;
            let contents = check_contents(conn, &mut report);
            report.note_damage(contents)?;
            Ok(report)
        })
    }
}

fn check_contents(conn: &Connection, report: &mut AuditReport) -> Result<(), LedgerError> {
    let host = schema::owner(conn)?;
    let mut slice_events = events::check(conn, &host, report)?;
    let sums = lives::check(conn, &mut slice_events, report)?;
    slice_events.extra().for_each(|host_seq| {
        report.of_ledger(
            "AUDIT_EVENT_EXTRA",
            Some(host_seq),
            format!("event {host_seq} tells a slice that is not there"),
        );
    });
    sums::check(conn, &sums, report)
}
