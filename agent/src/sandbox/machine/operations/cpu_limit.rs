//! The limit on CPU time where one QEMU takes the place of another: the next one is in another group, and without it.
//!
//! ```text
//!   QEMU is found ── it is limited less than the one before ─▶ asked ── limited ─▶ what the kernel has is billed
//!        │ it is not                                             │ refused, or nobody knows
//!        ▼                                                       ▼
//!   nothing to do                  the guest goes on without, is billed for what it has, and the outcome says so
//! ```
//!
//! Where the kernel has taken a limit and does not say so, the lesser is billed until it is read again.
//!
//! It is set before the guest goes on: there is no moment at which it may use more than it is billed for.

use dormouse_metering::{BillingState, Cause, Change, Stamp};

use super::{Answer, Context, is_unsure};
use crate::sandbox::machine::core::Replaced;
use crate::sandbox::machine::sight::reaching_back;
use crate::sandbox::machine::{Action, Core};

/// Another QEMU is about to take the place of the one that the sandbox has or had.
pub(in crate::sandbox::machine) fn remember(core: &mut Core) {
    let had_milli = core.shape.vcpus_milli;
    // After a restart of the agent nobody knows how many vCPUs the one before had. A snapshot's never change.
    let limited = core.survey.as_ref().is_none_or(|survey| had_milli < survey.vcpus_milli);
    core.replaced = Some(Replaced { vcpu_limit_milli: limited.then_some(had_milli), is_asked_for: false });
}

/// Asks for the limit that the one before had. False where there is no need to.
pub(super) fn ask(cx: &mut Context<'_>) -> bool {
    let replaced = cx.core.replaced.take();
    let has_milli = cx.core.survey.as_ref().map_or(0, |survey| survey.shape().vcpus_milli);
    let limit_milli = replaced.and_then(|replaced| replaced.vcpu_limit_milli);
    let Some(milli) = limit_milli.filter(|milli| *milli < has_milli) else { return false };
    cx.core.replaced = Some(Replaced { vcpu_limit_milli: Some(milli), is_asked_for: true });
    cx.ask(|token| Action::LimitVcpus(token, Some(milli)));
    true
}

/// Takes the answer. What it returns belongs behind the message of the outcome; it is empty where all is as it was.
pub(super) fn answered(cx: &mut Context<'_>, answer: Answer) -> String {
    let asked_for = cx.core.replaced.take().and_then(|replaced| replaced.vcpu_limit_milli);
    let why = match answer {
        Answer::VcpusLimited(limit) => {
            limited(cx.core, limit);
            return String::new();
        }
        Answer::Failed(refusal) => {
            if is_unsure(&refusal) {
                in_doubt(cx, asked_for.unwrap_or(cx.core.shape.vcpus_milli));
            } else {
                // Whoever has continued it meanwhile let it run without from then on.
                cx.core.limited = Some(cx.now);
            }
            format!("{} [{}]", refusal.message, refusal.reason.as_str())
        }
        answer => format!("unexpected answer while limiting CPU time: {answer:?}"),
    };
    tracing::warn!(sandbox = %cx.core.key, why, "CPU time is not limited again");
    format!("; its CPU time is not limited as before: {why}")
}

/// The guest runs. Where somebody else has continued it before it was limited, it had more until then: that is not billed, and
/// not certain.
pub(super) fn mark_what_ran_without(cx: &mut Context<'_>, cause: Cause) {
    let began = cx.core.state_stamp;
    let is_after = |limited: &Stamp| {
        began.is_some_and(|began| began.boot == limited.boot && began.boottime_ns < limited.boottime_ns)
    };
    if let (Some(limited), Some(began)) = (cx.core.limited.filter(is_after), began) {
        cx.observe(reaching_back(limited, began), Change::Mark, cause);
    }
}

/// The kernel has a limit that is billed already. Where the guest was stopped and continued while the kernel was being told, it may
/// have run with more until now: that is not billed, and not certain.
pub(super) fn mark_what_ran_meanwhile(cx: &mut Context<'_>, cause: Cause) {
    let asked = cx.since_asked();
    let asked_ns = asked.boottime_ns.saturating_sub(asked.uncertainty_ns);
    let runs = cx.core.state == BillingState::Running;
    let meanwhile = |began: Stamp| runs && began.boot == asked.boot && began.boottime_ns >= asked_ns;
    if cx.core.state_stamp.is_some_and(meanwhile) {
        mark_what_ran_without(cx, cause);
    }
}

/// The kernel has this limit now.
pub(super) fn limited(core: &mut Core, limit: Option<u32>) {
    (core.vcpus_known, core.limited, core.limiting) = (core.answered, core.now, None);
    if let Some(survey) = core.survey.as_mut() {
        survey.vcpu_limit_milli = Ok(limit);
    }
}

/// The kernel may have taken a limit of so many thousandths of a vCPU, and did not say so. It is asked again.
pub(super) fn in_doubt(cx: &mut Context<'_>, limit_milli: u32) {
    if let Some(limiting) = &mut cx.core.limiting {
        limiting.answer_comes = false;
    }
    if let Some(survey) = cx.core.survey.as_mut() {
        survey.vcpu_limit_milli = Ok(Some(limit_milli.min(survey.shape().vcpus_milli)));
    }
    cx.core.resync(cx.now, cx.actions);
}
