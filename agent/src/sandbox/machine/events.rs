//! What QEMU's events mean for a sandbox.

use dormouse_metering::{BillingState, Cause, Change, CommandId, Stamp};
use serde_json::json;

use super::core::{Core, Phase};
use super::{Action, Notice, QemuEvent, QmpCommand};

/// How many events are kept that come before the life is recorded; after more, QEMU is asked.
const EARLY_MAX: usize = 64;

/// Of saving and loading, which is the business of the operation alone: nothing that is billed follows from them.
const TRANSFERS: [&str; 2] = ["MIGRATION", "JOB_STATUS_CHANGE"];

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
        if TRANSFERS.contains(&event.name.as_str()) {
            return;
        }
        match self.phase {
            Phase::New => return self.too_early(event),
            Phase::Ended => return,
            Phase::Attached | Phase::Hibernated => {}
        }
        self.heard(event.at.earlier_by(event.at.uncertainty_ns));
        if matches!(event.name.as_str(), "STOP" | "RESUME") {
            self.ran_or_stood = self.now;
        }
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
            ("SHUTDOWN", claim) => self.shuts_down(event.at, claim, actions),
            _ => {}
        }
    }

    /// The guest stands from here on; its process may be there for a while yet.
    fn shuts_down(&mut self, at: Stamp, claim: Option<Claim>, actions: &mut Vec<Action>) {
        self.shutdown = Some(at);
        if self.state != BillingState::Running {
            return;
        }
        // It may have stood before, unheard; what it holds back of its sizes it may never tell.
        let at = self.end_of_process(at);
        self.observe_unseen_memory(at, self.memory_cause.clone(), actions);
        let cause = claim.map_or((Cause::Shutdown, None), |claim| (claim.cause, Some(claim.command)));
        self.observe(at, Change::State(BillingState::Paused), cause, actions);
    }

    /// Its life is not recorded as begun yet.
    fn too_early(&mut self, event: &QemuEvent) {
        if self.early.len() < EARLY_MAX {
            self.early.push(event.clone());
        } else {
            self.miss(event.at.earlier_by(event.at.uncertainty_ns));
        }
    }

    /// Its life is recorded as begun: folds in what was told too early.
    pub(super) fn catch_up(&mut self, actions: &mut Vec<Action>) {
        for event in std::mem::take(&mut self.early) {
            self.event(&event, None, actions);
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
