//! Hibernate: stop the guest, write its state, make that durable, and only then let QEMU go.
//!
//! ```text
//!   Preparing ─▶ AskingMemory ─▶ Stopping ─▶ Measuring ─▶ Saving ─▶ Writing ─▶ Recording ─▶ Quitting ─▶ done
//!       │             │             │            │           │         │          │             │ too slow
//!       ▼             ▼             └────────────┴─ Undoing ◀┴─────────┴──────────┘         Killing ─▶ done
//!     failed, the guest untouched                   │ cont
//!                                                   ▼
//!                          failed, and the guest runs on as soon as QEMU says so
//! ```
//!
//! `Preparing` also waits for a turn: a host saves so many at once, and whoever waits runs on meanwhile, and is billed.
//!
//! While QEMU writes, what has to be synced at the end is on its way to the disk already (`Action::WriteOut`): by the method
//! `shared` the files of the RAM from `Saving` on, by `mapped-ram` the state so far, at every look.
//!
//! One that the agent's restart cut short begins at `Cancelling`, which calls off the save that QEMU may still be
//! busy with, and then undoes the rest.

use dormouse_metering::{BillingState, Cause, Change, Stamp};

use super::transfer::{Transfer, Turn, internal_tag};
use super::{Answer, Context, Flow, Procedure, done, failed, is_unsure, out_of_place, status_of};
use crate::sandbox::command::{Method, MethodChoice};
use crate::sandbox::hibernation;
use crate::sandbox::machine::core::{Link, Phase};
use crate::sandbox::machine::{Action, Announcement, QemuEvent, SnapshotRemoval};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::snapshot::{Draft, Manifest};

#[derive(Debug)]
pub(super) struct Hibernate {
    choice: MethodChoice,
    method: Method,
    why: String,
    /// Whether the guest ran before, and so runs on if saving fails.
    ran: bool,
    step: Step,
    /// Where its state is to be written.
    place: Option<Draft>,
    /// How often the guest was told to go on, and since when it may go on.
    told: (u32, Option<Stamp>),
}

/// How often a guest is told to go on after a save that failed.
const CONT_MAX: u32 = 3;

#[derive(Debug)]
enum Step {
    Preparing,
    AskingMemory,
    Stopping,
    Measuring,
    Saving(Transfer),
    Writing,
    Recording(Box<Manifest>),
    Quitting,
    Killing,
    Cancelling(Refusal),
    Undoing(Refusal),
}

impl Hibernate {
    pub(super) fn new(choice: MethodChoice) -> Self {
        Self {
            choice,
            method: Method::Internal,
            why: String::new(),
            ran: false,
            step: Step::Preparing,
            place: None,
            told: (0, None),
        }
    }

    /// One whose save was interrupted: what it has begun is called off, and the guest goes on.
    pub(super) fn to_undo(ran: bool, why: Refusal) -> Self {
        Self { ran, step: Step::Cancelling(why), ..Self::new(MethodChoice::Auto) }
    }

    fn stop(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::Stopping;
        // snapshot-save resumes by itself a guest that it found running: it has to stand before that.
        cx.query("stop")
    }

    fn measure(&mut self, cx: &mut Context<'_>) -> Flow {
        // Where its STOP was lost, the guest stands since some time after it was told to.
        if !cx.core.told_since_asked() {
            let at = cx.since_asked();
            cx.observe(at, Change::State(BillingState::Hibernating), Cause::Hibernate);
        }
        // What the guest gave back until it stood is told late, and lost if QEMU goes first.
        self.step = Step::Measuring;
        cx.query("query-memory-devices")
    }

    fn save(&mut self, cx: &mut Context<'_>) -> Flow {
        let (Some(survey), Some(place)) = (cx.core.survey.clone(), self.place.as_ref()) else {
            let bug = Refusal::new(Reason::Bug, "a sandbox without a survey or a draft cannot be saved");
            return self.undo(cx, bug);
        };
        if self.method == Method::Shared {
            // The guest stands: what is written now does not change any more.
            cx.actions.push(Action::WriteOut(self.method));
        }
        let tag = internal_tag(cx.core.generation, place.ordinal());
        let mut transfer = Transfer::save(self.method, &survey, place.state_path(), &tag);
        let turn = transfer.begin(cx);
        self.step = Step::Saving(transfer);
        self.saved(cx, turn)
    }

