//! The agent as it is run: `dormouse agent` and its command line, on scripted and on real QEMU.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, in its own lines and in those that it shares"
)]

mod bad_input;
mod certificates;
mod detaching;
mod ended;
mod for_people;
mod full_disk;
mod hung_disk;
mod idle;
mod isolation;
mod killed_qemu;
mod launching;
mod libvirt;
mod lifecycle;
mod many_saves;
mod misfortunes;
mod regressions;
mod requests;
mod restarts;
mod scaling;
mod scene;
mod seeing;
mod snapshots;
mod suppressing;
mod traces;
mod usage_over_http;
