//! The staging table, and how events are written into it: COPY's binary format, which PostgreSQL need not parse.

use std::fmt::Display;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Event, FleetError, Told, numeric};
use crate::SliceRow;

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

/// What begins a COPY in the binary format: its signature, no flags and nothing that extends it.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What ends it, in the place of a number of columns.
const TRAILER: i16 = -1;
/// The length of a NULL.
const NULL: i32 = -1;

/// When what was written is handed on.
const CHUNK_BYTES: usize = 64 << 10;

/// Rows of the staging table, in the binary format of COPY: each column is its length and its bytes.
pub(super) struct Rows {
    bytes: BytesMut,
}

impl Rows {
    /// Before the first row.
    pub(super) fn begin() -> Self {
        Self { bytes: BytesMut::from(HEADER) }
    }

    /// Writes an event. `sandbox_id` is that of a slice.
    pub(super) fn write(
        &mut self,
        place: i32,
        source_id: i32,
        sandbox_id: Option<i64>,
        event: &Event,
    ) -> Result<(), FleetError> {
        self.bytes.put_i16(COLUMNS);
        self.integer(place);
        self.integer(source_id);
        self.column(event.id.as_bytes())?;
        self.bigint(event.host_seq);
        self.column(&event.payload_hash)?;
        self.optional(event.api_key.as_deref())?;
        match (&event.told, sandbox_id) {
            (Told::Slice(row), Some(sandbox_id)) => self.slice(sandbox_id, row)?,
            _ => (0..SLICE_COLUMNS).for_each(|_| self.bytes.put_i32(NULL)),
        }
        Ok(())
    }

    fn slice(&mut self, sandbox_id: i64, row: &SliceRow) -> Result<(), FleetError> {
        self.bigint(sandbox_id);
        self.bigint(row.generation);
        self.quantity(row.seq)?;
        self.column(row.org.as_bytes())?;
        self.column(row.state.as_bytes())?;
        self.optional(row.reason.as_deref())?;
        self.bigint(row.start_unix_ns);
        self.bigint(row.end_unix_ns.unwrap_or(row.start_unix_ns));
        self.quantity(row.duration_ns)?;
        self.quantity(row.memory_base_bytes)?;
        self.quantity(row.memory_plugged_bytes)?;
        self.quantity(row.memory_requested_bytes)?;
        self.bigint(row.vcpus_milli.into());
        self.quantity(row.disk_bytes)?;
        self.column(row.opened_by.as_bytes())?;
        self.optional(row.closed_by.as_deref())?;
        self.optional(row.command_id.as_deref())?;
        self.optional(row.opened_by_command_id.as_deref())?;
        self.numeric(row.uncertainty_ns.into())
    }

    /// What was written, once there is enough of it to be handed on.
    pub(super) fn chunk(&mut self) -> Option<Bytes> {
        (self.bytes.len() >= CHUNK_BYTES).then(|| self.bytes.split().freeze())
    }

    /// All that was not handed on yet, and the end.
    pub(super) fn end(mut self) -> Bytes {
        self.bytes.put_i16(TRAILER);
        self.bytes.freeze()
    }

    fn integer(&mut self, number: i32) {
        self.bytes.put_i32(4);
        self.bytes.put_i32(number);
    }

    fn bigint(&mut self, number: i64) {
        self.bytes.put_i32(8);
        self.bytes.put_i64(number);
    }

    /// One that was found to be storable when its event was read.
    fn quantity(&mut self, number: u64) -> Result<(), FleetError> {
        let number = i64::try_from(number).map_err(|_| too_large(&number))?;
        self.bigint(number);
        Ok(())
    }

    fn numeric(&mut self, number: i128) -> Result<(), FleetError> {
        let mut written = BytesMut::new();
        numeric::write(number, &mut written);
        self.column(&written)
    }

    fn optional(&mut self, text: Option<&str>) -> Result<(), FleetError> {
        if let Some(text) = text {
            return self.column(text.as_bytes());
        }
        self.bytes.put_i32(NULL);
        Ok(())
    }

    fn column(&mut self, bytes: &[u8]) -> Result<(), FleetError> {
        let length = i32::try_from(bytes.len()).map_err(|_| too_large(&bytes.len()))?;
        self.bytes.put_i32(length);
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

fn too_large(what: &impl Display) -> FleetError {
    FleetError::Corrupt { what: format!("{what} is too large for a column of the staging table") }
}
