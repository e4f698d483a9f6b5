//! The query of a request: every parameter known, given once, and what it may be. Nothing wrong gets further.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use dormouse_ledger::usage::{Attribution, GroupBy, Interval, Moment, Rules, Sort, TagFilter};
use dormouse_ledger::{Token, validate_tag_key};
use dormouse_metering::Basis;

use super::problem::{Problem, Reason};
use super::{OpenUntil, Shared};
use crate::calendar;

const DAY_NS: i64 = 86_400_000_000_000;
const WINDOW_NS_DEFAULT: i64 = 30 * DAY_NS;
const WINDOW_NS_MAX: i64 = 90 * DAY_NS;
const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 500;

/// Whatever tags there are, a question looks at few of them.
const FILTERS_MAX: usize = 10;

/// The parameters of a request.
pub(super) struct Params {
    values: BTreeMap<String, String>,
    /// What is asked, whichever page: what a cursor belongs to.
    question: String,
}

impl Params {
    /// Reads a query for an org's question at `path`, of which only the `known` parameters may be there.
    pub(super) fn read(
        path: &str,
        token: &Token,
        query: Option<&str>,
        known: &[&str],
    ) -> Result<Self, Problem> {
        let mut values = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let is_filter = known.contains(&"filter") && filtered_key(&name).is_some();
            if !is_filter && (name == "filter" || !known.contains(&name.as_ref())) {
                let known = known.join(", ");
                return Err(invalid(&name, &format!("is not known here; known are: {known}")));
            }
            if values.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                let detail =
                    format!("parameter {name:?} is given twice: values of one filter go together, as a,b");
                return Err(Problem::new(Reason::RepeatedParameter, detail));
            }
        }
        let mut question = format!("{path}\0{}", token.org);
        for (name, value) in values.iter().filter(|(name, _)| *name != "cursor" && *name != "limit") {
            // Writing to a string cannot fail.
            let _ = write!(question, "\0{name}\0{value}");
        }
        Ok(Self { values, question })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(super) fn question(&self) -> &str {
        &self.question
    }

    /// The value of a parameter that is one of a few words.
    fn word<T: Copy>(&self, name: &str, words: &[(&str, T)], default: T) -> Result<T, Problem> {
        let Some(value) = self.get(name) else { return Ok(default) };
        words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            invalid(name, &format!("is one of: {}", words.join(", ")))
        })
    }

    /// At most how many items a page has.
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        let Some(limit) = self.get("limit") else { return Ok(LIMIT_DEFAULT) };
        let is_number =
            !limit.is_empty() && limit.len() <= 3 && limit.bytes().all(|byte| byte.is_ascii_digit());
        let limit = limit.parse().ok().filter(|limit| is_number && (1..=LIMIT_MAX).contains(limit));
        limit.ok_or_else(|| invalid("limit", "is a number from 1 to 500"))
    }

    pub(super) fn interval(&self) -> Result<Option<Interval>, Problem> {
        let words = [("1h", Some(Interval::Hour)), ("1d", Some(Interval::Day))];
        self.word("interval", &words, None)
    }

    /// The rules, with the basis that is asked for.
    pub(super) fn rules(&self, rules: &Rules) -> Result<Rules, Problem> {
        let words = Basis::ALL.map(|basis| (basis.name(), basis));
        Ok(Rules { basis: self.word("basis", &words, rules.basis)?, ..rules.clone() })
    }

    pub(super) fn sort(&self) -> Result<Sort, Problem> {
        let words = [("-memoryGbSeconds", Sort::Memory), ("-diskOverageGbSeconds", Sort::DiskOverage)];
        self.word("sort", &words, Sort::Memory)
    }

    pub(super) fn attribution(&self) -> Result<Attribution, Problem> {
        self.word(
            "attribution",
            &[("live", Attribution::Live), ("asof", Attribution::AsOf)],
            Attribution::Live,
        )
    }

    pub(super) fn group_by(&self) -> Result<GroupBy, Problem> {
        match self.get("groupBy") {
            None | Some("sandbox") => Ok(GroupBy::Sandbox),
            Some(value) => match value.strip_prefix("tag:").map(|key| (key, validate_tag_key(key))) {
                Some((key, Ok(()))) => Ok(GroupBy::Tag(key.to_owned())),
                Some((_, Err(error))) => Err(invalid("groupBy", &error.to_string())),
                None => Err(invalid("groupBy", "is `sandbox` or `tag:` and a key")),
            },
        }
    }

    pub(super) fn filters(&self) -> Result<Vec<TagFilter>, Problem> {
        let filters = self.values.iter().filter_map(|(name, value)| Some((filtered_key(name)?, value)));
        let filters: Vec<_> = filters
            .map(|(key, value)| {
                validate_tag_key(key).map_err(|error| invalid("filter", &error.to_string()))?;
                let values = value.split(',').map(str::to_owned).collect();
                Ok(TagFilter { key: key.to_owned(), values })
            })
            .collect::<Result<_, Problem>>()?;
        if filters.len() > FILTERS_MAX {
            return Err(invalid("filter", "may be given for at most 10 keys"));
        }
        Ok(filters)
    }

    /// The window that is asked for, cut at `now`: what has not passed was not used.
    pub(super) fn window(&self, now_unix_ns: i64) -> Result<Range<i64>, Problem> {
        let moment = |name: &str| match self.get(name) {
            None => Ok(None),
            Some(text) => calendar::parse(text).map(Some).ok_or_else(|| {
                invalid(
                    name,
                    "is a time as in 2026-03-01T12:00:00Z (a + is written %2B), or a date: 2026-03-01",
                )
            }),
        };
        let to_unix_ns = moment("to")?.unwrap_or(now_unix_ns);
        let from_unix_ns = match moment("from")? {
            Some(from) => from,
            None => to_unix_ns.saturating_sub(WINDOW_NS_DEFAULT),
        };
        let refused = |detail| Err(Problem::new(Reason::InvalidWindow, detail));
        if self.get("to").is_none() && from_unix_ns >= to_unix_ns {
            return refused("`from` lies in the future: it must be before now where there is no `to`");
        }
        if from_unix_ns >= to_unix_ns {
            return refused("`from` must be before `to`");
        }
        if to_unix_ns.checked_sub(from_unix_ns).is_none_or(|length_ns| length_ns > WINDOW_NS_MAX) {
            return refused("a window has at most 90 days: ask for the parts one by one");
        }
        Ok(from_unix_ns..to_unix_ns.min(now_unix_ns).max(from_unix_ns))
    }
}

/// `tag:env` of `filter[tag:env]`, without `tag:`.
fn filtered_key(name: &str) -> Option<&str> {
    name.strip_prefix("filter[tag:")?.strip_suffix(']')
}

pub(super) fn invalid(name: &str, why: &str) -> Problem {
    Problem::new(Reason::InvalidParameter, format!("parameter {name:?} {why}"))
}

impl Shared {
    /// The moment of a question that is asked now, and its wall time.
    pub(super) async fn moment(&self) -> Result<(Moment, i64), Problem> {
        let now = self.site.clock.now();
        let open_until = match self.site.open_until {
            OpenUntil::Now => Some(now),
            OpenUntil::Known => self.readers.ask(|ledger, _| ledger.open_until()).await?,
        };
        let wall_ns = open_until.map_or(now.wall_ns, |until| until.wall_ns);
        Ok((Moment { open_until, tags_unix_ns: now.wall_ns }, wall_ns))
    }
}
