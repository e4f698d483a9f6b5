//! The vCPU limit: what the kernel was told, said and was not asked, and what is billed meanwhile.

use dormouse_metering::{BillingState, Cause, Change, CommandId, Observation};
use serde_json::json;

use super::driver::{Driver, command, token_of, until};
use super::recovery::{left, qemu, settled};
use crate::sandbox::command::{Request, Scaling};
use crate::sandbox::machine::{Action, Answer, Input};
use crate::sandbox::refusal::{Reason, Refusal};

pub(super) fn vcpus(milli: u32) -> Scaling {
    Scaling { vcpus_milli: Some(milli), ..Scaling::default() }
}

/// Whose doing an observation says it is.
pub(super) fn named_by(seen: &Observation) -> (Cause, Option<&str>) {
    (seen.cause, seen.command.as_ref().map(CommandId::as_str))
}

#[test]
fn a_limit_that_cannot_be_read_is_as_it_was_last_and_one_that_is_gone_is_gone() {
    let resynced = |driver: &mut Driver, limit: Result<Option<u32>, String>| {
        driver.qemu.as_mut().unwrap().vcpu_limit_milli = limit;
        driver.observed.clear();
        driver.feed(Input::Gap);
        driver.settle();
        (driver.sandbox.core().shape.vcpus_milli, driver.observed.len())
    };
    let unreadable = || Err("permission denied".to_owned());
    let mut driver = Driver::attached();
    driver.execute("c1", Request::Scale(vcpus(500))).unwrap();
    assert_eq!(resynced(&mut driver, unreadable()), (500, 0));
    assert_eq!(resynced(&mut driver, Ok(Some(500))), (500, 0));
    assert_eq!(resynced(&mut driver, Ok(None)), (2000, 1));
    assert_eq!(resynced(&mut driver, unreadable()), (2000, 0));
    // Of one that was never read nothing is known, but what QEMU has.
    let mut driver = Driver::new();
    driver.qemu.as_mut().unwrap().vcpu_limit_milli = unreadable();
    driver.execute("attach", super::driver::attach()).unwrap();
    assert_eq!(driver.sandbox.core().shape.vcpus_milli, 2000);
}

/// A scale that the kernel was told of, and the answer that it comes to.
fn limiting(driver: &mut Driver, milli: u32, answer: Answer) {
    driver.observed.clear();
    driver.feed(Input::Command(command("limit", Request::Scale(vcpus(milli)))));
    until(driver, |action| matches!(action, Action::LimitVcpus(..)));
    let token = token_of(&driver.open.pop_front().unwrap()).unwrap();
    driver.now_ns += 1_000_000;
    driver.feed(Input::Answer(token, answer));
}

#[test]
fn a_limit_that_the_kernel_took_and_did_not_say_is_billed_as_the_lesser_until_it_is_read() {
    let unread = || Answer::Failed(Refusal::new(Reason::OutcomeUnknown, "cannot be read"));
    let mut driver = Driver::attached();
    driver.qemu.as_mut().unwrap().vcpu_limit_milli = Err("cannot be read".to_owned());
    limiting(&mut driver, 500, unread());
    driver.settle();
    assert_eq!(driver.replies.last().unwrap().1.as_ref().unwrap_err().reason, Reason::OutcomeUnknown);
    assert_eq!(driver.observed[0].change, Change::Vcpus(500));
    assert!(driver.observed[0].at.uncertainty_ns >= 1_000_000, "since it was asked for");
    assert_eq!(driver.sandbox.core().shape.vcpus_milli, 500);
    driver.qemu.as_mut().unwrap().vcpu_limit_milli = Ok(None);
    driver.feed(Input::Gap);
    driver.settle();
    assert_eq!(driver.sandbox.core().shape.vcpus_milli, 2000, "it had not taken it");
    // What it did not take it says at once: nothing is changed by that.
    limiting(&mut driver, 500, Answer::Failed(Refusal::new(Reason::CgroupUnsuitable, "shared")));
    driver.settle();
    assert_eq!(driver.sandbox.core().shape.vcpus_milli, 2000);
    assert!(driver.observed.is_empty(), "{:?}", driver.observed);
}

