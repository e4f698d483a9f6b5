//! Pause and resume: `stop` and `cont`, believed when QEMU says that the guest stands or runs.
//!
//! ```text
//!   (pause) AskingMemory ──▶ Telling ── returned ─▶ (pause --reclaim) Advising ─▶ done
//!   (resume --prefetch)        ▲  │ unsure
//!           Advising ──────────┘  ▼
//!                              Confirming ── still the same ─▶ failed
//! ```
//!
//! The memory is asked for ahead, while the intent is being recorded. Where recording takes long it is asked for again:
//! what was so when the guest stopped counts.
//!
//! Advice about the guest's memory is the kernel's to take. Whatever comes of it, the pause or the resume holds, and the
//! message says what was measured.

use dormouse_metering::{BillingState, Cause, Change, Stamp};
use serde_json::json;

use super::{Answer, Context, Flow, Procedure, done, failed, is_unsure, out_of_place, status_of, unchanged};
use crate::process::{Advice, Paging};
use crate::sandbox::machine::Action;
use crate::sandbox::machine::admission::is_so_already;
use crate::sandbox::machine::core::Link;
use crate::sandbox::refusal::{Reason, Refusal};
use crate::size::Size;

#[derive(Debug)]
pub(super) struct SetRunState {
    command: &'static str,
    cause: Cause,
    target: BillingState,
    step: Step,
    /// What the kernel is advised to do with the guest's memory while it stands.
    advice: Option<Advice>,
    /// What came of that, in words.
    advised: String,
    /// It stood already.
    unchanged: bool,
    /// When QEMU was asked for the memory that it has told.
    memory_asked: Option<Stamp>,
    /// When QEMU was told.
    told: Option<Stamp>,
    /// Why it is not known whether QEMU took it.
    unheard: Option<Refusal>,
}

/// How old an answer about the memory may be when QEMU is told to stop.
const MEMORY_FRESH_NS: u64 = 10_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    AskingMemory,
    Advising,
    Telling,
    Confirming,
}

impl SetRunState {
    pub(super) fn pause(reclaim: bool) -> Self {
        // A size event that is still on its way would be stamped before the stop: ask while it can be told.
        Self {
            command: "stop",
            cause: Cause::Pause,
            target: BillingState::Paused,
            step: Step::AskingMemory,
            advice: reclaim.then_some(Advice::PageOut),
            advised: String::new(),
            unchanged: false,
            memory_asked: None,
            told: None,
            unheard: None,
        }
    }

    pub(super) fn resume(prefetch: bool) -> Self {
        Self {
            command: "cont",
            cause: Cause::Resume,
            target: BillingState::Running,
            step: Step::Telling,
            advice: prefetch.then_some(Advice::WillNeed),
            advised: String::new(),
            unchanged: false,
            memory_asked: None,
            told: None,
            unheard: None,
        }
    }

    fn advise(&mut self, cx: &mut Context<'_>, advice: Advice) -> Flow {
        self.step = Step::Advising;
        cx.ask(|token| Action::Advise(token, advice))
    }

    fn take_advice(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        self.advised = match (answer, self.advice) {
            (Answer::Advised(paging), Some(Advice::PageOut)) => format!("; {}", reclaimed(&paging)),
            (Answer::Advised(paging), _) => format!("; {}", prefetched(&paging)),
            (Answer::Failed(refusal), _) => format!("; its memory was let alone: {}", refusal.message),
            (answer, _) => return out_of_place(self.step(), &answer),
        };
        if self.target == BillingState::Running { self.tell(cx) } else { self.reached(cx) }
    }

    fn reached(&self, cx: &Context<'_>) -> Flow {
        let (key, target, advised) = (&cx.core.key, self.target, &self.advised);
        if self.unchanged {
            return unchanged(format!("{key} is {target} already{advised}"));
        }
        done(format!("{key} is {target}{advised}"))
    }

    /// Whether QEMU has told its memory just before.
    fn knows_memory(&self, now: Stamp) -> bool {
        let asked = self.memory_asked.filter(|asked| asked.boot == now.boot);
        asked.is_some_and(|asked| now.boottime_ns.saturating_sub(asked.boottime_ns) <= MEMORY_FRESH_NS)
    }

    fn tell(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::Telling;
        self.told = Some(cx.now);
        cx.qmp(self.command, json!({}))
    }

    fn confirm(&mut self, cx: &mut Context<'_>) -> Flow {
        self.step = Step::Confirming;
        if cx.core.link == Link::Up { cx.query("query-status") } else { Flow::Wait }
    }

