//! M1 and M3: every life, slice by slice, beside the events that tell it.

use std::collections::BTreeMap;

use dormouse_metering::audit::{Audit, Violation};
use dormouse_metering::{Boundary, Meter, Slice};
use rusqlite::{Connection, OptionalExtension, Row};

use super::AuditReport;
use super::events::{SliceEvents, data_of};
use crate::encode::{self, slice_columns, uint};
use crate::outbox::Head;
use crate::reader::sandboxes::matching;
use crate::{LedgerError, SandboxFilter, SandboxKey, SandboxRow, SliceRow};

const SLICES: &str = concat!(
    "SELECT ",
    slice_columns!(),
    ", x.host_seq, o.event_id, o.payload FROM slices x LEFT JOIN outbox o ON o.host_seq = x.host_seq \
     WHERE x.sandbox_pk = ?1 ORDER BY x.seq"
);

const COMMAND: &str = "SELECT 1 FROM commands WHERE org = ?1 AND request_id = ?2";

/// The nanoseconds of all closed slices of each org.
pub(super) type Sums = BTreeMap<String, u128>;

/// Walks every life. What cannot be read of one does not keep the next from being looked at.
pub(super) fn check(
    conn: &Connection,
    slice_events: &mut SliceEvents,
    report: &mut AuditReport,
) -> Result<Sums, LedgerError> {
    let mut sums = Sums::new();
    let retained_after_seq = Head::retained_after(conn)?.host_seq;
    for (pk, sandbox) in matching(conn, &SandboxFilter::default())? {
        report.sandboxes += 1;
        let mut walk =
            Walk { conn, sandbox: &sandbox, slice_events, report, duration_ns: 0, retained_after_seq };
        match walk.life(pk) {
            Err(LedgerError::Corrupt { what, .. }) => {
                report.of_sandbox("AUDIT_UNREADABLE", &sandbox.key, None, what);
            }
            result => {
                result?;
                *sums.entry(sandbox.key.org.clone()).or_default() += walk.duration_ns;
            }
        }
    }
    Ok(sums)
}

struct Walk<'a> {
    conn: &'a Connection,
    sandbox: &'a SandboxRow,
    slice_events: &'a mut SliceEvents,
    report: &'a mut AuditReport,
    duration_ns: u128,
    /// Events up to here are no longer kept.
    retained_after_seq: u64,
}

impl Walk<'_> {
    fn life(&mut self, pk: i64) -> Result<(), LedgerError> {
        let (mut audit, mut last) = (Audit::new(), None);
        let mut statement = self.conn.prepare_cached(SLICES)?;
        let mut rows = statement.query([pk])?;
        while let Some(row) = rows.next()? {
            let slice = encode::slice(row, 0)?;
            self.report.slices += 1;
            self.duration_ns += u128::from(slice.duration_ns);
            audit.closed(&slice, &mut |violation| self.tell(violation));
            self.event(row, &slice)?;
            if last.is_none() {
                self.command(slice.seq, &slice.start)?;
            }
            self.command(slice.seq, &slice.end)?;
            last = Some(slice);
        }
        if let Some(open) = &self.sandbox.open {
            audit.open(open, &mut |violation| self.tell(violation));
        }
        if let Some(fault) = self.standing(last.as_ref()) {
            self.report.of_sandbox("AUDIT_LIFE", &self.sandbox.key, None, fault);
        }
        Ok(())
    }

    fn tell(&mut self, violation: Violation) {
        let (code, seq) = (violation.kind.reason(), Some(violation.seq));
        self.report.of_sandbox(code, &self.sandbox.key, seq, violation.to_string());
    }

    /// What is wrong with where a life stands, behind its last closed slice.
    fn standing(&self, last: Option<&Slice>) -> Option<String> {
        let SandboxRow { open, pending, ended_unix_ns, .. } = self.sandbox;
        match (open, ended_unix_ns, last) {
            (Some(_), Some(_), _) => Some("it has ended and is open".to_owned()),
            (None, None, Some(_)) => Some("it has begun and is neither open nor ended".to_owned()),
            (_, Some(ended), Some(last)) if last.end.unix_ns != *ended => {
                Some(format!("it ended at {ended}, its last slice at {}", last.end.unix_ns))
            }
            _ => Meter::resume(open.clone(), pending.iter().cloned())
                .err()
                .map(|refused| format!("what is pending cannot be: {refused}")),
        }
    }

    /// The event of a slice, joined to its row, must say what the slice says.
    fn event(&mut self, row: &Row<'_>, slice: &Slice) -> Result<(), LedgerError> {
        let key = &self.sandbox.key;
        let host_seq = uint(row, 17)?;
        let Some(event_id) = row.get::<_, Option<String>>(18)? else {
            if host_seq <= self.retained_after_seq {
                return Ok(());
            }
            let message = format!("slice {} has no event {host_seq}", slice.seq);
            self.report.of_sandbox("AUDIT_EVENT_MISSING", key, Some(slice.seq), message);
            return Ok(());
        };
        self.slice_events.meet(host_seq);
        let payload = row.get_ref(19)?.as_blob().map_err(rusqlite::Error::from)?;
        if event_id != format!("{}:{}:{}", key.sandbox, key.generation, slice.seq)
            || !says_slice(payload, key, slice)
        {
            let message =
                format!("event {host_seq} ({event_id}) says something else than slice {}", slice.seq);
            self.report.of_sandbox("AUDIT_EVENT_DIFFERS", key, Some(slice.seq), message);
        }
        Ok(())
    }

    fn command(&mut self, seq: u64, boundary: &Boundary) -> Result<(), LedgerError> {
        let Some(command) = &boundary.command else { return Ok(()) };
        let key = &self.sandbox.key;
        let mut find = self.conn.prepare_cached(COMMAND)?;
        if find.query_row((&key.org, command.as_str()), |_| Ok(())).optional()?.is_none() {
            let message = format!("slice {seq} names request {command}, which is not in the ledger");
            self.report.of_sandbox("AUDIT_COMMAND_UNKNOWN", key, Some(seq), message);
        }
        Ok(())
    }
}

/// Whether an event's data are this slice: the same bytes, or, written by another version, the same values.
fn says_slice(payload: &[u8], key: &SandboxKey, slice: &Slice) -> bool {
    let row = SliceRow::closed(key, slice, true);
    data_of(payload).is_some_and(|data| {
        serde_json::to_string(&row).is_ok_and(|text| text == data)
            || serde_json::from_str::<SliceRow>(data).is_ok_and(|told| told == row)
    })
}
