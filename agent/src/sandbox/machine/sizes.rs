//! What every memory device had, and since when, of the times of which something may still be told: QEMU tells the sizes of
//! each up to a second late, out of order with the others', and drops some. Pure: it is told, and says what follows.
//!
//! ```text
//!   asked      event of one     out of sight            asked
//!  ---o-----------o---------------[ unseen ]--------------o---▶ time
//!     |           |                    |                  |
//!     of all      of the others what was known before     of all: what differs changed since
//! ```

use std::collections::VecDeque;

use dormouse_ledger::PluggedByDevice;
use dormouse_metering::Stamp;

use super::sight::HELD_BACK_NS;
use crate::sandbox::facts::MemoryDevice;

/// How a size came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// QEMU was asked then, and told of all devices.
    Asked(Stamp),
    /// An event that arrived then told of one device, of another what was known.
    Event(Stamp),
    /// Not at all until this stamp: QEMU was out of sight, and may have told anybody anything. And since when the size of
    /// one may have been on its way to something else by then.
    Unseen(Stamp, Stamp),
}

/// What every device had at one time, in the order of the survey.
#[derive(Clone, Debug)]
struct Told {
    at: Stamp,
    source: Source,
    bytes: Vec<u64>,
    /// Whether the meter was told that all had this at once: not where each is the least of a window.
    held_at_once: bool,
    /// How long the host has slept since: by as much longer may something of that time still be told, in nanoseconds.
    slept_ns: u64,
}

impl Told {
    fn new(at: Stamp, source: Source, bytes: Vec<u64>) -> Self {
        Self { at, source, bytes, held_at_once: true, slept_ns: 0 }
    }

    /// Since when they may have had this: an answer says what was so at some time since it was asked for.
    fn since(&self) -> Stamp {
        match self.source {
            Source::Asked(asked) => asked,
            Source::Event(_) => self.at,
            Source::Unseen(_, known) => known,
        }
    }
}

/// What every device had at the times of which something may still be told, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Sizes(VecDeque<Told>);

impl Sizes {
    /// What QEMU has answered by `at`.
    pub(super) fn answered(&mut self, at: Stamp, asked: Stamp, devices: &[MemoryDevice]) {
        self.insert(Told::new(at, Source::Asked(asked), bytes_of(devices)));
        let over = |told: &Told, stamp: Stamp| {
            let late_ns = HELD_BACK_NS.saturating_add(told.slept_ns);
            stamp.boottime_ns.saturating_add(late_ns) < at.boottime_ns
        };
        let unseen_until = |told: &Told| match told.source {
            Source::Unseen(until, _) => until,
            Source::Asked(_) | Source::Event(_) => told.at,
        };
        // The last one before that time says what was then.
        while let [first, second, ..] = &*self.0.make_contiguous()
            && over(first, unseen_until(first))
            && over(second, second.at)
        {
            self.0.pop_front();
        }
        self.0.shrink_to_fit();
    }

    /// QEMU is seen again, and was not from `at` on, when the devices had what was told last, or this where nothing was.
    pub(super) fn unseen(&mut self, at: Stamp, until: Stamp, devices: &[MemoryDevice]) {
        let at = self.seen_before(at);
        let next = self.first_after(at);
        let before = next.checked_sub(1).and_then(|index| self.0.get(index));
        let had = before.filter(|told| told.at.boot == at.boot && told.bytes.len() == devices.len());
        let bytes = had.map_or_else(|| bytes_of(devices), |told| told.bytes.clone());
        // What was asked for by then and answered otherwise may have been on its way to that.
        let is_answer = |told: &Told| told.since().boottime_ns <= at.boottime_ns && told.bytes != bytes;
        let changed = had.is_some() && self.0.get(next).is_some_and(is_answer);
        let known = self.known_before(next).filter(|_| changed).unwrap_or(at);
        let held_at_once = had.is_none_or(|told| told.held_at_once);
        self.insert(Told { held_at_once, ..Told::new(at, Source::Unseen(until, known), bytes) });
    }

