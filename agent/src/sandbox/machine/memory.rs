//! What virtio-mem devices have, and since when: QEMU tells each device's sizes up to a second late, out of order with
//! the others', and drops some.
//!
//! Billed is the sum. An event that comes late says what one device had then; what the others had then is in [`Sizes`].

use std::collections::VecDeque;

use dormouse_metering::{Change, Observation, Stamp};
use serde_json::{Value, json};

use super::core::{Core, HELD_BACK_NS};
use super::{Action, Notice, QemuEvent, QmpCommand};
use crate::sandbox::facts::MemoryDevice;

/// What every device had at one time, in the order of the survey.
#[derive(Clone, Debug)]
struct Told {
    at: Stamp,
    /// Whether QEMU was asked, which tells of all devices; an event tells of one.
    asked: bool,
    bytes: Vec<u64>,
}

/// What every device had at the times of which something may still be told, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Sizes(VecDeque<Told>);

impl Sizes {
    /// What QEMU answers, at `at` at the latest.
    pub(super) fn asked(&mut self, at: Stamp, devices: &[MemoryDevice]) {
        let bytes: Vec<u64> = devices.iter().map(|device| device.size_bytes).collect();
        let comparable = |told: &Told| told.at.boot == at.boot && told.bytes.len() == bytes.len();
        if !self.0.back().is_some_and(comparable) {
            self.0.clear();
        }
        self.0.push_back(Told { at, asked: true, bytes });
        let over = |told: &Told| told.at.boottime_ns.saturating_add(HELD_BACK_NS) < at.boottime_ns;
        // The last one before that time says what was then.
        while self.0.get(1).is_some_and(over) {
            self.0.pop_front();
        }
    }

    /// An event: one device had so much from `at` on. Returns the sums that follow from it, first that of the event.
    fn event(&mut self, at: Stamp, device: usize, size_bytes: u64) -> Vec<(Stamp, u64)> {
        let index =
            self.0.iter().position(|told| told.at.boottime_ns > at.boottime_ns).unwrap_or(self.0.len());
        let Some(mut bytes) = index
            .checked_sub(1)
            .or(Some(0))
            .and_then(|before| self.0.get(before))
            .map(|told| told.bytes.clone())
        else {
            return Vec::new();
        };
        if let Some(next) = self.0.get(index).filter(|next| next.asked) {
            // The others changed some time before they were asked: the less counts.
            bytes.iter_mut().zip(&next.bytes).for_each(|(had, has)| *had = (*had).min(*has));
        }
        bytes[device] = size_bytes;
        self.0.insert(index, Told { at, asked: false, bytes });
        let since = self.0.iter_mut().skip(index).take_while(|told| !told.asked);
        since
            .map(|told| {
                told.bytes[device] = size_bytes;
                (told.at, told.bytes.iter().sum())
            })
            .collect()
    }

    /// What every device has now, as far as is told.
    fn now(&self) -> &[u64] {
        self.0.back().map_or(&[], |told| &told.bytes)
    }
}

impl Core {
    /// A reset unplugs everything. QEMU may hold that event back until the memory has come again, and then drop
    /// it: it counts as unplugged from the reset on, and what is true now is asked for.
    pub(super) fn memory_reset(&mut self, at: Stamp, actions: &mut Vec<Action>) {
        // A size that was held back before the reset is dropped with it.
        let at = self.size_stamp(at);
        let Some(survey) = self.survey.as_mut().filter(|survey| !survey.memory_devices.is_empty()) else {
            return;
        };
        for device in &mut survey.memory_devices {
            device.size_bytes = 0;
        }
        self.sizes.asked(at, &survey.memory_devices);
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
        let Some(survey) = self.survey.as_mut() else { return };
        let Some(size_bytes) = event.detail.get("size").and_then(Value::as_u64) else { return };
        let path = event.detail.get("qom-path").and_then(Value::as_str).unwrap_or_default();
        let id = event.detail.get("id").and_then(Value::as_str);
        let named = |device: &MemoryDevice| {
            id == Some(device.id.as_str()) || path.rsplit('/').next() == Some(device.id.as_str())
        };
        let Some(device) = survey.memory_devices.iter().position(named) else { return };
        let sums = self.sizes.event(event.at, device, size_bytes);
        for (device, bytes) in survey.memory_devices.iter_mut().zip(self.sizes.now()) {
            device.size_bytes = *bytes;
        }
        self.shape.memory_plugged_bytes = survey.shape().memory_plugged_bytes;
        let at = self.size_stamp(event.at);
        self.memory_known =
            self.memory_known.filter(|known| known.boottime_ns > event.at.boottime_ns).or(Some(event.at));
        self.memory_told = Some(event.at);
        // Told to the meter even when a query has already said so: the event has the exact moment.
        for (stamp, bytes) in sums {
            let at = if stamp == event.at { at } else { stamp };
            let (cause, command) = self.memory_cause.clone();
            actions.push(Action::Observe(Observation { at, change: Change::Plugged(bytes), cause, command }));
        }
        actions.push(Action::Publish(Notice::Changed("memory")));
    }

    /// Within a second of an event QEMU holds the next one back and drops sizes in between: the size may have
    /// been on its way since the one before.
    fn size_stamp(&self, at: Stamp) -> Stamp {
        let since_ns = |known: Stamp| {
            let earliest_ns = known.boottime_ns.saturating_sub(known.uncertainty_ns);
            at.boottime_ns.checked_sub(earliest_ns).filter(|_| known.boottime_ns <= at.boottime_ns)
        };
        let Some(told_ns) = self.memory_told.and_then(since_ns).filter(|ns| *ns < HELD_BACK_NS) else {
            return at;
        };
        let since_ns = self.memory_known.and_then(since_ns).map_or(told_ns, |known_ns| known_ns.min(told_ns));
        at.uncertain_by(at.uncertainty_ns.max(since_ns))
    }

    /// Takes what `query-memory-devices` has returned. What differs from what was known changed between.
    pub(super) fn learn_memory(&mut self, now: Stamp, value: &Value, actions: &mut Vec<Action>) {
        let Some(survey) = self.survey.as_mut() else { return };
        survey.memory_devices = MemoryDevice::list(value);
        self.sizes.asked(now, &survey.memory_devices);
        let shape = survey.shape();
        let known = self.memory_known.filter(|known| known.boot == now.boot);
        let unknown_ns = known.map_or(now.boottime_ns, |at| now.boottime_ns.saturating_sub(at.boottime_ns));
        self.memory_known = self.answered.or(Some(now));
        let at = now.uncertain_by(unknown_ns);
        let cause = self.memory_cause.clone();
        self.observe(at, Change::Requested(shape.memory_requested_bytes), cause.clone(), actions);
        self.observe(at, Change::Plugged(shape.memory_plugged_bytes), cause, actions);
    }
}
