//! Destroy: the power button, where the guest is to be asked; `quit`; and when QEMU does not go, SIGKILL by its pidfd.
//!
//! ```text
//!   (graceful) PoweringDown ── exit ─▶ done
//!                   │ too slow, stands, or cannot be asked
//!                   ▼
//!   AskingMemory ─▶ Quitting ── exit ─▶ done
//!        │ QMP does not answer │ too slow
//!        ▼                     ▼
//!                Killing ── exit ─▶ done
//! ```
//!
//! While it is given time the guest runs, and is billed.

use dormouse_metering::{BillingState, Cause, Change};

use super::{Answer, Context, Flow, Procedure, done, out_of_place};
use crate::sandbox::machine::core::{Link, Phase};
use crate::sandbox::machine::sight::reaching_back;
use crate::sandbox::machine::{Action, QemuEvent, SnapshotRemoval};

#[derive(Debug)]
pub(super) struct Destroy {
    step: Step,
    /// How long the guest may take to power itself off, where it is asked.
    graceful_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    PoweringDown,
    AskingMemory,
    Quitting,
    Killing,
}

impl Destroy {
    pub(super) fn new(graceful_ms: Option<u64>) -> Self {
        Self { step: Step::AskingMemory, graceful_ms }
    }

    /// A guest that stands hears nothing.
    fn ask_guest(&mut self, cx: &mut Context<'_>) -> Flow {
        if self.graceful_ms.is_none() || cx.core.state != BillingState::Running {
            return self.quit(cx);
        }
        self.step = Step::PoweringDown;
        cx.query("system_powerdown")
    }

    /// A size event that is still on its way would come too late: the memory is asked for first.
    fn quit(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::AskingMemory;
        if cx.core.link == Link::Up { cx.query("query-memory-devices") } else { self.kill(cx) }
    }

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
        if let Some(ran) = cx.core.continued.take().filter(|_| cx.core.state == BillingState::Waking) {
            // Somebody else had continued it while it was woken: that is not billed, and not certain.
            cx.observe(reaching_back(at, ran), Change::Mark, Cause::Destroy);
        }
        cx.observe(at, Change::Ended, Cause::Destroy);
        cx.core.phase = Phase::Ended;
        cx.actions.push(Action::RemoveSnapshot(SnapshotRemoval::Draft));
        // One that was being loaded, or was complete before its QEMU had gone.
        cx.core.consumed.clone_from(&cx.core.snapshot);
        done(format!("{} is destroyed{}", cx.core.key, self.how()))
    }

    fn how(&self) -> String {
        match (self.step, self.graceful_ms) {
            (Step::PoweringDown, _) => " (its guest powered itself off)".to_owned(),
            (Step::Killing, _) => " (its QEMU had to be killed)".to_owned(),
            (_, Some(ms)) => format!(" (its guest did not power itself off within {ms} ms)"),
            (_, None) => String::new(),
        }
    }
}

impl Procedure for Destroy {
    fn step(&self) -> &'static str {
        match self.step {
            Step::PoweringDown => "waiting for the guest to power itself off",
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
        if cx.core.link == Link::Up { self.ask_guest(cx) } else { self.kill(cx) }
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (self.step, answer) {
            (Step::PoweringDown, Answer::Returned(_)) => cx.wait(self.graceful_ms.unwrap_or_default()),
            (Step::PoweringDown, Answer::Failed(_) | Answer::Elapsed) => self.quit(cx),
            (Step::AskingMemory, Answer::Returned(devices)) => {
                cx.learn_last_memory(&devices);
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

    fn event(&mut self, cx: &mut Context<'_>, event: &QemuEvent) -> Flow {
        // QEMU with -no-shutdown stands once the guest is off, and is to be told to go.
        let stands = event.name == "STOP" && cx.core.shutdown.is_some();
        if self.step == Step::PoweringDown && stands { self.quit(cx) } else { Flow::Wait }
    }

    fn expects_exit(&self) -> bool {
        true
    }

    fn exited(&mut self, cx: &mut Context<'_>) -> Flow {
        self.end(cx)
    }
}
