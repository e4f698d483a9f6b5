//! Create, power-cycle and a graceful destroy: what is done in which order, and what is left where it fails.

use dormouse_metering::{BillingState, Cause, Change};
use serde_json::json;

use super::driver::{Driver, MIB, Qemu, create, identity, scale, token_of};
use super::paths::done;
use crate::sandbox::command::{Method, Request, Scaling};
use crate::sandbox::machine::{
    Action, Announcement, Answer, Core, Input, Phase, Recovered, Sandbox, Settings, Token,
};
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
    ask(&mut driver, Request::Wake { cold: false });
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
    driver.execute("c2", Request::Wake { cold: false }).unwrap();
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

/// One that is limited to a quarter of its two vCPUs.
fn limited() -> Driver {
    let mut driver = Driver::attached();
    let vcpus = Scaling { vcpus_milli: Some(500), ..Scaling::default() };
    driver.execute("limit", Request::Scale(vcpus)).unwrap();
    driver
}

/// The words of a log that are about CPU time, and when the guest goes on.
fn about_cpu_time(driver: &Driver) -> Vec<&str> {
    let of_it =
        |word: &&str| word.starts_with("limit") || word.starts_with("observe vcpus") || *word == "cont";
    driver.log.iter().map(String::as_str).filter(of_it).collect()
}

#[test]
fn a_limit_on_cpu_time_is_set_again_before_the_guest_of_another_qemu_goes_on() {
    for asleep in [true, false] {
        let mut driver = limited();
        if asleep {
            driver.execute("sleep", super::driver::hibernate(Method::Shared)).unwrap();
        }
        driver.log.clear();
        driver.observed.clear();
        let request = if asleep { Request::Wake { cold: false } } else { Request::PowerCycle };
        let outcome = driver.execute("c1", request).unwrap();
        assert!(!outcome.message.contains("limited"), "{}", outcome.message);
        assert_eq!(about_cpu_time(&driver), ["limit Some(500)", "cont"], "{:?}", driver.log);
        let core = driver.sandbox.core();
        assert_eq!(core.shape.vcpus_milli, 500);
        assert_eq!(core.survey.as_ref().unwrap().vcpu_limit_milli, Ok(Some(500)));
    }
}

#[test]
fn a_guest_that_somebody_continued_before_it_was_limited_may_have_had_more_until_then_and_the_bill_says_so() {
    let taken = || Answer::VcpusLimited(Some(500));
    let refused = || Answer::Failed(Refusal::new(Reason::CgroupUnsuitable, "it is shared"));
    for (asleep, answer) in [(true, taken()), (false, taken()), (false, refused())] {
        let mut driver = limited();
        if asleep {
            driver.execute("sleep", super::driver::hibernate(Method::Shared)).unwrap();
        }
        ask(&mut driver, if asleep { Request::Wake { cold: false } } else { Request::PowerCycle });
        if !asleep {
            until(&mut driver, |action| matches!(action, Action::Wait(..)));
            driver.exit();
        }
        let told = until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)));
        let asked_ns = driver.now_ns;
        driver.observed.clear();
        driver.event("RESUME", json!({}));
        driver.now_ns += 100_000_000;
        driver.feed(Input::Answer(token_of(&told).unwrap(), answer));
        driver.settle();
        let marked = driver.observed.iter().find(|seen| seen.change == Change::Mark).expect("a word");
        assert!(marked.at.boottime_ns - marked.at.uncertainty_ns <= asked_ns + 1_000_000, "{marked:?}");
        assert!(marked.at.boottime_ns > asked_ns + 50_000_000, "{marked:?}");
    }
}

#[test]
fn a_limit_that_cannot_be_set_again_is_not_billed_and_the_outcome_says_so() {
    for (asleep, next) in [(true, Ok(None)), (false, Ok(None)), (true, Err("denied".to_owned()))] {
        let mut driver = limited();
        if asleep {
            driver.execute("sleep", super::driver::hibernate(Method::Shared)).unwrap();
        }
        driver.log.clear();
        ask(&mut driver, if asleep { Request::Wake { cold: false } } else { Request::PowerCycle });
        if !asleep {
            until(&mut driver, |action| matches!(action, Action::Wait(..)));
            driver.exit();
        }
        let start = until(&mut driver, |action| matches!(action, Action::Launch(..) | Action::Start(..)));
        driver.answer_well(start);
        driver.qemu.as_mut().unwrap().vcpu_limit_milli = next;
        let Action::LimitVcpus(token, _) =
            until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)))
        else {
            panic!()
        };
        let refusal = Refusal::new(Reason::CgroupUnsuitable, "it is shared");
        driver.feed(Input::Answer(token, Answer::Failed(refusal)));
        driver.settle();
        let outcome = driver.replies.last().cloned().unwrap().1.unwrap();
        assert!(outcome.message.contains("it is shared [CGROUP_UNSUITABLE]"), "{}", outcome.message);
        assert_eq!(driver.sandbox.core().shape.vcpus_milli, 2000);
        let cut = driver.observed.iter().rposition(|seen| match seen.change {
            Change::Vcpus(milli) => milli == 2000,
            Change::Holds(shape, _) => shape.vcpus_milli == 2000,
            _ => false,
        });
        let runs =
            driver.observed.iter().rposition(|seen| seen.change == Change::State(BillingState::Running));
        assert!(cut < runs && cut.is_some(), "{:#?}", driver.observed);
    }
}

