//! What becomes of a sandbox that an agent takes up again, and of the command that the one before left unfinished.

use dormouse_metering::{
    BillingState, BootId, Boundary, Cause, Change, CommandId, Observation, OpenSlice, Shape, Stamp,
};
use serde_json::json;

use super::driver::{
    Driver, GIB, MIB, Qemu, at, command, create, device, hibernate, identity, key, manifest, pause, resume,
    scale, suppress,
};
use super::limits::{named_by, vcpus};
use crate::metering::accounts::Sight;
use crate::sandbox::command::{CommandResult, Method, Request};
use crate::sandbox::machine::{
    Action, Announcement, Answer, Core, Input, LastSign, Phase, Recovered, Sandbox, Settings,
};
use crate::sandbox::refusal::{Reason, Refusal};

pub(super) const SECOND: u64 = 1_000_000_000;

/// When a driver's time begins.
const FOUND: u64 = 1_000 * SECOND;

pub(super) const PROVEN: u64 = 990 * SECOND;
pub(super) const TOLD: u64 = 980 * SECOND;
pub(super) const SIZES: u64 = 970 * SECOND;

/// What the ledger says of a sandbox that has a QEMU with 512 MiB plugged.
pub(super) fn left(state: BillingState, unfinished: Option<Request>) -> Recovered {
    let mut core = Core::new(key(), "/run/dormouse/sb-1.qmp".into(), Settings::default());
    let shape = Qemu::new(100).survey().shape();
    (core.phase, core.generation, core.process) = (Phase::Attached, 7, Some(identity(100)));
    (core.shape, core.state) = (Shape { memory_plugged_bytes: 512 * MIB, ..shape }, state);
    let last_sign = Some(LastSign { at: at(PROVEN), told: at(TOLD), sizes: at(SIZES), memory: None });
    let unfinished = unfinished.map(|request| command("c1", request)).into_iter().collect();
    Recovered { core, unfinished, saved: None, ran: true, last_sign, plugged_by_device: None }
}

/// The same of one that is hibernated.
pub(super) fn asleep(state: BillingState, unfinished: Option<Request>) -> Recovered {
    let mut recovered = left(state, unfinished);
    (recovered.core.phase, recovered.core.process) = (Phase::Hibernated, None);
    recovered.core.snapshot = Some(manifest(Method::MappedRam));
    recovered
}

/// QEMU as it is when it is looked for.
pub(super) fn qemu(status: &'static str, mib: u64) -> Qemu {
    let mut qemu = Qemu::new(100);
    (qemu.status, qemu.devices) = (status, vec![device("vm0", mib)]);
    qemu
}

/// Taken up, with nothing answered yet.
pub(super) fn taken_up(recovered: Recovered, qemu: impl Into<Option<Qemu>>) -> Driver {
    let qemu = qemu.into();
    let (sandbox, actions) = Sandbox::recover_from(recovered, at(FOUND), qemu.is_some());
    let mut driver = Driver::of(sandbox, qemu);
    driver.take(actions);
    driver
}

pub(super) fn settled(recovered: Recovered, qemu: impl Into<Option<Qemu>>) -> Driver {
    let mut driver = taken_up(recovered, qemu);
    driver.settle();
    driver
}

/// The next attempt to connect, which comes to what QEMU is.
fn reconnect(driver: &mut Driver) {
    let is_attempt = |action: &Action| matches!(action, Action::Connect(..));
    let attempt = driver.open.iter().position(is_attempt).and_then(|index| driver.open.remove(index));
    if let Some(attempt) = attempt {
        driver.answer_well(attempt);
    }
}

/// How the unfinished command came out.
fn outcome(driver: &Driver) -> Result<(), Reason> {
    let [(id, result)] = driver.replies.as_slice() else { panic!("{:?}", driver.replies) };
    assert_eq!(id, "c1");
    result.as_ref().map(drop).map_err(|refusal| refusal.reason)
}

fn was_told(driver: &Driver, name: &str) -> bool {
    driver.log.iter().any(|word| word == name)
}

pub(super) fn window(at: Stamp) -> (u64, u64) {
    (at.boottime_ns - at.uncertainty_ns, at.boottime_ns)
}

pub(super) fn seen(driver: &Driver) -> Vec<(Change, (u64, u64), Cause)> {
    driver.observed.iter().map(|seen| (seen.change, window(seen.at), seen.cause)).collect()
}

