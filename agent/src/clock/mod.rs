//! Time: the one module that reads it. Everything else is given a [`Stamp`].
//!
//! Durations are differences of `CLOCK_BOOTTIME`, which nobody can set and which goes on while the host is
//! suspended. The wall clock only places them: a stamp's wall position is the boot's [`Anchor`] plus a
//! boottime difference. When somebody sets the wall clock, [`Clock::steps`] yields a [`Step`] with a new
//! anchor; nothing that was measured changes by it. A suspend of the host moves both clocks alike and is
//! no step; another boot is known by another boot id.
//!
//! What this module never does: sleep, schedule, or write anything down. [`anchor`] and `qemu` are pure.

pub mod anchor;
mod machine;
mod qemu;
mod simulated;

use std::sync::Arc;

use dormouse_metering::{BootId, Stamp};
use tokio::sync::{mpsc, watch};

pub use anchor::{Anchor, Reading, STEP_TOLERANCE_NS, Step};
pub use machine::{ClockError, boot_id};
pub use qemu::LATE_NS_MAX;
pub use simulated::ManualTime;

use machine::SetClockTimer;

/// Steps that may wait for their reader. The watch of the clock waits beyond that: nothing is lost, since
/// each step is measured against the last anchor that was told.
const STEPS_WAITING_MAX: usize = 4;

/// Reads the time of this host and boot. Cheap to clone; all clones share one anchor.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Source,
    anchor: watch::Sender<Anchor>,
}

#[derive(Debug)]
enum Source {
    Machine,
    Simulated(Arc<ManualTime>),
}

/// What a clock found when it was started beside the last anchor that was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// The same boot, and the wall clock stands where it should: the anchor goes on.
    Kept,
    /// The same boot, but the wall clock was stepped while nobody looked. The anchor is to be recorded.
    Stepped(Step),
    /// Another boot than the anchor's, or no anchor at all. The anchor is to be recorded.
    NewBoot,
}

impl Clock {
    /// The machine's clock. `last` is the last anchor that was recorded, of whatever boot.
    pub fn start(last: Option<Anchor>) -> Result<(Self, Beginning), ClockError> {
        Ok(Self::begin(Source::Machine, boot_id()?, last))
    }

    /// A clock for tests, which stands at `wall_ns` (since the Unix epoch) and boottime 0 until it is moved.
    pub fn simulated(boot: BootId, wall_ns: i64) -> (Self, Arc<ManualTime>) {
        let time = Arc::new(ManualTime::new(wall_ns));
        let (clock, _) = Self::begin(Source::Simulated(Arc::clone(&time)), boot, None);
        (clock, time)
    }

    /// The same simulated time, as an agent sees it that is started anew with `last` in its ledger.
    pub fn simulated_restart(
        boot: BootId,
        time: &Arc<ManualTime>,
        last: Option<Anchor>,
    ) -> (Self, Beginning) {
        Self::begin(Source::Simulated(Arc::clone(time)), boot, last)
    }

    fn begin(source: Source, boot: BootId, last: Option<Anchor>) -> (Self, Beginning) {
        let reading = source.read();
        let (anchor, beginning) = match last.filter(|last| last.boot == boot) {
            None => (Anchor::first(boot, reading), Beginning::NewBoot),
            Some(last) => match last.step(reading) {
                None => (last, Beginning::Kept),
                Some(step) => (step.anchor, Beginning::Stepped(step)),
            },
        };
        (Self(Arc::new(Shared { source, anchor: watch::Sender::new(anchor) })), beginning)
    }

    /// This moment, exact.
    pub fn now(&self) -> Stamp {
        self.anchor().stamp(self.0.source.boottime_ns())
    }

    /// The anchor that places moments now.
    pub fn anchor(&self) -> Anchor {
        *self.0.anchor.borrow()
    }

    /// How long the host has slept in this boot, in nanoseconds. Boottime goes on meanwhile, and nothing else does.
    #[must_use]
    pub fn slept_ns(&self) -> u64 {
        self.0.source.slept_ns()
    }

    /// Places an event that QEMU stamped with its wall clock, in nanoseconds since the Unix epoch.
    ///
    /// `arrival` is when its line was read, `not_before` the last cut that can no longer change. The stamp
    /// lies between the two, and its uncertainty covers what is not known. `None`, or a timestamp that
    /// cannot be so (see [`LATE_NS_MAX`]), gives the arrival with the window as its uncertainty.
    #[must_use]
    pub fn from_qemu(&self, event_unix_ns: Option<i64>, not_before: Stamp, arrival: Stamp) -> Stamp {
        qemu::place(event_unix_ns, not_before, arrival, self.0.source.read(), &self.anchor())
    }

    /// Compares the clocks now. Where the wall clock was stepped, replaces the anchor and says so, once.
    pub fn notice_step(&self) -> Option<Step> {
        let reading = self.0.source.read();
        let mut noticed = None;
        // Under the anchor's lock: of two that look at once, one alone reports the step.
        self.0.anchor.send_if_modified(|anchor| {
            noticed = anchor.step(reading);
            if let Some(step) = noticed {
                *anchor = step.anchor;
            }
            noticed.is_some()
        });
        noticed
    }

    /// Yields every step of the wall clock from now on, as soon as the kernel tells of it.
    ///
    /// Must be called within a tokio runtime. The watch ends when the receiver is dropped. Should the
    /// kernel stop telling, the stream ends, and that is logged.
    pub fn steps(&self) -> Result<mpsc::Receiver<Step>, ClockError> {
        let (sender, receiver) = mpsc::channel(STEPS_WAITING_MAX);
        let watch = match &self.0.source {
            Source::Machine => Watch::Machine(SetClockTimer::new()?),
            Source::Simulated(time) => Watch::Simulated(Arc::clone(time)),
        };
        tokio::spawn(tell_steps(self.clone(), watch, sender));
        Ok(receiver)
    }
}

impl Source {
    fn read(&self) -> Reading {
        match self {
            Self::Machine => machine::read(),
            Self::Simulated(time) => time.read(),
        }
    }

    fn boottime_ns(&self) -> u64 {
        match self {
            Self::Machine => machine::boottime_ns(),
            Self::Simulated(time) => time.read().boottime_ns,
        }
    }

    fn slept_ns(&self) -> u64 {
        match self {
            Self::Machine => machine::slept_ns(),
            Self::Simulated(time) => time.slept_ns(),
        }
    }
}

/// What tells that the wall clock may have been set.
enum Watch {
    Machine(SetClockTimer),
    Simulated(Arc<ManualTime>),
}

impl Watch {
    async fn cancelled(&self) -> std::io::Result<()> {
        match self {
            Self::Machine(timer) => {
                timer.cancelled().await?;
                timer.arm()
            }
            Self::Simulated(time) => {
                time.set.notified().await;
                Ok(())
            }
        }
    }
}

/// The timer is armed again before the clocks are compared, so that a step in between is not missed.
async fn tell_steps(clock: Clock, watch: Watch, steps: mpsc::Sender<Step>) {
    loop {
        if let Some(step) = clock.notice_step()
            && steps.send(step).await.is_err()
        {
            return;
        }
        tokio::select! {
            () = steps.closed() => return,
            cancelled = watch.cancelled() => if let Err(error) = cancelled {
                tracing::error!(%error, "steps of the wall clock are no longer noticed");
                return;
            },
        }
    }
}

#[cfg(test)]
mod tests;
