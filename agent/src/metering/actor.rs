//! The shell around [`Accounts`]: takes messages, hands records to the ledger's writer, keeps the time.

use std::collections::VecDeque;
use std::time::Duration;

use dormouse_ledger::{
    AttachmentUpdate, Class, Committed, Done, LedgerError, Reader, Record, Recovery, SandboxKey, SandboxSeen,
    TagSet, Watermark, Writer,
};
use dormouse_metering::{Cause, Change, CommandId, Observation, Stamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::accounts::Accounts;
use super::entries;
use super::message::{Acknowledgement, Beginning, Ending, Message, Reply, Seen};
use crate::clock::Clock;
use crate::failpoint;
use crate::sandbox::command::{Outcome, Request};
use crate::sandbox::refusal::{Reason, Refusal};

/// How sandbox actors reach the metering actor.
pub type MeteringHandle = ActorRef<Message>;

/// The intervals that the metering actor keeps.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long after its stamp an event of QEMU may still arrive.
    pub lateness: Duration,
    /// Between cuts of running prepaid sandboxes.
    pub tick: Duration,
}

/// How often what time has made final is looked for.
const SEAL_INTERVAL: Duration = Duration::from_millis(250);

/// The metering actor.
pub struct Metering;

/// What the metering actor starts with.
pub struct Arguments {
    /// Where slices go.
    pub writer: Writer,
    /// For the generations of sandboxes.
    pub reader: Reader,
    /// The clock.
    pub clock: Clock,
    /// What the ledger knew when the agent started.
    pub recovery: Recovery,
    /// The plans whose running sandboxes are cut at every tick.
    pub prepaid_plans: Vec<String>,
    /// The intervals.
    pub settings: Settings,
}

/// What the metering actor keeps.
pub struct State {
    accounts: Accounts,
    writer: Writer,
    reader: Reader,
    clock: Clock,
    /// Facts that the writer's queue had no room for. They are handed in again, in order.
    backlog: VecDeque<(Class, Vec<Record>, Done)>,
    proof_under_way: bool,
}

impl Actor for Metering {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { writer, reader, clock, recovery, prepaid_plans, settings } = arguments;
        let lateness_ns = u64::try_from(settings.lateness.as_nanos())?;
        let mut accounts = Accounts::new(lateness_ns, clock.now(), recovery.proof);
        for sandbox in recovery.sandboxes {
            let prepaid = prepaid_plans.contains(&sandbox.plan);
            accounts.resume(sandbox.key, sandbox.open, sandbox.pending, prepaid)?;
        }
        let mut cut = accounts.resume_steps(&recovery.steps);
        cut.extend(accounts.resume_boot(clock.now()));
        myself.send_interval(SEAL_INTERVAL, || Message::Seal);
        myself.send_interval(settings.tick, || Message::Tick);
        let mut state =
            State { accounts, writer, reader, clock, backlog: VecDeque::new(), proof_under_way: false };
        if let Some(proof) = recovery.proof {
            // Before the first proof of this agent's own, which says nothing of what QEMU has told.
            state.happened(Class::Note, vec![Record::NobodyHeard(proof)], log_failure("the agent's absence"));
        }
        state.facts(cut);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Begin(beginning, reply) => state.begin(*beginning, reply, &myself),
            Message::Born(key) => state.born(&key),
            Message::Forget(key) => state.accounts.forget(&key),
            // Nothing of it lives yet: what is to be started has its intent alone.
            Message::Before(key, command, at, _, reply) if key.generation == 0 => {
                state.intend(vec![Record::Intent(entries::intent(&command, None, at))], reply);
            }
            Message::Before(key, command, at, billing, reply) => {
                let records = vec![
                    Record::Intent(entries::intent(&command, Some(key.generation), at)),
                    entries::lifecycle_is(&key, billing),
                ];
                state.intend(records, reply);
            }
            Message::After(ending, reply) => state.after(*ending, reply),
            Message::IntendApart(intent, outcome, reply) => {
                let outcome = outcome.map(|outcome| Record::Outcome(*outcome));
                state.intend([Record::Intent(*intent)].into_iter().chain(outcome).collect(), reply);
            }
            Message::ConcludeApart(outcome, reply) => {
                state.happened(Class::Fact, vec![Record::Outcome(*outcome)], answer_durable(reply));
            }
            Message::Settle(reply) => state.happened(Class::Intent, Vec::new(), answer_durable(reply)),
            Message::Observe(key, seen) => state.observe(&key, *seen),
            Message::Sight(key, sight, heard) => {
                if state.accounts.sight(&key, sight) {
                    let unheard = vec![Record::Unheard(key, heard)];
                    state.happened(Class::Note, unheard, log_failure("a lost connection"));
                }
            }
            Message::Saved(snapshot, reply) => state.intend(vec![Record::Snapshot(snapshot)], reply),
            Message::Attachment(key, attachment) => {
                let update =
                    AttachmentUpdate { key, attachment: Some(attachment), lifecycle: None, plan: None };
                state.happened(Class::Fact, vec![Record::Attachment(update)], log_failure("attachment"));
            }
            Message::Proof(at) => state.proof(at, &myself),
            Message::ProofWritten => state.proof_under_way = false,
            Message::ClockStepped(at, anchor) => {
                let mut records = state.accounts.clock_stepped(at);
                records.push(Record::Anchor(anchor));
                state.facts(records);
            }
            Message::Seal => {
                state.hand_in_backlog();
                let now = state.clock.now();
                let mut records = state.accounts.seal(now);
                // Behind the slices: what was written before it proves it.
                let hour = state.accounts.complete_hour(now);
                let watermark = |hour_unix_ns| Watermark { hour_unix_ns, at_unix_ns: now.wall_ns };
                records.extend(hour.map(|hour| Record::Watermark(watermark(hour))));
                state.facts(records);
            }
            Message::Tick => {
                let records = state.accounts.tick(state.clock.now());
                state.facts(records);
            }
            Message::Flush(proven, reply) => {
                let mut records = state.accounts.seal(state.clock.now());
                if let Some(at) = proven {
                    state.accounts.proven(at);
                    records.push(Record::ProofOfLife(at));
                }
                state.happened(Class::Fact, records, answer_durable(reply));
            }
        }
        Ok(())
    }
}