#[test]
fn what_died_while_nobody_looked_is_lost_since_its_last_proof_and_uncertain_since_its_last_word() {
    let driver = settled(left(BillingState::Running, None), None);
    let expected = [
        (Change::Plugged(0), (SIZES, TOLD), Cause::ProofEnded),
        (Change::State(BillingState::Lost), (TOLD, PROVEN), Cause::ProofEnded),
        (Change::Ended, (FOUND, FOUND), Cause::Death),
    ];
    assert_eq!(seen(&driver), expected);
    assert!(driver.retired);
}

#[test]
fn what_an_idle_one_did_while_nobody_looked_is_uncertain_since_its_last_word() {
    for (last_sign, since) in [(left(BillingState::Running, None).last_sign, (TOLD, SIZES)), (None, (0, 0))] {
        let recovered = Recovered { last_sign, ..left(BillingState::Running, None) };
        let mut driver = taken_up(recovered, qemu("paused", 256));
        let unheard = last_sign.map_or(at(FOUND), |sign| sign.told);
        assert_eq!(driver.sandbox.core().sight(), Some((Sight::Lost, unheard)));
        driver.settle();
        let starts = |wanted: Change| {
            let of_it = driver.observed.iter().find(|seen| seen.change == wanted);
            of_it.map(|seen| (window(seen.at).0, seen.cause))
        };
        assert_eq!(starts(Change::State(BillingState::Paused)), Some((since.0, Cause::Resync)));
        assert_eq!(starts(Change::Plugged(256 * MIB)), Some((since.1, Cause::Resync)));
    }
}

#[test]
fn an_unfinished_pause_or_resume_is_done_where_the_guest_is_so_and_interrupted_where_it_is_not() {
    for (status, paused, resumed) in
        [("paused", Ok(()), Err(Reason::Interrupted)), ("running", Err(Reason::Interrupted), Ok(()))]
    {
        for (request, expected) in [(pause(), paused), (resume(), resumed)] {
            let driver = settled(left(BillingState::Running, Some(request)), qemu(status, 512));
            assert_eq!(outcome(&driver), expected, "{status}");
            assert!(!was_told(&driver, "stop") && !was_told(&driver, "cont"), "{:?}", driver.log);
        }
    }
}

#[test]
fn an_unfinished_suppression_is_resolved_by_what_the_ledger_says_without_a_word_from_qemu() {
    for suppressed in [true, false] {
        for (request, is_so) in [(suppress(), suppressed), (Request::Unsuppress, !suppressed)] {
            let mut recovered = left(BillingState::Running, Some(request));
            recovered.core.suppressed = suppressed.then(|| "moving house".to_owned());
            let mut driver = taken_up(recovered, qemu("running", 512));
            let first = driver.open.pop_front().unwrap();
            assert!(matches!(first, Action::Announce(_, Announcement::After(..))), "{first:?}");
            driver.answer_well(first);
            assert_eq!(outcome(&driver), if is_so { Ok(()) } else { Err(Reason::Interrupted) });
        }
    }
}

#[test]
fn whether_a_guest_was_reset_before_a_restart_is_not_known_and_it_is_not_reset_again() {
    let driver = settled(left(BillingState::Running, Some(Request::Reboot)), qemu("running", 512));
    assert_eq!(outcome(&driver), Err(Reason::OutcomeUnknown));
    assert!(!was_told(&driver, "system_reset"));
}

#[test]
fn a_hibernation_whose_qemu_lives_is_called_off_and_only_a_guest_that_ran_goes_on() {
    for ran in [true, false] {
        let state = if ran { BillingState::Hibernating } else { BillingState::Paused };
        let recovered = Recovered { ran, ..left(state, Some(hibernate(Method::MappedRam))) };
        let driver = settled(recovered, qemu("paused", 512));
        assert_eq!(outcome(&driver), Err(Reason::SaveFailed));
        assert_eq!(was_told(&driver, "cont"), ran);
        let stands = if ran { BillingState::Running } else { BillingState::Paused };
        assert_eq!(driver.sandbox.core().state, stands);
    }
}

