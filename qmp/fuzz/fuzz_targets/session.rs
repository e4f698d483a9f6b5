//! Bytes from a hostile QEMU into codec and session. `cargo +nightly fuzz run session`, in `qmp/`.

#![no_main]

#[path = "../exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::session(bytes));
