//! Destroy: `quit`, and when QEMU does not go, SIGKILL by its pidfd.
//!
//! ```text
//!   AskingMemory ─▶ Quitting ── exit ─▶ done
//!        │ QMP does not answer │ too slow
//!        ▼                     ▼
//!                Killing ── exit ─▶ done
//! ```

use dormouse_metering::{BillingState, Cause, Change};

use super::{Answer, Context, Flow, Procedure, done, out_of_place};
use crate::sandbox::machine::core::{Link, Phase};
use crate::sandbox::machine::{Action, SnapshotRemoval};

#[derive(Debug, Default)]
pub(super) struct Destroy {
    step: Step,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    AskingMemory,
    Quitting,
    Killing,
}

impl Destroy {
    fn kill(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::Killing;
        if let Some(process) = cx.core.process {
            cx.actions.push(Action::Kill(process));
        }
        Flow::Wait
    }

    fn end(&self, cx: &mut Context<'_>) -> Flow {
        let at = cx.core.end_of_process(cx.now);
        let cause = cx.core.memory_cause.clone();
        cx.core.observe_unseen_memory(at, cause, cx.actions);
        cx.observe(at, Change::Ended, Cause::Destroy);
        cx.core.phase = Phase::Ended;
        cx.actions.push(Action::RemoveSnapshot(SnapshotRemoval::Draft));
        let how = if self.step == Step::Killing { " (its QEMU had to be killed)" } else { "" };
        done(format!("{} is destroyed{how}", cx.core.key))
    }
}

impl Procedure for Destroy {
    fn step(&self) -> &'static str {
        match self.step {
            Step::AskingMemory => "asking for the memory",
            Step::Quitting => "quit",
            Step::Killing => "killing QEMU",
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        if cx.core.process.is_none() {
            let at = cx.core.since(cx.now, None);
            cx.observe(at, Change::Ended, Cause::Destroy);
            cx.core.phase = Phase::Ended;
            cx.core.consumed.clone_from(&cx.core.snapshot);
            return done(format!("{} is destroyed", cx.core.key));
        }
        if cx.core.link == Link::Up { cx.query("query-memory-devices") } else { self.kill(cx) }
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (self.step, answer) {
            (Step::AskingMemory, Answer::Returned(devices)) => {
                cx.core.learn_memory(cx.now, &devices, cx.actions);
                self.step = Step::Quitting;
                cx.query("quit")
            }
            (Step::Quitting, Answer::Returned(_)) => cx.wait(cx.core.settings.quit_ms),
            (Step::Quitting | Step::AskingMemory, Answer::Failed(_) | Answer::Elapsed) => self.kill(cx),
            (_, answer) => out_of_place(self.step(), &answer),
        }
    }

    fn claim(&self, event: &str) -> Option<(Cause, BillingState)> {
        (event == "SHUTDOWN").then_some((Cause::Destroy, BillingState::Paused))
    }

    fn expects_exit(&self) -> bool {
        true
    }

    fn exited(&mut self, cx: &mut Context<'_>) -> Flow {
        self.end(cx)
    }
}
