//! A sandbox's life as a picture: what ran when, at which size, and what of it was billed. Pure.
//!
//! ```text
//!   slices ─▶ stretches (what only hours and ticks have cut is one) ─▶ shapes
//!
//!      1.25GiB ┤      ┌─────┐                 height: memory; solid where it is billed, hatched where it is not
//!              │──────┘     └──────////////
//!      memory  ■■■■■■■■■■■■■■■■■■■■////////   one lane for each that is billed
//!      vCPU    ■■■■■■■■■■■■■■■■■■■■////////
//!      disk    ■■■■■■■■■■■■■■■■■■■■■■■■■■■■
//!              └────┴────┴────┴────┴────┴──   UTC
//! ```

use std::ops::Range;

use dormouse_ledger::rfc3339;
use dormouse_ledger::usage::Rules;
use dormouse_metering::{BillingState, Cause, Dimensions};

use super::super::answers::Slice;
use super::picture::{Anchor, CHAR, PX, Shape, WIDTH, along};
use super::words;
use crate::calendar::duration;

const LEFT: i64 = 72 * PX;
const RIGHT: i64 = WIDTH - 8 * PX;
const TOP: i64 = 20 * PX;
const BASE: i64 = 140 * PX;
const LANE: i64 = 12 * PX;
const LANES: i64 = 150 * PX;
const AXIS: i64 = LANES + 3 * (LANE + 4 * PX);
/// How high the picture is.
pub(super) const HEIGHT: i64 = AXIS + 20 * PX;

const TICKS_MAX: i64 = 8;
const SECOND_NS: i64 = 1_000_000_000;
/// What may lie between two marks of an axis of time, in seconds.
const STEPS_S: [i64; 23] = [
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1_800,
    3_600,
    7_200,
    10_800,
    21_600,
    43_200,
    86_400,
    2 * 86_400,
    7 * 86_400,
    14 * 86_400,
    28 * 86_400,
    112 * 86_400,
];

/// Slices that only the passing of time has cut: the same state at the same shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// From when until when, in nanoseconds since the Unix epoch.
    pub(super) place: Range<i64>,
    /// Whether it still goes on.
    pub(super) is_open: bool,
    /// How long, by the host's boottime clock.
    pub(super) duration_ns: u64,
    /// By how much that may be wrong.
    pub(super) uncertainty_ns: u64,
    /// The numbers of its first and last slice.
    pub(super) seqs: (u64, u64),
    /// The billing state, if it is known here.
    pub(super) state: Option<BillingState>,
    /// Its name.
    pub(super) state_name: String,
    /// The memory that is billed where memory is, in bytes.
    pub(super) memory_bytes: u64,
    /// vCPUs in thousandths.
    pub(super) vcpus_milli: u32,
    /// The size of the disks, in bytes.
    pub(super) disk_bytes: u64,
    /// What opened the first slice.
    pub(super) opened_by: String,
    /// What closed the last.
    pub(super) closed_by: Option<String>,
    /// The command that did, if one did.
    pub(super) command_id: Option<String>,
    /// What of it is billed.
    pub(super) billed: Dimensions,
    generation: String,
}

impl Stretch {
    fn of(slice: &Slice, until_unix_ns: i64, rules: &Rules) -> Self {
        let state = words::state(&slice.state, slice.reason.as_deref());
        let from = words::unix_ns(&slice.started_at);
        let to = slice.ended_at.as_deref().map_or(until_unix_ns, words::unix_ns);
        let shape = dormouse_metering::Shape {
            memory_base_bytes: slice.memory_base_bytes,
            memory_plugged_bytes: slice.memory_plugged_bytes,
            memory_requested_bytes: slice.memory_requested_bytes,
            disk_bytes: slice.disk_bytes,
            vcpus_milli: slice.vcpus_milli,
        };
        Self {
            place: from..to.max(from),
            is_open: slice.ended_at.is_none(),
            duration_ns: slice.duration_nanoseconds.parse().unwrap_or_default(),
            uncertainty_ns: slice.uncertainty_nanoseconds.parse().unwrap_or_default(),
            seqs: (slice.seq, slice.seq),
            state,
            state_name: slice.state.clone(),
            memory_bytes: u64::try_from(rules.basis.memory_bytes(&shape)).unwrap_or(u64::MAX),
            vcpus_milli: slice.vcpus_milli,
            disk_bytes: slice.disk_bytes,
            opened_by: slice.opened_by.clone(),
            closed_by: slice.closed_by.clone(),
            command_id: slice.command_id.clone(),
            billed: words::billed(rules, state),
            generation: slice.generation.clone(),
        }
    }