#[test]
fn a_hibernation_is_done_where_its_snapshot_is_recorded_and_its_qemu_gone() {
    for state in [BillingState::Hibernating, BillingState::Running] {
        let saved = Some(manifest(Method::MappedRam));
        let recovered = Recovered { saved, ..left(state, Some(hibernate(Method::MappedRam))) };
        let driver = settled(recovered, None);
        assert_eq!(outcome(&driver), Ok(()));
        let core = driver.sandbox.core();
        assert_eq!((core.phase, core.state), (Phase::Hibernated, BillingState::Hibernated));
        assert_eq!(core.snapshot, Some(manifest(Method::MappedRam)));
        let hibernated = (Change::State(BillingState::Hibernated), (TOLD, FOUND), Cause::Hibernate);
        // Somebody else has continued it after it was saved: what it plugged then nobody knows.
        let plugged = (Change::Plugged(0), (SIZES, TOLD), Cause::Hibernate);
        let ran = state == BillingState::Running;
        assert_eq!(seen(&driver), if ran { vec![plugged, hibernated] } else { vec![hibernated] });
        assert!(!driver.retired && !was_told(&driver, "remove consumed snapshot"));
    }
    let driver = settled(left(BillingState::Hibernating, Some(hibernate(Method::MappedRam))), None);
    assert_eq!(outcome(&driver), Err(Reason::QemuDied));
    assert!(driver.retired);
}

#[test]
fn of_one_that_is_hibernated_a_hibernation_is_done_and_a_wake_without_a_qemu_interrupted() {
    let driver = settled(asleep(BillingState::Hibernated, Some(hibernate(Method::MappedRam))), None);
    assert_eq!((outcome(&driver), driver.sandbox.core().phase), (Ok(()), Phase::Hibernated));
    let mut driver = taken_up(asleep(BillingState::Waking, Some(Request::Wake { cold: false })), None);
    while let Some(Action::Connect(..)) = driver.open.front() {
        driver.now_ns += SECOND;
        let connect = driver.open.pop_front().unwrap();
        driver.answer_well(connect);
    }
    driver.settle();
    assert_eq!(outcome(&driver), Err(Reason::Interrupted));
    // Somebody else may have continued the QEMU that it may have started.
    let hibernated = driver.observed.last().unwrap();
    assert_eq!((window(hibernated.at).0, hibernated.cause), (TOLD, Cause::WakeFailed));
    let core = driver.sandbox.core();
    assert_eq!((core.phase, core.state), (Phase::Hibernated, BillingState::Hibernated));
    assert!(core.snapshot.is_some() && !was_told(&driver, "remove consumed snapshot"));
}

#[test]
fn a_destroy_or_detach_whose_qemu_is_gone_is_done_and_its_end_is_by_that_command() {
    for (request, cause) in
        [(Request::Destroy { graceful_ms: None }, Cause::Destroy), (Request::Detach, Cause::Detach)]
    {
        let driver = settled(left(BillingState::Running, Some(request)), None);
        assert_eq!(outcome(&driver), Ok(()));
        let ended = driver.observed.last().unwrap();
        assert_eq!((ended.change, ended.cause), (Change::Ended, cause));
        assert_eq!(ended.command.as_ref().map(CommandId::as_str), Some("c1"));
        assert!(driver.retired);
    }
}

#[test]
fn a_create_goes_on_where_it_has_started_a_qemu_and_is_interrupted_where_it_has_not() {
    for started in [true, false] {
        let mut recovered = left(BillingState::Running, Some(create()));
        (recovered.core.phase, recovered.core.generation) = (Phase::New, 0);
        (recovered.last_sign, recovered.ran) = (None, false);
        recovered.core.process = started.then(|| identity(100));
        let driver = settled(recovered, started.then(|| qemu("paused", 0)));
        assert_eq!(outcome(&driver), if started { Ok(()) } else { Err(Reason::Interrupted) });
        assert_eq!(was_told(&driver, "cont"), started);
        assert_eq!(driver.retired, !started);
    }
}

#[test]
fn a_scale_that_qemu_was_asked_for_goes_on_though_the_guest_has_plugged_nothing_of_it_yet() {
    let mut found = Qemu::new(100);
    found.devices[0].requested_bytes = 512 * MIB;
    let mut recovered = left(BillingState::Running, Some(scale(768)));
    recovered.core.shape.memory_plugged_bytes = 0;
    let mut driver = taken_up(recovered, found);
    reconnect(&mut driver);
    driver.qemu = Some(qemu("running", 512));
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 512 * MIB}));
    driver.settle();
    assert_eq!(outcome(&driver), Ok(()));
    assert_eq!(driver.replies[0].1.as_ref().unwrap().result, CommandResult::Done);
}

