//! Wake: check the snapshot, ask for the host's memory, start its QEMU again, load, and continue the guest by our own
//! `cont`.
//!
//! ```text
//!                               ┌┄┄ the digest is taken ┄┄┐
//!   Verifying ─▶ Promising ─▶ Launching ─▶ Connecting ─▶ Digesting ─▶ Loading ─▶ AskingMemory ─▶ Limiting ─▶ Continuing ─▶ done
//!       │            │            │            │             │           │            │             │            │
//!       ▼            ▼            ▼            └─────────────┴───────────┴─ GivingUp ◀┴─────────────┴────────────┘
//!     failed      failed       failed                                         │ exit                            │ no answer
//!                                                                             ▼                                 ▼
//!                                                            failed, hibernated as before ◀──────────────── Reclaiming
//!                                                                                                               ▼ the guest runs
//!                                                                                                             done
//! ```
//!
//! All that is quick to check is checked while there is no QEMU, and while the intent is being recorded: manifest, files and
//! their lengths. The digest of a
//! `mapped-ram` file, which takes as long as the file is large, is taken while QEMU starts, with `-incoming defer`: it has
//! nothing of the file before the digest was found right, and is ended where it is not. Where the RAM is in files, which
//! QEMU maps as soon as it is started, the digest comes first: the state beside them is small.
//!
//! `Reclaiming` is also where a wake begins that the agent's restart cut short: it looks for the QEMU that may have been
//! started. Whoever else continues the guest before our own `cont` is taken to have done so as late as can be.
//!
//! Billing starts when the guest has been continued, with the memory that QEMU reports then.
//!
//! A cold start, for whoever asks for one, begins the guest anew instead of loading what it was, by whatever QEMU is there
//! now: nothing is verified, and `Loading` is left out. Where the RAM is in files, the QEMU that is started writes over them
//! before its guest runs: so the snapshot is given up first, durably, and nothing can load the half of it afterwards.
//!
//! ```text
//!   GivingUpSnapshot ─▶ Promising ─▶ Launching ─▶ Connecting ─▶ AskingMemory ─▶ as above
//!          ▼
//!        failed
//! ```

use dormouse_metering::{BillingState, Cause, Change, RunState, Stamp};
use serde_json::Value;

use super::start::ended;
use super::transfer::{Transfer, Turn, internal_tag};
use super::{Answer, Context, Flow, Procedure, cpu_limit, done, failed, is_unsure, out_of_place, status_of};
use crate::process::ProcessIdentity;
use crate::sandbox::command::Method;
use crate::sandbox::facts::Survey;
use crate::sandbox::machine::core::{Core, Link, Phase};
use crate::sandbox::machine::sight::reaching_back;
use crate::sandbox::machine::{Action, Announcement, Check, Launch, QemuEvent};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::snapshot::Manifest;

#[derive(Debug)]
pub(super) struct Wake {
    step: Step,
    /// The guest begins anew.
    cold: bool,
    /// The snapshot and the memory that it wants, or why it is refused, where that was known before the intent was durable.
    verified: Option<Result<(Box<Manifest>, u64), Refusal>>,
    connect_until_ns: u64,
    /// QEMU was told to continue the guest, which may have run and written to its disks since.
    told: bool,
    /// The guest cannot have run before.
    stood: Option<Stamp>,
    /// Why its CPU time is not limited as it was, in words.
    unlimited: String,
}

/// How long the QEMU that an interrupted wake may have started is looked for.
const RECLAIM_MS: u64 = 3_000;

#[derive(Debug)]
enum Step {
    Verifying,
    GivingUpSnapshot,
    Promising(Box<Manifest>),
    Launching,
    Connecting,
    Digesting,
    Loading(Transfer),
    AskingMemory,
    Limiting,
    Continuing,
    Reclaiming(Refusal),
    GivingUp(Refusal),
}

impl Wake {
    pub(super) fn new(cold: bool) -> Self {
        Self { cold, ..Self::at(Step::Verifying) }
    }

    /// One that was interrupted: the QEMU that it may have started is looked for.
    pub(super) fn to_reclaim(cold: bool, why: Refusal) -> Self {
        Self { cold, ..Self::at(Step::Reclaiming(why)) }
    }

