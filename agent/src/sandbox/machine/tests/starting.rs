//! Create, power-cycle and a graceful destroy: what is done in which order, and what is left where it fails.

use dormouse_metering::{BillingState, Cause, Change};
use serde_json::json;

use super::driver::{Driver, MIB, create, identity, scale};
use super::paths::done;
use crate::sandbox::command::{Method, Request};
use crate::sandbox::machine::{Action, Announcement, Answer, Input, Phase, Token};
use crate::sandbox::refusal::{Reason, Refusal};

/// Nothing of the sandbox is there yet.
fn nothing() -> Driver {
    let mut driver = Driver::new();
    driver.qemu = None;
    driver
}

/// Answers until something of this kind waits, and takes it.
fn until(driver: &mut Driver, wanted: impl Fn(&Action) -> bool) -> Action {
    loop {
        let at = driver.open.iter().position(&wanted);
        if let Some(action) = at.and_then(|at| driver.open.remove(at)) {
            return action;
        }
        let action = driver.open.pop_front().unwrap_or_else(|| panic!("{:#?}", driver.log));
        driver.answer_well(action);
    }
}

fn until_its_life_is_announced(driver: &mut Driver) -> Token {
    let announced = |action: &Action| matches!(action, Action::Announce(_, Announcement::Attached { .. }));
    let Action::Announce(token, _) = until(driver, announced) else { unreachable!("no other is wanted") };
    token
}

fn ask(driver: &mut Driver, request: Request) {
    driver.feed(Input::Command(super::driver::command("c1", request)));
}

fn refusal(driver: &Driver) -> Refusal {
    driver.replies.last().cloned().unwrap().1.unwrap_err()
}

#[test]
fn a_created_sandbox_runs_only_once_its_intent_and_its_life_are_durable() {
    let mut driver = nothing();
    driver.execute("c1", create()).unwrap();
    let way = [
        "before",
        "promise 256",
        "start",
        "connect",
        "attached",
        "cont",
        "observe running",
        "after",
        "reply ok",
    ];
    // What it asks of the memory meanwhile is the core's own affair.
    let own = |word: &&str| !matches!(*word, "wait" | "query-memory-devices");
    assert_eq!(done(&driver).into_iter().filter(own).collect::<Vec<_>>(), way);
    assert_eq!(driver.sandbox.core().phase, Phase::Attached);
    let running =
        driver.observed.iter().find(|seen| seen.change == Change::State(BillingState::Running)).unwrap();
    assert_eq!(running.cause, Cause::Create);
    assert_eq!(running.command.as_ref().unwrap().as_str(), "c1");
}

#[test]
fn a_create_whose_qemu_ends_at_once_leaves_nothing_and_says_what_qemu_said() {
    let mut driver = nothing();
    ask(&mut driver, create());
    until(&mut driver, |action| matches!(action, Action::Connect(..)));
    driver.feed(Input::LastWords("no such machine".to_owned()));
    driver.exit();
    driver.settle();
    let why = refusal(&driver);
    assert_eq!(why.reason, Reason::LaunchFailed);
    assert!(why.message.contains("no such machine"), "{}", why.message);
    assert!(driver.retired && driver.observed.is_empty(), "{:?}", driver.observed);
}

#[test]
fn a_create_that_cannot_be_recorded_ends_the_qemu_that_it_started() {
    let mut driver = nothing();
    ask(&mut driver, create());
    let token = until_its_life_is_announced(&mut driver);
    driver.feed(Input::Answer(token, Answer::Failed(Refusal::new(Reason::LedgerUnwritable, "full"))));
    driver.settle();
    assert_eq!(refusal(&driver).reason, Reason::LedgerUnwritable);
    assert!(driver.log.contains(&"kill".to_owned()) && driver.qemu.is_none() && driver.retired);
}

#[test]
fn a_create_whose_qemu_ends_while_its_life_is_recorded_ends_that_life() {
    let mut driver = nothing();
    ask(&mut driver, create());
    let token = until_its_life_is_announced(&mut driver);
    driver.exit();
    driver.feed(Input::Answer(token, Answer::Recorded(7)));
    driver.settle();
    assert_eq!(refusal(&driver).reason, Reason::LaunchFailed);
    assert_eq!(driver.observed.last().unwrap().change, Change::Ended);
    assert!(driver.retired);
}

#[test]
fn a_host_without_the_memory_starts_no_qemu_and_leaves_everything_as_it_was() {
    let short = || Answer::Failed(Refusal::new(Reason::HostMemoryShort, "short"));
    let mut driver = nothing();
    ask(&mut driver, create());
    let Action::PromiseMemory(token, bytes) =
        until(&mut driver, |action| matches!(action, Action::PromiseMemory(..)))
    else {
        panic!()
    };
    assert_eq!(bytes, 256 * MIB);
    driver.feed(Input::Answer(token, short()));
    driver.settle();
    assert_eq!(refusal(&driver).reason, Reason::HostMemoryShort);
    assert!(driver.retired && !driver.log.contains(&"start".to_owned()), "{:?}", driver.log);

    let mut driver = Driver::attached();
    driver.execute("grow", scale(768)).unwrap();
    driver.execute("sleep", super::driver::hibernate(Method::Shared)).unwrap();
    driver.log.clear();
    driver.observed.clear();
    ask(&mut driver, Request::Wake);
    let Action::PromiseMemory(token, _) =
        until(&mut driver, |action| matches!(action, Action::PromiseMemory(..)))
    else {
        panic!()
    };
    driver.feed(Input::Answer(token, short()));
    driver.settle();
    assert_eq!(refusal(&driver).reason, Reason::HostMemoryShort);
    assert_eq!(driver.sandbox.core().phase, Phase::Hibernated);
    assert!(driver.observed.is_empty() && !driver.log.contains(&"launch".to_owned()), "{:?}", driver.log);
    driver.execute("c2", Request::Wake).unwrap();
}

