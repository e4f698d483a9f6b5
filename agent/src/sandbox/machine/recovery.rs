//! What became of a command whose intent is in the ledger and whose outcome is not, because the agent was
//! restarted in between. Each is resolved by evidence.
//!
//! | command | QEMU lives | QEMU is gone | hibernated |
//! |---|---|---|---|
//! | scale | done if it has that much; goes on if QEMU was asked, or a dimension is left; else interrupted | died | - |
//! | pause, resume | done if the guest is so, else interrupted | died | - |
//! | reboot | unknown: a reset leaves no trace | died | - |
//! | hibernate | called off, the guest goes on | done if the snapshot is recorded, else died | done |
//! | wake | done if the guest runs, else its QEMU is ended | - | interrupted |
//! | suppress, unsuppress | done if it is so, else interrupted; at once | as where it lives | as where it lives |
//! | destroy, detach | begun again | done | begun again |
//! | create | goes on: attached, recorded, continued | interrupted, or died | - |
//! | power-cycle | goes on in the next QEMU; interrupted in the one before | died | - |
//!
//! Of two, a destroy has overtaken the other: that one is overtaken, but for a wake, which may have started a QEMU.
//! Where QEMU lives and does not answer, a destroy kills it, and so do a hibernation whose snapshot is recorded and a
//! power-cycle that was seen to have told it to quit. Between the two QEMUs of a power-cycle that goes on nothing ran, whether
//! the ledger knows it or not.

use dormouse_ledger::PluggedByDevice;
use dormouse_metering::{BillingState, Cause, Change, CommandId, Observation, OpenSlice, Stamp};

use super::core::{Core, Limiting, Link, Phase};
use super::operations::{self, Operation};
use super::overtaking::Overtaker;
use super::sight::{HELD_BACK_NS, Known, reaching_back};
use super::{Action, Notice, Sandbox, SnapshotRemoval, Stage, Underway};
use crate::sandbox::command::{Command, CommandResult, Outcome, Request, Scaling};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::snapshot::Manifest;

/// What QEMU told so shortly before the last proof may not have reached the ledger.
const IN_FLIGHT_NS: u64 = 50_000_000;

/// How often QMP is tried before an unfinished end is brought about without it.
const ATTEMPTS_MAX: u32 = 6;

/// What the ledger says of a sandbox when the agent starts.
#[derive(Debug)]
pub struct Recovered {
    /// What is known of it; its phase is that of its open slice.
    pub core: Core,
    /// The commands that have an intent and no outcome, oldest first: one, or one and the destroy that overtook it.
    pub unfinished: Vec<Command>,
    /// A snapshot that is complete though the sandbox is not hibernated.
    pub saved: Option<Box<Manifest>>,
    /// Whether the guest ran when the last unfinished command began.
    pub ran: bool,
    /// What is durable of its life.
    pub last_sign: Option<LastSign>,
    /// What each of several memory devices had plugged when its memory was observed last.
    pub plugged_by_device: Option<PluggedByDevice>,
}

/// The last sign of a life that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSign {
    /// Through when the process is known to have lived: the host's proof, or what was seen of it since.
    pub at: Stamp,
    /// Through when all that QEMU told, but for sizes, had reached the ledger.
    pub told: Stamp,
    /// Through when its sizes are known: QEMU may have held later ones back.
    pub sizes: Stamp,
    /// When what was told of the memory last is stamped, as long as it is not final.
    pub memory: Option<Stamp>,
}

