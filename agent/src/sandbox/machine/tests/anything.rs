//! Whatever is answered, fails, happens or dies, in whatever order: every accepted command gets exactly one reply,
//! QEMU is told nothing that is not durable, and nothing dead is billed.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_metering::{BillingState, Change};
use proptest::prelude::*;
use serde_json::json;

use super::driver::{BASE, Driver, GIB, MIB, attach, command, create, hibernate, scale, token_of};
use crate::sandbox::command::{Method, Request, Scaling};
use crate::sandbox::machine::{Action, Announcement, Answer, Input, Phase};
use crate::sandbox::refusal::{Reason, Refusal};

#[derive(Clone, Debug)]
enum Turn {
    Ask(Request),
    Again,
    Answer(usize),
    Fail(usize, Reason),
    Tell(&'static str, u64),
    Drop,
    Gap,
    Exit,
}

fn requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(attach()),
        Just(Request::Detach),
        (0..6_u64).prop_map(|n| scale(256 + n * 256)),
        (0..3_u64, 0..3_u32).prop_map(|(gib, halves)| {
            Request::Scale(Scaling {
                memory_bytes: (gib > 0).then_some(BASE + gib * 512 * MIB),
                vcpus_milli: (halves > 0).then_some(halves * 500),
                disks: [("d0".to_owned(), gib * GIB)].into(),
                force: false,
            })
        }),
        any::<bool>().prop_map(|reclaim| Request::Pause { reclaim }),
        any::<bool>().prop_map(|prefetch| Request::Resume { prefetch }),
        prop::sample::select(vec![Method::Shared, Method::MappedRam, Method::Internal]).prop_map(hibernate),
        any::<bool>().prop_map(|cold| Request::Wake { cold }),
        Just(Request::Reboot),
        Just(super::driver::suppress()),
        Just(Request::Unsuppress),
        Just(Request::Destroy { graceful_ms: None }),
        Just(Request::Destroy { graceful_ms: Some(500) }),
        Just(Request::PowerCycle),
    ]
}

fn turns() -> impl Strategy<Value = Turn> {
    let reasons =
        vec![Reason::QemuFailed, Reason::OutcomeUnknown, Reason::QmpUnreachable, Reason::LedgerUnwritable];
    let events = vec!["STOP", "RESUME", "RESET", "SHUTDOWN", "MEMORY_DEVICE_SIZE_CHANGE"];
    prop_oneof![
        4 => requests().prop_map(Turn::Ask),
        1 => Just(Turn::Again),
        24 => (0..2_usize).prop_map(Turn::Answer),
        3 => (0..2_usize, prop::sample::select(reasons)).prop_map(|(n, reason)| Turn::Fail(n, reason)),
        2 => (prop::sample::select(events), 0..4_u64).prop_map(|(name, n)| Turn::Tell(name, n)),
        1 => Just(Turn::Drop),
        1 => Just(Turn::Gap),
        1 => Just(Turn::Exit),
    ]
}

/// Watches what must hold at every step.
#[derive(Default)]
struct Watch {
    asked: BTreeMap<String, usize>,
    /// The commands whose intents are durable.
    durable: BTreeSet<String>,
    seen: usize,
}

const CHANGES_NOTHING: [&str; 6] =
    ["query-status", "query-memory-devices", "query-block", "query-jobs", "query-migrate", "query-version"];

impl Watch {
    fn look(&mut self, driver: &Driver) {
        let underway = driver.sandbox.underway().map(|(command, _)| &command.request_id);
        let durable = underway.is_none_or(|id| self.durable.contains(id));
        for action in driver.open.iter().skip(self.seen.min(driver.open.len())) {
            match action {
                Action::Qmp(_, qmp) if !CHANGES_NOTHING.contains(&qmp.name) => {
                    assert!(durable, "M7: {} before the intent is durable: {:#?}", qmp.name, driver.log);
                }
                Action::Launch(..) | Action::Start(..) | Action::LimitVcpus(..) | Action::Advise(..) => {
                    assert!(durable, "M7: {action:?} before the intent is durable");
                }
                _ => {}
            }
        }
        self.seen = driver.open.len();
    }
}

fn turn(driver: &mut Driver, watch: &mut Watch, number: usize, turn: &Turn) {
    match turn {
        Turn::Ask(request) => {
            let id = format!("c{number}");
            *watch.asked.entry(id.clone()).or_default() += 1;
            driver.feed(Input::Command(command(&id, request.clone())));
        }
        Turn::Again => {
            let underway = driver.sandbox.underway().map(|(command, _)| command.clone());
            if let Some(command) = underway {
                driver.feed(Input::Command(command));
            }
        }
        Turn::Answer(n) | Turn::Fail(n, _) => {
            let Some(action) = driver.open.remove(*n) else { return };
            watch.seen = driver.open.len();
            let fail = match turn {
                // Time passes whatever happens.
                Turn::Fail(_, reason) if !matches!(action, Action::Wait(..)) => Some(*reason),
                _ => None,
            };
            if let Some(reason) = fail {
                let token = token_of(&action).unwrap_or_else(|| panic!("{action:?}"));
                let refusal = Refusal::new(reason, "as the test wants");
                driver.feed(Input::Answer(token, Answer::Failed(refusal)));
            } else {
                if let Action::Announce(_, Announcement::Before(command, ..)) = &action {
                    watch.durable.insert(command.request_id.clone());
                }
                driver.answer_well(action);
            }
        }
        Turn::Tell(name, n) if driver.qemu.is_some() => {
            driver.event(name, json!({"id": "vm0", "size": n * 256 * MIB}));
        }
        Turn::Drop if driver.qemu.is_some() => driver.feed(Input::Disconnected),
        Turn::Gap => driver.feed(Input::Gap),
        Turn::Exit if driver.qemu.is_some() => driver.exit(),
        Turn::Tell(..) | Turn::Drop | Turn::Exit => {}
    }
}

fn holds_whatever_happens(first: Request, script: &[Turn]) {
    let is_attach = matches!(first, Request::Attach { .. });
    let mut driver = Driver::new();
    if !is_attach {
        driver.qemu = None;
    }
    let durable = is_attach.then(|| "c1000".to_owned()).into_iter().collect();
    let mut watch = Watch { durable, ..Watch::default() };
    turn(&mut driver, &mut watch, 1000, &Turn::Ask(first));
    for (number, one) in script.iter().enumerate() {
        if driver.retired {
            break;
        }
        turn(&mut driver, &mut watch, number, one);
        watch.look(&driver);
    }
    driver.settle();
    for id in watch.asked.keys() {
        let replies = driver.replies.iter().filter(|(replied, _)| replied == id).count();
        assert_eq!(replies, 1, "{id} has {replies} replies; {:#?}", driver.log);
    }
    assert!(driver.sandbox.underway().is_none(), "{:?}", driver.sandbox.underway());
    let core = driver.sandbox.core();
    if driver.qemu.is_none() && core.phase != Phase::New {
        let billed = core.phase == Phase::Attached && core.state == BillingState::Running;
        assert!(!billed, "billed as running without a QEMU: {:#?}", driver.log);
    }
    let ends = driver.observed.iter().filter(|observation| observation.change == Change::Ended).count();
    assert!(ends <= 1, "a life ends once: {:#?}", driver.log);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_command_gets_one_reply_whatever_is_answered_fails_happens_or_dies(
        created in any::<bool>(),
        script in prop::collection::vec(turns(), 0..120)
    ) {
        holds_whatever_happens(if created { create() } else { attach() }, &script);
    }
}
