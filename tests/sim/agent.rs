//! The agent of a history: the real machine, the real accounts, and a shell that does what the agent's own shell
//! does, in virtual time.

use dormouse::metering::accounts::Accounts;
use dormouse::process::ProcessIdentity;
use dormouse::sandbox::command::{Command, CommandResult, Outcome, Request};
use dormouse::sandbox::machine::{
    Action, Announcement, Answer, Input, Launch, Link as CoreLink, Phase, Sandbox, SnapshotRemoval, Token,
};
use dormouse::sandbox::refusal::{Reason, Refusal};
use dormouse::sandbox::snapshot::Manifest;
use dormouse_ledger::{PluggedByDevice, Record, SandboxKey};
use dormouse_metering::{BillingState, Cause, Change, CommandId, Observation};

use crate::known::Of;
use crate::ledger::{Became, Entry, Unit, Waiter};
use crate::link::Link;
use crate::qemu::MS;
use crate::world::{Ask, Event, World};

/// The agent, from one start to its end.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) accounts: Accounts,
    pub(crate) seats: Vec<Option<Seat>>,
    pub(crate) proof_under_way: bool,
    pub(crate) commit_due: bool,
}

/// What one sandbox's actor keeps.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) machine: Sandbox,
    pub(crate) link: Option<Link>,
    pub(crate) attempt: u64,
    pub(crate) number: u64,
    pub(crate) held: Option<ProcessIdentity>,
    /// What QEMU has told of before its life is durable: the machine makes nothing of it until then.
    pub(crate) early: Vec<(Of, u64)>,
    /// How long the host had slept at its last step.
    pub(crate) slept_ns: u64,
    pub(crate) draft: Option<u64>,
    /// Commands that the machine has taken, and when.
    pub(crate) taken: Vec<(String, u64)>,
}

impl Agent {
    pub(crate) fn is_quiet(&self) -> bool {
        self.seats.iter().flatten().all(|seat| {
            let core = seat.machine.core();
            let rests = core.phase == Phase::Hibernated || core.link == CoreLink::Up;
            rests && seat.machine.underway().is_none()
        })
    }

    pub(crate) fn underway(&self) -> Vec<String> {
        let seats = self.seats.iter().flatten();
        seats.map(|seat| format!("{:?} {:?}", seat.machine.underway(), seat.machine.core().link)).collect()
    }
}

impl Seat {
    /// `number` is like no other seat's.
    pub(crate) fn new(machine: Sandbox, number: u64, slept_ns: u64) -> Self {
        let (attempt, early, taken) = (number, Vec::new(), Vec::new());
        Self { machine, link: None, attempt, number, held: None, early, slept_ns, draft: None, taken }
    }
}

pub(crate) fn failed(reason: Reason, message: &str) -> Answer {
    Answer::Failed(Refusal::new(reason, message))
}

impl World {
    pub(crate) fn seat(&mut self, seat: usize) -> Option<&mut Seat> {
        self.agent.as_mut()?.seats[seat].as_mut()
    }

    pub(crate) fn feed(&mut self, number: usize, input: Input) {
        let now = self.clock.now();
        self.trace(|| format!("machine {number} <- {}", short(&format!("{input:?}"))));
        let slept_ns = self.clock.slept_ns();
        let Some(seat) = self.seat(number) else { return };
        let mut actions = Vec::new();
        let before_ns = std::mem::replace(&mut seat.slept_ns, slept_ns);
        if slept_ns > before_ns {
            actions = seat.machine.step(now, Input::Slept(slept_ns - before_ns));
        }
        actions.extend(seat.machine.step(now, input));
        self.carry_out(number, actions);
        self.learn_early(number);
    }

    pub(crate) fn carry_out(&mut self, number: usize, actions: Vec<Action>) {
        for action in actions {
            if !matches!(action, Action::Publish(_)) {
                self.trace(|| format!("machine {number} -> {}", short(&format!("{action:?}"))));
            }
            self.act(number, action);
        }
        self.tell_sight(number);
    }

    /// As the actor's shell does it, after what was observed in the same step.
    fn tell_sight(&mut self, number: usize) {
        let Some((sight, heard)) = self.seat(number).and_then(|seat| seat.machine.core().sight()) else {
            return;
        };
        let key = self.ledger_key(number);
        if self.agent.as_mut().is_some_and(|agent| agent.accounts.sight(&key, sight)) {
            self.submit(true, vec![Entry::Unheard(key, heard)], Waiter::Nobody);
        }
    }

