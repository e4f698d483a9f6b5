//! The meter: how many observations a second it takes on one core, and what it allocates for them.

use std::hint::black_box;

use dormouse_metering::{BillingState, BootId, Cause, Change, Meter, Observation, Shape, Stamp};

use crate::report::{Goal, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size, allocations};

const RUNS: usize = 7;

/// Observations that change something, sealed after every so many; beside them the same observations, only made.
///
/// # Panics
/// Where what was measured is not what was to be done: a figure for it would be a lie.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let observations = size.pick(2_000_u32, 5_000_000);
    let mut rows = Vec::new();
    for between_seals in [1, 4, 32] {
        let (mut metered, mut made, mut allocated) = (Vec::new(), Vec::new(), 0);
        for _ in 0..RUNS {
            let mut life = Life::begun();
            // Once through everything: steady state is what follows.
            life.observe(1..=64, between_seals);
            let watch = Stopwatch::start();
            let (slices, count) =
                allocations::during(|| life.observe(65..=64 + u64::from(observations), between_seals));
            metered.push(f64::from(observations) / watch.read().cpu.as_secs_f64());
            allocated = allocated.max(count);
            assert!(slices + u64::from(between_seals) >= u64::from(observations), "each makes a slice");
            let watch = Stopwatch::start();
            (1..=u64::from(observations)).for_each(|number| {
                black_box(seen(number));
            });
            made.push(f64::from(observations) / watch.read().cpu.as_secs_f64());
        }
        let what = format!("meter: sealed after every {between_seals}");
        rows.push(Row::spread(&what, "observations/s", metered, Some(Goal::AtLeast(1e7))));
        rows.push(Row::spread("  beside: only made", "observations/s", made, None));
        let per_observation = crate::report::ratio(allocated, u64::from(observations));
        rows.push(Row::single("  allocations per observation", "", per_observation, Some(Goal::AtMost(0.0))));
    }
    Ok(rows)
}

struct Life {
    meter: Meter,
}

/// The first moment, or the number of milliseconds after it.
fn at(number: u64) -> Stamp {
    let wall_ns = 1_767_225_600_000_000_000;
    Stamp { boot: BootId([7; 16]), boottime_ns: 0, wall_ns, uncertainty_ns: 0 }.later_by(number * 1_000_000)
}

fn seen(number: u64) -> Observation {
    Observation { at: at(number), change: Change::Plugged(number), cause: Cause::Resize, command: None }
}

impl Life {
    fn begun() -> Self {
        let change = Change::Began(Shape::default(), BillingState::Running);
        let began = Observation { change, ..seen(0) };
        let mut meter = Meter::new();
        let taken = meter.observe(began, &mut |slice| drop(black_box(slice)));
        assert!(taken.is_ok(), "{taken:?}");
        Self { meter }
    }

    /// Feeds these observations, each of which changes the plugged memory. How many slices came of it.
    fn observe(&mut self, numbers: std::ops::RangeInclusive<u64>, between_seals: u32) -> u64 {
        let mut slices = 0;
        let mut count = |slice| {
            black_box(&slice);
            slices += 1;
        };
        for number in numbers {
            let observation = black_box(seen(number));
            let _ = black_box(self.meter.observe(observation, &mut count));
            if number.is_multiple_of(u64::from(between_seals)) {
                self.meter.seal(at(number), &mut count);
            }
        }
        slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_is_measured() {
        assert_eq!(run(Size::Small).unwrap().len(), 9);
    }

    #[test]
    fn the_meter_allocates_nothing_per_observation() {
        for between_seals in [1, 4, 32] {
            let mut life = Life::begun();
            life.observe(1..=64, between_seals);
            assert_eq!(allocations::during(|| life.observe(65..=5_000, between_seals)).1, 0);
        }
    }
}
