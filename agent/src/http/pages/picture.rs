//! Shapes, and the SVG that they make. Lengths are in tenths of a pixel, so that nothing is drawn in floating point.

use std::fmt;

use maud::{Markup, html};

/// One pixel.
pub(super) const PX: i64 = 10;

/// How wide pictures are. Where there is less room, they are drawn smaller, or scrolled.
pub(super) const WIDTH: i64 = 960 * PX;

/// About how wide a character of a label is.
pub(super) const CHAR: i64 = 7 * PX;

/// A length in tenths of a pixel, as SVG writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Px(i64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, tenth) = (self.0.unsigned_abs() / 10, self.0.unsigned_abs() % 10);
        if tenth == 0 { write!(f, "{sign}{whole}") } else { write!(f, "{sign}{whole}.{tenth}") }
    }
}

/// Where a label stands from its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// To the right of it.
    Start,
    /// Around it.
    Middle,
    /// To the left of it.
    End,
}

/// What a picture is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A rectangle: left, top, width, height.
    Area {
        /// Left, top, width and height.
        place: [i64; 4],
        /// How it looks.
        class: &'static str,
        /// Whether it is hatched, as time is that is not billed.
        hatched: bool,
        /// What it says under the pointer.
        says: String,
    },
    /// A line from one point to another.
    Line {
        /// Both points.
        place: [i64; 4],
        /// How it looks.
        class: &'static str,
    },
    /// A word.
    Label {
        /// Its point.
        place: [i64; 2],
        /// Where it stands from its point.
        anchor: Anchor,
        /// The word.
        text: String,
    },
}

impl Shape {
    fn draw(&self) -> Markup {
        match self {
            Self::Area { place, class, hatched, says } => {
                let [x, y, width, height] = place.map(Px);
                html! {
                    rect class=(class) x=(x) y=(y) width=(width) height=(height)
                        fill=[hatched.then_some("url(#hatch)")] {
                        @if !says.is_empty() { title { (says) } }
                    }
                }
            }
            Self::Line { place, class } => {
                let [x1, y1, x2, y2] = place.map(Px);
                html! { line class=(class) x1=(x1) y1=(y1) x2=(x2) y2=(y2) {} }
            }
            Self::Label { place, anchor, text } => {
                let [x, y] = place.map(Px);
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                html! { text x=(x) y=(y) text-anchor=(anchor) { (text) } }
            }
        }
    }
}

/// A picture with its words: what it is, and what there is to see in it. Its numbers stand in a table beside it.
pub(super) fn picture(id: &str, height: i64, title: &str, describes: &str, shapes: &[Shape]) -> Markup {
    let (title_id, describes_id) = (format!("{id}-title"), format!("{id}-describes"));
    let size = format!("0 0 {} {}", Px(WIDTH), Px(height));
    html! {
        div.wide role="region" aria-label=(title) tabindex="0" {
            svg.picture role="img" viewBox=(size) aria-labelledby=(title_id) aria-describedby=(describes_id) {
                title id=(title_id) { (title) }
                desc id=(describes_id) { (describes) }
                defs {
                    pattern #hatch width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                        rect.hatch-ground width="6" height="6" {}
                        line.hatch-stroke x1="0" y1="0" x2="0" y2="6" {}
                    }
                }
                @for shape in shapes { (shape.draw()) }
            }
        }
    }
}

/// A point's place along an axis: where `at` lies in `from..to`, laid over `left..right`. What lies outside is moved to
/// the nearer end.
pub(super) fn along(at: i64, (from, to): (i64, i64), (left, right): (i64, i64)) -> i64 {
    let (length, span) = (i128::from(right - left), i128::from(to) - i128::from(from));
    let passed = (i128::from(at) - i128::from(from)).clamp(0, span.max(0));
    let place = if span <= 0 { 0 } else { passed * length / span };
    // It is between 0 and the length of the axis.
    left + i64::try_from(place).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_pixels() {
        let texts: Vec<_> = [0, 5, 10, 123, -7, -20].map(|tenths| Px(tenths).to_string()).into();
        assert_eq!(texts, ["0", "0.5", "1", "12.3", "-0.7", "-2"]);
    }

    #[test]
    fn points_are_laid_along_the_axis_and_never_beside_it() {
        let axis = ((100, 200), (1_000, 2_000));
        let places = [99, 100, 150, 200, 500].map(|at| along(at, axis.0, axis.1));
        assert_eq!(places, [1_000, 1_000, 1_500, 2_000, 2_000]);
        assert_eq!(along(5, (5, 5), (0, 10)), 0);
        assert_eq!(along(i64::MAX, (i64::MIN, i64::MAX), (0, 10)), 10);
    }

    #[test]
    fn what_comes_from_outside_is_escaped_in_a_picture() {
        let label = Shape::Label { place: [0, 0], anchor: Anchor::End, text: "</svg><b>".to_owned() };
        let drawn = picture("p", 10, "a\"b", "<i>", &[label]).into_string();
        assert!(drawn.contains("&lt;/svg&gt;&lt;b&gt;") && drawn.contains("a&quot;b"), "{drawn}");
        assert!(!drawn.contains("<i>"), "{drawn}");
    }
}
