//! L2 on a host's ledger.

use std::collections::BTreeMap;

use dormouse_ledger::usage::LifeTotals;
use dormouse_ledger::{SandboxKey, SliceQuery, SliceRow};
use dormouse_metering::{Dimensions, Stamp};
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

    #[test]
    fn what_lies_before_a_slice_is_the_sum_of_those_before_it_whatever_was_rolled_up(
        world in world(false), rules in rules(),
    ) {
        let place = Place::new();
        tell(&place, &world);
        let reader = place.reader();
        let query = SliceQuery { limit: usize::MAX, ..SliceQuery::default() };
        let mut lives: BTreeMap<SandboxKey, LifeTotals> = BTreeMap::new();
        for slice in reader.slices(&query).unwrap().rows {
            let SliceRow { org, sandbox, generation, .. } = slice.clone();
            let key = SandboxKey { org, sandbox, generation };
            let summed = lives.entry(key.clone()).or_default();
            let found = reader.totals_before(&key, slice.seq).unwrap();
            prop_assert_eq!(found.amount(&rules).unwrap(), summed.amount(&rules).unwrap());
            for billed in [Dimensions::ALL, Dimensions::DISK, Dimensions::NONE] {
                let ns = |life: &LifeTotals| life.billed_as_ns(&rules, billed).unwrap();
                prop_assert_eq!(ns(&found), ns(summed));
            }
            summed.add(&slice).unwrap();
        }
    }
}
