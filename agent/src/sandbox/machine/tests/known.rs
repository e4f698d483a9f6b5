//! What may be believed of what QEMU says, when it comes late, in another order, or not at all.

use dormouse_metering::{BillingState, Cause, Change, Meter, Observation};
use serde_json::json;

use super::driver::{Driver, MIB, at, command, device, hibernate, pause, token_of, until};
use crate::metering::accounts::Sight;
use crate::sandbox::command::{Method, Request};
use crate::sandbox::machine::{Action, Announcement, Answer, Input, LastSign, QemuEvent};
use crate::sandbox::refusal::{Reason, Refusal};

fn is_qmp(name: &'static str) -> impl Fn(&Action) -> bool {
    move |action| matches!(action, Action::Qmp(_, command) if command.name == name)
}

fn is_after(action: &Action) -> bool {
    matches!(action, Action::Announce(_, Announcement::After(..)))
}

fn states(driver: &Driver) -> Vec<&Observation> {
    driver.observed.iter().filter(|seen| matches!(seen.change, Change::State(_))).collect()
}

#[test]
fn a_guest_that_somebody_continues_while_it_is_saved_is_billed_though_its_resume_is_lost() {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("c1", hibernate(Method::MappedRam))));
    until(&mut driver, is_qmp("migrate"));
    driver.qemu.as_mut().unwrap().status = "running";
    let before_ns = driver.now_ns;
    driver.feed(Input::Gap);
    until(&mut driver, |action| matches!(action, Action::Survey(_)));
    let survey = driver.open.pop_front().unwrap();
    driver.answer_well(survey);
    let last = states(&driver).pop().unwrap();
    assert_eq!((last.change, last.cause), (Change::State(BillingState::Running), Cause::Resync));
    assert!(last.at.boottime_ns - last.at.uncertainty_ns <= before_ns, "{:?}", last.at);
}

#[test]
fn a_guest_that_qemu_says_it_is_saving_is_not_taken_for_one_that_somebody_has_continued() {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("c1", hibernate(Method::Internal))));
    until(&mut driver, is_qmp("snapshot-save"));
    driver.observed.clear();
    driver.qemu.as_mut().unwrap().status = "save-vm";
    driver.feed(Input::Gap);
    until(&mut driver, |action| matches!(action, Action::Survey(_)));
    let survey = driver.open.pop_front().unwrap();
    driver.answer_well(survey);
    assert_eq!(states(&driver), Vec::<&Observation>::new());
    assert_eq!(driver.sandbox.core().state, BillingState::Hibernating);
}

#[test]
fn a_guest_that_runs_when_it_is_asked_why_it_had_stopped_runs_since_then_and_may_have_since_it_stopped() {
    let mut driver = Driver::attached();
    driver.settle();
    driver.event("STOP", json!({}));
    let stopped = states(&driver).pop().unwrap().at;
    // QEMU hangs; somebody else continues it before it answers.
    driver.now_ns += 30_000_000_000;
    driver.settle();
    let runs = states(&driver).pop().unwrap();
    assert_eq!(runs.change, Change::State(BillingState::Running));
    assert!(runs.at.boottime_ns >= stopped.boottime_ns + 30_000_000_000, "{runs:?}");
    assert_eq!(runs.at.boottime_ns - runs.at.uncertainty_ns, stopped.boottime_ns);
}

/// What a meter that was told all of it holds of the memory in the end, in MiB.
fn metered_mib(driver: &Driver) -> u64 {
    let shape = driver.sandbox.core().shape;
    let began = Change::Began(shape, BillingState::Running);
    let began = Observation { at: at(0), change: began, cause: Cause::Attach, command: None };
    let mut meter = Meter::new();
    for seen in std::iter::once(&began).chain(&driver.observed) {
        meter.observe(seen.clone(), &mut |_| {}).unwrap();
    }
    meter.holding().unwrap().0.memory_plugged_bytes / MIB
}