    /// Whether only the passing of time has cut `next` off.
    fn goes_on_in(&self, next: &Self) -> bool {
        let is_routine = [Cause::Hour, Cause::Tick].iter().any(|cause| cause.as_str() == next.opened_by);
        let looks =
            |of: &Self| (of.state, of.memory_bytes, of.vcpus_milli, of.disk_bytes, of.generation.clone());
        is_routine && looks(self) == looks(next) && self.state_name == next.state_name
    }

    fn take(&mut self, next: Self) {
        self.place.end = next.place.end;
        self.is_open = next.is_open;
        self.duration_ns = self.duration_ns.saturating_add(next.duration_ns);
        self.uncertainty_ns = self.uncertainty_ns.saturating_add(next.uncertainty_ns);
        self.seqs.1 = next.seqs.1;
        (self.closed_by, self.command_id) = (next.closed_by, next.command_id);
    }

    /// Its memory, as people write sizes.
    pub(super) fn memory(&self) -> String {
        crate::size::Size(self.memory_bytes).to_string()
    }

    fn says(&self) -> String {
        let billed = words::billed_in_words(self.billed);
        let from = words::moment(&rfc3339(self.place.start));
        format!(
            "{} at {} from {from} for {}; billed: {billed}",
            self.state_name,
            self.memory(),
            duration(self.duration_ns)
        )
    }
}

/// The stretches of a life. What is open lasts until `until_unix_ns`.
pub(super) fn stretches<'a>(
    slices: impl IntoIterator<Item = &'a Slice>,
    until_unix_ns: i64,
    rules: &Rules,
) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for slice in slices {
        let next = Stretch::of(slice, until_unix_ns, rules);
        match stretches.last_mut() {
            Some(last) if last.goes_on_in(&next) => last.take(next),
            _ => stretches.push(next),
        }
    }
    stretches
}

/// Draws stretches over a window of wall time.
pub(super) fn shapes(stretches: &[Stretch], window: &Range<i64>) -> Vec<Shape> {
    let most = stretches.iter().map(|stretch| stretch.memory_bytes).max().unwrap_or_default().max(1);
    let mut shapes = axis(window);
    let label = |y, text: &str| Shape::Label {
        place: [LEFT - 8 * PX, y],
        anchor: Anchor::End,
        text: text.to_owned(),
    };
    if let Some(tallest) = stretches.iter().max_by_key(|stretch| stretch.memory_bytes) {
        shapes.push(label(TOP + 4 * PX, &tallest.memory()));
        shapes.push(Shape::Line { place: [LEFT, TOP, RIGHT, TOP], class: "rule" });
    }
    for (lane, name) in (0..).zip(["memory", "vCPU", "disk"]) {
        shapes.push(label(LANES + lane * (LANE + 4 * PX) + 10 * PX, name));
    }
    for stretch in stretches {
        let place = |at| along(at, (window.start, window.end), (LEFT, RIGHT));
        let (x, end) = (place(stretch.place.start), place(stretch.place.end));
        // What is too short to be seen is still there.
        let width = (end - x).max(PX);
        shapes.extend(of_stretch(stretch, x, width, most));
    }
    shapes
}