impl State {
    fn begin(&mut self, beginning: Beginning, reply: Reply, myself: &ActorRef<Message>) {
        let Beginning { command, plan, prepaid, tags, attachment, at, shape, state, plugged_by_device } =
            beginning;
        let generation = match self.reader.next_generation(&command.key.sandbox, at.wall_ns) {
            Ok(generation) => generation,
            Err(error) => return reply(Acknowledgement::Failed(entries::refusal(&error))),
        };
        let org = command.key.org.clone();
        let sandbox = command.key.sandbox.clone();
        let key = SandboxKey { org: org.clone(), sandbox: sandbox.clone(), generation };
        let change = Change::Began(shape, state);
        let id = Some(CommandId::new(&command.request_id));
        // A create has its intent already, and its outcome is yet to come.
        let is_attach = matches!(command.request, Request::Attach { .. });
        let cause = if is_attach { Cause::Attach } else { Cause::Create };
        let began = Observation { at, change, cause, command: id };
        let slices = match self.accounts.observe(&key, prepaid, began, at) {
            Ok(slices) => slices,
            Err(refused) => {
                return reply(Acknowledgement::Failed(Refusal::new(Reason::Bug, refused.to_string())));
            }
        };
        let outcome = Ok(Outcome {
            result: crate::sandbox::command::CommandResult::Done,
            message: format!("{} is attached", command.key),
        });
        let intent = Record::Intent(entries::intent(&command, Some(generation), at));
        let mut records = if is_attach { vec![intent] } else { Vec::new() };
        records.extend([
            Record::SandboxSeen(SandboxSeen {
                key: key.clone(),
                plan,
                attachment,
                lifecycle: state.name().to_owned(),
                created_unix_ns: at.wall_ns,
            }),
            Record::Tags(TagSet { org, sandbox, tags, at_unix_ns: at.wall_ns }),
        ]);
        records.extend(slices);
        records.extend(plugged_by_device.map(|plugged| Record::PluggedByDevice(key.clone(), plugged)));
        if is_attach {
            records.push(Record::Outcome(entries::outcome_of(&command, at, &outcome)));
            records.push(Record::Lifecycle(entries::after_event(&key, &command, at, &outcome)));
        }
        let myself = myself.clone();
        let done: Done = Box::new(move |result| {
            failpoint::reach("life begun");
            let applied = matches!(result, Ok(Committed::Applied { .. }));
            // When the actor is gone, so is the life that it began.
            let _ = myself.cast(if applied { Message::Born(key) } else { Message::Forget(key) });
            reply(match result {
                Ok(Committed::Applied { .. }) => Acknowledgement::Began(generation),
                Ok(Committed::Repeat(row)) => replayed(&row),
                Err(error) => Acknowledgement::Failed(entries::refusal(&error)),
            });
        });
        if let Err(refused) = self.writer.submit(Class::Intent, records, done) {
            refused.answer();
        }
    }

    fn born(&mut self, key: &SandboxKey) {
        let marked = self.accounts.born(key);
        self.facts(marked.into_iter().collect());
    }

