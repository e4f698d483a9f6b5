//! What QEMU's events mean for a sandbox.

use dormouse_metering::{BillingState, Cause, Change, CommandId, Observation, Stamp};
use serde_json::{Value, json};

use super::core::{Core, HELD_BACK_NS};
use super::{Action, Notice, QemuEvent, QmpCommand};
use crate::sandbox::facts::MemoryDevice;

/// An event that the operation under way has brought about.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) cause: Cause,
    pub(super) command: CommandId,
    pub(super) state: BillingState,
}

impl Core {
    /// Folds one event into what is known.
    pub(super) fn event(&mut self, event: &QemuEvent, claim: Option<Claim>, actions: &mut Vec<Action>) {
        if self.is_over() {
            // Not begun in the ledger yet, or ended there.
            self.missed = true;
            return;
        }
        self.heard(event.at.earlier_by(event.at.uncertainty_ns));
        match (event.name.as_str(), claim) {
            ("STOP" | "RESUME", Some(claim)) => {
                let cause = (claim.cause, Some(claim.command));
                self.observe(event.at, Change::State(claim.state), cause, actions);
            }
            ("STOP", None) => self.ask_status(event.at, actions),
            ("RESUME", None) => {
                self.shutdown = None;
                let change = Change::State(BillingState::Running);
                self.observe(event.at, change, (Cause::Continue, None), actions);
                actions.push(Action::Publish(Notice::Changed("continue")));
            }
            // Nothing that is billed changes by a reset itself; the memory that it unplugs does.
            ("RESET", claim) => {
                self.shutdown = None;
                if claim.is_none() {
                    self.memory_cause = (Cause::Reset, None);
                }
                self.memory_reset(event.at, actions);
                actions.push(Action::Publish(Notice::Changed("reset")));
            }
            ("MEMORY_DEVICE_SIZE_CHANGE", _) => self.size_changed(event, actions),
            ("SHUTDOWN", _) => self.shutdown = Some(event.at),
            _ => {}
        }
    }

    /// Why the guest stopped is not in the event: an I/O error and somebody's `stop` look the same.
    /// Whatever the answer, and whether there is one: from here on it does not run.
    fn ask_status(&mut self, at: Stamp, actions: &mut Vec<Action>) {
        self.observe(at, Change::State(BillingState::Paused), (Cause::Stop, None), actions);
        let token = self.token();
        self.status_asked = Some((token, at));
        actions.push(Action::Qmp(token, QmpCommand { name: "query-status", arguments: json!({}) }));
    }

    /// A reset unplugs everything. QEMU may hold that event back until the memory has come again, and then drop
    /// it: it counts as unplugged from the reset on, and what is true now is asked for.
    fn memory_reset(&mut self, at: Stamp, actions: &mut Vec<Action>) {
        // A size that was held back before the reset is dropped with it.
        let at = self.size_stamp(at);
        let Some(survey) = self.survey.as_mut().filter(|survey| !survey.memory_devices.is_empty()) else {
            return;
        };
        for device in &mut survey.memory_devices {
            device.size_bytes = 0;
        }
        let cause = self.memory_cause.clone();
        self.observe(at, Change::Plugged(0), cause, actions);
        self.memory_known = Some(at);
        let token = self.token();
        self.memory_asked = Some(token);
        actions.push(Action::Qmp(token, QmpCommand { name: "query-memory-devices", arguments: json!({}) }));
    }

    fn size_changed(&mut self, event: &QemuEvent, actions: &mut Vec<Action>) {
        let Some(survey) = self.survey.as_mut() else { return };
        let Some(size_bytes) = event.detail.get("size").and_then(Value::as_u64) else { return };
        let path = event.detail.get("qom-path").and_then(Value::as_str).unwrap_or_default();
        let id = event.detail.get("id").and_then(Value::as_str);
        let named = |device: &&mut MemoryDevice| {
            id == Some(device.id.as_str()) || path.rsplit('/').next() == Some(device.id.as_str())
        };
        let Some(device) = survey.memory_devices.iter_mut().find(named) else { return };
        device.size_bytes = size_bytes;
        let plugged = survey.shape().memory_plugged_bytes;
        let at = self.size_stamp(event.at);
        self.memory_known =
            self.memory_known.filter(|known| known.boottime_ns > event.at.boottime_ns).or(Some(event.at));
        self.memory_told = Some(event.at);
        self.shape.memory_plugged_bytes = plugged;
        // Told to the meter even when a query has already said so: the event has the exact moment.
        let (cause, command) = self.memory_cause.clone();
        let change = Change::Plugged(plugged);
        actions.push(Action::Observe(Observation { at, change, cause, command }));
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
