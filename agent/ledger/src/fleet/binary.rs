//! COPY's binary format, which PostgreSQL need not parse: each column is its length and its bytes.

use std::fmt::Display;

use bytes::{BufMut, Bytes, BytesMut};

use super::{FleetError, numeric};

/// What begins a COPY in the binary format: its signature, no flags and nothing that extends it.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What ends it, in the place of a number of columns.
const TRAILER: i16 = -1;
/// The length of a NULL.
const NULL: i32 = -1;

/// When what was written is handed on.
const CHUNK_BYTES: usize = 64 << 10;

/// Rows of a table.
pub(super) struct Rows {
    bytes: BytesMut,
}

impl Rows {
    /// Before the first row.
    pub(super) fn begin() -> Self {
        let mut bytes = BytesMut::with_capacity(CHUNK_BYTES * 5 / 4);
        bytes.extend_from_slice(HEADER);
        Self { bytes }
    }

    /// Begins a row of so many columns.
    pub(super) fn row(&mut self, columns: i16) {
        self.bytes.put_i16(columns);
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

    pub(super) fn integer(&mut self, number: i32) {
        self.bytes.put_i32(4);
        self.bytes.put_i32(number);
    }

    pub(super) fn bigint(&mut self, number: i64) {
        self.bytes.put_i32(8);
        self.bytes.put_i64(number);
    }

    /// One that was found to be storable when its event was read.
    pub(super) fn quantity(&mut self, number: u64) -> Result<(), FleetError> {
        let number = i64::try_from(number).map_err(|_| too_large(&number))?;
        self.bigint(number);
        Ok(())
    }

    pub(super) fn numeric(&mut self, number: i128) -> Result<(), FleetError> {
        let mut written = BytesMut::new();
        numeric::write(number, &mut written);
        self.column(&written)
    }

    pub(super) fn optional(&mut self, text: Option<&str>) -> Result<(), FleetError> {
        if let Some(text) = text {
            return self.column(text.as_bytes());
        }
        self.null();
        Ok(())
    }

    pub(super) fn null(&mut self) {
        self.bytes.put_i32(NULL);
    }

    pub(super) fn column(&mut self, bytes: &[u8]) -> Result<(), FleetError> {
        let length = i32::try_from(bytes.len()).map_err(|_| too_large(&bytes.len()))?;
        self.bytes.put_i32(length);
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

fn too_large(what: &impl Display) -> FleetError {
    FleetError::Corrupt { what: format!("{what} is too large for a column") }
}
