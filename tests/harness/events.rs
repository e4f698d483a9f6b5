//! Events as a host's outbox would have frozen them, without the host: for what reads them.

use dormouse_ledger::{LIFECYCLE_EVENT, RETENTION_EVENT, SLICE_EVENT, SliceRow, WATERMARK_EVENT};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

/// Nanoseconds in a second.
pub const SECOND_NS: i64 = 1_000_000_000;
/// Nanoseconds in an hour.
pub const HOUR_NS: i64 = 3_600 * SECOND_NS;
/// 2026-01-01T00:00:00Z, where hosts begin.
pub const BEGAN_NS: i64 = 1_767_225_600 * SECOND_NS;

/// A host that tells events, each chained to the one before it.
#[derive(Clone, Debug)]
pub struct Host {
    source: String,
    last_seq: u64,
    prev_hash: blake3::Hash,
    key: SigningKey,
}

impl Host {
    /// Before its first event.
    pub fn new(name: &str) -> Self {
        Self {
            source: format!("//dormouse/cell/{name}"),
            last_seq: 0,
            prev_hash: blake3::Hash::from_bytes([0; 32]),
            // Any, but the same whenever the host is made.
            key: SigningKey::from_bytes(blake3::hash(name.as_bytes()).as_bytes()),
        }
    }

    /// The same host from here on with another key, as somebody has it who only knows the host's name.
    #[must_use]
    pub fn signing_with(self, secret: [u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(&secret), ..self }
    }

    /// The `source` of its events.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The number of the last event.
    pub fn host_seq(&self) -> u64 {
        self.last_seq
    }

    /// An event of any kind, with more attributes than those that all have.
    pub fn event(&mut self, id: &str, event_type: &str, data: &Value, more: &Value) -> Vec<u8> {
        self.last_seq += 1;
        let data_bytes = data.to_string();
        let mut event = json!({
            "specversion": "1.0", "id": id, "source": self.source, "type": event_type,
            "time": "2026-01-01T00:00:00Z", "datacontenttype": "application/json",
            "hostseq": self.last_seq.to_string(),
            "payloadhash": blake3::hash(data_bytes.as_bytes()).to_hex().as_str(),
            "prevhash": self.prev_hash.to_hex().as_str(), "data": data,
        });
        if let (Some(event), Some(more)) = (event.as_object_mut(), more.as_object()) {
            event.extend(more.clone());
        }
        let bytes = event.to_string().into_bytes();
        self.prev_hash = blake3::hash(&bytes);
        bytes
    }

    /// The event of a slice.
    pub fn slice(&mut self, row: &SliceRow) -> Vec<u8> {
        self.slice_with(row, &json!({}))
    }

    /// The event of a slice of a sandbox that was made by an API key.
    pub fn slice_of_key(&mut self, row: &SliceRow, api_key: &str) -> Vec<u8> {
        self.slice_with(row, &json!({"apikey": api_key}))
    }

    fn slice_with(&mut self, row: &SliceRow, more: &Value) -> Vec<u8> {
        let id = format!("{}:{}:{}", row.sandbox, row.generation, row.seq);
        let mut all = json!({"subject": row.sandbox, "org": row.org});
        if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        self.event(&id, SLICE_EVENT, &json!(row), &all)
    }

    /// A lifecycle event.
    pub fn lifecycle(&mut self, org: &str, sandbox: &str, kind: &str) -> Vec<u8> {
        let id = format!("{sandbox}:{BEGAN_NS}:lifecycle-{}", self.last_seq + 1);
        let data = json!({
            "org": org, "sandbox": sandbox, "generation": BEGAN_NS, "kind": kind, "unix_ns": BEGAN_NS,
            "uncertainty_ns": 0, "command_id": null, "detail": {},
        });
        self.event(&id, LIFECYCLE_EVENT, &data, &json!({"subject": sandbox, "org": org}))
    }

    /// The word that everything up to the end of an hour was sent, which all events so far belong to.
    pub fn watermark(&mut self, complete_through_unix_ns: i64) -> Vec<u8> {
        let claim = json!({"hour_unix_ns": complete_through_unix_ns});
        let (id, signed) =
            (format!("watermark:{complete_through_unix_ns}"), complete_through_unix_ns.to_string());
        self.statement(&id, WATERMARK_EVENT, &signed, claim)
    }

    /// The word that no event through this number is kept any more.
    pub fn retention(&mut self, through_seq: u64, since_unix_ns: i64) -> Vec<u8> {
        let claim = json!({"through_seq": through_seq, "since_unix_ns": since_unix_ns});
        let (id, signed) = (format!("retention:{through_seq}"), format!("{through_seq}\n{since_unix_ns}"));
        self.statement(&id, RETENTION_EVENT, &signed, claim)
    }

    fn statement(&mut self, id: &str, event_type: &str, signed: &str, mut data: Value) -> Vec<u8> {
        let (source, host_seq, root) = (&self.source, self.last_seq, self.prev_hash.to_hex());
        let signed = format!("{event_type}\n{source}\n{signed}\n{host_seq}\n{root}\n");
        data["host_seq"] = json!(host_seq);
        data["root"] = json!(root.as_str());
        data["key"] = json!(hex(self.key.verifying_key().as_bytes()));
        data["signature"] = json!(hex(&self.key.sign(signed.as_bytes()).to_bytes()));
        self.event(id, event_type, &data, &json!({}))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The slices of one sandbox, one behind the other: running with 1 GiB, 2 vCPUs and 10 GiB of disk.
#[derive(Clone, Debug)]
pub struct Life {
    next: SliceRow,
}

impl Life {
    /// It begins at [`BEGAN_NS`].
    pub fn new(org: &str, sandbox: &str) -> Self {
        Self::beginning(org, sandbox, BEGAN_NS)
    }

    /// It begins at a time of its own, in nanoseconds since the Unix epoch.
    pub fn beginning(org: &str, sandbox: &str, unix_ns: i64) -> Self {
        let next = SliceRow {
            org: org.to_owned(),
            sandbox: sandbox.to_owned(),
            generation: unix_ns,
            seq: 0,
            state: "running".to_owned(),
            reason: None,
            start_unix_ns: unix_ns,
            end_unix_ns: Some(unix_ns),
            duration_ns: 0,
            memory_base_bytes: 1 << 30,
            memory_plugged_bytes: 0,
            memory_requested_bytes: 0,
            vcpus_milli: 2_000,
            disk_bytes: 10 << 30,
            opened_by: "attach".to_owned(),
            closed_by: Some("tick".to_owned()),
            command_id: None,
            opened_by_command_id: None,
            uncertainty_ns: 0,
            is_final: true,
        };
        Self { next }
    }

    /// Goes on for a time, which must not lead past the end of an hour.
    pub fn lasts(&mut self, duration_ns: i64) -> SliceRow {
        let next = &mut self.next;
        next.seq += 1;
        next.start_unix_ns = next.end_unix_ns.unwrap_or(next.start_unix_ns);
        next.end_unix_ns = Some(next.start_unix_ns + duration_ns);
        next.duration_ns = duration_ns.unsigned_abs();
        let row = next.clone();
        next.opened_by.clone_from(row.closed_by.as_ref().unwrap_or(&row.opened_by));
        row
    }
}
