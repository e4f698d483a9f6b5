//! What is known of a sandbox, apart from the command under way.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use dormouse_metering::{BillingState, Cause, Change, CommandId, Observation, Shape, Stamp};

use super::sight::{Known, reaching_back};
use super::sizes::Sizes;
use super::{Action, QemuEvent, Token};
use crate::process::ProcessIdentity;
use crate::sandbox::command::{Method, SandboxKey};
use crate::sandbox::facts::Survey;
use crate::sandbox::hibernation;
use crate::sandbox::snapshot::Manifest;
use crate::sandbox::terms::Terms;

/// How many questions are remembered. An operation has one open, the core a few of its own.
const ASKED_MAX: usize = 32;

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not attached yet.
    New,
    /// There is a QEMU.
    Attached,
    /// There is a snapshot and no QEMU.
    Hibernated,
    /// Its life under the agent's care is over.
    Ended,
}

/// Whether QMP answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// There is nothing to connect to.
    None,
    /// The agent is trying; the token of the attempt, and how many failed before it.
    Connecting(Token, u32),
    /// Commands can be sent.
    Up,
}

/// What the QEMU had that another one takes the place of, and that the next one is not born with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced {
    /// The limit on its CPU time, in thousandths of a vCPU.
    pub(super) vcpu_limit_milli: Option<u32>,
    /// Whether the next one is found, and the kernel being asked to limit it: the shape is still that of the one before.
    pub(super) is_asked_for: bool,
}

/// A limit on CPU time that the kernel was asked to take.
#[derive(Clone, Debug)]
pub(super) struct Limiting {
    /// When it was asked to.
    pub(super) asked: Stamp,
    /// In thousandths of a vCPU.
    pub(super) milli: u32,
    /// Whether it is yet to answer. It may have failed to, or have answered an agent that was killed.
    pub(super) answer_comes: bool,
    /// The scale that asks for it: what is cut because of it names that.
    pub(super) command: CommandId,
}

/// A survey that was asked for because events were missed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resync {
    pub(super) token: Token,
    /// Whether more events were missed since.
    pub(super) again: bool,
}

/// Times and places that the machine goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a guest may go without plugging or giving back anything before a scale is called partial.
    pub scale_stall_ms: u64,
    /// What a guest keeps beyond what it says it uses when memory is taken away, in bytes. `None`: it is not asked.
    pub guest_reserve_bytes: Option<u64>,
    /// The largest that a disk can be made, in bytes.
    pub disk_bytes_max: u64,
    /// Between two looks at something that QEMU does by itself, at first.
    pub poll_min_ms: u64,
    /// Between two looks, at last.
    pub poll_max_ms: u64,
    /// How long QEMU may take to quit before it is killed.
    pub quit_ms: u64,
    /// Between attempts to connect, at first.
    pub reconnect_min_ms: u64,
    /// Between attempts to connect, at last.
    pub reconnect_max_ms: u64,
    /// The order in which `auto` tries the ways of hibernating.
    pub hibernation_order: Vec<Method>,
    /// How long a QEMU started for a wake may take until its QMP answers.
    pub launch_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scale_stall_ms: 10_000,
            guest_reserve_bytes: None,
            disk_bytes_max: i64::MAX.unsigned_abs(),
            poll_min_ms: 2,
            poll_max_ms: 100,
            quit_ms: 10_000,
            reconnect_min_ms: 50,
            reconnect_max_ms: 5_000,
            hibernation_order: hibernation::CHEAPEST_FIRST.to_vec(),
            launch_ms: 30_000,
        }
    }
}