impl LastSign {
    /// Of a sandbox, from the host's proof, since when it is not heard, its open slice and what is pending.
    pub fn of(
        proof: Option<Stamp>,
        unheard: Option<Stamp>,
        open: Option<&OpenSlice>,
        pending: &[Observation],
    ) -> Option<Self> {
        // The passing of an hour is no sign of life, nor is what was decided of the bill.
        let marks =
            [Cause::Hour, Cause::Tick, Cause::ClockStep, Cause::HostBoot, Cause::Suppress, Cause::Unsuppress];
        let began = open.map(OpenSlice::began);
        // Its QEMU was of the last boot of which anything is told, and a sign of another is none of that: boots are not to be
        // ordered by a wall clock that may have been wrong in either.
        let boot = pending.last().map(|seen| seen.at.boot).or(began.or(proof).map(|sign| sign.boot))?;
        let of_last_boot = |stamp: &Stamp| stamp.boot == boot;
        let began = began.filter(of_last_boot);
        let opened = began.filter(|_| open.is_some_and(|open| !marks.contains(&open.start.cause)));
        let of_qemu = |seen: &&Observation| {
            !matches!(
                seen.change,
                Change::Suppressed(_) | Change::Mark | Change::Ended | Change::State(BillingState::Lost)
            )
        };
        // What was asked for is told as several, of which the last may be missing here: QEMU is known until before that alone.
        let through: fn(&Observation) -> Stamp = |seen| match seen.cause {
            Cause::Resync => seen.at.earlier_by(seen.at.uncertainty_ns).uncertain_by(0),
            _ => seen.at.uncertain_by(0),
        };
        let last_of = |through: fn(&Observation) -> Stamp| {
            let seen = pending.iter().filter(of_qemu).map(through).filter(of_last_boot);
            opened.into_iter().chain(seen).reduce(later)
        };
        // QEMU tells one thing after the other: what it told last came after all the rest.
        let (last_seen, last_told) = (last_of(|seen| seen.at.uncertain_by(0)), last_of(through));
        let proof = proof.filter(of_last_boot);
        let at = last_seen.into_iter().chain(proof).reduce(later).or(began)?;
        let known = last_told.into_iter().chain(proof).reduce(later).unwrap_or(at);
        let heard = unheard.filter(|unheard| unheard.boot == at.boot).unwrap_or(known);
        let in_flight = heard.earlier_by(IN_FLIGHT_NS);
        let told =
            last_told.filter(|told| told.boot == at.boot).map_or(in_flight, |told| later(told, in_flight));
        let of_memory = |seen: &&Observation| {
            matches!(seen.change, Change::Plugged(_) | Change::Holds(..) | Change::Began(..))
        };
        // While QEMU may hold one back, nothing becomes final.
        let of_memory = pending.iter().filter(of_memory);
        let memory = of_memory.clone().map(|seen| seen.at.uncertain_by(0)).filter(of_last_boot).reduce(later);
        let seen = of_memory.map(|seen| seen.at.earlier_by(seen.at.uncertainty_ns));
        let shortly_before = |size: &Stamp| told.boottime_ns.saturating_sub(size.boottime_ns) < HELD_BACK_NS;
        let of_boot = |size: &Stamp| size.boot == told.boot && size.boottime_ns <= told.boottime_ns;
        let sizes = opened.filter(shortly_before).into_iter().chain(seen).filter(of_boot).reduce(later);
        Some(Self { at, told, sizes: sizes.unwrap_or(told), memory })
    }
}

/// What a scale asks of CPU time.
fn vcpus_of(command: &Command) -> Option<u32> {
    match &command.request {
        Request::Scale(scaling) => scaling.vcpus_milli,
        _ => None,
    }
}

/// Of two of one boot.
fn later(last: Stamp, sign: Stamp) -> Stamp {
    if sign.boottime_ns > last.boottime_ns { sign } else { last }
}

impl Underway {
    fn recovering(command: Command) -> Box<Self> {
        Box::new(Self { command, stage: Stage::Recovering, waiting: None, asked_ahead: None })
    }
}

/// How an unfinished command goes on.
enum Resolution {
    Concluded(Result<Outcome, Refusal>),
    GoesOn(Operation),
}

