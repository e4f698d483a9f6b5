//! Sandboxes that are created: the agent starts their QEMU, records their life and lets the guest go. What an agent that is
//! killed in the middle of it leaves is an intent, and perhaps a QEMU that says what it was started for.

use std::collections::BTreeMap;

use dormouse::sandbox::command::{Command, Request};
use dormouse::sandbox::machine::{Recovered, Sandbox};
use dormouse::sandbox::spec::SandboxSpec;

use crate::agent::Seat;
use crate::ledger::Intent;
use crate::qemu::{BASE, MS};
use crate::world::{Event, World};

/// What a create asks for: as much as any other guest has.
fn request() -> Request {
    let spec = SandboxSpec {
        qemu: None,
        machine: "q35".to_owned(),
        cpu: None,
        accel: None,
        memory_bytes: BASE,
        memory_max_bytes: BASE,
        memory_shared: true,
        vcpus: 2,
        disks: Vec::new(),
        kernel: None,
        initrd: None,
        append: None,
        extra_arguments: Vec::new(),
    };
    Request::Create { spec: Box::new(spec), plan: "pro".to_owned(), tags: BTreeMap::new() }
}

impl World {
    /// Somebody asks for a sandbox where there is none. False where there is one.
    pub(crate) fn somebody_creates(&mut self, number: usize) -> bool {
        let guest = &self.guests[number];
        let nothing_there = guest.qemu.is_none() && guest.snapshots.is_empty();
        let vacant = self.agent.as_ref().is_some_and(|agent| agent.seats[number].is_none());
        if !vacant || !nothing_there || !self.random.chance(600) {
            return false;
        }
        self.seat_anew(number);
        self.command(number, request());
        // It takes some milliseconds, in which hardly any trouble falls by itself.
        if self.knobs.troubles & 0b11 != 0 && self.random.chance(300) {
            let (epoch, after) = (self.epoch, self.random.range(MS / 10, 15 * MS));
            self.after(after, Event::Kill { epoch });
        }
        true
    }

    /// An actor for a sandbox of which nothing is known.
    pub(crate) fn seat_anew(&mut self, number: usize) {
        let machine = Sandbox::new(self.core(number));
        self.scheduled += 1;
        let (unlike, slept_ns) = (self.scheduled << 20, self.clock.slept_ns());
        if let Some(agent) = self.agent.as_mut() {
            agent.seats[number] = Some(Seat::new(machine, unlike, slept_ns));
        }
    }

    /// What was being created when the agent was killed, and of which the ledger has the intent alone: as `host::recover` does it.
    pub(crate) fn take_up_creates(&mut self) {
        let unfinished = |intent: &&Intent| {
            intent.outcome.is_none() && matches!(intent.command.request, Request::Create { .. })
        };
        let intents = self.ledger.order.iter().filter_map(|id| self.ledger.commands.get(id));
        let commands: Vec<Command> =
            intents.filter(unfinished).map(|intent| intent.command.clone()).collect();
        for command in commands {
            let is_it = |guest: &crate::world::Guest| guest.key.sandbox == command.key.sandbox;
            let Some(number) = self.guests.iter().position(is_it) else { continue };
            if self.agent.as_ref().is_some_and(|agent| agent.seats[number].is_none()) {
                self.take_up_create(number, command);
            }
        }
    }

    fn take_up_create(&mut self, number: usize, command: Command) {
        let mut core = self.core(number);
        core.process = self.started_by(number, std::slice::from_ref(&command));
        let process = core.process;
        let (saved, last_sign, plugged_by_device) = (None, None, None);
        let unfinished = vec![command];
        let recovered = Recovered { core, unfinished, saved, ran: false, last_sign, plugged_by_device };
        let (machine, actions) = Sandbox::recover_from(recovered, self.clock.now(), process.is_some());
        self.trace(|| format!("taken up: {:?} {:?}", machine.core().phase, machine.underway()));
        let mut seat = Seat::new(machine, self.scheduled << 20, self.clock.slept_ns());
        seat.held = process;
        if let Some(agent) = self.agent.as_mut() {
            agent.seats[number] = Some(seat);
        }
        self.carry_out(number, actions);
    }
}
