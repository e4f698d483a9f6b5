//! Where cuts are placed and how they are named, case by case.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test's name says what it proves, and a panic that it does not"
)]

mod support;

use dormouse_metering::meter::PENDING_MAX;
use dormouse_metering::{
    BillingState, BootId, Cause, Change, Fault, Observation, Placed, Refused, Slice, Stamp,
};
use support::*;

/// The cuts that are made of observations: nanoseconds after the beginning, cause, command, uncertainty.
fn cuts(observations: impl IntoIterator<Item = Observation>) -> Vec<(i64, Cause, String, u64)> {
    let mut meter = begun();
    for observation in observations {
        meter.observe(observation, &mut |_| {}).unwrap();
    }
    let (slices, _) = provisional(&meter);
    let cut = |slice: Slice| {
        let command = slice.end.command.map(|command| command.to_string()).unwrap_or_default();
        let after_ns = slice.end.unix_ns - at(BEGAN).wall_ns;
        (after_ns, slice.end.cause, command, slice.end.uncertainty_ns)
    };
    slices.into_iter().map(cut).collect()
}

fn event(ns: u64, plugged: u64) -> Observation {
    seen(at(BEGAN + ns), Change::Plugged(plugged), Cause::Resize)
}

fn answer(ns: u64, uncertainty_ns: u64, plugged: u64) -> Observation {
    let at = at(BEGAN + ns).uncertain_by(uncertainty_ns);
    commanded(at, Change::Plugged(plugged), Cause::Scale, "scale-1")
}

fn named(ns: i64, uncertainty_ns: u64) -> (i64, Cause, String, u64) {
    (ns, Cause::Scale, "scale-1".to_owned(), uncertainty_ns)
}

#[test]
fn an_answer_that_more_is_held_counts_from_the_end_of_its_window() {
    assert_eq!(cuts([answer(30, 20, 5)]), [named(30, 20)]);
}

#[test]
fn an_answer_that_less_is_held_counts_from_the_start_of_its_window() {
    assert_eq!(cuts([event(5, 9), answer(30, 20, 5)])[1..], [named(10, 20)]);
    let stopped = Change::State(BillingState::Paused);
    let stopped = seen(at(BEGAN + 30).uncertain_by(20), stopped, Cause::Resync);
    assert_eq!(cuts([stopped])[0].0, 10);
}

#[test]
fn why_a_guest_stands_takes_the_place_of_that_it_stopped() {
    let stamp = at(BEGAN + 30).uncertain_by(20);
    let stands = |state, cause| seen(stamp, Change::State(state), cause);
    let fault = BillingState::Faulted(Fault::IoError);
    let stopped = [stands(BillingState::Paused, Cause::Stop), stands(fault, Cause::Fault)];
    assert_eq!(cuts(stopped), [(10, Cause::Fault, String::new(), 20)]);
    let runs_on = [stands(BillingState::Paused, Cause::Stop), stands(BillingState::Running, Cause::Continue)];
    assert_eq!(cuts(runs_on).len(), 2);
}

#[test]
fn an_answer_reaches_behind_an_event_of_another_kind_but_not_behind_one_of_its_own() {
    let vcpus = seen(at(BEGAN + 20), Change::Vcpus(1000), Cause::Resize);
    let places =
        |observations: Vec<Observation>| cuts(observations).iter().map(|cut| cut.0).collect::<Vec<_>>();
    assert_eq!(places(vec![event(5, 9), vcpus.clone(), answer(30, 25, 5)]), [5, 20]);
    assert_eq!(places(vec![event(5, 9), vcpus, answer(30, 24, 5)]), [5, 6, 20]);
    assert_eq!(places(vec![event(5, 9), event(20, 8), answer(30, 25, 5)]), [5, 20]);
}

#[test]
fn the_exact_event_moves_the_cut_and_keeps_the_command_in_either_order() {
    let expected = [named(15, 0)];
    assert_eq!(cuts([answer(30, 20, 5), event(15, 5)]), expected);
    assert_eq!(cuts([event(15, 5), answer(30, 20, 5)]), expected);
    assert_eq!(cuts([event(30, 5), answer(30, 20, 5)]), [named(30, 0)]);
    assert_eq!(cuts([answer(30, 20, 5), event(30, 5)]), [named(30, 0)]);
}

