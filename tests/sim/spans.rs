//! From when to when slices lasted, in the time of the history.
//!
//! Every moment that the meters are told of is written down as they are told ([`World::note`]). Nothing but these, full hours
//! and steps of the clock divides a bill, so that each slice is found by where it ends:
//!
//! | a slice, or several alike at one stretch | where it lies |
//! |---|---|
//! | by its duration comes out at a noted moment of the same boot | there |
//! | ends at what the wall clock read at a noted moment of a later boot | across: nothing but the wall clock went on there |
//! | comes out at noted moments from one of a later boot on, whose clock was behind | from there; nothing is placed between |
//! | ends at a full hour, and nothing was told since | in its boot, or where that is over, not before something is told |

use std::collections::BTreeSet;
use std::ops::Range;

use dormouse_metering::{BillingState, Cause, OpenSlice, Shape, Slice, Stamp};

use crate::boot::Boot;
use crate::ledger::Row;
use crate::world::World;

/// What is laid: the slices of one life, and the moments of which its meter was told.
struct Life<'a> {
    world: &'a World,
    noted: &'a BTreeSet<u64>,
    slices: &'a [Slice],
    open: Option<&'a OpenSlice>,
    /// Where it has ended: from when to when that may have been.
    ends: Option<(u64, u64)>,
    /// What is laid so far.
    spans: Vec<(u64, u64)>,
    /// Through when, and in which boot.
    at: u64,
    boot: usize,
    wrong: Vec<String>,
}

impl World {
    /// A meter is told of a moment, or of the time from one to another.
    pub(crate) fn note(&mut self, guest: usize, at: Stamp) {
        let since = self.world_ns(at.boot, at.boottime_ns.saturating_sub(at.uncertainty_ns));
        let at = self.world_ns(at.boot, at.boottime_ns);
        self.guests[guest].noted.extend([since, at]);
    }

    /// From when to when each slice lasted, and when the open one began. `None` where nothing is known.
    pub(crate) fn spans(
        &self,
        (guest, name): (usize, &str),
        row: &Row,
        (slices, open): (&[Slice], Option<&OpenSlice>),
        found: &mut Vec<String>,
    ) -> Option<(Vec<(u64, u64)>, u64)> {
        let (boot, boottime_ns) = row.began?;
        let ends = row.end.filter(|_| row.ended).map(|end| {
            let since = end.boottime_ns.saturating_sub(end.uncertainty_ns);
            (self.world_ns(end.boot, since), self.world_ns(end.boot, end.boottime_ns))
        });
        let mut life = Life {
            world: self,
            noted: &self.guests[guest].noted,
            slices,
            open,
            ends,
            spans: Vec::new(),
            at: self.world_ns(boot, boottime_ns),
            boot: self.boots.iter().position(|known| known.id == boot)?,
            wrong: Vec::new(),
        };
        life.lay();
        found.extend(life.wrong.iter().map(|what| format!("M8: {name} {what}")));
        Some((life.spans, life.at))
    }
}