    /// The last moment before another at which QEMU was seen: what is asked while it is found again is answered of later.
    fn seen_before(&self, at: Stamp) -> Stamp {
        let unseen_at = |told: &&Told| {
            matches!(told.source, Source::Unseen(until, _) if until.boottime_ns >= at.boottime_ns)
                && told.at.boot == at.boot
                && told.at.boottime_ns < at.boottime_ns
        };
        self.0.iter().find(unseen_at).map_or(at, |told| told.at)
    }

    /// What the ledger says that they had, by an agent that was killed, and through when that is known: what was told until
    /// now is missed.
    pub(super) fn recovered(&mut self, known: Stamp, now: Stamp, plugged: PluggedByDevice) {
        let unseen = Source::Unseen(now, known);
        // Of a boot before this one it is what a snapshot was saved with.
        let at_ns = if plugged.boot == known.boot.0 { plugged.at_boottime_ns } else { known.boottime_ns };
        let unknown_ns = at_ns.saturating_sub(known.boottime_ns);
        if unknown_ns == 0 {
            return self.0.push_back(Told::new(known, unseen, plugged.bytes));
        }
        self.0.push_back(Told { held_at_once: false, ..Told::new(known, unseen, plugged.least_bytes) });
        // As by an event: what the others had then may have been told since.
        self.0.push_back(Told::new(known.later_by(unknown_ns), Source::Event(now), plugged.bytes));
    }

    /// The host has slept, and QEMU with it.
    pub(super) fn slept(&mut self, ns: u64) {
        self.0.iter_mut().for_each(|told| told.slept_ns = told.slept_ns.saturating_add(ns));
    }

    fn insert(&mut self, told: Told) {
        let comparable = |last: &Told| last.at.boot == told.at.boot && last.bytes.len() == told.bytes.len();
        if !self.0.back().is_some_and(comparable) {
            self.0.clear();
        }
        self.0.insert(self.first_after(told.at), told);
    }

    /// What all devices together may have had at the least, where they have `now` at the end of a window and the sums that
    /// are told of it do not say so: one may have given back before another got as much. With the same stamp, uncertain
    /// since that may have been so first; `None` where the sums say it.
    pub(super) fn least(&self, window: Stamp, now: &[u64]) -> Option<(Stamp, u64)> {
        // Of what is as it was told last all was told then.
        if self.now() == now { None } else { self.least_among(self.0.len(), window, now) }
    }

    /// The same of what was told before the one of this index.
    fn least_among(&self, until: usize, window: Stamp, now: &[u64]) -> Option<(Stamp, u64)> {
        let had = || self.told_in(window, until, now.len());
        let sum: u64 = now.iter().sum();
        if now.len() > 1 && had().next().is_none() {
            // Nothing is known of what each had: any of them may have had nothing.
            return (sum > 0).then_some((window, 0));
        }
        let mut each = now.to_vec();
        let mut least = None;
        for told in had().rev() {
            lessen(&mut each, &told.bytes);
            let all = each.iter().sum::<u64>();
            let is_told = told.held_at_once && told.bytes.iter().sum::<u64>() <= all;
            if all < sum && !is_told {
                let since_ns = window.boottime_ns.saturating_sub(told.since().boottime_ns);
                least = Some((window.uncertain_by(since_ns.min(window.uncertainty_ns)), all));
            }
        }
        least
    }

    /// What was told of a window and of so many devices, by what was told before the one of this index.
    fn told_in(&self, window: Stamp, until: usize, devices: usize) -> impl DoubleEndedIterator<Item = &Told> {
        let start_ns = window.boottime_ns.saturating_sub(window.uncertainty_ns);
        let had_by = |index: &usize| self.0[*index].since().boottime_ns <= start_ns;
        let told = self.0.range((0..until).rev().find(had_by).unwrap_or(0)..until);
        told.filter(move |told| told.bytes.len() == devices)
    }

    /// What each may have had at the least in a window at whose end they have `now`.
    pub(super) fn least_of_each(&self, window: Stamp, now: &[u64]) -> Vec<u64> {
        let mut each = now.to_vec();
        self.told_in(window, self.0.len(), now.len()).for_each(|told| lessen(&mut each, &told.bytes));
        each
    }

