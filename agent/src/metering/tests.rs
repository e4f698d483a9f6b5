//! What is cut and final when, by the sandboxes' accounts, and when an hour of the host is complete.

use dormouse_ledger::{Record, SandboxKey, SliceBatch};
use dormouse_metering::hour::HOUR_NS;
use dormouse_metering::{BillingState, BootId, Cause, Change, Observation, Refused, Shape, Stamp};

use super::accounts::{Accounts, Sight};

const SECOND: i64 = 1_000_000_000;
/// 2026-01-01T00:00:00Z.
const MIDNIGHT: i64 = 1_767_225_600 * SECOND;

/// So many seconds after midnight.
fn at(seconds: i64) -> Stamp {
    let since_boot_ns = u64::try_from((100_000 + seconds) * SECOND).expect("after the boot");
    Stamp {
        boot: BootId([1; 16]),
        boottime_ns: since_boot_ns,
        wall_ns: MIDNIGHT + seconds * SECOND,
        uncertainty_ns: 0,
    }
}

fn began(seconds: i64) -> Observation {
    let change = Change::Began(Shape::default(), BillingState::Running);
    Observation { at: at(seconds), change, cause: Cause::Attach, command: None }
}

fn key(sandbox: &str) -> SandboxKey {
    SandboxKey { org: "org".to_owned(), sandbox: sandbox.to_owned(), generation: 1 }
}

fn accounts() -> Accounts {
    Accounts::new(1_500_000_000, at(600), None)
}

#[test]
fn an_hour_is_complete_once_every_sandbox_is_cut_and_sealed_through_it() {
    let mut accounts = accounts();
    for sandbox in ["a", "b"] {
        accounts.observe(&key(sandbox), false, began(600), at(600)).expect("it begins");
        accounts.born(&key(sandbox));
    }
    assert_eq!(accounts.complete_hour(at(660)), Some(MIDNIGHT), "nothing is pending from before it");
    assert_eq!(accounts.complete_hour(at(3_599)), None, "it was told");

    accounts.sight(&key("b"), Sight::Lost);
    accounts.seal(at(3_632));
    assert_eq!(accounts.complete_hour(at(3_631)), None, "a life that began before may still be told");
    assert_eq!(accounts.complete_hour(at(3_632)), None, "what became of b is not known");
    accounts.sight(&key("b"), Sight::Clear);
    accounts.seal(at(3_633));
    accounts.seal(at(3_634));
    assert_eq!(accounts.complete_hour(at(3_640)), Some(MIDNIGHT + HOUR_NS));
}

#[test]
fn an_hour_of_a_host_without_sandboxes_is_complete_and_hours_that_nobody_saw_are_told_with_the_next() {
    let mut accounts = accounts();
    assert_eq!(accounts.complete_hour(at(660)), Some(MIDNIGHT));
    assert_eq!(accounts.complete_hour(at(5 * 3_600 + 60)), Some(MIDNIGHT + 5 * HOUR_NS));
    assert_eq!(accounts.complete_hour(at(3_660)), None, "a clock that was set back takes no hour back");
}

#[test]
fn an_agent_that_was_held_up_reads_what_qemu_has_told_before_anything_becomes_final() {
    let mut accounts = accounts();
    accounts.observe(&key("a"), true, began(600), at(600)).expect("it begins");
    accounts.born(&key("a"));
    accounts.tick(at(620));
    accounts.seal(at(621));
    assert_eq!(accounts.seal(at(3_000)).len(), 0, "the host slept");
    let change = Change::State(BillingState::Paused);
    let stop = Observation { at: at(619), change, cause: Cause::Stop, command: None };
    accounts.observe(&key("a"), false, stop, at(3_000)).expect("it is told");
    assert_eq!(accounts.seal(at(3_001)).len(), 1);
}

fn begins(accounts: &mut Accounts, sandbox: &str, prepaid: bool) {
    accounts.observe(&key(sandbox), prepaid, began(600), at(600)).expect("it begins");
    accounts.born(&key(sandbox));
}

