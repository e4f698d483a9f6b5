use super::*;

const SECOND_NS: u64 = 1_000_000_000;
const HOUR_NS: i64 = 3_600 * 1_000_000_000;
const WALL_NS: i64 = 1_700_000_000 * 1_000_000_000;
const BOOT: BootId = BootId([7; 16]);

#[test]
fn the_machine_s_clock_goes_forward_and_stands_on_its_wall_clock() {
    let (clock, beginning) = Clock::start(None).unwrap();
    assert_eq!(beginning, Beginning::NewBoot);
    let earlier = clock.now();
    let later = clock.now();
    assert_eq!(earlier.boot, boot_id().unwrap());
    assert!(later.boottime_ns >= earlier.boottime_ns);
    assert_eq!(later.uncertainty_ns, 0);
    assert_eq!(clock.notice_step(), None);
}

#[test]
fn the_machine_s_anchor_is_kept_by_the_next_start() {
    let (first, _) = Clock::start(None).unwrap();
    let (second, beginning) = Clock::start(Some(first.anchor())).unwrap();
    assert_eq!(beginning, Beginning::Kept);
    assert_eq!(second.anchor(), first.anchor());
}

#[test]
fn another_boot_takes_a_new_anchor() {
    let (clock, _) = Clock::start(None).unwrap();
    let other = Anchor { boot: BOOT, ..clock.anchor() };
    let (clock, beginning) = Clock::start(Some(other)).unwrap();
    assert_eq!(beginning, Beginning::NewBoot);
    assert_ne!(clock.anchor().boot, BOOT);
    assert_eq!(clock.anchor().stepped_ns, 0);
}

#[test]
fn a_step_while_the_agent_was_down_is_found_at_its_start() {
    let (clock, time) = Clock::simulated(BOOT, WALL_NS);
    time.advance(SECOND_NS);
    time.step_wall(-HOUR_NS);
    let (restarted, beginning) = Clock::simulated_restart(BOOT, &time, Some(clock.anchor()));
    let Beginning::Stepped(step) = beginning else { panic!("{beginning:?}") };
    assert_eq!(step.anchor.stepped_ns, -HOUR_NS);
    assert_eq!(step.at, clock.now());
    assert_eq!(restarted.now().wall_ns, clock.now().wall_ns - HOUR_NS);
    assert_eq!(restarted.now().boottime_ns, clock.now().boottime_ns);
}

#[test]
fn a_clock_that_stands_still_gives_the_same_moment() {
    let (clock, _time) = Clock::simulated(BOOT, WALL_NS);
    assert_eq!(clock.now(), clock.now());
}

#[test]
fn a_drift_is_let_be_until_it_passes_the_tolerance() {
    let (clock, time) = Clock::simulated(BOOT, WALL_NS);
    time.drift(1_000_000);
    time.advance(10 * SECOND_NS);
    assert_eq!(clock.notice_step(), None);
    assert_eq!(clock.now().wall_ns, WALL_NS + 10 * 1_000_000_000);
    time.advance(SECOND_NS);
    let step = clock.notice_step().unwrap();
    assert_eq!(step.anchor.stepped_ns, 11_000_000);
    assert_eq!(clock.notice_step(), None, "a step is told once");
}

#[tokio::test]
async fn steps_of_an_hour_both_ways_are_yielded_with_the_anchor_that_follows() {
    let (clock, time) = Clock::simulated(BOOT, WALL_NS);
    let mut steps = clock.steps().unwrap();
    for hour_ns in [HOUR_NS, -HOUR_NS] {
        time.advance(SECOND_NS);
        let before = clock.now();
        time.step_wall(hour_ns);
        let step = steps.recv().await.unwrap();
        assert_eq!(step.at, before);
        assert_eq!(step.anchor, clock.anchor());
        assert_eq!(clock.now().wall_ns, before.wall_ns + hour_ns);
        assert_eq!(clock.now().boottime_ns, before.boottime_ns);
    }
}

#[tokio::test]
async fn the_machine_s_steps_can_be_watched() {
    let (clock, _) = Clock::start(None).unwrap();
    let mut steps = clock.steps().unwrap();
    tokio::task::yield_now().await;
    assert!(steps.try_recv().is_err());
}

mod qemu_events {
    use super::*;

    /// A clock that has run for 100 s, the last final cut 5 s ago, and the moment of arrival.
    fn arrived() -> (Clock, Arc<ManualTime>, Stamp, Stamp) {
        let (clock, time) = Clock::simulated(BOOT, WALL_NS);
        time.advance(95 * SECOND_NS);
        let not_before = clock.now();
        time.advance(5 * SECOND_NS);
        let arrival = clock.now();
        (clock, time, not_before, arrival)
    }

