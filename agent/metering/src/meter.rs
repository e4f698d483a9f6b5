//! Observations of one sandbox in, slices out.
//!
//! An observation stays *pending* until everything up to its stamp is sealed, so that one which QEMU delivers
//! late, and out of order with others, still places its cut where QEMU stamped it (M9). What is pending is
//! nothing but a sorted list: slices follow from the open slice and that list alone, whatever the order of
//! arrival, and a recovery that has both goes on as if nothing had happened. What is final never changes.
//!
//! ```text
//!                 Began                        seal, not over the end
//!                   |                              +---------+
//!                   v                              v         |
//!  NotBegun ---------------------------------->  Open -------+
//!                                                 |  ^  observe: into pending, emits nothing
//!                                                 |  |  (65th pending: the oldest becomes final)
//!                                                 |  +--+
//!                                                 |
//!                                                 |  seal, over a pending Ended
//!                                                 v
//!                                               Ended ---> every observation is refused
//!
//!   last final cut                                          through
//!        |  open slice                                         |
//!  ------+-----------x--------x---------[window]--------x------+------[   window   ]---x----->
//!  final |            pending, final with this seal            | pending: still waits
//!                                                a window that reaches behind `through` holds it back
//! ```
//!
//! # What cuts, where, and under which name
//!
//! The truth of an observation lies in its window `[at - u, at]`, where `u` is its uncertainty. Each component
//! of what is held (state, vCPUs, base, plugged and requested memory, disk) is looked at by itself, and an
//! uncertain change counts from that end of its window which bills less: nothing is ever billed that was not
//! held. More billed is `running`, less is `lost`, and all other states are alike, as in the default policy. Of a
//! suppression, less billed is that there is one.
//!
//! | observation | cut | its uncertainty |
//! |---|---|---|
//! | exact (`u` = 0), changes something | at its stamp | 0 |
//! | uncertain, more is held or billed | at `at` | `u` |
//! | uncertain, less is held or billed | at `at - u`; not before the last final cut | `u` |
//! | uncertain, and another's window that speaks of the same component overlaps | the least that either may mean is held from the first start to the last `at` | that of the one that cuts |
//! | uncertain, more of one and less of another | both of these cuts | `u` |
//! | changes nothing | none | |
//! | [`Change::Mark`] | at its stamp, always | its own |
//! | [`Change::Ended`] | at `at - u`; not before the last final cut, nor before the start of another's window but a mark's or a suppression's. What is stamped after it is dropped or refused | `u`, or the greatest of those whose `at` was not reached |
//! | [`Change::Ended`] whose window reaches back to the last cut | at `at`: what lies between is one slice, `lost` | as above |
//! | the first of a new boot, changes nothing | at its stamp, cause [`HostBoot`](crate::Cause::HostBoot) | its own |
//! | stamped before the last final cut | there; the slice that is open takes the change over, its first boundary stays | `u` and what was clamped |
//! | exact, in the window of an uncertain one that says the same | one cut, at the exact stamp; the uncertain one's cause and command where the exact one has no command | 0 |
//! | several at one stamp | one cut, named by a command's before another change's before a mark's | the greatest |
//! | a state that stands, for the very stamp of another one without a command | the one cut of both, by the later name | that of both |
//! | [`Change::Suppressed`] | at its stamp: from there on every state is billed as [`Suppressed`](BillingState::Suppressed), but for `lost`, until it is taken back. A state that changes beneath cuts nothing | its own |
//! | nothing, at a full UTC hour | at the hour, cause [`Hour`](crate::Cause::Hour) | 0 |
//!
//! The order of arrival of the exact and the uncertain one does not matter, unless a seal came in between.
//! A change that is clamped, or whose window reaches back, to the last final cut has no boundary of its own,
//! because no slice is empty: its command names none. Whoever seals only what can no longer change avoids both.
//!
//! # Where the wall clock puts it
//!
//! Durations are differences of boottime (M8). Let `p` be the wall position of the last cut, `w` the wall time
//! of the next stamp (at least `p`) and `d` the boottime between them:
//!
//! | | slices |
//! |---|---|
//! | `w - p = d` | `[p, w)` lasting `d` |
//! | `w - p > d`: the clock was set forward | `[p, p + d)` lasting `d`, then `[p + d, w)` lasting 0 |
//! | `w - p < d`: the clock was set back | `[p, p)` lasting `d - (w - p)`, then `[p, w)` lasting `w - p` |
//! | another boot: boottime does not compare | `[p, w)` lasting `w - p` |
//!
//! The boundary inside has cause [`ClockStep`](crate::Cause::ClockStep). Every slice with an extent is split at
//! every full UTC hour inside it. Whoever notices a step gives a `Mark` with the new wall time, so that the
//! step is placed where it happened; whoever finds the host booted again gives what is true of the time
//! between (`lost`, `hibernated`) with the last stamp of the old boot, before anything of the new one.
//! Hours that were sealed before a step back was known stay where the clock then was: sealed later, the same
//! time is placed elsewhere, and lasts as long.

