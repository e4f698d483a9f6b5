//! A destroy beside another command: who goes on, and when.

use std::path::PathBuf;

use dormouse_metering::{BillingState, Cause, Change};

use super::driver::{Driver, at, command, hibernate, identity, key, pause, until};
use crate::sandbox::command::{Command, Method, Request};
use crate::sandbox::machine::{
    Action, Announcement, Answer, Core, Input, LastSign, Phase, Recovered, Sandbox, Settings,
};
use crate::sandbox::refusal::{Reason, Refusal};

fn destroy() -> Request {
    Request::Destroy { graceful_ms: None }
}

/// Answers what is asked until the intent of this command is to be made durable, which stays open.
fn until_intended(driver: &mut Driver, id: &str) {
    until(
        driver,
        |action| matches!(action, Action::Announce(_, Announcement::Before(command, ..)) if command.request_id == id),
    );
}

fn reasons(driver: &Driver) -> Vec<(&str, Option<Reason>)> {
    let reason = |result: &Result<_, Refusal>| result.as_ref().err().map(|refusal| refusal.reason);
    driver.replies.iter().map(|(id, result)| (id.as_str(), reason(result))).collect()
}

/// A pause that has told QEMU to stop and has no answer yet, and a destroy whose intent is being recorded.
fn destroy_beside_a_pause() -> (Driver, Action) {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("c1", pause())));
    until(&mut driver, |action| matches!(action, Action::Qmp(_, told) if told.name == "stop"));
    let stop = driver.open.pop_front().unwrap();
    driver.feed(Input::Command(command("c2", destroy())));
    (driver, stop)
}

#[test]
fn a_destroy_that_the_ledger_refuses_has_given_nothing_up() {
    let (mut driver, stop) = destroy_beside_a_pause();
    let intent = super::driver::token_of(&driver.open.pop_front().unwrap()).unwrap();
    driver.feed(Input::Answer(intent, Answer::Failed(Refusal::new(Reason::LedgerUnwritable, "full"))));
    driver.answer_well(stop);
    driver.settle();
    assert_eq!(reasons(&driver), [("c2", Some(Reason::LedgerUnwritable)), ("c1", None)]);
    assert_eq!(driver.sandbox.core().state, BillingState::Paused);
}

#[test]
fn a_destroy_gives_the_other_up_once_its_intent_is_durable_and_not_before() {
    let (mut driver, stop) = destroy_beside_a_pause();
    assert_eq!(reasons(&driver), []);
    driver.feed(Input::Command(command("c3", Request::PowerCycle)));
    driver.feed(Input::Command(command("c2", destroy())));
    assert_eq!(reasons(&driver), [("c3", Some(Reason::OperationUnderWay))]);
    driver.settle();
    driver.answer_well(stop);
    driver.settle();
    assert_eq!(reasons(&driver)[1..], [("c1", Some(Reason::Overtaken)), ("c2", None)]);
    assert!(driver.retired);
}

#[test]
fn a_destroy_whose_intent_becomes_durable_while_qemu_is_started_waits_for_it_and_ends_it() {
    let mut driver = Driver::hibernated(Method::MappedRam);
    driver.feed(Input::Command(command("c1", Request::Wake { cold: false })));
    until(&mut driver, |action| matches!(action, Action::VerifySnapshot(..)));
    let verify = driver.open.pop_front().unwrap();
    driver.feed(Input::Command(command("c2", destroy())));
    until_intended(&mut driver, "c2");
    let intent = driver.open.pop_front().unwrap();
    driver.answer_well(verify);
    until(&mut driver, |action| matches!(action, Action::Launch(..)));
    let launch = driver.open.pop_front().unwrap();
    driver.answer_well(intent);
    assert_eq!(reasons(&driver), []);
    driver.answer_well(launch);
    driver.settle();
    assert_eq!(reasons(&driver), [("c1", Some(Reason::Overtaken)), ("c2", None)]);
    assert!(driver.qemu.is_none());
}

