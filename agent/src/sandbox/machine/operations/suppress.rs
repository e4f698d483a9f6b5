//! Suppress and unsuppress: from now on a sandbox's time is free, or is billed again.
//!
//! Nothing is asked of QEMU: it is a matter of the bill alone, and there is nothing to wait for.
//!
//! ```text
//!   (durable) ─▶ done
//! ```
//!
//! It lies over whatever the sandbox is: paused, hibernated, woken or faulted it stays suppressed, and once it is taken
//! back its time is billed as what it is then. It never hides that a QEMU died: the end of a life is its end, and time
//! without proof of life is `lost`. A new life begins without it.

use dormouse_metering::{Cause, Change};

use super::{Answer, Context, Flow, Procedure, done, out_of_place, unchanged};

#[derive(Debug)]
pub(super) struct SetSuppression {
    /// Why its time is to be free; `None` where it is to be billed.
    reason: Option<String>,
}

impl SetSuppression {
    pub(super) fn to(reason: Option<String>) -> Self {
        Self { reason }
    }
}

impl Procedure for SetSuppression {
    fn step(&self) -> &'static str {
        "noting it"
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        let key = cx.core.key.clone();
        match (&self.reason, &cx.core.suppressed) {
            (Some(_), Some(known)) => return unchanged(format!("{key} is suppressed already: {known}")),
            (None, None) => return unchanged(format!("{key} is not suppressed")),
            _ => {}
        }
        cx.core.suppressed.clone_from(&self.reason);
        let cause = if self.reason.is_some() { Cause::Suppress } else { Cause::Unsuppress };
        cx.observe(cx.now, Change::Suppressed(self.reason.is_some()), cause);
        done(match &self.reason {
            Some(reason) => format!("{key} is {} and suppressed: {reason}", cx.core.state),
            None => format!("{key} is {} and billed", cx.core.state),
        })
    }

    fn answer(&mut self, _cx: &mut Context<'_>, answer: Answer) -> Flow {
        out_of_place(self.step(), &answer)
    }
}
