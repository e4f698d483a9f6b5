//! Where one sink stands in the outbox, and what is to be done next. Pure: time and randomness are arguments.
//!
//! ```text
//!                  Head: there is more                 all of it stored
//!            ┌──────────────────────────▶ Delivering ──────────────────┐
//!            │                             │  ▲   │                    │
//!           Idle ◀─────────────────────────┼──┼───┼────────────────────┘
//!                                          │  │   │ stored, and there is more: the next batch
//!                          failed: wait    │  │   └──▶ Delivering
//!                          longer and      │  │ Time
//!                          longer          ▼  │
//!                                       Waiting
//! ```
//!
//! One batch is under way at a time and begins behind the last event that is known to be stored, so events first reach
//! the sink in their order. What is known is saved beside it, at most every [`SAVE_INTERVAL_NS`]: after a crash at most
//! that much is sent twice, with the same ids and bytes.

/// Saves of a sink's standing are this far apart, so that they cost metering next to nothing, in nanoseconds.
pub const SAVE_INTERVAL_NS: u64 = 200_000_000;

/// How long to wait after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure, in nanoseconds.
    pub min_ns: u64,
    /// After many, in nanoseconds.
    pub max_ns: u64,
}

impl Backoff {
    /// Between the least wait and twice as much for each failure, evenly by `random`: sinks of many hosts that failed
    /// at once do not come back at once.
    fn wait_ns(self, failures: u32, random: u64) -> u64 {
        let doubled = 1_u64.checked_shl(failures.min(62)).unwrap_or(u64::MAX);
        let longest_ns = self.min_ns.saturating_mul(doubled).min(self.max_ns).max(self.min_ns);
        let spread_ns = (longest_ns - self.min_ns).saturating_add(1);
        self.min_ns + random % spread_ns
    }
}

/// What a cursor is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Events through this number are durable in the outbox.
    Head(u64),
    /// The batch under way has come to its end.
    Delivered {
        /// How many of its events, from the first, are known to be stored.
        stored: u64,
        /// Why not all of them are.
        failure: Option<String>,
        /// Any number, for the time to wait.
        random: u64,
    },
    /// What was to be saved is durable, or could not be made so.
    Saved,
    /// A time that was waited for has come.
    Time,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Deliver a batch of the events after this number, then tell [`Input::Delivered`].
    Deliver {
        /// The last event that the sink has.
        after: u64,
    },
    /// Make durable where the sink stands, then tell [`Input::Saved`].
    Save(Standing),
}

/// What is kept of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Every event through this number is stored by the sink.
    pub acknowledged_seq: u64,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Delivering,
    Waiting { until_ns: u64 },
}

/// Where one sink stands.
#[derive(Clone, Debug)]
pub struct Cursor {
    backoff: Backoff,
    head: u64,
    now: Standing,
    saved: Standing,
    phase: Phase,
    /// Failures since the last batch of which anything was stored.
    failures: u32,
    is_saving: bool,
    save_not_before_ns: u64,
}

impl Cursor {
    /// A sink as it was saved, with the outbox at event `head`. Tell [`Input::Time`] first.
    pub fn new(backoff: Backoff, saved: Standing, head: u64) -> Self {
        Self {
            backoff,
            head,
            now: saved.clone(),
            saved,
            phase: Phase::Idle,
            failures: 0,
            is_saving: false,
            save_not_before_ns: 0,
        }
    }

    /// Takes one input at `now_ns` and says what is to be done.
    pub fn step(&mut self, now_ns: u64, input: Input) -> Vec<Action> {
        match input {
            Input::Head(head) => self.head = self.head.max(head),
            Input::Delivered { stored, failure, random } => self.delivered(now_ns, stored, failure, random),
            Input::Saved => self.is_saving = false,
            Input::Time => {}
        }
        let mut actions = Vec::new();
        actions.extend(self.save(now_ns));
        actions.extend(self.deliver(now_ns));
        actions
    }

    /// When [`Input::Time`] is to be told next, if no other input comes before.
    pub fn wake_at_ns(&self) -> Option<u64> {
        let retry_ns = match self.phase {
            Phase::Waiting { until_ns } if self.now.acknowledged_seq < self.head => Some(until_ns),
            Phase::Waiting { .. } | Phase::Idle | Phase::Delivering => None,
        };
        let save_ns = (!self.is_saving && self.saved != self.now).then_some(self.save_not_before_ns);
        retry_ns.into_iter().chain(save_ns).min()
    }

    /// Where the sink stands, if that is to be saved before the agent ends.
    pub fn unsaved(&self) -> Option<&Standing> {
        (self.saved != self.now).then_some(&self.now)
    }

    /// Where the sink stands.
    pub fn standing(&self) -> &Standing {
        &self.now
    }

    /// Whether the last attempt failed.
    pub fn is_failing(&self) -> bool {
        self.now.error.is_some()
    }

    fn delivered(&mut self, now_ns: u64, stored: u64, failure: Option<String>, random: u64) {
        self.now.acknowledged_seq = self.now.acknowledged_seq.saturating_add(stored).min(self.head);
        if stored > 0 {
            self.failures = 0;
        }
        self.phase = if failure.is_some() {
            let wait_ns = self.backoff.wait_ns(self.failures, random);
            self.failures = self.failures.saturating_add(1);
            Phase::Waiting { until_ns: now_ns.saturating_add(wait_ns) }
        } else {
            Phase::Idle
        };
        self.now.error = failure;
    }

