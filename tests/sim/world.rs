//! One history: the virtual time, what happens in it, and what is true of each guest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use dormouse::clock::{Clock, ManualTime};
use dormouse::process::ProcessIdentity;
use dormouse::sandbox::command::{Command, Request, SandboxKey};

use crate::agent::Agent;
use crate::boot::{Boot, PIDS_FROM};
pub(crate) use crate::event::{Ask, Event, Slot};
use crate::known::{Known, Of};
use crate::ledger::Ledger;
use crate::qemu::{DEVICES_MAX, Effects, Later, MS, Qemu};
use crate::random::Random;
use crate::suppressed::Told;

pub(crate) const SECOND: u64 = 1_000 * MS;
/// Histories from this seed on have guests with several memory devices; those before it stay what they were.
const SEVERAL_DEVICES_FROM: u64 = 100_000_000;
/// From this one on somebody suppresses guests besides.
const SUPPRESSING_FROM: u64 = 200_000_000;
/// From this one on the host is booted again, and guests are power-cycled and limited in their CPU time besides.
const BOOTING_FROM: u64 = 300_000_000;
/// From this one on sandboxes are created besides.
const CREATING_FROM: u64 = 400_000_000;
/// 2026-01-01T01:00:00Z, an hour that histories begin before.
const FULL_HOUR: i64 = 1_767_229_200_000_000_000;

/// What is true of a guest from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) at: u64,
    pub(crate) lives: bool,
    pub(crate) runs: bool,
    /// What each device has plugged.
    pub(crate) sizes: [u64; DEVICES_MAX],
    /// Of which process, where there is one: like no other of the history.
    pub(crate) process: u64,
    /// What its CPU time is limited to, in thousandths of a vCPU.
    pub(crate) vcpus_milli: u32,
    /// There is a QEMU, or a snapshot in its place.
    pub(crate) exists: bool,
}

impl Truth {
    pub(crate) fn plugged(&self) -> u64 {
        self.sizes.iter().sum()
    }
}

/// A guest and where its QEMU listens.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) key: SandboxKey,
    pub(crate) prepaid: bool,
    pub(crate) devices: usize,
    pub(crate) qemu: Option<Qemu>,
    /// Until when another client holds the socket.
    pub(crate) busy_until: u64,
    pub(crate) truth: Vec<Truth>,
    /// What of it the agent was told.
    pub(crate) known: Vec<Known>,
    /// The moments of which its meter was told.
    pub(crate) noted: BTreeSet<u64>,
    /// The last units that the ledger was given of its state and of its memory.
    pub(crate) of_state: u64,
    pub(crate) of_memory: u64,
    pub(crate) of_vcpus: u64,
    /// What is in each complete snapshot on disk.
    pub(crate) snapshots: BTreeMap<u64, Vec<(u64, u64)>>,
    /// When somebody else stopped or continued it last.
    pub(crate) meddled: u64,
    /// Whether a socket was left where nobody listens.
    pub(crate) socket_left: bool,
}