    #[test]
    fn a_late_event_is_placed_where_qemu_stamped_it() {
        let (clock, _time, not_before, arrival) = arrived();
        let event_unix_ns = arrival.wall_ns - 960_900_000;
        let placed = clock.from_qemu(Some(event_unix_ns), not_before, arrival);
        assert_eq!(placed.wall_ns, event_unix_ns + 999);
        assert_eq!(placed.boottime_ns, arrival.boottime_ns - 960_900_000 + 999);
        assert_eq!(placed.uncertainty_ns, 999);
    }

    #[test]
    fn no_timestamp_gives_the_arrival_with_the_window_as_uncertainty() {
        let (clock, _time, not_before, arrival) = arrived();
        for missing in [None, Some(-1), Some(-1_000_000_000)] {
            let placed = clock.from_qemu(missing, not_before, arrival);
            assert_eq!(placed, arrival.uncertain_by(5 * SECOND_NS));
        }
    }

    #[test]
    fn a_timestamp_that_cannot_be_so_counts_as_none() {
        let (clock, _time, not_before, arrival) = arrived();
        for wall_ns in [arrival.wall_ns + HOUR_NS, arrival.wall_ns - HOUR_NS, 1, i64::MAX] {
            let placed = clock.from_qemu(Some(wall_ns), not_before, arrival);
            assert_eq!(placed, arrival.uncertain_by(5 * SECOND_NS));
        }
    }

    #[test]
    fn an_event_from_before_the_last_final_cut_is_clamped_to_it() {
        let (clock, _time, not_before, arrival) = arrived();
        let placed = clock.from_qemu(Some(not_before.wall_ns - 1_000_000), not_before, arrival);
        assert_eq!(placed, not_before.uncertain_by(1_000_000));
    }

    #[test]
    fn an_event_just_ahead_of_its_arrival_is_clamped_to_it() {
        let (clock, _time, not_before, arrival) = arrived();
        let placed = clock.from_qemu(Some(arrival.wall_ns + 1_000), not_before, arrival);
        assert_eq!(placed, arrival.uncertain_by(1_000));
    }

    #[test]
    fn a_final_cut_of_an_earlier_boot_bounds_nothing() {
        let (clock, _time, not_before, arrival) = arrived();
        let not_before = Stamp { boot: BootId([9; 16]), boottime_ns: u64::MAX, ..not_before };
        let placed = clock.from_qemu(None, not_before, arrival);
        assert_eq!(placed, arrival.uncertain_by(arrival.boottime_ns));
    }

    #[test]
    fn an_event_stamped_before_a_step_is_covered_by_its_uncertainty() {
        for noticed in [false, true] {
            let (clock, time) = Clock::simulated(BOOT, WALL_NS);
            time.advance(95 * SECOND_NS);
            let not_before = clock.now();
            time.advance(SECOND_NS);
            let happened = clock.now();
            time.advance(SECOND_NS / 10);
            time.step_wall(500_000_000);
            if noticed {
                clock.notice_step().unwrap();
            }
            time.advance(SECOND_NS);
            let placed = clock.from_qemu(Some(happened.wall_ns), not_before, clock.now());
            let earliest_ns = placed.boottime_ns - placed.uncertainty_ns;
            assert!((earliest_ns..=placed.boottime_ns).contains(&happened.boottime_ns), "{placed:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_placed_event_lies_in_its_window_and_covers_the_truth(
            final_ns in 0..10 * SECOND_NS,
            after_ns in 0..5 * SECOND_NS,
            late_ns in 0..2 * SECOND_NS,
            stepped_ns in -HOUR_NS..HOUR_NS,
            noticed: bool,
        ) {
            let (clock, time) = Clock::simulated(BOOT, WALL_NS);
            time.advance(final_ns);
            let not_before = clock.now();
            time.advance(after_ns);
            let happened = clock.now();
            time.step_wall(stepped_ns);
            if noticed {
                clock.notice_step();
            }
            time.advance(late_ns);
            let arrival = clock.now();
            let event_unix_ns = happened.wall_ns / 1_000 * 1_000;
            let placed = clock.from_qemu(Some(event_unix_ns), not_before, arrival);
            let earliest_ns = placed.boottime_ns.saturating_sub(placed.uncertainty_ns);
            proptest::prop_assert!(placed.boottime_ns >= not_before.boottime_ns);
            proptest::prop_assert!(placed.boottime_ns <= arrival.boottime_ns);
            // A step within the tolerance is not seen, and is all that may be missed.
            let tolerance_ns = STEP_TOLERANCE_NS;
            proptest::prop_assert!(earliest_ns <= happened.boottime_ns.saturating_add(tolerance_ns));
            proptest::prop_assert!(happened.boottime_ns <= placed.boottime_ns.saturating_add(tolerance_ns));
        }
    }
}
