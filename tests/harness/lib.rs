//! The test harness: real QEMU guests, real agents, and the waiting between them.
//!
//! A test reads as a short script. It boots a [`guest::Guest`] into a watched folder, starts an [`agent::Agent`] on that
//! folder, gives orders through the agent's command line, and asks the guest itself whether they came true. The
//! [`monitor`] speaks QMP without dormouse-qmp on purpose: what the agent reports is compared with what another
//! program saw.
//!
//! What the harness starts dies with it: dropping a guest kills every QEMU started from its command line, those the
//! agent started on a wake included.

pub mod accel;
pub mod agent;
pub mod argv;
pub mod console;
pub mod error;
pub mod events;
pub mod guest;
pub mod in_guest;
pub mod monitor;
pub mod paths;
pub mod people;
pub mod process;
pub mod scripted;
pub mod servers;
pub mod stage;
pub mod staged_host;
pub mod systemd;
pub mod wait;

pub use error::{Error, Result};
