//! The agent of a KVM host: one actor per QEMU sandbox, one that owns the open billing slices.
//!
//! Read ARCHITECTURE.md for the way through. In short: `control` takes commands, `host` finds and
//! supervises sandboxes, `sandbox` decides and carries out, `metering` cuts the slices, and the crate
//! `dormouse-ledger` keeps them.

pub mod address;
pub mod calendar;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod database;
pub mod export;
pub mod failpoint;
pub mod host;
pub mod host_memory;
pub mod http;
pub mod ids;
pub mod ingest;
pub mod metering;
pub mod metrics;
pub mod process;
pub mod proto;
pub mod publish;
pub mod run;
pub mod sandbox;
pub mod size;
pub mod tls;
pub mod traces;
mod words;
