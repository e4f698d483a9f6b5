//! Where a boot's `CLOCK_BOOTTIME` lies on the wall clock. Pure: readings are arguments.

use dormouse_metering::{BootId, Stamp};

/// How far the wall clock must have moved against an anchor before the anchor is replaced: 10 ms.
///
/// Linux disciplines `CLOCK_REALTIME` and `CLOCK_BOOTTIME` together, so slewing by NTP (ppm, for months)
/// does not move one against the other: their difference changes only when somebody sets the clock or a
/// leap second is inserted. What is left is the error of reading the two one after the other, some
/// microseconds. Steps smaller than the tolerance are let be, and because every comparison is with the
/// anchor itself, they cannot pile up beyond it unnoticed.
pub const STEP_TOLERANCE_NS: u64 = 10_000_000;

/// The two clocks, read at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `CLOCK_BOOTTIME`, in nanoseconds.
    pub boottime_ns: u64,
    /// `CLOCK_REALTIME`, in nanoseconds since the Unix epoch.
    pub wall_ns: i64,
    /// By how much the two may have been read apart, in nanoseconds.
    pub apart_ns: u64,
}

/// The moment by which every other moment of a boot is placed on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The boot that it belongs to.
    pub boot: BootId,
    /// `CLOCK_BOOTTIME`, in nanoseconds.
    pub boottime_ns: u64,
    /// The wall clock at that moment, in nanoseconds since the Unix epoch.
    pub wall_ns: i64,
    /// By how much the wall clock had been stepped since the anchor before, in nanoseconds, forward
    /// counted positive; 0 for the first anchor of a boot.
    pub stepped_ns: i64,
}

/// A step of the wall clock, once it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it was noticed, placed by the old anchor.
    pub at: Stamp,
    /// What places every moment from then on.
    pub anchor: Anchor,
}

impl Reading {
    /// What to add to a boottime to get the wall clock, in nanoseconds.
    pub(crate) fn offset_ns(self) -> i64 {
        self.wall_ns.saturating_sub_unsigned(self.boottime_ns)
    }
}

impl Anchor {
    /// The first anchor of a boot.
    pub fn first(boot: BootId, reading: Reading) -> Self {
        Self { boot, boottime_ns: reading.boottime_ns, wall_ns: reading.wall_ns, stepped_ns: 0 }
    }

    /// The moment at which `CLOCK_BOOTTIME` reads `boottime_ns` in the anchor's boot, exact.
    pub fn stamp(&self, boottime_ns: u64) -> Stamp {
        let wall_ns = self.offset_ns().saturating_add_unsigned(boottime_ns);
        Stamp { boot: self.boot, boottime_ns, wall_ns, uncertainty_ns: 0 }
    }

    /// The step that `reading`, of the same boot, shows to have happened since the anchor was taken.
    /// `None` where the clocks agree within [`STEP_TOLERANCE_NS`] and the error of the reading.
    pub fn step(&self, reading: Reading) -> Option<Step> {
        let stepped_ns = reading.offset_ns().saturating_sub(self.offset_ns());
        if stepped_ns.unsigned_abs() <= STEP_TOLERANCE_NS.saturating_add(reading.apart_ns) {
            return None;
        }
        Some(Step {
            at: self.stamp(reading.boottime_ns),
            anchor: Self { stepped_ns, ..Self::first(self.boot, reading) },
        })
    }

    /// What to add to a boottime to get the wall clock, in nanoseconds.
    pub(crate) fn offset_ns(&self) -> i64 {
        self.wall_ns.saturating_sub_unsigned(self.boottime_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: i64 = 1_000_000_000;

    fn reading(boottime_ns: u64, wall_ns: i64) -> Reading {
        Reading { boottime_ns, wall_ns, apart_ns: 0 }
    }

    fn anchor() -> Anchor {
        Anchor::first(BootId([1; 16]), reading(50, 1_000 * SECOND_NS))
    }

    #[test]
    fn a_stamp_is_the_anchor_plus_a_boottime_difference() {
        let stamp = anchor().stamp(50 + 7);
        assert_eq!((stamp.boottime_ns, stamp.wall_ns), (57, 1_000 * SECOND_NS + 7));
        assert_eq!(stamp.uncertainty_ns, 0);
        assert_eq!(anchor().stamp(0).wall_ns, 1_000 * SECOND_NS - 50);
    }

    #[test]
    fn clocks_that_agree_within_the_tolerance_show_no_step() {
        let tolerance_ns = i64::try_from(STEP_TOLERANCE_NS).unwrap();
        assert_eq!(anchor().step(reading(150, 1_000 * SECOND_NS + 100 + tolerance_ns)), None);
        assert_eq!(anchor().step(reading(150, 1_000 * SECOND_NS + 100 - tolerance_ns)), None);
        let sloppy = Reading { apart_ns: 5, ..reading(150, 1_000 * SECOND_NS + 105 + tolerance_ns) };
        assert_eq!(anchor().step(sloppy), None);
    }

    #[test]
    fn a_step_either_way_is_placed_by_the_old_anchor_and_keeps_boottime() {
        for hour_ns in [3_600 * SECOND_NS, -3_600 * SECOND_NS] {
            let step = anchor().step(reading(150, 1_000 * SECOND_NS + 100 + hour_ns)).unwrap();
            assert_eq!(step.at, anchor().stamp(150));
            assert_eq!(step.anchor.stepped_ns, hour_ns);
            assert_eq!(step.anchor.stamp(150).wall_ns, step.at.wall_ns + hour_ns);
        }
    }
}
