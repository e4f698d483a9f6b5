//! From when to when slices lasted, in the time of the history: by their durations from where it is known when one began, and
//! across boots, between which nothing but the wall clock went on, by that.

use dormouse_metering::{BootId, Cause, OpenSlice, Slice};

use crate::boot::Boot;
use crate::ledger::{self, Row};
use crate::world::World;

/// Where it is known that a slice began, or that a life ended: when, and in which boot.
#[derive(Clone, Copy)]
struct Point {
    at: u64,
    boot: usize,
}

/// How slices divide where the host was booted again: so many lie before, and from this one on the rest after.
struct Divided {
    before: usize,
    after: usize,
    /// When the last one before ended, and the first one after began.
    from: u64,
    to: u64,
}

impl World {
    /// From when to when each slice lasted, and when the open one began. `None` where nothing is known.
    pub(crate) fn spans(
        &self,
        name: &str,
        row: &Row,
        (slices, open): (&[Slice], Option<&OpenSlice>),
        found: &mut Vec<String>,
    ) -> Option<(Vec<(u64, u64)>, u64)> {
        let told: Vec<_> = row.told.iter().copied().chain(ledger::told(row)).collect();
        let mut spans = Vec::new();
        let mut last = self.known_start(row, 0, open.filter(|_| slices.is_empty()))?;
        while spans.len() < slices.len() {
            let index = spans.len();
            let ahead = index + 1..=slices.len();
            let next = ahead.clone().find_map(|next| {
                let point = self.known_start(row, next, open.filter(|_| next == slices.len()))?;
                Some((next, vec![point]))
            });
            if let Some(open) = open.filter(|_| next.is_none()) {
                last.at = self.by_the_wall(name, (last, open), &slices[index..], &mut spans, found);
                continue;
            }
            let (next, ends) = next.unwrap_or_else(|| (slices.len(), self.known_ends(row)));
            let part = &slices[index..next];
            if ends.is_empty() || ends.iter().any(|end| end.boot == last.boot) {
                let from = last.at;
                for slice in part {
                    spans.push((last.at, last.at + slice.duration_ns));
                    last.at += slice.duration_ns;
                }
                if let Some(end) = ends.first().filter(|end| open.is_some() && end.at != last.at) {
                    let (by_slices, by_clock) = (last.at - from, end.at.abs_diff(from));
                    found.push(format!(
                        "M8: {name} lasted {by_slices} by its slices, {by_clock} by the clock"
                    ));
                    last = *end;
                }
                continue;
            }
            let told = self.told_between(&told, index, next);
            last = self.cross(name, (last, &ends), (part, &told), &mut spans, found);
        }
        Some((spans, last.at))
    }

    /// When a slice began that was open once.
    fn known_start(&self, row: &Row, index: usize, open: Option<&OpenSlice>) -> Option<Point> {
        let seq = u64::try_from(index).ok()? + 1;
        let open = open.map(|open| (open.boot, open.start_boottime_ns));
        let (boot, boottime_ns) = open.or_else(|| row.starts.get(&seq).copied())?;
        let number = self.boots.iter().position(|known| known.id == boot)?;
        let at = self.world_ns(boot, boottime_ns);
        // One that a full hour began after the end of its boot is placed by the wall clock.
        (at <= self.boots[number].ended).then_some(Point { at, boot: number })
    }

    /// When a life ended: as it was observed, or as early as that may have been.
    fn known_ends(&self, row: &Row) -> Vec<Point> {
        let Some(end) = row.end else { return Vec::new() };
        let Some(boot) = self.boots.iter().position(|known| known.id == end.boot) else { return Vec::new() };
        let at = self.world_ns(end.boot, end.boottime_ns);
        let since = self.world_ns(end.boot, end.boottime_ns.saturating_sub(end.uncertainty_ns));
        [since, at].into_iter().map(|at| Point { at, boot }).collect()
    }

