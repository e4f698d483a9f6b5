//! The one place of the benches that reads a clock.

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// What something took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    /// By the clock on the wall.
    pub(crate) wall: Duration,
    /// Of processor time, by all threads of this process. Other load on the machine does not add to it.
    pub(crate) cpu: Duration,
}

/// A running stopwatch.
pub(crate) struct Stopwatch {
    started: Instant,
    cpu_before: Duration,
}

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this measures, and meters nothing")]
    pub(crate) fn start() -> Self {
        let cpu_before = cpu();
        Self { started: Instant::now(), cpu_before }
    }

    pub(crate) fn wall(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn read(&self) -> Took {
        Took { wall: self.wall(), cpu: cpu().saturating_sub(self.cpu_before) }
    }
}

/// The wall clock, for a QEMU that stamps its events as a real one does.
#[expect(clippy::disallowed_methods, reason = "this plays QEMU, and meters nothing")]
pub(crate) fn wall_unix_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or_default()
}

/// Processor time of this process so far; zero where the kernel does not say.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
