//! Where the outbox and its sinks stand.

use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;

use super::Reader;
use crate::LedgerError;
use crate::encode::{json, uint};

const START: &str = "SELECT through_seq FROM outbox_start";
const LAST: &str = "SELECT coalesce(max(host_seq), 0) FROM outbox";
const SINKS: &str =
    "SELECT name, acknowledged_seq, since_unix_ns, error, error_unix_ns FROM sinks ORDER BY name";
const RETENTION_TOLD: &str =
    "SELECT o.host_seq FROM outbox_start s JOIN outbox o ON o.event_id = 'retention:' || s.through_seq";
const TERMS: &str = "SELECT from_seq, terms FROM sink_terms WHERE sink = ?1 ORDER BY from_seq";
const EVENT_AT: &str = "SELECT event_unix_ns FROM outbox WHERE host_seq = ?1";

/// The outbox and its sinks at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutboxStanding {
    /// The last event that is no longer kept; 0 while all are.
    pub retained_after_seq: u64,
    /// The last event; 0 while there is none.
    pub last_seq: u64,
    /// Every configured sink, by name.
    pub sinks: Vec<SinkStanding>,
}

/// Where one sink stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SinkStanding {
    /// The sink's name in the configuration.
    pub name: String,
    /// Every event through this number is stored by the sink.
    pub acknowledged_seq: u64,
    /// How many events it lacks.
    pub lag_events: u64,
    /// When `acknowledged_seq` last rose, in nanoseconds since the Unix epoch.
    pub since_unix_ns: i64,
    /// When the oldest event that it lacks took place.
    pub oldest_unix_ns: Option<i64>,
    /// Why the last attempt failed, where it did.
    pub error: Option<String>,
    /// When it failed.
    pub error_unix_ns: Option<i64>,
}

fn sink(conn: &Connection, row: &Row<'_>, last_seq: u64) -> Result<SinkStanding, LedgerError> {
    let acknowledged_seq = uint(row, 1)?;
    let mut event_at = conn.prepare_cached(EVENT_AT)?;
    let oldest = event_at.query_row([row.get::<_, i64>(1)? + 1], |row| row.get(0)).optional()?;
    Ok(SinkStanding {
        name: row.get(0)?,
        acknowledged_seq,
        lag_events: last_seq.saturating_sub(acknowledged_seq),
        since_unix_ns: row.get(2)?,
        oldest_unix_ns: oldest,
        error: row.get(3)?,
        error_unix_ns: row.get(4)?,
    })
}

impl Reader {
    /// By which terms a sink is told events: each with the number of the first event that it holds for, in order.
    pub fn sink_terms(&self, sink: &str) -> Result<Vec<(u64, serde_json::Value)>, LedgerError> {
        self.answer(|conn| {
            let mut statement = conn.prepare_cached(TERMS)?;
            let terms = statement.query_map([sink], |row| Ok((uint(row, 0)?, json(row, 1)?)))?;
            Ok(terms.collect::<Result<_, _>>()?)
        })
    }

    /// The number of the event that tells through which number events are no longer kept, if that was told.
    pub fn retention_told(&self) -> Result<Option<u64>, LedgerError> {
        self.answer(|conn| Ok(conn.query_row(RETENTION_TOLD, [], |row| uint(row, 0)).optional()?))
    }

    /// Where the outbox and its sinks stand.
    pub fn outbox_standing(&self) -> Result<OutboxStanding, LedgerError> {
        self.answer(|conn| {
            let last_seq = conn.query_row(LAST, [], |row| uint(row, 0))?;
            let mut statement = conn.prepare_cached(SINKS)?;
            let mut rows = statement.query([])?;
            let mut sinks = Vec::new();
            while let Some(row) = rows.next()? {
                sinks.push(sink(conn, row, last_seq)?);
            }
            let retained_after_seq = conn.query_row(START, [], |row| uint(row, 0))?;
            Ok(OutboxStanding { retained_after_seq, last_seq, sinks })
        })
    }
}
