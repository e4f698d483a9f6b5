//! Events.

use rusqlite::Row;

use super::Reader;
use crate::encode::{int, uint};
use crate::{LedgerError, OutboxRow};

const OUTBOX: &str = "SELECT host_seq, event_id, type, org, sandbox, event_unix_ns, payload, payload_hash, prev_hash \
     FROM outbox WHERE host_seq > ?1 ORDER BY host_seq LIMIT ?2";

fn outbox_row(row: &Row<'_>) -> rusqlite::Result<OutboxRow> {
    Ok(OutboxRow {
        host_seq: uint(row, 0)?,
        event_id: row.get(1)?,
        event_type: row.get(2)?,
        org: row.get(3)?,
        sandbox: row.get(4)?,
        event_unix_ns: row.get(5)?,
        payload: row.get(6)?,
        payload_hash: row.get(7)?,
        prev_hash: row.get(8)?,
    })
}

impl Reader {
    /// At most `limit` events after number `after`, in order.
    pub fn outbox(&self, after: u64, limit: usize) -> Result<Vec<OutboxRow>, LedgerError> {
        let (after, limit) = (int("after", after)?, i64::try_from(limit).unwrap_or(i64::MAX));
        self.answer(|conn| {
            let mut statement = conn.prepare_cached(OUTBOX)?;
            Ok(statement.query_map((after, limit), outbox_row)?.collect::<Result<_, _>>()?)
        })
    }
}
