//! Create: ask for the host's memory, start QEMU standing still, attach it, record its life, and continue the guest.
//!
//! ```text
//!   Promising ─▶ Starting ─▶ Recording ── durable ─▶ Continuing ─▶ done
//!       │            │           │                        │
//!       │            ▼           ▼                        ▼
//!       │         GivingUp ◀─────┘           failed, attached and paused
//!       ▼            │ exit
//!     failed ◀───────┘
//!     nothing is left
//! ```
//!
//! The guest runs only once its life is durable, so that no moment of it is missing from the bill: its first slice is
//! one that stands, for the milliseconds in between.

use dormouse_metering::{BillingState, Cause, Change, RunState};

use super::attach::{begun, listen};
use super::start::{Starting, Turn, ended};
use super::{Answer, Context, Flow, Procedure, done, failed, out_of_place, status_of};
use crate::process::ProcessIdentity;
use crate::sandbox::facts::Survey;
use crate::sandbox::machine::core::{Core, Link, Phase};
use crate::sandbox::machine::{Action, Announcement, Start};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::spec::SandboxSpec;

#[derive(Debug)]
pub(super) struct Create {
    /// What to start; none where it was started before the agent was.
    spec: Option<SandboxSpec>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Has the host memory for it?
    Promising(SandboxSpec),
    Starting(Starting),
    Recording,
    Continuing,
    GivingUp(Refusal),
}

impl Create {
    pub(super) fn new(spec: &SandboxSpec) -> Self {
        Self { spec: Some(spec.clone()), step: Step::Starting(Starting::Launching) }
    }

    /// One that was interrupted, with its QEMU found again.
    pub(super) fn to_go_on() -> Self {
        Self { spec: None, step: Step::Starting(Starting::Launching) }
    }

    fn record(&mut self, cx: &mut Context<'_>, survey: Box<Survey>, process: ProcessIdentity) -> Flow {
        let shape = survey.shape();
        let state = survey.folded().map_or(BillingState::Paused, RunState::billing_state);
        cx.core.first_seen(cx.now, &survey);
        cx.core.found(cx.now, *survey.clone(), process);
        (cx.core.shape, cx.core.state) = (shape, state);
        self.step = Step::Recording;
        let (command, at) = (cx.command.clone(), cx.now);
        cx.announce(Announcement::Attached { command, survey, process, at, shape, state })
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Flow {
        if cx.core.state == BillingState::Running {
            return created(cx);
        }
        self.step = Step::Continuing;
        cx.query("cont")
    }

    /// What was started goes, and nothing is left of the sandbox.
    fn give_up(&mut self, cx: &mut Context<'_>, refusal: Refusal) -> Flow {
        cx.core.link = Link::None;
        let Some(process) = cx.core.process else { return failed(refusal) };
        self.step = Step::GivingUp(refusal);
        cx.actions.extend([Action::Disconnect, Action::Kill(process)]);
        Flow::Wait
    }
}

fn created(cx: &Context<'_>) -> Flow {
    done(format!("{} is created and runs", cx.core.key))
}

impl Procedure for Create {
    fn step(&self) -> &'static str {
        match &self.step {
            Step::Promising(_) => "asking for the host's memory",
            Step::Starting(starting) => starting.step(),
            Step::Recording => "recording the sandbox",
            Step::Continuing => "cont",
            Step::GivingUp(_) => "ending the QEMU that could not be attached",
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        if cx.core.phase == Phase::Attached {
            return self.go_on(cx);
        }
        let Some(spec) = self.spec.take() else {
            self.step = Step::Starting(Starting::found(cx));
            return Flow::Wait;
        };
        let wanted_bytes = spec.memory_bytes;
        self.step = Step::Promising(spec);
        cx.ask(|token| Action::PromiseMemory(token, wanted_bytes))
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (&mut self.step, answer) {
            (Step::Promising(spec), Answer::Promised) => {
                self.step = Step::Starting(Starting::begin(cx, Start::New(spec.clone())));
                Flow::Wait
            }
            (Step::Promising(_), Answer::Failed(refusal)) => failed(refusal),
            (Step::Starting(starting), answer) => match starting.answer(cx, answer) {
                Turn::Wait => Flow::Wait,
                Turn::Answers(survey, process) => self.record(cx, survey, process),
                Turn::Failed(refusal) => self.give_up(cx, refusal),
            },
            (Step::Recording, Answer::Recorded(generation)) => {
                begun(cx, generation);
                if cx.core.process.is_none() {
                    cx.core.died(cx.now, cx.actions);
                    return failed(ended(cx, "its guest ran"));
                }
                listen(cx);
                self.go_on(cx)
            }
            (Step::Recording, Answer::Failed(refusal)) => self.give_up(cx, refusal),
            (Step::Continuing, Answer::Returned(status)) => match status_of(&status) {
                None if cx.core.state == BillingState::Running => created(cx),
                None => cx.query("query-status"),
                Some(BillingState::Running) => {
                    cx.observe(cx.since_asked(), Change::State(BillingState::Running), Cause::Create);
                    created(cx)
                }
                Some(state) => failed(Refusal::new(
                    Reason::QemuFailed,
                    format!("{} is attached, but its guest is {state}: resume or destroy it", cx.core.key),
                )),
            },
            (Step::Continuing, Answer::Failed(refusal)) => failed(Refusal {
                message: format!("{} is attached; continuing it: {}", cx.core.key, refusal.message),
                ..refusal
            }),
            (_, answer) => out_of_place(self.step(), &answer),
        }
    }

    fn claim(&self, event: &str) -> Option<(Cause, BillingState)> {
        let continued = event == "RESUME" && matches!(self.step, Step::Continuing);
        continued.then_some((Cause::Create, BillingState::Running))
    }

    fn may_be_overtaken(&self, _core: &Core) -> bool {
        false
    }

    fn expects_exit(&self) -> bool {
        true
    }

    fn exited(&mut self, cx: &mut Context<'_>) -> Flow {
        match std::mem::replace(&mut self.step, Step::Recording) {
            Step::GivingUp(refusal) => failed(refusal),
            // Its life is being recorded: what has become of it shows when that is answered.
            Step::Recording => Flow::Wait,
            Step::Continuing => {
                cx.core.died(cx.now, cx.actions);
                failed(ended(cx, "its guest ran"))
            }
            Step::Promising(_) | Step::Starting(_) => failed(ended(cx, "it could be attached")),
        }
    }
}
