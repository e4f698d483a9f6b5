//! Each invariant of the meter, against random histories. Any history may be replayed by its proptest seed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test's name says what it proves, and a panic that it does not"
)]

mod support;

use std::collections::BTreeMap;

use dormouse_metering::audit::audit;
use dormouse_metering::{
    Basis, BillingState, Cause, Change, Meter, Observation, OpenSlice, Policy, Quantities, Slice, clip,
};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use support::*;

fn violations(slices: &[Slice], open: Option<&OpenSlice>) -> Vec<String> {
    let mut all = Vec::new();
    audit(slices, open, &mut |violation| all.push(format!("{}: {violation}", violation.kind.reason())));
    all
}

/// What slices amount to for a bill.
fn total<'a>(slices: impl IntoIterator<Item = (&'a Slice, u64)>) -> Quantities {
    slices.into_iter().fold(Quantities::default(), |sum, (slice, duration_ns)| {
        let policy = Policy::default();
        let amount =
            Quantities::of(slice.state, &slice.shape, duration_ns, &policy, Basis::Greater, 1).unwrap();
        sum.checked_add(amount).unwrap()
    })
}

fn whole(slices: &[Slice]) -> impl Iterator<Item = (&Slice, u64)> {
    slices.iter().map(|slice| (slice, slice.duration_ns))
}

/// Time by what was held, up to the last stamp, in nanoseconds.
fn by_holding(
    (slices, open): &(Vec<Slice>, Option<OpenSlice>),
    history: &History,
) -> BTreeMap<[u64; COMPONENTS], u64> {
    let mut sums = BTreeMap::new();
    let last_ns = history.stamped.last().map_or(BEGAN, |last| last.at.boottime_ns);
    if let Some(open) = open.as_ref().filter(|open| open.start_boottime_ns < last_ns) {
        sums.insert(values(&open.shape, open.state), last_ns - open.start_boottime_ns);
    }
    for slice in slices.iter().filter(|slice| slice.duration_ns > 0) {
        *sums.entry(values(&slice.shape, slice.state)).or_default() += slice.duration_ns;
    }
    sums
}

/// Feeds a history with seals where nothing that arrives later can still matter, chosen by `pick`.
fn fed_in_time(history: &History, pick: &[u64], resume: bool) -> (Vec<Slice>, Option<OpenSlice>) {
    let (mut meter, mut slices) = (history.meter(), Vec::new());
    for (index, observation) in history.arriving.iter().enumerate() {
        let share = pick.get(index).copied().unwrap_or(0) % 4;
        if let Some(quiet) = history.quiet_ns(index).checked_sub(BEGAN).filter(|_| share > 0) {
            let through = BEGAN + if share == 3 { quiet } else { quiet / 3 * share };
            meter.seal(history.stamp(through), &mut |slice| slices.push(slice));
        }
        if resume {
            meter = Meter::resume(meter.open().cloned(), meter.pending().to_vec()).unwrap();
        }
        meter.observe(observation.clone(), &mut |slice| slices.push(slice)).unwrap();
    }
    let (rest, open) = provisional(&meter);
    slices.extend(rest);
    (slices, open)
}

