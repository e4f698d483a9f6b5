//! Power-cycle: end QEMU, start its like, and continue the guest from the beginning. The sandbox, its generation and its
//! disks stay.
//!
//! ```text
//!   AskingMemory ─▶ Quitting ── exit ─▶ Starting ─▶ Limiting ─▶ Continuing ─▶ done
//!        │              │ too slow          │           │            │
//!        └──────────▶ Killing ── exit ─▶────┘           │            │
//!                                           ▼           ▼            ▼
//!                                   GivingUp ── exit ─▶ failed: its life has ended
//! ```
//!
//! Between the end of the one QEMU and the `cont` of the other the sandbox is billed as paused: nothing computes and no
//! memory is held, but its disks are there. What was plugged is not any more. Where no QEMU can be started again, its
//! life has ended: so nobody is asked for the memory of the next one, and that of the one before is kept for it.

use dormouse_metering::{BillingState, Cause, Change};

use super::start::{Starting, Turn, ended};
use super::{Answer, Context, Flow, Procedure, cpu_limit, done, failed, out_of_place, status_of};
use crate::process::{CommandLine, ProcessIdentity, repeatable};
use crate::sandbox::facts::Survey;
use crate::sandbox::machine::core::{Core, Link, Phase};
use crate::sandbox::machine::{Action, Announcement, Start};
use crate::sandbox::refusal::{Reason, Refusal};

#[derive(Debug, Default)]
pub(super) struct PowerCycle {
    command_line: Option<CommandLine>,
    step: Step,
    /// Why its CPU time is not limited as it was, in words.
    unlimited: String,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    AskingMemory,
    Quitting,
    Killing,
    Starting(Starting),
    Limiting,
    Continuing,
    GivingUp(Refusal),
}

impl PowerCycle {
    /// One that was interrupted, with its next QEMU found again.
    pub(super) fn to_continue() -> Self {
        Self { step: Step::Continuing, ..Self::default() }
    }

    fn kill(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::Killing;
        cx.actions.extend(cx.core.process.map(Action::Kill));
        Flow::Wait
    }

    /// QEMU is gone, and the next one is started.
    fn start(&mut self, cx: &mut Context<'_>) -> Flow {
        let at = cx.core.end_of_process(cx.now);
        let cause = cx.core.memory_cause.clone();
        cx.core.observe_unseen_memory(at, cause, cx.actions);
        cx.observe(at, Change::State(BillingState::Paused), Cause::PowerCycle);
        cx.observe(at, Change::Requested(0), Cause::PowerCycle);
        cx.observe(at, Change::Plugged(0), Cause::PowerCycle);
        cpu_limit::remember(cx.core);
        // What was missed was missed of a QEMU that is gone.
        (cx.core.shutdown, cx.core.missed) = (None, None);
        let Some(command_line) = self.command_line.take() else {
            return end(cx, Refusal::new(Reason::Bug, "the command line is gone from memory"));
        };
        self.step = Step::Starting(Starting::begin(cx, Start::Again(command_line)));
        Flow::Wait
    }

    fn go_on(&mut self, cx: &mut Context<'_>, survey: &Survey, process: ProcessIdentity) -> Flow {
        cx.core.first_seen(cx.now, survey);
        cx.core.found(cx.now, survey.clone(), process);
        let token = cx.core.token();
        let announcement = Announcement::Reattached(Box::new(survey.clone()), process);
        cx.actions.push(Action::Announce(token, announcement));
        self.limit(cx)
    }

    fn limit(&mut self, cx: &mut Context<'_>) -> Flow {
        if cpu_limit::ask(cx) {
            self.step = Step::Limiting;
            return Flow::Wait;
        }
        self.cont(cx)
    }

    /// The guest has all that the next QEMU can give it, and begins.
    fn cont(&mut self, cx: &mut Context<'_>) -> Flow {
        if let Some(survey) = &cx.core.survey {
            let shape = survey.shape();
            // One that runs already has been limited at some time since that was asked for.
            let at = if cx.core.state == BillingState::Running { cx.since_asked() } else { cx.now };
            cx.observe(at, Change::Holds(shape, cx.core.state), Cause::PowerCycle);
        }
        self.step = Step::Continuing;
        if cx.core.state == BillingState::Running { self.cycled(cx) } else { cx.query("cont") }
    }

    fn cycled(&self, cx: &mut Context<'_>) -> Flow {
        cpu_limit::mark_what_ran_without(cx, Cause::PowerCycle);
        done(format!("{} runs in another QEMU, from the beginning{}", cx.core.key, self.unlimited))
    }

