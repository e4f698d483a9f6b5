//! Scale: one command for any of memory, CPU time and disks.
//!
//! ```text
//!   asked of nothing yet                     each durable in QEMU or the kernel when it is reached
//!   ┌──────────────────────────────┐        ┌───────────────────────────────────────────┐
//!   Floor ──▶ Promise ─────────────────────▶ Vcpus ──▶ Disks ──▶ Memory ──▶ done
//!     │ the guest  │ the host has             │ fails: nothing  │ fails, or goes part of the way
//!     ▼ needs it   ▼ not enough               ▼ was changed     ▼
//!   failed       failed                     failed            partial, if anything was changed; else failed
//! ```
//!
//! What can be refused is refused before anything is changed. A step that fails ends the command: what was reached
//! before stays, and is a partial result that names what was not. A dimension that was not asked for has no step.

mod disks;
mod distribution;
mod floor;
mod memory;

use std::collections::VecDeque;

use dormouse_metering::{Cause, Change, CommandId, Stamp};

use self::disks::Disks;
use self::floor::Floor;
use self::memory::Memory;
use super::{Answer, Context, Flow, Procedure, cpu_limit, done, failed, is_unsure, unchanged};
use crate::sandbox::command::{CommandResult, Outcome, Scaling};
use crate::sandbox::machine::admission::is_so_already;
use crate::sandbox::machine::core::{Limiting, Link};
use crate::sandbox::machine::{Action, Core, QemuEvent};
use crate::sandbox::refusal::{Reason, Refusal};

/// The least CPU time that the kernel can be told to give, in thousandths of a vCPU.
const VCPUS_MILLI_MIN: u32 = crate::process::cpu_max::VCPUS_MILLI_MIN;

#[derive(Debug)]
pub(super) struct Scale {
    asked: Scaling,
    /// What is being done.
    step: Option<Step>,
    ahead: VecDeque<Step>,
    /// What was reached, in words.
    reached: Vec<String>,
}

/// One dimension, or what is asked before any.
#[derive(Debug)]
enum Step {
    /// What does the guest need?
    Floor(Floor),
    /// Has the host so many bytes?
    Promise(u64),
    /// CPU time, in thousandths of a vCPU.
    Vcpus(u32),
    Disks(Disks),
    Memory(Memory),
}

/// What becomes of a step.
#[derive(Debug)]
enum Turn {
    /// It waits for an answer, an event or QMP.
    Wait,
    /// It is done, and has changed nothing.
    Passed,
    /// It is done; this was reached.
    Reached(String),
    /// It went part of the way, and no further.
    Stopped(String),
    Failed(Refusal),
}

impl Scale {
    pub(super) fn new(asked: Scaling) -> Self {
        Self { asked, step: None, ahead: VecDeque::new(), reached: Vec::new() }
    }