    pub(crate) fn answer(&mut self, seat: usize, after_ns: u64, token: Token, answer: Answer) {
        let of = self.seat(seat).map_or(0, |seat| seat.number);
        self.answer_to((seat, of), after_ns, token, answer);
    }

    /// An answer to one machine, whoever has its seat by then.
    fn answer_to(&mut self, (seat, of): (usize, u64), after_ns: u64, token: Token, answer: Answer) {
        let epoch = self.epoch;
        self.after(after_ns, Event::Answer { epoch, seat, of, token, answer });
    }

    fn act(&mut self, number: usize, action: Action) {
        match action {
            Action::PromiseMemory(token, _) => return self.answer(number, 1_000, token, Answer::Promised),
            // How a disk comes by what is synced is not simulated.
            Action::WriteOut(_) => return,
            _ => {}
        }
        let instant = self.random.range(1_000, 50_000);
        match action {
            Action::Announce(token, announcement) => self.announce(number, token, announcement),
            Action::Observe(observation) | Action::ObserveFirst(observation) => {
                self.observe(number, &observation);
            }
            Action::Connect(token, after_ms) => self.connect(number, token, after_ms),
            Action::Survey(token) => self.ask(number, token, Ask::Survey),
            Action::Qmp(token, command) => self.ask(number, token, Ask::Command(command)),
            Action::Wait(token, ms) => self.answer(number, ms * MS + instant, token, Answer::Elapsed),
            Action::PrepareSnapshot(token, _) => self.prepare_snapshot(number, token),
            Action::WriteSnapshot(token, method) => self.write_snapshot(number, token, method),
            Action::VerifySnapshot(token, manifest, _) => {
                let there = self.guests[number].snapshots.contains_key(&manifest.ordinal);
                let answer = if there {
                    Answer::SnapshotVerified(manifest, 0)
                } else {
                    failed(Reason::SnapshotDamaged, "not there")
                };
                self.answer(number, 20 * MS, token, answer);
            }
            Action::AwaitDigest(token) => self.digest(number, token),
            Action::RemoveSnapshot(removal) => self.remove_snapshot(number, &removal),
            Action::Launch(token, launch) => self.launch(number, token, &launch),
            Action::Start(token, _) => self.start(number, token, None, "prelaunch"),
            Action::LimitVcpus(token, limit_milli) => self.limit_vcpus(number, token, limit_milli),
            // Nobody begins anew here.
            Action::GiveUpSnapshot(token, _) => {
                self.answer(number, MS, token, failed(Reason::LaunchFailed, "cannot start"));
            }
            Action::Kill(process) => {
                let later = crate::qemu::Later::Exit;
                self.after(MS + instant, Event::Qemu { guest: number, process, later });
            }
            Action::Disconnect => self.drop_link(number),
            Action::Reply(id, result) | Action::Replay(id, result) => self.replied(number, &id, &result),
            Action::Refuse(id, refusal) => self.replied(number, &id, &Err(refusal)),
            // Some are answered above, and nobody asks for advice here.
            Action::Publish(_)
            | Action::PromiseMemory(..)
            | Action::WriteOut(_)
            | Action::KeepMemory(_)
            | Action::Advise(..) => {}
            Action::Retire => {
                self.drop_link(number);
                if let Some(agent) = self.agent.as_mut() {
                    agent.seats[number] = None;
                }
            }
        }
    }

    pub(crate) fn ledger_key(&mut self, number: usize) -> SandboxKey {
        let key = self.guests[number].key.clone();
        let generation = self.seat(number).map_or(0, |seat| seat.machine.core().generation);
        SandboxKey { org: key.org, sandbox: key.sandbox, generation }
    }