    fn give_up(&mut self, cx: &mut Context<'_>, refusal: Refusal) -> Flow {
        let Some(process) = cx.core.process else { return end(cx, refusal) };
        self.step = Step::GivingUp(refusal);
        cx.core.link = Link::None;
        cx.actions.extend([Action::Disconnect, Action::Kill(process)]);
        Flow::Wait
    }
}

/// There is no QEMU, and none can be started.
fn end(cx: &mut Context<'_>, why: Refusal) -> Flow {
    cx.observe(cx.now, Change::Ended, Cause::PowerCycle);
    (cx.core.phase, cx.core.link) = (Phase::Ended, Link::None);
    failed(Refusal { message: format!("{}; {} has ended", why.message, cx.core.key), ..why })
}

/// The command line to start again, where another process can be started by it.
fn again(cx: &Context<'_>) -> Result<CommandLine, Refusal> {
    let why = match cx.core.survey.as_ref().map(|survey| &survey.command_line) {
        Some(Ok(line)) => match repeatable(&line.argv) {
            Ok(()) => return Ok(line.clone()),
            Err(why) => why.join("; "),
        },
        Some(Err(why)) => why.clone(),
        None => "QEMU has not been asked yet".to_owned(),
    };
    let message = format!("the QEMU of {} cannot be started again: {why}; nothing was changed", cx.core.key);
    Err(Refusal::new(Reason::NotRepeatable, message))
}

impl Procedure for PowerCycle {
    fn step(&self) -> &'static str {
        match &self.step {
            Step::AskingMemory => "asking for the memory",
            Step::Quitting => "quit",
            Step::Killing => "killing QEMU",
            Step::Starting(starting) => starting.step(),
            Step::Limiting => "limiting CPU time",
            Step::Continuing => "cont",
            Step::GivingUp(_) => "ending the QEMU that could not be found again",
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        if let Step::Continuing = self.step {
            return self.limit(cx);
        }
        match again(cx) {
            Ok(command_line) => self.command_line = Some(command_line),
            Err(refusal) => return failed(refusal),
        }
        cx.actions.push(Action::KeepMemory(cx.core.shape.memory_base_bytes));
        cx.query("query-memory-devices")
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (&mut self.step, answer) {
            (Step::AskingMemory, Answer::Returned(devices)) => {
                cx.learn_last_memory(&devices);
                self.step = Step::Quitting;
                cx.query("quit")
            }
            (Step::Quitting, Answer::Returned(_)) => cx.wait(cx.core.settings.quit_ms),
            (Step::AskingMemory | Step::Quitting, Answer::Failed(_) | Answer::Elapsed) => self.kill(cx),
            (Step::Starting(starting), answer) => match starting.answer(cx, answer) {
                Turn::Wait => Flow::Wait,
                Turn::Answers(survey, process) => self.go_on(cx, &survey, process),
                Turn::Failed(refusal) => self.give_up(cx, refusal),
            },
            (Step::Limiting, answer) => {
                self.unlimited = cpu_limit::answered(cx, answer);
                self.cont(cx)
            }
            (Step::Continuing, Answer::Returned(status)) => match status_of(&status) {
                None if cx.core.state == BillingState::Running => self.cycled(cx),
                None => cx.query("query-status"),
                Some(BillingState::Running) => {
                    cx.observe(cx.since_asked(), Change::State(BillingState::Running), Cause::PowerCycle);
                    self.cycled(cx)
                }
                Some(state) => failed(Refusal::new(
                    Reason::QemuFailed,
                    format!("QEMU was started again, but the guest of {} is {state}: resume it", cx.core.key),
                )),
            },
            (Step::Continuing, Answer::Failed(refusal)) => failed(refusal),
            (_, answer) => out_of_place(self.step(), &answer),
        }
    }

    fn claim(&self, event: &str) -> Option<(Cause, BillingState)> {
        match (event, &self.step) {
            ("RESUME", Step::Continuing) => Some((Cause::PowerCycle, BillingState::Running)),
            ("SHUTDOWN", Step::Quitting | Step::Killing) => Some((Cause::PowerCycle, BillingState::Paused)),
            _ => None,
        }
    }

    fn may_be_overtaken(&self, _core: &Core) -> bool {
        // Which process is being started is not known yet: a destroy would leave it behind.
        !matches!(self.step, Step::Starting(Starting::Launching))
    }

    fn expects_exit(&self) -> bool {
        !matches!(self.step, Step::Continuing)
    }

    fn exited(&mut self, cx: &mut Context<'_>) -> Flow {
        *cx.waiting = None;
        match std::mem::take(&mut self.step) {
            Step::GivingUp(refusal) => end(cx, refusal),
            Step::Starting(_) | Step::Limiting => {
                let why = ended(cx, "it could be found again");
                end(cx, why)
            }
            _ => self.start(cx),
        }
    }
}
