//! Attach: connect, survey, and begin the sandbox's life in the ledger.
//!
//! ```text
//!   Connecting ── surveyed ─▶ Recording ── durable ─▶ done
//! ```

use dormouse_metering::{BillingState, RunState};

use super::{Answer, Context, Flow, Procedure, done, failed, out_of_place, unchanged};
use crate::sandbox::machine::core::{Link, Phase};
use crate::sandbox::machine::{Action, Announcement};

#[derive(Debug)]
pub(super) enum Attach {
    Connecting,
    Recording,
}

impl Procedure for Attach {
    fn step(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Recording => "recording the sandbox",
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        if cx.core.phase != Phase::New {
            return unchanged(format!("{} is attached already", cx.core.key));
        }
        cx.ask(|token| Action::Connect(token, 0))
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match (&self, answer) {
            (Self::Connecting, Answer::Surveyed(survey, process)) => {
                let shape = survey.shape();
                let state = survey.folded().map_or(BillingState::Running, RunState::billing_state);
                cx.core.found(cx.now, *survey.clone(), process);
                (cx.core.shape, cx.core.state) = (shape, state);
                *self = Self::Recording;
                let (command, at) = (cx.command.clone(), cx.now);
                cx.announce(Announcement::Attached { command, survey, process, at, shape, state })
            }
            (Self::Recording, Answer::Recorded(generation)) => {
                cx.core.generation = generation;
                cx.core.phase = Phase::Attached;
                done(format!("{} is attached", cx.core.key))
            }
            (_, Answer::Failed(refusal)) => {
                cx.core.link = Link::None;
                cx.actions.push(Action::Disconnect);
                failed(refusal)
            }
            (_, answer) => out_of_place(self.step(), &answer),
        }
    }
}