    fn announce(&mut self, number: usize, token: Token, announcement: Announcement) {
        let key = self.ledger_key(number);
        let of = self.seat(number).map_or(0, |seat| seat.number);
        let durable = Waiter::Durable((number, of), token);
        match announcement {
            Announcement::Attached { command, survey, process, at, shape, state } => {
                let devices = survey.plugged_by_device(at);
                self.begin_life(number, token, &command, (process, devices), (at, shape, state));
            }
            Announcement::Reattached(_, process) => {
                self.submit(true, vec![Entry::Attachment(key, process)], Waiter::Nobody);
            }
            Announcement::Before(command, _, state) => {
                let generation = key.generation;
                let mut entries = vec![Entry::Intent(command, generation)];
                // What is to be created has no life yet.
                entries.extend((generation != 0).then_some(Entry::Lifecycle(key, state)));
                self.submit(false, entries, durable);
            }
            Announcement::After(command, _, result) => {
                let Some(seat) = self.seat(number) else { return };
                let core = seat.machine.core();
                let consumes = matches!(command.request, Request::Wake { .. } | Request::Destroy { .. })
                    && result.is_ok();
                let undone = matches!(command.request, Request::Hibernate { .. }) && result.is_err();
                let gone = core.snapshot.as_ref().filter(|_| consumes || undone).map(|last| last.ordinal);
                let state = core.state;
                let mut entries = vec![Entry::Outcome(command, result)];
                entries.extend((key.generation != 0).then(|| Entry::Lifecycle(key.clone(), state)));
                entries.extend(gone.map(|ordinal| Entry::Consumed(key, ordinal)));
                self.submit(true, entries, durable);
            }
            Announcement::Saved(manifest) => self.submit(false, vec![Entry::Saved(key, manifest)], durable),
        }
    }

    fn begin_life(
        &mut self,
        number: usize,
        token: Token,
        command: &Command,
        (process, devices): (ProcessIdentity, Option<PluggedByDevice>),
        (at, shape, state): (dormouse_metering::Stamp, dormouse_metering::Shape, BillingState),
    ) {
        let guest = &self.guests[number];
        let (name, prepaid) = (guest.key.sandbox.clone(), guest.prepaid);
        let generation = self.ledger.next_generation(&name, at.wall_ns);
        let key = SandboxKey { org: guest.key.org.clone(), sandbox: name.clone(), generation };
        let id = Some(CommandId::new(&command.request_id));
        // A create has its intent already, and its outcome is yet to come.
        let is_attach = matches!(command.request, Request::Attach { .. });
        let cause = if is_attach { Cause::Attach } else { Cause::Create };
        let began = Observation { at, change: Change::Began(shape, state), cause, command: id };
        let Some(agent) = self.agent.as_mut() else { return };
        let record = match agent.accounts.observe(&key, prepaid, began, at) {
            Ok(record) => record,
            Err(refused) => return self.violation(format!("a life cannot begin: {refused}")),
        };
        let outcome =
            Outcome { result: CommandResult::Done, message: format!("{} is attached", command.key) };
        let intent = is_attach.then(|| Entry::Intent(command.clone(), generation));
        let mut entries: Vec<Entry> =
            intent.into_iter().chain([Entry::Seen(key.clone(), process, state)]).collect();
        entries.extend(record.and_then(slices));
        entries.extend(devices.map(|plugged| Entry::PluggedByDevice(key.clone(), plugged)));
        entries.extend(is_attach.then(|| Entry::Outcome(command.clone(), Ok(outcome))));
        let of = self.seat(number).map_or(0, |seat| seat.number);
        self.submit(false, entries, Waiter::Recorded((number, of), token, key));
        self.note(number, at);
        self.note_unit(number, &Change::Began(shape, state));
    }

    fn observe(&mut self, number: usize, observation: &Observation) {
        let key = self.ledger_key(number);
        let now = self.clock.now();
        let at = observation.at;
        let since = self.world_ns(at.boot, at.boottime_ns.saturating_sub(at.uncertainty_ns));
        self.note(number, at);
        self.windows.push((number, since, self.world_ns(at.boot, at.boottime_ns)));
        let Some(agent) = self.agent.as_mut() else { return };
        match agent.accounts.observe(&key, false, observation.clone(), now) {
            Ok(record) => {
                let devices =
                    self.seat(number).and_then(|seat| seat.machine.core().plugged_by_device(observation));
                let devices = devices.map(|plugged| Entry::PluggedByDevice(key.clone(), plugged));
                let ended = (observation.change == Change::Ended).then_some(Entry::Ended(key, at));
                let slices = record.and_then(slices);
                let entries: Vec<Entry> = ended.into_iter().chain(slices).chain(devices).collect();
                self.submit(true, entries, Waiter::Observation);
                if let Some(unit) = self.ledger.waiting.back_mut() {
                    unit.seen = Some((number, since));
                }
                self.note_unit(number, &observation.change);
            }
            Err(refused) => self.violation(format!("{refused}: {observation:?}")),
        }
    }