    fn at(step: Step) -> Self {
        let unlimited = String::new();
        Self { step, cold: false, verified: None, connect_until_ns: 0, told: false, stood: None, unlimited }
    }

    /// The guest is to begin anew.
    fn begin_cold(&mut self, cx: &mut Context<'_>, manifest: Box<Manifest>) -> Flow {
        if manifest.method == Method::Shared {
            self.step = Step::GivingUpSnapshot;
            return cx.ask(|token| Action::GiveUpSnapshot(token, manifest));
        }
        self.promise_cold(cx, manifest)
    }

    fn promise_cold(&mut self, cx: &mut Context<'_>, manifest: Box<Manifest>) -> Flow {
        let wanted_bytes = manifest.shape.memory_base_bytes;
        self.promise(cx, manifest, wanted_bytes)
    }

    fn promise(&mut self, cx: &mut Context<'_>, manifest: Box<Manifest>, wanted_bytes: u64) -> Flow {
        self.step = Step::Promising(manifest);
        cx.ask(|token| Action::PromiseMemory(token, wanted_bytes))
    }

    fn launch(&mut self, cx: &mut Context<'_>, manifest: Box<Manifest>) -> Flow {
        cx.observe(cx.now, Change::State(BillingState::Waking), Cause::Wake);
        let incoming: &[&str] = match manifest.method {
            Method::Shared | Method::MappedRam if !self.cold => &["-incoming", "defer"],
            _ => &[],
        };
        let arguments = ["-S"].iter().chain(incoming).map(|word| (*word).to_owned()).collect();
        cx.core.snapshot = Some(manifest.clone());
        cpu_limit::remember(cx.core);
        self.step = Step::Launching;
        cx.ask(|token| Action::Launch(token, Box::new(Launch { manifest, arguments })))
    }

    fn connect(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::Connecting;
        cx.ask(|token| Action::Connect(token, 1))
    }

    /// QEMU answers: it loads, unless it is another one, or what it would load is not known to be right yet.
    fn connected(&mut self, cx: &mut Context<'_>, survey: &Survey) -> Flow {
        if self.cold {
            return self.loaded(cx, Turn::Complete);
        }
        let Some(manifest) = &cx.core.snapshot else {
            return self.give_up(cx, Refusal::new(Reason::Bug, "the snapshot is gone from memory"));
        };
        if let Some(refusal) = mismatch(manifest, survey) {
            return self.give_up(cx, refusal);
        }
        if check_of(manifest.method) == Check::ButDigest {
            self.step = Step::Digesting;
            return cx.ask(Action::AwaitDigest);
        }
        self.load(cx)
    }

    fn load(&mut self, cx: &mut Context<'_>) -> Flow {
        let (Some(manifest), Some(survey)) = (&cx.core.snapshot, &cx.core.survey) else {
            return self.give_up(cx, Refusal::new(Reason::Bug, "the snapshot is gone from memory"));
        };
        let tag = internal_tag(cx.core.generation, manifest.ordinal);
        let mut transfer = Transfer::load(manifest.method, survey, &manifest.state_path(), &tag);
        let turn = transfer.begin(cx);
        self.step = Step::Loading(transfer);
        self.loaded(cx, turn)
    }

    fn loaded(&mut self, cx: &mut Context<'_>, turn: Turn) -> Flow {
        match turn {
            Turn::Wait => Flow::Wait,
            Turn::Failed(refusal) => self.give_up(cx, refusal),
            Turn::Complete => {
                self.step = Step::AskingMemory;
                cx.query("query-memory-devices")
            }
        }
    }

    /// The guest has all that it had, and goes on; or all that it gets, and begins.
    fn cont(&mut self, cx: &mut Context<'_>) -> Flow {
        if let Some(survey) = &cx.core.survey {
            let shape = survey.shape();
            let begun = Change::Holds(shape, cx.core.state);
            let change = if self.cold { begun } else { Change::Vcpus(shape.vcpus_milli) };
            cx.observe(cx.now, change, Cause::Wake);
        }
        self.step = Step::Continuing;
        self.stood = cx.core.continued.or(Some(cx.now));
        self.told = true;
        cx.query("cont")
    }

    /// What `query-status` says once the guest was told to go on.
    fn continued(&mut self, cx: &mut Context<'_>, status: &Value) -> Flow {
        if status_of(status) != Some(BillingState::Running) {
            return self.give_up(cx, Refusal::new(Reason::QemuFailed, "the guest did not continue"));
        }
        cx.observe(self.since_it_stood(cx.now), Change::State(BillingState::Running), Cause::Wake);
        self.awake(cx)
    }