    /// Everything that can be known to be wrong before anything is done, and the way.
    fn plan(&self, core: &Core) -> Result<VecDeque<Step>, Refusal> {
        let Scaling { memory_bytes, vcpus_milli, disks, force } = &self.asked;
        if memory_bytes.is_none() && vcpus_milli.is_none() && disks.is_empty() {
            let message = "the scale names nothing: say how much memory, how many vCPUs or how large a disk";
            return Err(Refusal::new(Reason::NothingToScale, message));
        }
        let mut steps = VecDeque::new();
        let memory = memory_bytes.map(|bytes| Memory::plan(core, bytes)).transpose()?;
        if let Some(memory) = &memory {
            let plugged = core.shape.memory_plugged_bytes;
            if memory.plugged_bytes() < plugged
                && !force
                && let Some(reserve_bytes) = core.settings.guest_reserve_bytes
            {
                steps.push_back(Step::Floor(Floor::new(memory.asked_bytes(), reserve_bytes)));
            }
            if let Some(more) = memory.plugged_bytes().checked_sub(plugged).filter(|more| *more > 0) {
                steps.push_back(Step::Promise(more));
            }
        }
        if let Some(milli) = vcpus_milli {
            check_vcpus(core, *milli)?;
            steps.push_back(Step::Vcpus(*milli));
        }
        if !disks.is_empty() {
            steps.push_back(Step::Disks(Disks::plan(core, disks)?));
        }
        steps.extend(memory.map(Step::Memory));
        Ok(steps)
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = None;
        if cx.core.link != Link::Up && self.ahead.front().is_some_and(Step::needs_qmp) {
            // Goes on once QMP answers again.
            return Flow::Wait;
        }
        self.step = self.ahead.pop_front();
        let turn = match &mut self.step {
            None => return done(self.reached.join("; ")),
            Some(Step::Floor(floor)) => floor.begin(cx),
            Some(Step::Promise(bytes)) => {
                let bytes = *bytes;
                cx.ask(|token| Action::PromiseMemory(token, bytes));
                Turn::Wait
            }
            Some(Step::Vcpus(milli)) => {
                let limit = Some(*milli).filter(|milli| *milli < vcpus_milli_max(cx.core));
                let command = CommandId::new(&cx.command.request_id);
                let limiting = Limiting { asked: cx.now, milli: *milli, answer_comes: true, command };
                cx.core.limiting = Some(Box::new(limiting));
                cx.ask(|token| Action::LimitVcpus(token, limit));
                Turn::Wait
            }
            Some(Step::Disks(_)) => disks::look(cx),
            Some(Step::Memory(memory)) => memory.begin(cx),
        };
        self.turn(cx, turn)
    }

    fn turn(&mut self, cx: &mut Context<'_>, turn: Turn) -> Flow {
        match turn {
            Turn::Wait => Flow::Wait,
            Turn::Passed => self.advance(cx),
            Turn::Reached(words) => {
                self.reached.push(words);
                self.advance(cx)
            }
            Turn::Stopped(words) => self.partial(cx.core, words),
            Turn::Failed(refusal) if self.reached.is_empty() => failed(refusal),
            Turn::Failed(Refusal { reason, message, .. }) => {
                let words = format!("then {} failed: {message} [{}]", self.step(), reason.as_str());
                self.partial(cx.core, words)
            }
        }
    }

    fn partial(&self, core: &Core, words: String) -> Flow {
        let left = self.ahead.iter().map(|step| format!("{} was not begun", step.words()));
        let message: Vec<String> = self.reached.iter().cloned().chain([words]).chain(left).collect();
        let achieved_bytes = core.shape.memory_base_bytes + core.shape.memory_plugged_bytes;
        tracing::info!(sandbox = %core.key, achieved_bytes, "scale is partial");
        let result = CommandResult::Partial { achieved_bytes };
        Flow::Done(Ok(Outcome { result, message: message.join("; ") }))
    }
}

impl Procedure for Scale {
    fn step(&self) -> &'static str {
        self.step.as_ref().map_or("waiting for QMP", Step::words)
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        if is_so_already(cx.core, &cx.command.request) {
            return unchanged(format!("{} has that much already", cx.core.key));
        }
        match self.plan(cx.core) {
            Err(refusal) => failed(refusal),
            Ok(steps) => {
                self.ahead = steps;
                self.advance(cx)
            }
        }
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        let turn = match (&mut self.step, answer) {
            (Some(Step::Floor(floor)), answer) => floor.answer(cx, answer),
            (Some(Step::Promise(_)), Answer::Promised) => Turn::Passed,
            (Some(Step::Vcpus(_)), Answer::VcpusLimited(limit)) => vcpus_limited(cx, limit),
            (Some(Step::Vcpus(milli)), Answer::Failed(refusal)) if is_unsure(&refusal) => {
                vcpus_in_doubt(cx, *milli);
                Turn::Failed(refusal)
            }
            (Some(Step::Vcpus(_)), Answer::Failed(refusal)) => {
                cx.core.limiting = None;
                observe_vcpus(cx, cx.since_asked());
                Turn::Failed(refusal)
            }
            (Some(Step::Disks(disks)), answer) => disks.answer(cx, answer),
            (Some(Step::Memory(memory)), answer) => memory.answer(cx, answer),
            (_, Answer::Failed(refusal)) => Turn::Failed(refusal),
            (_, answer) => out_of_place(self.step(), &answer),
        };
        self.turn(cx, turn)
    }

    fn may_be_overtaken(&self, _core: &Core) -> bool {
        // What the kernel is being told is not known yet: a destroy would not bill it.
        !matches!(self.step, Some(Step::Vcpus(_)))
    }

    fn event(&mut self, cx: &mut Context<'_>, event: &QemuEvent) -> Flow {
        let Some(Step::Memory(memory)) = &mut self.step else { return Flow::Wait };
        let turn = memory.event(cx, event);
        self.turn(cx, turn)
    }

    fn reconnected(&mut self, cx: &mut Context<'_>) -> Flow {
        let turn = match &mut self.step {
            Some(Step::Disks(disks)) => disks.reconnected(cx),
            Some(Step::Memory(memory)) => memory.reconnected(cx),
            Some(Step::Floor(_) | Step::Promise(_) | Step::Vcpus(_)) => Turn::Wait,
            None => return self.advance(cx),
        };
        self.turn(cx, turn)
    }
}

