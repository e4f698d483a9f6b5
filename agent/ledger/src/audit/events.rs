//! L1: the outbox is one unbroken chain.

use blake3::Hash;
use rusqlite::{Connection, Row};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::AuditReport;
use crate::encode::{text, uint};
use crate::outbox::{Envelope, Head, SLICE_EVENT};
use crate::{HostName, LedgerError};

const EVENTS: &str =
    "SELECT host_seq, event_id, type, payload, payload_hash, prev_hash FROM outbox ORDER BY host_seq";

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

/// Which numbers of the outbox are events of slices that were not met yet: one bit each.
#[derive(Default)]
pub(super) struct SliceEvents(Vec<u64>);

impl SliceEvents {
    fn place(host_seq: u64) -> Option<(usize, u64)> {
        Some((usize::try_from(host_seq / 64).ok()?, 1 << (host_seq % 64)))
    }

    fn note(&mut self, host_seq: u64) {
        let Some((word, bit)) = Self::place(host_seq) else { return };
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    /// The slice of this event was met.
    pub(super) fn meet(&mut self, host_seq: u64) {
        if let Some((word, bit)) = Self::place(host_seq)
            && let Some(bits) = self.0.get_mut(word)
        {
            *bits &= !bit;
        }
    }

    /// Those whose slice was never met.
    pub(super) fn extra(&self) -> impl Iterator<Item = u64> {
        let bits = (0_u64..).zip(&self.0);
        bits.flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        })
    }
}

/// Walks the chain.
pub(super) fn check(
    conn: &Connection,
    host: &HostName,
    report: &mut AuditReport,
) -> Result<SliceEvents, LedgerError> {
    let source = host.source();
    let mut slice_events = SliceEvents::default();
    let mut head = Head::retained_after(conn)?;
    let mut statement = conn.prepare(EVENTS)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.events += 1;
        let host_seq = uint(row, 0)?;
        if host_seq != head.host_seq + 1 {
            let message = format!("events {} to {} are missing", head.host_seq + 1, host_seq - 1);
            report.of_ledger("AUDIT_OUTBOX_GAP", Some(host_seq), message);
        }
        if text(row, 2)? == SLICE_EVENT {
            slice_events.note(host_seq);
        }
        // Behind a gap the chain goes on from what the event says came before it: one hole is one violation.
        let prev = if host_seq == head.host_seq + 1 { head.hash } else { Hash::from_bytes(row.get(5)?) };
        let payload = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
        let hash = blake3::hash(payload);
        if let Some(fault) = fault(row, payload, hash, Head { host_seq: host_seq - 1, hash: prev }, &source)?
        {
            report.of_ledger("AUDIT_OUTBOX_HASH", Some(host_seq), format!("event {host_seq}: {fault}"));
        }
        head = Head { host_seq, hash: Hash::from_bytes(row.get(4)?) };
    }
    Ok(slice_events)
}

/// What is wrong with an event behind `prev`, by itself.
fn fault(
    row: &Row<'_>,
    payload: &[u8],
    hash: Hash,
    prev: Head,
    source: &str,
) -> Result<Option<&'static str>, LedgerError> {
    if row.get::<_, [u8; 32]>(4)? != *hash.as_bytes() {
        return Ok(Some("its bytes do not have its hash"));
    }
    if row.get::<_, [u8; 32]>(5)? != *prev.hash.as_bytes() {
        return Ok(Some("it does not carry the hash of the event before it"));
    }
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(payload) else {
        return Ok(Some("its bytes are no event"));
    };
    let says_its_place = envelope.hostseq == (prev.host_seq + 1).to_string()
        && envelope.prevhash == prev.hash.to_hex().as_str()
        && envelope.source == source;
    let says_its_name = envelope.id == text(row, 1)? && envelope.event_type == text(row, 2)?;
    let says_its_data =
        envelope.payloadhash == blake3::hash(envelope.data.get().as_bytes()).to_hex().as_str();
    Ok(if !says_its_place {
        Some("it says another source, number or predecessor")
    } else if !says_its_name {
        Some("it says another id or type")
    } else if !says_its_data {
        Some("its data do not have the hash that it says")
    } else {
        None
    })
}