#[test]
fn an_event_outside_the_window_or_of_another_value_keeps_its_own_name() {
    let resize = |ns| (ns, Cause::Resize, String::new(), 0);
    assert_eq!(cuts([event(9, 5), answer(30, 20, 5)]), [resize(9)]);
    assert_eq!(cuts([event(15, 4), answer(30, 20, 5)]), [resize(15), named(30, 20)]);
}

#[test]
fn what_changes_nothing_cuts_nothing_but_a_mark_always_cuts() {
    let mark = seen(at(BEGAN + 7), Change::Mark, Cause::Tick);
    assert_eq!(cuts([event(3, 0), answer(6, 5, 0)]), []);
    assert_eq!(cuts([mark.clone()]), [(7, Cause::Tick, String::new(), 0)]);
    assert_eq!(cuts([mark, answer(7, 0, 5)]), [named(7, 0)]);
    assert_eq!(cuts([seen(at(BEGAN), Change::Mark, Cause::Tick)]), []);
}

#[test]
fn an_end_counts_from_the_last_thing_the_sandbox_was_seen_to_do() {
    let end = seen(at(BEGAN + 30).uncertain_by(20), Change::Ended, Cause::Death);
    let mark = seen(at(BEGAN + 25), Change::Mark, Cause::Tick);
    assert_eq!(cuts([mark.clone(), end.clone()]), [(10, Cause::Death, String::new(), 20)]);
    assert_eq!(cuts([event(15, 0), mark, end]), [(15, Cause::Death, String::new(), 20)]);
}

#[test]
fn a_life_that_may_have_ended_at_its_last_cut_is_lost_from_there_until_its_end_was_noticed() {
    let end = seen(at(BEGAN + 400).uncertain_by(1_000), Change::Ended, Cause::Death);
    assert_eq!(cuts([end.clone()]), [(400, Cause::Death, String::new(), 1_000)]);
    let mut meter = begun();
    let mut slices = Vec::new();
    meter.observe(event(300, 5), &mut |_| {}).unwrap();
    meter.seal(at(BEGAN + 300), &mut |slice| slices.push(slice));
    meter.observe(end, &mut |_| {}).unwrap();
    meter.seal(at(BEGAN + 400), &mut |slice| slices.push(slice));
    let told: Vec<_> = slices.iter().map(|slice| (slice.state, slice.duration_ns)).collect();
    assert_eq!(told, [(BillingState::Running, 300), (BillingState::Lost, 100)]);
    assert_eq!(slices[1].end.uncertainty_ns, 1_000);
    assert!(meter.has_ended());
}

#[test]
fn an_end_is_as_uncertain_as_what_more_may_have_been_held_before_it() {
    let end = seen(at(BEGAN + 30).uncertain_by(20), Change::Ended, Cause::Death);
    assert_eq!(cuts([answer(25, 24, 5), end]), [(10, Cause::Death, String::new(), 24)]);
}

#[test]
fn of_several_at_one_stamp_the_cut_is_as_uncertain_as_the_least_certain_that_changes_something() {
    let vcpus = seen(at(BEGAN + 30).uncertain_by(20), Change::Vcpus(4000), Cause::Resync);
    assert_eq!(cuts([answer(30, 0, 5), vcpus]), [named(30, 20)]);
}

#[test]
fn an_exact_end_replaces_an_uncertain_one_and_keeps_the_command() {
    let gone = commanded(at(BEGAN + 30).uncertain_by(20), Change::Ended, Cause::Destroy, "destroy-1");
    let shutdown = seen(at(BEGAN + 15), Change::Ended, Cause::Shutdown);
    let expected = [(15, Cause::Destroy, "destroy-1".to_owned(), 0)];
    assert_eq!(cuts([gone.clone(), event(20, 3), shutdown.clone()]), expected);
    assert_eq!(cuts([shutdown.clone(), gone.clone()]), expected);
    let mut meter = begun();
    meter.observe(shutdown, &mut |_| {}).unwrap();
    assert_eq!(meter.observe(gone, &mut |_| {}), Ok(Placed::Repeated));
}

