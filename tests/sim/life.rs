//! What happens to the agent: it is started, asked, disturbed and killed; what it replies is compared with the truth.

use std::collections::BTreeMap;

use dormouse::clock::{Beginning, Clock, Step};
use dormouse::metering::accounts::Accounts;
use dormouse::sandbox::command::{Command, CommandResult, Outcome, Request, Scaling};
use dormouse::sandbox::machine::{Core, Input, LastSign, Phase, Recovered, Sandbox, Settings};
use dormouse::sandbox::refusal::{Reason, Refusal};
use dormouse_ledger::SandboxKey;
use dormouse_metering::{BillingState, Meter};

use crate::agent::{Agent, Seat};
use crate::ledger::{Entry, Row, Unit, Waiter};
use crate::qemu::{BASE, MS, Qemu};
use crate::world::{Event, SECOND, Truth, World};

const LATENESS_NS: u64 = 1_500 * MS;
pub(crate) const PROOF_NS: u64 = SECOND;

fn settings() -> Settings {
    Settings {
        scale_stall_ms: 2_000,
        quit_ms: 500,
        reconnect_max_ms: 1_000,
        launch_ms: 3_000,
        ..Settings::default()
    }
}

impl World {
    /// The agent starts, from what is durable alone.
    pub(crate) fn restart(&mut self) {
        self.epoch += 1;
        (self.restarted, self.untold) = (self.now, Vec::new());
        let epoch = self.epoch;
        let boot = self.ledger.anchor.map(|anchor| anchor.boot);
        let steps: Vec<_> = self.ledger.steps.iter().filter(|at| Some(at.boot) == boot).copied().collect();
        let (clock, beginning) = Clock::simulated_restart(self.boot().id, &self.time, self.ledger.anchor);
        self.clock = clock;
        if beginning == Beginning::NewBoot {
            self.keep_anchor();
        }
        self.note_anchor();
        self.trace(|| format!("the agent starts, life {epoch}, {beginning:?}"));
        let now = self.clock.now();
        let mut accounts = Accounts::new(LATENESS_NS, now, self.ledger.proof);
        let rows: Vec<(SandboxKey, Row)> =
            self.ledger.rows.iter().map(|(k, r)| (k.clone(), r.clone())).collect();
        let mut living = Vec::new();
        for (key, row) in rows.into_iter().filter(|(_, row)| !row.ended) {
            let prepaid = self.guests.iter().any(|guest| guest.key.sandbox == key.sandbox && guest.prepaid);
            if let Err(refused) = accounts.resume(key.clone(), row.open.clone(), row.pending.clone(), prepaid)
            {
                self.violation(format!("{key} cannot be taken up: {refused}"));
            }
            living.push((key, row));
        }
        let stepped = accounts.resume_steps(&steps);
        let booted = accounts.resume_boot(now);
        let seats = self.guests.iter().map(|_| None).collect();
        self.agent = Some(Agent { accounts, seats, proof_under_way: false, commit_due: false });
        if let Some(proof) = self.ledger.proof {
            self.submit(true, vec![Entry::NobodyHeard(proof)], Waiter::Nobody);
        }
        for at in self.ledger.proof.into_iter().chain([now]) {
            (0..self.guests.len()).for_each(|guest| self.note(guest, at));
        }
        self.facts(stepped.into_iter().chain(booted).collect());
        if let Beginning::Stepped(step) = beginning {
            self.clock_stepped(&step);
        }
        self.after(250 * MS, Event::Seal { epoch });
        self.after(self.knobs.tick, Event::Tick { epoch });
        self.after(MS, Event::Prove { epoch });
        self.after(5 * MS, Event::Discover { epoch });
        for (key, row) in living {
            self.take_up(&key, &row);
        }
        self.take_up_creates();
    }