    /// What has happened: each is a unit of its own.
    pub(crate) fn facts(&mut self, records: Vec<Record>) {
        for entry in records.into_iter().filter_map(slices) {
            self.submit(true, vec![entry], Waiter::Nobody);
        }
    }

    pub(crate) fn submit(&mut self, is_fact: bool, entries: Vec<Entry>, waiter: Waiter) {
        self.units += 1;
        let unit = Unit { is_fact, entries, waiter, number: self.units, at: self.now, seen: None };
        if !is_fact && self.now < self.disk_fails_until {
            return self.refuse(unit);
        }
        self.ledger.waiting.push_back(unit);
        self.plan_commit();
    }

    fn plan_commit(&mut self) {
        let epoch = self.epoch;
        let takes = self.random.range(MS / 5, 6 * MS);
        let at = (self.now + takes).max(self.disk_fails_until);
        let Some(agent) = self.agent.as_mut() else { return };
        if !agent.commit_due {
            agent.commit_due = true;
            self.at(at, Event::Commit { epoch });
        }
    }

    fn refuse(&mut self, unit: Unit) {
        let answer = || failed(Reason::LedgerUnwritable, "the disk takes nothing");
        match unit.waiter {
            Waiter::Durable(seat, token) => self.answer_to(seat, 1_000, token, answer()),
            Waiter::Recorded(seat, token, key) => {
                self.forget(&key);
                self.answer_to(seat, 1_000, token, answer());
            }
            Waiter::Nobody | Waiter::Observation | Waiter::Proof => {}
        }
    }

    fn forget(&mut self, key: &SandboxKey) {
        if let Some(agent) = self.agent.as_mut() {
            agent.accounts.forget(key);
        }
    }

