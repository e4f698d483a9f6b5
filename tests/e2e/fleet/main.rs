//! The fleet's ledger on a real PostgreSQL.

#![allow(clippy::doc_markdown, reason = "PostgreSQL is a name, not code")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod completeness;
mod credit;
mod ingest;
mod migrations;
mod quarantine;
mod references;
mod scene;
mod sums;