    /// Now, uncertain since the guest was last known to stand.
    fn since_it_stood(&self, now: Stamp) -> Stamp {
        let stood_ns = self.stood.filter(|at| at.boot == now.boot).map_or(0, |at| at.boottime_ns);
        now.uncertain_by(now.boottime_ns.saturating_sub(stood_ns))
    }

    /// The QEMU that may have been started answers, or does not.
    fn reclaiming(&mut self, cx: &mut Context<'_>, why: Refusal, answer: Answer) -> Flow {
        match answer {
            Answer::Surveyed(survey, process) => {
                found(cx, &survey, process);
                self.reclaim(cx, &survey, why)
            }
            Answer::Failed(refusal)
                // Somebody listens there: that may be the one.
                if refusal.reason == Reason::QmpBusy || cx.now.boottime_ns < self.connect_until_ns =>
            {
                self.step = Step::Reclaiming(why);
                let pause_ms = cx.core.settings.reconnect_min_ms;
                cx.ask(|token| Action::Connect(token, pause_ms))
            }
            _ => self.give_up(cx, why),
        }
    }

    /// QEMU answers again: does the guest run?
    fn reclaim(&mut self, cx: &mut Context<'_>, survey: &Survey, why: Refusal) -> Flow {
        if survey.folded().map(RunState::billing_state) != Some(BillingState::Running) {
            return self.give_up(cx, why);
        }
        cx.core.missed = None;
        let at = self.since_it_stood(cx.now);
        cx.observe(at, Change::Holds(survey.shape(), BillingState::Running), Cause::Wake);
        self.awake(cx)
    }

    /// The guest runs: the snapshot is no longer what it was.
    fn awake(&self, cx: &mut Context<'_>) -> Flow {
        cx.core.phase = Phase::Attached;
        if let Some(ran) = cx.core.continued.take() {
            // What it ran before is not billed, and not certain.
            cx.observe(reaching_back(cx.now, ran), Change::Mark, Cause::Wake);
        }
        cpu_limit::mark_what_ran_without(cx, Cause::Wake);
        cx.core.consumed.clone_from(&cx.core.snapshot);
        let anew = if self.cold { ", from the beginning" } else { "" };
        done(format!("{} runs again{anew}{}", cx.core.key, self.unlimited))
    }

    /// The QEMU that was started goes; the snapshot stays, and the sandbox is hibernated as before.
    fn give_up(&mut self, cx: &mut Context<'_>, refusal: Refusal) -> Flow {
        let Some(process) = cx.core.process else {
            return hibernated_again(cx, refusal);
        };
        self.step = Step::GivingUp(refusal);
        // Until it is gone somebody else may continue it, unheard.
        cx.core.miss(cx.now);
        cx.core.link = Link::None;
        cx.actions.extend([Action::Disconnect, Action::Kill(process)]);
        Flow::Wait
    }
}

/// QEMU answers. An agent that is started again has to find this process, not the one that was hibernated.
fn found(cx: &mut Context<'_>, survey: &Survey, process: ProcessIdentity) {
    if cx.core.missed.is_some() {
        // An agent that is gone has started it, and it may have told that one something shortly before.
        cx.core.first_seen(cx.now, survey);
    }
    cx.core.found(cx.now, survey.clone(), process);
    let token = cx.core.token();
    let announcement = Announcement::Reattached(Box::new(survey.clone()), process);
    cx.actions.push(Action::Announce(token, announcement));
}

/// Billing goes back to what it was before the wake.
fn hibernated_again(cx: &mut Context<'_>, refusal: Refusal) -> Flow {
    cx.core.link = Link::None;
    // Where nobody knows whether it ran meanwhile, it is not billed, and that is not certain.
    let ran = cx.core.continued.take();
    let at = cx.core.since(cx.now, ran);
    cx.core.missed = None;
    if at.uncertainty_ns > 0 && cx.core.state == BillingState::Hibernated {
        cx.observe(at, Change::Mark, Cause::WakeFailed);
    }
    cx.observe(at, Change::State(BillingState::Hibernated), Cause::WakeFailed);
    failed(refusal)
}

