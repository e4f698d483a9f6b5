//! The admission table of `machine::admission`, cell by cell, and what a command meets beside another.

use dormouse_metering::{BillingState, Fault};

use super::driver::{Driver, attach, command, create, hibernate, key, pause, resume, scale, suppress};
use crate::sandbox::command::{Command, Method, Request};
use crate::sandbox::machine::admission::{Verdict, admit};
use crate::sandbox::machine::{Core, Link, Phase, Settings};
use crate::sandbox::refusal::Reason;

const FAULTED: BillingState = BillingState::Faulted(Fault::IoError);

/// The columns: New, running, paused, faulted, Hibernated, Ended.
const COLUMNS: [(Phase, BillingState); 6] = [
    (Phase::New, BillingState::Running),
    (Phase::Attached, BillingState::Running),
    (Phase::Attached, BillingState::Paused),
    (Phase::Attached, FAULTED),
    (Phase::Hibernated, BillingState::Hibernated),
    (Phase::Ended, BillingState::Running),
];

fn rows() -> [(Request, [bool; 6]); 14] {
    let (yes, no) = (true, false);
    [
        (attach(), [yes, yes, yes, yes, yes, no]),
        (Request::Detach, [no, yes, yes, yes, no, no]),
        (scale(512), [no, yes, no, no, no, no]),
        (pause(), [no, yes, yes, no, no, no]),
        (resume(), [no, yes, yes, yes, no, no]),
        (hibernate(Method::Shared), [no, yes, yes, no, no, no]),
        (Request::Wake { cold: false }, [no, no, no, no, yes, no]),
        (Request::Reboot, [no, yes, yes, yes, no, no]),
        (suppress(), [no, yes, yes, yes, yes, no]),
        (Request::Unsuppress, [no, yes, yes, yes, yes, no]),
        (Request::Destroy { graceful_ms: None }, [no, yes, yes, yes, yes, no]),
        (Request::Destroy { graceful_ms: Some(1) }, [no, yes, yes, yes, yes, no]),
        (create(), [yes, no, no, no, no, no]),
        (Request::PowerCycle, [no, yes, yes, yes, no, no]),
    ]
}

fn core(phase: Phase, state: BillingState) -> Core {
    let mut core = Core::new(key(), "/run/dormouse/sb-1.qmp".into(), Settings::default());
    (core.phase, core.state, core.link) = (phase, state, Link::Up);
    core
}

fn begun(request: Request) -> Command {
    command("first", request)
}

#[test]
fn every_cell_of_the_admission_table_is_as_documented() {
    for (request, row) in rows() {
        for ((phase, state), begins) in COLUMNS.into_iter().zip(row) {
            let verdict = admit(&core(phase, state), None, &begun(request.clone()));
            assert_eq!(verdict == Verdict::Accept, begins, "{} when {phase:?} {state}", request.kind());
        }
    }
}

#[test]
fn without_qmp_nothing_begins_on_an_attached_sandbox_but_what_needs_none() {
    for (request, _) in rows().into_iter().skip(1) {
        let mut core = core(Phase::Attached, BillingState::Running);
        core.link = Link::None;
        let begins = admit(&core, None, &begun(request.clone())) == Verdict::Accept;
        let allowed = matches!(
            request,
            Request::Detach | Request::Destroy { .. } | Request::Suppress { .. } | Request::Unsuppress
        );
        assert_eq!(begins, allowed, "{}", request.kind());
    }
}

#[test]
fn beside_another_the_same_joins_another_payload_is_refused_and_destroy_overtakes_all_that_has_a_qemu() {
    let core = core(Phase::Attached, BillingState::Running);
    for (under_way, _) in rows() {
        let other = begun(under_way.clone());
        assert_eq!(admit(&core, Some(&other), &other), Verdict::Join);
        for (request, _) in rows() {
            let reused = admit(&core, Some(&other), &begun(request.clone()));
            if request != under_way {
                assert!(matches!(reused, Verdict::Deny(why) if why.reason == Reason::RequestIdReused));
            }
            let overtakes = match (&request, &under_way) {
                (Request::Destroy { graceful_ms: None }, Request::Destroy { graceful_ms: Some(_) }) => true,
                (_, Request::Destroy { .. } | Request::Attach { .. } | Request::Create { .. }) => false,
                (request, _) => matches!(request, Request::Destroy { .. }),
            };
            match admit(&core, Some(&other), &command("second", request.clone())) {
                Verdict::Overtake => assert!(overtakes, "{}", under_way.kind()),
                Verdict::Deny(why) => {
                    assert!(!overtakes);
                    assert_eq!(why.reason, Reason::OperationUnderWay);
                }
                verdict => panic!("{verdict:?}"),
            }
        }
    }
}

#[test]
fn what_is_so_already_is_unchanged_and_tells_qemu_nothing() {
    let mut driver = Driver::attached();
    driver.execute("c1", resume()).unwrap();
    driver.execute("c2", scale(256)).unwrap();
    assert!(!driver.log.iter().any(|word| word == "cont" || word == "qom-set"), "{:?}", driver.log);
}