#[test]
fn m9_what_comes_after_the_last_final_cut_is_clamped_to_it_and_changes_nothing_final() {
    let mut meter = begun();
    meter.observe(event(20, 5), &mut |_| {}).unwrap();
    let mut slices = Vec::new();
    meter.seal(at(BEGAN + 40), &mut |slice| slices.push(slice));
    let placed = meter.observe(event(5, 7), &mut |_| {});
    assert_eq!(placed, Ok(Placed::Clamped { by_ns: 15 }));
    assert_eq!(meter.observe(event(8, 6), &mut |_| {}), Ok(Placed::Clamped { by_ns: 12 }));
    assert_eq!(meter.pending()[0].at, at(BEGAN + 20).uncertain_by(15));
    meter.seal(at(BEGAN + 50), &mut |slice| slices.push(slice));
    assert_eq!(slices.len(), 1);
    assert_eq!(meter.open().unwrap().shape, shape_with_plugged(6));
    assert_eq!(meter.open().unwrap().start, slices[0].end);
}

#[test]
fn a_mark_holds_no_seal_back_however_uncertain_it_is() {
    let mut meter = begun();
    let mark = seen(at(BEGAN + 40).uncertain_by(35), Change::Mark, Cause::Tick);
    for observation in [event(10, 5), mark] {
        meter.observe(observation, &mut |_| {}).unwrap();
    }
    let mut slices = Vec::new();
    meter.seal(at(BEGAN + 20), &mut |slice| slices.push(slice));
    assert_eq!((slices.len(), meter.pending().len()), (1, 1));
}

fn shape_with_plugged(bytes: u64) -> dormouse_metering::Shape {
    dormouse_metering::Shape { memory_plugged_bytes: bytes, ..shape(0) }
}

#[test]
fn m9_a_seal_waits_for_a_window_that_reaches_behind_it() {
    let mut meter = begun();
    let mut slices = Vec::new();
    meter.observe(event(10, 9), &mut |_| {}).unwrap();
    meter.observe(event(40, 8), &mut |_| {}).unwrap();
    meter.observe(answer(90, 60, 1), &mut |_| {}).unwrap();
    meter.seal(at(BEGAN + 50), &mut |slice| slices.push(slice));
    assert_eq!((slices.len(), meter.pending().len()), (1, 2));
    meter.seal(at(BEGAN + 90), &mut |slice| slices.push(slice));
    assert_eq!((slices.len(), meter.pending().len()), (2, 0));
}

#[test]
fn hours_are_cut_to_the_nanosecond_after_a_gap_of_days() {
    let mut meter = begun();
    let mut slices = Vec::new();
    meter.seal(at(BEGAN + 50 * HOUR), &mut |slice| slices.push(slice));
    assert_eq!(slices.len(), 50);
    let hour = i64::try_from(HOUR).unwrap();
    assert!(slices.iter().all(|slice| slice.end.unix_ns % hour == 0 && slice.end.cause == Cause::Hour));
    let mut often = begun();
    let mut again = Vec::new();
    for minute in 0..=50 * 60 {
        often.seal(at(BEGAN + minute * HOUR / 60), &mut |slice| again.push(slice));
    }
    assert_eq!((slices, meter), (again, often));
}

#[test]
fn what_changes_at_a_full_hour_is_cut_there_once_and_under_its_own_name() {
    let to_hour_ns = HOUR - at(BEGAN).wall_ns.unsigned_abs() % HOUR;
    let on_the_hour = answer(to_hour_ns, 0, 5);
    assert_eq!(cuts([on_the_hour]), [named(to_hour_ns.cast_signed(), 0)]);
}