fn changed(at: Stamp, change: Change) -> Observation {
    Observation { at, change, cause: Cause::Resync, command: None }
}

/// What is to be written of an observation that is told at `now` seconds.
fn told(accounts: &mut Accounts, sandbox: &str, observation: Observation, now: i64) -> SliceBatch {
    let record = accounts.observe(&key(sandbox), false, observation, at(now)).expect("it is taken");
    batch(record.expect("there is something to write"))
}

fn batch(record: Record) -> SliceBatch {
    let Record::Slices(batch) = record else { panic!("{record:?}") };
    batch
}

fn causes(records: Vec<Record>) -> Vec<(String, Cause)> {
    let slices = records.into_iter().map(batch).flat_map(|batch| {
        let sandbox = batch.key.sandbox;
        batch.slices.into_iter().map(move |slice| (sandbox.clone(), slice.end.cause))
    });
    slices.collect()
}

const MS: u64 = 1_000_000;

/// For how long before 710 s a process may have ended that is told to have ended then.
fn uncertainty_ms(cause: Cause, told_ms: u64, sight: Sight, proof: Stamp) -> u64 {
    let mut accounts = accounts();
    begins(&mut accounts, "a", false);
    accounts.sight(&key("a"), sight);
    accounts.proven(proof);
    let end = Observation { cause, ..changed(at(710).uncertain_by(told_ms * MS), Change::Ended) };
    let batch = told(&mut accounts, "a", end, 711);
    batch.slices.last().expect("it has lived").end.uncertainty_ns / MS
}

#[test]
fn a_process_that_is_heard_did_not_end_before_it_was_last_verified_to_exist() {
    let proof = at(700);
    assert_eq!(uncertainty_ms(Cause::Death, 60_000, Sight::Clear, proof), 10_100);
    assert_eq!(uncertainty_ms(Cause::Death, 5_000, Sight::Clear, proof), 5_000);
    assert_eq!(uncertainty_ms(Cause::Shutdown, 0, Sight::Clear, proof), 0);
    // It goes on after a detach, and a guest that is not heard may have stood for long.
    assert_eq!(uncertainty_ms(Cause::Detach, 60_000, Sight::Clear, proof), 60_000);
    for sight in [Sight::Behind, Sight::Lost] {
        assert_eq!(uncertainty_ms(Cause::Death, 60_000, sight, proof), 60_000);
    }
    let of_another_boot = Stamp { boot: BootId([2; 16]), ..proof };
    for proof in [of_another_boot, at(720)] {
        assert_eq!(uncertainty_ms(Cause::Death, 60_000, Sight::Clear, proof), 60_000);
    }
}

#[test]
fn the_last_word_of_a_life_is_final_at_once_and_all_else_once_nothing_stamped_before_can_still_come() {
    let mut accounts = accounts();
    begins(&mut accounts, "a", false);
    let paused = changed(at(620), Change::State(BillingState::Paused));
    assert_eq!(told(&mut accounts, "a", paused, 620).slices.len(), 0);
    assert_eq!(accounts.seal(at(621)).len(), 0);
    assert_eq!(causes(accounts.seal(at(622))), [("a".to_owned(), Cause::Resync)]);
    assert_eq!(accounts.seal(at(623)).len(), 0);

    let hibernated = changed(at(630), Change::State(BillingState::Hibernated));
    let batch = told(&mut accounts, "a", hibernated, 630);
    assert_eq!((batch.slices.len(), batch.pending.len(), batch.ended), (1, 0, false));
    let batch = told(&mut accounts, "a", changed(at(640), Change::Ended), 640);
    assert_eq!((batch.slices.len(), batch.pending.len(), batch.ended), (1, 0, true));
    let more = accounts.observe(&key("a"), false, changed(at(650), Change::Mark), at(650));
    assert_eq!(more.err(), Some(Refused::NotBegun), "nothing is kept of it");
}