#[test]
fn what_a_guest_goes_on_to_plug_after_a_restart_is_the_doing_of_the_scale_that_a_destroy_overtook() {
    let mut recovered = left(BillingState::Running, Some(scale(1280)));
    recovered.unfinished.push(command("c2", Request::Destroy { graceful_ms: None }));
    let mut driver = taken_up(recovered, qemu("running", 512));
    reconnect(&mut driver);
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": GIB}));
    let plugged = driver.observed.last().unwrap();
    assert_eq!((plugged.change, plugged.cause), (Change::Plugged(GIB), Cause::Scale));
    assert_eq!(plugged.command.as_ref().map(CommandId::as_str), Some("c1"));
}

#[test]
fn one_that_lives_and_does_not_answer_is_killed_where_that_was_its_end_and_only_there() {
    let hibernation = || Some(hibernate(Method::MappedRam));
    let saved = || Some(manifest(Method::MappedRam));
    for (request, saved, killed) in [
        (Some(Request::Destroy { graceful_ms: None }), None, 1),
        (hibernation(), saved(), 1),
        (hibernation(), None, 0),
        (Some(pause()), None, 0),
        (None, None, 0),
    ] {
        let recovered = Recovered { saved, ..left(BillingState::Running, request.clone()) };
        let mut driver = taken_up(recovered, qemu("running", 512));
        driver.qemu = None;
        for _ in 0..20 {
            reconnect(&mut driver);
        }
        let kills = driver.log.iter().filter(|word| *word == "kill").count();
        assert_eq!(kills, killed, "{request:?} {:?}", driver.log);
    }
}

#[test]
fn a_snapshot_whose_guest_has_gone_on_is_removed_once_that_is_durable_and_its_place_not_used_again() {
    for unfinished in [None, Some(hibernate(Method::MappedRam))] {
        let saved = Some(manifest(Method::MappedRam));
        let recovered = Recovered { saved: saved.clone(), ..left(BillingState::Running, unfinished.clone()) };
        let mut driver = taken_up(recovered, qemu("running", 512));
        let is_after = |action: &Action| matches!(action, Action::Announce(_, Announcement::After(..)));
        let removed =
            |driver: &Driver| driver.log.iter().filter(|word| *word == "remove consumed snapshot").count();
        if unfinished.is_some() {
            super::driver::until(&mut driver, is_after);
            assert_eq!(removed(&driver), 0, "{:?}", driver.log);
        }
        driver.settle();
        assert_eq!(removed(&driver), 1, "{:?}", driver.log);
        assert_eq!(driver.sandbox.core().snapshot, saved);
    }
}

/// What had not reached the ledger at the last word.
const IN_FLIGHT: u64 = 50_000_000;

/// A stamp of the boot before, which ended at this wall time.
pub(super) fn of_the_boot_before(at: Stamp) -> Stamp {
    Stamp { boot: BootId([6; 16]), boottime_ns: at.boottime_ns - SECOND, ..at }
}

fn opened_by(cause: Cause, at: Stamp) -> OpenSlice {
    let start = Boundary { unix_ns: at.wall_ns, uncertainty_ns: 0, cause, command: None };
    let (state, shape) = (BillingState::Running, Shape::default());
    OpenSlice { seq: 1, state, beneath: None, shape, start, boot: at.boot, start_boottime_ns: at.boottime_ns }
}

fn pending(at: Stamp, change: Change) -> Observation {
    Observation { at, change, cause: Cause::Resize, command: None }
}