    /// As `host::recover` does it.
    fn take_up(&mut self, key: &SandboxKey, row: &Row) {
        self.proven_through(key, row);
        let Some(number) = self.guests.iter().position(|guest| guest.key.sandbox == key.sandbox) else {
            return;
        };
        let meter = Meter::resume(row.open.clone(), row.pending.iter().cloned());
        let Some((shape, state)) = meter.as_ref().ok().and_then(Meter::holding) else {
            return self.violation(format!("{key} holds nothing"));
        };
        let mut core = self.core(number);
        core.generation = key.generation;
        (core.shape, core.state) = (shape, state);
        let complete = row.snapshots.values().rfind(|(_, complete)| *complete);
        let manifest = complete.map(|(manifest, _)| Box::new(manifest.clone()));
        let open = self.ledger.order.iter().filter_map(|id| self.ledger.commands.get(id));
        let unfinished: Vec<Command> = open
            .filter(|intent| intent.outcome.is_none())
            // A create was asked for before there was a generation.
            .filter(|intent| intent.generation == key.generation || intent.generation == 0)
            .filter(|intent| intent.command.key.sandbox == key.sandbox)
            .map(|intent| intent.command.clone())
            .collect();
        let hibernated = matches!(state, BillingState::Hibernated | BillingState::Waking);
        let suppressed = meter.as_ref().is_ok_and(Meter::is_suppressed);
        core.suppressed = suppressed.then(|| "moved".to_owned());
        core.phase = if hibernated { Phase::Hibernated } else { Phase::Attached };
        let alive = |qemu: &Qemu| qemu.identity == row.process;
        // An unfinished wake has started it, or one that a destroy has overtaken.
        let may_wake =
            |command: &Command| matches!(command.request, Request::Wake { .. } | Request::Destroy { .. });
        let there = !hibernated || unfinished.iter().any(may_wake);
        let lives = there && self.guests[number].qemu.as_ref().is_some_and(alive);
        core.process = Some(row.process).filter(|_| lives || !hibernated);
        let started = self.started_by(number, &unfinished);
        core.started = started.is_some();
        core.process = started.or(core.process);
        let lives = lives || started.is_some();
        let saved = if hibernated {
            core.snapshot = manifest;
            None
        } else {
            manifest
        };
        let ran = row.lifecycle == BillingState::Running;
        let last_sign = LastSign::of(self.ledger.proof, row.unheard, row.open.as_ref(), &row.pending);
        let plugged_by_device = row.plugged_by_device.clone();
        let recovered = Recovered { core, unfinished, saved, ran, last_sign, plugged_by_device };
        let (machine, actions) = Sandbox::recover_from(recovered, self.clock.now(), lives);
        self.trace(|| format!("taken up: {:?} {:?}", machine.core().phase, machine.underway()));
        let mut seat = Seat::new(machine, self.scheduled << 20, self.clock.slept_ns());
        seat.held = seat.machine.core().process.filter(|_| lives);
        if let Some(agent) = self.agent.as_mut() {
            agent.seats[number] = Some(seat);
        }
        self.carry_out(number, actions);
    }

    pub(crate) fn core(&self, number: usize) -> Core {
        let guest = &self.guests[number].key;
        let key =
            dormouse::sandbox::command::SandboxKey { org: guest.org.clone(), sandbox: guest.sandbox.clone() };
        Core::new(key, "/run/dormouse/sb.qmp".into(), settings())
    }

    pub(crate) fn kill_agent(&mut self) {
        self.trace(|| "the agent is killed".to_owned());
        self.end_agent();
        let away = if self.random.chance(700) { 500 * MS } else { 20 * SECOND };
        let away = self.random.range(MS, away);
        self.after(away, Event::Restart { boot: self.boots.len() });
    }

    /// The agent is gone, and with it what the ledger had not written.
    pub(crate) fn end_agent(&mut self) {
        self.before_the_end();
        // A commit may have been through without the agent having been told.
        let through = if self.now < self.disk_fails_until {
            0
        } else {
            self.random.index(self.ledger.waiting.len() + 1)
        };
        let waiting = std::mem::take(&mut self.ledger.waiting);
        let bills = |unit: &&Unit| unit.entries.iter().any(|entry| matches!(entry, Entry::Slices(_)));
        if let Some(lost) = waiting.iter().skip(through).find(bills) {
            self.unlearn(lost.number);
        }
        for unit in waiting.into_iter().take(through) {
            self.ledger.apply(&unit);
            self.ledger.write_down(unit);
        }
        self.agent = None;
        self.epoch += 1;
        self.asked.clear();
        self.asked_again.clear();
        for guest in &mut self.guests {
            if let Some(qemu) = guest.qemu.as_mut() {
                qemu.client = None;
            }
        }
    }