    fn first_after(&self, at: Stamp) -> usize {
        self.0.partition_point(|told| told.at.boottime_ns <= at.boottime_ns)
    }

    /// An event: one device had so much from `at` on. Returns the sums that follow from it, first that of the event, each
    /// behind the least that all may have had before it.
    pub(super) fn event(
        &mut self,
        at: Stamp,
        arrived: Stamp,
        device: usize,
        size_bytes: u64,
    ) -> Vec<(Stamp, u64)> {
        let is_event = |told: &Told| matches!(told.source, Source::Event(_));
        let index = self.first_after(at);
        let Some(before) = self.0.get(index.saturating_sub(1)) else { return Vec::new() };
        let mut bytes = before.bytes.clone();
        if let Some(next) = self.0.get(index).filter(|next| !is_event(next)) {
            // The others changed some time before they were asked: the less counts.
            bytes.iter_mut().zip(&next.bytes).for_each(|(had, has)| *had = (*had).min(*has));
        }
        bytes[device] = size_bytes;
        self.0.insert(index, Told::new(at, Source::Event(arrived), bytes));
        let since = self.0.iter_mut().skip(index).take_while(|told| is_event(told));
        let count = since.map(|told| told.bytes[device] = size_bytes).count();
        let sums = |index: usize| {
            let told = self.0.get(index)?;
            let least = self.least_among(index, told.at, &told.bytes);
            Some(least.into_iter().chain([(told.at, told.bytes.iter().sum())]))
        };
        (index..index + count).filter_map(sums).flatten().collect()
    }

    /// The stamp of an event, uncertain since the size may have been on its way to what it says: `unsettled` is
    /// whether QEMU has been asked in vain, or not at all, whether it still holds an older one back.
    pub(super) fn on_its_way(&self, at: Stamp, unsettled: bool) -> Stamp {
        let held_back_ns = self.held_back_ns(at.earlier_by(at.uncertainty_ns), unsettled);
        at.uncertain_by(at.uncertainty_ns.saturating_add(held_back_ns))
    }

    /// For how long before an event the sizes may have been on their way to it: QEMU holds events back, and drops
    /// those between, for a second after the last.
    fn held_back_ns(&self, at: Stamp, unsettled: bool) -> u64 {
        let before = || self.0.iter().rev().filter(|told| told.at.boottime_ns < at.boottime_ns);
        let since_ns = |stamp: Stamp| at.boottime_ns.saturating_sub(stamp.boottime_ns);
        let told_ns = before().find_map(|told| match told.source {
            Source::Asked(_) => None,
            // It was sent shortly before, and the next one waits from then on.
            Source::Event(arrived) => Some(since_ns(arrived)),
            Source::Unseen(until, _) => Some(since_ns(until)),
        });
        if !unsettled && told_ns.is_none_or(|ns| ns >= HELD_BACK_NS) {
            return 0;
        }
        let count = self.0.partition_point(|told| told.at.boottime_ns < at.boottime_ns);
        self.known_before(count).map_or(0, since_ns)
    }

    /// Since when the first so many say what all devices had.
    fn known_before(&self, count: usize) -> Option<Stamp> {
        // One device's event says nothing of the others.
        let of_all = |told: &&Told| !matches!(told.source, Source::Event(_)) || told.bytes.len() == 1;
        let known = self.0.range(..count).rev().find(of_all);
        known.or_else(|| self.0.front().filter(|_| count > 0)).map(Told::since)
    }

    /// What every device has now, as far as is told.
    pub(super) fn now(&self) -> &[u64] {
        self.0.back().map_or(&[], |told| &told.bytes)
    }
}

/// Of each the lesser.
fn lessen(each: &mut [u64], others: &[u64]) {
    each.iter_mut().zip(others).for_each(|(least, other)| *least = (*least).min(*other));
}

pub(super) fn bytes_of(devices: &[MemoryDevice]) -> Vec<u64> {
    devices.iter().map(|device| device.size_bytes).collect()
}
