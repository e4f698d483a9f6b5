//! The agent as it is run: `dormouse agent` and its command line, on scripted and on real QEMU.

mod bad_input;
mod scene;
