//! What happens to the agent: it is started, asked, disturbed and killed; what it replies is compared with the truth.

use std::collections::BTreeMap;

use dormouse::clock::Clock;
use dormouse::metering::accounts::Accounts;
use dormouse::sandbox::command::{Command, CommandResult, Method, MethodChoice, Outcome, Request, Scaling};
use dormouse::sandbox::machine::{Core, Input, LastSign, Phase, Recovered, Sandbox, Settings};
use dormouse::sandbox::refusal::{Reason, Refusal};
use dormouse_ledger::SandboxKey;
use dormouse_metering::{BillingState, Meter};

use crate::agent::{Agent, Seat};
use crate::ledger::{Entry, Row, Waiter};
use crate::qemu::{BASE, Effects, MIB, MS, Qemu};
use crate::world::{BOOT, Event, SECOND, Truth, World};

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
        self.restarted = self.now;
        let epoch = self.epoch;
        let (clock, beginning) = Clock::simulated_restart(BOOT, &self.time, self.ledger.anchor);
        self.clock = clock;
        if beginning != dormouse::clock::Beginning::Kept {
            self.ledger.anchor = Some(self.clock.anchor());
        }
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
        let seats = self.guests.iter().map(|_| None).collect();
        self.agent = Some(Agent { accounts, seats, proof_under_way: false, commit_due: false });
        if let Some(proof) = self.ledger.proof {
            self.submit(true, vec![Entry::NobodyHeard(proof)], Waiter::Nobody);
        }
        self.after(250 * MS, Event::Seal { epoch });
        self.after(self.knobs.tick, Event::Tick { epoch });
        self.after(MS, Event::Prove { epoch });
        self.after(5 * MS, Event::Discover { epoch });
        for (key, row) in living {
            self.take_up(&key, &row);
        }
    }

    /// As `host::recover` does it.
    fn take_up(&mut self, key: &SandboxKey, row: &Row) {
        let Some(number) = self.guests.iter().position(|guest| guest.key.sandbox == key.sandbox) else {
            return;
        };
        let meter = Meter::resume(row.open.clone(), row.pending.iter().cloned());
        let Some((shape, state)) = meter.ok().and_then(|meter| meter.holding()) else {
            return self.violation(format!("{key} holds nothing"));
        };
        let mut core = self.core(number);
        core.generation = key.generation;
        (core.shape, core.state) = (shape, state);
        let complete = row.snapshots.values().rfind(|(_, complete)| *complete);
        let manifest = complete.map(|(manifest, _)| manifest.clone());
        let open = self.ledger.order.iter().filter_map(|id| self.ledger.commands.get(id));
        let unfinished = open
            .filter(|intent| intent.outcome.is_none() && intent.generation == key.generation)
            .find(|intent| intent.command.key.sandbox == key.sandbox)
            .map(|intent| intent.command.clone());
        let hibernated = matches!(state, BillingState::Hibernated | BillingState::Waking);
        core.phase = if hibernated { Phase::Hibernated } else { Phase::Attached };
        let alive = |qemu: &Qemu| qemu.identity == row.process;
        let lives = !hibernated && self.guests[number].qemu.as_ref().is_some_and(alive);
        if !hibernated {
            core.process = Some(row.process);
        }
        let saved = if hibernated {
            core.snapshot = manifest;
            None
        } else {
            manifest
        };
        let ran = row.lifecycle == BillingState::Running;
        let last_sign = LastSign::of(self.ledger.proof, row.unheard, row.open.as_ref(), &row.pending);
        let recovered = Recovered { core, unfinished, saved, ran, last_sign };
        let (machine, actions) = Sandbox::recover_from(recovered, self.clock.now(), lives);
        self.trace(|| format!("taken up: {:?} {:?}", machine.core().phase, machine.underway()));
        let mut seat = Seat::new(machine);
        seat.held = lives.then_some(row.process);
        if let Some(agent) = self.agent.as_mut() {
            agent.seats[number] = Some(seat);
        }
        self.carry_out(number, actions);
    }

    fn core(&self, number: usize) -> Core {
        let guest = &self.guests[number].key;
        let key =
            dormouse::sandbox::command::SandboxKey { org: guest.org.clone(), sandbox: guest.sandbox.clone() };
        Core::new(key, "/run/dormouse/sb.qmp".into(), settings())
    }

    fn kill_agent(&mut self) {
        self.trace(|| "the agent is killed".to_owned());
        // A commit may have been through without the agent having been told.
        let through = if self.now < self.disk_fails_until {
            0
        } else {
            self.random.index(self.ledger.waiting.len() + 1)
        };
        let waiting = std::mem::take(&mut self.ledger.waiting);
        for unit in waiting.into_iter().take(through) {
            self.ledger.apply(&unit);
        }
        self.agent = None;
        self.epoch += 1;
        self.asked.clear();
        for number in 0..self.guests.len() {
            self.blind(number, 2 * SECOND);
        }
        for guest in &mut self.guests {
            if let Some(qemu) = guest.qemu.as_mut() {
                qemu.client = None;
            }
        }
        let away = if self.random.chance(700) { 500 * MS } else { 20 * SECOND };
        let away = self.random.range(MS, away);
        self.after(away, Event::Restart);
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
        match event {
            Event::Answer { seat, token, answer, .. } => self.feed(seat, Input::Answer(token, answer)),
            Event::Told { seat, link, name, stamp_ns, detail, .. } => {
                self.told(seat, link, name, stamp_ns, detail);
            }
            Event::Gap { seat, link, .. } => {
                if self.seat(seat).and_then(|seat| seat.link.as_ref()).is_some_and(|open| open.number == link)
                {
                    self.feed(seat, Input::Gap);
                }
            }
            Event::Takes { seat, link, token, ask, .. } => self.takes(seat, link, token, ask),
            Event::Reply { seat, link, token, answer, .. } => self.reply_arrives(seat, link, token, answer),
            Event::Overdue { seat, link, token, .. } => self.overdue(seat, link, token),
            Event::Connects { seat, attempt, token, .. } => self.connects(seat, attempt, token),
            Event::Surveys { seat, attempt, token, status, link, .. } => {
                self.surveys(seat, attempt, token, status, link);
            }
            Event::Closed { seat, link, .. } => self.closed(seat, link),
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
        let Some(step) = self.clock.notice_step() else { return };
        let records =
            self.agent.as_mut().map(|agent| agent.accounts.clock_stepped(step.at)).unwrap_or_default();
        self.facts(records);
        self.submit(true, vec![Entry::Anchor(step.anchor)], Waiter::Nobody);
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
            if nobody && lives {
                let machine = Sandbox::new(self.core(number));
                if let Some(agent) = self.agent.as_mut() {
                    agent.seats[number] = Some(Seat::new(machine));
                }
                let request = Request::Attach {
                    qmp_path: "/run/dormouse/sb.qmp".into(),
                    plan: "pro".to_owned(),
                    tags: BTreeMap::new(),
                };
                self.command(number, request);
            }
        }
    }

    fn command(&mut self, number: usize, request: Request) {
        let key = self.core(number).key;
        let attaches = matches!(request, Request::Attach { .. });
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
        let now = self.now;
        let Some(seat) = self.seat(number) else { return };
        if !again {
            seat.taken.push((command.request_id.clone(), now));
        }
        self.asked.insert(command.request_id.clone());
        self.feed(number, Input::Command(command));
    }

    pub(crate) fn somebody_asks(&mut self) {
        if self.now >= self.knobs.end {
            return;
        }
        let every = self.knobs.asks_every;
        let next = self.random.range(MS, every * 2);
        self.after(next, Event::Ask);
        let number = self.random.index(self.guests.len());
        let sleeps = self.seat(number).is_some_and(|seat| seat.machine.core().phase == Phase::Hibernated);
        let request = match self.random.range(0, 20) {
            _ if sleeps && self.random.chance(600) => Request::Wake,
            0..6 => Request::Scale(Scaling::of_memory(BASE + self.random.range(0, 5) * 256 * MIB)),
            6..9 => Request::Pause { reclaim: false },
            9..12 => Request::Resume { prefetch: false },
            12..15 => {
                let methods = [Method::Shared, Method::MappedRam, Method::Internal];
                Request::Hibernate { method: MethodChoice::Named(methods[self.random.index(3)]) }
            }
            15 | 16 => Request::Wake,
            17 => Request::Reboot,
            18 => Request::Destroy,
            _ => Request::Detach,
        };
        self.command(number, request);
    }

    /// Something goes wrong, of the kinds that this history has.
    pub(crate) fn trouble(&mut self) {
        if self.now >= self.knobs.end {
            return;
        }
        let every = self.knobs.every;
        let next = self.random.range(MS, every * 2);
        self.after(next, Event::Trouble);
        let kind = self.random.range(0, 16);
        let number = self.random.index(self.guests.len());
        let most = if self.random.chance(700) { 900 * MS } else { 8 * SECOND };
        let while_ns = self.random.range(MS, most);
        if self.guests[number].qemu.is_none() && self.agent.is_some() && self.random.chance(200) {
            let vacant = self.seat(number).is_none();
            if vacant {
                self.start_qemu(number, "running");
            }
        }
        if self.knobs.troubles & (1 << kind) == 0 {
            return;
        }
        self.trace(|| format!("trouble {kind} for {number}"));
        match kind {
            0 | 1 if self.agent.is_some() => self.kill_agent(),
            2 => self.disk_fails_until = self.now + while_ns,
            3 => {
                let by = self.random.range(20 * MS, 7_200 * SECOND).cast_signed();
                let by = if self.random.chance(500) { by } else { -by };
                self.step_wall(by);
                let epoch = self.epoch;
                let noticed = self.random.range(10_000, 5 * MS);
                self.after(noticed, Event::NoticeStep { epoch });
            }
            _ => self.trouble_of_guest(number, kind, while_ns),
        }
    }

    fn trouble_of_guest(&mut self, number: usize, kind: u64, while_ns: u64) {
        let now = self.now;
        let mut effects = Effects::default();
        let guest = &mut self.guests[number];
        let Some(qemu) = guest.qemu.as_mut() else { return };
        let hangs = now < qemu.hangs_until;
        match kind {
            5 | 11.. if hangs => {}
            4 => return self.qemu_exits(number),
            5 => qemu.leave(1000, &mut self.random, &mut effects),
            6 | 7 => {
                // Another client takes the socket for a while; the guest may be changed meanwhile.
                guest.busy_until = now + while_ns;
                let client = qemu.client.take();
                return self.lose_client(number, client);
            }
            8 => {
                let client = qemu.client.take();
                return self.lose_client(number, client);
            }
            9 => qemu.hangs_until = now + while_ns,
            10 => qemu.loses = 1 + u32::from(self.random.chance(300)),
            11 if qemu.runs() => {
                guest.meddled = now;
                qemu.stop("paused", &mut effects);
            }
            12 if qemu.status == "paused" => {
                guest.meddled = now;
                qemu.go_on(&mut effects);
            }
            13 => {
                let fault = if self.random.chance(500) { "io-error" } else { "guest-panicked" };
                guest.meddled = now;
                qemu.stop(fault, &mut effects);
            }
            14 if qemu.leaving => {}
            14 => qemu.reset(&mut self.random, &mut effects),
            15 => {
                // Somebody else asks for another size.
                let device = self.random.index(qemu.memory.len());
                let arguments = serde_json::json!({"path": format!("/machine/peripheral/{}", qemu.memory[device].id),
                    "value": self.random.range(0, 5) * 256 * MIB});
                let set = dormouse::sandbox::machine::QmpCommand { name: "qom-set", arguments };
                let _ = qemu.take(&set, &mut self.random, &mut effects);
            }
            _ => {}
        }
        self.apply(number, effects);
    }

    /// Somebody is told: it must be so.
    pub(crate) fn replied(&mut self, number: usize, id: &str, result: &Result<Outcome, Refusal>) {
        let short = result.as_ref().map(|outcome| &outcome.result).map_err(|refusal| refusal.reason);
        self.trace(|| format!("reply to {id}: {short:?}"));
        if !self.asked.remove(id) {
            let recovered = self.ledger.commands.contains_key(id);
            if !recovered {
                self.violation(format!("{id} is answered, and nobody asked"));
            }
        }
        let now = self.now;
        let Some(seat) = self.seat(number) else { return };
        let Some(index) = seat.taken.iter().rposition(|(taken, _)| taken == id) else { return };
        let (_, since) = seat.taken.remove(index);
        let Some(request) = self.ledger.commands.get(id).map(|intent| intent.command.request.clone()) else {
            return;
        };
        // What is so already is what QEMU has told, and a size is told up to a second late.
        let unchanged = result.as_ref().is_ok_and(|outcome| outcome.result == CommandResult::Unchanged);
        let from = since.saturating_sub(if unchanged { 1_100 * MS } else { 50 * MS });
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
            (Request::Resume { .. } | Request::Wake, Ok(_)) => {
                (!was(&|truth| truth.runs)).then_some("it never ran")
            }
            (Request::Scale(Scaling { memory_bytes: Some(memory_bytes), .. }), Ok(outcome)) => {
                let bytes = match outcome.result {
                    CommandResult::Partial { achieved_bytes } => achieved_bytes,
                    _ => *memory_bytes,
                };
                (!was(&|truth| truth.plugged + BASE == bytes)).then_some("it never had that much")
            }
            (Request::Hibernate { .. }, Ok(_)) => {
                (now.lives || guest.snapshots.is_empty()).then_some("there is no snapshot, or a QEMU")
            }
            (Request::Hibernate { .. }, Err(refusal)) if refusal.reason == Reason::SaveFailed => {
                let meddled = guest.meddled >= from;
                let stands =
                    was(&|truth| truth.runs) && !now.runs && !meddled && refusal.message.contains("goes on");
                (stands || !was(&|truth| truth.lives)).then_some("the guest does not go on")
            }
            (Request::Wake, Err(refusal))
                if matches!(
                    refusal.reason,
                    Reason::QemuFailed | Reason::LaunchFailed | Reason::SnapshotDamaged
                ) =>
            {
                let asleep = !now.lives && !guest.snapshots.is_empty();
                let was_hibernated = was(&|truth| !truth.lives && truth.exists);
                (was_hibernated && !asleep && now.runs).then_some("it runs")
            }
            (Request::Destroy, Ok(_)) => now.lives.then_some("its QEMU lives"),
            _ => None,
        };
        lie.map(|lie| format!("{lie}: {:?}", guest.truth.iter().rev().take(4).collect::<Vec<_>>()))
    }
}