#[test]
fn a_guest_that_is_stopped_and_continued_while_the_kernel_is_told_may_have_had_more_until_it_answers() {
    for continued in [true, false] {
        let mut driver = Driver::attached();
        driver.feed(Input::Command(command("limit", Request::Scale(vcpus(500)))));
        until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)));
        let token = token_of(&driver.open.pop_front().unwrap()).unwrap();
        driver.event("STOP", json!({}));
        let told_ns = driver.now_ns + 10_000_000;
        driver.now_ns = told_ns;
        if continued {
            driver.event("RESUME", json!({}));
        }
        driver.now_ns += 100_000_000;
        driver.feed(Input::Answer(token, Answer::VcpusLimited(Some(500))));
        let marks = driver.observed.iter().filter(|seen| seen.change == Change::Mark);
        let since_ns: Vec<u64> = marks.map(|seen| seen.at.boottime_ns - seen.at.uncertainty_ns).collect();
        assert_eq!(since_ns.len(), usize::from(continued), "{:?}", driver.observed);
        assert!(since_ns.iter().all(|since_ns| since_ns.abs_diff(told_ns) <= 1_000_000), "{since_ns:?}");
    }
}

#[test]
fn a_limit_that_another_has_set_may_be_so_since_the_limit_was_read_last() {
    let mut driver = Driver::attached();
    let read_ns = driver.now().boottime_ns;
    driver.now_ns += 60_000_000_000;
    driver.observed.clear();
    driver.qemu.as_mut().unwrap().vcpu_limit_milli = Ok(Some(250));
    driver.feed(Input::Gap);
    driver.settle();
    let [seen] = driver.observed.as_slice() else { panic!("{:?}", driver.observed) };
    assert_eq!(seen.change, Change::Vcpus(250));
    assert!(seen.at.boottime_ns - seen.at.uncertainty_ns <= read_ns, "{seen:?}");
}

#[test]
fn a_qemu_that_dies_while_the_kernel_is_told_is_billed_the_lesser_since_then() {
    let mut driver = Driver::attached();
    driver.observed.clear();
    driver.feed(Input::Command(command("limit", Request::Scale(vcpus(500)))));
    until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)));
    let asked_ns = driver.now().boottime_ns;
    driver.now_ns += 100_000_000;
    driver.exit();
    let limited = driver.observed.iter().find(|seen| seen.change == Change::Vcpus(500)).expect("the lesser");
    assert!(limited.at.boottime_ns - limited.at.uncertainty_ns <= asked_ns, "{limited:?}");
    assert_eq!(named_by(limited), (Cause::Scale, Some("limit")));
}

#[test]
fn a_qemu_that_dies_while_the_kernel_is_told_of_more_may_have_had_that_since_then_and_the_bill_says_so() {
    let mut driver = Driver::attached();
    driver.execute("c1", Request::Scale(vcpus(500))).unwrap();
    driver.observed.clear();
    driver.feed(Input::Command(command("limit", Request::Scale(vcpus(1500)))));
    until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)));
    let asked_ns = driver.now().boottime_ns;
    driver.now_ns += 100_000_000;
    driver.exit();
    let marked = driver.observed.iter().find(|seen| seen.change == Change::Mark).expect("a word");
    assert!(marked.at.boottime_ns - marked.at.uncertainty_ns <= asked_ns, "{marked:?}");
    assert_eq!(driver.sandbox.core().shape.vcpus_milli, 500);
}

#[test]
fn a_limit_that_was_read_before_the_kernel_took_another_says_nothing() {
    let mut driver = Driver::attached();
    driver.feed(Input::Gap);
    until(&mut driver, |action| matches!(action, Action::Survey(..)));
    let read = driver.open.pop_front().unwrap();
    limiting(&mut driver, 500, Answer::VcpusLimited(Some(500)));
    assert_eq!(driver.observed[0].change, Change::Vcpus(500));
    driver.answer_well(read);
    assert_eq!(driver.sandbox.core().shape.vcpus_milli, 500, "{:?}", driver.observed);
}

