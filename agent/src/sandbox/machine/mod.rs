//! What a sandbox is and what it does next: a pure state machine.
//!
//! [`Sandbox::step`] takes the time and an [`Input`] and returns [`Action`]s; nothing here does IO, reads a
//! clock or awaits. The shell in `sandbox::actor` carries the actions out and answers each by its token.
//!
//! ```text
//!        attach, create                   hibernate: saved, QEMU gone
//!   New ───────────────▶ Attached ───────────────────────────────────▶ Hibernated
//!                         │  ▲ │ ▲                                        │   │
//!       STOP, RESUME,     │  │ │ └────────────────────────────────────────┘   │
//!       faults, sizes,    └──┘ │            wake: loaded, continued           │
//!       power-cycle            │                                              │
//!                              │                                              │
//!                              └──────────────────▶ Ended ◀───────────────────┘
//!                               exit, destroy, detach          destroy
//! ```
//!
//! Every command runs through the same three stages, and only the middle one differs by command (one file
//! each in `operations/`):
//!
//! ```text
//!   Intending ── durable ──▶ Working ── done, failed ──▶ Concluding ── durable ──▶ reply
//!       │ not durable           │ a destroy takes its place
//!       ▼                       ▼
//!    refused                Overtaken
//! ```
//!
//! A destroy that overtakes takes that place once its own intent is durable, and not before: what it would give up goes on
//! until then, and for good where the ledger refuses it (`overtaking`).
//!
//! While the intent is being recorded QEMU is told nothing. It may be asked (`Procedure::ask_ahead`): a question
//! changes nothing there, and its answer is waited for at the same time as the disk.
//!
//! Who may begin what is the table in [`admission`]; what QEMU's events mean is in `events`; losing and
//! finding QEMU again is in `contact`; since when anything learned of it may be so is in `sight`.

mod action;
pub mod admission;
mod contact;
mod core;
mod events;
mod guest_memory;
mod input;
mod memory;
mod operations;
mod overtaking;
mod recovery;
mod sight;
mod sizes;

#[cfg(test)]
mod tests;

pub use action::{Action, Announcement, Check, Launch, Notice, QmpCommand, SnapshotRemoval, Start, Token};
pub use core::{Core, Link, Phase, Settings};
pub use input::{Answer, Input, QemuEvent};
pub(super) use operations::internal_tag;
pub use recovery::{LastSign, Recovered};

use dormouse_metering::{CommandId, Stamp};

use self::admission::Verdict;
use self::events::Claim;
use self::operations::{Context, Flow, Operation, Procedure};
use self::overtaking::Overtaker;
use super::command::{Command, CommandResult, Outcome, Request};
use super::refusal::{Reason, Refusal};
use super::snapshot::Manifest;

/// One sandbox. What it has only now and then is boxed: there are thousands of idle ones.
#[derive(Debug)]
pub struct Sandbox {
    core: Core,
    underway: Option<Box<Underway>>,
    /// A destroy that is to take its place.
    overtaker: Option<Box<Overtaker>>,
    /// After a restart: a snapshot that is complete though the sandbox is not hibernated.
    saved: Option<Box<Manifest>>,
    /// After a restart: whether the guest ran when the unfinished command began.
    ran: bool,
    /// QEMU's process is gone, and what it sent before has not all arrived.
    exit_seen: bool,
    /// Commands that a destroy overtook while their outcome was being recorded.
    outgoing: Vec<(Token, Command, Result<Outcome, Refusal>)>,
}

/// A command between its intent and its outcome.
#[derive(Debug)]
struct Underway {
    command: Command,
    stage: Stage,
    /// The one answer that the command waits for.
    waiting: Option<Token>,
    /// What was asked of QEMU while the intent is being recorded.
    asked_ahead: Option<Token>,
}

#[derive(Debug)]
enum Stage {
    Intending(Operation),
    Working(Operation),
    Concluding(Result<Outcome, Refusal>),
    /// The agent was restarted in the middle: what became of the command shows when QEMU is found, or gone.
    Recovering,
}

