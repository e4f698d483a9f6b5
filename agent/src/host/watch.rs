//! What the host does by the clock: proofs of life, steps of the wall clock, sockets that appear.

use std::time::Duration;

use dormouse_ledger::Anchor;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::discovery::Discovered;
use super::handle::HostHandle;
use crate::clock::{self, Clock, Step};
use crate::config::Config;
use crate::metering::{self, MeteringHandle};
use crate::sandbox::actor::WatchList;
use crate::sandbox::command::{Command, Request, SandboxKey};
use crate::sandbox::refusal::{Reason, Refusal};

/// Between attempts to attach a socket that does not answer yet.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Proves, every so often, that the processes of all open sandboxes exist.
pub(super) async fn prove_life(
    every: Duration,
    clock: Clock,
    processes: WatchList,
    metering: MeteringHandle,
) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        // Read before looking: what lives now lived then.
        let at = clock.now();
        // Where one has died, its own actor is about to say so; until then nothing is proven of the host.
        if processes.all_live() && metering.cast(metering::Message::Proof(at)).is_err() {
            return;
        }
    }
}

/// Tells the metering actor of every step of the wall clock.
pub(super) async fn tell_steps(mut steps: mpsc::Receiver<Step>, metering: MeteringHandle) {
    while let Some(step) = steps.recv().await {
        tracing::warn!(stepped_ns = step.anchor.stepped_ns, "the wall clock was stepped");
        if metering.cast(stepped(&step)).is_err() {
            return;
        }
    }
}

/// What the metering actor is told of a step: the moment at which it was noticed, where the wall clock has it from then on.
/// Whatever is measured by the wall clock after that, because the host is booted again, has the step behind it.
pub(super) fn stepped(step: &Step) -> metering::Message {
    metering::Message::ClockStepped(step.anchor.stamp(step.at.boottime_ns), as_row(&step.anchor))
}

/// An anchor as the ledger keeps it.
pub(super) fn as_row(anchor: &clock::Anchor) -> Anchor {
    Anchor {
        boot: anchor.boot,
        boottime_ns: anchor.boottime_ns,
        wall_ns: anchor.wall_ns,
        stepped_ns: anchor.stepped_ns,
    }
}

/// Attaches every socket that appears in the watched folder.
pub(super) async fn attach_discovered(
    mut discovered: mpsc::Receiver<Discovered>,
    host: HostHandle,
    config: Config,
) {
    let mut attempts: std::collections::HashMap<String, tokio::task::AbortHandle> =
        std::collections::HashMap::new();
    while let Some(found) = discovered.recv().await {
        match found {
            Discovered::Appeared { sandbox, path, file } => {
                let terms = Some(Box::new(file.terms()));
                let org = file.org.unwrap_or_else(|| config.default_org.clone());
                let plan = file.plan.unwrap_or_else(|| config.default_plan.clone());
                let key = SandboxKey { org, sandbox: sandbox.clone() };
                let deadline_ms = config.deadlines.attach_ms;
                let request = Request::Attach { qmp_path: path, plan, terms, tags: file.tags };
                let attempt = tokio::spawn(attach(host.clone(), key, request, deadline_ms));
                if let Some(earlier) = attempts.insert(sandbox, attempt.abort_handle()) {
                    earlier.abort();
                }
            }
            Discovered::Gone { sandbox, .. } => {
                if let Some(attempt) = attempts.remove(&sandbox) {
                    attempt.abort();
                }
            }
            Discovered::Rejected { path, why } => {
                tracing::warn!(path = %path.display(), %why, reason = why.reason(), "not attached");
            }
        }
    }
}

/// Tries until the sandbox is attached, or it shows that trying again changes nothing.
async fn attach(host: HostHandle, key: SandboxKey, request: Request, deadline_ms: u64) {
    let mut pause = RETRY_MIN;
    loop {
        if host.is_handed_back(&key).await {
            return tracing::info!(sandbox = %key, "was detached and is left alone; `dormouse attach` takes it back");
        }
        let request_id = match crate::ids::new_request_id() {
            Ok(request_id) => request_id,
            Err(error) => return tracing::error!(%error, "the kernel gives no random number"),
        };
        let command = Command {
            key: key.clone(),
            request_id,
            deadline_ms: Some(deadline_ms),
            asked_by: "discovery".to_owned(),
            request: request.clone(),
        };
        match host.execute(command).await {
            Ok(executed) => {
                return tracing::info!(sandbox = %key, message = executed.outcome.message, "attached");
            }
            Err(refusal) if !passes(&refusal) => {
                return tracing::error!(sandbox = %key, %refusal, "cannot be attached");
            }
            // A wake makes the socket anew, and attaches it itself.
            Err(refusal) if refusal.reason == Reason::OperationUnderWay => {
                tracing::debug!(sandbox = %key, %refusal, "not attached yet");
            }
            Err(refusal) => tracing::warn!(sandbox = %key, %refusal, "not attached yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Whether what stands in the way may pass by itself.
fn passes(refusal: &Refusal) -> bool {
    matches!(
        refusal.reason,
        Reason::QmpBusy
            | Reason::QmpUnreachable
            | Reason::QmpNotSpoken
            | Reason::OutcomeUnknown
            | Reason::OperationUnderWay
            | Reason::LedgerUnwritable
            | Reason::Interrupted
            | Reason::SandboxExists
    )
}

#[cfg(test)]
mod tests {
    use dormouse_metering::BootId;

    use super::*;

    #[test]
    fn a_step_is_told_where_the_wall_clock_has_it_from_then_on() {
        const HOUR_NS: i64 = 3_600_000_000_000;
        let (clock, time) = Clock::simulated(BootId([1; 16]), HOUR_NS);
        time.advance(7);
        time.step_wall(-HOUR_NS / 2);
        let metering::Message::ClockStepped(at, anchor) = stepped(&clock.notice_step().unwrap()) else {
            panic!("another message")
        };
        assert_eq!((at.boottime_ns, at.wall_ns, at.uncertainty_ns), (7, HOUR_NS / 2 + 7, 0));
        assert_eq!((anchor.boottime_ns, anchor.wall_ns), (7, HOUR_NS / 2 + 7));
    }
}
