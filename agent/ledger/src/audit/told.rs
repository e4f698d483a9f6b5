//! Slices and the events that tell them: whether they are the same, and where not.
//!
//! Joining each slice to its event would read the outbox in an order in which it does not lie. So each side is read in
//! its own order and summed up, and only where the sums differ are the two joined to name what differs.

use std::hash::{BuildHasher, Hasher, RandomState};

use rusqlite::{Connection, OptionalExtension, Row};

use super::events::{Event, data_of};
use super::{AuditReport, Contents};
use crate::encode::{self, slice_columns, uint};
use crate::outbox::SLICE_EVENT;
use crate::suppression::Suppression;
use crate::{LedgerError, SandboxKey, SliceRow};

/// A sum over some things that does not depend on their order: how many, and what they hash to. The hashes are keyed
/// at random for each audit, so that nobody can write a ledger for which two different sums come out equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    count: u64,
    hashes: u64,
}

impl Sum {
    /// Adds one thing: a number and what belongs to it.
    pub(super) fn add(&mut self, keys: &RandomState, number: u64, parts: [&[u8]; 2]) {
        let mut hasher = keys.build_hasher();
        hasher.write_u64(number);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        self.merge(Self { count: 1, hashes: hasher.finish() });
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.hashes = self.hashes.wrapping_add(other.hashes);
    }
}

const SLICES: &str = concat!(
    "SELECT ",
    slice_columns!(),
    ", x.host_seq, o.event_id, o.payload FROM slices x LEFT JOIN outbox o ON o.host_seq = x.host_seq \
     WHERE x.sandbox_pk = ?1 ORDER BY x.seq"
);

const SLICE_EVENTS: &str = "SELECT host_seq, event_id, type, payload, payload_hash, prev_hash, org, sandbox, \
     event_unix_ns FROM outbox WHERE type = ?1";

/// The slice of an event by the event's id, `<sandbox>:<generation>:<seq>`.
const SLICE_OF: &str = "SELECT 1 FROM sandboxes s JOIN slices x ON x.sandbox_pk = s.pk \
     WHERE s.sandbox = ?1 AND s.generation = ?2 AND x.seq = ?3 AND x.host_seq = ?4";

/// Names every slice without its event, every event without its slice, and each two that differ.
pub(super) fn name_differences(
    conn: &Connection,
    contents: &Contents,
    report: &mut AuditReport,
) -> Result<(), LedgerError> {
    for (pk, sandbox) in &contents.lives {
        match slices(conn, *pk, &sandbox.key, contents.retained.host_seq, report) {
            // The walk through the life has told it.
            Err(LedgerError::Corrupt { .. }) => {}
            result => result?,
        }
    }
    let mut statement = conn.prepare(SLICE_EVENTS)?;
    let mut rows = statement.query([SLICE_EVENT])?;
    while let Some(row) = rows.next()? {
        let event = Event::read(row)?;
        let host_seq = event.host_seq;
        let mut parts = event.id.rsplitn(3, ':');
        let (seq, generation, sandbox) = (parts.next(), parts.next(), parts.next());
        let mut find = conn.prepare_cached(SLICE_OF)?;
        let slice = (sandbox, generation, seq, row.get::<_, i64>(0)?);
        if find.query_row(slice, |_| Ok(())).optional()?.is_none() {
            let message = format!("event {host_seq} ({}) tells a slice that is not there", event.id);
            report.of_ledger("AUDIT_EVENT_EXTRA", Some(host_seq), message);
        }
    }
    Ok(())
}

fn slices(
    conn: &Connection,
    pk: i64,
    key: &SandboxKey,
    retained_seq: u64,
    report: &mut AuditReport,
) -> Result<(), LedgerError> {
    let mut statement = conn.prepare_cached(SLICES)?;
    let mut rows = statement.query([pk])?;
    let mut suppression = Suppression::new(conn, pk, &key.org);
    while let Some(row) = rows.next()? {
        let slice = encode::slice(row, 0)?;
        let reason = suppression.reason(&slice)?;
        let host_seq = uint(row, 17)?;
        if host_seq > retained_seq {
            let must_say = SliceRow::closed(key, &slice, true).suppressed_for(reason);
            event(row, host_seq, key, &must_say, report)?;
        }
    }
    Ok(())
}

/// The event of a slice, joined to its row, must say what the slice says.
fn event(
    row: &Row<'_>,
    host_seq: u64,
    key: &SandboxKey,
    slice: &SliceRow,
    report: &mut AuditReport,
) -> Result<(), LedgerError> {
    let Some(event_id) = row.get::<_, Option<String>>(18)? else {
        let message = format!("slice {} has no event {host_seq}", slice.seq);
        report.of_sandbox("AUDIT_EVENT_MISSING", key, Some(slice.seq), message);
        return Ok(());
    };
    let payload = row.get_ref(19)?.as_blob().map_err(rusqlite::Error::from)?;
    if event_id != format!("{}:{}:{}", key.sandbox, key.generation, slice.seq) || !says_slice(payload, slice)
    {
        let message = format!("event {host_seq} ({event_id}) says something else than slice {}", slice.seq);
        report.of_sandbox("AUDIT_EVENT_DIFFERS", key, Some(slice.seq), message);
    }
    Ok(())
}

/// Whether an event's data are this slice: the same bytes, or, written by another version, the same values.
fn says_slice(payload: &[u8], slice: &SliceRow) -> bool {
    data_of(payload).is_some_and(|data| {
        serde_json::to_string(slice).is_ok_and(|text| text == data)
            || serde_json::from_str::<SliceRow>(data).is_ok_and(|told| told == *slice)
    })
}
