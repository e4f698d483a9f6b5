//! Under which name a cut is made.

use std::cmp::max;

use super::{Sweep, window_start_ns};
use crate::holding::{Components, Holding};
use crate::{Boundary, Cause, Change, Observation};

/// The boundary that one observation makes, under the name of another (or of itself).
pub(super) fn boundary(made_by: &Observation, named_by: &Observation) -> Boundary {
    Boundary {
        unix_ns: made_by.at.wall_ns,
        uncertainty_ns: made_by.at.uncertainty_ns,
        cause: named_by.cause,
        command: named_by.command.clone(),
    }
}

/// How good a name is: a mark names a cut where nothing changes, a change does before it, a command before all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Mark,
    Change,
    Command,
}

impl Sweep<'_> {
    /// The boundary at an instant: made by the observations whose values are held from there on and were not
    /// before, as uncertain as the most uncertain of them, and named by the best name among them.
    ///
    /// `now` are the observations stamped with this instant.
    pub(super) fn author(&self, now: &[Observation], at_ns: u64, was: &Holding, held: &Holding) -> Boundary {
        let mut changed = held.shows_from(was);
        if let ([only], false) = (now, self.windows)
            && (!changed.is_empty() || only.change == Change::Mark)
        {
            // The ordinary case, and the hot path: nobody else can have a say.
            return boundary(only, only);
        }
        let lowered = held.differs(&self.known).and(changed);
        let mut best: Option<(Rank, Boundary)> = None;
        for (item, components) in self.may_be_so(at_ns) {
            let spoken = components.and(lowered);
            if !spoken.is_empty() {
                best = Some(better(best, self.name(item, spoken, now, at_ns)));
            }
        }
        changed = changed.without(lowered);
        // Who says first what is held from here on has made it so: an exact observation comes before a query.
        for item in now {
            let overruled = self.known.after(&item.change).differs(&self.known);
            let spoken = Components::spoken_of(&item.change).and(changed).without(overruled);
            changed = changed.without(spoken);
            if item.change == Change::Mark || !spoken.is_empty() {
                best = Some(better(best, self.name(item, spoken, now, at_ns)));
            }
        }
        let uncertainty_ns = now.first().map_or(0, |item| item.at.uncertainty_ns);
        best.map_or(
            Boundary { unix_ns: 0, uncertainty_ns, cause: Cause::HostBoot, command: None },
            |(_, boundary)| boundary,
        )
    }

    /// The name under which an observation cuts: its own, unless another says the same of a window in which
    /// the cut lies, and knows the command.
    fn name(
        &self,
        made_by: &Observation,
        spoken: Components,
        now: &[Observation],
        at_ns: u64,
    ) -> (Rank, Boundary) {
        if spoken.is_empty() {
            return (Rank::Mark, boundary(made_by, made_by));
        }
        let says = self.known.after(&made_by.change);
        let speaks = |item: &&Observation| !Components::spoken_of(&item.change).and(spoken).is_empty();
        let repeats = |item: &&Observation| says.after(&item.change).differs(&says).and(spoken).is_empty();
        let names = |item: &&Observation| item.command.is_some() && window_start_ns(item) <= at_ns;
        let ahead = if self.windows { &self.items[self.index..] } else { &[] };
        let named_by = [made_by]
            .into_iter()
            .filter(|made_by| made_by.command.is_some())
            .chain(now.iter().filter(speaks).filter(repeats))
            .chain(ahead.iter().filter(speaks).take_while(repeats))
            .find(names);
        match named_by {
            Some(named_by) => (Rank::Command, boundary(made_by, named_by)),
            None => (Rank::Change, boundary(made_by, made_by)),
        }
    }
}

fn better(best: Option<(Rank, Boundary)>, new: (Rank, Boundary)) -> (Rank, Boundary) {
    let Some(best) = best else { return new };
    let uncertainty_ns = max(best.1.uncertainty_ns, new.1.uncertainty_ns);
    let (rank, boundary) = if new.0 > best.0 { new } else { best };
    (rank, Boundary { uncertainty_ns, ..boundary })
}
