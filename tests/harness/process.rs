//! Finding and ending the processes that a test is answerable for, whoever started them.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Every process one of whose arguments is exactly `marker`. A zombie has no arguments any more and is none of them.
pub fn with_argument(marker: &str) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| has_argument(*pid, marker))
        .map(Pid::from_raw)
        .collect()
}

/// Sends SIGKILL to every process with the argument `marker`.
pub fn kill_with_argument(marker: &str) {
    for pid in with_argument(marker) {
        // It may have ended by itself in between, and that is as good.
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// The last lines of a log file, for a failure's message.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Unique among the sandboxes of this and of every other running test, so that dropping one ends no other's QEMU.
pub fn nonce() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn has_argument(pid: i32, marker: &str) -> bool {
    let Ok(arguments) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    arguments.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes())
}
