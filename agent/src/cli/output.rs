//! Where output goes: data to standard output, everything else to standard error.

use std::io::{self, Write};
use std::process;

use serde::Serialize;
use serde_json::Value;

use super::exit::Exit;
use super::failure::Failure;

/// Writes data to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // The reader has seen enough, as `head` has.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => process::exit(Exit::Done.code().into()),
        Err(error) => Err(Failure::new(format!("standard output cannot be written: {error}"))),
    }
}

/// Writes one JSON document, for one to read.
pub(super) fn print_json(document: &Value) -> Result<(), Failure> {
    print(&format!("{document:#}\n"))
}

/// Writes one JSON document on a line of its own.
pub(super) fn print_json_line(document: &Value) -> Result<(), Failure> {
    print(&format!("{document}\n"))
}

/// Writes a list as one JSON document, item by item, as they come.
#[derive(Default)]
pub(super) struct JsonList {
    items: usize,
}

impl JsonList {
    /// Writes one more item.
    pub(super) fn print(&mut self, item: &impl Serialize) -> Result<(), Failure> {
        let item = serde_json::to_string(item)
            .map_err(|error| Failure::new(format!("JSON cannot be written: {error}")))?;
        let before = if self.items == 0 { "[\n" } else { ",\n" };
        self.items += 1;
        print(&format!("{before}  {item}"))
    }

    /// Ends the document.
    pub(super) fn end(self) -> Result<(), Failure> {
        print(if self.items == 0 { "[]\n" } else { "\n]\n" })
    }
}
