//! The middle of every command: what is done between the durable intent and the durable outcome.
//!
//! One file per command. Each is a small state machine of its own: an enum of steps, one answer awaited at a
//! time. What all of them share is here.

mod attach;
pub(super) mod cpu_limit;
mod create;
mod destroy;
mod detach;
mod hibernate;
mod power_cycle;
mod reboot;
mod run_state;
mod scale;
mod start;
mod suppress;
mod transfer;
mod wake;

use std::fmt::Debug;

pub(in crate::sandbox) use transfer::internal_tag;

use dormouse_metering::{BillingState, Cause, Change, CommandId, RunState, Stamp};
use serde_json::{Value, json};

use super::core::Core;
use super::{Action, Announcement, Answer, QemuEvent, QmpCommand, Token};
use crate::sandbox::command::{Command, CommandResult, Outcome, Request};
use crate::sandbox::refusal::{Reason, Refusal};

/// A command's own state machine.
pub(super) type Operation = Box<dyn Procedure>;

/// Whether an operation goes on.
#[derive(Debug)]
pub(super) enum Flow {
    /// It waits for an answer, an event or the exit.
    Wait,
    /// It is done, and this came of it.
    Done(Result<Outcome, Refusal>),
}

/// What a command does at each turn.
pub(super) trait Procedure: Debug + Send {
    /// What it is doing now, for people.
    fn step(&self) -> &'static str;

