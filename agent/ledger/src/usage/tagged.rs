//! Which tags a sandbox had, and when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use super::Moment;
use super::figures::Figures;
use crate::LedgerError;

/// What the items of an answer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Sandboxes, their generations together.
    Sandbox,
    /// Values of the tag with this key.
    Tag(String),
}

/// What a tag must be for the time of a sandbox to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagFilter {
    /// The key.
    pub key: String,
    /// Any of these values; an empty one means that the sandbox has no tag of this key.
    pub values: Vec<String>,
}

/// By which tags time is attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// As they are at the moment of the question, whenever the time passed.
    Live,
    /// As they were when the time passed.
    AsOf,
}

/// A value and when it was.
pub(crate) struct Span {
    pub(crate) value: String,
    pub(crate) from_unix_ns: i64,
    pub(crate) to_unix_ns: Option<i64>,
}

impl Span {
    fn holds_at(&self, unix_ns: i64) -> bool {
        self.from_unix_ns <= unix_ns && self.to_unix_ns.is_none_or(|to| unix_ns < to)
    }
}

/// The values of one key on one sandbox.
pub(crate) type Spans = Vec<Span>;

/// The tags that a question is about.
pub(super) struct Tagged<'a> {
    filters: &'a [TagFilter],
    group_by: &'a GroupBy,
    /// The moment at which tags are looked at; `None`: when the time passed.
    at_unix_ns: Option<i64>,
    /// By key and sandbox.
    spans: BTreeMap<String, HashMap<String, Spans>>,
}

impl<'a> Tagged<'a> {
    pub(super) fn read(
        figures: &dyn Figures,
        org: &str,
        (filters, group_by): (&'a [TagFilter], &'a GroupBy),
        (attribution, moment): (Attribution, Moment),
    ) -> Result<Self, LedgerError> {
        let grouped = match group_by {
            GroupBy::Tag(key) => Some(key),
            GroupBy::Sandbox => None,
        };
        let mut spans = BTreeMap::new();
        for key in filters.iter().map(|filter| &filter.key).chain(grouped) {
            if !spans.contains_key(key) {
                spans.insert(key.clone(), figures.tag_spans(org, key)?);
            }
        }
        let at_unix_ns = (attribution == Attribution::Live).then_some(moment.tags_unix_ns);
        Ok(Self { filters, group_by, at_unix_ns, spans })
    }

    /// The instants inside a window at which the answer for a sandbox may change.
    pub(super) fn cuts(&self, sandbox: &str, window: &Range<i64>) -> BTreeSet<i64> {
        if self.at_unix_ns.is_some() {
            return BTreeSet::new();
        }
        let spans = self.spans.values().filter_map(|spans| spans.get(sandbox)).flatten();
        spans
            .flat_map(|span| [Some(span.from_unix_ns), span.to_unix_ns])
            .flatten()
            .filter(|at| window.start < *at && *at < window.end)
            .collect()
    }

    /// Whether the time of a sandbox that begins at `unix_ns` counts at all.
    pub(super) fn counts(&self, sandbox: &str, unix_ns: i64) -> bool {
        self.filters.iter().all(|filter| {
            let value = self.value(&filter.key, sandbox, unix_ns);
            filter.values.iter().any(|wanted| match value {
                Some(value) => !wanted.is_empty() && wanted == value,
                None => wanted.is_empty(),
            })
        })
    }

    /// The item to which that time belongs; `None`: to no value of the tag.
    pub(super) fn item<'b>(&'b self, sandbox: &'b str, unix_ns: i64) -> Option<&'b str> {
        match self.group_by {
            GroupBy::Sandbox => Some(sandbox),
            GroupBy::Tag(key) => self.value(key, sandbox, unix_ns),
        }
    }

    fn value(&self, key: &str, sandbox: &str, unix_ns: i64) -> Option<&str> {
        let at = self.at_unix_ns.unwrap_or(unix_ns);
        let spans = self.spans.get(key)?.get(sandbox)?;
        spans.iter().find(|span| span.holds_at(at)).map(|span| span.value.as_str())
    }
}