impl Sandbox {
    /// A sandbox of which nothing is known yet but where its QMP socket is.
    pub fn new(core: Core) -> Self {
        Self {
            core,
            underway: None,
            overtaker: None,
            saved: None,
            ran: false,
            exit_seen: false,
            outgoing: Vec::new(),
        }
    }

    /// What is known of the sandbox.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The command under way, and what it is doing now.
    pub fn underway(&self) -> Option<(&Command, &'static str)> {
        let underway = self.underway.as_ref()?;
        let step = match &underway.stage {
            Stage::Intending(_) => "recording the intent",
            Stage::Working(operation) => operation.step(),
            Stage::Concluding(_) => "recording the outcome",
            Stage::Recovering => "finding out what became of it",
        };
        Some((&underway.command, step))
    }

    /// Takes one input at a time and says what is to be done.
    pub fn step(&mut self, now: Stamp, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        self.core.now = Some(now);
        match input {
            Input::Command(command) => self.command(now, command, &mut actions),
            Input::Answer(token, answer) => self.answer(now, token, answer, &mut actions),
            Input::Event(event) if self.core.link == Link::Up => {
                let claim = self.claim(&event);
                self.core.event(&event, claim, &mut actions);
                self.work(now, &mut actions, |operation, cx| operation.event(cx, &event));
            }
            // A connection that was given up: what it has still to tell is older than what is asked over the next one, and a
            // RESUME among it would make that answer seem overtaken.
            Input::Event(_) => {}
            Input::Gap if self.core.is_over() => self.core.miss(now),
            Input::Gap => self.core.resync(now, &mut actions),
            Input::Disconnected if self.exit_seen => {
                self.core.heard_to_the_end(now);
                self.exited(now, &mut actions);
            }
            Input::Disconnected => {
                self.core.disconnected(now, &mut actions);
                self.work(now, &mut actions, |operation, cx| operation.disconnected(cx));
            }
            Input::Slept(ns) => self.core.slept(now, ns),
            Input::LastWords(words) => self.core.last_words = Some(words),
            // What QEMU said at the last, when it shut down above all, comes before the end of its connection.
            Input::Exited if self.core.link == Link::Up => self.exit_seen = true,
            Input::Exited => self.exited(now, &mut actions),
        }
        if self.exit_seen && self.core.link != Link::Up {
            // The connection was given up meanwhile: nobody tells of its end.
            self.exited(now, &mut actions);
        }
        self.let_overtake(now, &mut actions);
        actions
    }

    /// What the operation under way says of an event that it has brought about.
    fn claim(&self, event: &QemuEvent) -> Option<Claim> {
        let underway = self.underway.as_ref()?;
        let Stage::Working(operation) = &underway.stage else { return None };
        let (cause, state) = operation.claim(&event.name)?;
        Some(Claim { cause, command: CommandId::new(&underway.command.request_id), state })
    }

    fn command(&mut self, now: Stamp, command: Command, actions: &mut Vec<Action>) {
        match self.admit(&command) {
            Verdict::Join => {}
            Verdict::Deny(refusal) => actions.push(Action::Refuse(command.request_id, refusal)),
            Verdict::Accept => self.begin(now, command, actions),
            Verdict::Overtake => self.prepare_to_overtake(now, command, actions),
        }
    }

    fn begin(&mut self, now: Stamp, command: Command, actions: &mut Vec<Action>) {
        let mut operation = operations::of(&command.request);
        if let Request::Attach { .. } = command.request {
            // Attaching changes nothing in QEMU, and until QEMU has answered there is nothing to record.
            let stage = Stage::Working(operation);
            self.underway = Some(Box::new(Underway { command, stage, waiting: None, asked_ahead: None }));
            return self.work(now, actions, |operation, cx| operation.begin(cx));
        }
        let token = self.intend(now, &command, actions);
        let (mut asked_ahead, core) = (None, &mut self.core);
        let waiting = &mut asked_ahead;
        operation.ask_ahead(&mut Context { now, core, command: &command, actions, waiting });
        let stage = Stage::Intending(operation);
        self.underway = Some(Box::new(Underway { command, stage, waiting: Some(token), asked_ahead }));
    }

