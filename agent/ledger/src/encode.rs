//! How the meter's types lie in columns, and how pending observations lie in JSON.

use std::borrow::Cow;

use dormouse_metering::{
    BillingState, BootId, Boundary, Cause, Change, CommandId, Observation, OpenSlice, Shape, Slice, Stamp,
};
use rusqlite::types::Type;
use rusqlite::{Error, Row};
use serde::{Deserialize, Serialize};

use crate::LedgerError;

/// The columns of a closed slice, in the order in which [`slice`] reads them.
macro_rules! slice_columns {
    () => {
        "x.seq, x.state, x.fault, x.vcpus_milli, x.memory_base_bytes, x.memory_plugged_bytes, \
         x.memory_requested_bytes, x.disk_bytes, x.start_unix_ns, x.start_uncertainty_ns, x.opened_by, \
         x.opened_command, x.duration_ns, x.end_unix_ns, x.end_uncertainty_ns, x.closed_by, x.closed_command"
    };
}
pub(crate) use slice_columns;

/// The columns of an open slice, in the order in which [`open_slice`] reads them.
macro_rules! open_columns {
    () => {
        "s.open_seq, s.open_state, s.open_fault, s.open_vcpus_milli, s.open_memory_base_bytes, \
         s.open_memory_plugged_bytes, s.open_memory_requested_bytes, s.open_disk_bytes, s.open_start_unix_ns, \
         s.open_start_uncertainty_ns, s.open_opened_by, s.open_opened_command, s.open_boot, \
         s.open_start_boottime_ns, s.open_beneath"
    };
}
pub(crate) use open_columns;

/// A number as SQLite stores it.
pub(crate) fn int(field: &'static str, value: u64) -> Result<i64, LedgerError> {
    i64::try_from(value).map_err(|_| LedgerError::OutOfRange { field, value })
}

/// How many rows to read at the most, as SQLite wants it.
pub(crate) fn row_limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Reads what [`hex`] wrote.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let digit = |character: u8| char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// What a column holds is none of ours.
pub(crate) fn bad(column: usize, what: &'static str) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, what.into())
}

/// Reads a number that is never negative.
pub(crate) fn uint(row: &Row<'_>, column: usize) -> Result<u64, Error> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| Error::IntegralValueOutOfRange(column, value))
}

/// Reads a text without copying it.
pub(crate) fn text<'row>(row: &'row Row<'_>, column: usize) -> Result<&'row str, Error> {
    row.get_ref(column)?.as_str().map_err(|_| bad(column, "no text"))
}

/// Reads a text that may be missing, without copying it.
pub(crate) fn optional_text<'row>(row: &'row Row<'_>, column: usize) -> Result<Option<&'row str>, Error> {
    row.get_ref(column)?.as_str_or_null().map_err(|_| bad(column, "no text"))
}