impl Sandbox {
    /// Takes up a sandbox where the ledger left it.
    pub fn recover_from(recovered: Recovered, now: Stamp, process_lives: bool) -> (Self, Vec<Action>) {
        let mut actions = Vec::new();
        let mut unfinished = recovered.unfinished;
        let mut core = recovered.core;
        let scale = unfinished.iter().rfind(|command| matches!(command.request, Request::Scale(_)));
        if let Some(command) = scale {
            // What the guest goes on to plug or give back is this command's doing, whoever hears of it.
            let id = CommandId::new(&command.request_id);
            core.memory_cause = (Cause::Scale, Some(id.clone()));
            // When the kernel was told is nowhere, and since the last cut it may have been.
            let sign = recovered.last_sign.map_or(now, |sign| sign.told);
            let asked = sign.earlier_by(sign.boottime_ns);
            let limiting = |milli| Box::new(Limiting { asked, milli, answer_comes: false, command: id });
            core.limiting = vcpus_of(command).map(limiting);
        }
        let cycle = unfinished.iter().find(|command| command.request == Request::PowerCycle);
        let cycled_by = cycle.filter(|_| core.started).map(|command| CommandId::new(&command.request_id));
        if cycled_by.is_some() {
            // Its shape is still that of the QEMU before.
            operations::cpu_limit::remember(&mut core);
        }
        let mut sandbox = Self { saved: recovered.saved, ran: recovered.ran, ..Self::new(core) };
        sandbox.core.now = Some(now);
        let last = unfinished.pop();
        if sandbox.core.phase == Phase::Attached || unfinished.is_empty() {
            for overtaken in unfinished {
                sandbox.record_overtaken(now, overtaken, &mut actions);
            }
            sandbox.underway = last.map(Underway::recovering);
        } else {
            // What a wake has started is found before it is destroyed.
            sandbox.underway = unfinished.pop().map(Underway::recovering);
            sandbox.overtaker = last.map(|command| Box::new(Overtaker { command, intent: None }));
        }
        // What happened shortly before the last proof may not have been told yet.
        sandbox.core.contact = recovered.last_sign.map(|sign| sign.told);
        sandbox.core.memory_stamp = recovered.last_sign.and_then(|sign| sign.memory);
        if sandbox.core.phase == Phase::Attached || sandbox.underway.is_some() {
            let known = recovered.last_sign.map(|sign| Known { all: sign.told, sizes: sign.sizes });
            let known = known.unwrap_or_else(|| sandbox.core.known(now));
            sandbox.core.missed = Some(known);
            // What is of another time than the sum says nothing.
            let sum = sandbox.core.shape.memory_plugged_bytes;
            let of_devices =
                recovered.plugged_by_device.filter(|plugged| plugged.bytes.iter().sum::<u64>() == sum);
            if let Some(plugged) = of_devices {
                sandbox.core.sizes.recovered(known.sizes, now, plugged);
            }
        }
        if let Some(command) = cycled_by {
            sandbox.core.ended_unsaid(now, (Cause::PowerCycle, Some(command)), &mut actions);
        }
        if let Some(result) = sandbox.resolve_suppression() {
            sandbox.conclude(now, result, &mut actions);
        }
        match (sandbox.core.phase, process_lives) {
            (Phase::Attached, true) => sandbox.core.connect(0, &mut actions),
            (Phase::Attached, false) => {
                sandbox.core.last_proof = recovered.last_sign.map(|sign| sign.at);
                actions.extend(sandbox.step(now, super::Input::Exited));
            }
            _ => sandbox.recover(now, &mut actions),
        }
        (sandbox, actions)
    }

    /// Whether a sandbox is suppressed the ledger knows without its QEMU.
    fn resolve_suppression(&self) -> Option<Result<Outcome, Refusal>> {
        let request = &self.underway.as_ref()?.command.request;
        let reached = match request {
            Request::Suppress { .. } => self.core.suppressed.is_some(),
            Request::Unsuppress => self.core.suppressed.is_none(),
            _ => return None,
        };
        Some(if reached { Ok(done("it is so")) } else { Err(self.interrupted()) })
    }

    /// QEMU is found, or there is none to be found: resolves the unfinished command.
    pub(super) fn recover(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        let Some(Underway { command, stage: Stage::Recovering, .. }) = self.underway.as_deref() else {
            return self.forget_saved(actions);
        };
        let resolution = self.resolve(&command.request);
        match resolution {
            Resolution::Concluded(result) => self.conclude(now, result, actions),
            Resolution::GoesOn(operation) => {
                if let Some(underway) = self.underway.as_mut() {
                    underway.stage = Stage::Working(operation);
                }
                self.work(now, actions, |operation, cx| operation.begin(cx));
            }
        }
        self.forget_saved(actions);
    }

