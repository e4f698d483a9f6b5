//! Limits on CPU time: the kernel takes what the agent writes, or not, or takes it and does not say so; and others write, too.

use dormouse::process::ProcessIdentity;
use dormouse::sandbox::command::{Request, Scaling};
use dormouse::sandbox::machine::{Answer, Input, Token};
use dormouse::sandbox::refusal::Reason;

use crate::agent::failed;
use crate::known::Of;
use crate::qemu::{BASE, MIB, MS, VCPUS_MILLI};
use crate::world::{Event, World};

/// Limits that are asked for; the least is less than the kernel takes.
const LIMITS_MILLI: [u32; 6] = [5, 250, 500, 1000, 1500, VCPUS_MILLI];

impl World {
    /// What is asked for where the host is booted again.
    pub(crate) fn power_cycle_or_limit(&mut self) -> Request {
        if self.random.chance(300) {
            return Request::PowerCycle;
        }
        let vcpus_milli = Some(LIMITS_MILLI[self.random.index(LIMITS_MILLI.len())]);
        let memory = self.random.chance(300).then(|| BASE + self.random.range(0, 5) * 256 * MIB);
        Request::Scale(Scaling { memory_bytes: memory, vcpus_milli, ..Scaling::default() })
    }

    /// How long a file of the kernel's takes to be written or read. The host may be busy.
    fn kernel_takes(&mut self) -> u64 {
        let most = if self.random.chance(900) { 2 * MS } else { 300 * MS };
        self.random.range(20_000, most)
    }

    pub(crate) fn limit_vcpus(&mut self, seat: usize, token: Token, limit_milli: Option<u32>) {
        let takes = self.kernel_takes();
        let held = self.seat(seat).and_then(|seat| seat.held);
        let Some(process) = held else {
            return self.answer(seat, 1_000, token, failed(Reason::QemuDied, "there is no process"));
        };
        if self.random.chance(60) {
            return self.answer(seat, takes, token, failed(Reason::CgroupUnsuitable, "not its own"));
        }
        let of = self.seat(seat).map_or(0, |seat| seat.number);
        let epoch = self.epoch;
        self.after(takes, Event::Limits { epoch, seat, of, token, process, limit_milli });
    }

    /// The kernel has it from now on. What it has made of it is read after that.
    pub(crate) fn limits(
        &mut self,
        (seat, of): (usize, u64),
        token: Token,
        process: ProcessIdentity,
        limit_milli: Option<u32>,
    ) {
        let qemu = self.guests[seat].qemu.as_mut().filter(|qemu| qemu.identity == process);
        let answer = if let Some(qemu) = qemu {
            (qemu.limit_milli, qemu.limit_is_news) = (limit_milli, true);
            self.mark(seat);
            self.trace(|| format!("qemu {seat}: is limited to {limit_milli:?}"));
            if self.random.chance(30) {
                failed(Reason::OutcomeUnknown, "what was written cannot be read")
            } else {
                Answer::VcpusLimited(limit_milli)
            }
        } else {
            failed(Reason::QemuDied, "there is no process")
        };
        let (takes, epoch, at) = (self.kernel_takes(), self.epoch, self.now);
        self.after(takes, Event::Limited { epoch, seat, of, token, answer, at });
    }

    pub(crate) fn limited(&mut self, (seat, of): (usize, u64), (token, answer): (Token, Answer), at: u64) {
        if self.seat(seat).is_none_or(|seat| seat.number != of) {
            return;
        }
        let is_known = matches!(answer, Answer::VcpusLimited(_));
        self.feed(seat, Input::Answer(token, answer));
        if is_known {
            self.learn(seat, &[(Of::Vcpus, at)]);
        }
    }

    /// Somebody else limits a guest that the agent does not hear, or no longer.
    pub(crate) fn limited_by_another(&mut self, number: usize) {
        let limit_milli = self.random.chance(700).then(|| LIMITS_MILLI[self.random.index(5)].max(10));
        let Some(qemu) = self.guests[number].qemu.as_mut().filter(|qemu| qemu.client.is_none()) else {
            return;
        };
        (qemu.limit_milli, qemu.limit_is_news) = (limit_milli, true);
        self.trace(|| format!("somebody else limits {number} to {limit_milli:?}"));
        self.mark(number);
    }
}