#[test]
fn a_power_cycle_is_paused_between_two_qemus_and_keeps_the_sandbox() {
    let mut driver = Driver::attached();
    driver.execute("grow", scale(1280)).unwrap();
    driver.log.clear();
    driver.observed.clear();
    driver.execute("c1", Request::PowerCycle).unwrap();
    let expected = [
        "before",
        "keep 256",
        "query-memory-devices",
        "observe running",
        "quit",
        "observe paused",
        "wait",
        "observe requested 0",
        "observe plugged 0",
        "start",
        "connect",
        "reattached",
        "cont",
        "observe running",
        "after",
        "reply ok",
    ];
    let ended: Vec<&str> = done(&driver).into_iter().filter(|word| *word != "disconnect").collect();
    assert_eq!(ended, expected);
    let core = driver.sandbox.core();
    assert_eq!((core.phase, core.generation, core.process), (Phase::Attached, 7, Some(identity(200))));
    // But for what was so when it began.
    let (_, seen) = driver.observed.split_first().unwrap();
    assert!(seen.iter().all(|seen| seen.cause == Cause::PowerCycle), "{:?}", driver.observed);
    assert!(!driver.observed.iter().any(|seen| seen.change == Change::Plugged(1024 * MIB)));
}

#[test]
fn a_power_cycle_that_cannot_start_qemu_again_ends_the_sandbox_and_says_so() {
    let mut driver = Driver::attached();
    ask(&mut driver, Request::PowerCycle);
    let Action::Start(token, _) = ({
        until(&mut driver, |action| matches!(action, Action::Wait(..)));
        driver.exit();
        until(&mut driver, |action| matches!(action, Action::Start(..)))
    }) else {
        panic!()
    };
    driver.feed(Input::Answer(token, Answer::Failed(Refusal::new(Reason::LaunchFailed, "no such file"))));
    driver.settle();
    let why = refusal(&driver);
    assert_eq!(why.reason, Reason::LaunchFailed);
    assert!(why.message.contains("has ended"), "{}", why.message);
    assert_eq!(driver.observed.last().unwrap().change, Change::Ended);
    assert!(driver.retired);
}

#[test]
fn a_qemu_that_cannot_be_started_again_is_not_power_cycled() {
    let mut driver = Driver::attached();
    let mut survey = driver.qemu.as_ref().unwrap().survey();
    if let Ok(line) = &mut survey.command_line {
        line.argv.extend(["-netdev", "tap,id=n0,fd=3"].map(str::to_owned));
    }
    driver.feed(Input::Gap);
    let Action::Survey(token) = until(&mut driver, |action| matches!(action, Action::Survey(_))) else {
        panic!()
    };
    driver.feed(Input::Answer(token, Answer::Surveyed(Box::new(survey), identity(100))));
    let why = driver.execute("c1", Request::PowerCycle).unwrap_err();
    assert_eq!(why.reason, Reason::NotRepeatable);
    assert!(why.message.contains("fd=3"), "{}", why.message);
    assert!(driver.qemu.is_some());
}

#[test]
fn a_guest_that_powers_itself_off_is_destroyed_without_being_told_to_quit() {
    let mut driver = Driver::attached();
    ask(&mut driver, Request::Destroy { graceful_ms: Some(60_000) });
    until(&mut driver, |action| matches!(action, Action::Wait(_, 60_000)));
    driver.event("SHUTDOWN", json!({"guest": true, "reason": "guest-shutdown"}));
    driver.exit();
    driver.settle();
    let outcome = driver.replies.last().cloned().unwrap().1.unwrap();
    assert!(outcome.message.contains("powered itself off"), "{}", outcome.message);
    assert!(!driver.log.contains(&"quit".to_owned()));
}

#[test]
fn a_guest_that_ignores_the_power_button_is_told_to_quit_at_the_deadline() {
    let mut driver = Driver::attached();
    let outcome = driver.execute("c1", Request::Destroy { graceful_ms: Some(60_000) }).unwrap();
    assert!(outcome.message.contains("within 60000 ms"), "{}", outcome.message);
    let way = ["before", "system_powerdown", "wait", "query-memory-devices", "observe running", "quit"];
    assert_eq!(done(&driver)[..way.len()], way);
}

#[test]
fn a_qemu_that_stands_once_its_guest_is_off_is_told_to_quit_at_once() {
    let mut driver = Driver::attached();
    ask(&mut driver, Request::Destroy { graceful_ms: Some(60_000) });
    until(&mut driver, |action| matches!(action, Action::Wait(_, 60_000)));
    driver.event("SHUTDOWN", json!({"guest": true, "reason": "guest-shutdown"}));
    driver.event("STOP", json!({}));
    driver.settle();
    assert!(driver.log.contains(&"quit".to_owned()) && driver.retired);
}
