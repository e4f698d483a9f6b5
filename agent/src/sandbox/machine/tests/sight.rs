//! Through when QEMU is known, where something was missed or held back.

use dormouse_metering::{BillingState, Change};
use serde_json::json;

use super::driver::{Driver, MIB, device, until};
use crate::sandbox::command::{Method, Request};
use crate::sandbox::machine::{Action, Input, QemuEvent};

const SECOND: u64 = 1_000_000_000;

/// One that has been attached for a minute, and when that was over.
fn after_a_minute() -> (Driver, u64) {
    let mut driver = Driver::attached();
    driver.settle();
    driver.now_ns += 60 * SECOND;
    let now_ns = driver.now_ns;
    (driver, now_ns)
}

/// Any word of QEMU's, of which nothing follows.
fn speaks(driver: &mut Driver) {
    driver.event("RTC_CHANGE", json!({}));
}

/// Since when what was observed last of this may be so.
fn since_ns(driver: &Driver, change: Change) -> Option<u64> {
    let last = driver.observed.iter().rfind(|seen| seen.change == change)?;
    Some(last.at.boottime_ns - last.at.uncertainty_ns)
}

#[test]
fn what_was_missed_first_counts_whatever_was_heard_and_missed_since() {
    let (mut driver, missed_ns) = after_a_minute();
    driver.feed(Input::Gap);
    driver.now_ns += 60 * SECOND;
    speaks(&mut driver);
    driver.feed(Input::Gap);
    driver.qemu.as_mut().unwrap().status = "paused";
    driver.settle();
    let since_ns = since_ns(&driver, Change::State(BillingState::Paused));
    assert!(since_ns.is_some_and(|since_ns| since_ns <= missed_ns), "{since_ns:?}");
}

#[test]
fn a_word_that_comes_late_does_not_take_back_through_when_qemu_was_heard() {
    let (mut driver, _) = after_a_minute();
    speaks(&mut driver);
    let heard = |driver: &Driver| driver.sandbox.core().sight().unwrap().1;
    let before = heard(&driver);
    let at = before.earlier_by(SECOND);
    driver.feed(Input::Event(QemuEvent { name: "RTC_CHANGE".to_owned(), at, detail: json!({}) }));
    assert_eq!(heard(&driver), before);
}

#[test]
fn a_shutdown_that_is_told_while_all_is_asked_again_is_uncertain_since_something_was_missed() {
    let (mut driver, missed_ns) = after_a_minute();
    driver.feed(Input::Gap);
    driver.event("SHUTDOWN", json!({}));
    driver.exit();
    for change in [Change::State(BillingState::Paused), Change::Ended] {
        let since_ns = since_ns(&driver, change);
        assert!(since_ns.is_some_and(|since_ns| since_ns <= missed_ns), "{change:?} {since_ns:?}");
    }
}

#[test]
fn a_size_that_is_told_after_something_was_missed_may_be_so_since_before_that() {
    let (mut driver, missed_ns) = after_a_minute();
    driver.feed(Input::Gap);
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
    let since_ns = since_ns(&driver, Change::Plugged(512 * MIB));
    assert!(since_ns.is_some_and(|since_ns| since_ns <= missed_ns), "{since_ns:?}");
}

#[test]
fn what_qemu_did_not_answer_of_its_memory_is_unknown_at_its_end_whatever_else_it_told() {
    let mut driver = Driver::attached();
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
    let known_ns = driver.now_ns;
    until(&mut driver, |action| matches!(action, Action::Qmp(..)));
    driver.now_ns += 50 * SECOND;
    speaks(&mut driver);
    driver.exit();
    let since_ns = since_ns(&driver, Change::Plugged(0));
    assert!(since_ns.is_some_and(|since_ns| since_ns <= known_ns), "{since_ns:?}");
}

#[test]
fn a_size_that_a_woken_qemu_may_have_held_back_is_unknown_since_it_was_asked_whether_it_speaks_or_hangs() {
    for hangs in [false, true] {
        let mut driver = Driver::hibernated(Method::MappedRam);
        driver.execute("c1", Request::Wake { cold: false }).unwrap();
        let awake_ns = driver.now_ns;
        driver.now_ns += SECOND;
        if hangs {
            driver.now_ns += 60 * SECOND;
        } else {
            speaks(&mut driver);
        }
        driver.feed(Input::Disconnected);
        driver.qemu.as_mut().unwrap().devices = vec![device("vm0", 256)];
        driver.settle();
        let since_ns = since_ns(&driver, Change::Plugged(256 * MIB));
        assert!(since_ns.is_some_and(|since_ns| since_ns <= awake_ns), "{hangs} {since_ns:?} {awake_ns}");
    }
}
