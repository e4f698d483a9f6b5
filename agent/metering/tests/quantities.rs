//! What slices amount to, and what lies in a window.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test's name says what it proves, and a panic that it does not"
)]

mod support;

use dormouse_metering::{
    Basis, BillingState, Boundary, Cause, Dimensions, Policy, Quantities, Shape, Slice, clip,
};
use support::shape;

fn of(state: BillingState, basis: Basis, policy: &Policy) -> Quantities {
    let shape = Shape {
        vcpus_milli: 1500,
        memory_base_bytes: 100,
        memory_plugged_bytes: 30,
        memory_requested_bytes: 50,
        disk_bytes: 12,
    };
    Quantities::of(state, &shape, 7, policy, basis, 10).unwrap()
}

#[test]
fn the_basis_chooses_between_plugged_and_requested() {
    let memory = |basis| of(BillingState::Running, basis, &Policy::default()).memory_byte_ns;
    assert_eq!(memory(Basis::default()), 910);
    assert_eq!(memory(Basis::Plugged), 910);
    assert_eq!(memory(Basis::Requested), 1050);
    assert_eq!(memory(Basis::Greater), 1050);
    assert_eq!(memory(Basis::Lesser), 910);
}

#[test]
fn the_policy_chooses_what_is_billed() {
    let all =
        Quantities { memory_byte_ns: 910, vcpu_milli_ns: 10_500, disk_byte_ns: 84, disk_overage_byte_ns: 14 };
    let disk = Quantities { memory_byte_ns: 0, vcpu_milli_ns: 0, ..all };
    let mut policy = Policy::default();
    assert_eq!(of(BillingState::Running, Basis::Plugged, &policy), all);
    assert_eq!(of(BillingState::Paused, Basis::Plugged, &policy), disk);
    assert_eq!(of(BillingState::Lost, Basis::Plugged, &policy), Quantities::default());
    policy.set("paused", Dimensions { vcpu: true, ..Dimensions::NONE }).unwrap();
    let vcpu = Quantities { vcpu_milli_ns: 10_500, ..Quantities::default() };
    assert_eq!(of(BillingState::Paused, Basis::Plugged, &policy), vcpu);
}

#[test]
fn disk_below_the_allowance_is_no_overage() {
    let amount =
        Quantities::of(BillingState::Running, &shape(0), 9, &Policy::default(), Basis::Plugged, u64::MAX);
    assert_eq!(amount.unwrap().disk_overage_byte_ns, 0);
}

#[test]
fn what_no_integer_can_hold_is_refused() {
    let huge = Shape { memory_base_bytes: u64::MAX, memory_plugged_bytes: u64::MAX, ..Shape::default() };
    let of = |ns| Quantities::of(BillingState::Running, &huge, ns, &Policy::default(), Basis::Plugged, 0);
    assert_eq!(of(u64::MAX), None);
    let half = of(u64::MAX / 4 - 1).unwrap();
    assert_eq!(half.checked_add(half).and_then(|sum| sum.checked_add(half)), None);
    assert_eq!(half.checked_add(Quantities::default()), Some(half));
}

fn slice(start_ns: i64, end_ns: i64, duration_ns: u64) -> Slice {
    let edge = |unix_ns| Boundary { unix_ns, uncertainty_ns: 0, cause: Cause::Tick, command: None };
    let state = BillingState::Running;
    Slice { seq: 1, state, shape: shape(0), duration_ns, start: edge(start_ns), end: edge(end_ns) }
}

#[test]
fn a_window_takes_from_each_form_of_slice_what_lies_in_it() {
    let ordinary = slice(10, 20, 10);
    assert_eq!(clip(&ordinary, &(0..100)), 10);
    assert_eq!(clip(&ordinary, &(12..15)), 3);
    assert_eq!(clip(&ordinary, &(0..10)), 0);
    assert_eq!(clip(&ordinary, &(20..30)), 0);
    assert_eq!(clip(&ordinary, &(15..100)), 5);
    assert_eq!(clip(&slice(10, 20, 0), &(0..100)), 0);
    let still = slice(10, 10, 99);
    assert_eq!(clip(&still, &(0..10)), 0);
    assert_eq!(clip(&still, &(10..11)), 99);
    assert_eq!(clip(&slice(i64::MIN, i64::MAX, u64::MAX), &(i64::MIN..i64::MAX)), u64::MAX);
}

#[test]
fn suppressed_time_costs_nothing_but_its_disk() {
    let held = Shape { vcpus_milli: 2_000, memory_base_bytes: 3, disk_bytes: 10, ..Shape::default() };
    let policy = Policy::default();
    let amount = Quantities::of(BillingState::Suppressed, &held, 5, &policy, Basis::Plugged, 4).unwrap();
    assert_eq!((amount.memory_byte_ns, amount.vcpu_milli_ns), (0, 0));
    assert_eq!((amount.disk_byte_ns, amount.disk_overage_byte_ns), (50, 30));
}
