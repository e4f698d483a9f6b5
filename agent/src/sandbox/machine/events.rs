//! What QEMU's events mean for a sandbox.

use dormouse_metering::{BillingState, Cause, Change, CommandId, Stamp};
use serde_json::json;

use super::core::Core;
use super::{Action, Notice, QemuEvent, QmpCommand};

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
            self.missed = self.missed.or(Some(event.at.earlier_by(event.at.uncertainty_ns)));
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
}
