//! Where QEMU's own timestamps lie in a boot. Pure: readings are arguments.
//!
//! QEMU stamps events with the wall clock in whole microseconds and may deliver them up to a second late
//! (size changes are throttled). The age of an event is the wall clock at its arrival less its timestamp;
//! that age is taken from the boottime of the arrival.

use dormouse_metering::Stamp;

use super::anchor::{Anchor, Reading, STEP_TOLERANCE_NS};

/// How far before the window a timestamp may lie and still be believed, in nanoseconds: twice the second
/// for which QEMU holds back a throttled event.
pub const LATE_NS_MAX: u64 = 2_000_000_000;

/// QEMU cuts its timestamps to whole microseconds: the event may be this much younger, in nanoseconds.
const QUANTUM_NS: u64 = 999;

/// The window in which an event must have happened: not before what is final, not after its arrival.
#[derive(Clone, Copy)]
struct Window {
    from_ns: u64,
    arrival: Stamp,
}

/// Places an event that arrived at `arrival`, when nothing before `not_before` can change any more.
///
/// `reading` is the pair read at arrival, `anchor` the boot's anchor. The stamp lies in
/// `[not_before, arrival]`, and its uncertainty covers whatever is not known: QEMU's microsecond, the
/// error of the reading, what had to be clamped, and, where the clock was stepped inside the window, the
/// other clock that QEMU may have read. Without a timestamp (`None`, or QEMU's -1), or with one that
/// cannot be so, the event is placed at its arrival with the whole window as its uncertainty.
pub(super) fn place(
    event_unix_ns: Option<i64>,
    not_before: Stamp,
    arrival: Stamp,
    reading: Reading,
    anchor: &Anchor,
) -> Stamp {
    let from_ns = if not_before.boot == arrival.boot { not_before.boottime_ns } else { 0 };
    let window = Window { from_ns: from_ns.min(arrival.boottime_ns), arrival };
    let Some(event_unix_ns) = event_unix_ns.filter(|ns| *ns > 0) else {
        return window.whole();
    };
    let offsets_ns = offsets_since(window.from_ns, reading, anchor);
    let mut candidates = offsets_ns
        .into_iter()
        .flatten()
        .filter_map(|offset_ns| window.clamped(event_unix_ns, offset_ns, reading.apart_ns));
    let Some(first) = candidates.next() else {
        return window.whole();
    };
    let (earliest_ns, latest_ns) = candidates.fold(first, |all, one| (all.0.min(one.0), all.1.max(one.1)));
    window.at(latest_ns).uncertain_by(latest_ns - earliest_ns)
}

/// The differences between wall clock and boottime that QEMU may have seen since `from_ns`: the one at
/// arrival, the anchor's where a step is not noticed yet, and the one before the anchor where the anchor
/// is younger than `from_ns`.
fn offsets_since(from_ns: u64, reading: Reading, anchor: &Anchor) -> [Option<i64>; 3] {
    let unnoticed = anchor.step(reading).is_some().then(|| anchor.offset_ns());
    let before = (anchor.stepped_ns != 0 && anchor.boottime_ns >= from_ns)
        .then(|| anchor.offset_ns().saturating_sub(anchor.stepped_ns));
    [Some(reading.offset_ns()), unnoticed, before]
}

impl Window {
    /// The earliest and latest boottime at which the event may have happened, the latest clamped into the
    /// window; `None` where the timestamp is outside what can be believed.
    fn clamped(self, event_unix_ns: i64, offset_ns: i64, apart_ns: u64) -> Option<(u64, u64)> {
        let stamped_ns = u64::try_from(event_unix_ns.checked_sub(offset_ns)?).ok()?;
        let arrival_ns = self.arrival.boottime_ns;
        let too_early = stamped_ns.saturating_add(LATE_NS_MAX) < self.from_ns;
        let too_late = stamped_ns > arrival_ns.saturating_add(STEP_TOLERANCE_NS);
        if too_early || too_late {
            return None;
        }
        let latest_ns = stamped_ns.saturating_add(QUANTUM_NS).saturating_add(apart_ns);
        let latest_ns = latest_ns.clamp(self.from_ns, arrival_ns);
        // An event stamped after its arrival shows the clocks to disagree by that much.
        let ahead_ns = stamped_ns.saturating_sub(arrival_ns);
        let earliest_ns = stamped_ns.min(arrival_ns).saturating_sub(ahead_ns).saturating_sub(apart_ns);
        Some((earliest_ns.min(latest_ns), latest_ns))
    }

    /// The moment at which boottime reads `boottime_ns`, which is not after the arrival.
    fn at(self, boottime_ns: u64) -> Stamp {
        self.arrival.earlier_by(self.arrival.boottime_ns - boottime_ns)
    }

    /// The arrival, with the window as its uncertainty.
    fn whole(self) -> Stamp {
        self.arrival.uncertain_by(self.arrival.boottime_ns - self.from_ns)
    }
}
