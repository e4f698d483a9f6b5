//! UTC hours on the wall clock.

/// One hour, in nanoseconds.
pub const HOUR_NS: i64 = 3_600_000_000_000;

/// The first full UTC hour strictly after `wall_ns`, both in nanoseconds since the Unix epoch.
///
/// `i64::MAX` where no further hour can be represented (in the year 2262).
#[must_use]
pub fn next_boundary(wall_ns: i64) -> i64 {
    let into_hour_ns = wall_ns.rem_euclid(HOUR_NS);
    wall_ns.saturating_add(HOUR_NS - into_hour_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_hour_is_strictly_after_the_instant() {
        assert_eq!(next_boundary(0), HOUR_NS);
        assert_eq!(next_boundary(1), HOUR_NS);
        assert_eq!(next_boundary(HOUR_NS - 1), HOUR_NS);
        assert_eq!(next_boundary(HOUR_NS), 2 * HOUR_NS);
    }

    #[test]
    fn hours_before_the_epoch_are_full_hours_too() {
        assert_eq!(next_boundary(-1), 0);
        assert_eq!(next_boundary(-HOUR_NS), 0);
        assert_eq!(next_boundary(-HOUR_NS - 1), -HOUR_NS);
    }

    #[test]
    fn the_last_hour_saturates() {
        assert_eq!(next_boundary(i64::MAX), i64::MAX);
        assert_eq!(next_boundary(i64::MAX - 1), i64::MAX);
    }
}