#[test]
fn a_limit_that_the_kernel_is_yet_to_answer_is_billed_once_it_has_whatever_is_read_meanwhile() {
    for read in [Ok(None), Ok(Some(500)), Err("cannot be read".to_owned())] {
        let mut driver = Driver::attached();
        driver.feed(Input::Command(command("limit", Request::Scale(vcpus(500)))));
        until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)));
        let told = driver.open.pop_front().unwrap();
        let asked_ns = driver.now().boottime_ns;
        driver.observed.clear();
        driver.qemu.as_mut().unwrap().vcpu_limit_milli = read;
        driver.now_ns += 100_000_000;
        driver.feed(Input::Gap);
        until(&mut driver, |action| matches!(action, Action::Wait(..)));
        assert!(driver.observed.is_empty(), "{:?}", driver.observed);
        let answer = Answer::VcpusLimited(Some(500));
        driver.feed(Input::Answer(token_of(&told).unwrap(), answer));
        let [limited] = driver.observed.as_slice() else { panic!("{:?}", driver.observed) };
        assert_eq!(limited.change, Change::Vcpus(500));
        assert!(limited.at.boottime_ns - limited.at.uncertainty_ns <= asked_ns, "{limited:?}");
    }
}

#[test]
fn a_destroy_waits_until_the_kernel_has_said_what_limits_the_sandbox() {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("limit", Request::Scale(vcpus(500)))));
    until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)));
    let asked = driver.open.pop_front().unwrap();
    driver.feed(Input::Command(command("end", Request::Destroy { graceful_ms: None })));
    assert_eq!(driver.sandbox.underway().unwrap().0.request_id, "limit");
    driver.answer_well(asked);
    assert!(driver.observed.iter().any(|seen| seen.change == Change::Vcpus(500)));
}

#[test]
fn a_guest_that_shuts_down_while_the_kernel_is_told_is_billed_the_lesser_until_then() {
    for answer in [Answer::VcpusLimited(Some(500)), Answer::Failed(Refusal::new(Reason::QemuDied, "gone"))] {
        let mut driver = Driver::attached();
        driver.observed.clear();
        driver.feed(Input::Command(command("limit", Request::Scale(vcpus(500)))));
        until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)));
        let token = token_of(&driver.open.pop_front().unwrap()).unwrap();
        let asked_ns = driver.now().boottime_ns;
        driver.now_ns += 100_000_000;
        driver.event("SHUTDOWN", json!({}));
        let place = |change| driver.observed.iter().position(|seen| seen.change == change);
        let limited = place(Change::Vcpus(500)).expect("the lesser");
        assert!(Some(limited) < place(Change::State(BillingState::Paused)), "{:?}", driver.observed);
        let at = driver.observed[limited].at;
        assert!(at.boottime_ns - at.uncertainty_ns <= asked_ns, "{at:?}");
        assert_eq!(named_by(&driver.observed[limited]), (Cause::Scale, Some("limit")));
        let vcpus_milli = if matches!(answer, Answer::Failed(_)) { 2_000 } else { 500 };
        driver.feed(Input::Answer(token, answer));
        assert_eq!(
            driver.sandbox.core().shape.vcpus_milli,
            vcpus_milli,
            "what the kernel said counts after it"
        );
    }
}

#[test]
fn a_limit_that_was_taken_while_no_agent_was_there_names_the_scale_that_asked_for_it() {
    for (has_milli, named) in [(500, (Cause::Scale, Some("c1"))), (700, (Cause::Resync, None))] {
        let mut found = qemu("running", 512);
        found.vcpu_limit_milli = Ok(Some(has_milli));
        let unfinished = Some(Request::Scale(vcpus(500)));
        let driver = settled(left(BillingState::Running, unfinished), found);
        let limited = driver.observed.iter().find(|seen| seen.change == Change::Vcpus(has_milli));
        assert_eq!(limited.map(named_by), Some(named), "{:?}", driver.observed);
        assert_eq!(driver.replies.last().unwrap().1.is_ok(), has_milli == 500);
    }
}
