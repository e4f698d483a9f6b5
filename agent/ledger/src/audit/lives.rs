//! M1 and M3: every life, slice by slice, what its events must tell, and the rollups on the way.

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::io::Write;
use std::ops::Range;

use dormouse_metering::audit::{Audit, Violation};
use dormouse_metering::{Boundary, Meter, Slice};
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::rollups::Rollups;
use super::told::Sum;
use super::{AuditReport, Contents, Found};
use crate::encode::{self, slice_columns, uint};
use crate::hashes::{INPUTS_AT_ONCE, hash_all};
use crate::suppression::Suppression;
use crate::usage::rollups::Rollup;
use crate::{LedgerError, SandboxRow, SliceRow};

const SLICES: &str =
    concat!("SELECT ", slice_columns!(), ", x.host_seq FROM slices x WHERE x.sandbox_pk = ?1 ORDER BY x.seq");

const COMMAND: &str = "SELECT 1 FROM commands WHERE org = ?1 AND request_id = ?2";

/// The nanoseconds of all closed slices of each org.
pub(super) type Sums = BTreeMap<String, u128>;

/// Walks some lives. What cannot be read of one does not keep the next from being looked at.
pub(super) fn check(
    conn: &Connection,
    contents: &Contents,
    lives: &[(i64, SandboxRow)],
    found: &mut Found,
) -> Result<(), LedgerError> {
    let mut unhashed = Unhashed::default();
    for (pk, sandbox) in lives {
        found.report.sandboxes += 1;
        let Found { report, slices, sums, .. } = &mut *found;
        let (keys, unhashed) = (&contents.keys, &mut unhashed);
        let retained_seq = contents.retained.host_seq;
        let mut walk = Walk { conn, sandbox, report, keys, slices, retained_seq, duration_ns: 0, unhashed };
        match walk.life(*pk) {
            Err(LedgerError::Corrupt { what, .. }) => {
                report.of_sandbox("AUDIT_UNREADABLE", &sandbox.key, None, what);
            }
            result => {
                result?;
                *sums.entry(sandbox.key.org.clone()).or_default() += walk.duration_ns;
            }
        }
    }
    unhashed.hash(&contents.keys, &mut found.slices);
    Ok(())
}

/// What the events of slices must be called and say, before it is hashed.
#[derive(Default)]
struct Unhashed {
    bytes: Vec<u8>,
    /// The number of each event, and where in `bytes` its id and its data are.
    events: Vec<(u64, Range<usize>, Range<usize>)>,
}

impl Unhashed {
    fn push(&mut self, host_seq: u64, row: &SliceRow) {
        let start = self.bytes.len();
        // Writing to memory does not fail; if it did, the sums would differ.
        let _ = write!(self.bytes, "{}:{}:{}", row.sandbox, row.generation, row.seq);
        let id_end = self.bytes.len();
        write_json(row, &mut self.bytes);
        self.events.push((host_seq, start..id_end, id_end..self.bytes.len()));
    }

    /// Adds up what there is.
    fn hash(&mut self, keys: &RandomState, slices: &mut Sum) {
        let data = self.events.iter().map(|(_, _, data)| &self.bytes[data.clone()]);
        let hashes = hash_all(&data.collect::<Vec<_>>());
        for ((host_seq, id, _), hash) in self.events.iter().zip(hashes) {
            slices.add(keys, *host_seq, [&self.bytes[id.clone()], hash.as_bytes()]);
        }
        self.bytes.clear();
        self.events.clear();
    }
}

/// What `Serialize` writes of a row, in half the time: the names need not be looked at for what is to be escaped.
fn write_json(row: &SliceRow, json: &mut Vec<u8>) {
    macro_rules! fields {
        ($first:literal $of_first:ident $(, $name:literal $field:ident)*) => {{
            let SliceRow { $of_first, $($field),* } = row;
            write_field(json, concat!("{\"", $first, "\":"), $of_first);
            $(write_field(json, concat!(",\"", $name, "\":"), $field);)*
        }};
    }
    fields!(
        "org" org, "sandbox" sandbox, "generation" generation, "seq" seq, "state" state, "reason" reason,
        "start_unix_ns" start_unix_ns, "end_unix_ns" end_unix_ns, "duration_ns" duration_ns,
        "memory_base_bytes" memory_base_bytes, "memory_plugged_bytes" memory_plugged_bytes,
        "memory_requested_bytes" memory_requested_bytes, "vcpus_milli" vcpus_milli, "disk_bytes" disk_bytes,
        "opened_by" opened_by, "closed_by" closed_by, "command_id" command_id,
        "opened_by_command_id" opened_by_command_id, "uncertainty_ns" uncertainty_ns, "final" is_final
    );
    json.push(b'}');
}