    fn after(&mut self, ending: Ending, reply: Reply) {
        failpoint::reach("before an outcome");
        let Ending { key, command, at, result, snapshot, state: billing } = ending;
        let mut records = vec![Record::Outcome(entries::outcome_of(&command, at, &result))];
        // What could not be started has no life to tell of.
        if key.generation != 0 {
            records.push(entries::lifecycle_is(&key, billing));
            records.push(Record::Lifecycle(entries::after_event(&key, &command, at, &result)));
        }
        records.extend(snapshot.map(Record::Snapshot));
        self.happened(Class::Fact, records, answer_durable(reply));
    }

    fn observe(&mut self, key: &SandboxKey, seen: Seen) {
        let Seen { observation, plugged_by_device, written } = seen;
        let now = self.clock.now();
        tracing::debug!(sandbox = %key, change = ?observation.change, cause = %observation.cause, "observed");
        match self.accounts.observe(key, false, observation, now) {
            Ok(record) => {
                failpoint::reach("before an observation");
                let class = record.as_ref().map_or(Class::Note, observation_class);
                // Where nobody waits for it, the outcome of a command that has brought it about comes right behind.
                let class = if class == Class::Note && written.is_none() { Class::Aside } else { class };
                let done = log_failure("slices");
                let done: Done = Box::new(move |result| {
                    done(result);
                    // A sandbox that is gone needs not be told.
                    let _ = written.map(|written| written.send(()));
                });
                let devices = plugged_by_device.map(|plugged| Record::PluggedByDevice(key.clone(), plugged));
                self.happened(class, record.into_iter().chain(devices).collect(), done);
            }
            Err(refused) => {
                tracing::error!(sandbox = %key, %refused, "an observation does not fit the meter");
            }
        }
    }

    /// Something that is to happen: refused when it cannot be made durable.
    fn intend(&mut self, records: Vec<Record>, reply: Reply) {
        failpoint::reach("before an intent");
        if let Err(refused) = self.writer.submit(Class::Intent, records, answer_durable(reply)) {
            refused.answer();
        }
    }

    fn facts(&mut self, records: Vec<Record>) {
        for record in records {
            self.happened(Class::Fact, vec![record], log_failure("slices"));
        }
    }

    /// What has happened is never dropped, and never overtakes another.
    fn happened(&mut self, class: Class, records: Vec<Record>, done: Done) {
        if !self.backlog.is_empty() {
            return self.backlog.push_back((class, records, done));
        }
        if let Err(refused) = self.writer.submit(class, records, done) {
            match refused.error {
                LedgerError::QueueFull { .. } => {
                    self.backlog.push_back((class, refused.records, refused.done));
                }
                _ => refused.answer(),
            }
        }
    }

    fn hand_in_backlog(&mut self) {
        while let Some((class, records, done)) = self.backlog.pop_front() {
            if let Err(refused) = self.writer.submit(class, records, done) {
                return self.backlog.push_front((class, refused.records, refused.done));
            }
        }
    }

    /// One at a time, so that a long outage of the disk does not fill the queue with proofs.
    fn proof(&mut self, at: Stamp, myself: &ActorRef<Message>) {
        self.accounts.proven(at);
        if self.proof_under_way {
            return;
        }
        self.proof_under_way = true;
        let myself = myself.clone();
        let done: Done = Box::new(move |_| {
            // When the actor is gone, so is whoever would write the next proof.
            let _ = myself.cast(Message::ProofWritten);
        });
        self.happened(Class::Fact, vec![Record::ProofOfLife(at)], done);
    }
}

/// What was seen is a note, unless it made a slice final: an event tells of that.
fn observation_class(record: &Record) -> Class {
    match record {
        Record::Slices(batch) if batch.slices.is_empty() => Class::Note,
        _ => Class::Fact,
    }
}

fn answer_durable(reply: Reply) -> Done {
    Box::new(move |result| {
        failpoint::reach("durable");
        reply(match result {
            Ok(Committed::Applied { .. }) => Acknowledgement::Durable,
            Ok(Committed::Repeat(row)) => replayed(&row),
            Err(error) => {
                tracing::error!(%error, reason = error.reason(), "not durable");
                Acknowledgement::Failed(entries::refusal(&error))
            }
        });
    })
}

fn replayed(row: &dormouse_ledger::CommandRow) -> Acknowledgement {
    entries::stored_outcome(row).map_or_else(
        || {
            let message = "this request was begun before and its outcome is not known yet; ask again later";
            Acknowledgement::Failed(Refusal::new(Reason::OutcomeUnknown, message))
        },
        Acknowledgement::Replayed,
    )
}

fn log_failure(what: &'static str) -> Done {
    Box::new(move |result| {
        if let Err(error) = result {
            tracing::error!(%error, reason = error.reason(), what, "the ledger refused a fact");
        }
    })
}
