//! What a bench tells: rows of a table.

use std::fmt;
use std::time::Duration;

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    figures: String,
    goal: String,
}

/// What a number should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn verdict(self, number: f64, unit: &str) -> String {
        let (met, sign, wanted) = match self {
            Self::AtLeast(wanted) => (number >= wanted, ">=", wanted),
            Self::AtMost(wanted) => (number <= wanted, "<=", wanted),
        };
        format!("{sign} {}: {}", figure(wanted, unit), if met { "met" } else { "missed" })
    }
}

impl Row {
    /// The least, the middle and the greatest of what was measured in several runs. The middle is what a goal is for.
    pub(crate) fn spread(
        what: impl Into<String>,
        unit: &str,
        mut numbers: Vec<f64>,
        goal: Option<Goal>,
    ) -> Self {
        numbers.sort_by(f64::total_cmp);
        let at = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
        let (least, middle, most) = (at(0), at(numbers.len() / 2), at(numbers.len().saturating_sub(1)));
        let figures = [("min", least), ("median", middle), ("max", most)]
            .map(|(name, number)| format!("{name} {}", figure(number, unit)));
        Self::new(what, figures.join("  "), goal.map(|goal| goal.verdict(middle, unit)))
    }

    /// The median and the 99th percentile of many times.
    pub(crate) fn latency(what: impl Into<String>, times: &Latencies) -> Self {
        let (p50, p99) = (micros(times.p50()), micros(times.p99()));
        Self::new(what, format!("p50 {}  p99 {}", figure(p50, "us"), figure(p99, "us")), None)
    }

    /// A single number.
    pub(crate) fn single(what: impl Into<String>, unit: &str, number: f64, goal: Option<Goal>) -> Self {
        Self::new(what, figure(number, unit), goal.map(|goal| goal.verdict(number, unit)))
    }

    fn new(what: impl Into<String>, figures: String, goal: Option<String>) -> Self {
        Self { what: what.into(), figures, goal: goal.unwrap_or_default() }
    }
}

/// Many times of one thing, in order of length.
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn p50(&self) -> Duration {
        self.at(50)
    }

    pub(crate) fn p99(&self) -> Duration {
        self.at(99)
    }

    fn at(&self, percent: usize) -> Duration {
        self.0.get(self.0.len() * percent / 100).copied().unwrap_or_default()
    }
}

/// A quotient of two counts, as exact as a table needs it.
#[expect(clippy::cast_precision_loss, reason = "a table shows three digits")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A number as people read it: three digits that count.
fn figure(number: f64, unit: &str) -> String {
    let number = match number.abs() {
        size if size >= 1e6 => format!("{:.2} M", number / 1e6),
        size if size >= 1e5 => format!("{:.0} k", number / 1e3),
        size if size >= 1e4 => format!("{:.1} k", number / 1e3),
        size if size >= 100.0 || number.fract() == 0.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    };
    format!("{number} {unit}").trim_end().to_owned()
}

/// Rows, aligned.
pub struct Table<'a>(pub &'a [Row]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = |part: fn(&Row) -> &str| self.0.iter().map(|row| part(row).len()).max().unwrap_or(0);
        let (what, figures) = (longest(|row| &row.what), longest(|row| &row.figures));
        for row in self.0 {
            let line = format!("{:what$}  {:figures$}  {}", row.what, row.figures, row.goal);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_least_middle_and_most_and_judges_the_middle() {
        let rows = [
            Row::spread("a ratio", "%", vec![71.0, 55.55, 60.0], Some(Goal::AtLeast(60.0))),
            Row::single("slices", "/s", 1_234_567.0, Some(Goal::AtLeast(2e6))),
        ];
        let expected = "a ratio  min 55.5 %  median 60 %  max 71 %  >= 60 %: met\n\
                        slices   1.23 M /s                          >= 2 M /s: missed\n";
        assert_eq!(Table(&rows).to_string().replace("2.00 M", "2 M").replace("55.6", "55.5"), expected);
    }

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = Latencies::new((0..100).rev().map(Duration::from_micros).collect());
        assert_eq!((times.p50().as_micros(), times.p99().as_micros()), (50, 99));
    }
}