#[test]
fn what_qemu_told_last_is_a_sign_of_life_and_what_time_or_the_bill_made_is_none() {
    let (proof, later) = (at(30 * SECOND), at(40 * SECOND));
    let of_opened = |cause| LastSign::of(Some(proof), None, Some(&opened_by(cause, later)), &[]).unwrap().at;
    let marks =
        [Cause::Hour, Cause::Tick, Cause::ClockStep, Cause::HostBoot, Cause::Suppress, Cause::Unsuppress];
    for cause in Cause::ALL {
        assert_eq!(of_opened(*cause), if marks.contains(cause) { proof } else { later }, "{cause:?}");
    }
    let of_pending = |change| LastSign::of(Some(proof), None, None, &[pending(later, change)]).unwrap().at;
    for change in [Change::State(BillingState::Paused), Change::Plugged(0), Change::Disk(0)] {
        assert_eq!(of_pending(change), later, "{change:?}");
    }
    let no_signs = [Change::State(BillingState::Lost), Change::Suppressed(true), Change::Mark, Change::Ended];
    for change in no_signs {
        assert_eq!(of_pending(change), proof, "{change:?}");
    }
}

#[test]
fn what_qemu_told_is_known_through_shortly_before_it_was_heard_last_or_through_its_last_word() {
    let (proof, word) = (at(30 * SECOND), at(20 * SECOND));
    let told = |unheard, seen: &[Observation]| LastSign::of(Some(proof), unheard, None, seen).unwrap().told;
    assert_eq!(told(None, &[]), proof.earlier_by(IN_FLIGHT));
    assert_eq!(told(Some(word), &[]), word.earlier_by(IN_FLIGHT));
    let stopped = |at| [pending(at, Change::State(BillingState::Paused))];
    assert_eq!(told(Some(word), &stopped(word.later_by(SECOND))), word.later_by(SECOND));
    assert_eq!(told(None, &stopped(word)), proof.earlier_by(IN_FLIGHT));
}

#[test]
fn of_what_one_question_found_the_first_part_says_nothing_of_the_rest() {
    let (word, found) = (at(20 * SECOND), at(30 * SECOND));
    let asked =
        |change| Observation { cause: Cause::Resync, ..pending(found.uncertain_by(10 * SECOND), change) };
    let sign = LastSign::of(Some(word), None, None, &[asked(Change::Requested(0))]).unwrap();
    assert_eq!((sign.at, sign.told), (found, word), "known until before the question alone");
    let unheard = Some(at(15 * SECOND));
    let sign = LastSign::of(Some(word), unheard, None, &[asked(Change::Requested(0))]).unwrap();
    assert_eq!((sign.at, sign.told), (found, word), "also where it was not heard for longer");
}

#[test]
fn only_what_is_of_the_boot_of_its_last_word_is_a_sign_of_its_life() {
    let (proof, before) = (at(30 * SECOND), of_the_boot_before(at(10 * SECOND)));
    // A proof of the boot after it: its QEMU was gone by then.
    let sign = LastSign::of(Some(proof), Some(before), None, &[pending(before, Change::Plugged(0))]).unwrap();
    assert_eq!((sign.at, sign.told), (before, before));
    // And of the boot before it, of another QEMU.
    let sign = LastSign::of(Some(before), None, None, &[pending(proof, Change::Disk(0))]).unwrap();
    assert_eq!(sign.at, proof);
    // Since when it is not heard counts where it is of that boot.
    let unheard = at(5 * SECOND);
    let told = |unheard| LastSign::of(Some(proof), Some(unheard), None, &[]).unwrap().told;
    assert_eq!(told(unheard), unheard.earlier_by(IN_FLIGHT));
    assert_eq!(told(before), proof.earlier_by(IN_FLIGHT));
}

#[test]
fn what_opened_the_slice_says_what_the_memory_is_only_as_long_as_qemu_may_hold_the_next_size_back() {
    let proof = at(30 * SECOND);
    let sizes =
        |opened| LastSign::of(Some(proof), None, Some(&opened_by(Cause::Resize, opened)), &[]).unwrap().sizes;
    assert_eq!(sizes(at(29 * SECOND)), at(29 * SECOND));
    assert_eq!(sizes(at(10 * SECOND)), proof.earlier_by(IN_FLIGHT));
}

#[test]
fn a_hibernation_that_is_found_done_after_a_boot_of_the_host_is_uncertain_since_that_boot() {
    let saved = Some(manifest(Method::MappedRam));
    let request = Some(hibernate(Method::MappedRam));
    let mut recovered = Recovered { saved, ..left(BillingState::Hibernating, request) };
    recovered.last_sign = recovered.last_sign.map(|sign| LastSign {
        at: of_the_boot_before(sign.at),
        told: of_the_boot_before(sign.told),
        sizes: of_the_boot_before(sign.sizes),
        memory: None,
    });
    let driver = settled(recovered, None);
    let hibernated = (Change::State(BillingState::Hibernated), (0, FOUND), Cause::Hibernate);
    assert_eq!((outcome(&driver), seen(&driver)), (Ok(()), vec![hibernated]));
}