#[test]
fn nothing_is_cut_or_final_before_the_ledger_knows_of_the_life() {
    let mut accounts = accounts();
    accounts.observe(&key("a"), true, began(600), at(600)).expect("it begins");
    assert_eq!(accounts.tick(at(620)).len() + accounts.clock_stepped(at(620)).len(), 0);
    told(&mut accounts, "a", changed(at(620), Change::State(BillingState::Paused)), 620);
    assert_eq!(accounts.seal(at(630)).len(), 0);
    accounts.born(&key("a"));
    assert_eq!(causes(accounts.seal(at(631))), [("a".to_owned(), Cause::Resync)]);
}

/// By a clock that was set forward by half an hour.
fn forward(seconds: i64) -> Stamp {
    Stamp { wall_ns: at(seconds).wall_ns + HOUR_NS / 2, ..at(seconds) }
}

#[test]
fn a_life_that_becomes_durable_behind_steps_of_the_clock_is_cut_at_each() {
    let mut accounts = accounts();
    accounts.observe(&key("a"), false, began(600), at(600)).expect("it begins");
    assert_eq!(accounts.clock_stepped(at(607)).len() + accounts.clock_stepped(forward(610)).len(), 0);
    let told = accounts.observe(&key("b"), false, began(605), forward(611)).expect("it began before");
    assert_eq!(batch(told.expect("it is to be written")).pending.len(), 1);
    let after = Observation { at: forward(612), ..began(612) };
    accounts.observe(&key("c"), false, after, forward(612)).expect("it begins");
    for (sandbox, steps) in [("a", 2), ("b", 1), ("c", 0)] {
        let marked = accounts.born(&key(sandbox)).map_or(0, |record| batch(record).pending.len());
        assert_eq!(marked, steps, "{sandbox}");
    }
    accounts.seal(forward(613));
    assert_eq!(causes(accounts.seal(forward(614))), []);
    assert_eq!(accounts.resume_steps(&[forward(610)]).len(), 0, "what was cut there knows");
    let hours: Vec<_> = (1_795..1_805).flat_map(|seconds| causes(accounts.seal(forward(seconds)))).collect();
    assert_eq!(
        hours,
        ["a", "b", "c"].map(|sandbox| (sandbox.to_owned(), Cause::Hour)),
        "by the clock as it is"
    );
}

#[test]
fn a_step_that_a_life_had_not_been_told_of_is_no_time_of_it_once_the_host_is_booted_again() {
    let mut live = accounts();
    begins(&mut live, "a", false);
    let hibernated = changed(at(605), Change::State(BillingState::Hibernated));
    let batch = told(&mut live, "a", hibernated, 605);

    let mut accounts = accounts();
    accounts.resume(batch.key, batch.open, batch.pending, false).expect("it was kept");
    assert_eq!(accounts.resume_steps(&[forward(610)]).len(), 1);
    let booted = Stamp { boot: BootId([2; 16]), boottime_ns: 5 * 1_000_000_000, ..forward(640) };
    let record = accounts.observe(&key("a"), false, changed(booted, Change::Ended), booted);
    let slices = self::batch(record.expect("it fits").expect("it is to be written")).slices;
    assert_eq!(slices.iter().map(|slice| slice.duration_ns).sum::<u64>(), 35 * 1_000_000_000);
}

#[test]
fn a_life_that_is_taken_up_is_out_of_sight_and_what_was_pending_is_final_once_it_is_seen() {
    let mut accounts = accounts();
    begins(&mut accounts, "a", false);
    let paused = changed(at(620), Change::State(BillingState::Paused));
    let batch = told(&mut accounts, "a", paused, 620);
    let mut accounts = self::accounts();
    accounts.resume(batch.key, batch.open, batch.pending, false).expect("it was kept");
    assert_eq!(accounts.seal(at(630)).len(), 0);
    assert!(!accounts.sight(&key("a"), Sight::Lost), "the ledger knows");
    accounts.sight(&key("a"), Sight::Clear);
    assert_eq!(causes(accounts.seal(at(631))), [("a".to_owned(), Cause::Resync)]);
    let lost = [Sight::Behind, Sight::Lost, Sight::Lost].map(|sight| accounts.sight(&key("a"), sight));
    assert_eq!(lost, [false, true, false]);
}

