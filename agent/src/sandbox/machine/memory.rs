//! What virtio-mem devices have, and since when: QEMU tells each device's sizes up to a second late, out of order with
//! the others', and drops some.
//!
//! Billed is the sum. An event that comes late says what one device had then; what the others had then is in [`Sizes`].

use std::collections::VecDeque;

use dormouse_ledger::PluggedByDevice;
use dormouse_metering::{Cause, Change, CommandId, Observation, Stamp};
use serde_json::{Value, json};

use super::core::{Core, Link};
use super::sight::{HELD_BACK_NS, TOLD_LATE_NS, reaching_back};
use super::{Action, Notice, QemuEvent, QmpCommand};
use crate::sandbox::facts::{MemoryDevice, Survey};

/// How long to wait with the next question for sizes after one without an answer.
const SETTLE_AGAIN_MS: u64 = 1_000;

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
    /// How long the host has slept since: by as much longer may something of that time still be told, in nanoseconds.
    slept_ns: u64,
}

impl Told {
    fn new(at: Stamp, source: Source, bytes: Vec<u64>) -> Self {
        Self { at, source, bytes, slept_ns: 0 }
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
        self.insert(at, Source::Asked(asked), bytes_of(devices));
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
        self.insert(at, Source::Unseen(until, known), bytes);
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
        let mut had = |at, bytes| self.0.push_back(Told::new(at, Source::Unseen(now, at), bytes));
        let unknown_ns = plugged.at_boottime_ns.saturating_sub(known.boottime_ns);
        if unknown_ns > 0 {
            had(known, plugged.least_bytes);
        }
        had(known.later_by(unknown_ns), plugged.bytes);
    }

    /// The host has slept, and QEMU with it.
    pub(super) fn slept(&mut self, ns: u64) {
        self.0.iter_mut().for_each(|told| told.slept_ns = told.slept_ns.saturating_add(ns));
    }

    fn insert(&mut self, at: Stamp, source: Source, bytes: Vec<u64>) {
        let comparable = |told: &Told| told.at.boot == at.boot && told.bytes.len() == bytes.len();
        if !self.0.back().is_some_and(comparable) {
            self.0.clear();
        }
        let index = self.first_after(at);
        self.0.insert(index, Told::new(at, source, bytes));
    }

    /// What all devices together may have had at the least, where they have `now` at the end of a window and the sums that
    /// are told of it do not say so: one may have given back before another got as much. With the same stamp, uncertain
    /// since that may have been so first; `None` where the sums say it.
    pub(super) fn least(&self, window: Stamp, now: &[u64]) -> Option<(Stamp, u64)> {
        self.least_among(self.0.len(), window, now)
    }

    /// The same of what was told before the one of this index.
    fn least_among(&self, until: usize, window: Stamp, now: &[u64]) -> Option<(Stamp, u64)> {
        let had = || self.told_in(window, until).filter(|told| told.bytes.len() == now.len());
        let sum: u64 = now.iter().sum();
        if now.len() > 1 && had().next().is_none() {
            // Nothing is known of what each had: any of them may have had nothing.
            return (sum > 0).then_some((window, 0));
        }
        let mut each = now.to_vec();
        let mut least = None;
        for told in had().rev() {
            each.iter_mut().zip(&told.bytes).for_each(|(least, had)| *least = (*least).min(*had));
            let all = each.iter().sum::<u64>();
            if all < sum.min(told.bytes.iter().sum()) {
                let since_ns = window.boottime_ns.saturating_sub(told.since().boottime_ns);
                least = Some((window.uncertain_by(since_ns.min(window.uncertainty_ns)), all));
            }
        }
        least
    }

    /// What was told of a window, by what was told before the one of this index.
    fn told_in(&self, window: Stamp, until: usize) -> impl DoubleEndedIterator<Item = &Told> {
        let start_ns = window.boottime_ns.saturating_sub(window.uncertainty_ns);
        let had_by = |index: &usize| self.0[*index].since().boottime_ns <= start_ns;
        self.0.range((0..until).rev().find(had_by).unwrap_or(0)..until)
    }

    /// What each may have had at the least in a window at whose end they have `now`.
    fn least_of_each(&self, window: Stamp, now: &[u64]) -> Vec<u64> {
        let mut each = now.to_vec();
        for told in self.told_in(window, self.0.len()).filter(|told| told.bytes.len() == now.len()) {
            each.iter_mut().zip(&told.bytes).for_each(|(least, had)| *least = (*least).min(*had));
        }
        each
    }

