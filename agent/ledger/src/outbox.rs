//! Events as they are sent: CloudEvents 1.0 in JSON, frozen in the transaction that commits what they tell.
//!
//! Each event carries its number on the host (`hostseq`), the hash of its data (`payloadhash`) and the hash of
//! the whole event before it (`prevhash`), so that a host's record is a chain in which nothing can be changed,
//! left out or put in without being seen. `hostseq` is a string, because CloudEvents integers have 32 bits.

use std::borrow::Cow;

use blake3::Hash;
use dormouse_metering::Slice;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::encode::int;
use crate::host_key::HostKey;
use crate::statement::{Claim, Complete, NotKept, Statement};
use crate::time::rfc3339;
use crate::{HostName, LedgerError, LifecycleEvent, SandboxKey, SliceRow, Watermark};

/// The type of an event that tells a closed, final slice.
pub const SLICE_EVENT: &str = "dev.dormouse.slice.v1";
/// The type of an event that tells something else that happened to a sandbox.
pub const LIFECYCLE_EVENT: &str = "dev.dormouse.lifecycle.v1";

/// The type of an event that tells that everything of a host up to an hour is in the events before it.
pub const WATERMARK_EVENT: &str = "dev.dormouse.watermark.v1";

/// The type of an event that tells through which number a host's events can be had from it no more.
pub const RETENTION_EVENT: &str = "dev.dormouse.retention.v1";

/// What is around the data of nearly every event takes less.
const ENVELOPE_BYTES: usize = 640;

/// What an event says of itself.
#[derive(Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) source: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    pub(crate) event_type: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) time: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) org: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) hostseq: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) payloadhash: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) prevhash: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) data: &'a RawValue,
}

/// The last event of the outbox.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) host_seq: u64,
    pub(crate) hash: Hash,
}

impl Default for Head {
    fn default() -> Self {
        Self::START
    }
}

impl Head {
    /// Before the first event.
    pub(crate) const START: Self = Self { host_seq: 0, hash: Hash::from_bytes([0; 32]) };

    /// The last event that is no longer kept.
    pub(crate) fn retained_after(conn: &Connection) -> Result<Self, LedgerError> {
        const START: &str = "SELECT through_seq, hash FROM outbox_start";
        Ok(conn.query_row(START, [], |row| {
            Ok(Self { host_seq: crate::encode::uint(row, 0)?, hash: Hash::from_bytes(row.get(1)?) })
        })?)
    }

    /// Reads the last event's number and hash.
    pub(crate) fn read(conn: &Connection) -> Result<Self, LedgerError> {
        const LAST: &str = "SELECT host_seq, payload_hash FROM outbox ORDER BY host_seq DESC LIMIT 1";
        let mut statement = conn.prepare_cached(LAST)?;
        let mut rows = statement.query([])?;
        let Some(row) = rows.next()? else { return Ok(Self::START) };
        Ok(Self { host_seq: crate::encode::uint(row, 0)?, hash: Hash::from_bytes(row.get(1)?) })
    }
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: &'a str,
    datacontenttype: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
    hostseq: &'a str,
    payloadhash: &'a str,
    prevhash: &'a str,
    data: &'a RawValue,
}

#[derive(Serialize)]
struct LifecycleData<'a> {
    org: &'a str,
    sandbox: &'a str,
    generation: i64,
    kind: &'a str,
    unix_ns: i64,
    uncertainty_ns: u64,
    command_id: Option<&'a str>,
    detail: &'a serde_json::Value,
}

/// What an event is made of, apart from its place in the chain.
pub(crate) struct Draft<'a> {
    id: String,
    event_type: &'static str,
    /// The sandbox that it is about.
    key: Option<&'a SandboxKey>,
    /// The plan that the sandbox had when the event was committed.
    plan: Option<&'a str>,
    unix_ns: i64,
    data: Box<RawValue>,
}

impl<'a> Draft<'a> {
    /// The event of a slice, `<sandbox>:<generation>:<seq>`.
    pub(crate) fn slice(
        (key, plan): (&'a SandboxKey, &'a str),
        slice: &Slice,
        suppressed_for: Option<String>,
    ) -> Result<Self, LedgerError> {
        Ok(Self {
            id: format!("{}:{}:{}", key.sandbox, key.generation, slice.seq),
            event_type: SLICE_EVENT,
            key: Some(key),
            plan: Some(plan),
            unix_ns: slice.end.unix_ns,
            data: raw(&SliceRow::closed(key, slice, true).suppressed_for(suppressed_for))?,
        })
    }

