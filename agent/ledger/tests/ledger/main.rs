//! The ledger, tested through its public face and through the file that it leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod support;
mod write_and_read;