    fn first_after(&self, at: Stamp) -> usize {
        self.0.partition_point(|told| told.at.boottime_ns <= at.boottime_ns)
    }

    /// An event: one device had so much from `at` on. Returns the sums that follow from it, first that of the event, each
    /// behind the least that all may have had before it.
    fn event(&mut self, at: Stamp, arrived: Stamp, device: usize, size_bytes: u64) -> Vec<(Stamp, u64)> {
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
    fn on_its_way(&self, at: Stamp, unsettled: bool) -> Stamp {
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
    fn now(&self) -> &[u64] {
        self.0.back().map_or(&[], |told| &told.bytes)
    }
}

pub(super) fn bytes_of(devices: &[MemoryDevice]) -> Vec<u64> {
    devices.iter().map(|device| device.size_bytes).collect()
}

impl Core {
    /// QEMU is seen for the first time: what it told before, it told somebody else.
    pub(super) fn first_seen(&mut self, now: Stamp, survey: &Survey) {
        let asked = self.answered.unwrap_or(now);
        self.sizes.unseen(asked, asked, &survey.memory_devices);
    }

    /// A reset unplugs everything. QEMU may hold that event back until the memory has come again, and then drop
    /// it: it counts as unplugged from the reset on, and what is true now is asked for.
    pub(super) fn memory_reset(&mut self, at: Stamp, actions: &mut Vec<Action>) {
        // A size that was held back before the reset is dropped with it.
        let at = self.sizes.on_its_way(at, self.is_unsettled());
        let at = self.in_order(at, &Change::Plugged(0));
        let Some(survey) = self.survey.as_mut().filter(|survey| !survey.memory_devices.is_empty()) else {
            return;
        };
        for device in &mut survey.memory_devices {
            device.size_bytes = 0;
        }
        self.sizes.answered(at, at, &survey.memory_devices);
        if self.shape.memory_plugged_bytes > 0 {
            let cause = self.memory_cause.clone();
            self.observe(at, Change::Plugged(0), cause, actions);
            self.memory_known = Some(at);
        }
        let token = self.token();
        self.memory_asked = Some(token);
        actions.push(Action::Qmp(token, QmpCommand { name: "query-memory-devices", arguments: json!({}) }));
    }

    pub(super) fn size_changed(&mut self, event: &QemuEvent, actions: &mut Vec<Action>) {
        let unsettled = self.is_unsettled();
        let Some(survey) = self.survey.as_mut() else { return };
        let Some(size_bytes) = event.detail.get("size").and_then(Value::as_u64) else { return };
        let path = event.detail.get("qom-path").and_then(Value::as_str).unwrap_or_default();
        let id = event.detail.get("id").and_then(Value::as_str);
        let named = |device: &MemoryDevice| {
            id == Some(device.id.as_str()) || path.rsplit('/').next() == Some(device.id.as_str())
        };
        let Some(device) = survey.memory_devices.iter().position(named) else { return };
        let at = self.sizes.on_its_way(event.at, unsettled);
        let arrived = self.now.unwrap_or(event.at);
        let sums = self.sizes.event(at, arrived, device, size_bytes);
        for (device, bytes) in survey.memory_devices.iter_mut().zip(self.sizes.now()) {
            device.size_bytes = *bytes;
        }
        if self.has_one_device() {
            let newer = |known: &Stamp| known.boottime_ns > event.at.boottime_ns;
            self.memory_known = self.memory_known.filter(newer).or(Some(event.at));
        }
        self.memory_told = Some(arrived);
        self.settle(arrived, actions);
        // Told to the meter even when a query has already said so: the event has the exact moment.
        for (at, bytes) in sums {
            // What the meter holds is what is stamped last.
            if self.memory_stamp.is_none_or(|told| told.boot != at.boot || told.boottime_ns <= at.boottime_ns)
            {
                self.memory_stamp = Some(at);
                self.shape.memory_plugged_bytes = bytes;
            }
            let (cause, command) = self.memory_cause.clone();
            actions.push(Action::Observe(Observation { at, change: Change::Plugged(bytes), cause, command }));
        }
        actions.push(Action::Publish(Notice::Changed("memory")));
    }

    /// As long as QEMU may hold a size back, waits; then asks once, which proves that it held none.
    pub(super) fn settle(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        let Some(told) = self.memory_told.filter(|_| self.link == Link::Up && self.settling.is_none()) else {
            return;
        };
        let token = self.token();
        let left_ns = TOLD_LATE_NS.saturating_sub(now.boottime_ns.saturating_sub(told.boottime_ns));
        if left_ns > 0 {
            self.settling = Some(token);
            actions.push(Action::Wait(token, left_ns.div_ceil(1_000_000)));
        } else {
            self.memory_asked = Some(token);
            actions
                .push(Action::Qmp(token, QmpCommand { name: "query-memory-devices", arguments: json!({}) }));
        }
    }

    /// QEMU has not answered what it holds back.
    pub(super) fn settle_later(&mut self, actions: &mut Vec<Action>) {
        if self.link == Link::Up && self.settling.is_none() {
            let token = self.token();
            self.settling = Some(token);
            actions.push(Action::Wait(token, SETTLE_AGAIN_MS));
        }
    }

    /// What each of several devices has plugged, where an observation is of the memory: the shape says what all have.
    pub fn plugged_by_device(&self, seen: &Observation) -> Option<PluggedByDevice> {
        let of_memory = matches!(seen.change, Change::Plugged(_) | Change::Holds(..));
        let has = self.survey.as_ref().filter(|_| of_memory)?.plugged_by_device(seen.at)?;
        Some(PluggedByDevice { least_bytes: self.sizes.least_of_each(seen.at, &has.bytes), ..has })
    }

    pub(super) fn has_one_device(&self) -> bool {
        self.survey.as_ref().is_some_and(|survey| survey.memory_devices.len() == 1)
    }

    /// At the end of a life: what QEMU held back is gone with it, and may have been less. Or more: it is told also
    /// where there is none as far as is known.
    pub(super) fn observe_unseen_memory(
        &mut self,
        end: Stamp,
        (cause, command): (Cause, Option<CommandId>),
        actions: &mut Vec<Action>,
    ) {
        let at = end.earlier_by(end.uncertainty_ns);
        let known = self.sizes_known(at);
        if known.boottime_ns < at.boottime_ns {
            // Behind what was told of it under a later stamp, for that may be older.
            let told = self.memory_stamp.filter(|told| told.boot == at.boot);
            let at = told.filter(|told| told.boottime_ns >= at.boottime_ns).unwrap_or(at.uncertain_by(0));
            self.shape.memory_plugged_bytes = 0;
            let (at, change) = (reaching_back(at, known), Change::Plugged(0));
            // Said again of the same end, it is as uncertain.
            self.memory_stamp = Some(at);
            actions.push(Action::Observe(Observation { at, change, cause, command }));
        }
    }

    /// One device may have given back before another got as much: what all may have had in a window at whose end they have
    /// what was found.
    pub(super) fn observe_least(
        &mut self,
        least: Option<(Stamp, u64)>,
        (cause, command): (Cause, Option<CommandId>),
        actions: &mut Vec<Action>,
    ) {
        let Some((at, bytes)) = least else { return };
        let change = Change::Plugged(bytes);
        let at = self.in_order(at, &change);
        // What they have at that stamp follows, and is not that.
        (self.shape.memory_plugged_bytes, self.memory_stamp) = (bytes, Some(at));
        actions.push(Action::Observe(Observation { at, change, cause, command }));
    }

    /// Takes what `query-memory-devices` has returned. What differs from what was known changed between.
    pub(super) fn learn_memory(&mut self, now: Stamp, value: &Value, actions: &mut Vec<Action>) {
        let Some(survey) = self.survey.as_mut() else { return };
        survey.memory_devices = MemoryDevice::list(value);
        let had = bytes_of(&survey.memory_devices);
        let known = self.memory_known.filter(|known| known.boot == now.boot);
        let unknown_ns = known.map_or(now.boottime_ns, |at| now.boottime_ns.saturating_sub(at.boottime_ns));
        let at = now.uncertain_by(unknown_ns);
        let least = self.sizes.least(at, &had);
        self.sizes.answered(now, self.answered.unwrap_or(now), &survey.memory_devices);
        let shape = survey.shape();
        self.memory_known = self.answered.or(Some(now));
        let cause = self.memory_cause.clone();
        self.observe_least(least, cause.clone(), actions);
        self.observe(at, Change::Requested(shape.memory_requested_bytes), cause.clone(), actions);
        self.observe(at, Change::Plugged(shape.memory_plugged_bytes), cause, actions);
    }
}