/// At least 2,000 cases of each; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(2000),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn m1_tiling_every_nanosecond_is_in_one_slice_and_holds_what_the_definition_says(
        history in histories(ANY_STEP),
    ) {
        let (slices, open) = history.settled();
        prop_assert_eq!(violations(&slices, open.as_ref()), Vec::<String>::new());
        let placed = by_boottime(&slices);
        let end = oracle_end(&history);
        let covered = BEGAN + slices.iter().map(|slice| slice.duration_ns).sum::<u64>();
        prop_assert_eq!(covered, end.unwrap_or_else(|| open.as_ref().unwrap().start_boottime_ns));
        prop_assert_eq!(open.is_none(), end.is_some());
        for at_ns in instants(&history).into_iter().filter(|at_ns| end.is_none_or(|end| *at_ns < end)) {
            prop_assert_eq!(held(&placed, open.as_ref(), at_ns), Some(oracle(&history, at_ns)), "{}", at_ns);
        }
    }

    #[test]
    fn m1_no_slice_is_cut_without_a_reason(history in histories(ANY_STEP)) {
        let (slices, open) = history.settled();
        let changed = |a: &Slice, b: Option<(&_, &_)>| b.is_some_and(|b| (&a.shape, &a.state) != b);
        for (index, slice) in slices.iter().enumerate() {
            let next = slices.get(index + 1).map(|next| (&next.shape, &next.state));
            let next = next.or(open.as_ref().map(|open| (&open.shape, &open.state)));
            let timed = [Cause::Hour, Cause::Tick, Cause::ClockStep].contains(&slice.end.cause);
            prop_assert!(timed || next.is_none() || changed(slice, next), "{:?}", slice);
        }
    }

    #[test]
    fn m2_additivity_no_cut_and_no_window_changes_a_total(
        history in histories(ANY_STEP),
        marks in prop::collection::vec(0..3 * HOUR, 0..8),
        edges in prop::collection::btree_set(0..12 * HOUR, 1..8),
    ) {
        let mut history = history;
        let until_ns = oracle_end(&history).unwrap_or(history.stamped.last().map_or(BEGAN, |o| o.at.boottime_ns) + 1);
        if oracle_end(&history).is_none() {
            history.arriving.push(seen(history.stamp(until_ns), Change::Mark, Cause::Tick));
        }
        let (slices, _) = history.settled();
        let expected = total(whole(&slices));
        let mut more = history.clone();
        for mark_ns in marks.into_iter().map(|mark| BEGAN + mark).filter(|mark_ns| *mark_ns < until_ns) {
            more.arriving.insert(0, seen(history.stamp(mark_ns), Change::Mark, Cause::Tick));
        }
        prop_assert_eq!(total(whole(&more.settled().0)), expected);

        let edges: Vec<i64> = edges.into_iter().map(|edge| at(BEGAN + edge).wall_ns - 3 * HOUR.cast_signed()).collect();
        let windows = [i64::MIN].iter().chain(&edges).zip(edges.iter().chain([&i64::MAX]));
        let parts = windows.map(|(from, to)| total(slices.iter().map(|s| (s, clip(s, &(*from..*to))))));
        prop_assert_eq!(parts.fold(Quantities::default(), |a, b| a.checked_add(b).unwrap()), expected);
    }

    #[test]
    fn m3_causes_chain_and_every_cut_by_a_command_names_it(history in histories(ANY_STEP)) {
        let (slices, open) = history.settled();
        prop_assert_eq!(violations(&slices, open.as_ref()), Vec::<String>::new());
        let named = |o: &Observation| {
            let cuts = by_boottime(&slices).into_iter().map(|(from, slice)| (from + slice.duration_ns, &slice.end));
            cuts.filter(|(_, end)| end.command == o.command).map(|(at, _)| at).collect::<Vec<_>>()
        };
        let window = |o: &Observation| o.at.boottime_ns - o.at.uncertainty_ns..=o.at.boottime_ns;
        let end_ns = oracle_end(&history).unwrap_or(u64::MAX);
        for o in history.stamped.iter().filter(|o| o.command.is_some()) {
            prop_assert!(named(o).iter().all(|at_ns| window(o).contains(at_ns)));
            let (from, to) = window(o).into_inner();
            let same = |other: &Observation| {
                let exact = other.at.uncertainty_ns == 0 && other.command.is_none();
                other == o || exact && other.change == o.change && window(o).contains(&other.at.boottime_ns)
            };
            let mixed = history.stamped.iter().filter(|other| !same(other)).any(|other| {
                let (other_from, other_to) = window(other).into_inner();
                other_from <= to && from <= other_to
            });
            let changes = from > BEGAN && truth(&history, from - 1) != truth(&history, to);
            if changes && !mixed && to < end_ns {
                prop_assert!(!named(o).is_empty(), "{:?} {:?}", o, slices);
            }
        }
    }

    #[test]
    fn m8_time_a_stepped_clock_bills_nothing_and_loses_nothing(history in histories(ANY_STEP)) {
        let mut steady = history.clone();
        for observation in &mut steady.arriving {
            observation.at.wall_ns = at(observation.at.boottime_ns).wall_ns;
        }
        prop_assert_eq!(by_holding(&history.settled(), &history), by_holding(&steady.settled(), &history));
    }

    #[test]
    fn m9_late_events_are_placed_by_their_stamps_whatever_order_they_arrive_in(
        (history, shuffled) in histories(ANY_STEP).prop_flat_map(|history| {
            let arriving = Just(history.arriving.clone()).prop_shuffle();
            (Just(history), arriving)
        }),
    ) {
        let mut other = history.clone();
        other.arriving = shuffled;
        let ended = other.arriving.iter().position(|o| o.change == Change::Ended);
        // Marks behind the end are refused when they come after it, and dropped when they come before it.
        if ended.is_none() || ended == Some(other.arriving.len() - 1) {
            prop_assert_eq!(history.settled(), other.settled());
        }
    }

    #[test]
    fn m9_sealing_often_or_rarely_gives_the_same_slices_when_everything_arrives_in_time(
        history in histories(FORWARD),
        pick in prop::collection::vec(any::<u64>(), 12),
    ) {
        prop_assert_eq!(fed_in_time(&history, &pick, false), history.settled());
    }

    #[test]
    fn m9_a_step_back_that_is_sealed_late_moves_slices_but_no_time(
        history in histories(ANY_STEP),
        pick in prop::collection::vec(any::<u64>(), 12),
    ) {
        let (slices, open) = fed_in_time(&history, &pick, false);
        prop_assert_eq!(violations(&slices, open.as_ref()), Vec::<String>::new());
        let often = by_holding(&(slices, open), &history);
        prop_assert_eq!(often, by_holding(&history.settled(), &history));
    }

    #[test]
    fn recovery_goes_on_as_if_nothing_had_happened(
        history in histories(ANY_STEP),
        pick in prop::collection::vec(any::<u64>(), 12),
    ) {
        prop_assert_eq!(fed_in_time(&history, &pick, true), fed_in_time(&history, &pick, false));
    }

    #[test]
    fn nothing_is_ever_billed_that_was_not_held(
        history in histories(ANY_STEP),
        pick in prop::collection::vec(any::<u64>(), 12),
    ) {
        let (slices, open) = fed_in_time(&history, &pick, false);
        let placed = by_boottime(&slices);
        let died = history.truth.last().filter(|(_, change)| *change == Change::Ended);
        for at_ns in instants(&history) {
            let Some(held) = held(&placed, open.as_ref(), at_ns) else { continue };
            if held[0] == values(&shape(0), BillingState::Lost)[0] {
                // What is lost is not billed, whatever it held before.
                continue;
            }
            prop_assert!(died.is_none_or(|(died, _)| at_ns < *died), "billed after its end at {}", at_ns);
            let truth = truth(&history, at_ns);
            prop_assert!(held[0] / 100 <= truth[0] / 100, "state at {}", at_ns);
            prop_assert!((1..COMPONENTS).all(|c| held[c] <= truth[c]), "{:?} > {:?}", held, truth);
        }
    }
}
