//! Places at which a test may have the agent killed, as a power cut or an OOM killer would.
//!
//! Whatever becomes durable and whatever QEMU is told is announced here, before and after. In a debug build
//! with `DORMOUSE_KILL_AT=n` in its environment the agent kills itself at the n-th place that it reaches; in a
//! release build this is nothing at all.

/// A place is reached.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_place: &'static str) {}

/// A place is reached.
#[cfg(debug_assertions)]
pub fn reach(place: &'static str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static KILL_AT: LazyLock<Option<u64>> =
        LazyLock::new(|| std::env::var("DORMOUSE_KILL_AT").ok()?.parse().ok());
    static REACHED: AtomicU64 = AtomicU64::new(0);

    if let Some(kill_at) = *KILL_AT
        && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == kill_at
    {
        eprintln!("killed at {place}, place {kill_at}");
        // SIGKILL cannot be caught: nothing after this runs.
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}
