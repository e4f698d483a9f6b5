//! The fleet's ledger on a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod authority;
mod completeness;
mod credit;
mod ingest;
mod keys;
mod migrations;
mod misfortunes;
mod quarantine;
mod queues;
mod references;
mod resend;
mod scene;
mod straight;
mod sums;
mod tls;
