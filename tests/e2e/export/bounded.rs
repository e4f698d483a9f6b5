//! However much is exported, little of it is in memory.

use std::process::{Command, Stdio};

use dormouse_metering::Cause;
use dormouse_tests::paths;
use nix::sys::resource::{UsageWho, getrusage};

use crate::support::{Life, Place, facts, key};

#[test]
fn two_hundred_thousand_slices_are_exported_in_little_memory() {
    // All of their lines together are as much by themselves.
    export_within(20_000, 64 << 10);
}

#[test]
#[ignore = "writing a million slices takes minutes: make soak"]
fn a_million_slices_are_exported_in_little_memory() {
    export_within(100_000, 96 << 10);
}

/// Exports so many slices of each of ten sandboxes, with so much memory at most.
fn export_within(slices_each: usize, held_kib_max: i64) {
    let place = Place::new();
    let ledger = place.open();
    for number in 0..10 {
        let mut life = Life::begins(key("org", &format!("sb-{number}")));
        facts(&ledger, vec![life.seen()]).unwrap();
        for _ in 0..slices_each / 5_000 {
            let slices = (0..5_000).map(|_| life.cut(60, Cause::Tick, None)).collect();
            facts(&ledger, vec![life.record(slices)]).unwrap();
        }
    }
    drop(ledger);
    let address = format!("sqlite:{}", place.path().display());
    for format in ["csv", "parquet", "focus"] {
        let window = ["--from", "2026-01-01", "--to", "2026-12-31", "--format", format, "--ledger", &address];
        let mut command = Command::new(paths::dormouse().unwrap());
        let status = command.arg("export").args(window).stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        // The most that any of them held.
        let held_kib = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
        eprintln!("{format}: at most {held_kib} KiB");
        assert!(held_kib < held_kib_max, "{format}: {held_kib} KiB");
    }
}