    /// QEMU is gone: was that the end of an unfinished hibernation or destroy? True when it was.
    pub(super) fn recover_without_process(&mut self, now: Stamp, actions: &mut Vec<Action>) -> bool {
        let Some(Underway { command, stage: Stage::Recovering, .. }) = self.underway.as_deref() else {
            return false;
        };
        let cause = |cause| (cause, Some(CommandId::new(&command.request_id)));
        let request = command.request.clone();
        match (&request, self.saved.take()) {
            (Request::Hibernate { .. }, Some(manifest)) => {
                // Somebody else may have continued it after it was saved; with its host it has gone in any case.
                let runs = self.core.state == BillingState::Running;
                let proof =
                    self.core.last_proof.filter(|proof| runs && proof.boot != now.boot).unwrap_or(now);
                let at = reaching_back(proof, self.core.known(proof).all);
                if runs {
                    self.core.observe_unseen_memory(at, cause(Cause::Hibernate), actions);
                }
                let change = Change::State(BillingState::Hibernated);
                self.core.observe(at, change, cause(Cause::Hibernate), actions);
                self.core.phase = Phase::Hibernated;
                // That was of the QEMU that is gone: the one that is woken ends by itself.
                self.core.last_proof = None;
                self.core.snapshot = Some(manifest);
                self.conclude(now, Ok(done("hibernated before the agent was restarted")), actions);
            }
            (Request::Destroy { .. } | Request::Detach, _) => {
                let destroyed = matches!(request, Request::Destroy { .. });
                let cause = cause(if destroyed { Cause::Destroy } else { Cause::Detach });
                self.core.died_unseen(now, cause, actions);
                self.conclude(now, Ok(done("its QEMU is gone")), actions);
            }
            _ => {
                self.core.died_unseen(now, (Cause::Death, None), actions);
                let refusal = Refusal::new(Reason::QemuDied, "QEMU ended while the agent was not there");
                self.conclude(now, Err(refusal), actions);
            }
        }
        true
    }

    /// The process lives and QMP does not answer: what was to end it ends it all the same. It may have been told
    /// to quit before, and hang in that.
    pub(super) fn recover_unreachable(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        let Link::Connecting(_, failed) = self.core.link else { return };
        let Some(Underway { command, stage: Stage::Recovering, .. }) = self.underway.as_deref() else {
            return;
        };
        match command.request {
            Request::Destroy { .. } | Request::Detach if failed >= ATTEMPTS_MAX => self.recover(now, actions),
            Request::Hibernate { .. } if failed == ATTEMPTS_MAX && self.saved.is_some() => {
                actions.extend(self.core.process.map(Action::Kill));
            }
            // It stands since it was told to quit.
            Request::PowerCycle if failed == ATTEMPTS_MAX && self.ran && self.stands() => {
                actions.extend(self.core.process.map(Action::Kill));
            }
            _ => {}
        }
    }

    fn stands(&self) -> bool {
        self.core.state == BillingState::Paused && !self.core.started
    }

    fn resolve(&self, request: &Request) -> Resolution {
        let core = &self.core;
        let interrupted = || self.interrupted();
        let reached = |state| if core.state == state { Ok(done("it is so")) } else { Err(interrupted()) };
        Resolution::Concluded(match request {
            Request::Scale(asked) => match Scaled::of(core, asked) {
                Scaled::Wholly => Ok(done("it has that much")),
                // QEMU was asked, and the guest is at it whoever waits for that; or a dimension is left.
                Scaled::Partly => return Resolution::GoesOn(operations::of(request)),
                Scaled::NotAtAll => Err(interrupted()),
            },
            Request::Create { .. } if core.process.is_some() => {
                return Resolution::GoesOn(operations::go_on_creating());
            }
            Request::PowerCycle if core.started => {
                return Resolution::GoesOn(operations::go_on_cycling());
            }
            Request::Create { .. } | Request::PowerCycle => Err(interrupted()),
            Request::Pause { .. } => reached(BillingState::Paused),
            Request::Resume { .. } => reached(BillingState::Running),
            Request::Reboot => Err(Refusal::new(
                Reason::OutcomeUnknown,
                "the agent was restarted; whether the guest was reset before that is not known",
            )),
            Request::Hibernate { .. } if core.phase == Phase::Hibernated => Ok(done("it is hibernated")),
            Request::Hibernate { .. } => {
                return Resolution::GoesOn(operations::undo_hibernation(self.ran, interrupted()));
            }
            Request::Wake { .. } if core.phase == Phase::Attached => Ok(done("it runs")),
            Request::Wake { cold } => {
                return Resolution::GoesOn(operations::reclaim_wake(*cold, interrupted()));
            }
            Request::Attach { .. } | Request::Suppress { .. } | Request::Unsuppress => Ok(done("it is so")),
            // It has had its time: what is left is to end it.
            Request::Destroy { .. } => {
                return Resolution::GoesOn(operations::of(&Request::Destroy { graceful_ms: None }));
            }
            Request::Detach => return Resolution::GoesOn(operations::of(request)),
        })
    }

