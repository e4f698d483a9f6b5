//! The staging table, and how events are written into it: COPY's text format.

use std::fmt::{Display, Write};

use bytes::Bytes;

use super::{Event, Told};
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

pub(super) const COPY: &str = "COPY staged FROM STDIN";

/// How many columns only slices have.
const SLICE_COLUMNS: usize = 19;

/// When what was written is handed on.
const CHUNK_BYTES: usize = 64 << 10;

/// Rows of the staging table, in the text format of COPY.
#[derive(Default)]
pub(super) struct Rows {
    text: String,
}

impl Rows {
    /// Writes an event. `sandbox_id` is that of a slice.
    pub(super) fn write(&mut self, place: i32, source_id: i32, sandbox_id: Option<i64>, event: &Event) {
        self.number(place);
        self.number(source_id);
        self.escaped(&event.id);
        self.number(event.host_seq);
        // In COPY a backslash is written twice; in bytea's own form, once.
        self.text.push_str(r"\\x");
        for byte in event.payload_hash {
            for digit in [byte >> 4, byte & 15] {
                self.text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        self.text.push('\t');
        self.optional(event.api_key.as_deref());
        match (&event.told, sandbox_id) {
            (Told::Slice(row), Some(sandbox_id)) => self.slice(sandbox_id, row),
            _ => self.text.extend(std::iter::repeat_n("\\N\t", SLICE_COLUMNS)),
        }
        self.text.pop();
        self.text.push('\n');
    }

    fn slice(&mut self, sandbox_id: i64, row: &SliceRow) {
        self.number(sandbox_id);
        self.number(row.generation);
        self.number(row.seq);
        self.escaped(&row.org);
        self.escaped(&row.state);
        self.optional(row.reason.as_deref());
        self.number(row.start_unix_ns);
        self.number(row.end_unix_ns.unwrap_or(row.start_unix_ns));
        self.number(row.duration_ns);
        self.number(row.memory_base_bytes);
        self.number(row.memory_plugged_bytes);
        self.number(row.memory_requested_bytes);
        self.number(row.vcpus_milli);
        self.number(row.disk_bytes);
        self.escaped(&row.opened_by);
        self.optional(row.closed_by.as_deref());
        self.optional(row.command_id.as_deref());
        self.optional(row.opened_by_command_id.as_deref());
        self.number(row.uncertainty_ns);
    }

    /// What was written, once there is enough of it to be handed on.
    pub(super) fn chunk(&mut self) -> Option<Bytes> {
        (self.text.len() >= CHUNK_BYTES).then(|| self.rest())
    }

    /// All that was written.
    pub(super) fn rest(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.text))
    }

    fn number(&mut self, number: impl Display) {
        // Writing into a String cannot fail.
        let _ = write!(self.text, "{number}\t");
    }

    fn optional(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.escaped(text),
            None => self.text.push_str("\\N\t"),
        }
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                c => self.text.push(c),
            }
        }
        self.text.push('\t');
    }
}
