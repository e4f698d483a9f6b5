//! Usage over time as bars, one above the other for each value of a tag. Pure.

use std::ops::Range;

use dormouse_ledger::rfc3339;

use super::picture::{Anchor, PX, Shape, WIDTH};
use super::words;

const LEFT: i64 = 96 * PX;
const RIGHT: i64 = WIDTH - 8 * PX;
const TOP: i64 = 12 * PX;
const BASE: i64 = 212 * PX;
/// How high the picture is.
pub(super) const HEIGHT: i64 = BASE + 24 * PX;

const LABELS_MAX: usize = 8;
const HOUR_NS: i64 = 3_600_000_000_000;

/// How the series look, the first at the bottom: those that are named, and what is left.
pub(super) const LOOKS: [&str; 5] = ["series s1", "series s2", "series s3", "series s4", "series s5"];
/// What no other series has.
pub(super) const LOOK_OF_OTHERS: &str = "series others";
/// What has no tag of the key.
pub(super) const LOOK_OF_UNTAGGED: &str = "series untagged";

/// One part of every bar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Series {
    /// What it is.
    pub(super) name: String,
    /// How it looks.
    pub(super) look: &'static str,
    /// How much in each point, in byte-nanoseconds.
    pub(super) amounts: Vec<i128>,
}

/// Draws series over the points of a window.
pub(super) fn shapes(points: &[Range<i64>], series: &[Series]) -> Vec<Shape> {
    let at = |one: &Series, index: usize| one.amounts.get(index).copied().unwrap_or_default().max(0);
    let sums = (0..points.len()).map(|index| series.iter().map(|one| at(one, index)).sum::<i128>());
    let most = sums.max().unwrap_or_default().max(1);
    let mut shapes = rules(most);
    let count = i64::try_from(points.len()).unwrap_or(i64::MAX).max(1);
    for (index, point) in points.iter().enumerate() {
        let edge = |index: usize| LEFT + (RIGHT - LEFT) * i64::try_from(index).unwrap_or_default() / count;
        let (x, width) = (edge(index), edge(index + 1) - edge(index));
        let gap = if width > 4 * PX { PX } else { 0 };
        let mut below = 0;
        for one in series {
            let amount = at(one, index);
            let (low, high) = (height(below, most), height(below + amount, most));
            below += amount;
            if amount > 0 {
                shapes.push(Shape::Area {
                    place: [x, BASE - high, width - gap, (high - low).max(PX / 2)],
                    class: one.look,
                    hatched: false,
                    says: format!(
                        "{}, {}: {} GB-seconds",
                        one.name,
                        label(point),
                        words::gb_seconds_label(amount)
                    ),
                });
            }
        }
        if index % points.len().div_ceil(LABELS_MAX).max(1) == 0 {
            shapes.push(Shape::Label {
                place: [x, BASE + 16 * PX],
                anchor: Anchor::Start,
                text: label(point),
            });
        }
    }
    shapes
}

/// What a point is called: its day, or of hours the hour.
pub(super) fn label(point: &Range<i64>) -> String {
    let text = rfc3339(point.start);
    if point.end - point.start <= HOUR_NS { text[11..16].to_owned() } else { text[5..10].to_owned() }
}

fn height(amount: i128, most: i128) -> i64 {
    // The most there is lies far below what an `i128` holds, as it is a sum of what was used in a day.
    let height = amount.saturating_mul(i128::from(BASE - TOP)) / most;
    i64::try_from(height).unwrap_or(BASE - TOP)
}

fn rules(most: i128) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (y, amount) in [(TOP, most), (i64::midpoint(TOP, BASE), most / 2), (BASE, 0)] {
        let class = if amount == 0 { "axis" } else { "rule" };
        shapes.push(Shape::Line { place: [LEFT, y, RIGHT, y], class });
        shapes.push(Shape::Label {
            place: [LEFT - 8 * PX, y + 4 * PX],
            anchor: Anchor::End,
            text: words::gb_seconds_label(amount),
        });
    }
    shapes
}

/// A row of small bars without words, for a place among words: `width` and `height` in pixels.
pub(super) fn spark(amounts: &[i128]) -> Vec<[i64; 4]> {
    let most = amounts.iter().copied().max().unwrap_or_default().max(1);
    let bar = |(index, amount): (i64, &i128)| {
        let height = amount.saturating_mul(i128::from(SPARK_HEIGHT)) / most;
        let height = i64::try_from(height).unwrap_or(SPARK_HEIGHT).max(i64::from(*amount > 0));
        [index * SPARK_STEP, SPARK_HEIGHT - height, SPARK_STEP - 1, height]
    };
    (0..).zip(amounts).map(bar).collect()
}

/// How high small bars are, in pixels.
pub(super) const SPARK_HEIGHT: i64 = 24;
/// From one small bar to the next, in pixels.
pub(super) const SPARK_STEP: i64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_NS: i64 = 24 * HOUR_NS;
    const NOON: i64 = 1_772_366_400_000_000_000; // 2026-03-01T12:00:00Z

    fn series(name: &str, amounts: &[i128]) -> Series {
        Series { name: name.to_owned(), look: LOOKS[0], amounts: amounts.to_vec() }
    }

    fn areas(shapes: &[Shape]) -> Vec<[i64; 4]> {
        let place = |shape: &Shape| match shape {
            Shape::Area { place, .. } => Some(*place),
            _ => None,
        };
        shapes.iter().filter_map(place).collect()
    }

    #[test]
    fn parts_stand_on_each_other_and_the_highest_bar_fills_the_picture() {
        let points = [NOON..NOON + DAY_NS, NOON + DAY_NS..NOON + 2 * DAY_NS];
        let drawn = areas(&shapes(&points, &[series("a", &[1, 0]), series("b", &[3, 2])]));
        assert_eq!(drawn.len(), 3, "nothing is drawn of nothing");
        let full = BASE - TOP;
        assert_eq!((drawn[0][1], drawn[0][3]), (BASE - full / 4, full / 4));
        assert_eq!((drawn[1][1], drawn[1][3]), (TOP, full * 3 / 4));
        assert_eq!((drawn[2][0], drawn[2][3]), (i64::midpoint(LEFT, RIGHT), full / 2));
    }

    #[test]
    fn nothing_at_all_and_very_much_can_be_drawn() {
        let hour = NOON..NOON + HOUR_NS;
        let points = std::slice::from_ref(&hour);
        assert_eq!(areas(&shapes(points, &[series("a", &[0])])), [[0; 4]; 0]);
        assert_eq!(shapes(&[], &[]).len(), 6);
        let drawn = areas(&shapes(points, &[series("a", &[1 << 100])]));
        assert_eq!((drawn[0][1], drawn[0][3]), (TOP, BASE - TOP));
        assert_eq!(spark(&[0, 1, 1_000]), [[0, 24, 3, 0], [4, 23, 3, 1], [8, 0, 3, 24]]);
    }

    #[test]
    fn hours_are_called_by_their_time_and_days_by_their_date() {
        assert_eq!(label(&(NOON..NOON + HOUR_NS)), "12:00");
        assert_eq!(label(&(NOON..NOON + DAY_NS)), "03-01");
    }
}
