//! Each operation's way when all goes well: exactly these actions, in this order.

use dormouse_metering::{BillingState, Change};
use serde_json::json;

use super::driver::{Driver, MIB, command, hibernate, pause, resume, scale, token_of, until};
use crate::sandbox::command::{CommandResult, Method, Outcome, Request};
use crate::sandbox::machine::{Action, Announcement, Answer, Input, Phase};
use crate::sandbox::refusal::{Reason, Refusal};

/// What was done but for what watchers are told.
pub(super) fn done(driver: &Driver) -> Vec<&str> {
    driver.log.iter().map(String::as_str).filter(|word| *word != "publish").collect()
}

#[test]
fn attach_connects_records_and_replies() {
    let mut driver = Driver::new();
    driver.execute("c1", super::driver::attach()).unwrap();
    assert_eq!(done(&driver), ["connect", "attached", "wait", "reply ok", "query-memory-devices", "wait"]);
}

#[test]
fn m7_a_scale_is_durable_before_qemu_is_told_and_before_the_reply() {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("c1", scale(1280))));
    assert_eq!(done(&driver), ["before"], "nothing else before that is durable");
    until(&mut driver, |action| matches!(action, Action::Announce(_, Announcement::After(..))));
    assert_eq!(driver.replies.len(), 0);
    driver.settle();
    assert_eq!(driver.replies.remove(0).1.unwrap().result, CommandResult::Done);
    let expected = [
        "before",
        "promise 1024",
        "qom-set",
        // Until QEMU can hold no size back.
        "wait",
        "observe plugged 1024",
        "observe requested 1024",
        "after",
        // The question that settles it: nobody waits for it.
        "query-memory-devices",
        "wait",
        "reply ok",
    ];
    assert_eq!(done(&driver), expected);
}

#[test]
fn pause_asks_for_the_memory_before_it_stops_the_guest() {
    let mut driver = Driver::attached();
    driver.execute("c1", pause()).unwrap();
    let expected =
        ["before", "query-memory-devices", "observe running", "stop", "observe paused", "after", "reply ok"];
    assert_eq!(done(&driver), expected);
    driver.log.clear();
    driver.execute("c2", resume()).unwrap();
    assert_eq!(done(&driver), ["before", "cont", "observe running", "after", "reply ok"]);
}

/// A pause, its intent and its question still without an answer.
fn pausing() -> (Driver, Action, Action) {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("c1", pause())));
    let (intent, question) = (driver.open.pop_front().unwrap(), driver.open.pop_front().unwrap());
    assert!(matches!(intent, Action::Announce(_, Announcement::Before(..))), "{intent:?}");
    assert_eq!(done(&driver), ["before", "query-memory-devices"]);
    (driver, intent, question)
}

#[test]
fn pause_asks_for_the_memory_while_its_intent_is_recorded_and_tells_nothing_before_both_are_there() {
    let way =
        ["before", "query-memory-devices", "observe running", "stop", "observe paused", "after", "reply ok"];
    for durable_first in [true, false] {
        let (mut driver, intent, question) = pausing();
        let (first, second) = if durable_first { (intent, question) } else { (question, intent) };
        driver.answer_well(first);
        let so_far = if durable_first { 2 } else { 3 };
        assert_eq!(done(&driver), way[..so_far], "durable first: {durable_first}");
        driver.answer_well(second);
        driver.settle();
        assert_eq!(done(&driver), way, "durable first: {durable_first}");
    }
}

#[test]
fn pause_asks_for_the_memory_again_where_its_intent_took_long_or_the_first_question_failed() {
    let asked = ["query-memory-devices", "observe running"].as_slice();
    let told = ["stop", "observe paused", "after", "reply ok"].as_slice();
    for fails in [true, false] {
        let (mut driver, intent, question) = pausing();
        if fails {
            let refusal = Refusal::new(Reason::QmpUnreachable, "gone for a moment");
            driver.feed(Input::Answer(token_of(&question).unwrap(), Answer::Failed(refusal)));
        } else {
            driver.answer_well(question);
            driver.now_ns += 10_000_000;
        }
        driver.answer_well(intent);
        driver.settle();
        let first = if fails { &asked[..1] } else { asked };
        assert_eq!(done(&driver), [&["before"], first, asked, told].concat(), "fails: {fails}");
    }
}

