//! Straight into the ledger's tables, by COPY: what a batch holds that nothing speaks against. What it fails on is not looked
//! at here: the batch is staged then.
//!
//! A row that is copied costs PostgreSQL less than one that is staged, read again and inserted: it is written once, and
//! with its neighbours.

use std::collections::HashMap;
use std::pin::pin;

use futures_util::SinkExt;
use tokio_postgres::{Statement, Transaction};

use super::binary::Rows;
use super::sift::Sifted;
use super::sources::{Staged, StagedRow};
use super::{FleetError, Told};
use crate::SliceRow;

pub(super) const COPY_EVENTS: &str =
    "COPY events (source_id, event_id, host_seq, payload_hash) FROM STDIN (FORMAT binary)";
const EVENT_COLUMNS: i16 = 4;

pub(super) const COPY_SLICES: &str = "COPY slices (host_id, api_key_id, sandbox_id, generation, seq, org, state, \
     reason, start_unix_ns, end_unix_ns, duration_ns, memory_base_bytes, memory_plugged_bytes, \
     memory_requested_bytes, vcpus_milli, disk_bytes, opened_by, closed_by, command_id, opened_by_command_id, \
     uncertainty_ns) FROM STDIN (FORMAT binary)";
const SLICE_COLUMNS: i16 = 21;

/// The statements of it, prepared.
pub(super) struct Copies {
    pub(super) events: Statement,
    pub(super) slices: Statement,
}

/// Stores the keys of a batch, and its slices with the hosts that they refer to; how many slices there are. In the order
/// in which everybody does, so that nobody waits for whom he keeps waiting.
pub(super) async fn store(
    tx: &Transaction<'_>,
    copies: &Copies,
    staged: &Staged<'_>,
    sifted: &Sifted,
    host_ids: &HashMap<i32, i64>,
) -> Result<u64, FleetError> {
    let mut kept: Vec<&StagedRow<'_>> = staged.kept(sifted).collect();
    let slices: Vec<&StagedRow<'_>> = kept.iter().copied().filter(|row| row.2.is_some()).collect();
    kept.sort_unstable_by_key(|(_, source_id, _, event)| (*source_id, event.id.as_str()));
    copy(tx, &copies.events, kept, |rows, (_, source_id, _, event)| {
        rows.row(EVENT_COLUMNS);
        rows.integer(*source_id);
        rows.column(event.id.as_bytes())?;
        rows.bigint(event.host_seq);
        rows.column(&event.payload_hash)
    })
    .await?;
    let count = slices.len() as u64;
    if count == 0 {
        return Ok(0);
    }
    copy(tx, &copies.slices, slices, |rows, (_, source_id, sandbox_id, event)| {
        let (Told::Slice(row), Some(sandbox_id)) = (&event.told, sandbox_id) else { return Ok(()) };
        rows.row(SLICE_COLUMNS);
        match host_ids.get(source_id) {
            Some(host_id) => rows.bigint(*host_id),
            None => rows.null(),
        }
        rows.optional(event.api_key.as_deref())?;
        slice(rows, *sandbox_id, row)
    })
    .await?;
    Ok(count)
}

/// Writes rows into a table.
pub(super) async fn copy<'a, T: 'a>(
    tx: &Transaction<'_>,
    statement: &Statement,
    what: impl IntoIterator<Item = &'a T>,
    mut write: impl FnMut(&mut Rows, &'a T) -> Result<(), FleetError>,
) -> Result<(), FleetError> {
    let mut sink = pin!(tx.copy_in(statement).await?);
    let mut rows = Rows::begin();
    for row in what {
        write(&mut rows, row)?;
        if let Some(chunk) = rows.chunk() {
            sink.feed(chunk).await?;
        }
    }
    sink.feed(rows.end()).await?;
    sink.finish().await?;
    Ok(())
}

/// The columns of a slice from its sandbox on, which both tables have in one order.
pub(super) fn slice(rows: &mut Rows, sandbox_id: i64, row: &SliceRow) -> Result<(), FleetError> {
    rows.bigint(sandbox_id);
    rows.bigint(row.generation);
    rows.quantity(row.seq)?;
    rows.column(row.org.as_bytes())?;
    rows.column(row.state.as_bytes())?;
    rows.optional(row.reason.as_deref())?;
    rows.bigint(row.start_unix_ns);
    rows.bigint(row.end_unix_ns.unwrap_or(row.start_unix_ns));
    rows.quantity(row.duration_ns)?;
    rows.quantity(row.memory_base_bytes)?;
    rows.quantity(row.memory_plugged_bytes)?;
    rows.quantity(row.memory_requested_bytes)?;
    rows.bigint(row.vcpus_milli.into());
    rows.quantity(row.disk_bytes)?;
    rows.column(row.opened_by.as_bytes())?;
    rows.optional(row.closed_by.as_deref())?;
    rows.optional(row.command_id.as_deref())?;
    rows.optional(row.opened_by_command_id.as_deref())?;
    rows.numeric(row.uncertainty_ns.into())
}