    pub(crate) fn agent_event(&mut self, event: Event) {
        let of = match &event {
            Event::Answer { epoch, .. }
            | Event::Told { epoch, .. }
            | Event::Gap { epoch, .. }
            | Event::Takes { epoch, .. }
            | Event::Reply { epoch, .. }
            | Event::Overdue { epoch, .. }
            | Event::Connects { epoch, .. }
            | Event::Surveys { epoch, .. }
            | Event::Closed { epoch, .. }
            | Event::Exited { epoch, .. }
            | Event::Limits { epoch, .. }
            | Event::Limited { epoch, .. }
            | Event::Commit { epoch }
            | Event::Seal { epoch }
            | Event::Tick { epoch }
            | Event::Prove { epoch }
            | Event::Discover { epoch }
            | Event::NoticeStep { epoch } => *epoch,
            _ => return,
        };
        if of != self.epoch || self.agent.is_none() {
            return;
        }
        let Some(event) = self.not_too_early(event) else { return };
        match event {
            Event::Answer { seat, of, token, answer, .. } => {
                if self.seat(seat).is_some_and(|seat| seat.number == of) {
                    self.feed(seat, Input::Answer(token, answer));
                }
            }
            Event::Told { seat, link, name, stamp_ns, detail, known, .. } => {
                self.told(seat, link, (name, stamp_ns, detail), &known);
            }
            Event::Gap { seat, link, .. } => {
                if self.seat(seat).and_then(|seat| seat.link.as_ref()).is_some_and(|open| open.number == link)
                {
                    self.feed(seat, Input::Gap);
                }
            }
            Event::Takes { seat, link, token, ask, .. } => self.takes(seat, link, token, ask),
            Event::Reply { seat, link, token, answer, known, .. } => {
                self.reply_arrives(seat, link, (token, answer), &known);
            }
            Event::Overdue { seat, link, token, .. } => self.overdue(seat, link, token),
            Event::Connects { seat, attempt, token, .. } => self.connects(seat, attempt, token),
            Event::Surveys { seat, attempt, token, status, link, .. } => {
                self.surveys(seat, attempt, token, status, link);
            }
            Event::Closed { seat, link, .. } => self.closed(seat, link),
            Event::Limits { seat, of, token, process, limit_milli, .. } => {
                self.limits((seat, of), token, process, limit_milli);
            }
            Event::Limited { seat, of, token, answer, at, .. } => {
                self.limited((seat, of), (token, answer), at);
            }
            Event::Exited { seat, process, .. } => {
                if let Some(held) = self.seat(seat).filter(|seat| seat.held == Some(process)) {
                    held.held = None;
                    self.feed(seat, Input::Exited);
                }
            }
            event => self.by_the_clock(&event),
        }
    }

    /// What the agent does by the clock.
    fn by_the_clock(&mut self, event: &Event) {
        let now = self.clock.now();
        let epoch = self.epoch;
        match event {
            Event::Commit { .. } => self.commit(),
            Event::Seal { .. } => {
                let records = self.agent.as_mut().map(|agent| agent.accounts.seal(now)).unwrap_or_default();
                self.facts(records);
                self.after(250 * MS, Event::Seal { epoch });
            }
            Event::Tick { .. } => {
                let records = self.agent.as_mut().map(|agent| agent.accounts.tick(now)).unwrap_or_default();
                (0..self.guests.len()).for_each(|guest| self.note(guest, now));
                self.facts(records);
                self.after(self.knobs.tick, Event::Tick { epoch });
            }
            Event::Prove { .. } => {
                self.prove(now);
                self.after(PROOF_NS, Event::Prove { epoch });
            }
            Event::Discover { .. } => {
                self.discover();
                self.after(SECOND, Event::Discover { epoch });
            }
            _ => self.notice_step(),
        }
    }

    fn notice_step(&mut self) {
        if let Some(step) = self.clock.notice_step() {
            self.clock_stepped(&step);
        }
    }