#[test]
fn a_clock_set_forward_is_bridged_and_one_set_back_stands_still() {
    let hour = i64::try_from(HOUR).unwrap();
    let step = |ns: i64| {
        let mut stamp = at(BEGAN + HOUR / 10);
        stamp.wall_ns += ns;
        let mut meter = begun();
        meter.observe(seen(stamp, Change::Mark, Cause::ClockStep), &mut |_| {}).unwrap();
        let slices = provisional(&meter).0;
        let form = |s: &Slice| (s.duration_ns, s.end.unix_ns - s.start.unix_ns);
        slices.iter().map(form).collect::<Vec<_>>()
    };
    // The life begins at 00:46:40, the step comes 6 minutes later.
    let six = hour / 10;
    assert_eq!(step(0), [(HOUR / 10, six)]);
    assert_eq!(step(5), [(HOUR / 10, six), (0, 5)]);
    assert_eq!(step(hour), [(HOUR / 10, six), (0, 440_000_000_000), (0, hour - 440_000_000_000)]);
    assert_eq!(step(-5), [(5, 0), (HOUR / 10 - 5, six - 5)]);
    assert_eq!(step(-hour), [(HOUR / 10, 0)]);
}

#[test]
fn hours_after_a_clock_that_was_set_back_begin_where_it_stood_still() {
    let mut meter = begun();
    let mut slices = Vec::new();
    // 00:46:40 plus 6 minutes is set back by 20 minutes: the cut stays at 00:46:40 for 14 minutes more.
    let behind = |ns: u64| {
        let mut stamp = at(BEGAN + ns);
        stamp.wall_ns -= HOUR.cast_signed() / 3;
        stamp
    };
    meter.observe(seen(behind(HOUR / 10), Change::Mark, Cause::ClockStep), &mut |_| {}).unwrap();
    meter.seal(behind(2 * HOUR), &mut |slice| slices.push(slice));
    let form = |s: &Slice| (s.duration_ns, s.end.unix_ns - s.start.unix_ns);
    let to_the_hour = HOUR / 3 * 2 / 3; // 13 minutes and 20 seconds
    let expected = [(HOUR / 10, 0), (HOUR / 30 * 7, 0), (to_the_hour, to_the_hour.cast_signed())];
    assert_eq!(slices[..3].iter().map(form).collect::<Vec<_>>(), expected);
    let covered_ns: u64 = slices.iter().map(|slice| slice.duration_ns).sum();
    assert_eq!(meter.open().unwrap().start_boottime_ns, BEGAN + covered_ns);
}

#[test]
fn more_than_the_limit_pending_makes_the_oldest_final() {
    let mut meter = begun();
    let mut emitted = 0;
    for ns in 1..=PENDING_MAX as u64 + 10 {
        meter.observe(event(ns, ns), &mut |_| emitted += 1).unwrap();
    }
    assert_eq!((meter.pending().len(), emitted), (PENDING_MAX, 10));
    assert_eq!(meter.holding().unwrap().0.memory_plugged_bytes, PENDING_MAX as u64 + 10);
}

#[test]
fn a_seal_takes_all_of_an_older_boot_and_nothing_of_a_newer_one() {
    let booted = |ns: u64, plugged| {
        let wall_ns = at(BEGAN + 1000).wall_ns.saturating_add_unsigned(ns);
        let at = Stamp { boot: BootId([2; 16]), boottime_ns: ns, wall_ns, uncertainty_ns: 0 };
        seen(at, Change::Plugged(plugged), Cause::Resize)
    };
    let mut meter = begun();
    for observation in [booted(7, 2), event(20, 1), booted(9, 3)] {
        meter.observe(observation, &mut |_| {}).unwrap();
    }
    let mut sealed = |through| {
        let mut count = 0;
        meter.seal(through, &mut |_| count += 1);
        (count, meter.pending().len())
    };
    let over = Stamp { boot: BootId([3; 16]), ..at(BEGAN - 1) };
    assert_eq!(sealed(over), (0, 3));
    assert_eq!(sealed(at(BEGAN + 10)), (0, 3));
    assert_eq!(sealed(at(u64::MAX / 4)).1, 2);
    let mut meter = begun();
    for observation in [booted(7, 2), event(20, 1), booted(9, 3)] {
        meter.observe(observation, &mut |_| {}).unwrap();
    }
    let mut slices = Vec::new();
    meter.seal(booted(7, 0).at, &mut |slice| slices.push(slice));
    assert_eq!((slices.len(), meter.pending().len()), (2, 1));
    assert_eq!(slices[1].duration_ns, 1000 + 7 - 20);
}

