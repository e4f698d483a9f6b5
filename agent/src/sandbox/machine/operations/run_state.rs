//! Pause and resume: `stop` and `cont`, believed when QEMU says that the guest stands or runs.
//!
//! ```text
//!   (pause) AskingMemory ─▶ Telling ── returned ─▶ done
//!                             │ unsure
//!                             ▼
//!                          Confirming ── still the same ─▶ failed
//! ```

use dormouse_metering::{BillingState, Cause, Change, Stamp};
use serde_json::json;

use super::{Answer, Context, Flow, Procedure, done, failed, is_unsure, out_of_place, status_of, unchanged};
use crate::sandbox::machine::admission::is_so_already;
use crate::sandbox::machine::core::Link;
use crate::sandbox::refusal::{Reason, Refusal};

#[derive(Debug)]
pub(super) struct SetRunState {
    command: &'static str,
    cause: Cause,
    target: BillingState,
    step: Step,
    /// When QEMU was told.
    told: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    AskingMemory,
    Telling,
    Confirming,
}

impl SetRunState {
    pub(super) fn pause() -> Self {
        // A size event that is still on its way would be stamped before the stop: ask while it can be told.
        Self {
            command: "stop",
            cause: Cause::Pause,
            target: BillingState::Paused,
            step: Step::AskingMemory,
            told: None,
        }
    }

    pub(super) fn resume() -> Self {
        Self {
            command: "cont",
            cause: Cause::Resume,
            target: BillingState::Running,
            step: Step::Telling,
            told: None,
        }
    }

    fn tell(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::Telling;
        self.told = Some(cx.now);
        cx.qmp(self.command, json!({}))
    }

    fn confirm(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::Confirming;
        if cx.core.link == Link::Up { cx.query("query-status") } else { Flow::Wait }
    }

    fn conclude(&self, cx: &mut Context<'_>) -> Flow {
        if cx.core.state == self.target {
            return done(format!("{} is {}", cx.core.key, self.target));
        }
        failed(Refusal::new(
            Reason::QemuFailed,
            format!("QEMU took `{}`, but the guest is {}", self.command, cx.core.state),
        ))
    }
}

impl Procedure for SetRunState {
    fn step(&self) -> &'static str {
        match self.step {
            Step::AskingMemory => "asking for the memory",
            Step::Telling => self.command,
            Step::Confirming => "asking for the run state",
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        if is_so_already(cx.core, &cx.command.request) {
            return unchanged(format!("{} is {} already", cx.core.key, self.target));
        }
        match self.step {
            Step::AskingMemory => cx.query("query-memory-devices"),
            _ => self.tell(cx),
        }
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (self.step, answer) {
            (Step::AskingMemory, Answer::Returned(devices)) => {
                cx.core.learn_memory(cx.now, &devices, cx.actions);
                self.tell(cx)
            }
            (Step::Telling, Answer::Returned(_)) if cx.core.state == self.target => self.conclude(cx),
            (Step::Telling, Answer::Returned(_)) | (Step::Confirming, Answer::Elapsed) => self.confirm(cx),
            (Step::Telling, Answer::Failed(refusal)) if is_unsure(&refusal) => self.confirm(cx),
            (Step::Confirming, Answer::Returned(status)) => {
                let told_ns = self.told.map_or(cx.now.boottime_ns, |told| told.boottime_ns);
                let gap_ns = cx.now.boottime_ns.saturating_sub(told_ns);
                if status_of(&status) == Some(self.target) {
                    let at = cx.now.uncertain_by(gap_ns);
                    cx.observe(at, Change::State(self.target), self.cause);
                }
                self.conclude(cx)
            }
            (Step::Confirming, Answer::Failed(refusal)) if is_unsure(&refusal) => cx.wait(1_000),
            (_, Answer::Failed(refusal)) => failed(refusal),
            (_, answer) => out_of_place(self.step(), &answer),
        }
    }

    fn claim(&self, event: &str) -> Option<(Cause, BillingState)> {
        let own = if self.target == BillingState::Paused { "STOP" } else { "RESUME" };
        (event == own && self.step != Step::AskingMemory).then_some((self.cause, self.target))
    }

    fn reconnected(&mut self, cx: &mut Context<'_>) -> Flow {
        if self.step == Step::Confirming { self.confirm(cx) } else { Flow::Wait }
    }
}
