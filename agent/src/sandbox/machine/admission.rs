//! Who may begin what: the whole table in one place.
//!
//! | | New | running | paused | faulted | Hibernated | Ended |
//! |---|---|---|---|---|---|---|
//! | attach | begins | unchanged | unchanged | unchanged | unchanged | - |
//! | detach | - | begins | begins | begins | no | - |
//! | scale | - | begins | no | no | no | - |
//! | pause | - | begins | unchanged | no | no | - |
//! | resume | - | unchanged | begins | begins | no | - |
//! | hibernate | - | begins | begins | no | no | - |
//! | wake | - | no | no | no | begins | - |
//! | reboot | - | begins | begins | begins | no | - |
//! | suppress | - | begins | begins | begins | begins | - |
//! | unsuppress | - | begins | begins | begins | begins | - |
//! | destroy | - | begins | begins | begins | begins | - |
//! | create | begins | exists | exists | exists | exists | - |
//! | power-cycle | - | begins | begins | begins | no | - |
//!
//! What is suppressed already, or not at all, is unchanged. Neither needs QMP.
//! One operation at a time; the same request again joins it. Destroy overtakes any other but an attach and a create, and
//! a destroy that waits for no guest overtakes one that does.

use dormouse_metering::BillingState;

use super::{Core, Link, Phase};
use crate::sandbox::command::{Command, Request, Scaling};
use crate::sandbox::refusal::{Reason, Refusal};

/// What becomes of a command on arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It begins.
    Accept,
    /// It is the one under way: its outcome answers both.
    Join,
    /// It begins, and what is under way is given up.
    Overtake,
    /// It does not begin.
    Deny(Refusal),
}

/// Decides on a command, given the one under way.
pub fn admit(core: &Core, underway: Option<&Command>, command: &Command) -> Verdict {
    if let Some(other) = underway {
        return match beside(other, command) {
            // It was let go, or has ended: its last command is only being recorded.
            Verdict::Overtake if core.phase == Phase::Ended => Verdict::Deny(not_attached(core)),
            verdict => verdict,
        };
    }
    let denied = match (&command.request, core.phase) {
        (Request::Attach { .. } | Request::Create { .. }, Phase::New) => None,
        (_, Phase::New | Phase::Ended) => Some(not_attached(core)),
        (Request::Create { .. }, _) => Some(exists(core)),
        (Request::Attach { qmp_path, .. }, _) => other_socket(core, qmp_path),
        (Request::Destroy { .. } | Request::Suppress { .. } | Request::Unsuppress, _)
        | (Request::Wake { .. }, Phase::Hibernated) => None,
        (_, Phase::Hibernated) => Some(wrong_state(core, command, "wake it first")),
        (request, Phase::Attached) => attached(core, command, request),
    };
    denied.map_or(Verdict::Accept, Verdict::Deny)
}

/// Whether a command that arrives when the sandbox is so already has nothing to do.
pub(super) fn is_so_already(core: &Core, request: &Request) -> bool {
    match request {
        Request::Pause { .. } => core.state == BillingState::Paused,
        Request::Resume { .. } => core.state == BillingState::Running,
        // Limits and disks may be changed by others unheard: those are looked at.
        Request::Scale(Scaling { memory_bytes: Some(memory_bytes), vcpus_milli: None, disks, .. })
            if disks.is_empty() =>
        {
            let shape = core.shape;
            let wanted = memory_bytes.checked_sub(shape.memory_base_bytes);
            wanted == Some(shape.memory_plugged_bytes) && wanted == Some(shape.memory_requested_bytes)
        }
        Request::Attach { .. } => core.phase != Phase::New,
        _ => false,
    }
}

/// The refusal where there is no life to change.
pub(super) fn not_attached(core: &Core) -> Refusal {
    Refusal::new(Reason::SandboxNotFound, format!("no sandbox {} is attached", core.key))
        .with("sandbox", &core.key.sandbox)
}

fn beside(other: &Command, command: &Command) -> Verdict {
    if other.request_id == command.request_id {
        return if other.request == command.request { Verdict::Join } else { Verdict::Deny(reused(command)) };
    }
    let overtakes = match (&command.request, &other.request) {
        (Request::Destroy { graceful_ms }, Request::Destroy { graceful_ms: other_ms }) => {
            graceful_ms.is_none() && other_ms.is_some()
        }
        // Until it is attached there is nothing to destroy.
        (Request::Destroy { .. }, Request::Attach { .. } | Request::Create { .. }) => false,
        (Request::Destroy { .. }, _) => true,
        _ => false,
    };
    if overtakes {
        return Verdict::Overtake;
    }
    Verdict::Deny(
        Refusal::new(
            Reason::OperationUnderWay,
            format!("{} {} is under way; try again when it is done", other.request.kind(), other.request_id),
        )
        .with("operation", other.request.kind())
        .with("request_id", &other.request_id),
    )
}

/// The refusal for a request id that was used with another payload.
pub fn reused(command: &Command) -> Refusal {
    Refusal::new(
        Reason::RequestIdReused,
        format!("request id {} was used with another payload; choose a new one", command.request_id),
    )
    .with("request_id", &command.request_id)
}

fn attached(core: &Core, command: &Command, request: &Request) -> Option<Refusal> {
    if core.link != Link::Up && *request != Request::Detach {
        return Some(Refusal::new(
            Reason::QmpUnreachable,
            format!("QMP of {} does not answer; the agent keeps trying", core.key),
        ));
    }
    if let Request::Scale(asked) = request
        && let Some(refusal) = core.terms().beyond(asked)
    {
        return Some(refusal);
    }
    match (request, core.state) {
        (Request::Wake { .. }, _) => Some(wrong_state(core, command, "it is not hibernated")),
        (Request::Scale(_), BillingState::Running)
        | (Request::Pause { .. } | Request::Hibernate { .. }, BillingState::Running | BillingState::Paused)
        | (Request::Resume { .. } | Request::Detach | Request::Reboot | Request::PowerCycle, _) => None,
        (Request::Scale(_), _) => Some(wrong_state(core, command, "resume it first")),
        _ => Some(wrong_state(core, command, "resume or reboot it first")),
    }
}

fn other_socket(core: &Core, qmp_path: &std::path::Path) -> Option<Refusal> {
    (qmp_path != core.qmp_path).then(|| exists(core))
}

fn exists(core: &Core) -> Refusal {
    let place = core.qmp_path.display();
    Refusal::new(Reason::SandboxExists, format!("{} is attached at {place} already", core.key))
        .with("qmp_path", place)
}

fn wrong_state(core: &Core, command: &Command, advice: &str) -> Refusal {
    let kind = command.request.kind();
    Refusal::new(Reason::WrongState, format!("{} is {} and cannot {kind}: {advice}", core.key, core.state))
        .with("state", core.state)
}