    /// The intent is being recorded: asks already now what it would ask first. It tells QEMU nothing.
    fn ask_ahead(&mut self, _cx: &mut Context<'_>) {}

    /// What was asked ahead is answered, and the intent is not durable yet.
    fn answered_ahead(&mut self, _cx: &mut Context<'_>, _answer: &Answer) {}

    /// The intent is durable. What was asked ahead and has no answer yet is waited for.
    fn begin(&mut self, cx: &mut Context<'_>) -> Flow;

    /// The answer that it waits for.
    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow;

    /// An event of QEMU, already folded into the core.
    fn event(&mut self, _cx: &mut Context<'_>, _event: &QemuEvent) -> Flow {
        Flow::Wait
    }

    /// Whether it has brought about this event, and as what the event is to be billed.
    fn claim(&self, _event: &str) -> Option<(Cause, BillingState)> {
        None
    }

    /// Whether a destroy may take its place now: not while it waits for something that must not be lost.
    fn may_be_overtaken(&self, _core: &Core) -> bool {
        true
    }

    /// QMP is gone.
    fn disconnected(&mut self, _cx: &mut Context<'_>) -> Flow {
        Flow::Wait
    }

    /// QMP answers again.
    fn reconnected(&mut self, _cx: &mut Context<'_>) -> Flow {
        Flow::Wait
    }

    /// Whether the exit of QEMU is what it waits for.
    fn expects_exit(&self) -> bool {
        false
    }

    /// The exit that it expects.
    fn exited(&mut self, _cx: &mut Context<'_>) -> Flow {
        Flow::Wait
    }
}

/// Takes back a hibernation that a restart of the agent has interrupted.
pub(super) fn undo_hibernation(ran: bool, why: Refusal) -> Operation {
    Box::new(hibernate::Hibernate::to_undo(ran, why))
}

/// Finds out whether a wake that a restart of the agent has interrupted came to its end.
pub(super) fn reclaim_wake(cold: bool, why: Refusal) -> Operation {
    Box::new(wake::Wake::to_reclaim(cold, why))
}

/// Goes on with a create that a restart of the agent has interrupted, its QEMU found again.
pub(super) fn go_on_creating() -> Operation {
    Box::new(create::Create::to_go_on())
}

/// Goes on with a power-cycle that a restart of the agent has interrupted, its next QEMU found again.
pub(super) fn go_on_cycling() -> Operation {
    Box::new(power_cycle::PowerCycle::to_continue())
}

/// The operation that carries out a request.
pub(super) fn of(request: &Request) -> Operation {
    match request {
        Request::Attach { .. } => Box::new(attach::Attach::Connecting),
        Request::Detach => Box::new(detach::Detach),
        Request::Scale(scaling) => Box::new(scale::Scale::new(scaling.clone())),
        Request::Pause { reclaim } => Box::new(run_state::SetRunState::pause(*reclaim)),
        Request::Resume { prefetch } => Box::new(run_state::SetRunState::resume(*prefetch)),
        Request::Hibernate { method } => Box::new(hibernate::Hibernate::new(*method)),
        Request::Wake { cold } => Box::new(wake::Wake::new(*cold)),
        Request::Suppress { reason } => Box::new(suppress::SetSuppression::to(Some(reason.clone()))),
        Request::Unsuppress => Box::new(suppress::SetSuppression::to(None)),
        Request::Reboot => Box::new(reboot::Reboot::default()),
        Request::Destroy { graceful_ms } => Box::new(destroy::Destroy::new(*graceful_ms)),
        Request::Create { spec, .. } => Box::new(create::Create::new(spec)),
        Request::PowerCycle => Box::new(power_cycle::PowerCycle::default()),
    }
}

/// What an operation sees and may do.
pub(super) struct Context<'a> {
    pub(super) now: Stamp,
    pub(super) core: &'a mut Core,
    pub(super) command: &'a Command,
    pub(super) actions: &'a mut Vec<Action>,
    pub(super) waiting: &'a mut Option<Token>,
}

impl Context<'_> {
    /// Asks for an action and waits for its answer.
    fn ask(&mut self, action: impl FnOnce(Token) -> Action) -> Flow {
        let token = self.core.token();
        *self.waiting = Some(token);
        self.actions.push(action(token));
        Flow::Wait
    }

    fn qmp(&mut self, name: &'static str, arguments: Value) -> Flow {
        self.ask(|token| Action::Qmp(token, QmpCommand { name, arguments }))
    }

    fn query(&mut self, name: &'static str) -> Flow {
        self.qmp(name, json!({}))
    }

    fn wait(&mut self, ms: u64) -> Flow {
        self.ask(|token| Action::Wait(token, ms))
    }

    fn announce(&mut self, announcement: Announcement) -> Flow {
        self.ask(|token| Action::Announce(token, announcement))
    }

    /// This command as a cause.
    fn cause(&self, cause: Cause) -> (Cause, Option<CommandId>) {
        (cause, Some(CommandId::new(&self.command.request_id)))
    }

    /// Tells the meter, with this command as the cause.
    fn observe(&mut self, at: Stamp, change: Change, cause: Cause) {
        let cause = self.cause(cause);
        self.core.observe(at, change, cause, self.actions);
    }

    /// Takes the memory that was asked for before the guest is told to stop or QEMU to go, and that the guest ran then.
    fn learn_last_memory(&mut self, devices: &Value) {
        self.core.learn_memory(self.now, devices, self.actions);
        self.core.observe_still_running(self.actions);
    }

    /// Now, uncertain since what has been answered was asked for.
    fn since_asked(&self) -> Stamp {
        self.core.since(self.now, self.core.answered)
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        self.core.progress = (done_bytes, total_bytes);
        self.actions.push(Action::Publish(super::Notice::Progress));
    }
}

fn done(message: impl Into<String>) -> Flow {
    Flow::Done(Ok(Outcome { result: CommandResult::Done, message: message.into() }))
}

fn unchanged(message: impl Into<String>) -> Flow {
    Flow::Done(Ok(Outcome { result: CommandResult::Unchanged, message: message.into() }))
}

fn failed(refusal: Refusal) -> Flow {
    Flow::Done(Err(refusal))
}

/// An answer that this step cannot have: the shell and the machine disagree.
fn out_of_place(step: &str, answer: &Answer) -> Flow {
    failed(Refusal::new(Reason::Bug, format!("unexpected answer while {step}: {answer:?}")))
}

/// Whether QEMU may have done what it was told, though it did not say so.
pub(super) fn is_unsure(refusal: &Refusal) -> bool {
    matches!(refusal.reason, Reason::OutcomeUnknown | Reason::QmpUnreachable)
}

/// The billing state behind what `query-status` returned.
pub(super) fn status_of(returned: &Value) -> Option<BillingState> {
    RunState::parse(returned.get("status")?.as_str()?).map(RunState::billing_state)
}

/// An operation that has nothing to do, in the place of one that has moved on.
pub(super) fn none() -> Operation {
    Box::new(detach::Detach)
}
