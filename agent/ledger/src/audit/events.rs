//! L1: the outbox is one unbroken chain.

use std::ops::Range;

use blake3::Hash;
use rusqlite::{Connection, Row};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::told::Sum;
use super::{Contents, Found};
use crate::LedgerError;
use crate::encode::{optional_text, text, uint};
use crate::hashes::{INPUTS_AT_ONCE, hash_all};
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

const HASH_DIGITS: usize = 64;

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
    part: (i64, i64),
    found: &mut Found,
) -> Result<(), LedgerError> {
    let mut unhashed = Unhashed::default();
    let walked = walk(conn, contents, part, found, &mut unhashed);
    unhashed.hash(contents, found);
    walked
}

fn walk(
    conn: &Connection,
    contents: &Contents,
    (first, last): (i64, i64),
    found: &mut Found,
    unhashed: &mut Unhashed,
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
        unhashed.push(&event, prev, &contents.source);
        if unhashed.events.len() >= INPUTS_AT_ONCE {
            unhashed.hash(contents, found);
        }
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
        found.index.add(&contents.keys, host_seq, [event_id.as_bytes(), &[]]);
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

    /// What the event tells, where everything around that is, byte for byte, what this version writes there. It is
    /// a short cut: `None` says only that the event must be read.
    fn as_written(&self, source: &str) -> Option<Told<'a>> {
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
        let (hash, rest) = rest.split_first_chunk()?;
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
        } else if blake3::hash(data).to_hex().as_bytes() != envelope.payloadhash.as_bytes() {
            Some("its data do not have the hash that it says")
        } else {
            None
        }
    }
}

/// The data of an event, and the hash that the event says they have, in hexadecimal digits.
#[derive(Clone, Copy)]
struct Told<'a> {
    hash: &'a [u8; HASH_DIGITS],
    data: &'a [u8],
}

/// Events that are looked at but for their hashes.
#[derive(Default)]
struct Unhashed {
    /// Their ids and bytes.
    bytes: Vec<u8>,
    events: Vec<Looked>,
}

/// Where in `bytes` an event is, and what was seen of it.
struct Looked {
    host_seq: u64,
    is_slice: bool,
    id: Range<usize>,
    payload: Range<usize>,
    payload_hash: Hash,
    /// The data, and the hash that they are said to have; `None` if the event had to be read to the end.
    told: Option<(Range<usize>, [u8; HASH_DIGITS])>,
    /// What is wrong with it if its bytes are those that were hashed.
    fault: Option<&'static str>,
}

impl Unhashed {
    /// Looks at the event behind one of this hash.
    fn push(&mut self, event: &Event<'_>, prev: Hash, source: &str) {
        let (id, payload) = (self.put(event.id.as_bytes()), self.put(event.payload));
        let told = event.as_written(source);
        let fault = if event.prev_hash != prev {
            Some("it does not carry the hash of the event before it")
        } else if told.is_none() {
            event.misread(source)
        } else {
            None
        };
        // An event ends behind its data, with a bracket.
        let data = |told: Told<'_>| (payload.end - 1 - told.data.len()..payload.end - 1, *told.hash);
        self.events.push(Looked {
            host_seq: event.host_seq,
            is_slice: event.kind == SLICE_EVENT,
            id,
            told: told.map(data),
            payload,
            payload_hash: event.payload_hash,
            fault,
        });
    }

    fn put(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Hashes what there is, tells what is wrong, and adds up what the events tell.
    fn hash(&mut self, contents: &Contents, found: &mut Found) {
        let part = |range: &Range<usize>| &self.bytes[range.clone()];
        let payloads = self.events.iter().map(|event| part(&event.payload));
        let told = self.events.iter().filter_map(|event| event.told.as_ref()).map(|(data, _)| part(data));
        let hashes = hash_all(&payloads.chain(told).collect::<Vec<_>>());
        let (of_payloads, of_data) = hashes.split_at(self.events.len());
        let mut of_data = of_data.iter();
        for (event, of_payload) in self.events.iter().zip(of_payloads) {
            let of_data = event.told.as_ref().and_then(|_| of_data.next());
            let is_true = of_data.zip(event.told.as_ref()).is_none_or(|(hash, (_, said))| is_hex(hash, said));
            let mut tell = |fault: &str| {
                let message = format!("event {}: {fault}", event.host_seq);
                found.report.of_ledger("AUDIT_OUTBOX_HASH", Some(event.host_seq), message);
            };
            if *of_payload == event.payload_hash {
                event.fault.into_iter().for_each(&mut tell);
                if !is_true {
                    tell("its data do not have the hash that it says");
                }
            } else {
                tell("its bytes do not have its hash");
            }
            let id = part(&event.id);
            found.ids.add(&contents.keys, event.host_seq, [id, &[]]);
            if event.is_slice {
                // Of an event that says another hash of its data, or had to be read, none: it is looked at one by one.
                let hash = of_data.filter(|_| is_true).map_or(&[][..], |hash| &hash.as_bytes()[..]);
                found.events.add(&contents.keys, event.host_seq, [id, hash]);
            }
        }
        self.bytes.clear();
        self.events.clear();
    }
}

/// Whether these digits are a hash, as it is written in events.
fn is_hex(hash: &Hash, digits: &[u8; HASH_DIGITS]) -> bool {
    hash.to_hex().as_bytes() == digits
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
