//! The usage of one sandbox, its generations together, whether it still lives or not.

use std::ops::Range;

use super::figures::{Figures, Life, Terms, each_amounts};
use super::{Amount, Cancel, Interval, Moment, Point, Rules};
use crate::LedgerError;

/// Which sandbox's usage.
#[derive(Clone, Debug)]
pub struct DrilldownQuery {
    /// Its org.
    pub org: String,
    /// Its id.
    pub sandbox: String,
    /// In this half-open window of wall time, in nanoseconds since the Unix epoch.
    pub window: Range<i64>,
    /// The moment of the question.
    pub moment: Moment,
    /// What is billed, and how.
    pub rules: Rules,
    /// The length of the points, if there are to be any.
    pub interval: Option<Interval>,
}

/// What one sandbox used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drilldown {
    /// All of it.
    pub amount: Amount,
    /// When its first slice in the window started, in nanoseconds since the Unix epoch, but not before the window.
    pub first_started_unix_ns: Option<i64>,
    /// When its last slice in the window ended, but not after the window.
    pub last_ended_unix_ns: Option<i64>,
    /// What adds up to the amount, in order of time.
    pub points: Option<Vec<Point>>,
}

/// From the first to the last time of a life in the window.
fn span(
    figures: &dyn Figures,
    life: &Life,
    query: &DrilldownQuery,
) -> Result<Option<(i64, i64)>, LedgerError> {
    let window = &query.window;
    let mut pieces = figures.ends(life, window)?;
    pieces.extend(figures.not_final(&query.org, life, query.moment.open_until)?);
    let pieces = pieces.iter().filter(|piece| piece.clip_ns(window) > 0);
    let places = pieces.map(|piece| (piece.place.start.max(window.start), piece.place.end.min(window.end)));
    Ok(places.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))))
}

/// What one sandbox used in a window; `None` if the org has no such sandbox.
pub(crate) fn drilldown(
    figures: &dyn Figures,
    query: &DrilldownQuery,
    cancel: &Cancel,
) -> Result<Option<Drilldown>, LedgerError> {
    let lives = figures.lives(&query.org, Some(&query.sandbox), i64::MIN)?;
    if lives.is_empty() {
        return Ok(None);
    }
    let mut points = super::points(&query.window, query.interval);
    let (mut sum, mut spans) = (Amount::default(), Vec::new());
    if !query.window.is_empty() {
        let mut instants = vec![query.window.start];
        instants.extend(points.iter().map(|point| point.window.start).skip(1).chain([query.window.end]));
        let asked = lives.iter().map(|life| (life, instants.clone()));
        let terms = Terms { org: &query.org, until: query.moment.open_until, rules: &query.rules, cancel };
        each_amounts(figures, &terms, asked, |(life, _), amounts| {
            amounts.iter().try_for_each(|amount| sum.add(*amount))?;
            for (point, amount) in points.iter_mut().zip(amounts) {
                point.amount.add(amount)?;
            }
            spans.extend(span(figures, life, query)?);
            Ok(())
        })?;
    }
    Ok(Some(Drilldown {
        amount: sum,
        first_started_unix_ns: spans.iter().map(|span| span.0).min(),
        last_ended_unix_ns: spans.iter().map(|span| span.1).max(),
        points: query.interval.is_some().then_some(points),
    }))
}