/// Reads a value of ours that is kept as JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T, Error> {
    serde_json::from_str(text(row, column)?)
        .map_err(|error| Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// Reads a stamp from `boot`, `boottime_ns` and `wall_ns`, three columns from `first`.
pub(crate) fn stamp(row: &Row<'_>, first: usize) -> Result<Stamp, Error> {
    Ok(Stamp {
        boot: BootId(row.get(first)?),
        boottime_ns: uint(row, first + 1)?,
        wall_ns: row.get(first + 2)?,
        uncertainty_ns: 0,
    })
}

fn state(row: &Row<'_>, column: usize) -> Result<BillingState, Error> {
    let (name, fault) = (text(row, column)?, optional_text(row, column + 1)?);
    BillingState::ALL
        .into_iter()
        .find(|state| state.name() == name && state.fault().map(dormouse_metering::Fault::as_str) == fault)
        .ok_or_else(|| bad(column, "no billing state"))
}

fn shape(row: &Row<'_>, first: usize) -> Result<Shape, Error> {
    Ok(Shape {
        vcpus_milli: row.get(first)?,
        memory_base_bytes: uint(row, first + 1)?,
        memory_plugged_bytes: uint(row, first + 2)?,
        memory_requested_bytes: uint(row, first + 3)?,
        disk_bytes: uint(row, first + 4)?,
    })
}

fn boundary(row: &Row<'_>, first: usize) -> Result<Boundary, Error> {
    Ok(Boundary {
        unix_ns: row.get(first)?,
        uncertainty_ns: uint(row, first + 1)?,
        cause: Cause::parse(text(row, first + 2)?).ok_or_else(|| bad(first + 2, "no cause"))?,
        command: optional_text(row, first + 3)?.map(CommandId::new),
    })
}

/// Reads a closed slice from the 17 columns of `slice_columns!` that begin at `first`.
pub(crate) fn slice(row: &Row<'_>, first: usize) -> Result<Slice, Error> {
    Ok(Slice {
        seq: uint(row, first)?,
        state: state(row, first + 1)?,
        shape: shape(row, first + 3)?,
        start: boundary(row, first + 8)?,
        duration_ns: uint(row, first + 12)?,
        end: boundary(row, first + 13)?,
    })
}

/// Reads an open slice from the 15 columns of `open_columns!` that begin at `first`, if there is one.
pub(crate) fn open_slice(row: &Row<'_>, first: usize) -> Result<Option<OpenSlice>, Error> {
    if row.get_ref(first)? == rusqlite::types::ValueRef::Null {
        return Ok(None);
    }
    Ok(Some(OpenSlice {
        seq: uint(row, first)?,
        state: state(row, first + 1)?,
        beneath: optional_text(row, first + 14)?
            .map(|text| text.parse().map_err(|_| bad(first + 14, "no billing state")))
            .transpose()?,
        shape: shape(row, first + 3)?,
        start: boundary(row, first + 8)?,
        boot: BootId(row.get(first + 12)?),
        start_boottime_ns: uint(row, first + 13)?,
    }))
}

/// An observation as it is kept in `pending`. The names are part of the file format.
#[derive(Serialize, Deserialize)]
struct StoredObservation<'a> {
    boot: String,
    boottime_ns: u64,
    wall_ns: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    uncertainty_ns: u64,
    cause: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Cow<'a, str>>,
    change: StoredChange,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredChange {
    Began(StoredShape, String),
    Holds(StoredShape, String),
    Plugged(u64),
    Requested(u64),
    Vcpus(u32),
    Disk(u64),
    State(String),
    Suppressed(bool),
    Mark,
    Ended,
}

#[derive(Serialize, Deserialize)]
struct StoredShape {
    vcpus_milli: u32,
    memory_base_bytes: u64,
    memory_plugged_bytes: u64,
    memory_requested_bytes: u64,
    disk_bytes: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl From<Shape> for StoredShape {
    fn from(shape: Shape) -> Self {
        Self {
            vcpus_milli: shape.vcpus_milli,
            memory_base_bytes: shape.memory_base_bytes,
            memory_plugged_bytes: shape.memory_plugged_bytes,
            memory_requested_bytes: shape.memory_requested_bytes,
            disk_bytes: shape.disk_bytes,
        }
    }
}

impl From<StoredShape> for Shape {
    fn from(shape: StoredShape) -> Self {
        Self {
            vcpus_milli: shape.vcpus_milli,
            memory_base_bytes: shape.memory_base_bytes,
            memory_plugged_bytes: shape.memory_plugged_bytes,
            memory_requested_bytes: shape.memory_requested_bytes,
            disk_bytes: shape.disk_bytes,
        }
    }
}

/// Writes a pending observation.
pub(crate) fn observation_to_json(observation: &Observation) -> Result<String, LedgerError> {
    let stored = StoredObservation {
        boot: observation.at.boot.to_string(),
        boottime_ns: observation.at.boottime_ns,
        wall_ns: observation.at.wall_ns,
        uncertainty_ns: observation.at.uncertainty_ns,
        cause: Cow::Borrowed(observation.cause.as_str()),
        command: observation.command.as_ref().map(|command| Cow::Borrowed(command.as_str())),
        change: match observation.change {
            Change::Began(shape, state) => StoredChange::Began(shape.into(), state.to_string()),
            Change::Holds(shape, state) => StoredChange::Holds(shape.into(), state.to_string()),
            Change::Plugged(bytes) => StoredChange::Plugged(bytes),
            Change::Requested(bytes) => StoredChange::Requested(bytes),
            Change::Vcpus(milli) => StoredChange::Vcpus(milli),
            Change::Disk(bytes) => StoredChange::Disk(bytes),
            Change::State(state) => StoredChange::State(state.to_string()),
            Change::Suppressed(suppressed) => StoredChange::Suppressed(suppressed),
            Change::Mark => StoredChange::Mark,
            Change::Ended => StoredChange::Ended,
        },
    };
    serde_json::to_string(&stored).map_err(|error| LedgerError::rejected(error.to_string()))
}

/// Reads a pending observation from a column.
pub(crate) fn observation(row: &Row<'_>, column: usize) -> Result<Observation, Error> {
    let stored: StoredObservation<'_> = json(row, column)?;
    let state = |name: String| name.parse().map_err(|_| bad(column, "no billing state"));
    Ok(Observation {
        at: Stamp {
            boot: BootId::parse(&stored.boot).ok_or_else(|| bad(column, "no boot id"))?,
            boottime_ns: stored.boottime_ns,
            wall_ns: stored.wall_ns,
            uncertainty_ns: stored.uncertainty_ns,
        },
        change: match stored.change {
            StoredChange::Began(shape, name) => Change::Began(shape.into(), state(name)?),
            StoredChange::Holds(shape, name) => Change::Holds(shape.into(), state(name)?),
            StoredChange::Plugged(bytes) => Change::Plugged(bytes),
            StoredChange::Requested(bytes) => Change::Requested(bytes),
            StoredChange::Vcpus(milli) => Change::Vcpus(milli),
            StoredChange::Disk(bytes) => Change::Disk(bytes),
            StoredChange::State(name) => Change::State(state(name)?),
            StoredChange::Suppressed(suppressed) => Change::Suppressed(suppressed),
            StoredChange::Mark => Change::Mark,
            StoredChange::Ended => Change::Ended,
        },
        cause: Cause::parse(&stored.cause).ok_or_else(|| bad(column, "no cause"))?,
        command: stored.command.as_deref().map(CommandId::new),
    })
}
