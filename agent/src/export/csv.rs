//! Slices as CSV (RFC 4180): every number is an exact integer.

use std::io::{self, Write};

use super::{Clipped, ExportError, Sheet};

/// The names are those of `dormouse slices --json`, and behind them what the slice amounts to.
const COLUMNS: [&str; 24] = [
    "org",
    "sandbox",
    "generation",
    "seq",
    "state",
    "reason",
    "start_unix_ns",
    "end_unix_ns",
    "duration_ns",
    "memory_base_bytes",
    "memory_plugged_bytes",
    "memory_requested_bytes",
    "vcpus_milli",
    "disk_bytes",
    "opened_by",
    "closed_by",
    "command_id",
    "opened_by_command_id",
    "uncertainty_ns",
    "final",
    "memory_byte_ns",
    "vcpu_milli_ns",
    "disk_byte_ns",
    "disk_overage_byte_ns",
];

pub(super) struct Csv<W: Write>(Lines<W>);

impl<W: Write> Csv<W> {
    pub(super) fn begin(out: W) -> io::Result<Self> {
        let mut lines = Lines::new(out);
        for name in COLUMNS {
            lines.text(name);
        }
        lines.end_line()?;
        Ok(Self(lines))
    }
}

impl<W: Write> Sheet for Csv<W> {
    fn slice(&mut self, slice: &Clipped<'_>) -> Result<(), ExportError> {
        let (lines, row, quantities) = (&mut self.0, slice.row, slice.quantities);
        lines.text(&row.org);
        lines.text(&row.sandbox);
        lines.plain(row.generation);
        lines.plain(row.seq);
        lines.text(&row.state);
        lines.text(row.reason.as_deref().unwrap_or_default());
        lines.plain(slice.place.start);
        lines.plain(slice.place.end);
        lines.plain(slice.duration_ns);
        lines.plain(row.memory_base_bytes);
        lines.plain(row.memory_plugged_bytes);
        lines.plain(row.memory_requested_bytes);
        lines.plain(row.vcpus_milli);
        lines.plain(row.disk_bytes);
        lines.text(&row.opened_by);
        lines.text(row.closed_by.as_deref().unwrap_or_default());
        lines.text(row.command_id.as_deref().unwrap_or_default());
        lines.text(row.opened_by_command_id.as_deref().unwrap_or_default());
        lines.plain(row.uncertainty_ns);
        lines.plain(row.is_final);
        lines.plain(quantities.memory_byte_ns);
        lines.plain(quantities.vcpu_milli_ns);
        lines.plain(quantities.disk_byte_ns);
        lines.plain(quantities.disk_overage_byte_ns);
        Ok(lines.end_line()?)
    }

    fn end(self: Box<Self>) -> Result<(), ExportError> {
        Ok(self.0.end()?)
    }
}

/// Lines of values. An empty text is what is not known.
pub(super) struct Lines<W: Write> {
    out: io::BufWriter<W>,
    line: String,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: io::BufWriter::new(out), line: String::new() }
    }

    /// A value that needs no quotes.
    pub(super) fn plain(&mut self, value: impl std::fmt::Display) {
        use std::fmt::Write as _;
        // Writing into a String cannot fail.
        let _ = write!(self.line, "{value},");
    }

    pub(super) fn text(&mut self, value: &str) {
        if !value.contains([',', '"', '\r', '\n']) {
            return self.plain(value);
        }
        self.line.push('"');
        self.line.push_str(&value.replace('"', "\"\""));
        self.line.push_str("\",");
    }

    pub(super) fn end_line(&mut self) -> io::Result<()> {
        self.line.pop();
        self.line.push_str("\r\n");
        self.out.write_all(self.line.as_bytes())?;
        self.line.clear();
        Ok(())
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_line_is_quoted() {
        let mut bytes = Vec::new();
        let mut lines = Lines::new(&mut bytes);
        for value in ["a", "", "b,c", "say \"x\"", "two\r\nlines"] {
            lines.text(value);
        }
        lines.plain(-1);
        lines.end_line().unwrap();
        lines.end().unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), "a,,\"b,c\",\"say \"\"x\"\"\",\"two\r\nlines\",-1\r\n");
    }
}
