//! Starting a QEMU anew: from its exec until its QMP answers, for create and power-cycle; and what it says where it ends too
//! early, for a wake as well.
//!
//! ```text
//!   Launching ── launched ─▶ Connecting ── surveyed ─▶ answers
//!       │ failed                  │ too late
//!       ▼                         ▼
//!     failed                   failed; QEMU may live
//! ```

use super::{Answer, Context};
use crate::process::ProcessIdentity;
use crate::sandbox::facts::Survey;
use crate::sandbox::machine::{Action, Start};
use crate::sandbox::refusal::{Reason, Refusal};

/// A QEMU that is being started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starting {
    Launching,
    Connecting { until_ns: u64 },
}

/// What an answer has brought.
#[derive(Debug)]
pub(super) enum Turn {
    /// There is more to wait for.
    Wait,
    /// Its QMP answers.
    Answers(Box<Survey>, ProcessIdentity),
    /// It does not run as it should.
    Failed(Refusal),
}

impl Starting {
    /// Starts it.
    pub(super) fn begin(cx: &mut Context<'_>, start: Start) -> Self {
        cx.core.last_words = None;
        cx.ask(|token| Action::Start(token, Box::new(start)));
        Self::Launching
    }

    /// Takes up one that was started before the agent was.
    pub(super) fn found(cx: &mut Context<'_>) -> Self {
        let launch_ns = cx.core.settings.launch_ms.saturating_mul(1_000_000);
        let until_ns = cx.now.boottime_ns.saturating_add(launch_ns);
        cx.ask(|token| Action::Connect(token, 0));
        Self::Connecting { until_ns }
    }

    pub(super) const fn step(self) -> &'static str {
        match self {
            Self::Launching => "starting QEMU",
            Self::Connecting { .. } => "connecting",
        }
    }

    pub(super) fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Turn {
        match (*self, answer) {
            (Self::Launching, Answer::Launched(process)) => {
                cx.core.process = Some(process);
                *self = Self::found(cx);
                Turn::Wait
            }
            (Self::Connecting { .. }, Answer::Surveyed(survey, process)) => Turn::Answers(survey, process),
            (Self::Connecting { until_ns }, Answer::Failed(_)) if cx.now.boottime_ns < until_ns => {
                cx.ask(|token| Action::Connect(token, 1));
                Turn::Wait
            }
            (_, Answer::Failed(refusal)) => Turn::Failed(refusal),
            (_, answer) => {
                let message = format!("unexpected answer while {}: {answer:?}", self.step());
                Turn::Failed(Refusal::new(Reason::Bug, message))
            }
        }
    }
}

/// Why a QEMU that was started has ended: in its own words, where it had any.
pub(super) fn ended(cx: &mut Context<'_>, what: &str) -> Refusal {
    let said = match cx.core.last_words.take() {
        Some(words) if !words.trim().is_empty() => format!("; it said: {}", words.trim()),
        _ => String::new(),
    };
    Refusal::new(Reason::LaunchFailed, format!("QEMU ended before {what}{said}"))
}