#[test]
fn a_size_that_is_told_for_the_very_moment_of_a_reset_comes_behind_it_however_uncertain_that_is() {
    let mut driver = Driver::attached();
    driver.settle();
    driver.feed(Input::Gap);
    let survey = driver.open.pop_front().unwrap();
    // What is answered may be so since the gap, what the next event says since this one.
    driver.now_ns += 12_000_000_000;
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 0}));
    driver.now_ns += 1_000_000_000;
    driver.qemu.as_mut().unwrap().devices = vec![device("vm0", 256)];
    driver.answer_well(survey);
    let answered = driver.observed.last().unwrap().at;
    // Both arrive with the answer, and came about behind it.
    let at = answered.uncertain_by(180_000);
    for (name, detail) in
        [("RESET", json!({})), ("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 256 * MIB}))]
    {
        driver.feed(Input::Event(QemuEvent { name: name.to_owned(), at, detail }));
    }
    assert_eq!(metered_mib(&driver), 256);
    assert_eq!(driver.sandbox.core().shape.memory_plugged_bytes, 256 * MIB);
}

#[test]
fn what_an_event_says_behind_an_answer_comes_after_it_whatever_its_stamp() {
    let mut driver = Driver::attached();
    driver.qemu.as_mut().unwrap().status = "paused";
    driver.feed(Input::Gap);
    driver.settle();
    let answered = states(&driver).pop().unwrap().at;
    let at = at(answered.boottime_ns - 1);
    driver.feed(Input::Event(QemuEvent { name: "RESUME".to_owned(), at, detail: json!({}) }));
    let resumed = states(&driver).pop().unwrap();
    assert_eq!(resumed.change, Change::State(BillingState::Running));
    // Behind it in the meter: the same stamp, no more certain.
    assert_eq!(resumed.at.boottime_ns, answered.boottime_ns);
    assert!(resumed.at.uncertainty_ns >= answered.uncertainty_ns);
}

#[test]
fn a_reset_or_an_end_told_behind_an_answer_comes_after_it_whatever_its_stamp() {
    for name in ["RESET", "SHUTDOWN"] {
        let mut driver = Driver::attached();
        driver.qemu.as_mut().unwrap().devices = vec![device("vm0", 256)];
        driver.feed(Input::Gap);
        driver.settle();
        let answered = driver.observed.last().unwrap().at;
        let at = at(answered.boottime_ns - 1);
        driver.feed(Input::Event(QemuEvent { name: name.to_owned(), at, detail: json!({}) }));
        if name == "SHUTDOWN" {
            driver.exit();
        }
        let last = driver.observed.last().unwrap();
        assert!(matches!(last.change, Change::Plugged(0) | Change::Ended), "{last:?}");
        assert!(last.at.boottime_ns >= answered.boottime_ns, "{name} {last:?} {answered:?}");
        assert!(last.at.boottime_ns - last.at.uncertainty_ns <= at.boottime_ns);
    }
}

#[test]
fn an_end_is_as_certain_as_it_was_told_however_little_is_known_of_the_memory() {
    let mut driver = Driver::attached();
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
    driver.event("SHUTDOWN", json!({}));
    driver.exit();
    let ended = driver.observed.last().unwrap();
    assert_eq!((ended.change, ended.at.uncertainty_ns), (Change::Ended, 0));
}

#[test]
fn a_snapshot_goes_once_it_is_durable_that_nobody_needs_it() {
    for request in [Request::Wake { cold: false }, Request::Destroy { graceful_ms: None }] {
        let mut driver = Driver::hibernated(Method::MappedRam);
        driver.feed(Input::Command(command("c1", request)));
        until(&mut driver, is_after);
        assert!(!driver.log.iter().any(|word| word == "remove consumed snapshot"), "{:#?}", driver.log);
        driver.settle();
        assert!(driver.log.iter().any(|word| word == "remove consumed snapshot"), "{:#?}", driver.log);
    }
}

#[test]
fn whoever_waits_for_an_outcome_that_is_being_recorded_is_answered_though_the_sandbox_ends() {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("c1", Request::Pause { reclaim: false })));
    until(&mut driver, is_after);
    let recording = driver.open.pop_front().unwrap();
    driver.feed(Input::Command(command("c2", Request::Destroy { graceful_ms: None })));
    until(&mut driver, |action| matches!(action, Action::Announce(_, Announcement::Before(..))));
    let token = token_of(&driver.open.pop_front().unwrap()).unwrap();
    driver.feed(Input::Answer(token, Answer::Failed(Refusal::new(Reason::LedgerUnwritable, "full"))));
    driver.exit();
    assert!(!driver.retired);
    driver.answer_well(recording);
    let ids: Vec<&str> = driver.replies.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!((ids, driver.retired), (vec!["c2", "c1"], true));
}

