//! What the meter is told of the memory. Billed is the sum of all virtio-mem devices; an event that comes late says what one
//! of them had then, and what the others had then is in [`Sizes`](super::sizes::Sizes).

use dormouse_ledger::PluggedByDevice;
use dormouse_metering::{Cause, Change, CommandId, Observation, Stamp};
use serde_json::{Value, json};

use super::core::{Core, Link, Phase};
use super::sight::{TOLD_LATE_NS, reaching_back};
use super::sizes::bytes_of;
use super::{Action, Notice, QemuEvent, QmpCommand};
use crate::sandbox::facts::{MemoryDevice, Survey};

/// How long to wait with the next question for sizes after one without an answer.
const SETTLE_AGAIN_MS: u64 = 1_000;

/// Within what time QEMU answers what it holds back, or is told to the ledger not to have: sooner than an agent that is killed
/// and started again would take it to hold nothing back, however long a reply may take.
const SETTLED_WITHIN_MS: u64 = 500;

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
        self.ask_memory(actions);
    }

    /// Asks for the sizes, and has it noticed when that is not answered soon.
    fn ask_memory(&mut self, actions: &mut Vec<Action>) {
        let token = self.token();
        self.memory_asked = Some(token);
        actions.push(Action::Qmp(token, QmpCommand { name: "query-memory-devices", arguments: json!({}) }));
        let awaited = self.token();
        self.memory_awaited = Some(awaited);
        actions.push(Action::Wait(awaited, SETTLED_WITHIN_MS));
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
            // It had that at some time in the event's window, and may have had another size in the rest of it.
            let told = event.at.earlier_by(event.at.uncertainty_ns);
            let newer = |known: &Stamp| known.boot == told.boot && known.boottime_ns > told.boottime_ns;
            self.memory_known = self.memory_known.filter(newer).or(Some(told));
        }
        self.memory_told = Some(arrived);
        self.settle(arrived, actions);
        // Told to the meter even when a query has already said so: the event has the exact moment.
        for (at, bytes) in sums {
            // Told for the very stamp of what was told before it, it comes behind that: the meter has the less uncertain first.
            let before =
                self.memory_stamp.filter(|told| (told.boot, told.boottime_ns) == (at.boot, at.boottime_ns));
            let at = before.map_or(at, |told| at.uncertain_by(at.uncertainty_ns.max(told.uncertainty_ns)));
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
        let left_ns = TOLD_LATE_NS.saturating_sub(now.boottime_ns.saturating_sub(told.boottime_ns));
        if left_ns > 0 {
            let token = self.token();
            self.settling = Some(token);
            actions.push(Action::Wait(token, left_ns.div_ceil(1_000_000)));
        } else {
            self.ask_memory(actions);
        }
    }

    /// QEMU has not answered what it holds back: it is asked again.
    pub(super) fn unsettled(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        self.tell_sizes_known(now, actions);
        if self.link == Link::Up && self.phase == Phase::Attached && self.settling.is_none() {
            let token = self.token();
            self.settling = Some(token);
            actions.push(Action::Wait(token, SETTLE_AGAIN_MS));
        }
    }

    /// While QEMU does not answer what it holds back: through when its sizes are known is told, which changes nothing and waits
    /// with all else until it answers. An agent that is killed before that would not know.
    pub(super) fn tell_sizes_known(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        if self.link != Link::Up || self.phase != Phase::Attached {
            return;
        }
        let known = self.sizes_known(now);
        let is_newer = |told: Stamp| told.boot != known.boot || told.boottime_ns < known.boottime_ns;
        if self.memory_stamp.is_none_or(is_newer) {
            self.memory_stamp = Some(known);
            let change = Change::Plugged(self.shape.memory_plugged_bytes);
            let (cause, command) = self.memory_cause.clone();
            actions.push(Action::Observe(Observation { at: known, change, cause, command }));
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
