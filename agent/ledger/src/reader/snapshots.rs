//! Snapshots.

use rusqlite::Row;

use super::Reader;
use crate::encode::{bad, json, text, uint};
use crate::{LedgerError, SandboxKey, Snapshot, SnapshotState};

const SNAPSHOTS: &str = "SELECT s.org, s.sandbox, s.generation, x.ordinal, x.method, x.path, x.manifest, x.state, \
     x.created_unix_ns FROM snapshots x JOIN sandboxes s ON s.pk = x.sandbox_pk \
     WHERE s.org = ?1 AND s.sandbox = ?2 AND s.generation = ?3 ORDER BY x.ordinal";

fn snapshot(row: &Row<'_>) -> rusqlite::Result<Snapshot> {
    Ok(Snapshot {
        key: SandboxKey { org: row.get(0)?, sandbox: row.get(1)?, generation: row.get(2)? },
        ordinal: uint(row, 3)?,
        method: row.get(4)?,
        path: row.get(5)?,
        manifest: json(row, 6)?,
        state: SnapshotState::parse(text(row, 7)?).ok_or_else(|| bad(7, "no snapshot state"))?,
        created_unix_ns: row.get(8)?,
    })
}

impl Reader {
    /// The snapshots of one generation of a sandbox, oldest first.
    pub fn snapshots(&self, key: &SandboxKey) -> Result<Vec<Snapshot>, LedgerError> {
        self.answer(|conn| {
            let mut statement = conn.prepare_cached(SNAPSHOTS)?;
            let rows = statement.query_map((&key.org, &key.sandbox, key.generation), snapshot)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}
