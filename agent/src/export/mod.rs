//! Slices for other programs: as CSV, as Parquet, and as usage in the columns of FOCUS. Streamed: whatever the window
//! holds, a few rows of it are in memory.
//!
//! ```text
//!   UsageLedger::each_slice ─▶ clipped to the window, with what it amounts to ─▶ Sheet: csv, parquet or focus ─▶ out
//! ```
//!
//! The sums of an export are the API's for the same window, exactly: both are of the same slices, clipped alike. No
//! price is known here.

mod csv;
mod focus;
mod parquet;

use std::io::{self, Write};
use std::ops::Range;

use dormouse_ledger::usage::{Cancel, Rules, SlicesIn, UsageLedger};
use dormouse_ledger::{LedgerError, SliceRow, TagsNow};
use dormouse_metering::{BillingState, Quantities, Shape, clip_interval, hour};

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line for each slice.
    Csv,
    /// One row for each slice.
    Parquet,
    /// One line for each sandbox, hour and thing used, in the columns of FOCUS 1.2.
    Focus,
}

/// What is exported.
#[derive(Clone, Debug)]
pub struct Export {
    /// Of this org; `None`: of all, one after the other.
    pub org: Option<String>,
    /// In this half-open window of wall time, in nanoseconds since the Unix epoch.
    pub window: Range<i64>,
    /// What is billed, and how.
    pub rules: Rules,
    /// How it is written.
    pub format: Format,
    /// Who provides the sandboxes, as FOCUS names providers.
    pub provider: String,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What it is written to took no more.
    #[error("the export cannot be written: {0}")]
    Unwritable(#[from] io::Error),
    /// The window is empty, or not one of full hours where it must be.
    #[error("{0}")]
    InvalidWindow(&'static str),
}

/// A slice, cut at the ends of the window.
struct Clipped<'a> {
    row: &'a SliceRow,
    place: Range<i64>,
    duration_ns: u64,
    quantities: Quantities,
}

/// What an export is written as.
trait Sheet {
    fn slice(&mut self, slice: &Clipped<'_>) -> Result<(), ExportError>;

    fn end(self: Box<Self>) -> Result<(), ExportError>;
}

/// Says which tags a sandbox of an org has.
type TagsOf<'a> = Box<dyn FnMut(&str, &str) -> Result<TagsNow, LedgerError> + 'a>;

/// Writes an export, and returns how many slices are in it. `tags_by` is asked for tags meanwhile.
pub fn write<'a>(
    export: &Export,
    ledger: &mut dyn UsageLedger,
    tags_by: &'a mut dyn UsageLedger,
    out: impl Write + Send + 'a,
) -> Result<u64, ExportError> {
    let Range { start, end } = export.window;
    if start >= end {
        return Err(ExportError::InvalidWindow("a window ends after it begins: give --from and --to so"));
    }
    let is_hour = |unix_ns: i64| unix_ns.rem_euclid(hour::HOUR_NS) == 0;
    if export.format == Format::Focus && !(is_hour(start) && is_hour(end)) {
        return Err(ExportError::InvalidWindow(
            "FOCUS has charge periods of full seconds, here of hours: give --from and --to at full hours",
        ));
    }
    let tags_of: TagsOf<'a> = Box::new(move |org, sandbox| tags_by.tags(org, sandbox));
    let mut sheet: Box<dyn Sheet + 'a> = match export.format {
        Format::Csv => Box::new(csv::Csv::begin(out)?),
        Format::Parquet => Box::new(parquet::Parquet::begin(out)?),
        Format::Focus => Box::new(focus::Focus::begin(out, export, tags_of)?),
    };
    let orgs = match &export.org {
        Some(org) => vec![org.clone()],
        None => ledger.orgs()?,
    };
    let open_until = ledger.open_until()?;
    let mut slices = 0;
    for org in orgs {
        let query = SlicesIn { org, window: export.window.clone(), open_until };
        let mut failed = None;
        let read = ledger.each_slice(&query, &Cancel::default(), &mut |row| {
            let written = match clip(row, export) {
                Ok(Some(clipped)) => sheet.slice(&clipped).map(|()| slices += 1),
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            written.map_err(|error| {
                failed = Some(error);
                LedgerError::Cancelled
            })
        });
        match failed {
            Some(error) => return Err(error),
            None => read?,
        }
    }
    sheet.end()?;
    Ok(slices)
}

/// `None` if the slice has no time in the window.
fn clip<'a>(row: &'a SliceRow, export: &Export) -> Result<Option<Clipped<'a>>, LedgerError> {
    let window = &export.window;
    let place = row.start_unix_ns..row.end_unix_ns.unwrap_or(row.start_unix_ns);
    let duration_ns = clip_interval(&place, row.duration_ns, window);
    if duration_ns == 0 {
        return Ok(None);
    }
    let overflow = || LedgerError::Overflow { what: format!("slice {} of {}", row.seq, row.sandbox) };
    // Faults are billed alike, so any state of the name will do.
    let state = BillingState::ALL.iter().find(|state| state.name() == row.state).ok_or_else(overflow)?;
    let shape = Shape {
        vcpus_milli: row.vcpus_milli,
        memory_base_bytes: row.memory_base_bytes,
        memory_plugged_bytes: row.memory_plugged_bytes,
        memory_requested_bytes: row.memory_requested_bytes,
        disk_bytes: row.disk_bytes,
    };
    let Rules { policy, basis, free_disk_bytes } = &export.rules;
    let quantities = Quantities::of(*state, &shape, duration_ns, policy, *basis, *free_disk_bytes);
    Ok(Some(Clipped {
        row,
        place: place.start.max(window.start)..place.end.min(window.end),
        duration_ns,
        quantities: quantities.ok_or_else(overflow)?,
    }))
}