#[test]
fn nothing_becomes_final_while_qemu_may_hold_a_size_back_however_long_it_does_not_answer() {
    let mut driver = Driver::attached();
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
    let sight = |driver: &Driver| driver.sandbox.core().sight().unwrap().0;
    assert_eq!(sight(&driver), Sight::Behind);
    for _ in 0..3 {
        until(&mut driver, is_qmp("query-memory-devices"));
        let token = token_of(&driver.open.pop_front().unwrap()).unwrap();
        driver.feed(Input::Answer(token, Answer::Failed(Refusal::new(Reason::OutcomeUnknown, "hangs"))));
        assert_eq!(sight(&driver), Sight::Behind);
    }
    driver.settle();
    assert_eq!(sight(&driver), Sight::Clear);
}

#[test]
fn a_size_told_after_a_hang_is_uncertain_since_one_was_known_last() {
    let mut driver = Driver::attached();
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
    let known = driver.observed.last().unwrap().at;
    // The question whether it holds one back is asked, and not answered.
    until(&mut driver, is_qmp("query-memory-devices"));
    driver.now_ns += 60_000_000_000;
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 256 * MIB}));
    let late = driver.observed.last().unwrap().at;
    assert_eq!(late.boottime_ns - late.uncertainty_ns, known.boottime_ns);
}

#[test]
fn the_memory_of_a_guest_is_uncertain_up_to_its_shutdown_where_qemu_may_have_held_a_size_back() {
    let mut driver = Driver::attached();
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 0}));
    let known = driver.observed.last().map_or(0, |seen| seen.at.boottime_ns);
    driver.event("SHUTDOWN", json!({}));
    let unseen = &driver.observed[driver.observed.len() - 2];
    assert_eq!(unseen.change, Change::Plugged(0));
    assert!(unseen.at.boottime_ns - unseen.at.uncertainty_ns <= known.max(unseen.at.boottime_ns - 1));
    let stands = driver.observed.last().unwrap();
    assert_eq!((stands.change, stands.cause), (Change::State(BillingState::Paused), Cause::Shutdown));
}

#[test]
fn after_a_restart_sizes_are_known_through_the_last_that_is_not_final() {
    let seen = |ns, uncertainty_ns, change| Observation {
        at: at(ns).uncertain_by(uncertainty_ns),
        change,
        cause: Cause::Resize,
        command: None,
    };
    let pending = [
        seen(10_000_000_000, 0, Change::Plugged(512 * MIB)),
        seen(11_000_000_000, 3_000_000_000, Change::Plugged(256 * MIB)),
    ];
    // QEMU hangs, and its process lives on.
    let sign = LastSign::of(Some(at(30_000_000_000)), None, None, &pending).unwrap();
    assert_eq!(sign.sizes, at(10_000_000_000));
    assert!(sign.told.boottime_ns > 29_000_000_000);
}