use std::cmp::min;

use crate::holding::Holding;
use crate::pending::Pending;
use crate::place::{self, Point};
use crate::sweep::{sweep, window_start_ns};
use crate::{
    BillingState, BootId, Boundary, Change, Observation, OpenSlice, Placed, Refused, Shape, Slice, Stamp,
};

/// How many observations may be pending. One more, and the oldest becomes final at once.
pub const PENDING_MAX: usize = 64;

/// The meter of one sandbox's life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    life: Life,
    pending: Pending,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Life {
    #[default]
    NotBegun,
    Open(OpenSlice),
    Ended,
}

impl Meter {
    /// The meter of a life that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// The meter of a life that goes on: from its open slice, and from what [`Meter::pending`] returned.
    ///
    /// Refuses pending observations that no meter can have kept.
    pub fn resume(
        open: Option<OpenSlice>,
        pending: impl IntoIterator<Item = Observation>,
    ) -> Result<Self, Refused> {
        let mut meter = Self { life: open.map_or(Life::NotBegun, Life::Open), pending: Pending::default() };
        pending.into_iter().try_for_each(|observation| meter.insert(observation).map(drop))?;
        Ok(meter)
    }

    /// Takes an observation in, at the place where its stamp belongs, and says where that is.
    ///
    /// Emits slices only when more than [`PENDING_MAX`] observations are pending. A refused observation
    /// changes nothing.
    pub fn observe(
        &mut self,
        observation: Observation,
        emit: &mut impl FnMut(Slice),
    ) -> Result<Placed, Refused> {
        let placed = self.insert(observation)?;
        while self.pending().len() > PENDING_MAX {
            self.seal_oldest(emit);
        }
        Ok(placed)
    }

    fn insert(&mut self, observation: Observation) -> Result<Placed, Refused> {
        match (&mut self.life, observation.change) {
            (Life::NotBegun, Change::Began(shape, state)) => {
                self.life = Life::Open(first_slice(observation, shape, state));
                Ok(Placed::Began)
            }
            (Life::NotBegun, _) => Err(Refused::NotBegun),
            (Life::Open(_), Change::Began(..)) => Err(Refused::AlreadyBegun),
            (Life::Open(open), _) => self.pending.insert(observation, open),
            (Life::Ended, _) => Err(Refused::Ended),
        }
    }

    /// Makes everything at or before `through` final, and emits the slices that this closes.
    ///
    /// A cut that an observation stamped after `through` may still place before it stays open, and so does
    /// everything behind it.
    pub fn seal(&mut self, through: Stamp, emit: &mut impl FnMut(Slice)) {
        let Life::Open(open) = &mut self.life else { return };
        let (consumed, ended) = seal_through(open, self.pending.as_slice(), &through, emit);
        self.settle(consumed, ended);
    }

    /// Forgets what is final.
    fn settle(&mut self, consumed: usize, ended: bool) {
        self.pending.drop_first(consumed);
        if ended {
            self.life = Life::Ended;
        }
    }

    /// Makes the oldest pending observation final, whatever may still arrive before it.
    fn seal_oldest(&mut self, emit: &mut impl FnMut(Slice)) {
        let Life::Open(open) = &mut self.life else { return };
        let Some(oldest) = self.pending.as_slice().first() else { return };
        let (boot, until_ns) = (oldest.at.boot, oldest.at.boottime_ns.saturating_add(1));
        let limit_ns = |run| if run == boot { until_ns } else { 0 };
        let (consumed, ended) = sweep_boots(open, self.pending.as_slice(), limit_ns, emit);
        self.settle(consumed, ended);
    }

    /// Emits the slices as they would be if everything were sealed through the last pending stamp, and returns
    /// the open slice that would follow them: `None` before a life and after its end.
    pub fn provisional(&self, emit: &mut impl FnMut(Slice)) -> Option<OpenSlice> {
        let mut open = self.open()?.clone();
        let Some(last) = self.pending().last() else { return Some(open) };
        let (_, ended) = seal_through(&mut open, self.pending(), &last.at, emit);
        (!ended).then_some(open)
    }

    /// The slice that is not closed yet: `None` before a life and after its end.
    pub fn open(&self) -> Option<&OpenSlice> {
        match &self.life {
            Life::Open(open) => Some(open),
            Life::NotBegun | Life::Ended => None,
        }
    }

    /// Whether the end of the life is final.
    pub fn has_ended(&self) -> bool {
        self.life == Life::Ended
    }

