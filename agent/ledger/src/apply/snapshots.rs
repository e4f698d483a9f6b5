//! Snapshots.

use rusqlite::params;

use super::Apply;
use crate::encode::int;
use crate::{LedgerError, Snapshot};

/// The trigger `snapshots_stay` refuses to change anything but the state.
const SNAPSHOT: &str = "INSERT INTO snapshots (sandbox_pk, ordinal, method, path, manifest, state, created_unix_ns) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (sandbox_pk, ordinal) DO UPDATE SET method = excluded.method, \
     path = excluded.path, manifest = excluded.manifest, state = excluded.state, \
     created_unix_ns = excluded.created_unix_ns";

impl Apply<'_> {
    pub(super) fn snapshot(&self, snapshot: &Snapshot) -> Result<(), LedgerError> {
        let pk = self.pk(&snapshot.key)?;
        self.conn.prepare_cached(SNAPSHOT)?.execute(params![
            pk,
            int("ordinal", snapshot.ordinal)?,
            snapshot.method,
            snapshot.path,
            snapshot.manifest.to_string(),
            snapshot.state.as_str(),
            snapshot.created_unix_ns,
        ])?;
        Ok(())
    }
}