#[test]
fn a_tick_cuts_what_prepays_runs_and_is_billed() {
    let mut accounts = accounts();
    for (sandbox, prepaid) in [("billed", true), ("paused", true), ("plain", false), ("suppressed", true)] {
        begins(&mut accounts, sandbox, prepaid);
    }
    told(&mut accounts, "paused", changed(at(610), Change::State(BillingState::Paused)), 610);
    told(&mut accounts, "suppressed", changed(at(610), Change::Suppressed(true)), 610);
    assert_eq!(causes(accounts.seal(at(612))).len(), 2, "what has changed");
    assert_eq!(accounts.tick(at(613)).len(), 1);
    assert_eq!(causes(accounts.seal(at(614))), []);
    assert_eq!(causes(accounts.seal(at(615))), [("billed".to_owned(), Cause::Tick)]);
}

#[test]
fn an_idle_sandbox_is_cut_at_the_hour_of_a_clock_that_was_set_back() {
    let mut accounts = Accounts::new(1_500 * MS, at(3_600), None);
    accounts.observe(&key("a"), false, began(600), at(600)).expect("it begins");
    accounts.born(&key("a"));
    let back = |seconds: i64| Stamp { wall_ns: at(seconds).wall_ns - HOUR_NS / 2, ..at(seconds) };
    assert_eq!(accounts.clock_stepped(back(3_610)).len(), 1);
    accounts.seal(back(3_612));
    for seconds in 3_613..5_400 {
        assert_eq!(accounts.seal(back(seconds)).len(), 0, "{seconds}");
    }
    let hours: Vec<_> = (5_400..5_403).flat_map(|seconds| causes(accounts.seal(back(seconds)))).collect();
    assert_eq!(hours, [("a".to_owned(), Cause::Hour)]);
}

#[test]
fn an_hour_is_not_complete_while_a_life_that_began_in_it_may_still_be_told() {
    let mut accounts = accounts();
    assert_eq!(accounts.complete_hour(at(3_631)), Some(MIDNIGHT));
    assert_eq!(accounts.complete_hour(at(3_632)), Some(MIDNIGHT + HOUR_NS));
}

/// After the host was booted again, by a clock that is `set_s` seconds ahead.
fn booted(seconds: i64, set_s: i64) -> Stamp {
    let boottime_ns = u64::try_from((seconds - 700) * SECOND).expect("after the boot");
    Stamp { boot: BootId([2; 16]), boottime_ns, wall_ns: at(seconds + set_s).wall_ns, uncertainty_ns: 0 }
}

/// What a life is billed as that was in a state since 605 s when the host went off, proven through 650 s, and that ends at
/// 720 s, after a boot at 710 s: states, seconds and seconds of uncertainty at the end.
fn across_a_boot(state: BillingState, set_s: i64) -> Vec<(BillingState, i64, i64)> {
    let mut live = accounts();
    begins(&mut live, "a", false);
    let before = told(&mut live, "a", changed(at(605), Change::State(state)), 605);
    let mut accounts = Accounts::new(1_500 * MS, booted(710, set_s), Some(at(650)));
    accounts.resume(before.key, before.open, before.pending, false).expect("it was kept");
    accounts.resume_boot(booted(710, set_s));
    assert_eq!(accounts.resume_boot(booted(711, set_s)).len(), 0, "what was cut is");
    let ends = booted(720, set_s);
    let end = accounts.observe(&key("a"), false, changed(ends, Change::Ended), ends).expect("it is taken");
    let seconds = |ns: u64| i64::try_from(ns).expect("it is short") / SECOND;
    let end = batch(end.expect("it is to be written")).slices;
    let slices = before.slices.iter().chain(&end);
    slices.map(|one| (one.state, seconds(one.duration_ns), seconds(one.end.uncertainty_ns))).collect()
}