fn of_stretch(stretch: &Stretch, x: i64, width: i64, most: u64) -> Vec<Shape> {
    let height = i128::from(stretch.memory_bytes) * i128::from(BASE - TOP) / i128::from(most);
    let height = i64::try_from(height).unwrap_or_default().max(PX);
    let billed = stretch.billed;
    let class = if billed == Dimensions::NONE { "area none" } else { "area" };
    let area = |place, class, is_billed: bool| Shape::Area {
        place,
        class,
        hatched: !is_billed,
        says: stretch.says(),
    };
    let mut shapes = vec![area([x, BASE - height, width, height], class, billed.memory)];
    for (lane, is_billed) in (0..).zip([billed.memory, billed.vcpu, billed.disk]) {
        shapes.push(area([x, LANES + lane * (LANE + 4 * PX), width, LANE], "lane", is_billed));
    }
    let middle = x + width / 2;
    let mut word = |y, text: String| {
        if i64::try_from(text.chars().count()).is_ok_and(|chars| (chars + 1) * CHAR <= width) {
            shapes.push(Shape::Label { place: [middle, y], anchor: Anchor::Middle, text });
        }
    };
    word(BASE - height - 5 * PX, stretch.state_name.clone());
    shapes
}

/// The axis of time: a line, marks, and what time it is at them.
pub(super) fn axis(window: &Range<i64>) -> Vec<Shape> {
    let span_s = window.end.saturating_sub(window.start) / SECOND_NS;
    let seconds = STEPS_S
        .into_iter()
        .find(|seconds| span_s / seconds < TICKS_MAX)
        .unwrap_or(STEPS_S[STEPS_S.len() - 1]);
    let step = seconds * SECOND_NS;
    let first = window.start - window.start.rem_euclid(step);
    let marks = (0..).map_while(|index: i64| first.checked_add(index * step));
    let mut shapes = vec![Shape::Line { place: [LEFT, AXIS, RIGHT, AXIS], class: "axis" }];
    let mut free_from = 0;
    for at in marks.skip_while(|at| *at < window.start).take_while(|at| *at < window.end) {
        let x = along(at, (window.start, window.end), (LEFT, RIGHT));
        shapes.push(Shape::Line { place: [x, AXIS, x, AXIS + 4 * PX], class: "axis" });
        let text = rfc3339(at);
        let text = match seconds {
            ..60 => &text[11..19],
            60..86_400 => &text[11..16],
            _ => &text[5..10],
        };
        let half = i64::try_from(text.len()).unwrap_or_default() * CHAR / 2;
        if x - half >= free_from && x + half <= WIDTH {
            free_from = x + half + CHAR;
            shapes.push(Shape::Label {
                place: [x, AXIS + 16 * PX],
                anchor: Anchor::Middle,
                text: text.to_owned(),
            });
        }
    }
    shapes
}

#[cfg(test)]
mod tests {
    use dormouse_metering::{Basis, Policy};

    use super::*;

    const NOON: i64 = 1_772_366_400 * SECOND_NS; // 2026-03-01T12:00:00Z
    const GIB: u64 = 1 << 30;

    fn rules() -> Rules {
        Rules { policy: Policy::default(), basis: Basis::Plugged, free_disk_bytes: 0 }
    }

    fn slice(seq: u64, state: &str, from_s: i64, to_s: Option<i64>, opened_by: &str) -> Slice {
        let at = |s: i64| rfc3339(NOON + s * SECOND_NS);
        Slice {
            generation: "1".to_owned(),
            seq,
            state: state.to_owned(),
            reason: None,
            started_at: at(from_s),
            ended_at: to_s.map(at),
            duration_nanoseconds: ((to_s.unwrap_or(from_s) - from_s) * SECOND_NS).to_string(),
            vcpus_milli: 2_000,
            memory_base_bytes: GIB,
            memory_plugged_bytes: 0,
            memory_requested_bytes: 0,
            disk_bytes: 0,
            opened_by: opened_by.to_owned(),
            closed_by: to_s.map(|_| "hour".to_owned()),
            command_id: None,
            uncertainty_nanoseconds: "0".to_owned(),
            is_final: true,
        }
    }