#[test]
fn what_qemu_says_is_over_is_looked_at_at_once_whether_it_was_asked_meanwhile_or_not() {
    let active = || Answer::Returned(json!({ "status": "active" }));
    let migration = |status: &str| ("MIGRATION", json!({ "status": status }));
    for asked in [false, true] {
        let mut driver = Driver::attached();
        driver.feed(Input::Command(command("c1", hibernate(Method::MappedRam))));
        until(&mut driver, is_qmp("query-migrate"));
        let token = token_of(&driver.open.pop_front().unwrap()).unwrap();
        let tell = |driver: &mut Driver| {
            for (name, detail) in [migration("active"), migration("completed")] {
                driver.event(name, detail);
            }
        };
        if asked {
            tell(&mut driver);
        }
        driver.feed(Input::Answer(token, active()));
        if !asked {
            assert!(matches!(driver.open.front(), Some(Action::Wait(..))), "{:?}", driver.open);
            tell(&mut driver);
        }
        let next = driver.open.pop_back().unwrap();
        assert!(is_qmp("query-migrate")(&next), "asked meanwhile: {asked}: {next:?}");
    }
}

#[test]
fn an_agent_that_is_killed_once_it_has_told_qemu_to_stop_or_to_go_knows_through_when_the_guest_ran() {
    let destroy = Request::Destroy { graceful_ms: None };
    let told = [
        (pause(), "stop"),
        (hibernate(Method::Shared), "stop"),
        (destroy, "quit"),
        (Request::PowerCycle, "quit"),
    ];
    for (request, told) in told {
        let mut driver = Driver::attached();
        driver.now_ns += 60_000_000_000;
        // A pause asks while its intent is being recorded.
        let ahead = matches!(request, Request::Pause { .. });
        driver.feed(Input::Command(command("c1", request)));
        let begun = driver.now();
        until(&mut driver, is_qmp("query-memory-devices"));
        let asked = if ahead { begun } else { driver.now() };
        until(&mut driver, is_qmp(told));
        let proof = asked.earlier_by(900_000_000);
        let sign = LastSign::of(Some(proof), Some(proof), None, &driver.observed).unwrap();
        assert_eq!((sign.told, sign.at), (asked, asked), "{told}");
    }
}

#[test]
fn whether_a_guest_ran_when_it_was_asked_for_its_memory_is_not_said_where_events_were_missed_or_somebody_continued_it()
 {
    for resumed in [false, true] {
        let mut driver = Driver::attached();
        driver.feed(Input::Command(command("c1", pause())));
        until(&mut driver, is_qmp("query-memory-devices"));
        if resumed {
            driver.event("RESUME", json!({}));
        } else {
            driver.feed(Input::Gap);
        }
        until(&mut driver, is_qmp("stop"));
        assert_eq!(states(&driver), Vec::<&Observation>::new());
    }
}

#[test]
fn a_survey_that_arrives_behind_a_stop_does_not_say_again_that_the_guest_runs() {
    let mut driver = Driver::attached();
    driver.qemu.as_mut().unwrap().devices = vec![device("vm0", 256)];
    driver.feed(Input::Gap);
    driver.settle();
    let answered = driver.observed.last().unwrap().at;
    // QEMU had been asked how the guest is before somebody stopped it.
    let stopped = at(answered.boottime_ns - 1);
    driver.feed(Input::Event(QemuEvent { name: "STOP".to_owned(), at: stopped, detail: json!({}) }));
    let says_it_runs = |seen: &&Observation| {
        matches!(seen.change, Change::Holds(_, BillingState::Running) | Change::State(BillingState::Running))
    };
    let after = |seen: &&Observation| seen.at.boottime_ns > stopped.boottime_ns;
    assert_eq!(driver.observed.iter().filter(says_it_runs).find(after), None);
    assert_eq!(states(&driver).pop().map(|seen| seen.at), Some(stopped));
}

#[test]
fn what_is_unknown_of_the_memory_at_an_end_is_as_uncertain_however_often_it_is_said() {
    let mut driver = Driver::attached();
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
    driver.event("SHUTDOWN", json!({}));
    let unseen = |driver: &Driver| {
        let plugged = driver.observed.iter().filter(|seen| seen.change == Change::Plugged(0));
        plugged.map(|seen| seen.at).collect::<Vec<_>>()
    };
    let first = unseen(&driver);
    // A question that was on its way says what there was shortly before.
    driver.sandbox.core.memory_known = Some(at(first[0].boottime_ns - 1));
    driver.exit();
    assert_eq!(unseen(&driver), [first[0], first[0]]);
}

