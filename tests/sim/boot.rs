//! Boots of the host. Its time begins again near 0 under another id, its wall clock goes on and may have an error; every QEMU
//! and the agent are gone at one moment, and so is what the ledger had written and the disk had not.

use std::sync::Arc;

use dormouse::clock::Clock;
use dormouse::process::ProcessIdentity;
use dormouse::sandbox::command::{Command, Request};
use dormouse_ledger::SandboxKey;
use dormouse_metering::{BootId, Stamp};

use crate::ledger::{Entry, Row, Unit, Waiter};
use crate::qemu::MS;
use crate::random::Random;
use crate::world::{Event, SECOND, World};

/// The first process of each boot has the next number after it: another process may have it in the next boot.
pub(crate) const PIDS_FROM: i32 = 100;

const BOOTS_MAX: usize = 4;

/// What QEMU told so shortly before the last proof may not have been told.
const IN_FLIGHT_NS: u64 = 50 * MS;

#[derive(Clone, Debug)]
pub(crate) struct Boot {
    pub(crate) id: BootId,
    /// When its boottime was 0.
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// What agents of this boot added to a time to place it on the wall clock.
    pub(crate) placed_by: Vec<i64>,
    /// The last of those that the next boot may know of.
    pub(crate) recorded: Vec<i64>,
}

impl Boot {
    pub(crate) const FIRST: BootId = BootId([7; 16]);
    /// The kinds of trouble of a history that has boots.
    pub(crate) const KINDS: u64 = 19;
    /// The trouble that switches the host off; one less is no kind, but has a meaning of its own.
    pub(crate) const KIND: u64 = 17;
    /// The trouble that limits a guest by another's hand.
    pub(crate) const KIND_LIMIT: u64 = 18;

    pub(crate) fn first() -> Self {
        Self { id: Self::FIRST, began: 0, ended: u64::MAX, placed_by: Vec::new(), recorded: Vec::new() }
    }

    fn next(&self, now: u64) -> Self {
        Self { id: BootId([self.id.0[0] + 1; 16]), began: now, ..Self::first() }
    }

    /// What may go wrong, where the host may be booted again and guests be limited by others.
    pub(crate) fn troubles(drawn: u64, random: &mut Random) -> u64 {
        let others = drawn & ((1 << Self::KIND) - 1);
        let (boots, limits) = (1 << Self::KIND, 1 << Self::KIND_LIMIT);
        match random.range(0, 10) {
            0..4 => others | boots,
            4 | 5 => boots,
            6 | 7 => others | limits,
            8 => others | boots | limits,
            _ => others,
        }
    }
}

impl World {
    pub(crate) fn boot(&self) -> &Boot {
        let [.., boot] = &self.boots[..] else { unreachable!("the first one is there from the start") };
        boot
    }

    /// When it was, in the time of the history. A time of a boot after its end is one by the wall.
    pub(crate) fn world_ns(&self, boot: BootId, boottime_ns: u64) -> u64 {
        let boot = self.boots.iter().find(|known| known.id == boot);
        boot.map_or(0, |boot| boot.began) + boottime_ns
    }

    fn world_of(&self, stamp: Stamp) -> u64 {
        self.world_ns(stamp.boot, stamp.boottime_ns)
    }

    /// The agent places by another anchor from now on.
    pub(crate) fn note_anchor(&mut self) {
        let offset = self.clock.now().wall_ns.saturating_sub_unsigned(self.now);
        if let Some(boot) = self.boots.last_mut() {
            boot.placed_by.push(offset);
        }
    }

    /// It is on the disk before anything else happens.
    pub(crate) fn keep_anchor(&mut self) {
        let entries = vec![Entry::Anchor(self.clock.anchor())];
        let unit = Unit {
            is_fact: true,
            entries,
            waiter: Waiter::Nobody,
            number: self.units,
            at: self.now,
            seen: None,
        };
        self.ledger.apply(&unit);
        self.ledger.write_down(unit);
        self.ledger.synced();
    }

    /// The host is gone from one moment to the next.
    pub(crate) fn switch_off(&mut self) {
        if self.boots.len() == BOOTS_MAX {
            return;
        }
        self.trace(|| "the host is switched off".to_owned());
        let in_memory = self.agent.as_ref().and_then(|_| self.boot().placed_by.last().copied());
        let mut untold = vec![(None, self.now.saturating_sub(IN_FLIGHT_NS))];
        if self.agent.is_some() {
            untold.extend(self.ledger.waiting.iter().flat_map(Unit::tells));
            self.end_agent();
        }
        let unsynced = self.ledger.unsynced();
        let lost = if self.random.chance(500) { 0 } else { self.random.index(unsynced + 1) };
        self.trace(|| format!("the ledger loses {lost} of {unsynced} units"));
        let bills = |unit: &&Unit| unit.entries.iter().any(|entry| matches!(entry, Entry::Slices(_)));
        let lost = self.ledger.lose(lost);
        if let Some(lost) = lost.iter().find(bills) {
            self.unlearn(lost.number);
        }
        // What was on its way to the disk, and would have come of it, nobody knows of.
        untold.extend(lost.iter().flat_map(Unit::tells).chain(self.untold.iter().copied()));
        let now = self.now;
        for guest in 0..self.guests.len() {
            let of_it = untold.iter().filter(|(of, _)| of.is_none_or(|of| of == guest));
            let since = of_it.map(|(_, since)| *since).fold(now, u64::min);
            self.windows.push((guest, since, now));
        }
        for number in 0..self.guests.len() {
            self.guests[number].qemu = None;
            self.mark(number);
            let left = self.random.chance(500);
            let guest = &mut self.guests[number];
            (guest.socket_left, guest.busy_until) = (left, 0);
        }
        (self.is_off, self.disk_fails_until) = (true, self.now);
        let durable = self.ledger.anchor.filter(|anchor| anchor.boot == self.boot().id);
        let durable = durable.map(|anchor| {
            let at = self.world_ns(anchor.boot, anchor.boottime_ns);
            anchor.wall_ns.saturating_sub_unsigned(at)
        });
        let now = self.now;
        if let Some(boot) = self.boots.last_mut() {
            boot.ended = now;
            boot.recorded = durable.into_iter().chain(in_memory).collect();
        }
        let off = if self.random.chance(80) { 3 * 3_600 * SECOND } else { 30 * SECOND };
        let off = self.random.range(200 * MS, off);
        self.after(off, Event::Boot);
    }