#[test]
fn a_request_id_that_comes_again_with_something_else_is_refused_to_whoever_brought_it_alone() {
    let (mut driver, intent, question) = pausing();
    driver.feed(Input::Command(command("c1", Request::Reboot)));
    assert_eq!(done(&driver), ["before", "query-memory-devices", "refuse"]);
    driver.answer_well(intent);
    driver.answer_well(question);
    driver.settle();
    assert_eq!(done(&driver)[3..], ["observe running", "stop", "observe paused", "after", "reply ok"]);
}

#[test]
fn hibernate_records_the_snapshot_before_qemu_goes() {
    for (method, saving) in [
        (
            Method::Shared,
            ["write out shared", "migrate-set-capabilities", "migrate", "query-migrate"].as_slice(),
        ),
        (Method::MappedRam, &["migrate-set-capabilities", "migrate", "query-migrate"]),
        (Method::Internal, &["migrate-set-capabilities", "snapshot-save", "query-jobs", "job-dismiss"]),
    ] {
        let mut driver = Driver::attached();
        driver.execute("c1", hibernate(method)).unwrap();
        let before = [
            "before",
            "prepare snapshot",
            "query-memory-devices",
            "observe running",
            "stop",
            "observe hibernating",
            "query-memory-devices",
        ];
        let after = ["write snapshot", "saved", "quit", "wait", "observe hibernated", "after", "reply ok"];
        let expected: Vec<&str> = [before.as_slice(), saving, after.as_slice()].concat();
        assert_eq!(done(&driver), expected, "{method:?}");
    }
}

#[test]
fn a_state_that_holds_the_ram_is_written_out_at_every_look_while_qemu_writes_it() {
    let mut driver = Driver::attached();
    driver.feed(Input::Command(command("c1", hibernate(Method::MappedRam))));
    for _ in 0..2 {
        until(&mut driver, |action| matches!(action, Action::Qmp(_, qmp) if qmp.name == "query-migrate"));
        let asked = token_of(&driver.open.pop_front().unwrap()).unwrap();
        driver.feed(Input::Answer(asked, Answer::Returned(json!({"status": "active"}))));
    }
    driver.settle();
    let done = done(&driver);
    let look = ["query-migrate", "wait", "write out mapped-ram"];
    let written = [look, look].concat();
    let begun = done.iter().position(|word| *word == "query-migrate").unwrap();
    assert_eq!(done[begun..begun + 8], [&written, ["query-migrate", "write snapshot"].as_slice()].concat());
}

#[test]
fn m4_a_woken_sandbox_is_billed_after_cont_with_the_memory_that_qemu_reports() {
    for method in [Method::Shared, Method::Internal] {
        let mut driver = Driver::hibernated(method);
        driver.execute("c1", Request::Wake { cold: false }).unwrap();
        let done = done(&driver);
        let place = |word: &str| {
            done.iter().position(|done| *done == word).unwrap_or_else(|| panic!("{word} {done:?}"))
        };
        assert!(place("verify snapshot") < place("promise 256"));
        assert!(place("promise 256") < place("launch"));
        assert!(place("launch") < place("query-memory-devices"));
        assert!(place("query-memory-devices") < place("cont"));
        assert!(place("cont") < place("observe running"));
        assert!(place("observe running") < place("after"));
        assert!(place("after") < place("reply ok"));
    }
}

#[test]
fn a_cold_start_loads_nothing_and_gives_up_first_only_what_the_next_qemu_overwrites() {
    for method in [Method::Shared, Method::MappedRam, Method::Internal] {
        let mut driver = Driver::attached();
        driver.execute("grow", scale(1280)).unwrap();
        driver.execute("sleep", hibernate(method)).unwrap();
        driver.log.clear();
        driver.feed(Input::Command(command("c1", Request::Wake { cold: true })));
        until(&mut driver, |action| matches!(action, Action::Launch(..)));
        let Some(Action::Launch(_, launch)) = driver.open.front() else { panic!() };
        assert_eq!(launch.arguments, ["-S"], "{method:?}");
        let given_up = done(&driver).contains(&"give up snapshot");
        assert_eq!(given_up, method == Method::Shared, "{:?}", driver.log);
        driver.settle();
        let outcome = driver.replies.last().unwrap().1.clone().unwrap();
        assert!(outcome.message.contains("from the beginning"), "{}", outcome.message);
        let done = done(&driver);
        assert!(done.contains(&"promise 256"), "the memory of the snapshot is asked for: {done:?}");
        assert!(!done.contains(&"verify snapshot") && !done.contains(&"migrate-incoming"), "{done:?}");
        let core = driver.sandbox.core();
        let shape = core.shape;
        assert_eq!((shape.memory_plugged_bytes, shape.memory_requested_bytes), (0, 0), "{method:?}");
        assert_eq!((core.phase, core.state), (Phase::Attached, BillingState::Running));
    }
}

