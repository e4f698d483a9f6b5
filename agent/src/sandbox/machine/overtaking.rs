//! A destroy that does not wait for the command under way.
//!
//! ```text
//!   Intending ── durable ──▶ Due ── as soon as the other may be given up ──▶ it is under way, the other overtaken
//!       │ not durable, or known
//!       ▼
//!    refused, or answered; the other goes on
//! ```
//!
//! The command under way goes on until its place is taken: what the ledger refuses has changed nothing. Between the
//! destroy's intent and the other's outcome an agent that is killed leaves two commands unfinished; `recovery` knows.

use dormouse_metering::Stamp;

use super::admission::{self, Verdict};
use super::core::Phase;
use super::operations;
use super::{Action, Announcement, Answer, Notice, Sandbox, Stage, Token, Underway};
use crate::sandbox::command::{Command, Request};
use crate::sandbox::refusal::{Reason, Refusal};

/// A destroy between its arrival and its turn.
#[derive(Debug)]
pub(super) struct Overtaker {
    pub(super) command: Command,
    /// The answer that makes its intent durable; none once it is.
    pub(super) intent: Option<Token>,
}

impl Sandbox {
    /// Decides on a command, given the ones there are.
    pub(super) fn admit(&self, command: &Command) -> Verdict {
        let underway = self.underway.as_ref().map(|underway| &underway.command);
        let verdict = admission::admit(&self.core, underway, command);
        let Some(overtaker) = &self.overtaker else { return verdict };
        if underway.is_some_and(|underway| underway.request_id == command.request_id) {
            return verdict;
        }
        match admission::admit(&self.core, Some(&overtaker.command), command) {
            Verdict::Overtake => Verdict::Deny(destroying("another destroy is about to begin")),
            verdict => verdict,
        }
    }

    /// Makes the intent of a destroy durable beside the command under way.
    pub(super) fn prepare_to_overtake(&mut self, now: Stamp, command: Command, actions: &mut Vec<Action>) {
        let stage = self.underway.as_ref().map(|underway| &underway.stage);
        if matches!(stage, Some(Stage::Working(operation)) if !operation.may_be_overtaken(&self.core)) {
            let refusal = destroying("QEMU is being started");
            return actions.push(Action::Refuse(command.request_id, refusal));
        }
        let intent = Some(self.intend(now, &command, actions));
        self.overtaker = Some(Box::new(Overtaker { command, intent }));
    }

    /// Whether the command under way may be given up now.
    fn gives_way(&self) -> bool {
        match self.underway.as_ref().map(|underway| &underway.stage) {
            Some(Stage::Working(operation)) => operation.may_be_overtaken(&self.core),
            // It may have started a QEMU, which is looked for.
            Some(Stage::Recovering) => self.core.phase == Phase::Attached,
            // What is intended first is answered first.
            Some(Stage::Intending(_)) => false,
            Some(Stage::Concluding(_)) | None => true,
        }
    }

    /// Takes the answer to its intent, and hands back any other.
    pub(super) fn answer_overtaker(
        &mut self,
        token: Token,
        answer: Answer,
        actions: &mut Vec<Action>,
    ) -> Option<Answer> {
        let Some(overtaker) = self.overtaker.as_mut().filter(|overtaker| overtaker.intent == Some(token))
        else {
            return Some(answer);
        };
        let id = overtaker.command.request_id.clone();
        actions.push(match answer {
            Answer::Replayed(stored) => Action::Replay(id, stored),
            Answer::Failed(refusal) => Action::Reply(id, Err(refusal)),
            _ => {
                overtaker.intent = None;
                actions.push(Action::Publish(Notice::Before(overtaker.command.request.clone())));
                return None;
            }
        });
        self.overtaker = None;
        self.retire(actions);
        None
    }

    /// The destroy takes its place, once its intent is durable and the other may be given up.
    pub(super) fn let_overtake(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        if !self.gives_way() {
            return;
        }
        let is_due = |overtaker: &mut Box<Overtaker>| overtaker.intent.is_none();
        let Some(overtaker) = self.overtaker.take_if(is_due) else { return };
        let Overtaker { command, .. } = *overtaker;
        self.overtake(now, actions);
        let stage = Stage::Working(operations::of(&command.request));
        self.underway = Some(Box::new(Underway { command, stage, waiting: None, asked_ahead: None }));
        self.set_out(now, actions);
    }

    /// The command under way is given up: whoever waits for it is told so.
    fn overtake(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        let Some(underway) = self.underway.take() else { return };
        if let (Stage::Concluding(result), Some(token)) = (&underway.stage, underway.waiting) {
            // It is over, and its outcome is on its way to the ledger: that is what its caller is told.
            return self.outgoing.push((token, underway.command, result.clone()));
        }
        let recorded = !matches!(underway.command.request, Request::Attach { .. });
        if recorded {
            self.record_overtaken(now, underway.command.clone(), actions);
        }
        actions.push(Action::Reply(underway.command.request_id, Err(overtaken())));
    }

    /// Nobody waits for that.
    pub(super) fn record_overtaken(&mut self, now: Stamp, command: Command, actions: &mut Vec<Action>) {
        let token = self.core.token();
        actions.push(Action::Announce(token, Announcement::After(command, now, Err(overtaken()))));
    }
}

fn overtaken() -> Refusal {
    Refusal::new(Reason::Overtaken, "a destroy overtook this operation")
}

fn destroying(why: &str) -> Refusal {
    Refusal::new(Reason::OperationUnderWay, format!("{why}; ask again at once"))
}
