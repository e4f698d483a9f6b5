//! How slices lie in the columns of the fleet's ledger.

use dormouse_metering::Shape;
use tokio_postgres::Row;

use super::super::numeric::Integer;
use crate::usage::totals::Piece;
use crate::{LedgerError, SliceRow};

/// The columns of a [`SliceRow`] but for the sandbox's name.
macro_rules! slice_columns {
    () => {
        "x.org, x.generation, x.seq, x.state, x.reason, x.start_unix_ns, x.end_unix_ns, x.duration_ns, \
         x.memory_base_bytes, x.memory_plugged_bytes, x.memory_requested_bytes, x.vcpus_milli, x.disk_bytes, \
         x.opened_by, x.closed_by, x.command_id, x.opened_by_command_id, x.uncertainty_ns"
    };
}
pub(super) use slice_columns;

/// The columns of a [`Piece`].
macro_rules! piece_columns {
    () => {
        "x.state, x.vcpus_milli, x.memory_base_bytes, x.memory_plugged_bytes, x.memory_requested_bytes, \
         x.disk_bytes, x.duration_ns, x.start_unix_ns, x.end_unix_ns"
    };
}
pub(super) use piece_columns;

fn bad(what: &str) -> LedgerError {
    LedgerError::corrupt(format!("{what} is not what was written"))
}

/// A number that is never negative.
fn uint(row: &Row, column: usize) -> Result<u64, LedgerError> {
    row.get::<_, i64>(column).try_into().map_err(|_| bad("a number of a slice"))
}

/// A column of NUMERIC.
pub(super) fn unsigned(row: &Row, column: usize) -> Result<u128, LedgerError> {
    let value: Integer =
        row.try_get(column).map_err(|_| LedgerError::Overflow { what: "usage".to_owned() })?;
    value.0.try_into().map_err(|_| bad("a sum"))
}

fn vcpus_milli(row: &Row, column: usize) -> Result<u32, LedgerError> {
    row.get::<_, i64>(column).try_into().map_err(|_| bad("a number of vCPUs"))
}

/// A slice of `sandbox` from the columns of `slice_columns!` that begin at 0.
pub(super) fn slice_row(row: &Row, sandbox: &str) -> Result<SliceRow, LedgerError> {
    Ok(SliceRow {
        org: row.get(0),
        sandbox: sandbox.to_owned(),
        generation: row.get(1),
        seq: uint(row, 2)?,
        state: row.get(3),
        reason: row.get(4),
        start_unix_ns: row.get(5),
        end_unix_ns: Some(row.get(6)),
        duration_ns: uint(row, 7)?,
        memory_base_bytes: uint(row, 8)?,
        memory_plugged_bytes: uint(row, 9)?,
        memory_requested_bytes: uint(row, 10)?,
        vcpus_milli: vcpus_milli(row, 11)?,
        disk_bytes: uint(row, 12)?,
        opened_by: row.get(13),
        closed_by: Some(row.get(14)),
        command_id: row.get(15),
        opened_by_command_id: row.get(16),
        uncertainty_ns: unsigned(row, 17)?.try_into().map_err(|_| bad("an uncertainty"))?,
        is_final: true,
    })
}

/// A piece from the columns of `piece_columns!` that begin at `first`.
pub(super) fn piece(row: &Row, first: usize) -> Result<Piece, LedgerError> {
    let shape = Shape {
        vcpus_milli: vcpus_milli(row, first + 1)?,
        memory_base_bytes: uint(row, first + 2)?,
        memory_plugged_bytes: uint(row, first + 3)?,
        memory_requested_bytes: uint(row, first + 4)?,
        disk_bytes: uint(row, first + 5)?,
    };
    let place = row.get(first + 7)..row.get(first + 8);
    Piece::new(row.get(first), shape, uint(row, first + 6)?, place).ok_or_else(|| bad("a billing state"))
}