impl Step {
    const fn needs_qmp(&self) -> bool {
        matches!(self, Self::Floor(_) | Self::Disks(_) | Self::Memory(_))
    }

    const fn words(&self) -> &'static str {
        match self {
            Self::Floor(_) => "asking what the guest needs",
            Self::Promise(_) => "asking for the host's memory",
            Self::Vcpus(_) => "limiting CPU time",
            Self::Disks(_) => "growing disks",
            Self::Memory(memory) => memory.words(),
        }
    }
}

/// QEMU's vCPUs, in thousandths.
fn vcpus_milli_max(core: &Core) -> u32 {
    core.survey.as_ref().map_or(0, |survey| survey.vcpus_milli)
}

fn check_vcpus(core: &Core, milli: u32) -> Result<(), Refusal> {
    let max = vcpus_milli_max(core);
    if (VCPUS_MILLI_MIN..=max).contains(&milli) {
        return Ok(());
    }
    let message = format!(
        "{milli} thousandths of a vCPU are out of bounds: this sandbox can have from {VCPUS_MILLI_MIN} to {max}, as many as its \
         QEMU was started with"
    );
    let refusal = Refusal::new(Reason::SizeOutOfBounds, message);
    Err(refusal.with("min_vcpus_milli", VCPUS_MILLI_MIN).with("max_vcpus_milli", max))
}

/// The kernel has this limit now.
fn vcpus_limited(cx: &mut Context<'_>, limit: Option<u32>) -> Turn {
    cpu_limit::limited(cx.core, limit);
    let had_milli = cx.core.shape.vcpus_milli;
    let Some(milli) = observe_vcpus(cx, cx.since_asked()) else { return Turn::Passed };
    if milli == had_milli {
        cpu_limit::mark_what_ran_meanwhile(cx, Cause::Scale);
    }
    Turn::Reached(format!("CPU time is {milli} thousandths of a vCPU"))
}

/// What it may use now, in thousandths of a vCPU, as far as is known.
fn observe_vcpus(cx: &mut Context<'_>, at: Stamp) -> Option<u32> {
    let milli = cx.core.survey.as_ref()?.shape().vcpus_milli;
    cx.observe(at, Change::Vcpus(milli), Cause::Scale);
    Some(milli)
}

/// Whether the kernel has this limit now is not known: the lesser counts.
fn vcpus_in_doubt(cx: &mut Context<'_>, milli: u32) {
    let at = cx.since_asked();
    cpu_limit::in_doubt(cx, milli);
    observe_vcpus(cx, at);
}

fn out_of_place(step: &str, answer: &Answer) -> Turn {
    match super::out_of_place(step, answer) {
        Flow::Done(Err(refusal)) => Turn::Failed(refusal),
        _ => Turn::Wait,
    }
}