#[test]
fn a_wait_in_which_the_host_slept_is_made_good_before_qemu_is_believed_to_hold_nothing_back() {
    let mut driver = Driver::attached();
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
    driver.now_ns += 1_000_000_000;
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 256 * MIB}));
    let Some(Action::Wait(token, ms)) = driver.open.pop_front() else { panic!("{:?}", driver.open) };
    // Of the wait half is over when the host sleeps for a minute.
    driver.now_ns += (ms - 1_001) * 1_000_000 + 60_000_000_000;
    driver.feed(Input::Slept(60_000_000_000));
    driver.feed(Input::Answer(token, Answer::Elapsed));
    let Some(Action::Wait(_, ms)) = driver.open.pop_front() else { panic!("{:#?}", driver.log) };
    assert!((990..1_100).contains(&ms), "{ms}");
    assert_eq!(driver.sandbox.core().sight().unwrap().0, Sight::Behind);
}

#[test]
fn qemu_is_asked_whether_it_holds_a_size_back_a_second_after_the_last_whatever_was_missed_before() {
    for heard_s in [60, 0] {
        let mut driver = Driver::attached();
        driver.feed(Input::Gap);
        driver.settle();
        driver.now_ns += heard_s * 1_000_000_000;
        driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
        let Some(Action::Wait(_, ms)) = driver.open.pop_front() else { panic!("{:?}", driver.open) };
        assert_eq!(ms, 1_100);
    }
}

#[test]
fn a_second_after_what_was_missed_is_asked_for_is_waited_for_what_that_may_hold_back() {
    let mut driver = Driver::attached();
    driver.settle();
    driver.now_ns += 60_000_000_000;
    driver.feed(Input::Gap);
    let survey = driver.open.pop_front().unwrap();
    driver.answer_well(survey);
    let waits = driver.open.iter().filter_map(|action| match action {
        Action::Wait(_, ms) => Some(*ms),
        _ => None,
    });
    let waits: Vec<u64> = waits.collect();
    assert!(matches!(waits[..], [1_090..=1_100]), "{waits:?}");
}

#[test]
fn what_is_told_while_qemu_is_being_connected_to_may_hold_the_next_size_back_for_a_second_from_then() {
    let mut driver = Driver::attached();
    driver.settle();
    driver.feed(Input::Disconnected);
    let connect = driver.open.pop_front().unwrap();
    assert!(matches!(connect, Action::Connect(..)), "{connect:?}");
    // It takes a second until somebody is there to hear what is told.
    driver.now_ns += 1_000_000_000;
    driver.answer_well(connect);
    let waited = driver.open.iter().find_map(|action| match action {
        Action::Wait(_, ms) => Some(*ms),
        _ => None,
    });
    assert!(matches!(waited, Some(1_090..=1_100)), "{waited:?}");
}

#[test]
fn an_answer_that_an_event_has_overtaken_is_asked_for_again_where_the_two_differ() {
    let mut driver = Driver::attached();
    // STOP is among what was missed; a RESUME from before it is still on its way.
    driver.feed(Input::Gap);
    driver.event("RESUME", json!({}));
    driver.qemu.as_mut().unwrap().status = "paused";
    driver.settle();
    assert_eq!(driver.sandbox.core().state, BillingState::Paused);
}

#[test]
fn what_a_connection_that_was_given_up_has_still_to_tell_does_not_outdo_what_is_asked_over_the_next() {
    let mut driver = Driver::attached();
    driver.feed(Input::Gap);
    let survey = driver.open.pop_front().unwrap();
    let slow = Refusal::new(Reason::OutcomeUnknown, "no answer by the deadline");
    driver.feed(Input::Answer(token_of(&survey).unwrap(), Answer::Failed(slow)));
    // It was sent before the STOP that is lost with the connection.
    driver.event("RESUME", json!({}));
    driver.qemu.as_mut().unwrap().status = "paused";
    driver.settle();
    assert_eq!(driver.sandbox.core().state, BillingState::Paused);
}