    /// Its clocks go again, and somebody may start guests anew.
    pub(crate) fn boot_host(&mut self) {
        let boot = self.boot().next(self.now);
        self.boots.push(boot);
        if self.random.chance(400) {
            let most = if self.random.chance(500) { SECOND } else { 7_200 * SECOND };
            let by = self.random.range(1, most).cast_signed();
            self.wall_offset += if self.random.chance(500) { by } else { -by };
        }
        self.trace(|| format!("the host is booted again, the wall clock at {}", self.wall()));
        let (clock, time): (Clock, Arc<_>) = Clock::simulated(self.boot().id, self.wall());
        (self.clock, self.time, self.pids, self.is_off) = (clock, time, PIDS_FROM, false);
        for guest in 0..self.guests.len() {
            if self.random.chance(500) {
                let after = self.random.range(MS, 20 * SECOND);
                self.after(after, Event::CreatedAgain { guest });
            }
        }
        let away = if self.random.chance(600) { SECOND } else { 20 * SECOND };
        let away = self.random.range(MS, away);
        self.after(away, Event::Restart { boot: self.boots.len() });
    }

    /// Somebody starts a QEMU under the name of one that the boot has ended: before the agent is there, or after.
    pub(crate) fn created_again(&mut self, guest: usize) {
        let vacant = self.agent.as_ref().is_none_or(|agent| agent.seats[guest].is_none());
        let gone = self.guests[guest].qemu.is_none() && self.guests[guest].snapshots.is_empty();
        if vacant && gone && !self.is_off {
            self.start_qemu(guest, "running");
        }
    }

    /// A power-cycle keeps the disks of a sandbox from the end of its QEMU on: until it has started another, or is over.
    pub(crate) fn keep_disks(&mut self, guest: usize) {
        let gone = self.guests[guest].truth.iter_mut().rev().take_while(|truth| !truth.lives);
        gone.for_each(|truth| truth.exists = true);
        self.mark(guest);
    }

    /// The agent is about to be gone.
    fn leave_alone(&mut self, guest: usize) {
        // What was read last may not be in the ledger.
        if let Some(qemu) = self.guests[guest].qemu.as_mut().filter(|_| !self.ledger.waiting.is_empty()) {
            qemu.limit_is_news = true;
        }
        let Some((command, _)) = self.seat(guest).and_then(|seat| seat.machine.underway()) else { return };
        let (cycles, wakes) =
            (command.request == Request::PowerCycle, matches!(command.request, Request::Wake { .. }));
        let limits = matches!(&command.request, Request::Scale(scaling) if scaling.vcpus_milli.is_some());
        if cycles {
            self.keep_disks(guest);
        }
        // What the one before had, or what may have been written, is nothing that it could count as.
        if let Some(qemu) = self.guests[guest].qemu.as_mut().filter(|_| cycles || wakes || limits) {
            qemu.limit_is_news = true;
        }
    }

    /// While the disk takes nothing, nothing that happens can be told: where the host goes as well, nobody knows of it.
    pub(crate) fn before_the_end(&mut self) {
        if self.now < self.disk_fails_until {
            self.untold = self.ledger.waiting.iter().flat_map(Unit::tells).collect();
        }
        (0..self.guests.len()).for_each(|guest| self.leave_alone(guest));
    }

    /// The process that an unfinished command has started, and that says so.
    pub(crate) fn started_by(&self, number: usize, unfinished: &[Command]) -> Option<ProcessIdentity> {
        let qemu = self.guests[number].qemu.as_ref().filter(|_| self.knobs.boots)?;
        let started_for = qemu.started_for.as_ref()?;
        unfinished.iter().any(|command| command.request_id == *started_for).then_some(qemu.identity)
    }

    /// One whose process is gone when the agent is started has to be billed through the last proof that it lived, less
    /// what may have been on its way; or through when it was heard.
    pub(crate) fn proven_through(&mut self, key: &SandboxKey, row: &Row) {
        let lives = |guest: &crate::world::Guest| {
            let alive = guest.qemu.as_ref().is_some_and(|qemu| qemu.identity == row.process);
            guest.key.sandbox == key.sandbox && alive
        };
        let Some(proof) = self.ledger.proof.filter(|_| self.knobs.boots) else { return };
        if !self.guests.iter().any(lives) {
            let unheard = row.unheard.map(|unheard| self.world_of(unheard));
            let through = unheard.into_iter().fold(self.world_of(proof), u64::min);
            let through = through.saturating_sub(IN_FLIGHT_NS);
            self.proven.entry(key.clone()).or_default().push((self.now, through));
        }
    }
}