#[test]
fn an_hour_that_the_clock_was_stepped_over_is_no_time_of_what_lasts_across_a_boot() {
    let booted = |ns: u64, stepped_ns| {
        let wall_ns = at(BEGAN + 1000).wall_ns.saturating_add_unsigned(ns + stepped_ns);
        Stamp { boot: BootId([2; 16]), boottime_ns: ns, wall_ns, uncertainty_ns: 0 }
    };
    let mut meter = begun();
    let paused = seen(booted(70, 0).uncertain_by(20), Change::State(BillingState::Paused), Cause::Resync);
    meter.observe(paused, &mut |_| {}).unwrap();
    meter.observe(seen(booted(90, 2 * HOUR), Change::Mark, Cause::ClockStep), &mut |_| {}).unwrap();
    let mut slices = Vec::new();
    for through in [40, 60, 90] {
        meter.seal(booted(through, 2 * HOUR), &mut |slice| slices.push(slice));
    }
    assert_eq!(slices[0].duration_ns, 1000 + 50);
    assert_eq!(slices.iter().map(|slice| slice.duration_ns).sum::<u64>(), 1000 + 90);
}

#[test]
fn an_hour_inside_a_window_waits_with_it() {
    let mut meter = begun();
    let mut slices = Vec::new();
    let to_the_hour = 800_000_000_000;
    let query = |ns, uncertainty_ns| answer(to_the_hour + ns, uncertainty_ns, 5);
    meter.observe(query(50, 60), &mut |_| {}).unwrap();
    meter.seal(at(BEGAN + to_the_hour + 40), &mut |slice| slices.push(slice));
    assert_eq!(slices.len(), 0);
    meter.seal(at(BEGAN + to_the_hour + 50), &mut |slice| slices.push(slice));
    assert_eq!(slices.iter().map(|slice| slice.end.cause).collect::<Vec<_>>(), [Cause::Hour, Cause::Scale]);
}

#[test]
fn what_is_stamped_as_the_end_is_of_this_life_and_nothing_is_clamped_by_nothing() {
    let mut meter = begun();
    let none = &mut |_| {};
    assert_eq!(meter.observe(seen(at(BEGAN + 9), Change::Ended, Cause::Death), none), Ok(Placed::AsStamped));
    let last = seen(at(BEGAN + 9), Change::Plugged(1), Cause::Resize);
    assert_eq!(meter.observe(last, none), Ok(Placed::AsStamped));
    let after = seen(at(BEGAN + 10), Change::Plugged(2), Cause::Resize);
    assert_eq!(meter.observe(after, none), Err(Refused::Ended));
}

#[test]
fn what_a_bill_does_not_show_gives_its_name_to_no_cut() {
    let suppressed = |ns| seen(at(BEGAN + ns), Change::Suppressed(true), Cause::Suppress);
    let lost = seen(at(BEGAN + 1), Change::State(BillingState::Lost), Cause::ProofEnded);
    let tick = seen(at(BEGAN + 2), Change::Mark, Cause::Tick);
    let late = seen(at(BEGAN + 39).uncertain_by(37), Change::Suppressed(true), Cause::Suppress);
    assert_eq!(cuts([lost, tick.clone(), late])[1..], [(2, Cause::Tick, String::new(), 0)]);
    let paused = seen(at(BEGAN + 2), Change::State(BillingState::Paused), Cause::Pause);
    assert_eq!(cuts([suppressed(1), paused, tick])[1..], [(2, Cause::Tick, String::new(), 0)]);
}

#[test]
fn a_suppression_is_known_from_when_it_is_told_until_it_is_taken_back() {
    let mut meter = begun();
    let mut tell = |ns, suppressed| {
        let change = Change::Suppressed(suppressed);
        meter.observe(seen(at(BEGAN + ns), change, Cause::Suppress), &mut |_| {}).unwrap();
        meter.is_suppressed()
    };
    assert_eq!((tell(1, true), tell(2, false)), (true, false));
}