    pub(crate) fn commit(&mut self) {
        if let Some(agent) = self.agent.as_mut() {
            agent.commit_due = false;
        }
        if self.now < self.disk_fails_until {
            let waiting = std::mem::take(&mut self.ledger.waiting);
            let (facts, intents): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|unit| unit.is_fact);
            self.ledger.waiting.extend(facts);
            for unit in intents {
                self.refuse(unit);
            }
            return self.plan_commit();
        }
        let synced = self.ledger.waiting.iter().any(|unit| !unit.is_note());
        while let Some(unit) = self.ledger.waiting.pop_front() {
            let became = self.ledger.apply(&unit);
            let waiter = unit.waiter.clone();
            self.ledger.write_down(unit);
            self.committed(waiter, &became);
        }
        if synced {
            self.ledger.synced();
        }
        for violation in std::mem::take(&mut self.ledger.violations) {
            self.violation(violation);
        }
    }

    fn committed(&mut self, waiter: Waiter, became: &Became) {
        let answer = |applied: Answer| match became {
            Became::Applied => applied,
            Became::Repeat(Some(stored)) => Answer::Replayed(stored.clone()),
            Became::Repeat(None) => failed(Reason::OutcomeUnknown, "begun before"),
            Became::Reused => failed(Reason::RequestIdReused, "used before"),
        };
        match waiter {
            Waiter::Nobody | Waiter::Observation => {}
            Waiter::Proof => {
                if let Some(agent) = self.agent.as_mut() {
                    agent.proof_under_way = false;
                }
            }
            Waiter::Durable(seat, token) => self.answer_to(seat, 10_000, token, answer(Answer::Durable)),
            Waiter::Recorded(seat, token, key) => {
                let generation = key.generation;
                let answer = answer(Answer::Recorded(generation));
                match self.agent.as_mut() {
                    Some(agent) if matches!(answer, Answer::Recorded(_)) => {
                        let marked = agent.accounts.born(&key);
                        self.facts(marked.into_iter().collect());
                    }
                    _ => self.forget(&key),
                }
                self.answer_to(seat, 10_000, token, answer);
            }
        }
    }

    fn prepare_snapshot(&mut self, number: usize, token: Token) {
        let fails = self.random.chance(30);
        let Some(seat) = self.seat(number) else { return };
        let ordinal = seat.machine.core().snapshot.as_ref().map_or(1, |last| last.ordinal + 1);
        seat.draft = Some(ordinal);
        let answer = if fails {
            failed(Reason::SaveFailed, "no space")
        } else {
            Answer::SnapshotPrepared(crate::places::draft(ordinal))
        };
        self.answer(number, MS, token, answer);
    }

    fn write_snapshot(&mut self, number: usize, token: Token, method: dormouse::sandbox::command::Method) {
        let takes = self.random.range(MS, 60 * MS);
        let fails = self.random.chance(30);
        let Some(seat) = self.seat(number) else { return };
        let core = seat.machine.core();
        let (Some(survey), Some(ordinal)) = (core.survey.clone(), seat.draft) else {
            return self.violation("a snapshot is written that was never begun".to_owned());
        };
        let manifest = Manifest {
            version: 1,
            key: core.key.clone(),
            generation: core.generation,
            ordinal,
            folder: "/snapshots".into(),
            created_unix_ns: 7,
            method,
            state: None,
            ram: Vec::new(),
            qemu_version: survey.version.to_string(),
            machine_type: None,
            command_line: crate::places::command_line(),
            memory_devices: survey.memory_devices.clone(),
            shape: survey.shape(),
        };
        let saved = self.guests[number].qemu.as_ref().and_then(|qemu| qemu.saved.clone());
        let (Some(saved), false) = (saved, fails) else {
            return self.answer(number, takes, token, failed(Reason::SaveFailed, "no space"));
        };
        self.guests[number].snapshots.insert(ordinal, saved);
        self.answer(number, takes, token, Answer::SnapshotWritten(Box::new(manifest)));
    }

    /// While QEMU starts; now and then the disk cannot read what it has written.
    fn digest(&mut self, number: usize, token: Token) {
        let takes = self.random.range(1_000, 40 * MS);
        let answer = if self.random.chance(60) {
            failed(Reason::SnapshotDamaged, "unreadable")
        } else {
            Answer::DigestRight
        };
        self.answer(number, takes, token, answer);
    }

    fn remove_snapshot(&mut self, number: usize, removal: &SnapshotRemoval) {
        let ordinal = match removal {
            SnapshotRemoval::Draft => self.seat(number).and_then(|seat| seat.draft.take()),
            SnapshotRemoval::Consumed(manifest) => Some(manifest.ordinal),
        };
        if let Some(ordinal) = ordinal {
            self.guests[number].snapshots.remove(&ordinal);
            self.mark(number);
        }
    }

    fn launch(&mut self, number: usize, token: Token, launch: &Launch) {
        let status = if launch.arguments.len() > 1 { "inmigrate" } else { "prelaunch" };
        self.start(number, token, Some(launch.manifest.ordinal), status);
    }

    fn start(&mut self, number: usize, token: Token, snapshot: Option<u64>, status: &'static str) {
        let occupied = self.guests[number].qemu.is_some();
        if occupied || self.random.chance(30) {
            return self.answer(number, MS, token, failed(Reason::LaunchFailed, "cannot start"));
        }
        let incoming = snapshot.and_then(|ordinal| self.guests[number].snapshots.get(&ordinal).cloned());
        let underway = self.seat(number).and_then(|seat| seat.machine.underway());
        let underway = underway.map(|(command, _)| command.clone());
        if underway.as_ref().is_some_and(|command| command.request == Request::PowerCycle) {
            self.keep_disks(number);
        }
        let process = self.start_qemu(number, status);
        let started_for = underway.map(|command| command.request_id);
        if let Some(qemu) = self.guests[number].qemu.as_mut() {
            (qemu.incoming, qemu.started_for) = (incoming, started_for);
        }
        if let Some(seat) = self.seat(number) {
            seat.held = Some(process);
        }
        self.guests[number].busy_until = 0;
        self.answer(number, MS, token, Answer::Launched(process));
    }
}

fn slices(record: Record) -> Option<Entry> {
    match record {
        Record::Slices(batch) => Some(Entry::Slices(batch)),
        _ => None,
    }
}

fn short(text: &str) -> String {
    text.chars().take(260).collect()
}