fn write_field<T: Serialize>(json: &mut Vec<u8>, name: &str, value: &T) {
    json.extend_from_slice(name.as_bytes());
    // Writing to memory does not fail; if it did, the sums would differ.
    let _ = serde_json::to_writer(json, value);
}

struct Walk<'a> {
    conn: &'a Connection,
    sandbox: &'a SandboxRow,
    report: &'a mut AuditReport,
    keys: &'a RandomState,
    slices: &'a mut Sum,
    /// The number of the last event that is no longer kept.
    retained_seq: u64,
    duration_ns: u128,
    unhashed: &'a mut Unhashed,
}

impl Walk<'_> {
    fn life(&mut self, pk: i64) -> Result<(), LedgerError> {
        let (mut audit, mut last, mut told) = (Audit::new(), None, None);
        let mut suppression = Suppression::new(self.conn, pk, &self.sandbox.key.org);
        let mut rollups = self.rollups(pk)?;
        let mut statement = self.conn.prepare_cached(SLICES)?;
        let mut rows = statement.query([pk])?;
        while let Some(row) = rows.next()? {
            let slice = encode::slice(row, 0)?;
            self.report.slices += 1;
            self.duration_ns += u128::from(slice.duration_ns);
            audit.closed(&slice, &mut |violation| self.tell(violation));
            rollups.slice(&slice, &mut |rollup| self.tell_rollup(rollup))?;
            let told = told.get_or_insert_with(|| SliceRow::closed(&self.sandbox.key, &slice, true));
            told.retell(&slice);
            debug_assert_eq!(*told, SliceRow::closed(&self.sandbox.key, &slice, true));
            told.reason = suppression.reason(&slice)?.or(told.reason.take());
            self.must_be_told(uint(row, 17)?, told);
            if last.is_none() {
                self.command(slice.seq, &slice.start)?;
            }
            self.command(slice.seq, &slice.end)?;
            last = Some(slice);
        }
        rollups.end(&mut |rollup| self.tell_rollup(rollup));
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

    /// What cannot be read of them does not keep the slices from being looked at.
    fn rollups(&mut self, pk: i64) -> Result<Rollups, LedgerError> {
        match Rollups::of(self.conn, pk) {
            Err(LedgerError::Corrupt { what, .. }) => {
                self.report.of_sandbox("AUDIT_UNREADABLE", &self.sandbox.key, None, what);
                Ok(Rollups::default())
            }
            rollups => rollups,
        }
    }

    fn tell_rollup(&mut self, rollup: &Rollup) {
        let message = format!("the rollup at {} is not what its slices amount to", rollup.until_unix_ns);
        let seq = u64::try_from(rollup.seq).ok();
        self.report.of_sandbox("AUDIT_ROLLUP", &self.sandbox.key, seq, message);
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

    /// Adds up what the event of a slice must be called and say.
    fn must_be_told(&mut self, host_seq: u64, row: &SliceRow) {
        if host_seq <= self.retained_seq {
            return;
        }
        self.unhashed.push(host_seq, row);
        if self.unhashed.events.len() >= INPUTS_AT_ONCE {
            self.unhashed.hash(self.keys, self.slices);
        }
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

#[cfg(test)]
mod tests {
    use dormouse_metering::{BillingState, Cause, CommandId, Fault, Shape};

    use super::*;
    use crate::SandboxKey;

    #[test]
    fn a_row_is_written_as_it_is_serialized() {
        let key =
            SandboxKey { org: "o\"rg\\ \u{1}\u{e9}".into(), sandbox: "sb".into(), generation: i64::MIN };
        let start = Boundary { unix_ns: -5, uncertainty_ns: 3, cause: Cause::Attach, command: None };
        let command = Some(CommandId::new("req\n1"));
        let end = Boundary { unix_ns: i64::MAX, uncertainty_ns: u64::MAX, cause: Cause::Tick, command };
        let shape = Shape { vcpus_milli: 1, memory_base_bytes: 2, disk_bytes: u64::MAX, ..Shape::default() };
        for state in [BillingState::Running, BillingState::Faulted(Fault::IoError)] {
            let (start, end) = (start.clone(), end.clone());
            let slice = Slice { seq: 7, state, shape, duration_ns: 9, start, end };
            for row in [SliceRow::closed(&key, &slice, true), SliceRow::open_until(&key, &slice)] {
                let mut json = Vec::new();
                write_json(&row, &mut json);
                assert_eq!(String::from_utf8(json).unwrap(), serde_json::to_string(&row).unwrap());
            }
        }
    }
}
