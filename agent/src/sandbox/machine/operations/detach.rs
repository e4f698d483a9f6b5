//! Detach: the sandbox's metering ends, its QEMU goes on.

use dormouse_metering::{Cause, Change};

use super::{Answer, Context, Flow, Procedure, done, out_of_place};
use crate::sandbox::machine::Action;
use crate::sandbox::machine::core::{Link, Phase};

#[derive(Debug)]
pub(super) struct Detach;

impl Procedure for Detach {
    fn step(&self) -> &'static str {
        "letting go"
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Flow {
        cx.observe(cx.now, Change::Ended, Cause::Detach);
        cx.core.phase = Phase::Ended;
        cx.core.link = Link::None;
        cx.actions.push(Action::Disconnect);
        done(format!("{} is detached; its QEMU goes on", cx.core.key))
    }

    fn answer(&mut self, _cx: &mut Context<'_>, answer: Answer) -> Flow {
        out_of_place(self.step(), &answer)
    }
}