    fn deliver(&mut self, now_ns: u64) -> Option<Action> {
        let may = match self.phase {
            Phase::Idle => true,
            Phase::Delivering => false,
            Phase::Waiting { until_ns } => now_ns >= until_ns,
        };
        if !may || self.now.acknowledged_seq >= self.head {
            return None;
        }
        self.phase = Phase::Delivering;
        Some(Action::Deliver { after: self.now.acknowledged_seq })
    }

    fn save(&mut self, now_ns: u64) -> Option<Action> {
        if self.is_saving || self.saved == self.now || now_ns < self.save_not_before_ns {
            return None;
        }
        self.is_saving = true;
        self.save_not_before_ns = now_ns.saturating_add(SAVE_INTERVAL_NS);
        self.saved = self.now.clone();
        Some(Action::Save(self.now.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff = Backoff { min_ns: 100, max_ns: 10_000 };

    fn cursor(head: u64) -> Cursor {
        Cursor::new(BACKOFF, Standing { acknowledged_seq: 0, error: None }, head)
    }

    fn delivered(stored: u64, failure: Option<&str>, random: u64) -> Input {
        Input::Delivered { stored, failure: failure.map(str::to_owned), random }
    }

    #[test]
    fn a_commit_wakes_an_idle_sink_and_a_failed_one_goes_on_waiting() {
        let mut cursor = cursor(0);
        assert_eq!(cursor.step(0, Input::Time), []);
        assert_eq!(cursor.step(1, Input::Head(3)), [Action::Deliver { after: 0 }]);
        assert_eq!(cursor.step(2, Input::Head(4)), [], "one batch at a time");
        let actions = cursor.step(3, delivered(1, Some("refused"), 0));
        let standing = Standing { acknowledged_seq: 1, error: Some("refused".to_owned()) };
        assert_eq!(actions, [Action::Save(standing)]);
        assert_eq!(cursor.step(4, Input::Head(9)), []);
        assert_eq!(cursor.wake_at_ns(), Some(103));
        assert_eq!(cursor.step(103, Input::Time), [Action::Deliver { after: 1 }]);
    }

    #[test]
    fn waits_grow_with_failures_are_spread_by_chance_and_bounded_and_end_with_a_success() {
        for (failures, random, wait_ns) in
            [(0, u64::MAX, 100), (1, 0, 100), (1, 100, 200), (3, 700, 800), (50, 9_900, 10_000)]
        {
            assert_eq!(BACKOFF.wait_ns(failures, random), wait_ns, "{failures} failures");
        }
        let mut cursor = cursor(5);
        for _ in 0..4 {
            cursor.phase = Phase::Delivering;
            cursor.step(0, delivered(0, Some("down"), 1_500));
        }
        assert_eq!(cursor.phase, Phase::Waiting { until_ns: 100 + 1_500 % 701 });
        cursor.step(10_000, delivered(1, None, 0));
        assert_eq!((cursor.failures, cursor.now.error.clone()), (0, None));
    }

    #[test]
    fn saves_are_apart_in_time_and_one_is_under_way_at_once() {
        let mut cursor = cursor(3);
        cursor.step(0, Input::Time);
        let saves = |actions: &[Action]| actions.iter().filter(|it| matches!(it, Action::Save(_))).count();
        assert_eq!(saves(&cursor.step(5, delivered(1, None, 0))), 1);
        assert_eq!(saves(&cursor.step(6 + SAVE_INTERVAL_NS, delivered(1, None, 0))), 0, "one is under way");
        assert_eq!(saves(&cursor.step(7 + SAVE_INTERVAL_NS, Input::Saved)), 1);
        cursor.step(8 + SAVE_INTERVAL_NS, Input::Saved);
        assert_eq!(saves(&cursor.step(9 + SAVE_INTERVAL_NS, delivered(1, None, 0))), 0, "too early");
        assert_eq!(cursor.wake_at_ns(), Some(7 + 2 * SAVE_INTERVAL_NS));
        assert_eq!(saves(&cursor.step(7 + 2 * SAVE_INTERVAL_NS, Input::Time)), 1);
        assert_eq!(cursor.unsaved(), None);
    }

    proptest! {
        /// Whatever a sink does, every event reaches it, first in order, and no wait is without an end.
        #[test]
        fn every_event_is_delivered_in_order_whatever_the_sink_does(
            batches in prop::collection::vec((1_u64..50, 0_u64..60, any::<bool>(), any::<u64>()), 1..100),
        ) {
            let (mut cursor, mut now_ns, mut head, mut stored) = (cursor(0), 0_u64, 0_u64, 0_u64);
            let deliver = |cursor: &mut Cursor, now_ns, input, stored: u64| -> Option<u64> {
                cursor.step(now_ns, input).into_iter().find_map(|action| match action {
                    Action::Deliver { after } => { assert_eq!(after, stored); Some(after) }
                    Action::Save(standing) => { assert!(standing.acknowledged_seq <= stored); None }
                })
            };
            let mut under_way = deliver(&mut cursor, now_ns, Input::Time, stored);
            for (new, done, fails, random) in batches {
                head += new;
                under_way = deliver(&mut cursor, now_ns, Input::Head(head), stored).or(under_way);
                if under_way.take().is_some() {
                    let done = done.min(head - stored);
                    stored += done;
                    under_way = deliver(&mut cursor, now_ns, delivered(done, fails.then_some("no"), random), stored);
                }
                if under_way.is_none() && stored < head {
                    let wake_ns = cursor.wake_at_ns().expect("what is undelivered is waited for");
                    now_ns = now_ns.max(wake_ns);
                    under_way = deliver(&mut cursor, now_ns, Input::Saved, stored);
                    under_way = deliver(&mut cursor, now_ns + BACKOFF.max_ns, Input::Time, stored).or(under_way);
                    now_ns += BACKOFF.max_ns;
                }
            }
        }
    }
}