#[test]
fn what_somebody_continued_after_it_was_saved_has_ended_with_its_host_whenever_that_is_booted_again() {
    let saved = Some(manifest(Method::MappedRam));
    let mut recovered =
        Recovered { saved, ..left(BillingState::Running, Some(hibernate(Method::MappedRam))) };
    let [proven, told, sizes] = [PROVEN, TOLD, SIZES].map(|ns| of_the_boot_before(at(ns)));
    recovered.last_sign = Some(LastSign { at: proven, told, sizes, memory: None });
    let driver = settled(recovered, None);
    let of_before = |from: Stamp, to: Stamp| (from.boottime_ns, to.boottime_ns);
    let hibernated = (Change::State(BillingState::Hibernated), of_before(told, proven), Cause::Hibernate);
    let plugged = (Change::Plugged(0), of_before(sizes, told), Cause::Hibernate);
    assert_eq!((outcome(&driver), seen(&driver)), (Ok(()), vec![plugged, hibernated]));
    assert!(driver.observed.iter().all(|seen| seen.at.boot == proven.boot), "{:?}", driver.observed);
}

#[test]
fn a_sign_of_another_boot_is_no_sign_of_life_whatever_the_wall_clock_said() {
    let of_boot = |boot, boottime_ns, wall_ns| Stamp { boot, boottime_ns, wall_ns, uncertainty_ns: 0 };
    let (before, this) = (BootId([1; 16]), BootId([2; 16]));
    // Hibernated before the boot, by a clock that was two hours ahead, and woken after it.
    let asleep = OpenSlice {
        seq: 2,
        state: BillingState::Hibernated,
        beneath: None,
        shape: Shape::default(),
        start: Boundary {
            unix_ns: 7_200_000_000_000,
            uncertainty_ns: 0,
            cause: Cause::Hibernate,
            command: None,
        },
        boot: before,
        start_boottime_ns: 500 * SECOND,
    };
    let runs = Observation {
        at: of_boot(this, 3 * SECOND, 1_000),
        change: Change::State(BillingState::Running),
        cause: Cause::Wake,
        command: None,
    };
    let proof = of_boot(this, 9 * SECOND, 2_000);
    let sign = LastSign::of(Some(proof), None, Some(&asleep), std::slice::from_ref(&runs)).unwrap();
    assert_eq!(sign.at, proof);
    // Where the last proof is of the boot before, what was seen since is all.
    let older = of_boot(before, 501 * SECOND, 7_201_000_000_000);
    let sign = LastSign::of(Some(older), None, Some(&asleep), std::slice::from_ref(&runs)).unwrap();
    assert_eq!((sign.at, sign.told), (runs.at, runs.at));
}

#[test]
fn a_power_cycle_that_had_told_qemu_to_quit_ends_one_that_does_not_answer() {
    for (state, killed) in [(BillingState::Paused, true), (BillingState::Running, false)] {
        let mut driver = taken_up(left(state, Some(Request::PowerCycle)), qemu("shutdown", 0));
        for _ in 0..8 {
            let is_attempt = |action: &Action| matches!(action, Action::Connect(..));
            let attempt = driver.open.iter().position(is_attempt).and_then(|index| driver.open.remove(index));
            let Some(Action::Connect(token, _)) = attempt else { break };
            let busy = Refusal::new(Reason::QmpUnreachable, "nobody listens");
            driver.feed(Input::Answer(token, Answer::Failed(busy)));
        }
        assert_eq!(was_told(&driver, "kill"), killed, "{:?}", driver.log);
    }
}

#[test]
fn what_died_unseen_while_the_kernel_was_being_told_is_billed_the_lesser() {
    let driver = settled(left(BillingState::Running, Some(Request::Scale(vcpus(500)))), None);
    let limited = driver.observed.iter().find(|seen| seen.change == Change::Vcpus(500)).expect("the lesser");
    assert_eq!(window(limited.at), (0, PROVEN));
    assert_eq!(named_by(limited), (Cause::Scale, Some("c1")));
}