#[test]
fn what_is_found_while_the_next_qemu_is_being_limited_is_of_that_one_and_not_of_the_one_before() {
    let refused = Refusal::new(Reason::CgroupUnsuitable, "it is shared");
    let unknown = Refusal::new(Reason::OutcomeUnknown, "cannot be read");
    let unreadable = || Err("denied".to_owned());
    for (found, refusal, billed_milli) in
        [(unreadable(), refused.clone(), 2000), (Ok(None), refused, 2000), (Ok(None), unknown, 500)]
    {
        let mut driver = limited();
        ask(&mut driver, Request::PowerCycle);
        until(&mut driver, |action| matches!(action, Action::Wait(..)));
        driver.exit();
        let told = until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)));
        driver.qemu.as_mut().unwrap().vcpu_limit_milli = found;
        driver.feed(Input::Disconnected);
        let connect = until(&mut driver, |action| matches!(action, Action::Connect(..)));
        driver.answer_well(connect);
        driver.qemu.as_mut().unwrap().vcpu_limit_milli = unreadable();
        driver.feed(Input::Answer(token_of(&told).unwrap(), Answer::Failed(refusal)));
        driver.settle();
        assert_eq!(driver.sandbox.core().state, BillingState::Running);
        assert_eq!(driver.sandbox.core().shape.vcpus_milli, billed_milli);
    }
}

#[test]
fn what_had_no_limit_gets_none_from_another_qemu_and_what_has_a_tighter_one_keeps_it() {
    let mut driver = Driver::attached();
    driver.execute("c1", Request::PowerCycle).unwrap();
    assert_eq!(about_cpu_time(&driver), ["cont"]);
    let mut driver = limited();
    driver.execute("sleep", super::driver::hibernate(Method::Shared)).unwrap();
    driver.log.clear();
    ask(&mut driver, Request::Wake { cold: false });
    let launch = until(&mut driver, |action| matches!(action, Action::Launch(..)));
    driver.answer_well(launch);
    driver.qemu.as_mut().unwrap().vcpu_limit_milli = Ok(Some(250));
    driver.settle();
    assert_eq!(about_cpu_time(&driver), ["observe vcpus 250", "cont"]);
}

/// A power-cycle of one that was limited, taken up by an agent that finds its next QEMU so and without the limit.
fn taken_up_before_the_limit(status: &'static str) -> Driver {
    let before = limited();
    let core = before.sandbox.core();
    let mut recovered = Core::new(super::driver::key(), core.qmp_path.clone(), Settings::default());
    (recovered.phase, recovered.generation, recovered.shape) = (Phase::Attached, 7, core.shape);
    (recovered.state, recovered.started) = (BillingState::Paused, true);
    recovered.process = Some(identity(200));
    let unfinished = vec![super::driver::command("c1", Request::PowerCycle)];
    let recovered = Recovered {
        core: recovered,
        unfinished,
        saved: None,
        ran: true,
        last_sign: None,
        plugged_by_device: None,
    };
    let (sandbox, actions) = Sandbox::recover_from(recovered, before.now(), true);
    let mut qemu = Qemu::new(200);
    qemu.status = status;
    let mut driver = Driver::of(sandbox, Some(qemu));
    driver.take(actions);
    driver
}

#[test]
fn a_power_cycle_that_a_restart_of_the_agent_interrupts_before_the_limit_sets_it_all_the_same() {
    let mut driver = taken_up_before_the_limit("paused");
    driver.settle();
    assert!(driver.replies[0].1.is_ok(), "{:?}", driver.replies);
    let words = about_cpu_time(&driver);
    assert!(words.ends_with(&["limit Some(500)", "cont"]), "{words:?}");
    assert_eq!(driver.sandbox.core().shape.vcpus_milli, 500);
}

#[test]
fn a_guest_that_runs_already_while_a_power_cycle_limits_it_is_billed_the_lesser_since_that_was_asked_for() {
    let mut driver = taken_up_before_the_limit("running");
    let told = until(&mut driver, |action| matches!(action, Action::LimitVcpus(..)));
    let asked_ns = driver.now_ns;
    driver.now_ns += 100_000_000;
    driver.answer_well(told);
    let limited = driver.observed.iter().find(|seen| match seen.change {
        Change::Holds(shape, _) => shape.vcpus_milli == 500,
        _ => false,
    });
    let limited = limited.expect("the lesser");
    assert!(limited.at.boottime_ns - limited.at.uncertainty_ns <= asked_ns, "{limited:?}");
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
        line.argv = line.argv.iter().chain(["-netdev", "tap,id=n0,fd=3"]).collect();
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
