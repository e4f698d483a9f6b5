//! Whatever a meter is told, in whatever order: reboots, ends in the middle, late and senseless stamps.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test's name says what it proves, and a panic that it does not"
)]

mod support;

use dormouse_metering::audit::audit;
use dormouse_metering::meter::PENDING_MAX;
use dormouse_metering::{BootId, Cause, Change, Meter, Observation, Refused, Slice, Stamp};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use support::*;

#[derive(Clone, Debug)]
enum Input {
    Observe(Observation),
    Seal(Stamp),
}

fn stamps() -> impl Strategy<Value = Stamp> {
    let time = prop_oneof![3 => 0..200_u64, 1 => 0..5 * HOUR];
    let wall =
        prop_oneof![3 => Just(0), 1 => -50..50_i64, 1 => -6 * HOUR.cast_signed()..6 * HOUR.cast_signed()];
    let boot = prop_oneof![4 => Just(1), 1 => 1..4_u8];
    let uncertainty = prop_oneof![Just(0), 0..100_u64, 0..HOUR];
    (boot, time, wall, uncertainty).prop_map(|(boot, time, wall, uncertainty_ns)| Stamp {
        boot: BootId([boot; 16]),
        boottime_ns: time,
        wall_ns: WALL + i64::from(boot) * 1000 + time.cast_signed() + wall,
        uncertainty_ns,
    })
}

fn inputs() -> impl Strategy<Value = Input> {
    let changes = prop_oneof![20 => changes(), 1 => Just(Change::Ended)];
    let observe = (stamps(), changes, any::<bool>()).prop_map(|(at, change, by_command)| {
        Input::Observe(if by_command {
            commanded(at, change, Cause::Scale, "command")
        } else {
            seen(at, change, Cause::Resize)
        })
    });
    prop_oneof![5 => observe, 1 => stamps().prop_map(Input::Seal)]
}

fn begin() -> impl Strategy<Value = Meter> {
    (stamps(), shapes(), states()).prop_map(|(at, shape, state)| {
        let mut meter = Meter::new();
        meter.observe(seen(at, Change::Began(shape, state), Cause::Attach), &mut |_| {}).unwrap();
        meter
    })
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(2000),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..default
    }
}

fn take(meter: &mut Meter, input: &Input, slices: &mut Vec<Slice>) {
    match input {
        Input::Observe(observation) => {
            let before = meter.clone();
            let mut emitted = 0;
            let count = &mut |slice| {
                emitted += 1;
                slices.push(slice);
            };
            if meter.observe(observation.clone(), count).is_err() {
                assert_eq!((&before, emitted), (&*meter, 0), "a refused observation changed something");
            }
        }
        Input::Seal(through) => meter.seal(*through, &mut |slice| slices.push(slice)),
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn m1_tiling_holds_whatever_the_meter_is_told(
        mut meter in begin(),
        inputs in prop::collection::vec(inputs(), 0..100),
    ) {
        let mut slices = Vec::new();
        for input in &inputs {
            take(&mut meter, input, &mut slices);
            prop_assert!(meter.pending().len() <= PENDING_MAX);
            let resumed = Meter::resume(meter.open().cloned(), meter.pending().to_vec());
            prop_assert!(meter.has_ended() || resumed == Ok(meter.clone()));
        }
        let (rest, open) = provisional(&meter);
        prop_assert_eq!(open.as_ref().map(|open| (open.shape, open.beneath.unwrap_or(open.state))), meter.holding());
        slices.extend(rest);
        let mut violations = Vec::new();
        audit(&slices, open.as_ref(), &mut |violation| violations.push(violation.to_string()));
        prop_assert_eq!(violations, Vec::<String>::new());
    }

    #[test]
    fn m8_a_life_across_reboots_lasts_as_long_as_each_boot_and_the_wall_between_them(
        gaps in prop::collection::vec((1..5 * HOUR, 0..5 * HOUR), 1..6),
    ) {
        let mut meter = begun();
        let (mut wall_ns, mut expected) = (at(BEGAN).wall_ns, 0);
        for (index, (within_ns, down_ns)) in gaps.iter().enumerate() {
            let boot = BootId([2 + u8::try_from(index).unwrap(); 16]);
            wall_ns += i64::try_from(*down_ns).unwrap();
            let booted = Stamp { boot, boottime_ns: 7, wall_ns, uncertainty_ns: 0 };
            meter.observe(seen(booted, Change::Plugged(0), Cause::Resync), &mut |_| {}).unwrap();
            let later = booted.later_by(*within_ns);
            meter.observe(seen(later, Change::Mark, Cause::Tick), &mut |_| {}).unwrap();
            wall_ns = later.wall_ns;
            expected += within_ns + down_ns;
        }
        let (slices, _) = provisional(&meter);
        prop_assert_eq!(slices.iter().map(|slice| slice.duration_ns).sum::<u64>(), expected);
        let boots = slices.iter().filter(|slice| slice.end.cause == Cause::HostBoot).count();
        prop_assert_eq!(boots, gaps.iter().filter(|(_, down_ns)| *down_ns > 0).count());
    }
}

#[test]
fn a_life_begins_once_and_ends_once() {
    let none = &mut |_| {};
    let began =
        seen(at(BEGAN), Change::Began(shape(0), dormouse_metering::BillingState::Running), Cause::Attach);
    let plugged = |ns| seen(at(ns), Change::Plugged(1), Cause::Resize);
    let mut meter = Meter::new();
    assert_eq!(meter.observe(plugged(BEGAN), none), Err(Refused::NotBegun));
    meter.observe(began.clone(), none).unwrap();
    assert_eq!(meter.observe(began.clone(), none), Err(Refused::AlreadyBegun));
    meter.observe(seen(at(BEGAN + 10), Change::Ended, Cause::Shutdown), none).unwrap();
    assert_eq!(meter.observe(plugged(BEGAN + 11), none), Err(Refused::Ended));
    meter.observe(plugged(BEGAN + 9), none).unwrap();
    meter.seal(at(BEGAN + 10), none);
    assert!(meter.has_ended() && meter.open().is_none() && meter.pending().is_empty());
    assert_eq!(meter.observe(plugged(BEGAN + 9), none), Err(Refused::Ended));
    assert_eq!(meter.observe(began, none), Err(Refused::Ended));
    assert_eq!(Meter::resume(None, [plugged(BEGAN)]), Err(Refused::NotBegun));
}