#[test]
fn a_destroy_that_overtakes_a_wake_or_a_save_that_is_complete_leaves_no_snapshot_behind() {
    let mut waking = Driver::hibernated(Method::MappedRam);
    waking.feed(Input::Command(command("c1", Request::Wake { cold: false })));
    until(&mut waking, |action| matches!(action, Action::Qmp(..)));
    let mut saving = Driver::attached();
    saving.feed(Input::Command(command("c1", hibernate(Method::MappedRam))));
    until(&mut saving, |action| matches!(action, Action::Qmp(_, told) if told.name == "quit"));
    for mut driver in [waking, saving] {
        let under_way = driver.open.pop_front().unwrap();
        driver.feed(Input::Command(command("c2", destroy())));
        driver.settle();
        driver.answer_well(under_way);
        driver.settle();
        assert_eq!(reasons(&driver), [("c1", Some(Reason::Overtaken)), ("c2", None)]);
        assert!(driver.log.contains(&"remove consumed snapshot".to_owned()), "{:?}", driver.log);
    }
}

#[test]
fn what_was_let_go_while_a_destroy_was_being_recorded_is_not_called_destroyed() {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("c1", Request::Detach)));
    until(&mut driver, |action| matches!(action, Action::Qmp(..)));
    driver.feed(Input::Command(command("c2", destroy())));
    let question = driver.open.pop_front().unwrap();
    driver.answer_well(question);
    driver.settle();
    assert_eq!(reasons(&driver), [("c1", None), ("c2", Some(Reason::SandboxNotFound))]);
    assert!(driver.qemu.is_some() && driver.retired);
}

/// Taken up with these commands unfinished.
fn taken_up(phase: Phase, unfinished: Vec<Command>, lives: bool) -> Driver {
    let mut core = Core::new(key(), PathBuf::from("/run/dormouse/sb-1.qmp"), Settings::default());
    core.generation = 7;
    core.phase = phase;
    core.process = (phase == Phase::Attached).then(|| identity(100));
    core.state = if phase == Phase::Attached { BillingState::Running } else { BillingState::Waking };
    core.snapshot = (phase == Phase::Hibernated).then(|| super::driver::manifest(Method::MappedRam));
    let stamp = at(999_000_000_000);
    let last_sign = Some(LastSign { at: stamp, told: stamp, sizes: stamp, memory: None });
    let recovered =
        Recovered { core, unfinished, saved: None, ran: true, last_sign, plugged_by_device: None };
    let (sandbox, actions) = Sandbox::recover_from(recovered, at(1_000_000_000_000), lives);
    let mut driver = Driver::of(sandbox, Some(super::driver::Qemu::new(100)));
    driver.take(actions);
    driver
}

#[test]
fn of_two_unfinished_commands_the_destroy_goes_on_and_the_other_is_recorded_as_overtaken() {
    let unfinished = vec![command("c1", hibernate(Method::Shared)), command("c2", destroy())];
    let mut driver = taken_up(Phase::Attached, unfinished, true);
    let overtaken = driver.open.iter().any(|action| {
        matches!(action, Action::Announce(_, Announcement::After(command, _, Err(refusal)))
            if command.request_id == "c1" && refusal.reason == Reason::Overtaken)
    });
    assert!(overtaken, "{:?}", driver.open);
    driver.settle();
    assert_eq!(reasons(&driver), [("c2", None)]);
    let ended = driver.observed.last().unwrap();
    assert_eq!((ended.change, ended.cause), (Change::Ended, Cause::Destroy));
    assert!(driver.qemu.is_none());
}

#[test]
fn a_qemu_that_an_unfinished_wake_has_started_is_found_and_ended_by_the_destroy_that_overtook_it() {
    let unfinished = vec![command("c1", Request::Wake { cold: false }), command("c2", destroy())];
    let mut driver = taken_up(Phase::Hibernated, unfinished, true);
    driver.settle();
    assert_eq!(reasons(&driver).last(), Some(&("c2", None)));
    assert!(driver.qemu.is_none(), "{:#?}", driver.log);
}