    #[test]
    fn what_only_hours_and_ticks_have_cut_is_one_stretch() {
        let mut slices = [
            slice(1, "running", 0, Some(10), "attach"),
            slice(2, "running", 10, Some(20), "hour"),
            slice(3, "running", 20, Some(30), "reboot"),
            slice(4, "paused", 30, Some(40), "pause"),
            slice(5, "paused", 40, None, "tick"),
        ];
        (slices[0].uncertainty_nanoseconds, slices[1].uncertainty_nanoseconds) = ("5".into(), "2".into());
        let found = stretches(&slices, NOON + 50 * SECOND_NS, &rules());
        let told: Vec<_> = found.iter().map(|of| (of.seqs, of.state_name.as_str(), of.is_open)).collect();
        assert_eq!(told, [((1, 2), "running", false), ((3, 3), "running", false), ((4, 5), "paused", true)]);
        assert_eq!((found[0].duration_ns, found[0].uncertainty_ns), (20 * SECOND_NS.unsigned_abs(), 7));
        assert_eq!(found[2].place, NOON + 30 * SECOND_NS..NOON + 50 * SECOND_NS);
        assert_eq!((found[0].billed, found[2].billed), (Dimensions::ALL, Dimensions::DISK));
    }

    #[test]
    fn another_size_or_another_life_is_another_stretch() {
        let mut larger = slice(2, "running", 10, Some(20), "hour");
        larger.memory_plugged_bytes = GIB;
        let mut reborn = slice(3, "running", 20, Some(30), "hour");
        (reborn.memory_plugged_bytes, reborn.generation) = (GIB, "2".to_owned());
        let slices = [slice(1, "running", 0, Some(10), "attach"), larger, reborn];
        assert_eq!(stretches(&slices, NOON, &rules()).len(), 3);
    }

    #[test]
    fn stretches_stand_beside_each_other_as_high_as_their_memory_and_hatched_where_not_billed() {
        let mut small = slice(1, "running", 0, Some(50), "attach");
        small.memory_base_bytes = GIB / 2;
        let slices = [small, slice(2, "paused", 50, Some(100), "pause")];
        let window = NOON..NOON + 100 * SECOND_NS;
        let drawn = shapes(&stretches(&slices, window.end, &rules()), &window);
        let areas: Vec<_> = drawn
            .iter()
            .filter_map(|shape| match shape {
                Shape::Area { place, hatched, says, .. } => Some((*place, *hatched, says.as_str())),
                _ => None,
            })
            .collect();
        assert_eq!(areas.len(), 8, "each has its height and three lanes");
        let middle = i64::midpoint(LEFT, RIGHT);
        assert_eq!(areas[0].0, [LEFT, i64::midpoint(BASE, TOP), middle - LEFT, (BASE - TOP) / 2]);
        assert_eq!(areas[4].0, [middle, TOP, RIGHT - middle, BASE - TOP]);
        let hatched: Vec<_> = areas.iter().map(|(_, hatched, _)| *hatched).collect();
        assert_eq!(hatched, [false, false, false, false, true, true, true, false], "a paused disk is billed");
        assert_eq!(areas[4].2, "paused at 1GiB from 2026-03-01 12:00:50.000 for 50.000s; billed: disk only");
    }

    #[test]
    fn an_instant_is_seen_and_a_long_life_is_cut_at_the_window() {
        let window = NOON..NOON + 1_000_000 * SECOND_NS;
        let slices = [
            slice(1, "running", -500, Some(10), "attach"),
            slice(2, "paused", 10, Some(10), "pause"),
            slice(3, "running", 10, None, "resume"),
        ];
        for shape in shapes(&stretches(&slices, i64::MAX, &rules()), &window) {
            if let Shape::Area { place: [x, _, width, _], .. } = shape {
                assert!(x >= LEFT && width >= PX && x + width <= RIGHT + PX, "{x} {width}");
            }
        }
    }

    #[test]
    fn an_axis_has_few_marks_whatever_the_window() {
        for seconds in [1, 60, 3_600, 86_400, 30 * 86_400, 90 * 86_400] {
            let drawn = axis(&(NOON..NOON + seconds * SECOND_NS));
            let labels = drawn.iter().filter(|shape| matches!(shape, Shape::Label { .. })).count();
            assert!((1..=8).contains(&labels), "{seconds}: {labels}");
        }
        assert_eq!(axis(&(NOON..NOON)).len(), 1);
    }
}
