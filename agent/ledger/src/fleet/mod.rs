//! The fleet's ledger, in PostgreSQL: what all hosts have sent, each event exactly once in effect.
//!
//! - [`migrate`] brings a database to a version of the schema, up or down.
//! - [`Batch`] is the pure part: bytes become events, or a reason why they do not.
//! - [`FleetLedger::ingest`] stores a batch in one transaction; once it returns, the batch may be acknowledged.
//! - [`FleetReader`] answers who used what, as a host's ledger does.
//! - [`FleetLedger::check`] says which numbers of which hosts hold an hour open.
//!
//! What cannot be stored without a lie is kept in the table `quarantine`, byte for byte, and its number counts as
//! missing: an hour with an unsolved riddle in it stays open. So does one that is called complete by anyone but its own
//! host: a watermark counts with the signature of the key that the host was first seen with. An event that does not carry
//! the hash of the one before it is stored, and [`FleetLedger::check`] names it. What is missing and what its host can send no
//! more are told apart, by the host's own signed word.
//!
//! # Architecture invariants
//!
//! No wire protocol but PostgreSQL's is known here, and no runtime: whoever opens a connection drives it. Nothing is
//! rounded: quantities are NUMERIC, made of integers. Nothing that is stored is ever changed but two references,
//! which become NULL when what they refer to goes.

mod batch;
mod binary;
mod chain;
mod check;
mod error;
mod event;
mod ingest;
mod keys;
mod migrations;
mod numeric;
mod quarantine;
mod remedy;
mod rollup;
mod sift;
mod sources;
mod sql;
mod staging;
mod straight;
mod usage;

pub use batch::Batch;
pub use check::{BrokenLink, Completeness, Lost, Missing, Quarantined, Resend, Silent};
pub use error::FleetError;
pub use event::{Event, Lifecycle, Rejection, Retention, Seal, Told, Watermark, WhyNot};
pub use ingest::{FleetLedger, Ingested};
pub use migrations::{VERSION, migrate};
pub use usage::FleetReader;
