//! A wake whose snapshot is read while QEMU starts: QEMU has nothing of it before it is known to be right.

use dormouse_metering::{BillingState, Change};
use serde_json::json;

use super::driver::{Driver, command, token_of, until};
use super::paths::done;
use crate::sandbox::command::{Method, Request};
use crate::sandbox::machine::{Action, Answer, Check, Input, Phase, Token};
use crate::sandbox::refusal::{Reason, Refusal};

/// A wake of this, up to the question for the digest: its token.
fn waking_until_its_digest(driver: &mut Driver) -> Token {
    driver.log.clear();
    driver.observed.clear();
    driver.feed(Input::Command(command("c1", Request::Wake { cold: false })));
    until(driver, |action| matches!(action, Action::AwaitDigest(_)));
    let Some(Action::AwaitDigest(token)) = driver.open.pop_front() else { unreachable!("it is open") };
    token
}

fn place(done: &[&str], word: &str) -> Option<usize> {
    done.iter().position(|done| *done == word)
}

#[test]
fn a_mapped_ram_snapshot_is_digested_while_qemu_starts_and_others_before_it() {
    for (method, expected) in [
        (Method::MappedRam, Check::ButDigest),
        (Method::Shared, Check::Whole),
        (Method::Internal, Check::Whole),
    ] {
        let mut driver = Driver::hibernated(method);
        driver.feed(Input::Command(command("c1", Request::Wake { cold: false })));
        until(&mut driver, |action| matches!(action, Action::VerifySnapshot(..)));
        let Some(Action::VerifySnapshot(_, _, check)) = driver.open.front() else { panic!() };
        assert_eq!(*check, expected, "{method:?}");
        driver.settle();
        let done = done(&driver);
        let meanwhile = method == Method::MappedRam;
        let digested = place(&done, "await digest");
        assert_eq!(digested.is_some(), meanwhile, "{method:?}: {done:?}");
        if meanwhile {
            assert!(
                place(&done, "connect") < digested && digested < place(&done, "migrate-set-capabilities")
            );
        }
        assert_eq!(driver.sandbox.core().state, BillingState::Running, "{method:?}");
    }
}

/// A wake, its intent and the check of its snapshot still without an answer.
fn waking() -> (Driver, Action, Action) {
    let mut driver = Driver::hibernated(Method::MappedRam);
    driver.log.clear();
    driver.feed(Input::Command(command("c1", Request::Wake { cold: false })));
    let (intent, check) = (driver.open.pop_front().unwrap(), driver.open.pop_front().unwrap());
    assert_eq!(done(&driver), ["before", "verify snapshot"]);
    (driver, intent, check)
}

#[test]
fn a_snapshot_is_checked_while_the_intent_is_recorded_and_nothing_is_started_before_both_are_there() {
    for durable_first in [true, false] {
        let (mut driver, intent, check) = waking();
        let (first, second) = if durable_first { (intent, check) } else { (check, intent) };
        driver.answer_well(first);
        assert_eq!(done(&driver), ["before", "verify snapshot"], "durable first: {durable_first}");
        driver.answer_well(second);
        assert_eq!(done(&driver)[2], "promise 256", "durable first: {durable_first}");
        driver.settle();
        assert_eq!(driver.sandbox.core().state, BillingState::Running, "durable first: {durable_first}");
    }
}

#[test]
fn a_snapshot_that_is_found_damaged_before_the_intent_is_durable_is_refused_once_it_is() {
    let (mut driver, intent, check) = waking();
    let damaged = Refusal::new(Reason::SnapshotDamaged, "it has no manifest");
    driver.feed(Input::Answer(token_of(&check).unwrap(), Answer::Failed(damaged)));
    assert!(driver.replies.is_empty());
    driver.answer_well(intent);
    driver.settle();
    assert_eq!(done(&driver), ["before", "verify snapshot", "after", "reply refused"]);
    assert_eq!(driver.sandbox.core().phase, Phase::Hibernated);
    driver.execute("c2", Request::Wake { cold: false }).unwrap();
}

#[test]
fn a_qemu_is_told_nothing_while_the_digest_is_not_known_and_ended_where_it_is_wrong() {
    let mut driver = Driver::hibernated(Method::MappedRam);
    let token = waking_until_its_digest(&mut driver);
    driver.settle();
    let told_nothing = |driver: &Driver| {
        let done = done(driver);
        let told = ["migrate-set-capabilities", "migrate-incoming", "cont"];
        assert!(!told.iter().any(|word| done.contains(word)), "{done:?}");
    };
    told_nothing(&driver);
    assert_eq!(driver.sandbox.core().state, BillingState::Waking);
    let damaged = Refusal::new(Reason::SnapshotDamaged, "it does not match its digest");
    driver.feed(Input::Answer(token, Answer::Failed(damaged)));
    driver.settle();
    told_nothing(&driver);
    assert!(driver.log.contains(&"kill".to_owned()) && driver.qemu.is_none(), "{:?}", driver.log);
    let (_, result) = driver.replies.last().unwrap();
    assert_eq!(result.clone().unwrap_err().reason, Reason::SnapshotDamaged);
    let core = driver.sandbox.core();
    assert_eq!((core.phase, core.state, core.process), (Phase::Hibernated, BillingState::Hibernated, None));
    assert!(core.snapshot.is_some() && !driver.log.contains(&"remove consumed snapshot".to_owned()));
    let ran = Change::State(BillingState::Running);
    assert!(!driver.observed.iter().any(|seen| seen.change == ran), "{:?}", driver.observed);
    driver.execute("c2", Request::Wake { cold: false }).unwrap();
}

#[test]
fn a_qemu_that_ends_or_is_lost_before_the_digest_is_known_leaves_the_sandbox_hibernated() {
    for exits in [true, false] {
        let mut driver = Driver::hibernated(Method::MappedRam);
        let token = waking_until_its_digest(&mut driver);
        if exits {
            driver.exit();
        } else {
            driver.feed(Input::Disconnected);
        }
        driver.settle();
        // It comes too late to be of use to anybody.
        driver.feed(Input::Answer(token, Answer::DigestRight));
        driver.settle();
        let expected = if exits { Reason::LaunchFailed } else { Reason::QmpUnreachable };
        let (_, result) = driver.replies.last().unwrap();
        assert_eq!(result.clone().unwrap_err().reason, expected);
        let core = driver.sandbox.core();
        assert_eq!((core.phase, core.process), (Phase::Hibernated, None), "{:?}", driver.log);
        assert!(!done(&driver).contains(&"migrate-incoming"), "{:?}", driver.log);
    }
}

#[test]
fn a_wake_whose_qemu_has_ended_before_it_says_why_it_cannot_load_comes_to_its_end() {
    let mut driver = Driver::hibernated(Method::Shared);
    driver.feed(Input::Command(command("c1", Request::Wake { cold: false })));
    until(&mut driver, |action| matches!(action, Action::Qmp(_, qmp) if qmp.name == "query-migrate"));
    let asked = token_of(&driver.open.pop_front().unwrap()).unwrap();
    // It is known to be gone, and what it has sent before is still being read.
    driver.feed(Input::Exited);
    driver.feed(Input::Answer(asked, Answer::Returned(json!({"status": "failed", "error-desc": "no"}))));
    driver.qemu = None;
    driver.settle();
    let [(_, result)] = driver.replies.as_slice() else { panic!("{:?}", driver.log) };
    assert!(result.is_err(), "{result:?}");
    assert_eq!(driver.sandbox.core().phase, Phase::Hibernated);
}
