//! An org's usage, broken down by sandbox or by the values of a tag, page by page.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

use super::figures::{Asked, Figures, Terms, each_amounts};
use super::tagged::Tagged;
use super::{Amount, Attribution, Cancel, GroupBy, Interval, Moment, Rules, TagFilter};
use crate::LedgerError;

/// By what items are sorted, the greatest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// By memory.
    Memory,
    /// By disk above the free allowance.
    DiskOverage,
}

/// What of an org's usage, and how it is broken down.
#[derive(Clone, Debug)]
pub struct BreakdownQuery {
    /// Of this org alone.
    pub org: String,
    /// In this half-open window of wall time, in nanoseconds since the Unix epoch.
    pub window: Range<i64>,
    /// The moment of the question.
    pub moment: Moment,
    /// What is billed, and how.
    pub rules: Rules,
    /// What the items are.
    pub group_by: GroupBy,
    /// What tags must be for time to count: all of these.
    pub filters: Vec<TagFilter>,
    /// Which tags.
    pub attribution: Attribution,
    /// By what the items are sorted; the key breaks ties.
    pub sort: Sort,
    /// The length of the points, if there are to be any.
    pub interval: Option<Interval>,
    /// At most so many items.
    pub limit: usize,
    /// Only items that follow this place.
    pub after: Option<Place>,
}

/// A place in the order of items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// By what items are sorted, of the last item before the place.
    pub amount: i128,
    /// Its key.
    pub key: String,
}

/// What one sandbox, or all time with one value of a tag, amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The sandbox's id, or the tag's value.
    pub key: String,
    /// What it amounts to.
    pub amount: Amount,
}

/// What an hour or a day of the window amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// From when until when, in nanoseconds since the Unix epoch: a full hour or day, cut at the window's ends.
    pub window: Range<i64>,
    /// What it amounts to; zeros where there was nothing.
    pub amount: Amount,
}

/// An org's usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breakdown {
    /// A page of items, each with time in the window.
    pub items: Vec<Item>,
    /// Where to go on, if there are more.
    pub next: Option<Place>,
    /// Everything that matches, whichever page.
    pub total: Amount,
    /// By tag: what belongs to no value of it.
    pub untagged: Option<Amount>,
    /// What adds up to the total, in order of time.
    pub points: Option<Vec<Point>>,
}

impl BreakdownQuery {
    /// All that an org used in a window, by sandbox: the 50 with the most memory.
    pub fn by_sandbox(org: impl Into<String>, window: Range<i64>, moment: Moment, rules: Rules) -> Self {
        Self {
            org: org.into(),
            window,
            moment,
            rules,
            group_by: GroupBy::Sandbox,
            filters: Vec::new(),
            attribution: Attribution::Live,
            sort: Sort::Memory,
            interval: None,
            limit: 50,
            after: None,
        }
    }
}

impl Sort {
    fn place(self, item: &Item) -> Place {
        let amount = match self {
            Self::Memory => item.amount.quantities.memory_byte_ns,
            Self::DiskOverage => item.amount.quantities.disk_overage_byte_ns,
        };
        Place { amount, key: item.key.clone() }
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        other.amount.cmp(&self.amount).then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The sums of an answer while sandboxes are added.
struct Sums {
    items: HashMap<String, Amount>,
    untagged: Amount,
    total: Amount,
    points: Vec<Point>,
}

impl Sums {
    fn new(query: &BreakdownQuery) -> Self {
        Self {
            items: HashMap::new(),
            untagged: Amount::default(),
            total: Amount::default(),
            points: super::points(&query.window, query.interval),
        }
    }

    /// The instants at which something about a sandbox's life is asked; none where no time of it counts.
    fn instants(&self, query: &BreakdownQuery, tagged: &Tagged<'_>, sandbox: &str) -> Vec<i64> {
        let mut cuts = tagged.cuts(sandbox, &query.window);
        if cuts.is_empty() && !tagged.counts(sandbox, query.window.start) {
            return Vec::new();
        }
        cuts.extend(self.points.iter().map(|point| point.window.start));
        cuts.extend([query.window.start, query.window.end]);
        cuts.into_iter().collect()
    }

    /// Adds a life, segment by segment: each is in one point, and in one item or in none.
    fn add(
        &mut self,
        tagged: &Tagged<'_>,
        (life, instants): &Asked<'_>,
        amounts: Vec<Amount>,
    ) -> Result<(), LedgerError> {
        let sandbox = life.sandbox.as_str();
        let mut point = 0;
        for (from_unix_ns, amount) in instants.iter().copied().zip(amounts) {
            if amount.duration_ns == 0 || !tagged.counts(sandbox, from_unix_ns) {
                continue;
            }
            self.total.add(amount)?;
            while self.points.get(point).is_some_and(|point| point.window.end <= from_unix_ns) {
                point += 1;
            }
            if let Some(point) = self.points.get_mut(point) {
                point.amount.add(amount)?;
            }
            match tagged.item(sandbox, from_unix_ns) {
                Some(key) => self.items.entry(key.to_owned()).or_default().add(amount)?,
                None => self.untagged.add(amount)?,
            }
        }
        Ok(())
    }

    fn answer(self, query: &BreakdownQuery) -> Breakdown {
        let mut items: Vec<_> = self.items.into_iter().map(|(key, amount)| Item { key, amount }).collect();
        items.sort_by_cached_key(|item| query.sort.place(item));
        if let Some(after) = &query.after {
            let first = items.partition_point(|item| query.sort.place(item) <= *after);
            items.drain(..first);
        }
        let is_last = items.len() <= query.limit;
        items.truncate(query.limit);
        let next = items.last().filter(|_| !is_last).map(|item| query.sort.place(item));
        Breakdown {
            items,
            next,
            total: self.total,
            untagged: matches!(query.group_by, GroupBy::Tag(_)).then_some(self.untagged),
            points: query.interval.is_some().then_some(self.points),
        }
    }
}

/// What an org used in a window, broken down. Everything is clipped to the window, and nothing is rounded.
pub(crate) fn breakdown(
    figures: &dyn Figures,
    query: &BreakdownQuery,
    cancel: &Cancel,
) -> Result<Breakdown, LedgerError> {
    let mut sums = Sums::new(query);
    if query.window.is_empty() {
        return Ok(sums.answer(query));
    }
    let about = (query.filters.as_slice(), &query.group_by);
    let tagged = Tagged::read(figures, &query.org, about, (query.attribution, query.moment))?;
    let lives = figures.lives(&query.org, None, query.window.start)?;
    let asked: Vec<Asked<'_>> = lives
        .iter()
        .map(|life| (life, sums.instants(query, &tagged, &life.sandbox)))
        .filter(|(_, instants)| !instants.is_empty())
        .collect();
    let terms = Terms { org: &query.org, until: query.moment.open_until, rules: &query.rules, cancel };
    each_amounts(figures, &terms, asked.into_iter(), |asked, amounts| sums.add(&tagged, asked, amounts))?;
    Ok(sums.answer(query))
}
