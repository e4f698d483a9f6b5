//! What is asked, and what goes wrong.

use std::cmp::Reverse;

use dormouse::sandbox::command::{Method, MethodChoice, Request, Scaling};
use dormouse::sandbox::machine::Phase;

use crate::boot::Boot;
use crate::qemu::{BASE, Effects, MIB, MS};
use crate::world::{Event, SECOND, Slot, World};

impl World {
    pub(crate) fn somebody_asks(&mut self) {
        if self.now >= self.knobs.end {
            return;
        }
        let every = self.knobs.asks_every;
        let next = self.random.range(MS, every * 2);
        self.after(next, Event::Ask);
        let number = self.random.index(self.guests.len());
        if self.knobs.creates && self.somebody_creates(number) {
            return;
        }
        let sleeps = self.seat(number).is_some_and(|seat| seat.machine.core().phase == Phase::Hibernated);
        let request = match self.random.range(0, 20) {
            _ if sleeps && self.random.chance(600) => Request::Wake { cold: false },
            _ if self.knobs.suppresses && self.random.chance(250) => {
                let reason = "moved".to_owned();
                if self.random.chance(500) { Request::Suppress { reason } } else { Request::Unsuppress }
            }
            _ if self.knobs.boots && self.random.chance(200) => self.power_cycle_or_limit(),
            0..6 => Request::Scale(Scaling::of_memory(BASE + self.random.range(0, 5) * 256 * MIB)),
            6..9 => Request::Pause { reclaim: false },
            9..12 => Request::Resume { prefetch: false },
            12..15 => {
                let methods = [Method::Shared, Method::MappedRam, Method::Internal];
                Request::Hibernate { method: MethodChoice::Named(methods[self.random.index(3)]) }
            }
            15 | 16 => Request::Wake { cold: false },
            17 => Request::Reboot,
            18 => Request::Destroy { graceful_ms: None },
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
        if self.is_off {
            return;
        }
        let kinds = if self.knobs.boots { Boot::KINDS } else { 16 };
        let kind = self.random.range(0, kinds);
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
            // One bit more: the host sleeps for a while, and nothing on it happens meanwhile.
            3 if self.knobs.troubles & (1 << 16) != 0 && self.random.chance(500) => self.suspend(while_ns),
            3 => {
                let by = self.random.range(20 * MS, 7_200 * SECOND).cast_signed();
                let by = if self.random.chance(500) { by } else { -by };
                self.step_wall(by);
                let epoch = self.epoch;
                let noticed = self.random.range(10_000, 5 * MS);
                self.after(noticed, Event::NoticeStep { epoch });
            }
            Boot::KIND if self.knobs.boots => self.switch_off(),
            Boot::KIND_LIMIT => self.limited_by_another(number),
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
            5 => {
                guest.meddled = now;
                qemu.leave(1000, &mut self.random, &mut effects);
            }
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
            9 => qemu.hangs_until = qemu.hangs_until.max(now + while_ns),
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

    /// The host sleeps: both clocks go on, and nothing else. What of the agent's is due by then is done at once, before
    /// it has read what lies in its sockets.
    fn suspend(&mut self, ns: u64) {
        self.trace(|| format!("the host sleeps for {ns} ns"));
        let awake = self.now + ns;
        self.time.sleep(ns);
        let later = |at: u64, event: &Event| match event {
            Event::Seal { .. } | Event::Tick { .. } | Event::Prove { .. } => at.max(awake),
            _ => at + ns,
        };
        let queue = std::mem::take(&mut self.queue);
        let moved = queue.into_iter().map(|Reverse((at, order, Slot(event)))| {
            let at = later(at, &event);
            Reverse((at, order, Slot(event)))
        });
        self.queue = moved.collect();
        self.disk_fails_until += ns;
        for guest in &mut self.guests {
            guest.busy_until += ns;
            if let Some(qemu) = guest.qemu.as_mut() {
                qemu.hangs_until += ns;
            }
        }
    }
}