    /// Announces a command: what it is for is done once that is durable.
    fn intend(&mut self, now: Stamp, command: &Command, actions: &mut Vec<Action>) -> Token {
        let token = self.core.token();
        actions.push(Action::Announce(token, Announcement::Before(command.clone(), now, self.core.state)));
        token
    }

    fn answer(&mut self, now: Stamp, token: Token, mut answer: Answer, actions: &mut Vec<Action>) {
        self.core.note_answered(now, token);
        if let Answer::Surveyed(survey, _) = &mut answer {
            self.core.keep_vcpu_limit(survey);
        }
        if let Some(index) = self.outgoing.iter().position(|(awaited, ..)| *awaited == token) {
            let (_, command, result) = self.outgoing.remove(index);
            let result = if let Answer::Failed(refusal) = answer { Err(refusal) } else { result };
            actions.push(Action::Reply(command.request_id, result));
            return self.retire(actions);
        }
        let Some(answer) = self.answer_overtaker(token, answer, actions) else { return };
        if self.core.answer(now, token, &answer, actions) {
            self.recover(now, actions);
            self.work(now, actions, |operation, cx| operation.reconnected(cx));
            return;
        }
        self.recover_unreachable(now, actions);
        if self.answered_ahead(now, token, &answer, actions) {
            return;
        }
        let Some(underway) = self.underway.as_mut().filter(|underway| underway.waiting == Some(token)) else {
            return;
        };
        underway.waiting = None;
        match (&mut underway.stage, answer) {
            (Stage::Intending(operation), Answer::Durable) => {
                let operation = std::mem::replace(operation, operations::none());
                underway.stage = Stage::Working(operation);
                underway.waiting = underway.asked_ahead.take();
                if self.core.phase != Phase::New {
                    actions.push(Action::Publish(Notice::Before(underway.command.request.clone())));
                }
                self.set_out(now, actions);
            }
            (Stage::Intending(_), Answer::Replayed(stored)) => {
                self.give_up(actions, |id| Action::Replay(id, stored));
            }
            (Stage::Intending(_), Answer::Failed(refusal)) => {
                self.give_up(actions, |id| Action::Reply(id, Err(refusal)));
            }
            (Stage::Concluding(_), Answer::Failed(refusal)) => self.reply(Err(refusal), actions),
            (Stage::Intending(_) | Stage::Recovering, _) => {}
            // The process is gone and the end of its connection on its way: that is what the command comes to.
            (Stage::Working(_), Answer::Failed(refusal))
                if self.exit_seen && operations::is_unsure(&refusal) => {}
            (Stage::Working(_), answer) => {
                self.work(now, actions, |operation, cx| operation.answer(cx, answer));
            }
            (Stage::Concluding(result), _) => {
                let result = result.clone();
                if let Some(manifest) = self.core.consumed.take() {
                    let removal = SnapshotRemoval::Consumed(manifest);
                    actions.push(Action::RemoveSnapshot(removal));
                }
                self.reply(result, actions);
            }
        }
    }

    /// The intent is durable: begins what it is for, unless the sandbox has ended meanwhile.
    fn set_out(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        let Some(underway) = &self.underway else { return };
        if self.core.phase == Phase::Ended {
            let result = ended_before(&underway.command.request, &self.core);
            return self.conclude(now, result, actions);
        }
        self.work(now, actions, |operation, cx| operation.begin(cx));
    }

    /// Takes the answer to what was asked while the intent is still being recorded. False where that is another one.
    fn answered_ahead(
        &mut self,
        now: Stamp,
        token: Token,
        answer: &Answer,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(Underway { command, stage: Stage::Intending(operation), asked_ahead, .. }) =
            self.underway.as_deref_mut()
        else {
            return false;
        };
        if asked_ahead.take_if(|asked| *asked == token).is_none() {
            return false;
        }
        let core = &mut self.core;
        operation.answered_ahead(&mut Context { now, core, command, actions, waiting: asked_ahead }, answer);
        true
    }