    fn saved(&mut self, cx: &mut Context<'_>, turn: Turn) -> Flow {
        match turn {
            Turn::Wait => Flow::Wait,
            Turn::Failed(refusal) => self.undo(cx, refusal),
            Turn::Complete => {
                self.step = Step::Writing;
                let method = self.method;
                cx.ask(|token| Action::WriteSnapshot(token, method))
            }
        }
    }

    /// The snapshot is the sandbox's own now, whatever becomes of its QEMU.
    fn quit(&mut self, cx: &mut Context<'_>, manifest: Box<Manifest>) -> Flow {
        cx.core.snapshot = Some(manifest);
        self.step = Step::Quitting;
        cx.query("quit")
    }

    fn kill(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::Killing;
        if let Some(process) = cx.core.process {
            cx.actions.push(Action::Kill(process));
        }
        Flow::Wait
    }

    /// Saving failed: the draft goes, and a guest that ran runs on.
    fn undo(&mut self, cx: &mut Context<'_>, why: Refusal) -> Flow {
        cx.actions.push(Action::RemoveSnapshot(SnapshotRemoval::Draft));
        let reason = if is_unsure(&why) { why.reason } else { Reason::SaveFailed };
        let then = if self.ran { "goes on" } else { "stays paused" };
        let message = format!("saving failed and the guest {then}: {}", why.message);
        let refusal = Refusal { reason, message, metadata: why.metadata };
        if self.ran {
            return self.go_on(cx, refusal);
        }
        // Unless somebody else has continued it meanwhile.
        self.told = (CONT_MAX, self.told.1.or(Some(cx.now)));
        self.step = Step::Undoing(refusal);
        if cx.core.link == Link::Up { cx.query("query-status") } else { Flow::Wait }
    }

    fn go_on(&mut self, cx: &mut Context<'_>, refusal: Refusal) -> Flow {
        self.step = Step::Undoing(refusal);
        if cx.core.link != Link::Up {
            return Flow::Wait;
        }
        self.told = (self.told.0 + 1, self.told.1.or(Some(cx.now)));
        cx.query("cont")
    }

    /// Whether the guest goes on is what QEMU says of it, not what it was told.
    fn gone_on(&mut self, cx: &mut Context<'_>, refusal: Refusal, answer: &Answer) -> Flow {
        let status = match answer {
            Answer::Returned(value) => status_of(value),
            _ => None,
        };
        match (status, answer) {
            (None, Answer::Failed(unsure)) if is_unsure(unsure) => {
                self.step = Step::Undoing(refusal);
                cx.wait(cx.core.settings.poll_max_ms)
            }
            (Some(BillingState::Running), _) => {
                let at = cx.core.since(cx.now, self.told.1);
                cx.observe(at, Change::State(BillingState::Running), Cause::HibernateFailed);
                failed(refusal)
            }
            (Some(_), _) if self.told.0 < CONT_MAX => self.go_on(cx, refusal),
            // Since QEMU was asked it may have ended: its life is not known to have lasted until the answer came.
            (Some(state), _) if !self.ran => {
                cx.observe(cx.since_asked(), Change::State(state), Cause::HibernateFailed);
                failed(refusal)
            }
            (Some(state), _) => {
                cx.observe(cx.since_asked(), Change::State(state), Cause::HibernateFailed);
                let message = format!("{}; but QEMU does not continue it: it is {state}", refusal.message);
                failed(Refusal { message: message.replacen(" and the guest goes on", "", 1), ..refusal })
            }
            (None, _) if cx.core.state == BillingState::Running => failed(refusal),
            (None, _) => {
                self.step = Step::Undoing(refusal);
                if cx.core.link == Link::Up { cx.query("query-status") } else { Flow::Wait }
            }
        }
    }
}