    /// Slices behind which the one that is open lasts from one boot to another. Full hours have passed by the wall clock, and
    /// nothing has told since in which boot: it began where that was last known, and was placed as it was recorded then.
    fn by_the_wall(
        &self,
        name: &str,
        (from, open): (Point, &OpenSlice),
        slices: &[Slice],
        spans: &mut Vec<(u64, u64)>,
        found: &mut Vec<String>,
    ) -> u64 {
        let boot = &self.boots[from.boot];
        let ends =
            |before: usize| from.at + slices[..before].iter().map(|slice| slice.duration_ns).sum::<u64>();
        let is_so = |before: &usize| {
            let alike =
                slices[*before..].iter().all(|slice| (slice.state, slice.shape) == (open.state, open.shape));
            let placed_ns = slices[*before].start.unix_ns;
            let is_placed =
                boot.recorded.iter().any(|offset| placed_ns >= offset.saturating_add_unsigned(ends(*before)));
            alike && is_placed && ends(*before) <= boot.ended
        };
        let before = (0..slices.len()).rev().find(is_so).unwrap_or_else(|| {
            found.push(format!(
                "M8: {name} lasts from {} on across a boot, and not as the wall clock does",
                from.at
            ));
            slices.len()
        });
        let mut at = from.at;
        for slice in &slices[..before] {
            spans.push((at, at + slice.duration_ns));
            at += slice.duration_ns;
        }
        spans.extend(slices[before..].iter().map(|_| (at, at)));
        at
    }

    /// Slices of which one lasts from one boot to another. It is as long as the wall clock says, by what was recorded of
    /// that: no step that the agent knew of is in it.
    fn cross(
        &self,
        name: &str,
        (from, ends): (Point, &[Point]),
        (slices, told): (&[Slice], &[(usize, Point)]),
        spans: &mut Vec<(u64, u64)>,
        found: &mut Vec<String>,
    ) -> Point {
        for end in ends {
            let crossed = self.cross_twice((from, *end), slices, told);
            if let Some(laid) = crossed.or_else(|| self.cross_once((from, *end), slices)) {
                spans.extend(laid);
                return *end;
            }
        }
        let boots = self.boots.iter().map(|boot| (boot.began, boot.ended)).collect::<Vec<_>>();
        found.push(format!(
            "M8: {name}: no slice from {} to {:?} lasts across the boots {boots:?} as the wall clock does",
            from.at,
            ends.iter().map(|end| end.at).collect::<Vec<_>>()
        ));
        spans.extend(slices.iter().map(|_| (from.at, from.at)));
        ends[0]
    }

    /// All of them, with one that lasts across a boot, or across several in which nothing was told.
    fn cross_once(&self, (from, end): (Point, Point), slices: &[Slice]) -> Option<Vec<(u64, u64)>> {
        // Whatever may have been before the boot was: it is told of when that was.
        for before in (0..=slices.len()).rev() {
            for len in (0..=slices.len() - before).rev() {
                let between = &slices[before..before + len];
                let Some(divided) = self.divide(slices, (from, end), before, before + len) else { continue };
                let placed_ns = placed(slices, before);
                if alike(between) && self.lasts(between, (&divided, placed_ns), (from.boot, end.boot)) {
                    return Some(lay(slices, from.at, &divided));
                }
            }
        }
        None
    }

    /// Where slices were to begin in a boot between, by what had been told: which one, counted from the first of these.
    fn told_between(&self, told: &[(u64, (BootId, u64))], first: usize, next: usize) -> Vec<(usize, Point)> {
        let point = |(seq, (boot, boottime_ns)): &(u64, (BootId, u64))| {
            let index = usize::try_from(*seq).ok()?.checked_sub(1 + first)?;
            let number = self.boots.iter().position(|known| known.id == *boot)?;
            let at = self.world_ns(*boot, *boottime_ns);
            (index <= next - first && at <= self.boots[number].ended)
                .then_some((index, Point { at, boot: number }))
        };
        told.iter().filter_map(point).collect()
    }

    /// With something that was told in a boot between.
    fn cross_twice(
        &self,
        (from, end): (Point, Point),
        slices: &[Slice],
        told: &[(usize, Point)],
    ) -> Option<Vec<(u64, u64)>> {
        let between = |point: &Point| from.boot < point.boot && point.boot <= end.boot;
        for (index, point) in told.iter().filter(|(_, point)| between(point)) {
            let before = &slices[..*index];
            let Some(mut laid) = self.cross_once((from, *point), before) else { continue };
            let rest = told.iter().filter_map(|(later, point)| Some((later.checked_sub(*index)?, *point)));
            let (after, rest) = (&slices[*index..], rest.collect::<Vec<_>>());
            let after = if point.boot == end.boot {
                all_after(after, *point, end)
            } else {
                self.cross_twice((*point, end), after, &rest)
                    .or_else(|| self.cross_once((*point, end), after))
            };
            if let Some(after) = after {
                laid.extend(after);
                return Some(laid);
            }
        }
        None
    }