    /// As the host tells the metering actor of it.
    fn clock_stepped(&mut self, step: &Step) {
        let at = step.anchor.stamp(step.at.boottime_ns);
        let records = self.agent.as_mut().map(|agent| agent.accounts.clock_stepped(at)).unwrap_or_default();
        (0..self.guests.len()).for_each(|guest| self.note(guest, at));
        self.facts(records);
        self.submit(true, vec![Entry::Anchor(step.anchor)], Waiter::Nobody);
        self.note_anchor();
    }

    fn prove(&mut self, now: dormouse_metering::Stamp) {
        let Some(agent) = self.agent.as_mut() else { return };
        let guests = &self.guests;
        let live = |(number, seat): (usize, &Option<Seat>)| {
            let held = seat.as_ref().and_then(|seat| seat.held);
            held.is_none_or(|held| guests[number].qemu.as_ref().is_some_and(|qemu| qemu.identity == held))
        };
        if !agent.seats.iter().enumerate().all(live) {
            return;
        }
        agent.accounts.proven(now);
        if !agent.proof_under_way {
            agent.proof_under_way = true;
            self.submit(true, vec![Entry::Proof(now)], Waiter::Proof);
        }
    }

    /// A socket in the watched folder that nobody has attached yet.
    fn discover(&mut self) {
        for number in 0..self.guests.len() {
            let nobody = self.agent.as_ref().is_some_and(|agent| agent.seats[number].is_none());
            let lives = self.guests[number].qemu.as_ref().is_some_and(|qemu| !qemu.leaving);
            if nobody && (lives || self.guests[number].socket_left) {
                self.seat_anew(number);
                let request = Request::Attach {
                    qmp_path: "/run/dormouse/sb.qmp".into(),
                    plan: "pro".to_owned(),
                    tags: BTreeMap::new(),
                    terms: None,
                };
                self.command(number, request);
            }
        }
    }

    pub(crate) fn command(&mut self, number: usize, request: Request) {
        let key = self.core(number).key;
        let attaches = matches!(request, Request::Attach { .. } | Request::Create { .. });
        let again = !attaches && self.random.chance(40) && !self.ids.is_empty();
        let mut command = Command {
            key,
            request_id: format!("c{}", self.ids.len()),
            deadline_ms: None,
            asked_by: String::new(),
            request,
        };
        if again {
            // A request id that was used before: with the same payload, or with another.
            let index = self.random.index(self.ids.len());
            command.request_id.clone_from(&self.ids[index].request_id);
            if self.random.chance(700) && self.ids[index].key == command.key {
                command.request = self.ids[index].request.clone();
            }
        } else {
            self.ids.push(command.clone());
        }
        // As `HostHandle` does: what is stored is answered before a destroy could overtake anything.
        let stored = self.ledger.commands.contains_key(&command.request_id);
        if stored && command.request == (Request::Destroy { graceful_ms: None }) {
            return;
        }
        let now = self.now;
        let Some(seat) = self.seat(number) else { return };
        if !again {
            seat.taken.push((command.request_id.clone(), now));
        }
        let asked = (number, command.request_id.clone());
        // The same joins what is under way, and is answered with it.
        if self.asked.get(&asked).is_some_and(|request| *request != command.request) {
            self.asked_again.insert(asked);
        } else {
            self.asked.insert(asked, command.request.clone());
        }
        self.feed(number, Input::Command(command));
    }