impl Procedure for Hibernate {
    fn step(&self) -> &'static str {
        match self.step {
            Step::Preparing => "waiting for its turn to be saved",
            Step::AskingMemory => "asking for the memory",
            Step::Stopping => "stop",
            Step::Measuring => "asking for the memory again",
            Step::Saving(_) => "saving",
            Step::Writing => "syncing the snapshot",
            Step::Recording(_) => "recording the snapshot",
            Step::Quitting => "quit",
            Step::Killing => "killing QEMU",
            Step::Cancelling(_) => "calling off the save",
            Step::Undoing(_) => "continuing the guest",
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        if let Step::Cancelling(_) = self.step {
            // Somebody else may have continued it since QEMU was asked how it is.
            self.told.1 = cx.core.answered.or(Some(cx.now));
            return cx.query("migrate_cancel");
        }
        let Some(survey) = cx.core.survey.as_ref() else {
            return failed(Refusal::new(Reason::Bug, "a sandbox without a survey cannot be hibernated"));
        };
        match hibernation::choose(survey, self.choice, &cx.core.settings.hibernation_order) {
            Err(refusal) => return failed(refusal),
            Ok((method, why)) => (self.method, self.why) = (method, why),
        }
        cx.ask(|token| Action::PrepareSnapshot(token, self.method))
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (std::mem::replace(&mut self.step, Step::Preparing), answer) {
            (Step::Preparing, Answer::SnapshotPrepared(place)) => {
                self.place = Some(place);
                self.step = Step::AskingMemory;
                cx.query("query-memory-devices")
            }
            (Step::AskingMemory, Answer::Returned(devices)) => {
                cx.learn_last_memory(&devices);
                // Somebody else may have stopped or continued it while it waited for its turn.
                self.ran = cx.core.state == BillingState::Running;
                if self.ran { self.stop(cx) } else { self.measure(cx) }
            }
            (Step::Stopping, Answer::Returned(_)) => self.measure(cx),
            (Step::Measuring, Answer::Returned(devices)) => {
                cx.core.learn_memory(cx.now, &devices, cx.actions);
                self.save(cx)
            }
            (Step::Saving(mut transfer), answer) => {
                if self.method == Method::MappedRam && matches!(answer, Answer::Elapsed) {
                    cx.actions.push(Action::WriteOut(self.method));
                }
                let turn = transfer.answer(cx, answer);
                self.step = Step::Saving(transfer);
                self.saved(cx, turn)
            }
            (Step::Writing, Answer::SnapshotWritten(manifest)) => {
                self.step = Step::Recording(manifest.clone());
                cx.announce(Announcement::Saved(manifest))
            }
            (Step::Recording(manifest), Answer::Durable) => self.quit(cx, manifest),
            (Step::Quitting, Answer::Returned(_)) => {
                self.step = Step::Quitting;
                cx.wait(cx.core.settings.quit_ms)
            }
            (Step::Quitting, Answer::Failed(_) | Answer::Elapsed) => self.kill(cx),
            (Step::Preparing | Step::AskingMemory, Answer::Failed(refusal)) => {
                cx.actions.push(Action::RemoveSnapshot(SnapshotRemoval::Draft));
                failed(refusal)
            }
            (Step::Undoing(refusal), answer) => self.gone_on(cx, refusal, &answer),
            // Whether there was a migration to cancel or not: the guest is to go on.
            (Step::Cancelling(refusal), _) | (_, Answer::Failed(refusal)) => self.undo(cx, refusal),
            (step, answer) => {
                self.step = step;
                out_of_place(self.step(), &answer)
            }
        }
    }

    fn event(&mut self, cx: &mut Context<'_>, event: &QemuEvent) -> Flow {
        if let Step::Saving(transfer) = &mut self.step {
            transfer.event(cx, event);
        }
        Flow::Wait
    }

    fn claim(&self, event: &str) -> Option<(Cause, BillingState)> {
        match (event, &self.step) {
            ("STOP", Step::Preparing | Step::AskingMemory | Step::Undoing(_) | Step::Cancelling(_))
            | ("RESUME", Step::Quitting | Step::Killing) => None,
            ("STOP", _) => Some((Cause::Hibernate, BillingState::Hibernating)),
            ("RESUME", Step::Undoing(_)) => Some((Cause::HibernateFailed, BillingState::Running)),
            _ => None,
        }
    }

    fn reconnected(&mut self, cx: &mut Context<'_>) -> Flow {
        if matches!(self.step, Step::Undoing(_)) { cx.query("query-status") } else { Flow::Wait }
    }

    fn expects_exit(&self) -> bool {
        matches!(self.step, Step::Quitting | Step::Killing)
    }

    fn exited(&mut self, cx: &mut Context<'_>) -> Flow {
        if !self.expects_exit() {
            return Flow::Wait;
        }
        let at = cx.core.end_of_process(cx.now);
        if cx.core.state == BillingState::Running {
            // Somebody else has continued it.
            let cause = cx.core.memory_cause.clone();
            cx.core.observe_unseen_memory(at, cause, cx.actions);
        }
        cx.observe(at, Change::State(BillingState::Hibernated), Cause::Hibernate);
        cx.core.phase = Phase::Hibernated;
        done(format!("{} is hibernated ({})", cx.core.key, self.why))
    }
}
