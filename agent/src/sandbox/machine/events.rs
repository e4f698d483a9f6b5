//! What QEMU's events mean for a sandbox.

use dormouse_metering::{BillingState, Cause, Change, CommandId, Observation, Stamp};
use serde_json::{Value, json};

use super::core::Core;
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
    pub(super) fn event(
        &mut self,
        now: Stamp,
        event: &QemuEvent,
        claim: Option<Claim>,
        actions: &mut Vec<Action>,
    ) {
        self.contact = Some(now);
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
            ("RESET", None) => {
                self.shutdown = None;
                self.memory_cause = (Cause::Reset, None);
                actions.push(Action::Publish(Notice::Changed("reset")));
            }
            ("MEMORY_DEVICE_SIZE_CHANGE", _) => self.size_changed(event, actions),
            ("SHUTDOWN", _) => self.shutdown = Some(event.at),
            _ => {}
        }
    }

    /// Why the guest stopped is not in the event: an I/O error and somebody's `stop` look the same.
    fn ask_status(&mut self, at: Stamp, actions: &mut Vec<Action>) {
        let token = self.token();
        self.status_asked = Some((token, at));
        actions.push(Action::Qmp(token, QmpCommand { name: "query-status", arguments: json!({}) }));
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
        self.memory_known = Some(event.at);
        self.shape.memory_plugged_bytes = plugged;
        // Told to the meter even when a query has already said so: the event has the exact moment.
        let (cause, command) = self.memory_cause.clone();
        let change = Change::Plugged(plugged);
        actions.push(Action::Observe(Observation { at: event.at, change, cause, command }));
        actions.push(Action::Publish(Notice::Changed("memory")));
    }

    /// Takes what `query-memory-devices` has returned. What differs from what was known changed between.
    pub(super) fn learn_memory(&mut self, now: Stamp, value: &Value, actions: &mut Vec<Action>) {
        let Some(survey) = self.survey.as_mut() else { return };
        survey.memory_devices = MemoryDevice::list(value);
        let shape = survey.shape();
        let unknown_ns = self.memory_known.map_or(0, |at| now.boottime_ns.saturating_sub(at.boottime_ns));
        self.memory_known = Some(now);
        let at = now.uncertain_by(unknown_ns);
        let cause = self.memory_cause.clone();
        self.observe(at, Change::Requested(shape.memory_requested_bytes), cause.clone(), actions);
        self.observe(at, Change::Plugged(shape.memory_plugged_bytes), cause, actions);
    }
}
