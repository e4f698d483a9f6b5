//! What others do to a QEMU while it is woken or saved, what is missed of that, and a host that sleeps meanwhile.

use dormouse_metering::{BillingState, Change, Observation, Stamp};
use serde_json::json;

use super::driver::{Driver, MIB, command, device, token_of, until};
use crate::metering::accounts::Sight;
use crate::sandbox::command::{Method, Request};
use crate::sandbox::machine::{Action, Answer, Input};
use crate::sandbox::refusal::{Reason, Refusal};

fn start_ns(at: Stamp) -> u64 {
    at.boottime_ns - at.uncertainty_ns
}

/// A sandbox that is being woken, until this command is to be given to QEMU.
fn waking(until_told: &str) -> Driver {
    let mut driver = Driver::hibernated(Method::MappedRam);
    driver.feed(Input::Command(command("c1", Request::Wake { cold: false })));
    until(&mut driver, |action| matches!(action, Action::Qmp(_, told) if told.name == until_told));
    driver
}

fn marks(driver: &Driver) -> Vec<&Observation> {
    driver.observed.iter().filter(|seen| seen.change == Change::Mark).collect()
}

#[test]
fn a_guest_that_somebody_continued_and_stopped_before_it_was_awake_is_flagged() {
    let mut driver = waking("query-migrate");
    driver.event("RESUME", json!({}));
    let continued_ns = driver.now_ns;
    driver.event("STOP", json!({}));
    driver.settle();
    assert_eq!(driver.sandbox.core().state, BillingState::Running);
    let marks = marks(&driver);
    assert!(marks.len() == 1 && start_ns(marks[0].at) <= continued_ns, "{marks:?}");
    // One that nobody else continued is as certain as QEMU's word.
    let mut driver = waking("query-migrate");
    driver.settle();
    assert!(driver.observed.iter().all(|seen| seen.change != Change::Mark));
}

#[test]
fn a_guest_that_somebody_continued_before_a_destroy_overtook_its_wake_is_flagged() {
    let mut driver = waking("query-migrate");
    driver.event("RESUME", json!({}));
    let continued_ns = driver.now_ns;
    driver.feed(Input::Command(command("c2", Request::Destroy { graceful_ms: None })));
    driver.settle();
    let marks = marks(&driver);
    assert!(marks.len() == 1 && start_ns(marks[0].at) <= continued_ns, "{marks:?}");
}

#[test]
fn a_qemu_that_ends_while_it_is_asked_anew_whether_it_was_continued_ends_its_wake() {
    let mut driver = waking("cont");
    let cont = token_of(&driver.open.pop_front().unwrap()).unwrap();
    driver.feed(Input::Answer(cont, Answer::Failed(Refusal::new(Reason::OutcomeUnknown, "no reply"))));
    // The connection was let go for another: its end is not told any more.
    driver.qemu = None;
    driver.feed(Input::Exited);
    driver.settle();
    let (id, result) = driver.replies.last().unwrap();
    assert_eq!((id.as_str(), result.as_ref().unwrap_err().reason), ("c1", Reason::QemuDied));
}

#[test]
fn an_end_that_is_seen_when_the_host_wakes_may_have_come_before_it_slept() {
    for slept_ns in [0, 60_000_000_000] {
        let mut driver = Driver::attached();
        driver.now_ns += 3_600_000_000_000;
        if slept_ns > 0 {
            driver.feed(Input::Slept(slept_ns));
        }
        driver.exit();
        let ended = driver.observed.last().unwrap();
        assert_eq!(ended.change, Change::Ended);
        let window_ns = ended.at.uncertainty_ns;
        assert!((slept_ns..slept_ns + 100_000_000).contains(&window_ns), "{window_ns}");
    }
}

#[test]
fn missed_events_are_told_to_the_ledger_until_all_was_asked_for_again() {
    let mut driver = Driver::attached();
    driver.feed(Input::Gap);
    assert_eq!(driver.sandbox.core().sight().unwrap().0, Sight::Lost);
    driver.settle();
    assert_eq!(driver.sandbox.core().sight().unwrap().0, Sight::Clear);
    assert!(driver.log.iter().any(|word| word == "reattached"), "{:#?}", driver.log);
}

#[test]
fn of_two_devices_one_may_have_given_back_before_the_other_got_as_much() {
    let mut driver = Driver::attached();
    let sizes = |mib: [u64; 2]| vec![device("vm0", mib[0]), device("vm1", mib[1])];
    driver.qemu.as_mut().unwrap().devices = sizes([0, 512]);
    driver.feed(Input::Gap);
    driver.settle();
    driver.observed.clear();
    driver.qemu.as_mut().unwrap().devices = sizes([512, 256]);
    driver.execute("c1", super::driver::pause()).unwrap();
    let plugged = |seen: &Observation| match seen.change {
        Change::Plugged(bytes) => Some((bytes / MIB, seen.at)),
        _ => None,
    };
    let plugged: Vec<(u64, Stamp)> = driver.observed.iter().filter_map(plugged).collect();
    assert_eq!(plugged.iter().map(|(mib, _)| *mib).collect::<Vec<_>>(), [256, 768]);
    assert_eq!(plugged[0].1, plugged[1].1);
    assert!(plugged[0].1.uncertainty_ns > 0);
}

#[test]
fn a_guest_that_somebody_may_have_continued_while_its_qemu_was_ended_after_a_failed_wake_is_flagged() {
    let mut driver = waking("cont");
    let told_ns = driver.now_ns;
    let cont = token_of(&driver.open.pop_front().unwrap()).unwrap();
    driver.feed(Input::Answer(cont, Answer::Failed(Refusal::new(Reason::QemuFailed, "not now"))));
    driver.now_ns += 10_000_000;
    driver.exit();
    let last = driver.observed.last().unwrap();
    assert_eq!(last.change, Change::State(BillingState::Hibernated));
    assert!(start_ns(last.at) <= told_ns + 1_000_000, "{last:?}");
}
