//! L1: the outbox is one unbroken chain.

use blake3::Hash;
use rusqlite::{Connection, Row};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::told::Sum;
use super::{Contents, Found};
use crate::LedgerError;
use crate::encode::{optional_text, text, uint};
use crate::outbox::{Envelope, Head, SLICE_EVENT};
use crate::time::rfc3339;

const EVENTS: &str = "SELECT host_seq, event_id, type, payload, payload_hash, prev_hash, org, sandbox, event_unix_ns \
     FROM outbox WHERE host_seq >= ?1 AND host_seq <= ?2 ORDER BY host_seq";

const EVENT_BEFORE: &str =
    "SELECT host_seq, payload_hash FROM outbox WHERE host_seq < ?1 ORDER BY host_seq DESC LIMIT 1";

const EDGES: &str = "SELECT min(host_seq), max(host_seq) FROM outbox";

/// By the index alone. Neither the table nor the sorting of rows is asked for.
const INDEX: &str =
    "SELECT event_id, host_seq FROM outbox INDEXED BY sqlite_autoindex_outbox_1 ORDER BY event_id";

/// At most so many parts of the chain are walked side by side, none shorter than so many events.
const PARTS_MAX: i64 = 64;
const PART_EVENTS_MIN: i64 = 4096;

/// The data of an event, as it is written.
#[derive(Deserialize)]
struct Carrier<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The JSON text of an event's data.
pub(super) fn data_of(payload: &[u8]) -> Option<&str> {
    serde_json::from_slice::<Carrier<'_>>(payload).ok().map(|carrier| carrier.data.get())
}

/// The numbers of the chain, in parts: each from its first to its last, both included.
pub(super) fn parts(conn: &Connection) -> Result<Vec<(i64, i64)>, LedgerError> {
    let edges: (Option<i64>, Option<i64>) =
        conn.query_row(EDGES, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)) = edges else { return Ok(Vec::new()) };
    // What is stored may be any number.
    let length = (last.saturating_sub(first) / PARTS_MAX).saturating_add(1).max(PART_EVENTS_MIN);
    let mut parts = Vec::new();
    let mut from = first;
    while last.saturating_sub(from) >= length {
        parts.push((from, from + length - 1));
        from += length;
    }
    parts.push((from, last));
    Ok(parts)
}

/// Walks a part of the chain.
pub(super) fn check(
    conn: &Connection,
    contents: &Contents,
    (first, last): (i64, i64),
    found: &mut Found,
) -> Result<(), LedgerError> {
    let mut head = before(conn, first)?.unwrap_or(contents.retained);
    let mut statement = conn.prepare_cached(EVENTS)?;
    let mut rows = statement.query((first, last))?;
    while let Some(row) = rows.next()? {
        found.report.events += 1;
        let event = Event::read(row)?;
        let follows = event.host_seq == head.host_seq + 1;
        if !follows {
            let message =
                format!("events {} to {} are missing", head.host_seq + 1, event.host_seq.saturating_sub(1));
            found.report.of_ledger("AUDIT_OUTBOX_GAP", Some(event.host_seq), message);
        }
        // Behind a gap the chain goes on from what the event says came before it: one hole is one violation.
        let prev = if follows { head.hash } else { event.prev_hash };
        event.check(prev, contents, found);
        head = Head { host_seq: event.host_seq, hash: event.payload_hash };
    }
    Ok(())
}

/// Adds up the index of event ids, which must hold what the events hold. No id is there twice.
pub(super) fn check_index(
    conn: &Connection,
    contents: &Contents,
    found: &mut Found,
) -> Result<(), LedgerError> {
    let mut statement = conn.prepare(INDEX)?;
    let mut rows = statement.query([])?;
    let mut last = String::new();
    while let Some(row) = rows.next()? {
        let (event_id, host_seq) = (text(row, 0)?, uint(row, 1)?);
        if found.index != Sum::default() && event_id <= last.as_str() {
            let message = format!("the id of event {host_seq} does not follow that of the event before it");
            found.report.of_ledger("AUDIT_INTEGRITY", Some(host_seq), message);
        }
        found.index.add(&contents.keys, host_seq, [event_id.as_bytes(), &[], &[]]);
        last.clear();
        last.push_str(event_id);
    }
    Ok(())
}

/// The last event before a part, among those that are kept.
fn before(conn: &Connection, first: i64) -> Result<Option<Head>, LedgerError> {
    let mut statement = conn.prepare_cached(EVENT_BEFORE)?;
    let mut rows = statement.query([first])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Head { host_seq: uint(row, 0)?, hash: Hash::from_bytes(row.get(1)?) }))
}

/// An event as it is stored.
pub(super) struct Event<'a> {
    pub(super) host_seq: u64,
    pub(super) id: &'a str,
    kind: &'a str,
    payload: &'a [u8],
    payload_hash: Hash,
    prev_hash: Hash,
    org: Option<&'a str>,
    sandbox: Option<&'a str>,
    unix_ns: i64,
}

impl<'a> Event<'a> {
    /// Reads the nine columns of the outbox in their order.
    pub(super) fn read(row: &'a Row<'_>) -> Result<Self, LedgerError> {
        Ok(Self {
            host_seq: uint(row, 0)?,
            id: text(row, 1)?,
            kind: text(row, 2)?,
            payload: row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?,
            payload_hash: Hash::from_bytes(row.get(4)?),
            prev_hash: Hash::from_bytes(row.get(5)?),
            org: optional_text(row, 6)?,
            sandbox: optional_text(row, 7)?,
            unix_ns: row.get(8)?,
        })
    }

