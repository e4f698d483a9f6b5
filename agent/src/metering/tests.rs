//! When an hour of the host is complete.

use dormouse_ledger::SandboxKey;
use dormouse_metering::hour::HOUR_NS;
use dormouse_metering::{BillingState, BootId, Cause, Change, Observation, Shape, Stamp};

use super::accounts::{Accounts, Sight};

const SECOND: i64 = 1_000_000_000;
/// 2026-01-01T00:00:00Z.
const MIDNIGHT: i64 = 1_767_225_600 * SECOND;

/// So many seconds after midnight.
fn at(seconds: i64) -> Stamp {
    let since_boot_ns = u64::try_from((100_000 + seconds) * SECOND).expect("after the boot");
    Stamp {
        boot: BootId([1; 16]),
        boottime_ns: since_boot_ns,
        wall_ns: MIDNIGHT + seconds * SECOND,
        uncertainty_ns: 0,
    }
}

fn began(seconds: i64) -> Observation {
    let change = Change::Began(Shape::default(), BillingState::Running);
    Observation { at: at(seconds), change, cause: Cause::Attach, command: None }
}

fn key(sandbox: &str) -> SandboxKey {
    SandboxKey { org: "org".to_owned(), sandbox: sandbox.to_owned(), generation: 1 }
}

fn accounts() -> Accounts {
    Accounts::new(1_500_000_000, at(600), None)
}

#[test]
fn an_hour_is_complete_once_every_sandbox_is_cut_and_sealed_through_it() {
    let mut accounts = accounts();
    for sandbox in ["a", "b"] {
        accounts.observe(&key(sandbox), false, began(600), at(600)).expect("it begins");
        accounts.born(&key(sandbox));
    }
    assert_eq!(accounts.complete_hour(at(660)), Some(MIDNIGHT), "nothing is pending from before it");
    assert_eq!(accounts.complete_hour(at(3_599)), None, "it was told");

    accounts.sight(&key("b"), Sight::Lost);
    accounts.seal(at(3_632));
    assert_eq!(accounts.complete_hour(at(3_631)), None, "a life that began before may still be told");
    assert_eq!(accounts.complete_hour(at(3_632)), None, "what became of b is not known");
    accounts.sight(&key("b"), Sight::Clear);
    accounts.seal(at(3_633));
    accounts.seal(at(3_634));
    assert_eq!(accounts.complete_hour(at(3_640)), Some(MIDNIGHT + HOUR_NS));
}

#[test]
fn an_hour_of_a_host_without_sandboxes_is_complete_and_hours_that_nobody_saw_are_told_with_the_next() {
    let mut accounts = accounts();
    assert_eq!(accounts.complete_hour(at(660)), Some(MIDNIGHT));
    assert_eq!(accounts.complete_hour(at(5 * 3_600 + 60)), Some(MIDNIGHT + 5 * HOUR_NS));
    assert_eq!(accounts.complete_hour(at(3_660)), None, "a clock that was set back takes no hour back");
}

#[test]
fn an_agent_that_was_held_up_reads_what_qemu_has_told_before_anything_becomes_final() {
    let mut accounts = accounts();
    accounts.observe(&key("a"), true, began(600), at(600)).expect("it begins");
    accounts.born(&key("a"));
    accounts.tick(at(620));
    accounts.seal(at(621));
    assert_eq!(accounts.seal(at(3_000)).len(), 0, "the host slept");
    let change = Change::State(BillingState::Paused);
    let stop = Observation { at: at(619), change, cause: Cause::Stop, command: None };
    accounts.observe(&key("a"), false, stop, at(3_000)).expect("it is told");
    assert_eq!(accounts.seal(at(3_001)).len(), 1);
}
