//! Through when QEMU is known, where something was missed or held back.

use dormouse_metering::{BillingState, Change};
use serde_json::json;

use super::driver::{Driver, MIB, at, attach, command, device, pause, token_of, until};
use crate::sandbox::command::{Method, Request};
use crate::sandbox::facts::MemoryDevice;
use crate::sandbox::machine::sight::HELD_BACK_NS;
use crate::sandbox::machine::{Action, Answer, Input, QemuEvent};
use crate::sandbox::refusal::{Reason, Refusal};

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
fn a_size_that_was_on_its_way_when_qemu_was_asked_is_uncertain_since_before_that_whatever_was_missed_since() {
    let mut driver = Driver::attached();
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
    let known_ns = driver.now_ns;
    driver.now_ns += SECOND / 2;
    driver.feed(Input::Command(command("c1", pause())));
    until(&mut driver, |action| matches!(action, Action::Qmp(_, qmp) if qmp.name == "query-memory-devices"));
    // It has given back all in steps, the last of which comes as it is asked.
    driver.qemu.as_mut().unwrap().devices = vec![device("vm0", 0)];
    let asked = driver.open.pop_front().unwrap();
    let last = at(driver.now_ns + 200_000);
    driver.now_ns += 600_000;
    driver.answer_well(asked);
    driver.feed(Input::Gap);
    driver.now_ns += 30_000_000;
    let detail = json!({"id": "vm0", "size": 0});
    driver.feed(Input::Event(QemuEvent { name: "MEMORY_DEVICE_SIZE_CHANGE".to_owned(), at: last, detail }));
    let since_ns = since_ns(&driver, Change::Plugged(0));
    assert!(since_ns.is_some_and(|since_ns| since_ns <= known_ns), "{since_ns:?} {known_ns}");
}

#[test]
fn a_size_whose_event_has_no_certain_place_is_known_since_it_may_have_been_told_and_not_since_it_came() {
    let (mut driver, told_ns) = after_a_minute();
    // The wall clock was stepped meanwhile: the event may be of any time in between.
    driver.now_ns += 5 * SECOND;
    let at = driver.now().uncertain_by(5 * SECOND);
    let detail = json!({"id": "vm0", "size": 512 * MIB});
    driver.feed(Input::Event(QemuEvent { name: "MEMORY_DEVICE_SIZE_CHANGE".to_owned(), at, detail }));
    // Half of it was given back before that event came, and QEMU holds the next one back.
    driver.qemu.as_mut().unwrap().devices = vec![device("vm0", 256)];
    driver.feed(Input::Command(command("c1", pause())));
    until(&mut driver, |action| matches!(action, Action::Qmp(_, qmp) if qmp.name == "stop"));
    let since_ns = since_ns(&driver, Change::Plugged(256 * MIB));
    assert!(since_ns.is_some_and(|since_ns| since_ns <= told_ns), "{since_ns:?} {told_ns}");
}

#[test]
fn through_when_sizes_are_known_is_told_once_where_qemu_does_not_answer_what_it_holds_back() {
    let mut driver = Driver::new();
    driver.feed(Input::Command(command("attach", attach())));
    let mut asked_ns = None;
    for _ in 0..3 {
        until(&mut driver, |action| matches!(action, Action::Qmp(..)));
        asked_ns.get_or_insert(driver.now_ns);
        let asked = driver.open.pop_front().unwrap();
        driver.now_ns += 5 * SECOND;
        let unknown = Answer::Failed(Refusal::new(Reason::OutcomeUnknown, "no reply in time"));
        driver.feed(Input::Answer(token_of(&asked).unwrap(), unknown));
    }
    let [told] = driver.observed.as_slice() else { panic!("{:?}", driver.observed) };
    assert_eq!((told.change, told.at.uncertainty_ns), (Change::Plugged(0), 0));
    assert!(told.at.boottime_ns < asked_ns.unwrap() - SECOND, "when it was found: {told:?}");
}

#[test]
fn through_when_sizes_are_known_is_told_as_soon_as_an_agent_started_again_would_take_them_for_known() {
    let mut driver = Driver::new();
    driver.feed(Input::Command(command("attach", attach())));
    until(&mut driver, |action| matches!(action, Action::Qmp(..)));
    let (found_ns, asked) = (driver.now_ns - 2 * SECOND, driver.open.pop_front().unwrap());
    assert_eq!(driver.observed, []);
    let awaited = driver.open.pop_front().unwrap();
    driver.answer_well(awaited);
    let told = driver.observed.first().expect("it is told though the question is open").at;
    assert!((found_ns..driver.now_ns - SECOND).contains(&told.boottime_ns), "{told:?}");
    assert!(driver.now_ns - told.boottime_ns < HELD_BACK_NS);
    driver.answer_well(asked);
    assert_eq!(driver.observed.len(), 1);
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

/// What is said of the memory of a guest that shuts down as soon as it is attached.
fn said_of_memory(devices: Vec<MemoryDevice>) -> Vec<Change> {
    let mut driver = Driver::new();
    driver.qemu.as_mut().unwrap().devices = devices;
    driver.feed(Input::Command(command("c1", attach())));
    while driver.replies.is_empty() {
        let action = driver.open.pop_front().unwrap();
        driver.answer_well(action);
    }
    driver.event("SHUTDOWN", json!({"guest": true, "reason": "guest-shutdown"}));
    driver.exit();
    let changes = driver.observed.iter().map(|seen| seen.change);
    changes.filter(|change| matches!(change, Change::Plugged(_))).collect()
}

#[test]
fn where_there_is_no_memory_device_nothing_of_the_memory_is_uncertain_at_an_end() {
    assert!(!said_of_memory(vec![device("vm0", 0)]).is_empty());
    assert_eq!(said_of_memory(Vec::new()), []);
}
