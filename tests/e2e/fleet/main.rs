//! The fleet's ledger on a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod authority;
mod chain;
mod completeness;
mod credit;
mod ingest;
mod keys;
mod migrations;
mod misfortunes;
mod overlaps;
mod quarantine;
mod queues;
mod real_agent;
mod references;
mod resend;
mod scene;
mod straight;
mod sums;
mod tls;
mod usage;

#[allow(dead_code, reason = "a host's ledger as that crate's tests have it, of which not all is needed here")]
#[path = "../../../agent/ledger/tests/ledger/support.rs"]
mod support;
#[path = "../../../agent/ledger/tests/ledger/usage_suite.rs"]
mod usage_suite;