    fn interrupted(&self) -> Refusal {
        let core = &self.core;
        let message =
            format!("the agent was restarted; {} is {} and nothing was changed", core.key, core.state);
        Refusal::new(Reason::Interrupted, message)
    }

    /// A snapshot whose guest has gone on is no longer what it was.
    fn forget_saved(&mut self, actions: &mut Vec<Action>) {
        if let Some(manifest) = self.saved.take() {
            self.core.snapshot = Some(manifest.clone());
            if self.underway.is_some() {
                self.core.consumed = Some(manifest);
            } else {
                actions.push(Action::RemoveSnapshot(SnapshotRemoval::Consumed(manifest)));
            }
        }
    }
}

impl Core {
    /// There is another QEMU: the one before has ended, and where its guest ran by the ledger, the agent that ended it did not
    /// live to say so.
    fn ended_unsaid(&mut self, now: Stamp, cause: (Cause, Option<CommandId>), actions: &mut Vec<Action>) {
        if self.state == BillingState::Running {
            let end = reaching_back(now, self.known(now).all);
            self.observe_unseen_memory(end, cause.clone(), actions);
            self.observe(end, Change::State(BillingState::Paused), cause, actions);
        }
    }

    /// The process ended while nobody looked: what comes after the last proof of its life is lost, not billed.
    pub(super) fn died_unseen(
        &mut self,
        now: Stamp,
        cause: (Cause, Option<CommandId>),
        actions: &mut Vec<Action>,
    ) {
        let proof = self.last_proof.take().unwrap_or(now);
        self.link = Link::None;
        // What QEMU told shortly before, or held back, is gone with it: it counts for the customer.
        let told = reaching_back(proof, self.known(proof).all);
        self.observe_unseen_limit(told, actions);
        self.observe_unseen_memory(told, (Cause::ProofEnded, None), actions);
        self.observe(told, Change::State(BillingState::Lost), (Cause::ProofEnded, None), actions);
        self.observe(now, Change::Ended, cause, actions);
        self.phase = Phase::Ended;
        actions.push(Action::Publish(Notice::Changed("proof_ended")));
    }
}

fn done(message: &str) -> Outcome {
    Outcome { result: CommandResult::Done, message: message.to_owned() }
}

/// How much of a scale is so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scaled {
    Wholly,
    Partly,
    NotAtAll,
}

impl Scaled {
    fn of(core: &Core, asked: &Scaling) -> Self {
        let shape = core.shape;
        let memory = asked.memory_bytes.map(|bytes| {
            let plugged = bytes.checked_sub(shape.memory_base_bytes);
            if plugged == Some(shape.memory_plugged_bytes) {
                Self::Wholly
            } else if plugged == Some(shape.memory_requested_bytes) {
                Self::Partly
            } else {
                Self::NotAtAll
            }
        });
        let whether = |is_so| if is_so { Self::Wholly } else { Self::NotAtAll };
        let vcpus = asked.vcpus_milli.map(|milli| whether(milli == shape.vcpus_milli));
        let disks = core.survey.as_ref().map(|survey| survey.disks.as_slice()).unwrap_or_default();
        let grown = asked.disks.iter().map(|(node, bytes)| {
            whether(disks.iter().any(|disk| disk.node == *node && disk.size_bytes == *bytes))
        });
        let both = |one, other| if one == other { one } else { Self::Partly };
        memory.into_iter().chain(vcpus).chain(grown).reduce(both).unwrap_or(Self::NotAtAll)
    }
}