impl Life<'_> {
    fn lay(&mut self) {
        if !self.noted.contains(&self.at) {
            self.wrong.push(format!("begins at {}, of which nothing was told", self.at));
        }
        while self.spans.len() < self.slices.len() {
            let alike = self.alike(self.spans.len());
            let (stays, across) = (self.comes_out(self.at, self.boot, &alike), self.across(&alike));
            if let Some(next) = stays.filter(|next| across.is_none_or(|(end, ..)| *next <= end)) {
                self.go_on(next);
                self.check_placed();
            } else if let Some((next, boot, to)) = across {
                self.cross(next, boot, to);
            } else if let Some((boot, from)) = self.behind(&alike) {
                (self.at, self.boot) = (from, boot);
            } else if let Some((next, boot, to)) = self.followed(&alike) {
                self.check_hour(self.slices[next - 1].end.unix_ns, self.boot..boot + 1);
                self.cross(next, boot, to);
            } else if self.is_timed(alike.end) && self.at + self.ns(&alike) <= self.boot(self.boot).ended {
                self.go_on(alike.end);
            } else if self.is_timed(alike.end) && self.is_open(alike.end) {
                return self.lasts_on(&alike);
            } else {
                let (from, to) = (self.at, self.slices[alike.end - 1].end.unix_ns);
                self.wrong
                    .push(format!("lasts from {from} to where nothing was told, {to} by the wall clock"));
                self.go_on(alike.end);
            }
        }
        self.check_open();
        self.check_steps();
    }

    fn boot(&self, boot: usize) -> &Boot {
        &self.world.boots[boot]
    }

    fn ns(&self, range: &Range<usize>) -> u64 {
        self.slices[range.clone()].iter().map(|slice| slice.duration_ns).sum()
    }

    /// The slices from one on that are held and billed alike, up to a boundary that time itself did not put there.
    fn alike(&self, first: usize) -> Range<usize> {
        let held = |slice: &Slice| (slice.state, slice.shape);
        let last = (first..self.slices.len())
            .find(|index| {
                let next = self.slices.get(index + 1).map(held);
                !self.is_timed(index + 1) || next != Some(held(&self.slices[*index]))
            })
            .unwrap_or(first);
        first..last + 1
    }

    /// Whether time itself may have put a boundary where it is.
    fn is_timed(&self, boundary: usize) -> bool {
        matches!(self.slices[boundary - 1].end.cause, Cause::Hour | Cause::ClockStep)
    }

    fn is_cut_by_hour(&self, boundary: usize) -> bool {
        boundary > 0 && self.slices[boundary - 1].end.cause == Cause::Hour
    }

    /// Whether what lies before a boundary goes on behind it in the slice that is open.
    fn is_open(&self, boundary: usize) -> bool {
        let held: Option<(BillingState, Shape)> = self.open.map(|open| (open.state, open.shape));
        let last = &self.slices[boundary - 1];
        boundary == self.slices.len() && held == Some((last.state, last.shape))
    }

    /// The first boundary of these that time itself put there and behind which what follows began in a later boot, whose clock
    /// was behind: which boot, and when.
    fn followed(&self, alike: &Range<usize>) -> Option<(usize, usize, u64)> {
        let mut timed = alike.clone().map(|index| index + 1).filter(|next| self.is_timed(*next));
        let begins = |next: usize| {
            if next < self.slices.len() { self.behind(&self.alike(next)) } else { self.opened_behind() }
        };
        timed.find_map(|next| begins(next).map(|(boot, from)| (next, boot, from)))
    }

    /// When the slice that is open began, if that was in a later boot whose clock was behind.
    fn opened_behind(&self) -> Option<(usize, u64)> {
        let unix_ns = self.open?.start.unix_ns;
        let (boot, at) = self.opened()?;
        let is_so = boot > self.boot && self.noted.contains(&at) && self.is_behind(boot, at, unix_ns);
        is_so.then_some((boot, at))
    }

    /// The first boundary of these that comes out at a noted moment of the boot, from a time on, or that only the wall clock
    /// puts apart from a full hour.
    fn comes_out(&self, from: u64, boot: usize, alike: &Range<usize>) -> Option<usize> {
        let ended = self.boot(boot).ended;
        let mut at = from;
        alike.clone().map(|index| index + 1).find(|next| {
            at += self.slices[next - 1].duration_ns;
            let is_last = *next == self.slices.len() && self.open.is_none();
            let ends = self.ends.is_some_and(|(since, end)| is_last && (since..=end).contains(&at));
            at <= ended && (self.noted.contains(&at) || ends || self.bridges(next - 1))
        })
    }

    /// Whether only the wall clock puts the end of a slice apart from a full hour to which time has come.
    fn bridges(&self, index: usize) -> bool {
        let comes_to_it = || self.slices[index - 1].duration_ns > 0 || self.bridges(index - 1);
        self.slices[index].duration_ns == 0 && self.is_cut_by_hour(index) && comes_to_it()
    }

    /// The first boundary of these that the wall clock of a later boot read at a noted moment: which boot, and when.
    fn across(&self, alike: &Range<usize>) -> Option<(usize, usize, u64)> {
        let later = || self.world.boots.iter().enumerate().skip(self.boot + 1);
        // It has no time but the wall clock's; where that was set back before, in this boot, the time until it had caught up.
        let lasts = |slice: &Slice| {
            let extent_ns = slice.start.unix_ns.abs_diff(slice.end.unix_ns);
            extent_ns == 0 || slice.duration_ns == extent_ns
        };
        let (at, count, from_ns) = self.caught_up(&self.slices[alike.clone()]);
        if count > 0 && (at > self.boot(self.boot).ended || !self.is_behind(self.boot, at, from_ns)) {
            return None;
        }
        let lasting = alike.clone().take_while(|index| lasts(&self.slices[*index]));
        lasting.map(|index| index + 1).find_map(|next| {
            let unix_ns = self.slices[next - 1].end.unix_ns;
            later().find_map(|(number, boot)| {
                let read = boot.placed_by.iter().filter_map(|offset| u64::try_from(unix_ns - offset).ok());
                let within = |at: &u64| (boot.began..=boot.ended).contains(at) && self.noted.contains(at);
                read.filter(within).map(|at| (next, number, at)).next()
            })
        })
    }

    /// A noted moment of a later boot, whose clock read no more than what the slices before end at, from which on these
    /// come out at one as well.
    fn behind(&self, alike: &Range<usize>) -> Option<(usize, u64)> {
        let unix_ns = self.slices[alike.start].start.unix_ns;
        let bridges = alike.clone().take_while(|index| self.slices[*index].duration_ns == 0).count();
        let lasting = alike.start + bridges..alike.end;
        let goes_on = |boot: usize, from: u64| {
            let opens = self.is_open(alike.end) && self.opened() == Some((boot, from + self.ns(&lasting)));
            !lasting.is_empty() && (opens || self.comes_out(from, boot, &lasting).is_some())
        };
        self.later().find(|(boot, from)| self.is_behind(*boot, *from, unix_ns) && goes_on(*boot, *from))
    }

    /// When a clock that was set back had come to where these begin, how many of them lasted until then, and where that is.
    fn caught_up(&self, slices: &[Slice]) -> (u64, usize, i64) {
        let without_extent = slices.iter().take_while(|slice| slice.start.unix_ns == slice.end.unix_ns);
        let (mut at, mut count) = (self.at, 0);
        for slice in without_extent {
            (at, count) = (at + slice.duration_ns, count + 1);
        }
        let from_ns = slices.get(count).or(slices.last()).map_or(0, |slice| slice.start.unix_ns);
        (at, count, from_ns)
    }

    /// The noted moments of later boots.
    fn later(&self) -> impl Iterator<Item = (usize, u64)> {
        let boots = self.world.boots.iter().enumerate().skip(self.boot + 1);
        boots
            .flat_map(|(number, boot)| self.noted.range(boot.began..=boot.ended).map(move |at| (number, *at)))
    }

    fn is_behind(&self, boot: usize, at: u64, unix_ns: i64) -> bool {
        self.boot(boot).placed_by.iter().any(|offset| offset.saturating_add_unsigned(at) <= unix_ns)
    }

    /// Lays what lies before a boundary by its durations.
    fn go_on(&mut self, next: usize) {
        for slice in &self.slices[self.spans.len()..next] {
            self.spans.push((self.at, self.at + slice.duration_ns));
            self.at += slice.duration_ns;
        }
    }

    /// Lays what lies before a boundary from where it began to a time of a later boot: the first takes all of it.
    fn cross(&mut self, next: usize, boot: usize, to: u64) {
        let first = self.spans.len();
        self.check_across(first..next, boot);
        self.spans.extend((first..next).map(|index| (if index == first { self.at } else { to }, to)));
        (self.at, self.boot) = (to, boot);
    }

    /// These, and the slice that is open, last from where they began until now: nothing was told since in which boot.
    fn lasts_on(&mut self, alike: &Range<usize>) {
        let ends = self.at + self.ns(alike);
        let unix_ns = self.slices[alike.end - 1].end.unix_ns;
        self.check_across(alike.clone(), self.boot);
        self.check_hour(unix_ns, self.boot..self.world.boots.len());
        if self.opened() != Some((self.boot, ends)) {
            self.wrong.push(format!("is open since {:?}, and lasted until {ends}", self.opened()));
        }
        self.spans.extend(alike.clone().map(|_| (self.at, self.at)));
    }

    /// When the open slice began, by its own word: in which boot, and when.
    fn opened(&self) -> Option<(usize, u64)> {
        let open = self.open?;
        let boot = self.world.boots.iter().position(|known| known.id == open.boot)?;
        Some((boot, self.world.world_ns(open.boot, open.start_boottime_ns)))
    }

    fn check_open(&mut self) {
        if let Some((boot, from)) = self.opened_behind() {
            (self.at, self.boot) = (from, boot);
        } else if self.open.is_some() && self.opened() != Some((self.boot, self.at)) {
            self.wrong.push(format!("is open since {:?}, and lasted until {}", self.opened(), self.at));
        }
    }

    /// Whatever was held when the clock was stepped is cut there, so that what follows is placed by the clock as it was then:
    /// all but what is lost of a life of which nothing but its end is known.
    fn check_steps(&mut self) {
        let steps = self.world.ledger.steps.iter().map(|at| self.world.world_ns(at.boot, at.boottime_ns));
        let open = self.open.map(|_| (self.at, self.world.now));
        let lost = |slice: &&Slice| self.open.is_none() && slice.state == BillingState::Lost;
        let known = self.spans.len() - self.slices.iter().rev().take_while(lost).count();
        let over = |at: &u64| self.spans[..known].iter().chain(&open).any(|(from, to)| from < at && at < to);
        self.wrong
            .extend(steps.filter(over).map(|at| format!("is not cut at {at}, where the clock was stepped")));
    }

    /// A boundary lies where the wall clock had it, or where the slice before began, when that was set back.
    fn check_placed(&mut self) {
        let [.., last] = &self.slices[..self.spans.len()] else { return };
        let placed = last.end.unix_ns;
        let read_ns = |offset: &i64| offset.saturating_add_unsigned(self.at);
        let is_so = self.boot(self.boot).placed_by.iter().any(|offset| read_ns(offset) == placed);
        if !is_so && !self.is_timed(self.spans.len()) && placed != last.start.unix_ns {
            self.wrong.push(format!("is cut at {}, and that is placed at {placed}", self.at));
        }
    }

    /// What lasts across a boot is as long as the wall clock says, by what was recorded of that: no step that the agent
    /// knew of is in it. Where the clock was set back before, it begins no earlier than what lies before it has ended.
    fn check_across(&mut self, range: Range<usize>, boot: usize) {
        let (at, _, from_ns) = self.caught_up(&self.slices[range]);
        let recorded = &self.boot(self.boot).recorded;
        let is_placed = recorded.iter().any(|offset| offset.saturating_add_unsigned(at) <= from_ns);
        if !is_placed {
            self.wrong.push(format!("lasts from {at} on to boot {boot}, and not as the wall clock does"));
        }
    }

    /// What was cut at a full hour was so by the wall clock of a boot that came to it.
    fn check_hour(&mut self, hour_ns: i64, mut boots: Range<usize>) {
        let has_passed = |boot: &Boot| {
            let until = boot.ended.min(self.world.now);
            boot.placed_by.iter().any(|offset| hour_ns <= offset.saturating_add_unsigned(until))
        };
        if !boots.any(|number| has_passed(self.boot(number))) {
            self.wrong.push(format!("is cut at {hour_ns}, to which no clock has come"));
        }
    }
}
