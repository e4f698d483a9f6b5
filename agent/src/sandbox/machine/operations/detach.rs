//! Detach: the sandbox's metering ends, its QEMU goes on.
//!
//! ```text
//!   AskingMemory ── returned, or QMP does not answer ─▶ done
//! ```

use dormouse_metering::{Cause, Change};

use super::{Answer, Context, Flow, Procedure, done, out_of_place};
use crate::sandbox::machine::Action;
use crate::sandbox::machine::core::{Link, Phase};

#[derive(Debug)]
pub(super) struct Detach;

impl Detach {
    /// What happened since the last contact is not known: the end lies as early as it may.
    fn end(cx: &mut Context<'_>) -> Flow {
        let at = cx.core.end_of_process(cx.now);
        let cause = cx.core.memory_cause.clone();
        cx.core.observe_unseen_memory(at, cause, cx.actions);
        cx.observe(at, Change::Ended, Cause::Detach);
        cx.core.phase = Phase::Ended;
        cx.core.link = Link::None;
        cx.actions.push(Action::Disconnect);
        done(format!("{} is detached; its QEMU goes on", cx.core.key))
    }
}

impl Procedure for Detach {
    fn step(&self) -> &'static str {
        "letting go"
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        // A size event that QEMU holds back would come too late.
        if cx.core.link == Link::Up { cx.query("query-memory-devices") } else { Self::end(cx) }
    }

    fn answer(&mut self, cx: &mut Context<'_>, answer: Answer) -> Flow {
        match answer {
            Answer::Returned(devices) => {
                cx.core.learn_memory(cx.now, &devices, cx.actions);
                Self::end(cx)
            }
            Answer::Failed(_) => Self::end(cx),
            answer => out_of_place(self.step(), &answer),
        }
    }
}