    /// So many slices before, and from that one on after; `None` where they do not fit into their boots.
    fn divide(
        &self,
        slices: &[Slice],
        (from, end): (Point, Point),
        before: usize,
        after: usize,
    ) -> Option<Divided> {
        let ns = |part: &[Slice]| part.iter().map(|slice| slice.duration_ns).sum::<u64>();
        let ended = from.at + ns(&slices[..before]);
        let began = end.at.checked_sub(ns(&slices[after..]))?;
        let fits = ended <= self.boots[from.boot].ended && began >= self.boots[end.boot].began;
        fits.then_some(Divided { before, after, from: ended, to: began })
    }

    /// Whether what lies between two boots lasts as long as it was, by the wall clock that each of the two had.
    /// Where the clock was set back in the old boot, what is billed has not been placed earlier, and lasts less.
    fn lasts(
        &self,
        between: &[Slice],
        (divided, placed_ns): (&Divided, i64),
        (old, new): (usize, usize),
    ) -> bool {
        let lasts_ns: u64 = between.iter().map(|slice| slice.duration_ns).sum();
        let since = &self.boots[old + 1..=new];
        let (old, new): (&Boot, &Boot) = (&self.boots[old], &self.boots[new]);
        // A full hour that had passed before the clock was set back stays where it was.
        let hour = between.last().filter(|last| last.end.cause == Cause::Hour).map(|last| last.end.unix_ns);
        let is_so = |then: &i64, now: &i64| {
            let from_ns = then.saturating_add_unsigned(divided.from).max(placed_ns);
            let to_ns = now.saturating_add_unsigned(divided.to).max(from_ns);
            let passed = hour.filter(|hour| since.iter().any(|boot| has_passed(boot, *hour, divided.to)));
            [Some(to_ns), passed].into_iter().flatten().any(|to_ns| to_ns.abs_diff(from_ns) == lasts_ns)
        };
        // Where no time passed there is no slice.
        if lasts_ns == 0 && !between.is_empty() {
            return false;
        }
        old.recorded.iter().any(|then| new.placed_by.iter().any(|now| is_so(then, now)))
    }
}

/// Whether the wall clock of a boot has come to an hour, by that time or its end.
fn has_passed(boot: &Boot, hour_ns: i64, by: u64) -> bool {
    boot.placed_by.iter().any(|offset| hour_ns <= offset.saturating_add_unsigned(boot.ended.min(by)))
}

/// Where a slice began by the wall clock, or the last one ended.
fn placed(slices: &[Slice], index: usize) -> i64 {
    let ended = || slices.last().map(|slice| slice.end.unix_ns);
    slices.get(index).map(|slice| slice.start.unix_ns).or_else(ended).unwrap_or(i64::MIN)
}

/// All of them in one boot.
fn all_after(slices: &[Slice], from: Point, end: Point) -> Option<Vec<(u64, u64)>> {
    let divided = Divided { before: slices.len(), after: slices.len(), from: end.at, to: end.at };
    let laid = lay(slices, from.at, &divided);
    (laid.last().map_or(from.at, |(_, to)| *to) == end.at).then_some(laid)
}

fn alike(slices: &[Slice]) -> bool {
    slices.windows(2).all(|two| (two[0].state, two[0].shape) == (two[1].state, two[1].shape))
}

fn lay(slices: &[Slice], mut at: u64, divided: &Divided) -> Vec<(u64, u64)> {
    let mut spans = Vec::with_capacity(slices.len());
    for (index, slice) in slices.iter().enumerate() {
        let to = match index {
            _ if index < divided.before => at + slice.duration_ns,
            // The first of those between takes all of it: they are alike.
            _ if index < divided.after => divided.to,
            _ => {
                at = at.max(divided.to);
                at + slice.duration_ns
            }
        };
        spans.push((at, to));
        at = to;
    }
    spans
}
