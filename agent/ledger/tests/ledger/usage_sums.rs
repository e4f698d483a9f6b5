//! L2 on a host's ledger.

use dormouse_metering::Stamp;
use proptest::prelude::*;

use crate::support::{BEGAN, BOOT, Place};
use crate::usage_suite::{HOUR, check, instant, rules, tell, world};

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn l2_sandboxes_tags_points_and_any_split_add_up_to_the_slices_exactly(
        world in world(false),
        rules in rules(),
        (one, other, split) in (instant(), instant(), instant()),
        now_after_ns in 0..60 * HOUR,
    ) {
        let place = Place::new();
        tell(&place, &world);
        let window = one.min(other)..one.max(other).max(one.min(other) + 1);
        let now = Stamp {
            boot: BOOT,
            boottime_ns: now_after_ns.unsigned_abs() + 1_000,
            wall_ns: BEGAN + now_after_ns,
            uncertainty_ns: 0,
        };
        let split = split.clamp(window.start, window.end);
        check(&mut place.reader(), &place.reader(), &rules, (&window, split), Some(now));
    }
}
