//! The ledger, tested through its public face and through the file that it leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]
#![allow(clippy::doc_markdown, reason = "SQLite is a name, not code")]

mod any_life;
mod auditing;
mod denying;
mod editing;
mod killed;
mod opening;
mod schema;
mod sinks;
mod support;
mod units;
mod unwritable;
mod usage_answers;
mod usage_suite;
mod usage_sums;
mod using;
mod watermarks;
mod write_and_read;
