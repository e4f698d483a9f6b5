//! Attach: connect, survey, and begin the sandbox's life in the ledger.
//!
//! ```text
//!   Connecting ── surveyed ─▶ Recording ── durable ─▶ done
//!                                │ exit                  ▲
//!                                ▼                       │
//!                        RecordingTooLate ── durable, and ended
//! ```

use dormouse_metering::{BillingState, Cause, Change, RunState, Stamp};

use super::{Answer, Context, Flow, Procedure, done, failed, out_of_place, unchanged};
use crate::sandbox::command::Request;
use crate::sandbox::machine::core::{Link, Phase};
use crate::sandbox::machine::{Action, Announcement};

#[derive(Debug)]
pub(super) enum Attach {
    Connecting,
    Recording,
    /// QEMU is gone, but its life is being recorded as begun: it has to be recorded as ended, too.
    RecordingTooLate(Stamp),
}

/// Its file says something else of how it is to be driven.
fn driven_otherwise(cx: &mut Context<'_>) -> Flow {
    let terms = cx.core.terms().clone();
    if let (Some(survey), Some(process)) = (cx.core.survey.as_mut(), cx.core.process) {
        if let Ok(line) = &mut survey.command_line {
            *line = terms.applied(line.clone());
        }
        let announcement = Announcement::Reattached(Box::new(survey.clone()), process);
        let token = cx.core.token();
        cx.actions.push(Action::Announce(token, announcement));
    }
    done(format!("{} goes by its file as it is now", cx.core.key))
}

impl Procedure for Attach {
    fn step(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Recording | Self::RecordingTooLate(..) => "recording the sandbox",
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        let told = match &cx.command.request {
            Request::Attach { terms: Some(terms), .. } if **terms != *cx.core.terms() => {
                Some((**terms).clone())
            }
            _ => None,
        };
        let changed = told.is_some();
        if let Some(terms) = told {
            cx.core.go_by(terms);
        }
        if cx.core.phase != Phase::New {
            return if changed {
                driven_otherwise(cx)
            } else {
                unchanged(format!("{} is attached already", cx.core.key))
            };
        }
        cx.ask(|token| Action::Connect(token, 0))
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (&self, answer) {
            (Self::Connecting, Answer::Surveyed(survey, process)) => {
                let shape = survey.shape();
                let state = survey.folded().map_or(BillingState::Running, RunState::billing_state);
                cx.core.first_seen(cx.now, &survey);
                cx.core.found(cx.now, *survey.clone(), process);
                (cx.core.shape, cx.core.state) = (shape, state);
                *self = Self::Recording;
                let (command, at) = (cx.command.clone(), cx.now);
                cx.announce(Announcement::Attached { command, survey, process, at, shape, state })
            }
            (Self::Recording, Answer::Recorded(generation)) => {
                begun(cx, generation);
                listen(cx);
                done(format!("{} is attached", cx.core.key))
            }
            (Self::RecordingTooLate(exited), Answer::Recorded(generation)) => {
                begun(cx, generation);
                if cx.core.missed.is_some() {
                    // That its process existed says nothing of whether its guest ran.
                    let at = cx.core.end_of_process(*exited);
                    cx.core.observe(
                        at,
                        Change::State(BillingState::Paused),
                        (Cause::Death, None),
                        cx.actions,
                    );
                }
                cx.core.died(*exited, cx.actions);
                done(format!("{} was attached, and its QEMU ended at once", cx.core.key))
            }
            (_, Answer::Failed(refusal)) => {
                cx.core.link = Link::None;
                cx.actions.push(Action::Disconnect);
                failed(refusal)
            }
            (_, answer) => out_of_place(self.step(), &answer),
        }
    }

    fn expects_exit(&self) -> bool {
        true
    }

    fn exited(&mut self, cx: &mut Context<'_>) -> Flow {
        *self = Self::RecordingTooLate(cx.now);
        Flow::Wait
    }
}

/// Its life is durable: what QEMU told meanwhile follows.
pub(super) fn begun(cx: &mut Context<'_>, generation: i64) {
    (cx.core.generation, cx.core.phase) = (generation, Phase::Attached);
    cx.core.catch_up(cx.actions);
}

/// Hears the QEMU of a life that has begun.
pub(super) fn listen(cx: &mut Context<'_>) {
    if cx.core.link != Link::Up {
        // QMP was lost meanwhile, when there was nothing yet to connect again for.
        cx.core.connect(0, cx.actions);
    } else if cx.core.missed.is_some() {
        cx.core.resync(cx.now, cx.actions);
    } else {
        cx.core.settle(cx.now, cx.actions);
    }
}
