//! Verifies a host's record without its ledger: events as they were sent, one in a line.
//!
//! Each event carries the hash of the one before it, and each watermark, and each word of what is no longer kept, the
//! host's signature over the hash of all before it. So whoever holds the events and the host's public key needs to trust nobody. What it checks:
//!
//! | code | what must hold |
//! |---|---|
//! | `VERIFY_EVENT` | a line is an event of ours |
//! | `VERIFY_SOURCE` | all are of one host |
//! | `VERIFY_GAP` | their numbers follow each other |
//! | `VERIFY_CHAIN` | each carries the hash of the event before it |
//! | `VERIFY_DATA` | an event's data have the hash that it says |
//! | `VERIFY_SIGNATURE` | a watermark or retention is signed, for its place in the chain, by the key that is expected |

use std::collections::BTreeSet;

use blake3::Hash;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::outbox::{Envelope, RETENTION_EVENT, WATERMARK_EVENT};
use crate::statement::{Claim, Complete, NotKept, Statement};

/// At most so many anomalies are told one by one; all are counted.
const TOLD_MAX: usize = 1_000;

/// What verifying found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The host whose record it is.
    pub source: Option<String>,
    /// How many events were looked at.
    pub events: u64,
    /// The number of the first.
    pub first_seq: Option<u64>,
    /// The number of the last.
    pub last_seq: Option<u64>,
    /// How many watermarks are signed right.
    pub watermarks: u64,
    /// The last event that a right signature covers. Those behind it are chained, but may still be cut off.
    pub signed_through_seq: Option<u64>,
    /// The public keys by which watermarks are signed, in hexadecimal.
    pub keys: BTreeSet<String>,
    /// How many things do not hold.
    pub anomalies_total: u64,
    /// The first 1,000 of them.
    pub anomalies: Vec<VerifyAnomaly>,
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyAnomaly {
    /// What, as a stable code.
    pub code: &'static str,
    /// In which line, from 1.
    pub line: u64,
    /// In words.
    pub message: String,
}

/// A record on its way through.
#[derive(Debug, Default)]
pub struct Verification {
    report: VerifyReport,
    line: u64,
    /// The number and the hash of the event before.
    last: Option<(u64, Hash)>,
    key: Option<String>,
}

impl Verification {
    /// Verifies a record whose watermarks must be signed by a public key (in hexadecimal); without one by whichever the
    /// first is signed by.
    pub fn new(key: Option<String>) -> Self {
        Self { key: key.map(|key| key.to_ascii_lowercase()), ..Self::default() }
    }

    /// Looks at the next line, without its line break.
    pub fn line(&mut self, bytes: &[u8]) {
        self.line += 1;
        let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(bytes) else {
            return self.tell("VERIFY_EVENT", "it is no event".to_owned());
        };
        let Ok(host_seq) = envelope.hostseq.parse::<u64>() else {
            return self.tell("VERIFY_EVENT", format!("its number is {:?}", envelope.hostseq));
        };
        self.report.events += 1;
        self.report.first_seq.get_or_insert(host_seq);
        self.report.last_seq = Some(host_seq);
        let source = self.report.source.get_or_insert_with(|| envelope.source.to_string());
        if *source != envelope.source {
            let message = format!("event {host_seq} is of {}, not of {source}", envelope.source);
            self.tell("VERIFY_SOURCE", message);
        }
        self.place(host_seq, &envelope);
        if envelope.payloadhash != blake3::hash(envelope.data.get().as_bytes()).to_hex().as_str() {
            self.tell("VERIFY_DATA", format!("the data of event {host_seq} are not what it says"));
        }
        match envelope.event_type.as_ref() {
            WATERMARK_EVENT => {
                let is_signed = self.signed::<Complete>(host_seq, &envelope);
                self.report.watermarks += u64::from(is_signed);
            }
            RETENTION_EVENT => _ = self.signed::<NotKept>(host_seq, &envelope),
            _ => {}
        }
        self.last = Some((host_seq, blake3::hash(bytes)));
    }

    /// What was found.
    pub fn report(self) -> VerifyReport {
        self.report
    }

    /// The first event may have predecessors that are not in the record; number 1 has none.
    fn place(&mut self, host_seq: u64, envelope: &Envelope<'_>) {
        let expected = match self.last {
            Some((last, _)) if host_seq != last + 1 => {
                self.tell("VERIFY_GAP", format!("event {host_seq} follows event {last}"));
                return;
            }
            Some((_, hash)) => hash,
            None if host_seq == 1 => Hash::from_bytes([0; 32]),
            None => return,
        };
        if envelope.prevhash != expected.to_hex().as_str() {
            self.tell(
                "VERIFY_CHAIN",
                format!("event {host_seq} does not carry the hash of the event before it"),
            );
        }
    }

    /// Whether a statement is signed as it must be. Its signature covers all before it.
    fn signed<C: Claim + DeserializeOwned>(&mut self, host_seq: u64, envelope: &Envelope<'_>) -> bool {
        let kind = &envelope.event_type;
        let Ok(data) = serde_json::from_str::<Statement<C>>(envelope.data.get()) else {
            self.tell("VERIFY_EVENT", format!("the data of event {host_seq}, {kind}, cannot be read"));
            return false;
        };
        self.report.keys.insert(data.key.clone());
        let expected = self.key.get_or_insert_with(|| data.key.clone());
        if *expected != data.key {
            let message =
                format!("event {host_seq}, {kind}, is signed by the key {}, not by {expected}", data.key);
            self.tell("VERIFY_SIGNATURE", message);
            return false;
        }
        if !data.is_in_place(host_seq, &envelope.prevhash) || !data.is_signed(&envelope.source) {
            let message = format!("the signature of event {host_seq}, {kind}, is not of what is before it");
            self.tell("VERIFY_SIGNATURE", message);
            return false;
        }
        self.report.signed_through_seq = Some(data.host_seq);
        true
    }

    fn tell(&mut self, code: &'static str, message: String) {
        self.report.anomalies_total += 1;
        if self.report.anomalies.len() < TOLD_MAX {
            self.report.anomalies.push(VerifyAnomaly { code, line: self.line, message });
        }
    }
}
