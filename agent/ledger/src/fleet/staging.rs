//! The staging table, in which a batch is sifted, and what of it may be stored is stored from there.

use tokio_postgres::{Statement, Transaction};

use super::sift::Sifted;
use super::sources::Staged;
use super::{FleetError, Told, straight};

/// Made once for each connection; every commit empties it. Temporary: it is nobody else's, and leaves no trace in
/// the write-ahead log.
pub(super) const CREATE: &str = "CREATE TEMPORARY TABLE staged (
    place integer NOT NULL, source_id integer NOT NULL, event_id text COLLATE \"C\" NOT NULL, \
    host_seq bigint NOT NULL, payload_hash bytea NOT NULL, api_key_id text COLLATE \"C\", sandbox_id bigint, \
    generation bigint, seq bigint, org text COLLATE \"C\", state text COLLATE \"C\", reason text, \
    start_unix_ns bigint, end_unix_ns bigint, duration_ns bigint, memory_base_bytes bigint, \
    memory_plugged_bytes bigint, memory_requested_bytes bigint, vcpus_milli bigint, disk_bytes bigint, \
    opened_by text, closed_by text, command_id text, opened_by_command_id text, uncertainty_ns numeric(20)
) ON COMMIT DELETE ROWS";

pub(super) const COPY: &str = "COPY staged FROM STDIN (FORMAT binary)";

/// How many columns there are, and how many of them only slices have.
const COLUMNS: i16 = 25;
const SLICE_COLUMNS: usize = 19;

/// Fills the table with a batch, but for what was taken out of that.
pub(super) async fn fill(
    tx: &Transaction<'_>,
    copy: &Statement,
    staged: &Staged<'_>,
    sifted: &Sifted,
) -> Result<(), FleetError> {
    let kept = staged.kept(sifted);
    straight::copy(tx, copy, kept, |rows, (place, source_id, sandbox_id, event)| {
        rows.row(COLUMNS);
        rows.integer(*place);
        rows.integer(*source_id);
        rows.column(event.id.as_bytes())?;
        rows.bigint(event.host_seq);
        rows.column(&event.payload_hash)?;
        rows.optional(event.api_key.as_deref())?;
        match (&event.told, sandbox_id) {
            (Told::Slice(row), Some(sandbox_id)) => straight::slice(rows, *sandbox_id, row)?,
            _ => (0..SLICE_COLUMNS).for_each(|_| rows.null()),
        }
        Ok(())
    })
    .await
}