    /// The observations that are not final yet, in order: with [`Meter::open`], all that a recovery needs.
    pub fn pending(&self) -> &[Observation] {
        self.pending.as_slice()
    }

    /// The stamp of the last thing that was told of the life, or of where its open slice begins: `None` before a life and
    /// after its end.
    pub fn last_told(&self) -> Option<Stamp> {
        let began = self.open()?.began();
        Some(self.pending().last().map_or(began, |last| last.at))
    }

    /// What the sandbox holds and in which state it is, suppressed or not, as far as is known: `None` before a
    /// life and from its end on, final or not.
    pub fn holding(&self) -> Option<(Shape, BillingState)> {
        let latest = self.latest()?;
        Some((latest.shape, latest.state))
    }

    /// Whether its time is free by command, whatever its state, as far as is known: not before a life and from
    /// its end on.
    pub fn is_suppressed(&self) -> bool {
        self.latest().is_some_and(|latest| latest.suppressed)
    }

    fn latest(&self) -> Option<Holding> {
        let mut latest = Holding::of(self.open()?);
        for observation in self.pending() {
            if observation.change == Change::Ended {
                return None;
            }
            latest = latest.after(&observation.change);
        }
        Some(latest)
    }
}

fn first_slice(began: Observation, shape: Shape, state: BillingState) -> OpenSlice {
    OpenSlice {
        seq: 1,
        state,
        beneath: None,
        shape,
        start: Boundary {
            unix_ns: began.at.wall_ns,
            uncertainty_ns: began.at.uncertainty_ns,
            cause: began.cause,
            command: began.command,
        },
        boot: began.at.boot,
        start_boottime_ns: began.at.boottime_ns,
    }
}

/// Seals an open slice, and says how many of the pending observations are final, and whether the life is.
fn seal_through(
    open: &mut OpenSlice,
    pending: &[Observation],
    through: &Stamp,
    emit: &mut impl FnMut(Slice),
) -> (usize, bool) {
    let Some(reached) = reached(open, pending, through) else { return (0, false) };
    let reached = &pending[..reached];
    let until_ns = until_ns(reached, through);
    let limit_ns = |boot| if boot == through.boot { until_ns } else { u64::MAX };
    let (consumed, ended) = sweep_boots(open, reached, limit_ns, emit);
    if let Some(last_ns) = until_ns.checked_sub(1).filter(|_| !ended) {
        let last = through.earlier_by(through.boottime_ns.saturating_sub(last_ns));
        let wall_ns = min(last.wall_ns, cut_wall_ns(open, &pending[consumed..], through.boot));
        let last = Point { boot: last.boot, boottime_ns: last.boottime_ns, wall_ns };
        place::close_hours(open, &last, emit);
    }
    (consumed, ended)
}

/// The wall time before which nothing that is pending of a boot places a cut in a slice that began in an older one: only
/// that says how long it lasts, and `through` may be placed by a clock that was stepped since.
fn cut_wall_ns(open: &OpenSlice, pending: &[Observation], boot: BootId) -> i64 {
    let starts = pending.iter().filter(|item| item.at.boot == boot && open.boot != boot);
    starts
        .map(|item| item.at.wall_ns.saturating_sub_unsigned(item.at.uncertainty_ns))
        .min()
        .unwrap_or(i64::MAX)
}

/// How many of the pending observations are of the stamp's boot or an older one; `None` if that boot is over.
fn reached(open: &OpenSlice, pending: &[Observation], through: &Stamp) -> Option<usize> {
    if let Some(last) = pending.iter().rposition(|item| item.at.boot == through.boot) {
        return Some(last + 1);
    }
    if through.boot == open.boot {
        return Some(0);
    }
    (through.wall_ns >= open.start.unix_ns).then_some(pending.len())
}

/// The boottime, exclusive, before which nothing stamped after `through` may place a cut.
fn until_ns(reached: &[Observation], through: &Stamp) -> u64 {
    reached
        .iter()
        .filter(|item| item.at.boot == through.boot && item.at.boottime_ns > through.boottime_ns)
        .filter(|item| item.change != Change::Mark)
        .map(window_start_ns)
        .fold(through.boottime_ns.saturating_add(1), min)
}

/// Sweeps boot after boot, each up to its own limit, and says how many items are final, and whether the life is.
fn sweep_boots(
    open: &mut OpenSlice,
    items: &[Observation],
    until_ns: impl Fn(BootId) -> u64,
    emit: &mut impl FnMut(Slice),
) -> (usize, bool) {
    let mut consumed = 0;
    for run in items.chunk_by(|a, b| a.at.boot == b.at.boot) {
        let swept = sweep(open, run, until_ns(run[0].at.boot), emit);
        consumed += swept.consumed;
        if swept.ended {
            return (consumed, true);
        }
    }
    (consumed, false)
}