/// What may happen in a history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Knobs {
    /// Which kinds of trouble, one bit each.
    pub(crate) troubles: u64,
    /// Until when anything goes wrong or is asked.
    pub(crate) end: u64,
    pub(crate) every: u64,
    pub(crate) asks_every: u64,
    pub(crate) tick: u64,
    /// Whether anybody suppresses.
    pub(crate) suppresses: bool,
    /// Whether the host is booted again, and anybody power-cycles and limits guests.
    pub(crate) boots: bool,
    /// Whether sandboxes are created.
    pub(crate) creates: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) clock: Clock,
    pub(crate) time: Arc<ManualTime>,
    /// The boots of the host so far; `now` goes on through all of them.
    pub(crate) boots: Vec<Boot>,
    /// Whether the host is off.
    pub(crate) is_off: bool,
    pub(crate) wall_offset: i64,
    pub(crate) now: u64,
    pub(crate) queue: BinaryHeap<Reverse<(u64, u64, Slot)>>,
    pub(crate) scheduled: u64,
    pub(crate) guests: Vec<Guest>,
    pub(crate) ledger: Ledger,
    pub(crate) disk_fails_until: u64,
    pub(crate) agent: Option<Agent>,
    pub(crate) epoch: u64,
    pub(crate) restarted: u64,
    pub(crate) asked: BTreeMap<(usize, String), Request>,
    /// Of these, the requests whose id came once more, for something else, before they were answered.
    pub(crate) asked_again: BTreeSet<(usize, String)>,
    pub(crate) ids: Vec<Command>,
    pub(crate) suppressions: Vec<Told>,
    pub(crate) knobs: Knobs,
    pub(crate) pids: i32,
    /// How many processes of QEMU there were.
    pub(crate) processes: u64,
    /// Since when nothing that the agent made of anything is durable, where it is gone and the disk took nothing: of one guest,
    /// or of any.
    pub(crate) untold: Vec<(Option<usize>, u64)>,
    /// When an agent was started that found the process of a life gone, and through when that has to be billed.
    pub(crate) proven: BTreeMap<dormouse_ledger::SandboxKey, Vec<(u64, u64)>>,
    pub(crate) steps: u64,
    /// How many units the ledger was given.
    pub(crate) units: u64,
    /// The uncertainty of each observation: of which guest, from, to.
    pub(crate) windows: Vec<(usize, u64, u64)>,
    pub(crate) traces: bool,
    pub(crate) violations: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, traces: bool) -> Self {
        let mut random = Random::new(seed);
        let before_hour = random.range(0, 40 * SECOND);
        let wall_offset = FULL_HOUR.wrapping_sub_unsigned(before_hour);
        let (clock, time) = Clock::simulated(Boot::FIRST, wall_offset);
        let boots = seed >= BOOTING_FROM;
        // Most histories have few kinds of trouble, so that what goes wrong shows its cause.
        let mut troubles = match random.range(0, 4) {
            0 => 0,
            1 => 1 << random.range(0, 16),
            2 => random.next() & random.next(),
            _ => random.next(),
        };
        if boots {
            troubles = Boot::troubles(troubles, &mut random);
        }
        let knobs = Knobs {
            troubles,
            end: random.range(2, 40) * SECOND,
            every: random.range(200, 6_000) * MS,
            asks_every: random.range(100, 4_000) * MS,
            tick: random.range(2, 20) * SECOND,
            suppresses: seed >= SUPPRESSING_FROM,
            boots,
            creates: seed >= CREATING_FROM,
        };
        let guests = if random.chance(850) { 1 } else { 2 };
        let several = seed >= SEVERAL_DEVICES_FROM;
        let mut world = Self {
            random,
            clock,
            time,
            boots: vec![Boot::first()],
            is_off: false,
            wall_offset,
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            guests: Vec::new(),
            ledger: Ledger::new(boots),
            disk_fails_until: 0,
            agent: None,
            epoch: 0,
            restarted: 0,
            asked: BTreeMap::new(),
            asked_again: BTreeSet::new(),
            ids: Vec::new(),
            suppressions: Vec::new(),
            knobs,
            pids: PIDS_FROM,
            processes: 0,
            untold: Vec::new(),
            proven: BTreeMap::new(),
            steps: 0,
            units: 0,
            windows: Vec::new(),
            traces,
            violations: Vec::new(),
        };
        for number in 0..guests {
            let devices = if several { world.random.range(1, DEVICES_MAX as u64 + 1) } else { 1 };
            world.add_guest(number, usize::try_from(devices).unwrap_or(1));
        }
        world
    }

    fn add_guest(&mut self, number: usize, devices: usize) {
        let key = SandboxKey { org: "acme".to_owned(), sandbox: format!("sb-{number}") };
        let guest = Guest {
            key,
            prepaid: self.random.chance(400),
            devices,
            qemu: None,
            busy_until: 0,
            truth: Vec::new(),
            known: Vec::new(),
            noted: BTreeSet::new(),
            of_state: 0,
            of_memory: 0,
            of_vcpus: 0,
            snapshots: BTreeMap::new(),
            meddled: 0,
            socket_left: false,
        };
        self.guests.push(guest);
        if self.knobs.creates && self.random.chance(500) {
            return self.mark(number);
        }
        self.start_qemu(number, "running");
    }

    pub(crate) fn start_qemu(&mut self, guest: usize, status: &'static str) -> ProcessIdentity {
        self.pids += 1;
        self.processes += 1;
        let boot = self.boot();
        let start_time_ticks = (self.now - boot.began) / (10 * MS);
        let identity = ProcessIdentity { boot: boot.id, pid: self.pids, start_time_ticks };
        let mut qemu = Qemu::new(identity, status, self.guests[guest].devices, self.processes);
        qemu.is_looked_after = self.knobs.boots;
        self.guests[guest].qemu = Some(qemu);
        self.guests[guest].socket_left = false;
        self.mark(guest);
        identity
    }

    /// Runs the history to its end, and then for as long as it takes until nothing is left to do.
    pub(crate) fn run(&mut self) {
        self.restart();
        let (asks, troubles) = (self.knobs.asks_every, self.knobs.every);
        self.after(asks, Event::Ask);
        self.after(troubles, Event::Trouble);
        while self.now < self.knobs.end || !self.is_quiet() {
            if self.now > self.knobs.end.max(self.boot().began) + 120 * SECOND {
                let underway = self.agent.as_ref().map(Agent::underway);
                self.violation(format!("it never ends: {underway:?}"));
                return;
            }
            let Some(Reverse((at, _, Slot(event)))) = self.queue.pop() else { break };
            self.advance(at);
            self.steps += 1;
            self.happen(event);
        }
    }

    /// Whether everything has come to rest: nothing under way, everybody in contact, the last word sealed.
    fn is_quiet(&self) -> bool {
        let rested = self.now > self.knobs.end.max(self.restarted) + 6 * SECOND;
        let held_back = |qemu: &Qemu| qemu.memory.iter().any(|memory| memory.throttled);
        let told = !self.guests.iter().filter_map(|guest| guest.qemu.as_ref()).any(held_back);
        rested
            && told
            && self.asked.is_empty()
            && self.ledger.waiting.is_empty()
            && self.agent.as_ref().is_some_and(Agent::is_quiet)
    }

    fn advance(&mut self, at: u64) {
        if at > self.now {
            self.time.advance(at - self.now);
            self.now = at;
        }
    }

    pub(crate) fn after(&mut self, ns: u64, event: Event) {
        self.at(self.now + ns, event);
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at.max(self.now), self.scheduled, Slot(event))));
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.traces {
            eprintln!("{:>12.6} {}", std::time::Duration::from_nanos(self.now).as_secs_f64(), what());
        }
    }

    pub(crate) fn violation(&mut self, what: impl std::fmt::Display) {
        self.trace(|| format!("VIOLATION {what}"));
        self.violations.push(format!("at {} ns: {what}", self.now));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Qemu { guest, process, later } => self.qemu_by_itself(guest, process, later),
            Event::Ask => self.somebody_asks(),
            Event::Trouble => self.trouble(),
            Event::Restart { boot } if boot == self.boots.len() && !self.is_off => self.restart(),
            Event::Kill { epoch } if epoch == self.epoch && self.agent.is_some() => self.kill_agent(),
            Event::Restart { .. } | Event::Kill { .. } => {}
            Event::Boot => self.boot_host(),
            Event::CreatedAgain { guest } => self.created_again(guest),
            event => self.agent_event(event),
        }
    }

    /// Writes down what is true of a guest from now on.
    pub(crate) fn mark(&mut self, guest: usize) {
        let now = self.now;
        let guest = &mut self.guests[guest];
        let qemu = guest.qemu.as_ref();
        let truth = Truth {
            at: now,
            lives: qemu.is_some(),
            runs: qemu.is_some_and(Qemu::runs),
            sizes: qemu.map_or([0; DEVICES_MAX], Qemu::sizes),
            process: qemu.map_or(0, |qemu| qemu.number),
            vcpus_milli: qemu.map_or(0, Qemu::vcpus_milli),
            exists: qemu.is_some() || !guest.snapshots.is_empty(),
        };
        match guest.truth.last_mut() {
            Some(last) if Truth { at: now, ..*last } == truth => {}
            Some(last) if last.at == now => *last = truth,
            _ => guest.truth.push(truth),
        }
    }

    fn qemu_by_itself(&mut self, guest: usize, process: ProcessIdentity, later: Later) {
        let mut effects = Effects::default();
        let Some(qemu) = self.guests[guest].qemu.as_mut().filter(|qemu| qemu.identity == process) else {
            return;
        };
        if self.now < qemu.hangs_until && !matches!(later, Later::Exit) {
            // Its main loop holds the lock without which nothing in it changes.
            let at = qemu.hangs_until;
            return self.at(at, Event::Qemu { guest, process, later });
        }
        match later {
            Later::Plug(device) => qemu.plug(device, &mut self.random, &mut effects),
            Later::Held(device) => return self.release_held(guest, device),
            Later::Moved => qemu.moved(&mut effects),
            Later::ResetAgain if qemu.leaving => {}
            Later::ResetAgain => effects.events.push(("RESET", serde_json::json!({}))),
            Later::Exit => return self.qemu_exits(guest),
        }
        self.apply(guest, effects);
    }

    /// What QEMU did becomes true, and is told.
    pub(crate) fn apply(&mut self, guest: usize, effects: Effects) {
        let Some(process) = self.guests[guest].qemu.as_ref().map(|qemu| qemu.identity) else { return };
        self.mark(guest);
        let stamp_ns = self.wall_us();
        for (name, detail) in effects.events {
            self.trace(|| format!("qemu {guest}: {name}"));
            let known = self.said_by(guest, name);
            self.tell(guest, name, stamp_ns, detail, known);
        }
        for device in effects.sized {
            self.sized(guest, device, stamp_ns);
        }
        for (after, later) in effects.later {
            self.after(after, Event::Qemu { guest, process, later });
        }
    }

    /// What an event says by its name: whether the guest runs, or that a reset has unplugged everything.
    fn said_by(&self, guest: usize, name: &str) -> Vec<(Of, u64)> {
        let unplugged = |qemu: &&Qemu| qemu.memory.iter().all(|memory| memory.size == 0);
        match name {
            "STOP" | "RESUME" => vec![(Of::State, self.now)],
            "RESET" if self.guests[guest].qemu.as_ref().is_some_and(|qemu| unplugged(&qemu)) => {
                (0..DEVICES_MAX).map(|device| (Of::Size(device), self.now)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// QEMU's wall clock, cut to whole microseconds.
    fn wall_us(&self) -> i64 {
        self.wall() / 1_000 * 1_000
    }

    /// A size changed: told at once, or held back for the rest of a second.
    fn sized(&mut self, guest: usize, device: usize, stamp_ns: i64) {
        let now = self.now;
        let Some(qemu) = self.guests[guest].qemu.as_mut() else { return };
        let process = qemu.identity;
        let memory = &mut qemu.memory[device];
        let size = memory.size;
        let held = memory.throttled;
        if held {
            memory.held = Some((stamp_ns, now, size));
        } else {
            memory.throttled = true;
            self.after(SECOND, Event::Qemu { guest, process, later: Later::Held(device) });
            self.tell_size(guest, device, (stamp_ns, now), size);
        }
        self.trace(|| format!("qemu {guest}: size of {device} is {} MiB, held {held}", size >> 20));
    }

    fn release_held(&mut self, guest: usize, device: usize) {
        let Some(qemu) = self.guests[guest].qemu.as_mut() else { return };
        let process = qemu.identity;
        let memory = &mut qemu.memory[device];
        memory.throttled = memory.held.is_some();
        let Some((stamp_ns, at, size)) = memory.held.take() else { return };
        self.after(SECOND, Event::Qemu { guest, process, later: Later::Held(device) });
        self.tell_size(guest, device, (stamp_ns, at), size);
    }

    fn tell_size(&mut self, guest: usize, device: usize, (stamp_ns, at): (i64, u64), size: u64) {
        let Some(qemu) = self.guests[guest].qemu.as_ref() else { return };
        let id = qemu.memory[device].id;
        let detail =
            serde_json::json!({"id": id, "size": size, "qom-path": format!("/machine/peripheral/{id}")});
        self.tell(guest, "MEMORY_DEVICE_SIZE_CHANGE", stamp_ns, detail, vec![(Of::Size(device), at)]);
    }

    /// The process is gone: its client sees the end of the connection, its holder the end of the process.
    pub(crate) fn qemu_exits(&mut self, guest: usize) {
        let Some(qemu) = self.guests[guest].qemu.take() else { return };
        self.trace(|| format!("qemu {guest}: pid {} exits", qemu.identity.pid));
        self.mark(guest);
        self.lose_client(guest, qemu.client);
        let late = self.random.range(MS / 100, 10 * MS);
        let epoch = self.epoch;
        self.after(late, Event::Exited { epoch, seat: guest, process: qemu.identity });
    }

    pub(crate) fn lose_client(&mut self, guest: usize, client: Option<(u64, u64)>) {
        let Some((epoch, link)) = client else { return };
        let late = self.random.range(MS / 100, 5 * MS);
        let at = self.arrives(guest, epoch, link, late);
        self.at(at, Event::Closed { epoch, seat: guest, link });
    }

    /// The wall clock's own reading, whatever the agent thinks that it is.
    pub(crate) fn wall(&self) -> i64 {
        self.wall_offset.saturating_add_unsigned(self.now)
    }

    /// Somebody sets the wall clock.
    pub(crate) fn step_wall(&mut self, by_ns: i64) {
        self.trace(|| format!("the wall clock is stepped by {by_ns} ns"));
        self.time.step_wall(by_ns);
        self.wall_offset += by_ns;
    }
}
