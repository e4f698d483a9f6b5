//! The metering actor: the one owner of the open billing slices.
//!
//! Sandbox actors tell it what they see (`Observe`) and what they are about to do and have done (`Before`,
//! `After`). It turns that into slices through the pure [`dormouse_metering::Meter`] and hands them to the
//! ledger's writer; whoever waits is answered by the writer, once what they said is durable.
//!
//! ```text
//!   Before(change) ──▶ intent ─────────────────────▶ ledger ──▶ durable: go on, or refused
//!   Observe ─────────▶ meter: pending ──────────────▶ ledger
//!                        │ lateness has passed, or QEMU is gone
//!                        ▼
//!                      sealed: final slices ───────▶ ledger, with their events
//!   After(outcome) ──▶ outcome ─────────────────────▶ ledger ──▶ durable: reply
//! ```
//!
//! [`accounts`] decides and is pure; [`actor`] executes. Nothing here speaks to QEMU or waits for the disk.

pub mod accounts;
pub mod actor;
mod entries;
mod message;

pub use actor::{Metering, MeteringHandle, Settings};
pub(crate) use entries::{intent, outcome_of};
pub use entries::{payload, stored_outcome};
pub use message::{Acknowledgement, Beginning, Ending, Message, Reply, Seen};

#[cfg(test)]
mod tests;