    fn conclude(&mut self, cx: &mut Context<'_>) -> Flow {
        if cx.core.state == self.target {
            return match self.advice {
                Some(Advice::PageOut) => self.advise(cx, Advice::PageOut),
                _ => self.reached(cx),
            };
        }
        let (command, state) = (self.command, cx.core.state);
        failed(match self.unheard.take() {
            Some(why) => {
                let message =
                    format!("`{command}` did not reach QEMU, and the guest is {state}: {}", why.message);
                Refusal { reason: Reason::QmpUnreachable, message, metadata: why.metadata }
            }
            None => {
                Refusal::new(Reason::QemuFailed, format!("QEMU took `{command}`, but the guest is {state}"))
            }
        })
    }
}

impl Procedure for SetRunState {
    fn step(&self) -> &'static str {
        match self.step {
            Step::AskingMemory => "asking for the memory",
            Step::Advising => "advising the kernel about its memory",
            Step::Telling => self.command,
            Step::Confirming => "asking for the run state",
        }
    }

    fn ask_ahead(&mut self, cx: &mut Context<'_>) {
        if self.step == Step::AskingMemory
            && cx.core.link == Link::Up
            && !is_so_already(cx.core, &cx.command.request)
        {
            cx.query("query-memory-devices");
        }
    }

    fn answered_ahead(&mut self, cx: &mut Context<'_>, answer: &Answer) {
        if let Answer::Returned(devices) = answer {
            cx.learn_last_memory(devices);
            self.memory_asked = cx.core.answered;
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        if is_so_already(cx.core, &cx.command.request) {
            self.unchanged = true;
            return match self.advice {
                Some(Advice::PageOut) => self.advise(cx, Advice::PageOut),
                _ => self.reached(cx),
            };
        }
        match (self.step, self.advice) {
            (Step::AskingMemory, _) if cx.waiting.is_some() => Flow::Wait,
            (Step::AskingMemory, _) if self.knows_memory(cx.now) => self.tell(cx),
            (Step::AskingMemory, _) => cx.query("query-memory-devices"),
            (_, Some(advice)) => self.advise(cx, advice),
            _ => self.tell(cx),
        }
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (self.step, answer) {
            (Step::Advising, answer) => self.take_advice(cx, answer),
            (Step::AskingMemory, Answer::Returned(devices)) => {
                cx.learn_last_memory(&devices);
                self.tell(cx)
            }
            (Step::Telling, Answer::Returned(_)) if cx.core.state == self.target => self.conclude(cx),
            (Step::Telling, Answer::Returned(_)) | (Step::Confirming, Answer::Elapsed) => self.confirm(cx),
            (Step::Telling, Answer::Failed(refusal)) if is_unsure(&refusal) => {
                self.unheard = Some(refusal);
                self.confirm(cx)
            }
            (Step::Confirming, Answer::Returned(status)) => {
                if status_of(&status) == Some(self.target) {
                    let at = cx.core.since(cx.now, self.told);
                    cx.observe(at, Change::State(self.target), self.cause);
                }
                self.conclude(cx)
            }
            (Step::Confirming, Answer::Failed(refusal)) if is_unsure(&refusal) => cx.wait(1_000),
            (_, Answer::Failed(refusal)) => failed(refusal),
            (_, answer) => out_of_place(self.step(), &answer),
        }
    }

    fn claim(&self, event: &str) -> Option<(Cause, BillingState)> {
        let own = if self.target == BillingState::Paused { "STOP" } else { "RESUME" };
        let told = matches!(self.step, Step::Telling | Step::Confirming);
        (event == own && told).then_some((self.cause, self.target))
    }

    fn reconnected(&mut self, cx: &mut Context<'_>) -> Flow {
        if self.step == Step::Confirming { self.confirm(cx) } else { Flow::Wait }
    }
}

/// What was measured after paging out, in words.
fn reclaimed(paging: &Paging) -> String {
    let (before, after) = (paging.before.resident_bytes, paging.after.resident_bytes);
    let reclaimed = before.saturating_sub(after);
    let mut words = format!("{} of {} were reclaimed", Size(reclaimed), Size(before));
    if !paging.has_swap {
        words += " (the host has no swap for memory that is in no file)";
    }
    with_refused(words, paging)
}

/// What was measured after the advice to read back, in words.
fn prefetched(paging: &Paging) -> String {
    let (swapped, taken) = (Size(paging.before.swapped_bytes), Size(paging.advised_bytes));
    with_refused(format!("the kernel was told to read {taken} back, {swapped} of it in swap"), paging)
}

fn with_refused(words: String, paging: &Paging) -> String {
    if paging.refused.is_empty() { words } else { format!("{words}; refused: {}", paging.refused.join(", ")) }
}
