//! Carries out the machine's actions, one by one.

use std::sync::Arc;
use std::time::Duration;

use dormouse_metering::{Observation, Stamp};
use ractor::ActorRef;
use tokio::sync::oneshot;

use super::link::{self, Ask, Contact, Link};
use super::start::Wanted;
use super::{Answered, Message, State, disk, records};
use crate::metering::{self, Acknowledgement};
use crate::process::{CommandLine, Process, ProcessIdentity};
use crate::sandbox::machine::{Action, Announcement, Answer, Input, Notice, Token};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::view::WatchKind;

impl State {
    pub(super) fn act(&mut self, action: Action, now: Stamp, myself: &ActorRef<Message>) {
        match action {
            Action::Announce(token, announcement) => self.announce(announcement, acknowledge(token, myself)),
            Action::Observe(observation) => self.observe(observation, None),
            Action::ObserveFirst(observation) => {
                let (written, is_written) = oneshot::channel();
                self.unwritten = Some(is_written);
                self.observe(observation, Some(written));
            }
            Action::Connect(token, after_ms) => self.connect(token, after_ms, myself),
            Action::Survey(token) => self.ask(token, Ask::Survey(self.command_line()), myself),
            Action::Qmp(token, command) => {
                let unwritten = self.unwritten.take();
                self.ask(token, Ask::Command(command, unwritten), myself);
            }
            Action::Wait(token, ms) => {
                let answer = answer_to(token, myself);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    answer(Answer::Elapsed);
                });
            }
            Action::PrepareSnapshot(token, method) => {
                disk::prepare(self, token, method, myself);
            }
            Action::WriteOut(method) => disk::write_out(self, method),
            Action::WriteSnapshot(token, method) => disk::write(self, token, method, now, myself),
            Action::VerifySnapshot(token, manifest, check) => {
                disk::verify(self, *manifest, check, answer_to(token, myself));
            }
            Action::AwaitDigest(token) => disk::await_digest(self, answer_to(token, myself)),
            Action::GiveUpSnapshot(token, manifest) => disk::give_up(manifest, answer_to(token, myself)),
            Action::RemoveSnapshot(removal) => disk::remove(self, removal),
            Action::PromiseMemory(token, bytes) => self.promise_memory(token, bytes, myself),
            Action::KeepMemory(bytes) => self.keep_memory(bytes),
            Action::LimitVcpus(token, limit) => self.limit_vcpus(token, limit, myself),
            Action::Advise(token, advice) => self.advise(token, advice, myself),
            Action::Launch(token, launch) => self.start(Wanted::Wake(launch), token, myself),
            Action::Start(token, start) => self.start(Wanted::Anew(start), token, myself),
            Action::Kill(identity) => self.kill(identity),
            Action::Disconnect => self.disconnect(),
            Action::Reply(request_id, result) => {
                self.reply(&request_id, &Answered { result, replayed: false });
            }
            Action::Replay(request_id, result) => {
                self.reply(&request_id, &Answered { result, replayed: true });
            }
            Action::Refuse(request_id, refusal) => self.refuse(&request_id, refusal),
            Action::Publish(notice) => self.publish(&notice, now),
            Action::Retire => {
                self.remove_memory();
                myself.stop(None);
            }
        }
    }

    fn announce(&mut self, announcement: Announcement, reply: metering::Reply) {
        let key = self.ledger_key();
        let message = match announcement {
            Announcement::Attached { command, survey, process, at, shape, state } => {
                metering::Message::Begin(
                    Box::new(records::beginning(
                        &self.environment,
                        self.machine.core(),
                        command,
                        (&survey, process),
                        (at, shape, state),
                    )),
                    reply,
                )
            }
            Announcement::Reattached(survey, process) => {
                let attachment = records::Attachment::of(self.machine.core(), &survey, process).to_json();
                metering::Message::Attachment(key, attachment)
            }
            Announcement::Before(command, at, state) => {
                metering::Message::Before(key, Box::new(command), at, state, reply)
            }
            Announcement::After(command, at, result) => {
                let snapshot = records::snapshot_after(&key, &self.machine, &command, &result);
                let state = self.machine.core().state;
                let ending = metering::Ending { key, command, at, result, snapshot, state };
                metering::Message::After(Box::new(ending), reply)
            }
            Announcement::Saved(manifest) => {
                metering::Message::Saved(records::snapshot_complete(&key, &manifest), reply)
            }
        };
        self.tell_metering(message);
    }

    fn observe(&self, observation: Observation, written: Option<oneshot::Sender<()>>) {
        let plugged_by_device = self.machine.core().plugged_by_device(&observation);
        let seen = metering::Seen { observation, plugged_by_device, written };
        self.tell_metering(metering::Message::Observe(self.ledger_key(), Box::new(seen)));
    }

    pub(super) fn tell_metering(&self, message: metering::Message) {
        if self.environment.metering.cast(message).is_err() {
            tracing::error!(sandbox = %self.machine.core().key, "the metering actor is gone");
        }
    }

    fn connect(&mut self, token: Token, after_ms: u64, myself: &ActorRef<Message>) {
        self.disconnect();
        let (path, terms) = (self.machine.core().qmp_path.clone(), self.machine.core().terms().clone());
        // The runtime wakes at whole milliseconds, and behind one of them: one millisecond would be two.
        let after = Duration::from_millis(after_ms).saturating_sub(Duration::from_micros(500));
        let attempt = link::connect(Arc::clone(&self.environment), path, terms, after);
        let myself = myself.clone();
        let attempt = tokio::spawn(async move {
            let contact = attempt.await;
            // An actor that is gone needs not be told.
            let _ = myself.cast(Message::Connected(token, Box::new(contact)));
        });
        self.attempt = Some(attempt.abort_handle());
    }

    pub(super) fn connected(
        &mut self,
        token: Token,
        contact: Result<Contact, Refusal>,
        myself: &ActorRef<Message>,
    ) {
        // Whoever may abort a task that has ended keeps all its memory, and this one is large.
        self.attempt = None;
        let answer = match contact {
            Ok(contact) => {
                let process = contact.process.clone();
                let answer = Answer::Surveyed(Box::new(contact.survey.clone()), process.identity());
                self.links_made += 1;
                self.link = Some(Link::keep(self.links_made, contact, &self.environment, myself.clone()));
                if self.process.as_ref().is_none_or(|held| held.process().identity() != process.identity()) {
                    self.hold(process, myself);
                }
                answer
            }
            Err(refusal) => Answer::Failed(refusal),
        };
        self.feed(Input::Answer(token, answer), myself);
    }

    fn disconnect(&mut self) {
        self.link = None;
        if let Some(attempt) = self.attempt.take() {
            attempt.abort();
        }
    }

    fn ask(&self, token: Token, ask: Ask, myself: &ActorRef<Message>) {
        if !self.link.as_ref().is_some_and(|link| link.ask(token, ask)) {
            let refusal = Refusal::new(Reason::QmpUnreachable, "QMP does not answer; the agent keeps trying");
            answer_to(token, myself)(Answer::Failed(refusal));
        }
    }

    /// As the last survey found it.
    fn command_line(&self) -> Result<CommandLine, String> {
        let survey = self.machine.core().survey.as_ref();
        survey
            .map_or_else(|| Err("QEMU was not surveyed yet".to_owned()), |survey| survey.command_line.clone())
    }

    /// Ends this very process, and no other that may have come to have its pid.
    fn kill(&self, identity: ProcessIdentity) {
        let held = self.process.as_ref().map(|watch| watch.process().clone());
        let process = held
            .filter(|process| process.identity() == identity)
            .map_or_else(|| Process::find_by(identity), |process| Ok(Some(process)));
        let killed = process.and_then(|process| process.map_or(Ok(()), |process| process.kill()));
        if let Err(error) = killed {
            tracing::error!(sandbox = %self.machine.core().key, error = %with_cause(&error), "cannot kill");
        }
    }

    fn reply(&mut self, request_id: &str, answered: &Answered) {
        self.promised.take_if(|promised| promised.0 == request_id);
        self.turn.take_if(|turn| turn.0 == request_id);
        self.digest.take_if(|digest| digest.0 == request_id);
        for caller in self.waiting.remove(request_id).unwrap_or_default() {
            // A caller that has gone away reads the outcome from the ledger when it asks again.
            let _ = caller.send(answered.clone());
        }
        self.waiting.shrink_to(0);
    }

    /// Answers whoever has come last under a request id. Those before wait for what it was given to first.
    fn refuse(&mut self, request_id: &str, refusal: Refusal) {
        let Some(callers) = self.waiting.get_mut(request_id) else { return };
        if let Some(caller) = callers.pop() {
            // A caller that has gone away needs not be told.
            let _ = caller.send(refusal.into());
        }
        if callers.is_empty() {
            self.waiting.remove(request_id);
        }
    }

    fn publish(&mut self, notice: &Notice, now: Stamp) {
        let (kind, cause, message) = match notice {
            Notice::Before(request) => (WatchKind::Before, request.kind(), String::new()),
            Notice::After(request, message) => (WatchKind::After, request.kind(), message.clone()),
            Notice::Changed(cause) => (WatchKind::Changed, *cause, String::new()),
            Notice::Progress => (WatchKind::Progress, "progress", String::new()),
            Notice::Ended => (WatchKind::Ended, "ended", String::new()),
        };
        self.announce_change(kind, cause, message, now);
    }

    pub(super) fn ledger_key(&self) -> dormouse_ledger::SandboxKey {
        let core = self.machine.core();
        dormouse_ledger::SandboxKey {
            org: core.key.org.clone(),
            sandbox: core.key.sandbox.clone(),
            generation: core.generation,
        }
    }
}

/// Answers one action, once.
pub(super) type AnswerTo = Box<dyn FnOnce(Answer) + Send>;

/// What answers an action: a message to the actor that asked for it.
pub(super) fn answer_to(token: Token, myself: &ActorRef<Message>) -> AnswerTo {
    let myself = myself.clone();
    Box::new(move |answer| {
        // An actor that is gone needs not be told.
        let _ = myself.cast(Message::Input(Input::Answer(token, answer)));
    })
}

fn acknowledge(token: Token, myself: &ActorRef<Message>) -> metering::Reply {
    let answer = answer_to(token, myself);
    Box::new(move |acknowledgement| {
        answer(match acknowledgement {
            Acknowledgement::Durable => Answer::Durable,
            Acknowledgement::Began(generation) => Answer::Recorded(generation),
            Acknowledgement::Replayed(stored) => Answer::Replayed(stored),
            Acknowledgement::Failed(refusal) => Answer::Failed(refusal),
        });
    })
}

pub(super) fn with_cause(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{cause}")
}