#[test]
fn m4_the_shape_from_before_a_command_is_told_before_the_command_changes_it() {
    let mut driver = Driver::attached();
    // Plugged by somebody else, and QEMU's event is still on its way.
    if let Some(qemu) = driver.qemu.as_mut() {
        (qemu.devices[0].size_bytes, qemu.devices[0].requested_bytes) = (512 * MIB, 512 * MIB);
    }
    driver.execute("c1", pause()).unwrap();
    let changes: Vec<Change> = driver.observed.iter().map(|observation| observation.change).collect();
    let plugged = changes.iter().position(|change| *change == Change::Plugged(512 * MIB)).unwrap();
    let paused = changes.iter().position(|change| *change == Change::State(BillingState::Paused)).unwrap();
    assert!(plugged < paused, "{changes:?}");
}

#[test]
fn destroy_asks_for_the_memory_quits_and_waits_for_the_exit() {
    let mut driver = Driver::attached();
    driver.execute("c1", Request::Destroy { graceful_ms: None }).unwrap();
    let expected = [
        "before",
        "query-memory-devices",
        "observe running",
        "quit",
        "observe paused",
        "wait",
        "observe ended",
        "remove snapshot",
        "after",
        "reply ok",
        "retire",
    ];
    assert_eq!(done(&driver), expected);
}

#[test]
fn reboot_is_believed_when_reset_comes_and_a_second_reset_cuts_nothing() {
    let mut driver = Driver::attached();
    driver.execute("c1", Request::Reboot).unwrap();
    assert_eq!(
        done(&driver),
        [
            "before",
            "system_reset",
            "query-memory-devices",
            "wait",
            "query-memory-devices",
            "wait",
            "after",
            "reply ok"
        ]
    );
}

#[test]
fn a_suppression_asks_nothing_of_qemu_and_stays_through_what_becomes_of_the_guest() {
    let mut driver = Driver::attached();
    driver.execute("c1", super::driver::suppress()).unwrap();
    assert_eq!(done(&driver), ["before", "observe suppressed", "after", "reply ok"]);
    driver.log.clear();
    let again = driver.execute("c2", super::driver::suppress()).unwrap();
    assert_eq!(again.result, CommandResult::Unchanged);
    assert_eq!(done(&driver), ["before", "after", "reply ok"]);
    driver.execute("c3", pause()).unwrap();
    driver.execute("c4", hibernate(Method::MappedRam)).unwrap();
    assert_eq!(driver.sandbox.core().suppressed.as_deref(), Some("moving house"));
    driver.log.clear();
    driver.execute("c5", Request::Unsuppress).unwrap();
    assert_eq!(done(&driver), ["before", "observe billed", "after", "reply ok"]);
    assert_eq!(driver.sandbox.core().suppressed, None);
}

#[test]
fn detach_asks_for_the_memory_ends_the_metering_and_changes_nothing_in_qemu() {
    let mut driver = Driver::attached();
    driver.execute("c1", Request::Detach).unwrap();
    let expected =
        ["before", "query-memory-devices", "observe ended", "disconnect", "after", "reply ok", "retire"];
    assert_eq!(done(&driver), expected);
}

#[test]
fn nobody_but_who_asks_hears_of_a_request_that_was_made_before_or_that_the_ledger_does_not_take() {
    let done = Outcome { result: CommandResult::Done, message: "it was paused".to_owned() };
    let refusal = Refusal::new(Reason::LedgerUnwritable, "full");
    for (answer, told) in [(Answer::Replayed(Ok(done)), "replay"), (Answer::Failed(refusal), "reply refused")]
    {
        let mut driver = Driver::attached();
        driver.log.clear();
        driver.feed(Input::Command(command("c1", pause())));
        let intent = token_of(&driver.open.pop_front().unwrap()).unwrap();
        driver.feed(Input::Answer(intent, answer));
        assert_eq!(driver.log, ["before", "query-memory-devices", told]);
    }
    let mut driver = Driver::attached();
    driver.log.clear();
    driver.execute("c1", pause()).unwrap();
    let place = |name: &str| driver.log.iter().position(|word| word == name).unwrap();
    assert!(place("publish") < place("stop"));
}
