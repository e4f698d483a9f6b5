//! The audit finds each fault that is put into a sound life, and none in the sound one.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test's name says what it proves, and a panic that it does not"
)]

mod support;

use dormouse_metering::audit::audit;
use dormouse_metering::{Cause, Change, CommandId, OpenSlice, Slice};
use support::*;

/// Four slices and an open one: plugged by command, ticked, set forward, across an hour.
fn sound() -> (Vec<Slice>, OpenSlice) {
    let mut meter = begun();
    let none = &mut |_| {};
    meter.observe(commanded(at(BEGAN + 10), Change::Plugged(5), Cause::Scale, "scale-1"), none).unwrap();
    meter.observe(seen(at(BEGAN + 20).uncertain_by(3), Change::Plugged(6), Cause::Resize), none).unwrap();
    meter.observe(seen(at(BEGAN + HOUR), Change::Mark, Cause::Tick), none).unwrap();
    let (slices, open) = provisional(&meter);
    (slices, open.unwrap())
}

fn found(break_it: impl FnOnce(&mut Vec<Slice>, &mut OpenSlice)) -> Vec<(u64, &'static str)> {
    let (mut slices, mut open) = sound();
    break_it(&mut slices, &mut open);
    let mut found = Vec::new();
    audit(&slices, Some(&open), &mut |violation| {
        assert!(violation.to_string().starts_with(&format!("slice {}: ", violation.seq)));
        found.push((violation.seq, violation.kind.reason()));
    });
    found
}

#[test]
fn a_sound_life_has_no_violation() {
    assert_eq!(sound().0.len(), 4);
    assert_eq!(found(|_, _| {}), []);
}

#[test]
fn each_fault_is_found_where_it_is() {
    assert_eq!(found(|slices, _| slices[1].seq = 7), [(7, "AUDIT_SEQ"), (3, "AUDIT_SEQ")]);
    assert_eq!(found(|slices, _| drop(slices.remove(0))), [(2, "AUDIT_SEQ"), (2, "AUDIT_UNNAMED")][..1]);
    assert_eq!(found(|_, open| open.seq = 4), [(4, "AUDIT_SEQ")]);
    assert_eq!(found(|_, open| open.start.unix_ns += 1), [(5, "AUDIT_GAP")]);
    assert_eq!(found(|_, open| open.start.unix_ns -= 1), [(5, "AUDIT_OVERLAP")]);
    assert_eq!(found(|_, open| open.start.cause = Cause::Hour), [(5, "AUDIT_CAUSE")]);
    assert_eq!(found(|slices, _| slices[2].start.uncertainty_ns = 0), [(3, "AUDIT_UNCERTAINTY")]);
    let other = Some(CommandId::new("scale-2"));
    assert_eq!(found(|slices, _| slices[1].start.command = other), [(2, "AUDIT_COMMAND")]);
    assert_eq!(found(|slices, _| slices[1].duration_ns += 1), [(2, "AUDIT_DURATION")]);
    let unnamed = |slices: &mut Vec<Slice>| {
        slices[0].end.command = None;
        slices[1].start.command = None;
    };
    assert_eq!(found(|slices, _| unnamed(slices)), [(1, "AUDIT_UNNAMED")]);
    assert_eq!(found(|slices, _| slices[0].start.cause = Cause::Wake), [(1, "AUDIT_UNNAMED")]);
}

#[test]
fn a_slice_that_runs_backwards_or_is_nothing_or_crosses_an_hour_is_found() {
    let reaching = |end_ns: i64, duration_ns| {
        found(|slices, open| {
            let last = slices.last_mut().unwrap();
            last.end.unix_ns = last.start.unix_ns + end_ns;
            last.duration_ns = duration_ns;
            open.start.unix_ns = last.end.unix_ns;
        })
    };
    assert_eq!(reaching(-1, 1), [(4, "AUDIT_BACKWARDS")]);
    assert_eq!(reaching(0, 0), [(4, "AUDIT_EMPTY")]);
    assert_eq!(reaching(0, 5), []);
    assert_eq!(reaching(5, 0), []);
    let hour = i64::try_from(HOUR).unwrap();
    assert_eq!(reaching(hour, HOUR), []);
    assert_eq!(reaching(hour + 1, HOUR + 1), [(4, "AUDIT_CROSSES_HOUR")]);
    assert_eq!(reaching(hour + 1, 0), [(4, "AUDIT_CROSSES_HOUR")]);
}