/// What is known of a sandbox. What few have is boxed: there are thousands of idle ones.
#[derive(Debug)]
pub struct Core {
    /// Its name.
    pub key: SandboxKey,
    /// Its generation, in nanoseconds since the Unix epoch; 0 until it is attached.
    pub generation: i64,
    /// Its QMP socket.
    pub qmp_path: PathBuf,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether QMP answers.
    pub link: Link,
    /// While the agent is trying: whether another client holds the socket.
    pub busy: bool,
    /// What it holds.
    pub shape: Shape,
    /// What it is billed as, but for a suppression.
    pub state: BillingState,
    /// Why its time is free, whatever its state.
    pub suppressed: Option<String>,
    /// What the last survey found.
    pub survey: Option<Survey>,
    /// Its QEMU.
    pub process: Option<ProcessIdentity>,
    /// After a restart: whether its QEMU is one that the unfinished command has started.
    pub started: bool,
    /// How it is to be driven, where that is not as QEMU says.
    terms: Option<Box<Terms>>,
    /// Its last snapshot: the one to wake from, where it is hibernated.
    pub snapshot: Option<Box<Manifest>>,
    /// What the QEMU that was started last had written when it exited.
    pub(super) last_words: Option<String>,
    /// How far an operation has come: bytes done, bytes in all.
    pub progress: (u64, u64),
    pub(super) settings: Arc<Settings>,
    /// When an event said last whether it runs.
    pub(super) ran_or_stood: Option<Stamp>,
    /// Since when a guest that is being woken may run already, because somebody else has continued it.
    pub(super) continued: Option<Stamp>,
    /// The stamp under which its state was told last.
    pub(super) state_stamp: Option<Stamp>,
    /// The stamp under which its plugged memory was told last.
    pub(super) memory_stamp: Option<Stamp>,
    /// The snapshot that goes once it is durable that nobody needs it.
    pub(super) consumed: Option<Box<Manifest>>,
    /// When its memory was last known from QEMU.
    pub(super) memory_known: Option<Stamp>,
    /// When its disks were last known from QEMU.
    pub(super) disks_known: Option<Stamp>,
    /// When the kernel said last what its CPU time is limited to: nobody tells when another changes that.
    pub(super) vcpus_known: Option<Stamp>,
    /// A limit that the kernel may have taken.
    pub(super) limiting: Option<Box<Limiting>>,
    /// When the kernel had answered to a limit last.
    pub(super) limited: Option<Stamp>,
    /// When the kernel said it, in the survey that is being taken in.
    pub(super) vcpus_surveyed: Option<Stamp>,
    /// The question for the memory that a reset has raised.
    pub(super) memory_asked: Option<Token>,
    /// The wait for the answer to the question for the memory that was asked last.
    pub(super) memory_awaited: Option<Token>,
    /// When the last size event arrived.
    pub(super) memory_told: Option<Stamp>,
    /// The wait after which nothing can be held back any more.
    pub(super) settling: Option<Token>,
    /// When it was noticed that the host had slept, and for how long.
    pub(super) slept: Option<(Stamp, u64)>,
    /// When QEMU said something last.
    pub(super) spoke: Option<Stamp>,
    /// Through when everything that QEMU told has arrived.
    pub(super) contact: Option<Stamp>,
    /// What each of its memory devices had of late.
    pub(super) sizes: Sizes,
    /// Why memory changes now: the last command or reset that set it going.
    pub(super) memory_cause: (Cause, Option<CommandId>),
    /// Through when the process is known to have lived, where it ended unseen.
    pub(super) last_proof: Option<Stamp>,
    /// Through when QEMU was known before something was missed.
    pub(super) missed: Option<Known>,
    /// What QEMU told before its life was recorded as begun.
    pub(super) early: Vec<QemuEvent>,
    /// When QEMU said that it shuts down.
    pub(super) shutdown: Option<Stamp>,
    pub(super) status_asked: Option<(Token, Stamp)>,
    /// The QEMU before, until the next one has what it had.
    pub(super) replaced: Option<Replaced>,
    /// The survey that was asked for because events were missed.
    pub(super) resync: Option<Resync>,
    /// The time of the step that is being taken.
    pub(super) now: Option<Stamp>,
    /// When each action that has no answer yet was asked for: what an answer says was so at some time since.
    asked: VecDeque<(Token, Stamp)>,
    /// When what has been answered last was asked for.
    pub(super) answered: Option<Stamp>,
    next_token: u64,
}

impl Core {
    /// A sandbox of which only name and socket are known.
    pub fn new(key: SandboxKey, qmp_path: PathBuf, settings: impl Into<Arc<Settings>>) -> Self {
        Self {
            key,
            generation: 0,
            qmp_path,
            phase: Phase::New,
            link: Link::None,
            busy: false,
            shape: Shape::default(),
            state: BillingState::Running,
            suppressed: None,
            survey: None,
            process: None,
            started: false,
            terms: None,
            snapshot: None,
            last_words: None,
            progress: (0, 0),
            settings: settings.into(),
            ran_or_stood: None,
            continued: None,
            state_stamp: None,
            memory_stamp: None,
            consumed: None,
            memory_known: None,
            disks_known: None,
            vcpus_known: None,
            vcpus_surveyed: None,
            limiting: None,
            limited: None,
            memory_told: None,
            settling: None,
            slept: None,
            spoke: None,
            memory_asked: None,
            memory_awaited: None,
            sizes: Sizes::default(),
            missed: None,
            early: Vec::new(),
            contact: None,
            memory_cause: (Cause::Resize, None),
            last_proof: None,
            shutdown: None,
            status_asked: None,
            replaced: None,
            resync: None,
            now: None,
            asked: VecDeque::new(),
            answered: None,
            next_token: 1,
        }
    }