    /// Somebody is told: it must be so.
    pub(crate) fn replied(&mut self, number: usize, id: &str, result: &Result<Outcome, Refusal>) {
        let short = result.as_ref().map(|outcome| &outcome.result).map_err(|refusal| refusal.reason);
        self.trace(|| format!("reply to {id}: {short:?}"));
        let reused = result.as_ref().is_err_and(|refusal| refusal.reason == Reason::RequestIdReused);
        let came_again = self.asked_again.remove(&(number, id.to_owned()));
        if reused && came_again {
            // Whoever has asked under that id first is yet to be answered.
        } else if self.asked.remove(&(number, id.to_owned())).is_none() {
            let recovered = self.ledger.commands.contains_key(id);
            if !recovered {
                self.violation(format!("{id} is answered, and nobody asked"));
            }
        }
        self.told_of_suppression(number, id, result);
        if self.ledger.commands.get(id).is_some_and(|intent| intent.command.request == Request::PowerCycle) {
            self.keep_disks(number);
        }
        let now = self.now;
        let Some(seat) = self.seat(number) else { return };
        let Some(index) = seat.taken.iter().rposition(|(taken, _)| taken == id) else { return };
        let (_, since) = seat.taken.remove(index);
        let Some(request) = self.ledger.commands.get(id).map(|intent| intent.command.request.clone()) else {
            return;
        };
        // What is so already is what QEMU has told, and a size is told up to a second late.
        let as_told = |outcome: &Outcome| match outcome.result {
            CommandResult::Unchanged => true,
            // Its memory may not have been looked at: another dimension was reached before it.
            CommandResult::Partial { .. } => {
                matches!(&request, Request::Scale(Scaling { vcpus_milli: Some(_), .. }))
            }
            CommandResult::Done => false,
        };
        let unchanged = result.as_ref().is_ok_and(as_told);
        let told = self.guests[number].known.iter().map(|known| known.at).max().unwrap_or(0);
        let from = if unchanged {
            told.min(since).saturating_sub(1_100 * MS)
        } else {
            since.saturating_sub(50 * MS)
        };
        let fresh = self.ledger.commands.get(id).is_some_and(|intent| intent.generation != 0);
        if let Some(lie) = self.lie(number, &request, result, from).filter(|_| fresh && since <= now) {
            let replayed = self.ids.iter().filter(|command| command.request_id == id).count() != 1;
            if !replayed {
                self.violation(format!("{id} {request:?} was told {short:?}, but {lie}"));
            }
        }
    }

    /// What of a reply is not so.
    fn lie(
        &self,
        number: usize,
        request: &Request,
        result: &Result<Outcome, Refusal>,
        from: u64,
    ) -> Option<String> {
        let guest = &self.guests[number];
        let was = |holds: &dyn Fn(&Truth) -> bool| {
            let next = guest.truth.iter().skip(1).map(|truth| truth.at).chain([u64::MAX]);
            guest.truth.iter().zip(next).any(|(truth, until)| until > from && holds(truth))
        };
        let now = guest.truth.last()?;
        let lie = match (request, result) {
            (Request::Pause { .. }, Ok(_)) => {
                (!was(&|truth| truth.lives && !truth.runs)).then_some("it never stood")
            }
            (Request::Resume { .. } | Request::Wake { .. }, Ok(_)) => {
                (!was(&|truth| truth.runs)).then_some("it never ran")
            }
            (Request::Scale(Scaling { memory_bytes: Some(memory_bytes), .. }), Ok(outcome)) => {
                let bytes = match outcome.result {
                    CommandResult::Partial { achieved_bytes } => achieved_bytes,
                    _ => *memory_bytes,
                };
                (!was(&|truth| truth.plugged() + BASE == bytes)).then_some("it never had that much")
            }
            (Request::Hibernate { .. }, Ok(_)) => {
                (now.lives || guest.snapshots.is_empty()).then_some("there is no snapshot, or a QEMU")
            }
            (Request::Hibernate { .. }, Err(refusal)) if refusal.reason == Reason::SaveFailed => {
                let meddled = guest.meddled >= from;
                // One that has ended since, while the outcome was being recorded, went on until then.
                let stands = was(&|truth| truth.runs) && now.lives && !now.runs && !meddled;
                let goes_on = refusal.message.contains("goes on");
                ((stands && goes_on) || !was(&|truth| truth.lives)).then_some("the guest does not go on")
            }
            (Request::Wake { .. }, Err(refusal))
                if matches!(
                    refusal.reason,
                    Reason::QemuFailed | Reason::LaunchFailed | Reason::SnapshotDamaged
                ) =>
            {
                let asleep = !now.lives && !guest.snapshots.is_empty();
                let was_hibernated = was(&|truth| !truth.lives && truth.exists);
                (was_hibernated && !asleep && now.runs).then_some("it runs")
            }
            (Request::Destroy { .. }, Ok(_)) => now.lives.then_some("its QEMU lives"),
            _ => None,
        };
        lie.map(|lie| format!("{lie}: {:?}", guest.truth.iter().rev().take(4).collect::<Vec<_>>()))
    }
}