    /// Checks the event behind one of this hash, and adds up what it tells.
    fn check(&self, prev: Hash, contents: &Contents, found: &mut Found) {
        let is_slice = self.kind == SLICE_EVENT;
        let mut fault = self.unchained(prev);
        let mut told = None;
        if fault.is_none() {
            told = self.as_written(&contents.source);
            // That a slice event's data have the hash that it says is proven by the sums, or looked at by `told`.
            if told.is_none_or(|told| !is_slice && !told.has_its_hash()) {
                fault = self.misread(&contents.source);
            }
        }
        if let Some(fault) = fault {
            let message = format!("event {}: {fault}", self.host_seq);
            found.report.of_ledger("AUDIT_OUTBOX_HASH", Some(self.host_seq), message);
        }
        let id = self.id.as_bytes();
        found.ids.add(&contents.keys, self.host_seq, [id, &[], &[]]);
        if is_slice {
            let (hash, data) = told.map_or((&[][..], self.payload), |told| (told.hash, told.data));
            found.events.add(&contents.keys, self.host_seq, [id, hash, data]);
        }
    }

    /// What is wrong with the hashes that bind the event to its bytes and to the event before it.
    fn unchained(&self, prev: Hash) -> Option<&'static str> {
        if !self.has_its_bytes() {
            Some("its bytes do not have its hash")
        } else if self.prev_hash != prev {
            Some("it does not carry the hash of the event before it")
        } else {
            None
        }
    }

    pub(super) fn has_its_bytes(&self) -> bool {
        self.payload_hash == blake3::hash(self.payload)
    }

    /// What the event tells, where everything around that is, byte for byte, what this version writes there. It is
    /// a short cut: `None` says only that the event must be read.
    pub(super) fn as_written(&self, source: &str) -> Option<Told<'a>> {
        const HASH: usize = 64;
        let (org, sandbox) = (self.org?, self.sandbox?);
        if [org, sandbox, self.id, self.kind, source].into_iter().any(is_escaped) {
            return None;
        }
        let prev_hash = self.prev_hash.to_hex();
        let head = [
            "{\"specversion\":\"1.0\",\"id\":\"",
            self.id,
            "\",\"source\":\"",
            source,
            "\",\"type\":\"",
            self.kind,
            "\",\"subject\":\"",
            sandbox,
            "\",\"time\":\"",
            &rfc3339(self.unix_ns),
            "\",\"datacontenttype\":\"application/json\",\"org\":\"",
            org,
        ];
        let skip = |payload: &'a [u8], part: &str| payload.strip_prefix(part.as_bytes());
        let rest = without_plan(head.into_iter().try_fold(self.payload, skip)?)?;
        let number = ["\",\"hostseq\":\"", &self.host_seq.to_string(), "\",\"payloadhash\":\""];
        let rest = number.into_iter().try_fold(rest, skip)?;
        let (hash, rest) = rest.split_at_checked(HASH)?;
        let rest = ["\",\"prevhash\":\"", &prev_hash, "\",\"data\":"].into_iter().try_fold(rest, skip)?;
        Some(Told { hash, data: rest.strip_suffix(b"}")? })
    }

    /// What is wrong with what the event says of itself.
    fn misread(&self, source: &str) -> Option<&'static str> {
        let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(self.payload) else {
            return Some("its bytes are no event");
        };
        let says_its_place = envelope.hostseq == self.host_seq.to_string()
            && envelope.prevhash == self.prev_hash.to_hex().as_str()
            && envelope.source == source;
        let says_its_name = envelope.id == self.id && envelope.event_type == self.kind;
        let says_its_sandbox = envelope.org.as_deref() == self.org
            && envelope.subject.as_deref() == self.sandbox
            && envelope.time == rfc3339(self.unix_ns);
        let data = envelope.data.get().as_bytes();
        if !says_its_place {
            Some("it says another source, number or predecessor")
        } else if !says_its_name {
            Some("it says another id or type")
        } else if !says_its_sandbox {
            Some("it says another org, sandbox or time")
        } else if !(Told { hash: envelope.payloadhash.as_bytes(), data }).has_its_hash() {
            Some("its data do not have the hash that it says")
        } else {
            None
        }
    }
}

/// The data of an event, and the hash that the event says they have, in hexadecimal digits.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    hash: &'a [u8],
    data: &'a [u8],
}

impl Told<'_> {
    pub(super) fn has_its_hash(self) -> bool {
        blake3::hash(self.data).to_hex().as_bytes() == self.hash
    }
}

/// What follows a plan, where one is told: events from before plans were told have none. `None` where it is escaped.
fn without_plan(rest: &[u8]) -> Option<&[u8]> {
    let Some(plan) = rest.strip_prefix(b"\",\"plan\":\"") else { return Some(rest) };
    let end = plan.iter().position(|byte| *byte == b'"')?;
    (!plan[..end].contains(&b'\\')).then_some(&plan[end..])
}

/// Whether a text is written otherwise in JSON.
fn is_escaped(text: &str) -> bool {
    // Without leaving early, so that it is done for many bytes at once.
    text.bytes().fold(false, |escaped, byte| escaped | matches!(byte, ..b' ' | b'"' | b'\\'))
}
