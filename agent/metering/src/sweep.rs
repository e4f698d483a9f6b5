//! Pending observations of one boot, in order, become cuts.
//!
//! Every observation speaks of some components of what a sandbox holds, and says that since some instant of
//! its window `[at - uncertainty, at]` they have the values it names. Until the window has begun, what was said
//! of a component before is believed; in the window the lesser of all that may be so; from `at` on, its own. Where
//! windows overlap, what the earlier says may be over before its `at`. The sweep walks the instants at which any of
//! this can change anything. [`author`] says under which name a cut is made.

use std::cmp::max;

use self::author::boundary;
use crate::holding::{Components, Holding};
use crate::place::{self, Point};
use crate::{BillingState, Boundary, Change, Observation, OpenSlice, Slice};

mod author;

/// Where the window of an observation begins, in boottime of its boot.
pub(crate) fn window_start_ns(observation: &Observation) -> u64 {
    observation.at.boottime_ns.saturating_sub(observation.at.uncertainty_ns)
}

/// What a sweep has done.
pub(crate) struct Swept {
    /// How many of the observations, from the front, are final now.
    pub(crate) consumed: usize,
    /// Whether the life ended with them.
    pub(crate) ended: bool,
}

/// Cuts the open slice at everything that `run`, observations of one boot in order, says of the time before
/// `until_ns` (boottime of that boot).
pub(crate) fn sweep(
    open: &mut OpenSlice,
    run: &[Observation],
    until_ns: u64,
    emit: &mut impl FnMut(Slice),
) -> Swept {
    let (items, end) = match run.split_last() {
        Some((last, before)) if last.change == Change::Ended && last.at.boottime_ns < until_ns => {
            (before, Some((last, end_ns(open, last, before))))
        }
        _ => (run, None),
    };
    let until_ns = end.map_or(until_ns, |(_, end_ns)| end_ns);
    let mut sweep = Sweep::new(open, items);
    while let Some(at_ns) = sweep.next_ns().filter(|at_ns| *at_ns < until_ns) {
        sweep.step(at_ns, emit);
    }
    let consumed = sweep.index;
    let Some((last, end_ns)) = end else { return Swept { consumed, ended: false } };
    // What more may have been held before the end is not billed, but not certain either.
    let unreached = items[consumed..].iter().map(|item| item.at.uncertainty_ns);
    let uncertainty_ns = unreached.fold(last.at.uncertainty_ns, max);
    let why = Boundary { uncertainty_ns, ..boundary(last, last) };
    let is_cut_there = open.boot == last.at.boot && open.start_boottime_ns == end_ns;
    let until_ns = if is_cut_there { last.at.boottime_ns } else { end_ns };
    if is_cut_there {
        // No slice is empty, and without one nobody would be told that it may have gone on.
        (open.state, open.beneath) = (BillingState::Lost, None);
    }
    place::close(open, &point(last, until_ns), why, emit);
    Swept { consumed: run.len(), ended: true }
}

/// When a life ended, in the customer's favour: at the start of the window, but not before anything that the
/// sandbox was seen to do.
fn end_ns(open: &OpenSlice, end: &Observation, before: &[Observation]) -> u64 {
    // What was decided of its bill is nothing that it did.
    let did = |item: &&Observation| !matches!(item.change, Change::Mark | Change::Suppressed(_));
    let seen = before.iter().filter(did);
    let seen_ns = seen.map(window_start_ns).max().unwrap_or(0);
    let floor_ns = if open.boot == end.at.boot { open.start_boottime_ns } else { 0 };
    max(window_start_ns(end), max(seen_ns, floor_ns))
}

fn point(observation: &Observation, boottime_ns: u64) -> Point {
    let before_ns = observation.at.boottime_ns.saturating_sub(boottime_ns);
    Point {
        boot: observation.at.boot,
        boottime_ns,
        wall_ns: observation.at.wall_ns.saturating_sub_unsigned(before_ns),
    }
}