    /// A lifecycle event, `<sandbox>:<generation>:lifecycle-<host_seq>`.
    pub(crate) fn lifecycle(
        event: &'a LifecycleEvent,
        plan: &'a str,
        host_seq: u64,
    ) -> Result<Self, LedgerError> {
        let key = &event.key;
        Ok(Self {
            id: format!("{}:{}:lifecycle-{host_seq}", key.sandbox, key.generation),
            event_type: LIFECYCLE_EVENT,
            key: Some(key),
            plan: Some(plan),
            unix_ns: event.at.wall_ns,
            data: raw(&LifecycleData {
                org: &key.org,
                sandbox: &key.sandbox,
                generation: key.generation,
                kind: &event.kind,
                unix_ns: event.at.wall_ns,
                uncertainty_ns: event.at.uncertainty_ns,
                command_id: event.command.as_ref().map(dormouse_metering::CommandId::as_str),
                detail: &event.detail,
            })?,
        })
    }

    /// A watermark behind `prev`, `watermark:<hour>`.
    pub(crate) fn watermark(
        watermark: &Watermark,
        host: &HostName,
        key: &HostKey,
        prev: Head,
    ) -> Result<Self, LedgerError> {
        let Watermark { hour_unix_ns, at_unix_ns } = *watermark;
        let complete = Complete { hour_unix_ns };
        let data = Statement::sign(complete, &host.source(), prev, key);
        Self::of_host(format!("watermark:{hour_unix_ns}"), at_unix_ns, &data)
    }

    /// The word of what is no longer kept, behind `prev`, `retention:<through_seq>`.
    pub(crate) fn retention(
        not_kept: NotKept,
        at_unix_ns: i64,
        host: &HostName,
        key: &HostKey,
        prev: Head,
    ) -> Result<Self, LedgerError> {
        let id = format!("retention:{}", not_kept.through_seq);
        Self::of_host(id, at_unix_ns, &Statement::sign(not_kept, &host.source(), prev, key))
    }

    /// An event of the host itself, about no sandbox.
    fn of_host<C: Claim + Serialize>(
        id: String,
        unix_ns: i64,
        statement: &Statement<C>,
    ) -> Result<Self, LedgerError> {
        Ok(Self { id, event_type: C::EVENT_TYPE, key: None, plan: None, unix_ns, data: raw(statement)? })
    }

    /// The bytes of the event that follows `prev`.
    pub(crate) fn bytes(&self, host: &HostName, prev: Head) -> Result<Vec<u8>, LedgerError> {
        let (payload_hash, prev_hash) =
            (blake3::hash(self.data.get().as_bytes()).to_hex(), prev.hash.to_hex());
        let event = CloudEvent {
            specversion: "1.0",
            id: &self.id,
            source: &host.source(),
            event_type: self.event_type,
            subject: self.key.map(|key| key.sandbox.as_str()),
            time: &rfc3339(self.unix_ns),
            datacontenttype: "application/json",
            org: self.key.map(|key| key.org.as_str()),
            plan: self.plan,
            hostseq: &(prev.host_seq + 1).to_string(),
            payloadhash: &payload_hash,
            prevhash: &prev_hash,
            data: &self.data,
        };
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + self.data.get().len());
        serde_json::to_writer(&mut bytes, &event)
            .map_err(|error| LedgerError::rejected(error.to_string()))?;
        Ok(bytes)
    }

    /// Appends the event to the outbox and moves the head to it.
    pub(crate) fn append(
        &self,
        conn: &Connection,
        host: &HostName,
        head: &mut Head,
    ) -> Result<(), LedgerError> {
        // Refused, it ends the transaction, as its trigger does.
        const APPEND: &str = "INSERT OR ROLLBACK INTO outbox (host_seq, event_id, type, org, sandbox, event_unix_ns, payload, \
                              payload_hash, prev_hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let payload = self.bytes(host, *head)?;
        let next = Head { host_seq: head.host_seq + 1, hash: blake3::hash(&payload) };
        conn.prepare_cached(APPEND)?.execute(rusqlite::params![
            int("host_seq", next.host_seq)?,
            self.id,
            self.event_type,
            self.key.map(|key| &key.org),
            self.key.map(|key| &key.sandbox),
            self.unix_ns,
            payload,
            next.hash.as_bytes(),
            head.hash.as_bytes(),
        ])?;
        *head = next;
        Ok(())
    }
}

fn raw<T: Serialize>(data: &T) -> Result<Box<RawValue>, LedgerError> {
    serde_json::value::to_raw_value(data).map_err(|error| LedgerError::rejected(error.to_string()))
}
