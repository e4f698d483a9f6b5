//! Denials on their way to the ledger. The first of its kind is written at once; what follows within a minute is
//! counted and written as one row, and beyond some dozens of kinds all others together, so that no flood of
//! denials fills the disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dormouse_ledger::{Class, Denial, Record, Writer};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::sandbox::refusal::Reason;

/// How long denials of a kind are counted before the count is written.
const WINDOW: Duration = Duration::from_mins(1);

/// How many kinds are told apart within a window: at most twice as many rows are written in it, and a few more.
const KINDS_MAX: usize = 32;

/// What stands for the caller and the method of those that are not told apart.
const OTHERS: &str = "others";

/// Where denials are told. Cheap to clone.
#[derive(Clone)]
pub(super) struct Denials {
    tally: Arc<Mutex<Tally>>,
    ledger: Writer,
    clock: Clock,
    pub(super) metrics: Arc<Metrics>,
}

impl Denials {
    pub(super) fn new(ledger: Writer, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { tally: Arc::default(), ledger, clock, metrics }
    }

    /// Tells of one denial. Never waits.
    pub(super) fn tell(&self, who: &str, method: &str, reason: Reason) {
        self.metrics.denied(reason.as_str());
        let kind = Kind { who: who.to_owned(), method: method.chars().take(256).collect(), reason };
        let first = self.with_tally(|tally| tally.count(kind, self.clock.now().wall_ns));
        if let Some(denial) = first {
            tracing::warn!(who, method, reason = reason.as_str(), "denied");
            self.write(denial);
        }
    }

    /// Writes what was counted, window after window, for as long as it is polled.
    pub(super) async fn write_counts(&self) {
        let mut windows = tokio::time::interval(WINDOW);
        loop {
            windows.tick().await;
            self.end_window();
        }
    }

    /// Writes what was counted, and begins to count anew.
    pub(super) fn end_window(&self) {
        for denial in self.with_tally(Tally::end) {
            self.write(denial);
        }
    }

    /// What the ledger does not take now is counted on.
    fn write(&self, denial: Denial) {
        let denials = self.clone();
        let again = denial.clone();
        let done = Box::new(move |result: Result<_, _>| {
            if result.is_err() {
                denials.with_tally(|tally| tally.put_back(again));
            }
        });
        if let Err(refused) = self.ledger.submit(Class::Intent, vec![Record::Denial(denial)], done) {
            refused.answer();
        }
    }

    fn with_tally<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    who: String,
    method: String,
    reason: Reason,
}

/// How often something was denied that is not written yet.
#[derive(Default)]
struct Counted {
    count: u64,
    first_unix_ns: i64,
    last_unix_ns: i64,
}

/// What was denied in this window.
#[derive(Default)]
struct Tally(BTreeMap<Kind, Counted>);

impl Tally {
    /// Counts one, and returns it where it is the first of its kind.
    fn count(&mut self, kind: Kind, now_unix_ns: i64) -> Option<Denial> {
        let kind = self.told_apart(kind);
        if let Some(counted) = self.0.get_mut(&kind) {
            counted.add(1, now_unix_ns, now_unix_ns);
            return None;
        }
        let counted = Counted { count: 1, first_unix_ns: now_unix_ns, last_unix_ns: now_unix_ns };
        let denial = counted.of(&kind);
        self.0.insert(kind, Counted::default());
        Some(denial)
    }

    /// Counts again what could not be written.
    fn put_back(&mut self, denial: Denial) {
        let Denial { who, method, reason, count, first_unix_ns, last_unix_ns } = denial;
        let Some(reason) = Reason::ALL.iter().copied().find(|known| known.as_str() == reason) else { return };
        let kind = self.told_apart(Kind { who, method, reason });
        self.0.entry(kind).or_default().add(count, first_unix_ns, last_unix_ns);
    }

    /// What was counted since each first.
    fn end(&mut self) -> Vec<Denial> {
        let ended = std::mem::take(&mut self.0);
        ended
            .into_iter()
            .filter(|(_, counted)| counted.count > 0)
            .map(|(kind, counted)| counted.of(&kind))
            .collect()
    }

    fn told_apart(&self, kind: Kind) -> Kind {
        if self.0.len() < KINDS_MAX || self.0.contains_key(&kind) {
            return kind;
        }
        Kind { who: OTHERS.to_owned(), method: OTHERS.to_owned(), reason: kind.reason }
    }
}

impl Counted {
    fn add(&mut self, count: u64, first_unix_ns: i64, last_unix_ns: i64) {
        if self.count == 0 {
            (self.first_unix_ns, self.last_unix_ns) = (first_unix_ns, last_unix_ns);
        }
        self.count = self.count.saturating_add(count);
        // A wall clock that was set back makes no row that ends before it begins.
        self.first_unix_ns = self.first_unix_ns.min(first_unix_ns);
        self.last_unix_ns = self.last_unix_ns.max(last_unix_ns);
    }

    fn of(&self, kind: &Kind) -> Denial {
        Denial {
            who: kind.who.clone(),
            method: kind.method.clone(),
            reason: kind.reason.as_str().to_owned(),
            count: self.count,
            first_unix_ns: self.first_unix_ns,
            last_unix_ns: self.last_unix_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(who: &str) -> Kind {
        Kind { who: who.to_owned(), method: "/m".to_owned(), reason: Reason::CallerUnknown }
    }

    #[test]
    fn the_first_denial_is_told_at_once_and_the_rest_as_one_count() {
        let mut tally = Tally::default();
        assert_eq!(tally.count(kind("a"), 10).map(|denial| denial.count), Some(1));
        assert!((11..=20).all(|now| tally.count(kind("a"), now).is_none()));
        assert!(tally.count(kind("b"), 15).is_some());
        let rest = tally.end();
        assert_eq!(rest.len(), 1);
        assert_eq!((rest[0].count, rest[0].first_unix_ns, rest[0].last_unix_ns), (10, 11, 20));
        assert!(tally.end().is_empty());
    }

    #[test]
    fn a_flood_of_different_callers_makes_few_rows_and_loses_no_count() {
        let mut tally = Tally::default();
        let mut denials: Vec<Denial> = Vec::new();
        for caller in 0..10_000 {
            denials.extend(tally.count(kind(&caller.to_string()), caller));
        }
        denials.extend(tally.end());
        assert_eq!(denials.len(), KINDS_MAX + 2);
        assert_eq!(denials.iter().map(|denial| denial.count).sum::<u64>(), 10_000);
    }

    #[test]
    fn what_could_not_be_written_is_counted_again() {
        let mut tally = Tally::default();
        let denial = tally.count(kind("a"), 10).expect("the first");
        tally.count(kind("a"), 12);
        tally.put_back(denial);
        let rest = tally.end();
        assert_eq!((rest[0].count, rest[0].first_unix_ns, rest[0].last_unix_ns), (2, 10, 12));
    }
}