struct Sweep<'a> {
    open: &'a mut OpenSlice,
    items: &'a [Observation],
    /// The first item whose `at` has not been reached.
    index: usize,
    /// Whether any item has a window; the ordinary case has none and looks at nothing twice.
    windows: bool,
    /// No cut can lie before this.
    floor_ns: u64,
    /// The last instant looked at.
    reached_ns: Option<u64>,
    /// What the items up to `index` say.
    known: Holding,
}

impl<'a> Sweep<'a> {
    fn new(open: &'a mut OpenSlice, items: &'a [Observation]) -> Self {
        let same_boot = items.first().is_some_and(|first| first.at.boot == open.boot);
        Self {
            floor_ns: if same_boot { open.start_boottime_ns } else { 0 },
            known: Holding::of(open),
            windows: items.iter().any(|item| item.at.uncertainty_ns > 0),
            index: 0,
            reached_ns: None,
            open,
            items,
        }
    }

    /// The next instant at which something can change.
    fn next_ns(&self) -> Option<u64> {
        let ahead = &self.items[self.index..];
        let at_ns = ahead.first()?.at.boottime_ns;
        if !self.windows {
            return Some(at_ns);
        }
        ahead
            .iter()
            .filter(|item| !Components::spoken_of(&item.change).is_empty())
            .map(|item| max(window_start_ns(item), self.floor_ns))
            .filter(|start_ns| self.reached_ns.is_none_or(|reached_ns| *start_ns > reached_ns))
            .chain([at_ns])
            .min()
    }

    fn step(&mut self, at_ns: u64, emit: &mut impl FnMut(Slice)) {
        let (items, first) = (self.items, self.index);
        while let Some(item) = items.get(self.index).filter(|item| item.at.boottime_ns == at_ns) {
            self.known = self.known.after(&item.change);
            self.index += 1;
        }
        self.reached_ns = Some(at_ns);
        let held = if self.windows { self.least(at_ns) } else { self.known };
        let was = Holding::of(self.open);
        let now = &items[first..self.index];
        let marked = now.iter().any(|item| item.change == Change::Mark);
        // The first thing that is certain in a new boot cuts, so that boottime compares from there on.
        let booted = now.first().is_some_and(|item| item.at.boot != self.open.boot);
        let same = held.shape == was.shape && held.billed() == was.billed();
        if same && !marked && !booted {
            // What changed beneath a suppression shows when that is taken back.
            self.open.beneath = held.beneath();
            return;
        }
        let placed_by = now.last().or_else(|| items[self.index..].iter().find(|item| starts(item, at_ns)));
        let Some(placed_by) = placed_by else { return };
        let why = self.author(now, at_ns, &was, &held);
        place::close(self.open, &point(placed_by, at_ns), why, emit);
        self.open.shape = held.shape;
        (self.open.state, self.open.beneath) = (held.billed(), held.beneath());
    }

    /// What may be billed from an instant on: what is known, lowered by every window that has begun.
    fn least(&self, at_ns: u64) -> Holding {
        let mut held = self.known;
        for (item, components) in self.may_be_so(at_ns) {
            held = held.least(&self.known.after(&item.change), components);
        }
        held
    }

    /// The items ahead whose windows have begun, with the components of which nothing is said between that is not
    /// true before a later instant. Empty without windows.
    fn may_be_so(&self, at_ns: u64) -> impl Iterator<Item = (&'a Observation, Components)> {
        let ahead: &'a [Observation] = if self.windows { &self.items[self.index..] } else { &[] };
        let mut settled = Components::NONE;
        ahead.iter().filter_map(move |item| {
            let components = Components::spoken_of(&item.change).without(settled);
            if window_start_ns(item) > at_ns {
                settled = settled.or(components);
                return None;
            }
            (!components.is_empty()).then_some((item, components))
        })
    }
}

fn starts(item: &Observation, at_ns: u64) -> bool {
    window_start_ns(item) <= at_ns && !Components::spoken_of(&item.change).is_empty()
}
