//! The machine's clocks: the only place that reads them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use dormouse_metering::BootId;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Reading;

/// How often the pair of clocks is read for one reading; the tightest is kept. The others were torn apart
/// by an interrupt or by the scheduler.
const READS: usize = 8;

/// Why the machine's clock cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The kernel does not say which boot this is.
    #[error("cannot read the boot id from {BOOT_ID_PATH}")]
    BootId(#[source] io::Error),
    /// What the kernel says is no boot id.
    #[error("{BOOT_ID_PATH} says {0:?}, which is no UUID")]
    BootIdMalformed(String),
    /// Steps of the clock cannot be noticed.
    #[error("cannot watch the clock for steps (timerfd)")]
    Timer(#[source] io::Error),
}

const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The id of the boot that this machine is in.
pub fn boot_id() -> Result<BootId, ClockError> {
    // A program does not outlive the boot that it runs in.
    static READ: OnceLock<BootId> = OnceLock::new();
    if let Some(boot) = READ.get() {
        return Ok(*boot);
    }
    let text = std::fs::read_to_string(BOOT_ID_PATH).map_err(ClockError::BootId)?;
    let boot = BootId::parse(&text).ok_or(ClockError::BootIdMalformed(text))?;
    Ok(*READ.get_or_init(|| boot))
}

/// `CLOCK_BOOTTIME`, in nanoseconds.
pub(super) fn boottime_ns() -> u64 {
    u64::try_from(read_ns(ClockId::CLOCK_BOOTTIME)).unwrap_or(0)
}

/// How long the host has slept in this boot, in nanoseconds: `CLOCK_MONOTONIC` stands meanwhile.
pub(super) fn slept_ns() -> u64 {
    let awake_ns = u64::try_from(read_ns(ClockId::CLOCK_MONOTONIC)).unwrap_or(0);
    boottime_ns().saturating_sub(awake_ns)
}

/// Reads both clocks as nearly at the same moment as can be had.
pub(super) fn read() -> Reading {
    let tightest = (0..READS).map(|_| read_once()).min_by_key(|reading| reading.apart_ns);
    tightest.unwrap_or_else(read_once)
}

/// The wall clock between two readings of boottime, which bound how far apart the two clocks were read.
fn read_once() -> Reading {
    let before_ns = boottime_ns();
    let wall_ns = read_ns(ClockId::CLOCK_REALTIME);
    let apart_ns = boottime_ns().saturating_sub(before_ns);
    Reading { boottime_ns: before_ns + apart_ns / 2, wall_ns, apart_ns }
}

#[expect(clippy::expect_used, reason = "every kernel since 2.6.39 has both clocks, and the pointer is valid")]
fn read_ns(clock: ClockId) -> i64 {
    let read = clock_gettime(clock).expect("clock_gettime of CLOCK_BOOTTIME or CLOCK_REALTIME");
    // i64 nanoseconds reach to the year 2262.
    read.tv_sec().saturating_mul(1_000_000_000).saturating_add(read.tv_nsec())
}

/// A timer that never fires, and that the kernel cancels when somebody sets the wall clock.
pub(super) struct SetClockTimer(AsyncFd<Timer>);

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// How far ahead the timer is set. If it does fire, it is only set again.
const FAR: Duration = Duration::from_hours(365 * 24);

impl SetClockTimer {
    pub(super) fn new() -> Result<Self, ClockError> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer =
            TimerFd::new(TimerClock::CLOCK_REALTIME, flags).map_err(|e| ClockError::Timer(e.into()))?;
        // SAFETY: `Timer` owns its descriptor, always names the same one, and is never exchanged or closed
        // before the `AsyncFd` is.
        let timer = unsafe { AsyncFd::register_with_interest(Timer(timer), Interest::READABLE) };
        let timer = timer.map_err(|error| ClockError::Timer(error.into()))?;
        let timer = Self(timer);
        timer.arm().map_err(ClockError::Timer)?;
        Ok(timer)
    }

    /// From here on, setting the clock ends [`SetClockTimer::cancelled`].
    pub(super) fn arm(&self) -> io::Result<()> {
        let at = Duration::from_nanos(u64::try_from(read_ns(ClockId::CLOCK_REALTIME)).unwrap_or(0)) + FAR;
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        Ok(self.0.get_ref().0.set(Expiration::OneShot(TimeSpec::from_duration(at)), flags)?)
    }

    /// Waits until somebody sets the wall clock (or the host wakes from suspend, which cancels as well).
    pub(super) async fn cancelled(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            // nix takes the kernel's ECANCELED for an expiry.
            if let Ok(outcome) = ready.try_io(|timer| timer.get_ref().0.wait().map_err(io::Error::from)) {
                return outcome;
            }
        }
    }
}