/// How much is checked before QEMU is started. QEMU maps the RAM of a `shared` one, and `internal` has no state file.
const fn check_of(method: Method) -> Check {
    match method {
        Method::MappedRam => Check::ButDigest,
        Method::Shared | Method::Internal => Check::Whole,
    }
}

fn verify(cx: &mut Context<'_>, manifest: Box<Manifest>) -> Flow {
    let check = check_of(manifest.method);
    cx.ask(|token| Action::VerifySnapshot(token, manifest, check))
}

fn mismatch(manifest: &Manifest, survey: &Survey) -> Option<Refusal> {
    let saved_by = manifest.qemu_version.as_str();
    let found = survey.version.to_string();
    (saved_by != found).then(|| {
        let message = format!(
            "the snapshot was saved by QEMU {saved_by}, and {} is {found} now; install {saved_by} to wake it",
            manifest.command_line.exe.display()
        );
        Refusal::new(Reason::QemuMismatch, message).with("saved_by", saved_by).with("found", found)
    })
}

impl Procedure for Wake {
    fn step(&self) -> &'static str {
        match self.step {
            Step::Verifying => "checking the snapshot",
            Step::GivingUpSnapshot => "giving up the snapshot",
            Step::Promising(_) => "asking for the host's memory",
            Step::Launching => "starting QEMU",
            Step::Connecting => "connecting",
            Step::Digesting => "checking the snapshot's state",
            Step::Loading(_) => "loading",
            Step::AskingMemory => "asking for the memory",
            Step::Limiting => "limiting CPU time",
            Step::Continuing => "cont",
            Step::Reclaiming(_) => "looking for the QEMU that was started",
            Step::GivingUp(_) => "ending the QEMU that could not wake",
        }
    }

    fn ask_ahead(&mut self, cx: &mut Context<'_>) {
        if let Some(manifest) = cx.core.snapshot.clone().filter(|_| !self.cold) {
            verify(cx, manifest);
        }
    }

    fn answered_ahead(&mut self, _: &mut Context<'_>, answer: &Answer) {
        self.verified = match answer {
            Answer::SnapshotVerified(manifest, wanted_bytes) => Some(Ok((manifest.clone(), *wanted_bytes))),
            Answer::Failed(refusal) => Some(Err(refusal.clone())),
            _ => None,
        };
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        if let Step::Reclaiming(_) = self.step {
            self.connect_until_ns = cx.now.boottime_ns.saturating_add(RECLAIM_MS * 1_000_000);
            self.stood = Some(cx.core.known(cx.now).all);
            return cx.ask(|token| Action::Connect(token, 0));
        }
        let Some(manifest) = cx.core.snapshot.clone() else {
            return failed(Refusal::new(
                Reason::SnapshotDamaged,
                "the ledger has no snapshot of this sandbox",
            ));
        };
        if self.cold {
            return self.begin_cold(cx, manifest);
        }
        match self.verified.take() {
            Some(Ok((manifest, wanted_bytes))) => self.promise(cx, manifest, wanted_bytes),
            Some(Err(refusal)) => failed(refusal),
            None if cx.waiting.is_some() => Flow::Wait,
            None => verify(cx, manifest),
        }
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (std::mem::replace(&mut self.step, Step::Verifying), answer) {
            (Step::Verifying, Answer::SnapshotVerified(manifest, wanted_bytes)) => {
                self.promise(cx, manifest, wanted_bytes)
            }
            (Step::GivingUpSnapshot, Answer::SnapshotGivenUp(manifest)) => self.promise_cold(cx, manifest),
            (Step::Promising(manifest), Answer::Promised) => self.launch(cx, manifest),
            (Step::Verifying | Step::GivingUpSnapshot | Step::Promising(_), Answer::Failed(refusal)) => {
                failed(refusal)
            }
            (Step::Launching, Answer::Launched(process)) => {
                cx.core.process = Some(process);
                let launch_ns = cx.core.settings.launch_ms.saturating_mul(1_000_000);
                self.connect_until_ns = cx.now.boottime_ns.saturating_add(launch_ns);
                self.connect(cx)
            }
            (Step::Connecting, Answer::Surveyed(survey, process)) => {
                found(cx, &survey, process);
                cx.core.missed = None;
                self.connected(cx, &survey)
            }
            (Step::Digesting, Answer::DigestRight) => self.load(cx),
            (Step::Connecting, Answer::Failed(refusal)) => {
                let keeps_trying = cx.now.boottime_ns < self.connect_until_ns;
                if keeps_trying { self.connect(cx) } else { self.give_up(cx, refusal) }
            }
            (Step::Reclaiming(why), answer @ (Answer::Surveyed(..) | Answer::Failed(_))) => {
                self.reclaiming(cx, why, answer)
            }
            // Whether the guest was continued shows when QEMU answers again.
            (Step::Continuing, Answer::Failed(why)) if is_unsure(&why) => {
                self.step = Step::Reclaiming(why);
                // The connection that failed is given up, and its end is not waited for.
                cx.core.link = Link::None;
                cx.ask(|token| Action::Connect(token, 0))
            }
            (Step::Loading(mut transfer), answer) => {
                let turn = transfer.answer(cx, answer);
                self.step = Step::Loading(transfer);
                self.loaded(cx, turn)
            }
            (Step::AskingMemory, Answer::Returned(devices)) => {
                // Nothing is billed yet, so that what was plugged before costs nothing until the guest goes on.
                cx.core.learn_memory(cx.now, &devices, cx.actions);
                if cpu_limit::ask(cx) {
                    self.step = Step::Limiting;
                    return Flow::Wait;
                }
                self.cont(cx)
            }
            (Step::Limiting, answer) => {
                self.unlimited = cpu_limit::answered(cx, answer);
                self.cont(cx)
            }
            (Step::Continuing, Answer::Returned(value)) if value.get("status").is_some() => {
                self.continued(cx, &value)
            }
            (Step::Continuing, Answer::Returned(_)) if cx.core.state == BillingState::Running => {
                self.awake(cx)
            }
            (Step::Continuing, Answer::Returned(_)) => {
                self.step = Step::Continuing;
                cx.query("query-status")
            }
            (_, Answer::Failed(refusal)) => self.give_up(cx, refusal),
            (step, answer) => {
                self.step = step;
                out_of_place(self.step(), &answer)
            }
        }
    }

    fn event(&mut self, cx: &mut Context<'_>, event: &QemuEvent) -> Flow {
        if let Step::Loading(transfer) = &mut self.step {
            transfer.event(cx, event);
        }
        // Somebody else's, unless we have told QEMU to.
        if event.name == "RESUME" && !matches!(self.step, Step::Continuing) {
            let since = event.at.earlier_by(event.at.uncertainty_ns);
            cx.core.continued = cx.core.continued.or(Some(since));
        }
        Flow::Wait
    }

    fn claim(&self, event: &str) -> Option<(Cause, BillingState)> {
        match (event, &self.step) {
            ("RESUME", Step::Continuing) => Some((Cause::Wake, BillingState::Running)),
            // Loading stops and continues by itself; the guest does not run until we say so.
            ("STOP" | "RESUME", _) => Some((Cause::Wake, BillingState::Waking)),
            _ => None,
        }
    }

    fn may_be_overtaken(&self, core: &Core) -> bool {
        // Which process is being started is not known yet: a destroy would leave it behind.
        !matches!(self.step, Step::Launching | Step::Reclaiming(_)) || core.process.is_some()
    }

    fn disconnected(&mut self, cx: &mut Context<'_>) -> Flow {
        // A QEMU that loads and cannot be asked is ended; nothing has run in it.
        let gone =
            matches!(self.step, Step::Digesting | Step::Loading(_) | Step::AskingMemory | Step::Limiting);
        if !gone {
            return Flow::Wait;
        }
        *cx.waiting = None;
        self.give_up(cx, Refusal::new(Reason::QmpUnreachable, "the QMP connection was lost while loading"))
    }

    fn expects_exit(&self) -> bool {
        !self.told || matches!(self.step, Step::GivingUp(_))
    }

    fn exited(&mut self, cx: &mut Context<'_>) -> Flow {
        if let Step::GivingUp(refusal) = std::mem::replace(&mut self.step, Step::Verifying) {
            return hibernated_again(cx, refusal);
        }
        let mut refusal = ended(cx, "the guest ran");
        if !self.cold {
            refusal.message.push_str("; the snapshot stays as it was");
        }
        hibernated_again(cx, refusal)
    }
}