    /// How it is to be driven.
    pub fn terms(&self) -> &Terms {
        self.terms.as_deref().unwrap_or(Terms::none())
    }

    /// It is to be driven so from now on.
    pub fn go_by(&mut self, terms: Terms) {
        self.terms = (!terms.is_empty()).then(|| Box::new(terms));
    }

    /// Whether its life under the agent's care is over.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended | Phase::New)
    }

    /// A limit on CPU time that the kernel did not say is as it was known last: of the same QEMU.
    pub(super) fn keep_vcpu_limit(&mut self, survey: &mut Survey) {
        // What was read before the kernel took another one, or may have been.
        let is_newer = |at: Stamp| {
            self.answered.is_some_and(|asked| asked.boot == at.boot && asked.boottime_ns <= at.boottime_ns)
        };
        let is_in_flight = self.limiting.as_ref().is_some_and(|limiting| limiting.answer_comes);
        if is_in_flight || self.limited.is_some_and(is_newer) {
            survey.vcpu_limit_milli = Err("the kernel was told of another one meanwhile".to_owned());
        }
        self.vcpus_surveyed = self.answered.filter(|_| survey.vcpu_limit_milli.is_ok());
        if survey.vcpu_limit_milli.is_ok() || self.phase == Phase::New {
            return;
        }
        match (&self.replaced, &self.survey) {
            (Some(replaced), Some(last)) if replaced.is_asked_for => {
                survey.vcpu_limit_milli.clone_from(&last.vcpu_limit_milli);
            }
            (Some(_), _) => {}
            (None, _) => {
                let doubted = self.limiting.as_ref().filter(|limiting| !limiting.answer_comes);
                let known = doubted.map_or(u32::MAX, |limiting| limiting.milli).min(self.shape.vcpus_milli);
                survey.vcpu_limit_milli = Ok(Some(known).filter(|known| *known < survey.vcpus_milli));
            }
        }
    }

    pub(super) fn token(&mut self) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.extend(self.now.map(|now| (token, now)));
        token
    }

    /// Notes that an action was answered, and when it had been asked for.
    pub(super) fn note_answered(&mut self, now: Stamp, token: Token) {
        let index = self.asked.iter().position(|(asked, _)| *asked == token);
        let asked = index.and_then(|index| self.asked.remove(index)).map(|(_, at)| at);
        if self.asked.is_empty() {
            // There are thousands that ask nothing for hours.
            self.asked.shrink_to(0);
        }
        // An answer to what was asked too long ago to be remembered says nothing of what was since.
        self.answered = asked.or_else(|| self.asked.front().map(|(_, at)| *at)).or(Some(now));
    }

    /// What QEMU tells after an answer came about after it, also where it is stamped before the answer arrived.
    pub(super) fn in_order(&self, at: Stamp, change: &Change) -> Stamp {
        let (state, memory) = match change {
            Change::State(_) => (self.state_stamp, None),
            Change::Plugged(_) => (None, self.memory_stamp),
            Change::Holds(..) | Change::Ended => (self.state_stamp, self.memory_stamp),
            _ => (None, None),
        };
        // An end comes behind all else of its stamp.
        let until_ns =
            if *change == Change::Ended { at.boottime_ns.saturating_add(1) } else { at.boottime_ns };
        let of_boot = |last: &Stamp| last.boot == at.boot && until_ns <= last.boottime_ns;
        let last = state.into_iter().chain(memory).filter(of_boot).max_by_key(|last| last.boottime_ns);
        last.map_or(at, |last| reaching_back(last, at.earlier_by(at.uncertainty_ns)))
    }

    /// Tells the meter, unless it is what the sandbox holds already.
    pub(super) fn observe(
        &mut self,
        at: Stamp,
        change: Change,
        (cause, command): (Cause, Option<CommandId>),
        actions: &mut Vec<Action>,
    ) {
        if self.state == BillingState::Running
            && matches!(change, Change::State(state) if state != self.state)
        {
            // What it ran until then it may have run with less: the kernel's answer comes behind.
            self.observe_limit_in_flight(at, actions);
        }
        let before = (self.shape, self.state);
        change.apply(&mut self.shape, &mut self.state);
        let always = matches!(change, Change::Suppressed(_) | Change::Mark | Change::Ended);
        if always || before != (self.shape, self.state) {
            let at = self.in_order(at, &change);
            if before.1 != self.state {
                self.state_stamp = Some(at);
            }
            if before.0.memory_plugged_bytes != self.shape.memory_plugged_bytes {
                self.memory_stamp = Some(at);
            }
            actions.push(Action::Observe(Observation { at, change, cause, command }));
        }
    }
}