#[test]
fn what_goes_on_through_a_boot_is_billed_through_the_proof_and_from_the_start_whatever_the_clock_was_set_to()
{
    let of = |seconds| (BillingState::Hibernated, seconds, 0);
    let running = (BillingState::Running, 5, 0);
    assert_eq!(across_a_boot(BillingState::Hibernated, 0), [running, of(45), of(60), of(10)]);
    let set_back = across_a_boot(BillingState::Hibernated, -3_600);
    assert_eq!(set_back, [running, of(45), of(10)], "by the wall clock nothing was between");
    let ends = across_a_boot(BillingState::Paused, 0);
    assert_eq!(ends.len(), 2, "what had a QEMU is told of by whoever finds it gone: {ends:?}");
}

#[test]
fn whether_a_guest_ran_that_was_being_woken_when_its_host_went_off_is_not_certain() {
    let of = |seconds, uncertain| (BillingState::Waking, seconds, uncertain);
    let running = (BillingState::Running, 5, 0);
    assert_eq!(across_a_boot(BillingState::Waking, 0), [running, of(45, 45), of(60, 105), of(10, 0)]);
}

#[test]
fn what_was_told_later_than_the_proof_is_billed_through_that_beneath_a_suppression_too() {
    let mut live = accounts();
    begins(&mut live, "a", false);
    told(&mut live, "a", changed(at(605), Change::Suppressed(true)), 605);
    let before = told(&mut live, "a", changed(at(660), Change::State(BillingState::Waking)), 660);
    let mut accounts = Accounts::new(1_500 * MS, booted(710, -3_600), Some(at(650)));
    accounts.resume(before.key, before.open, before.pending, false).expect("it was kept");
    accounts.resume_boot(booted(710, -3_600));
    let ends = booted(720, -3_600);
    let end = accounts.observe(&key("a"), false, changed(ends, Change::Ended), ends).expect("it is taken");
    let slices = before.slices.into_iter().chain(batch(end.expect("it is to be written")).slices);
    let suppressed = slices.filter(|one| one.state == BillingState::Suppressed);
    let seconds: Vec<u64> = suppressed.map(|one| one.duration_ns / 1_000_000_000).collect();
    assert_eq!(seconds, [55, 10], "by the wall clock nothing was between");
}

#[test]
fn a_step_after_a_boot_cuts_what_began_before_that_and_is_not_final_since() {
    let mut live = accounts();
    begins(&mut live, "a", false);
    let before = told(&mut live, "a", changed(at(605), Change::State(BillingState::Hibernated)), 605);
    let mut first = Accounts::new(1_500 * MS, booted(710, 0), None);
    first.resume(before.key, before.open, before.pending, false).expect("it was kept");
    let [marked] = first.resume_boot(booted(710, 0)).try_into().expect("it is one");
    let marked = batch(marked);
    let mut next = Accounts::new(1_500 * MS, booted(720, 60), None);
    next.resume(marked.key, marked.open, marked.pending, false).expect("it was kept");
    assert_eq!(next.resume_steps(&[booted(715, 60)]).len(), 1);
    assert_eq!(next.resume_steps(&[booted(715, 60)]).len(), 0, "what was cut there knows");
}

#[test]
fn a_life_that_is_taken_up_is_cut_at_each_step_that_it_was_not_told_of() {
    let mut live = accounts();
    begins(&mut live, "a", false);
    let began = told(&mut live, "a", changed(at(601), Change::Disk(1)), 601);
    let mut accounts = accounts();
    accounts.resume(began.key, began.open, began.pending, false).expect("it was kept");
    let before = Stamp { boottime_ns: at(599).boottime_ns, ..forward(599) };
    assert_eq!(accounts.resume_steps(&[before, forward(607), forward(610)]).len(), 2);
}
