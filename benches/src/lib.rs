//! Dormouse measured beside its comparisons, in one run: `cargo bench -p dormouse-benches`, or with the names of some
//! benches behind `--`.
//!
//! Every bench is a function from a [`Size`] to the [`Row`]s of the table: one size measures, the other shows in
//! moments that the bench works, and is a test. Nothing is asserted about speed anywhere: a number that misses its
//! goal is printed as missed. What was seen is in README.md.

mod agent;
mod alike;
mod allocations;
pub mod audit;
pub mod command;
pub mod crowd;
pub mod death;
pub mod fleet;
pub mod fleet_growth;
pub mod fleet_usage;
mod hand;
pub mod hibernate;
pub mod http;
pub mod ledger;
pub mod life;
pub mod meter;
mod plain;
pub mod publish;
pub mod qmp;
pub mod queryable;
pub mod ready;
pub mod report;
mod stopwatch;
pub mod usage;

use report::Row;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Whatever may go wrong while measuring.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Enough to show that the bench works.
    Small,
    /// Enough for numbers.
    Full,
}

impl Size {
    /// One of two numbers.
    pub(crate) fn pick<T>(self, small: T, full: T) -> T {
        match self {
            Self::Small => small,
            Self::Full => full,
        }
    }
}

/// A bench: what it is called, and what runs it.
pub type Bench = (&'static str, fn(Size) -> Result<Vec<Row>, Error>);

/// Every bench, in the order of the table.
pub const BENCHES: [Bench; 17] = [
    ("meter", meter::run),
    ("ledger", ledger::run),
    ("qmp", qmp::run),
    ("command", command::run),
    ("hibernate", hibernate::run),
    ("mapped_ram", hibernate::run_mapped_ram),
    ("ready", ready::run),
    ("crowd", crowd::run),
    ("death", death::run),
    ("audit", audit::run),
    ("usage", usage::run),
    ("http", http::run),
    ("publish", publish::run),
    ("fleet", fleet::run),
    ("fleet_growth", fleet_growth::run),
    ("fleet_usage", fleet_usage::run),
    ("queryable", queryable::run),
];

/// A folder on the disk that the workspace is on, gone when it is dropped.
pub(crate) fn folder() -> Result<tempfile::TempDir, Error> {
    let place = dormouse_tests::paths::workspace().join("target/bench");
    std::fs::create_dir_all(&place)?;
    Ok(tempfile::tempdir_in(place.canonicalize()?)?)
}
