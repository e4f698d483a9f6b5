//! The agent as it is run: `dormouse agent` and its command line, on scripted and on real QEMU.

mod bad_input;
mod detaching;
mod full_disk;
mod isolation;
mod lifecycle;
mod misfortunes;
mod requests;
mod restarts;
mod scene;
mod snapshots;
