//! Who used what: sums by sandbox and by tag over windows of wall time, to the last byte-nanosecond.
//!
//! ```text
//!   window ──▶ segments, cut where a point of the answer begins and where a tag changes
//!     segment of a sandbox = what lies before its end − what lies before its start + what is not final yet
//!       what lies before an instant = the last rollup before it + the slices since             (rollups)
//!     each segment is in the total, in one point, and in one item or in `untagged`              (breakdown)
//! ```
//!
//! [`UsageLedger`] is what is asked, of a host's ledger or of a fleet's. They differ in their `figures` alone: the rows
//! that sums are made of, as of one moment. What is cut, clipped, added, sorted and paged is the same code for both.
//!
//! Every sum is of the same exact integers, so every sum agrees with every other (L2). Nothing here reads a clock:
//! the moment of a question is part of it, and stays with its cursors, so that pages tell of one moment while rows
//! arrive. Every question names the org, and no row of another is looked at.

pub(crate) mod breakdown;
mod cancel;
mod cursor;
pub(crate) mod drilldown;
pub(crate) mod figures;
mod host;
mod ledger;
pub(crate) mod listing;
mod reader;
pub(crate) mod rollups;
mod running;
pub(crate) mod tagged;
pub(crate) mod totals;

use std::ops::Range;

use dormouse_metering::{Basis, Policy, Quantities, Stamp};

use crate::LedgerError;

pub use breakdown::{Breakdown, BreakdownQuery, Item, Place, Point, Sort};
pub use cancel::Cancel;
pub use cursor::CursorKey;
pub use drilldown::{Drilldown, DrilldownQuery};
pub use ledger::{SlicePlace, SlicesIn, SlicesOf, UsageLedger};
pub use listing::{SandboxEntry, TagKey};
pub use running::LifeTotals;
pub use tagged::{Attribution, GroupBy, TagFilter};

/// What is billed, and how.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What is billed in which state.
    pub policy: Policy,
    /// Which memory is billed.
    pub basis: Basis,
    /// The disk of each sandbox that is not overage, in bytes.
    pub free_disk_bytes: u64,
}

/// The length of the points of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// UTC hours.
    Hour,
    /// UTC days.
    Day,
}

impl Interval {
    const fn ns(self) -> i64 {
        match self {
            Self::Hour => dormouse_metering::hour::HOUR_NS,
            Self::Day => 24 * dormouse_metering::hour::HOUR_NS,
        }
    }

    /// The full hours or days inside a window, its start left out.
    fn boundaries(self, window: &Range<i64>) -> Vec<i64> {
        let first = window.start.checked_sub(window.start.rem_euclid(self.ns()));
        let next = |at: &i64| at.checked_add(self.ns());
        std::iter::successors(first.as_ref().and_then(next), next).take_while(|at| *at < window.end).collect()
    }
}

/// The points of a window, all zero. Without an interval, none.
fn points(window: &Range<i64>, interval: Option<Interval>) -> Vec<Point> {
    let Some(interval) = interval.filter(|_| !window.is_empty()) else { return Vec::new() };
    let starts = [window.start].into_iter().chain(interval.boundaries(window));
    let ends = interval.boundaries(window).into_iter().chain([window.end]);
    starts.zip(ends).map(|(from, to)| Point { window: from..to, amount: Amount::default() }).collect()
}

/// The moment of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Until when open slices count; `None`: only what is final does.
    pub open_until: Option<Stamp>,
    /// At which wall time tags are as they are now, in nanoseconds since the Unix epoch.
    pub tags_unix_ns: i64,
}

/// What was held for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How long, billed or not, in nanoseconds, summed over sandboxes.
    pub duration_ns: i128,
    /// What is billed of it.
    pub quantities: Quantities,
}

impl Amount {
    /// The sum; `None` where an `i128` cannot hold it.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            duration_ns: self.duration_ns.checked_add(other.duration_ns)?,
            quantities: self.quantities.checked_add(other.quantities)?,
        })
    }

    /// The difference of two running totals of which `earlier` is part of this one.
    fn since(self, earlier: Self) -> Self {
        let (now, was) = (self.quantities, earlier.quantities);
        // None is negative, so no difference passes an `i128`.
        Self {
            duration_ns: self.duration_ns - earlier.duration_ns,
            quantities: Quantities {
                memory_byte_ns: now.memory_byte_ns - was.memory_byte_ns,
                vcpu_milli_ns: now.vcpu_milli_ns - was.vcpu_milli_ns,
                disk_byte_ns: now.disk_byte_ns - was.disk_byte_ns,
                disk_overage_byte_ns: now.disk_overage_byte_ns - was.disk_overage_byte_ns,
            },
        }
    }

    pub(crate) fn add(&mut self, other: Self) -> Result<(), LedgerError> {
        *self = self.checked_add(other).ok_or_else(Self::overflow)?;
        Ok(())
    }

    pub(crate) fn overflow() -> LedgerError {
        LedgerError::Overflow { what: "usage".to_owned() }
    }
}
