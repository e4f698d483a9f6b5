//! How many observations a meter takes per second: `cargo run --release -p dormouse-metering --example throughput`.

use std::hint::black_box;
use std::time::Instant;

use dormouse_metering::{BillingState, BootId, Cause, Change, Meter, Observation, Shape, Stamp};

const OBSERVATIONS: u64 = 20_000_000;

fn main() {
    for between_seals in [1, 4, 32] {
        #[expect(clippy::disallowed_methods, reason = "this measures, and meters nothing")]
        let started = Instant::now();
        let slices = run(between_seals);
        let elapsed_ns = started.elapsed().as_nanos().max(1);
        let per_second = u128::from(OBSERVATIONS) * 1_000_000_000 / elapsed_ns;
        println!("{per_second} observations/s, sealed after every {between_seals}, {slices} slices");
    }
}

/// Feeds observations 1 ms apart, each of which changes the plugged memory, and counts the slices.
fn run(between_seals: u64) -> u64 {
    let origin = Stamp {
        boot: BootId([7; 16]),
        boottime_ns: 0,
        wall_ns: 1_767_225_600_000_000_000,
        uncertainty_ns: 0,
    };
    let began = Change::Began(Shape::default(), BillingState::Running);
    let mut slices = 0;
    let mut count = |slice| {
        black_box(&slice);
        slices += 1;
    };
    let mut meter = Meter::new();
    let seen = |at, change| Observation { at, change, cause: Cause::Resize, command: None };
    let _ = meter.observe(seen(origin, began), &mut count);
    for number in 1..=OBSERVATIONS {
        let at = origin.later_by(number * 1_000_000);
        let _ = black_box(meter.observe(black_box(seen(at, Change::Plugged(number))), &mut count));
        if number % between_seals == 0 {
            meter.seal(at, &mut count);
        }
    }
    slices
}
