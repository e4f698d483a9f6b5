//! Events.

use rusqlite::Row;

use super::Reader;
use crate::encode::{int, row_limit, uint};
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
        let (after, limit) = (int("after", after)?, row_limit(limit));
        self.answer(|conn| {
            let mut statement = conn.prepare_cached(OUTBOX)?;
            Ok(statement.query_map((after, limit), outbox_row)?.collect::<Result<_, _>>()?)
        })
    }

    /// The events after number `after`, in order: at most `events_max`, and no more once they hold `bytes_max`.
    pub fn outbox_batch(
        &self,
        after: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<OutboxRow>, LedgerError> {
        let (after, limit) = (int("after", after)?, row_limit(events_max));
        self.answer(|conn| {
            let mut statement = conn.prepare_cached(OUTBOX)?;
            let mut rows = statement.query((after, limit))?;
            let (mut events, mut bytes) = (Vec::new(), 0);
            while bytes < bytes_max
                && let Some(row) = rows.next()?
            {
                let event = outbox_row(row)?;
                bytes += event.payload.len();
                events.push(event);
            }
            Ok(events)
        })
    }
}
