//! Reboot: `system_reset`, believed when QEMU's RESET event comes.
//!
//! ```text
//!   Resetting ── returned, and RESET seen ─▶ done
//! ```
//!
//! The plugged memory falls to nothing and comes back by itself; the slices that this cuts name the command.

use dormouse_metering::Cause;

use super::{Answer, Context, Flow, Procedure, done, failed, is_unsure, out_of_place};
use crate::sandbox::machine::QemuEvent;
use crate::sandbox::refusal::{Reason, Refusal};

/// QEMU sends RESET from its main loop, within milliseconds of taking the command.
const RESET_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Reboot {
    returned: bool,
    reset: bool,
}

impl Reboot {
    fn judge(&self, cx: &Context<'_>) -> Flow {
        if self.returned && self.reset { done(format!("{} was reset", cx.core.key)) } else { Flow::Wait }
    }
}

impl Procedure for Reboot {
    fn step(&self) -> &'static str {
        if self.returned { "waiting for the reset" } else { "system_reset" }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        cx.core.memory_cause = cx.cause(Cause::Reboot);
        cx.query("system_reset")
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match answer {
            Answer::Returned(_) => {
                self.returned = true;
                if self.reset { self.judge(cx) } else { cx.wait(RESET_MS) }
            }
            Answer::Failed(refusal) if is_unsure(&refusal) => {
                self.returned = true;
                cx.wait(RESET_MS)
            }
            Answer::Elapsed => failed(Refusal::new(
                Reason::OutcomeUnknown,
                format!("QEMU took system_reset of {} but has sent no RESET", cx.core.key),
            )),
            Answer::Failed(refusal) => failed(refusal),
            answer => out_of_place(self.step(), &answer),
        }
    }

    fn event(&mut self, cx: &mut Context<'_>, event: &QemuEvent) -> Flow {
        self.reset |= event.name == "RESET";
        self.judge(cx)
    }

    fn claim(&self, event: &str) -> Option<(Cause, dormouse_metering::BillingState)> {
        // Claimed so that what follows stays this command's doing; a reset itself changes no state.
        (event == "RESET").then_some((Cause::Reboot, dormouse_metering::BillingState::Running))
    }
}