    /// Lets the operation under way go on, and concludes it when it says that it is done.
    fn work(
        &mut self,
        now: Stamp,
        actions: &mut Vec<Action>,
        go_on: impl FnOnce(&mut dyn Procedure, &mut Context<'_>) -> Flow,
    ) {
        let Some(underway) = self.underway.as_mut() else { return };
        let Stage::Working(operation) = &mut underway.stage else { return };
        let mut cx = Context {
            now,
            core: &mut self.core,
            command: &underway.command,
            actions,
            waiting: &mut underway.waiting,
        };
        if let Flow::Done(result) = go_on(operation.as_mut(), &mut cx) {
            self.conclude(now, result, actions);
        }
    }

    fn conclude(&mut self, now: Stamp, result: Result<Outcome, Refusal>, actions: &mut Vec<Action>) {
        let Some(underway) = self.underway.as_mut() else { return };
        if matches!(underway.command.request, Request::Attach { .. }) {
            // The attach was recorded with its outcome, or there is nothing to record.
            return self.reply(result, actions);
        }
        let token = self.core.token();
        let after = Announcement::After(underway.command.clone(), now, result.clone());
        underway.waiting = Some(token);
        underway.stage = Stage::Concluding(result);
        actions.push(Action::Announce(token, after));
    }

    /// Nothing of the command under way was begun, and nothing is: nobody but who asked for it is told.
    fn give_up(&mut self, actions: &mut Vec<Action>, tell: impl FnOnce(String) -> Action) {
        let Some(underway) = self.underway.take() else { return };
        actions.push(tell(underway.command.request_id));
        self.retire(actions);
    }

    fn reply(&mut self, result: Result<Outcome, Refusal>, actions: &mut Vec<Action>) {
        let Some(underway) = self.underway.take() else { return };
        reply_to(underway.command, result, actions);
        self.retire(actions);
    }

    /// Its life is over, and nobody waits for an answer.
    fn retire(&self, actions: &mut Vec<Action>) {
        let rests = self.underway.is_none() && self.overtaker.is_none() && self.outgoing.is_empty();
        if rests && self.core.is_over() {
            actions.extend([Action::Publish(Notice::Ended), Action::Retire]);
        }
    }

    fn exited(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        self.exit_seen = false;
        self.core.process_gone();
        if self.recover_without_process(now, actions) {
            return;
        }
        let operation_ends_it = matches!(
            self.underway.as_ref().map(|underway| &underway.stage),
            Some(Stage::Working(operation)) if operation.expects_exit()
        );
        if operation_ends_it {
            return self.work(now, actions, |operation, cx| operation.exited(cx));
        }
        self.core.died(now, actions);
        let refusal = Refusal::new(Reason::QemuDied, "QEMU ended while the command was under way");
        match self.underway.as_mut().map(|underway| &underway.stage) {
            Some(Stage::Working(_)) => self.conclude(now, Err(refusal), actions),
            Some(Stage::Intending(_) | Stage::Concluding(_) | Stage::Recovering) => {}
            None => self.retire(actions),
        }
    }
}

/// Tells those who watch, and whoever asked.
fn reply_to(command: Command, result: Result<Outcome, Refusal>, actions: &mut Vec<Action>) {
    let message = match &result {
        Ok(outcome) => outcome.message.clone(),
        Err(refusal) => refusal.to_string(),
    };
    actions.push(Action::Publish(Notice::After(command.request, message)));
    actions.push(Action::Reply(command.request_id, result));
}

/// What becomes of a command whose sandbox ended while its intent was being recorded.
fn ended_before(request: &Request, core: &Core) -> Result<Outcome, Refusal> {
    match request {
        // It was let go meanwhile, and is nobody's to destroy.
        Request::Destroy { .. } if core.process.is_some() => Err(admission::not_attached(core)),
        Request::Destroy { .. } | Request::Detach => {
            let message = "its QEMU had ended by itself".to_owned();
            Ok(Outcome { result: CommandResult::Done, message })
        }
        _ => Err(Refusal::new(Reason::QemuDied, "QEMU ended before the command began")),
    }
}
